//! What a request has in common with others that go to the same endpoint: the client's address, a header or a cookie.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};

use super::Client;
use crate::route::{
    maglev::hash,
    target::Backend,
    traffic::{Balance, HashOn},
};

/// The hash of what counts, and the cookie that says it from now on where one was made.
#[derive(Debug, Default)]
pub(super) struct Pin {
    pub(super) key: Option<u64>,
    pub(super) cookie: Option<HeaderValue>,
}

/// What `backend` is chosen an endpoint by; nothing where that is not by hash, or where the request does not have it.
pub(super) fn find(backend: &Backend, headers: &HeaderMap, client: &Client) -> Pin {
    let keyed = |key| Pin { key: Some(key), cookie: None };
    match hash_on(backend) {
        None => Pin::default(),
        Some(HashOn::SourceIp) => Pin { key: by_address(backend, client.address), cookie: None },
        Some(HashOn::Header(name)) => headers.get(name).map(|value| keyed(hash(value.as_bytes()))).unwrap_or_default(),
        Some(HashOn::Cookie { name, made }) => match cookie(headers, name) {
            Some(value) => keyed(hash(value)),
            None => made.as_deref().map(|rest| make(name, rest)).unwrap_or_default(),
        },
    }
}

/// The same where there is nothing but an address.
pub(super) fn by_address(backend: &Backend, client: SocketAddr) -> Option<u64> {
    let is_meant = matches!(hash_on(backend), Some(HashOn::SourceIp));
    is_meant.then(|| match client.ip().to_canonical() {
        IpAddr::V4(ip) => hash(&ip.octets()),
        IpAddr::V6(ip) => hash(&ip.octets()),
    })
}

fn hash_on(backend: &Backend) -> Option<&HashOn> {
    match backend.traffic()?.balance.as_ref()? {
        Balance::ConsistentHash { on, .. } => Some(on),
        _ => None,
    }
}

fn make(name: &str, rest: &str) -> Pin {
    let value = format!("{:016x}", rand::random::<u64>());
    let cookie = HeaderValue::try_from(format!("{name}={value}{rest}")).ok();
    Pin { key: Some(hash(value.as_bytes())), cookie }
}

/// The first cookie of that name (RFC 6265 §5.4).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let all = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    let mut named = all.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    named.next().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let check = |lines: &[&'static str], want: Option<&str>| {
            let lines = lines.iter().map(|line| (header::COOKIE, HeaderValue::from_static(line)));
            assert_eq!(cookie(&lines.collect(), "pin"), want.map(str::as_bytes), "{want:?}");
        };
        check(&["pin=a"], Some("a"));
        check(&["x=1;  pin=a=b ; pin=c"], Some("a=b"));
        check(&["x=1", "y=2; pin=c"], Some("c"));
        check(&["spin=a; pinx=b; pin; pin="], None);
        check(&[], None);
    }

    #[test]
    fn a_cookie_that_is_made_comes_back_with_the_same_key() {
        let pin = make("pin", "; Max-Age=60; HttpOnly");
        let text = pin.cookie.unwrap();
        let (pair, rest) = text.to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; HttpOnly");
        let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(pair).unwrap())]);
        assert_eq!(cookie(&headers, "pin").map(hash), pin.key);
    }
}
