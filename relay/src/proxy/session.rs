//! Sessions: which endpoint served a client first, said by a token that only this deployment's relays can make and read.
//!
//! ```text
//!  12 bytes   8 bytes           8 bytes                       16 bytes
//!  nonce    │ place           │ start, seconds since 1970   │ tag        as base64url: 59 characters
//!             └───────── AES-256-GCM ───────────┘  (additional data: project, route and name of the session)
//! ```
//!
//! The place is a hash of a backend's name and an endpoint, and is looked up among those that the rule has now: a token
//! shows no address, and leads nowhere that the rule does not lead.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use http::{HeaderMap, HeaderValue, header};
use underpass_shared::prefix::AgentNumber;

use super::{Client, Routing, affinity::cookie};
use crate::{
    clock,
    route::{
        fleet::{Ask, Held},
        session::{By, Session},
        target::{Answer, Backend, Endpoint, Rule, Upstream},
    },
    store::{Store, StoreError, record::RecordKey},
};

/// Bytes of the key, of what a token says, and of a whole token.
const KEY_BYTES: usize = 32;
const SAID_BYTES: usize = 16;
const TOKEN_BYTES: usize = NONCE_LEN + SAID_BYTES + 16;

/// The key that tokens are made with. All relays of a deployment have the same.
pub struct Sessions(RandomizedNonceKey);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions(..)")
    }
}

/// Where a client's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Places among the rule's backends and the backend's endpoints.
    pub(super) backend: usize,
    endpoint: usize,
    agent: Option<AgentNumber>,
    pub(super) place: u64,
}

impl Sessions {
    /// The deployment's key out of `store`; made and kept there, sealed, on the first start.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load_or_create(store: &Store) -> Result<Self, StoreError> {
        let key = store
            .transact(|state, fresh| match state.record::<[u8; KEY_BYTES]>(&RecordKey::PersistenceKey)? {
                Some(key) => Ok(key),
                None => {
                    let key: [u8; KEY_BYTES] = fresh.bytes();
                    state.put_record(RecordKey::PersistenceKey, &key).map(|()| key)
                }
            })
            .await?;
        Ok(Self::new(&key))
    }

    /// Tokens under this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
    }

    fn seal(&self, bound: &str, place: u64, start: u64) -> Option<String> {
        let mut body = Vec::with_capacity(TOKEN_BYTES);
        body.extend(place.to_be_bytes());
        body.extend(start.to_be_bytes());
        let nonce = self.0.seal_in_place_append_tag(Aad::from(bound.as_bytes()), &mut body).ok()?;
        Some(BASE64.encode([&nonce.as_ref()[..], &body].concat()))
    }

    /// The place and the start that a token says, if it is one of ours.
    fn open(&self, bound: &str, token: &[u8]) -> Option<(u64, u64)> {
        let mut bytes = [0; TOKEN_BYTES];
        let length = BASE64.decode_slice(token, &mut bytes).ok()?;
        let (nonce, body) = bytes.get_mut(..length)?.split_first_chunk_mut::<NONCE_LEN>()?;
        let said =
            self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound.as_bytes()), body).ok()?;
        let (place, start) = said.split_first_chunk()?;
        Some((u64::from_be_bytes(*place), u64::from_be_bytes(start.try_into().ok()?)))
    }
}

/// What a token counts for: a token of another route, or of a session with another name, says nothing here.
fn bound(rule: &Rule, session: &Session) -> String {
    format!("{}\n{}\n{}", rule.project, rule.route, session.name())
}

/// The session that the request belongs to: it has not ended, and its endpoint is there and well.
pub(super) fn find(routing: &Routing, rule: &Rule, headers: &HeaderMap) -> Option<Pinned> {
    let session = rule.session.as_ref()?;
    let token = match &session.by {
        By::Cookie { name, .. } => cookie(headers, name)?,
        By::Header(name) => headers.get(name)?.as_bytes(),
    };
    let (place, start) = routing.sessions.open(&bound(rule, session), token)?;
    let has_ended = session.absolute.is_some_and(|limit| seconds() >= start.saturating_add(limit.as_secs()));
    let pinned = locate(routing, rule, place).filter(|_| !has_ended)?;
    let is_well = rule.backends[pinned.backend].is_well(pinned.endpoint, routing.now());
    is_well.then_some(pinned)
}

