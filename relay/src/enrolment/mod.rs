//! Who may become an agent: enrolment tokens, certificates for them, and admission of sessions.
//!
//! Every decision is one transaction of the store, so that a token's last use goes to one agent only. The store knows
//! a token by the SHA-256 of its secret; the secret itself is nowhere but in the token.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use underpass_shared::{
    enrolment::{EnrolRequest, EnrolmentToken, Issued, Refusal, RefusalReason, Secret},
    identity::{AgentIdentity, NodeName, ProjectName},
    prefix::NodeNumber,
    resource::kind::Kind,
};

use crate::{
    authority::Authority,
    cluster,
    store::{
        Store, StoreError, TransactError, lifecycle,
        object::ObjectKey,
        record::RecordKey,
        state::{State, WriteError, timestamp},
    },
    tunnel::registry::Admission,
};

/// The most tokens that are remembered, spent and expired ones included.
const TOKENS_MAX: usize = 10_000;
/// How long an expired token is remembered, so that its refusal can say that it expired.
const EXPIRED_KEPT: Duration = Duration::days(1);

/// Issues and redeems tokens, renews certificates, admits sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Enrolment {
    store: Store,
    issuer: Issuer,
}

/// What goes into an answer; kept apart from the store, whose thread runs transactions that use it.
#[derive(Debug, Clone)]
struct Issuer {
    authority: Authority,
    relays: Arc<[String]>,
}

/// What the store knows of a token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRecord {
    project: ProjectName,
    node: NodeName,
    /// A node of the same name that is made later is another one.
    node_uid: String,
    /// Seconds since the Unix epoch; the token is good before it.
    expires: i64,
    uses_left: u32,
}

impl Enrolment {
    /// `relays` are the `host:port` of this relay that agents dial, best first; those of other relays follow them.
    #[must_use]
    pub fn new(store: Store, authority: Authority, relays: Vec<String>) -> Self {
        Self { store, issuer: Issuer { authority, relays: relays.into() } }
    }

    /// A token that lets `uses` agents enrol with the node until `ttl` from `now` is over.
    ///
    /// # Errors
    /// [`WriteError::NotFound`] of the node; [`WriteError::Full`] when 10000 tokens are alive.
    pub async fn issue_token(
        &self,
        project: &ProjectName,
        node: &NodeName,
        ttl: Duration,
        uses: u32,
        now: OffsetDateTime,
    ) -> Result<EnrolmentToken, StoreError> {
        let (of, name) = (project.clone(), node.clone());
        let secret = self
            .store
            .transact(move |state, fresh| {
                let key = ObjectKey::cluster(&of, Kind::TunnelNode, name.as_str());
                let object = state.objects().get(&key).ok_or(WriteError::NotFound(key))?;
                let node_uid = object.body.uid.clone();
                make_room(state, now)?;
                let secret = Secret::from_bytes(fresh.bytes());
                let expires = (now + ttl).unix_timestamp();
                let record =
                    TokenRecord { project: of.clone(), node: name.clone(), node_uid, expires, uses_left: uses };
                state.put_record(record_key(&secret), &record).map(|()| secret)
            })
            .await?;
        Ok(EnrolmentToken {
            project: project.clone(),
            node: node.clone(),
            relays: cluster::addresses(&self.issuer.relays, &self.store.leased().borrow()),
            ca: self.issuer.authority.fingerprint(),
            secret,
        })
    }

    /// Trades one use of a token for a certificate. A refused redemption spends nothing.
    ///
    /// # Errors
    /// A [`Refusal`] that names the rule, for the agent to show.
    pub async fn redeem(
        &self,
        secret: &Secret,
        request: &EnrolRequest,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let (key, request, issuer) = (record_key(secret), request.clone(), self.issuer.clone());
        let redeemed = self.store.transact(move |state, _| {
            spend(state, &key, &request, now)?;
            let agent = identity(&request);
            lifecycle::number_agent(state, &agent).map_err(|error| of_write(&error))?;
            issuer.issue(&agent, &request.csr, cluster::addresses(&issuer.relays, state.leased()), now)
        });
        redeemed.await.map_err(of_store)
    }

