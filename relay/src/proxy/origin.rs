//! Who asks, when proxies stand between: what those say that are trusted, and nothing of what anybody else does.
//!
//! Pure. Read from the right, where the nearest proxy writes; the first address that no trusted proxy has is the
//! client's, and what stands left of it the client made up (RFC 7239 §8.1).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    Client,
    headers::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO},
};
use crate::route::client::Origin;

/// The most proxies that one request comes through; what further ones say is not looked at.
const HOPS_MAX: usize = 64;

/// What is known of a client from the proxies before us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) address: IpAddr,
    /// Who is known to have passed the request on, nearest last and without the one that we see ourselves.
    hops: Vec<IpAddr>,
    /// What the nearest proxy says of the request that it got.
    pub(super) proto: Option<HeaderValue>,
    pub(super) host: Option<HeaderValue>,
}

/// A request without the header that it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request does not say whom it is from")]
pub struct NoOrigin;

impl Found {
    /// Nobody is known but who connected.
    fn peer(address: IpAddr) -> Self {
        Self { address, hops: Vec::new(), proto: None, host: None }
    }

    /// For `X-Forwarded-For`: the client, and all who passed the request on, `peer` the last of them.
    pub(super) fn chain(&self, peer: IpAddr) -> String {
        let mut chain = String::new();
        for hop in &self.hops {
            chain.push_str(&format!("{hop}, "));
        }
        chain.push_str(&peer.to_canonical().to_string());
        chain
    }

    /// `client`, as it is known now. Of its port nothing is known, unless it is who connected.
    pub(super) fn of(&self, client: &Client) -> Client {
        let mut client = client.clone();
        if client.address.ip().to_canonical() != self.address {
            client.address = SocketAddr::new(self.address, 0);
        }
        client
    }
}

/// Finds who asks.
///
/// # Errors
/// [`NoOrigin`] where a header is demanded and is not there once, with an address.
pub(super) fn find(origin: &Origin, headers: &HeaderMap, client: &Client) -> Result<Found, NoOrigin> {
    let peer = client.address.ip().to_canonical();
    match origin {
        Origin::Hops(count) => {
            let mut hops: Vec<Option<IpAddr>> = from_right(headers).take(*count).collect();
            hops.reverse();
            match hops.first() {
                Some(Some(address)) if hops.len() == *count => {
                    Ok(believed(headers, *address, hops.iter().flatten().copied().collect()))
                }
                // It did not come through all of them.
                _ => Ok(Found::peer(peer)),
            }
        }
        Origin::Networks(networks) => {
            if !Origin::trusts(networks, peer) {
                return Ok(Found::peer(peer));
            }
            let mut hops = Vec::new();
            for hop in from_right(headers).take(HOPS_MAX) {
                let Some(hop) = hop else { break };
                hops.push(hop);
                if !Origin::trusts(networks, hop) {
                    break;
                }
            }
            hops.reverse();
            let address = hops.first().copied().unwrap_or(peer);
            Ok(believed(headers, address, hops))
        }
        Origin::Header { name, fail_closed } => {
            let mut values = headers.get_all(name).iter();
            let only = values.next().filter(|_| values.next().is_none()).and_then(|value| address(value.as_bytes()));
            match only {
                Some(address) => Ok(Found { hops: vec![address], ..Found::peer(address) }),
                None if *fail_closed => Err(NoOrigin),
                None => Ok(Found::peer(peer)),
            }
        }
    }
}

/// With what the nearest proxy, which is trusted, says of the request.
fn believed(headers: &HeaderMap, address: IpAddr, hops: Vec<IpAddr>) -> Found {
    let only = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    let is_scheme = |value: &[u8]| value.eq_ignore_ascii_case(b"http") || value.eq_ignore_ascii_case(b"https");
    let of_element = || element_value(elements(headers, &header::FORWARDED).next()?, b"proto");
    let proto = only(&FORWARDED_PROTO).map(HeaderValue::as_bytes).or_else(of_element);
    let proto = proto.filter(|value| is_scheme(value)).map(<[u8]>::to_ascii_lowercase);
    let host = only(&FORWARDED_HOST).filter(|value| http::uri::Authority::try_from(value.as_bytes()).is_ok());
    Found { address, hops, proto: proto.and_then(|proto| HeaderValue::try_from(proto).ok()), host: host.cloned() }
}

/// For whom each proxy says that it asks, nearest first; `None` for what is no address. `X-Forwarded-For` is read, and
/// `Forwarded` where there is none.
fn from_right(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let is_plain = headers.contains_key(FORWARDED_FOR);
    let name = if is_plain { FORWARDED_FOR } else { header::FORWARDED };
    let all: Vec<&[u8]> = elements(headers, &name).take(HOPS_MAX).collect();
    all.into_iter().map(move |one| address(if is_plain { one } else { element_value(one, b"for")? }))
}

/// The members of a list in however many fields, the last one first.
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().rev().flat_map(|value| value.as_bytes().rsplit(|&byte| byte == b','))
}

/// The value of a parameter of one `forwarded-element` (RFC 7239 §4).
fn element_value<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    element.split(|&byte| byte == b';').find_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        pair[..at].trim_ascii().eq_ignore_ascii_case(name).then(|| {
            let value = pair[at + 1..].trim_ascii();
            value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
        })
    })
}

/// An address, with or without a port, an IPv6 one with or without brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    found.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