fn locate(routing: &Routing, rule: &Rule, place: u64) -> Option<Pinned> {
    for (backend, of_rule) in rule.backends.iter().enumerate() {
        for (endpoint, upstream) in of_rule.target.upstreams().iter().enumerate() {
            let is_here = |agent| self::place(rule, backend, upstream, agent) == place;
            let pinned = |agent| Some(Pinned { backend, endpoint, agent, place });
            match &upstream.endpoint {
                Endpoint::Node(target) if target.agent.is_none() => {
                    let mut agents = routing.tunnels.agents(&target.project, &target.node).into_iter().map(Some);
                    if let Some(agent) = agents.find(|&agent| is_here(agent)) {
                        return pinned(agent);
                    }
                }
                _ if is_here(None) => return pinned(None),
                _ => {}
            }
        }
    }
    None
}

/// The endpoint for a request of a rule that keeps sessions: the session's own, or a new one; and its place.
pub(super) fn choose(
    routing: &Routing,
    (rule, backend): (&Rule, &Backend),
    pinned: Option<&Pinned>,
    ask: &Ask,
    client: &Client,
) -> Result<(Arc<Upstream>, Option<Held>, u64), Answer> {
    let (upstream, held) = match pinned {
        Some(pinned) => backend.hold(pinned.endpoint, ask)?,
        None => backend.choose(ask)?,
    };
    let index = rule.backends.iter().position(|one| std::ptr::eq(one, backend)).unwrap_or_default();
    let Endpoint::Node(target) = &upstream.endpoint else {
        let place = place(rule, index, &upstream, None);
        return Ok((upstream, held, place));
    };
    let agent = match pinned {
        Some(pinned) => pinned.agent,
        None => routing.tunnels.agent_for(target, client.address),
    };
    let place = place(rule, index, &upstream, agent);
    let one = crate::tunnel::FlowTarget { agent, ..target.clone() };
    let upstream = Arc::new(Upstream { endpoint: Endpoint::Node(one), ..Upstream::clone(&upstream) });
    Ok((upstream, held, place))
}

/// Tells the client of its new session.
pub(super) fn tell(routing: &Routing, rule: &Rule, place: u64, client: &Client, headers: &mut HeaderMap) {
    let Some(session) = &rule.session else { return };
    let token = routing.sessions.seal(&bound(rule, session), place, seconds());
    let value = |text: String| HeaderValue::try_from(text).ok();
    match &session.by {
        By::Header(name) => {
            if let Some(value) = token.and_then(value) {
                headers.insert(name.clone(), value);
            }
        }
        By::Cookie { name, is_permanent } => {
            let age = session.absolute.filter(|_| *is_permanent);
            let age = age.map(|limit| format!("; Max-Age={}", limit.as_secs())).unwrap_or_default();
            let secure = if client.tls.is_some() { "; Secure" } else { "" };
            let cookie = token.map(|token| format!("{name}={token}; Path=/{age}{secure}; HttpOnly"));
            headers.extend(cookie.and_then(value).map(|cookie| (header::SET_COOKIE, cookie)));
        }
    }
}

fn seconds() -> u64 {
    clock::now().unix_timestamp().try_into().unwrap_or_default()
}

/// What tells the endpoints of a rule apart, wherever they stand in its lists, on all relays. A backend that a rule names
/// more than once is a backend for each time.
fn place(rule: &Rule, backend: usize, upstream: &Upstream, agent: Option<AgentNumber>) -> u64 {
    let name = &rule.backends[backend].name;
    let nth = rule.backends[..backend].iter().filter(|before| before.name == *name).count();
    let mut hash = crate::route::maglev::Hasher::default();
    let written = write!(hash, "{name}\n{nth}\n{}\n{:?}", upstream.endpoint, agent.map(AgentNumber::value));
    debug_assert!(written.is_ok(), "a hash takes everything");
    hash.finish()
}

#[cfg(test)]
mod tests;