    /// A fresh certificate for `agent`, who showed a valid one.
    ///
    /// # Errors
    /// A [`Refusal`]: the request is for somebody else, or the agent would not be admitted.
    pub async fn renew(
        &self,
        agent: &AgentIdentity,
        request: &EnrolRequest,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        if identity(request) != *agent {
            let message = format!(
                "the certificate is for agent {} of node {} in project {}, not for agent {} of node {} in project {}",
                agent.agent, agent.node, agent.project, request.agent, request.node, request.project
            );
            return Err(refusal(RefusalReason::WrongNode, message));
        }
        self.admit(agent).await?;
        let relays = cluster::addresses(&self.issuer.relays, &self.store.leased().borrow());
        self.issuer.issue(agent, &request.csr, relays, now)
    }

    /// The agent's place in the overlay, if its node is there and knows it.
    ///
    /// # Errors
    /// A [`Refusal`]: [`RefusalReason::NodeNotFound`], or [`RefusalReason::Revoked`] when the node was deleted and
    /// made anew since the agent enrolled.
    pub async fn admit(&self, agent: &AgentIdentity) -> Result<Admission, Refusal> {
        let agent = agent.clone();
        self.store.inspect(move |state| admit(state, &agent)).await.map_err(of_store)
    }

    /// The numbers of those of `nodes` that exist.
    pub async fn numbers(&self, project: &ProjectName, nodes: BTreeSet<NodeName>) -> Vec<NodeNumber> {
        let project = project.clone();
        let known = move |state: &State| -> Result<Vec<NodeNumber>, WriteError> {
            Ok(nodes.iter().filter_map(|node| lifecycle::node_number(state, &project, node).ok()).collect())
        };
        // A store that cannot be read knows of no node.
        self.store.inspect(known).await.unwrap_or_default()
    }

    /// The `host:port` of the other relays that agents may dial now, those of this one left out.
    #[must_use]
    pub fn other_relays(&self) -> Vec<String> {
        let mut others = cluster::addresses(&[], &self.store.leased().borrow());
        others.retain(|address| !self.issuer.relays.contains(address));
        others
    }
}

impl Issuer {
    fn issue(
        &self,
        agent: &AgentIdentity,
        csr: &str,
        relays: Vec<String>,
        now: OffsetDateTime,
    ) -> Result<Issued, Refusal> {
        let certificate = self
            .authority
            .issue_agent(agent, csr, now)
            .map_err(|error| refusal(RefusalReason::BadRequest, error.to_string()))?;
        Ok(Issued {
            certificate: certificate.pem,
            ca: self.authority.ca_pem().to_owned(),
            relays,
            not_before: certificate.not_before.unix_timestamp(),
            not_after: certificate.not_after.unix_timestamp(),
        })
    }
}

