//! Header fields that do not pass: those of one hop, those that pretend to be ours, those that servers confuse.
//!
//! Pure; works on the map in place.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Client, origin::Found, request::Asked};
use crate::route::table::Scheme;

/// Fields of one connection only (RFC 9110 §7.6.1), and those that older software treats so.
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Makes a client's header fields those that the backend may see; says whether the client can take trailers.
///
/// `X-Forwarded-For`, `-Proto` and `-Host` are ours; whatever else claims to know the client or its path is dropped. What
/// trusted proxies say of `client`, who is the nearest of them, is `found`.
pub(super) fn forward_request(headers: &mut HeaderMap, asked: &Asked, client: &Client, found: Option<&Found>) -> bool {
    let trailers = headers.get_all(header::TE).iter().any(|value| has_token(value, "trailers"));
    strip_hop_by_hop(headers);
    let named = headers.remove(header::HOST);
    // The listener answers it itself when the body is first asked for.
    headers.remove(header::EXPECT);
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| is_spoofed(name.as_str())).cloned().collect();
    for name in &spoofed {
        headers.remove(name);
    }
    join_cookies(headers);
    let proto = match client.scheme() {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let ip = match found {
        None => client.address.ip().to_canonical().to_string(),
        Some(found) => found.chain(client.address.ip()),
    };
    let host = match named {
        Some(named) if named == asked.authority.as_str() => Ok(named),
        _ => HeaderValue::from_str(asked.authority.as_str()),
    };
    for (name, value) in [(FORWARDED_FOR, HeaderValue::from_str(&ip)), (FORWARDED_HOST, host)] {
        headers.insert(name, value.expect("an address and a checked authority are visible ASCII"));
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    if let Some(found) = found {
        headers.extend(found.proto.clone().map(|proto| (FORWARDED_PROTO, proto)));
        headers.extend(found.host.clone().map(|host| (FORWARDED_HOST, host)));
    }
    trailers
}

/// Makes a backend's header fields those that the client may see.
pub(super) fn forward_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| token.trim().parse().ok())
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE))
            .collect();
        for name in &named {
            headers.remove(name);
        }
    }
    // Most heads have none, and looking costs less than removing.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// Fields that only the gateway may set, and names with `_`, which CGI-like servers read as `-`.
pub(super) fn is_spoofed(name: &str) -> bool {
    // Asked of each field of each request: most are told by their first letter.
    (matches!(name.as_bytes().first(), Some(b'f' | b'x'))
        && (name.starts_with("x-forwarded-")
            || matches!(name, "forwarded" | "x-real-ip" | "x-original-url" | "x-rewrite-url" | "x-original-host")))
        || name.bytes().any(|byte| byte == b'_')
}

/// HTTP/2 may split the cookie; before anything else it must be one field again (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether a comma-separated list holds `token`, in any case; parameters of the members are ignored.
pub(super) fn has_token(value: &HeaderValue, token: &str) -> bool {
    let members = value.as_bytes().split(|&b| b == b',');
    members
        .map(|member| member.split(|&b| b == b';').next().unwrap_or_default().trim_ascii())
        .any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use underpass_shared::identity::ProjectName;

    use super::*;
    use crate::route::{
        host::HostPattern,
        table::{ListenAddress, TlsListener, TlsServes},
    };

    fn forwarded(fields: &[(&str, &str)]) -> (HeaderMap, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let asked = Asked {
            authority: "A.com:80".parse().unwrap(),
            host: "a.com".into(),
            path_and_query: "/".parse().unwrap(),
        };
        let client = Client {
            address: "[::ffff:192.0.2.9]:5".parse().unwrap(),
            local: "[::ffff:192.0.2.1]:443".parse().unwrap(),
            at: ListenAddress::shared(443),
            tls: Some(Arc::new(TlsListener {
                project: ProjectName::default(),
                hostname: HostPattern::Any,
                serves: TlsServes::Http(Arc::default()),
                clients: None,
            })),
        };
        let trailers = forward_request(&mut headers, &asked, &client, None);
        (headers, trailers)
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_stay_here() {
        let (headers, _) = forwarded(&[
            ("connection", "close, X-Secret"),
            ("connection", "upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "x"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-kept", "1"),
        ]);
        let names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(headers.contains_key("x-kept"));
    }

    #[test]
    fn connection_cannot_take_away_framing_or_our_own_fields() {
        let named = "content-length, host, x-forwarded-for, content-type";
        let (headers, _) = forwarded(&[("connection", named), ("content-length", "3"), ("content-type", "a/b")]);
        assert_eq!(headers["content-length"], "3");
        assert_eq!(headers["content-type"], "a/b");
        assert_eq!(headers["x-forwarded-for"], "192.0.2.9");
    }

    #[test]
    fn what_only_the_gateway_may_say_is_overwritten_or_dropped() {
        let (headers, _) = forwarded(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/x"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x_forwarded_for", "1.2.3.4"),
        ]);
        assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.9"]);
        assert_eq!(headers["x-forwarded-host"], "A.com:80");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn trailers_are_noticed() {
        assert!(forwarded(&[("te", "gzip;q=1, Trailers")]).1);
        assert!(!forwarded(&[("te", "gzip")]).1);
        assert!(!forwarded(&[]).1);
    }

    #[test]
    fn split_cookies_are_joined() {
        assert_eq!(forwarded(&[("cookie", "a=1"), ("cookie", "b=2")]).0["cookie"], "a=1; b=2");
    }
}