/// Checks a token and takes one use of it.
fn spend(state: &mut State, key: &RecordKey, request: &EnrolRequest, now: OffsetDateTime) -> Result<(), Refusal> {
    let record = state.record::<TokenRecord>(key).map_err(|error| of_write(&error))?;
    let Some(mut token) = record else {
        let message = "this relay does not know the token: it was changed, made by another deployment, or expired long \
                       ago; get a new one with `underpass tunnel token NODE`";
        return Err(refusal(RefusalReason::UnknownToken, message));
    };
    if (&token.project, &token.node) != (&request.project, &request.node) {
        let message = format!(
            "the token is for node {} of project {}, not for node {} of project {}",
            token.node, token.project, request.node, request.project
        );
        return Err(refusal(RefusalReason::WrongNode, message));
    }
    let again = format!("get a new one with `underpass tunnel token {}`", token.node);
    if now.unix_timestamp() >= token.expires {
        let expired = OffsetDateTime::from_unix_timestamp(token.expires).map_or("long ago".to_owned(), timestamp);
        return Err(refusal(RefusalReason::TokenExpired, format!("the token expired at {expired}: {again}")));
    }
    if token.uses_left == 0 {
        let message = format!("the token for node {} was used before: {again}", token.node);
        return Err(refusal(RefusalReason::TokenUsed, message));
    }
    let node = ObjectKey::cluster(&token.project, Kind::TunnelNode, token.node.as_str());
    if state.objects().get(&node).is_none_or(|object| object.body.uid != token.node_uid) {
        let message = format!(
            "node {} of project {} was deleted since the token was made: make the node, then {again}",
            token.node, token.project
        );
        return Err(refusal(RefusalReason::NodeNotFound, message));
    }
    token.uses_left -= 1;
    state.put_record(key.clone(), &token).map_err(|error| of_write(&error))
}

fn admit(state: &State, agent: &AgentIdentity) -> Result<Admission, Refusal> {
    let AgentIdentity { project, node, agent } = agent;
    let no_node = |error: WriteError| match error {
        WriteError::NotFound(_) => refusal(
            RefusalReason::NodeNotFound,
            format!("there is no node {node} in project {project}: it was deleted, or never made"),
        ),
        other => of_write(&other),
    };
    let number = lifecycle::node_number(state, project, node).map_err(no_node)?;
    let prefix = lifecycle::project_prefix(state, project).map_err(no_node)?;
    let agent = lifecycle::agent_number(state, project, node, agent).map_err(no_node)?.ok_or_else(|| {
        let message = format!(
            "agent {agent} is not enrolled with node {node}: the node was deleted and made anew; \
             enrol again with a token from `underpass tunnel token {node}`"
        );
        refusal(RefusalReason::Revoked, message)
    })?;
    Ok(Admission { project: prefix, node: number, agent })
}

/// Forgets tokens that expired long ago, and refuses one more when there are too many still.
fn make_room(state: &mut State, now: OffsetDateTime) -> Result<(), WriteError> {
    let tokens: Vec<RecordKey> = state
        .record_keys(RecordKey::FIRST_TOKEN)
        .take_while(|key| matches!(key, RecordKey::Token(_)))
        .cloned()
        .collect();
    let mut kept = 0;
    for key in tokens {
        let expires = state.record::<TokenRecord>(&key)?.map_or(0, |token| token.expires);
        if expires + EXPIRED_KEPT.whole_seconds() <= now.unix_timestamp() {
            state.remove_record(&key);
        } else {
            kept += 1;
        }
    }
    if kept >= TOKENS_MAX {
        return Err(WriteError::Full { what: "enrolment tokens", max: TOKENS_MAX });
    }
    Ok(())
}

fn record_key(secret: &Secret) -> RecordKey {
    let digest = digest(&SHA256, secret.expose().as_bytes());
    RecordKey::Token(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn identity(request: &EnrolRequest) -> AgentIdentity {
    AgentIdentity { project: request.project.clone(), node: request.node.clone(), agent: request.agent.clone() }
}

fn refusal(reason: RefusalReason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
}

fn of_write(error: &WriteError) -> Refusal {
    let reason = match error {
        WriteError::NotFound(_) => RefusalReason::NodeNotFound,
        _ => RefusalReason::Unavailable,
    };
    refusal(reason, error.to_string())
}

fn of_store(error: TransactError<Refusal>) -> Refusal {
    match error {
        TransactError::Refused(refusal) => refusal,
        TransactError::Unavailable(error) => refusal(RefusalReason::Unavailable, error.to_string()),
        TransactError::Stopped => refusal(RefusalReason::Unavailable, "the relay is stopping; try again"),
    }
}

#[cfg(test)]
mod tests;
