//! What the HTTP/3 library lets pass in a request's head, and a server must not (RFC 9114 §4). Pure.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts};

/// Why a request is malformed (RFC 9114 §4.1.2): its stream is reset, and nothing of it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a field of HTTP/1.1 connections")]
    ConnectionField,
    #[error("a `te` other than `trailers`")]
    Te,
    #[error("pseudo-header fields that do not belong together")]
    Pseudo,
    #[error("user information in the authority")]
    UserInfo,
    #[error("two hosts")]
    Hosts,
    #[error("a content length that is no length")]
    Length,
}

/// Fields of one connection, which HTTP/3 does without (RFC 9114 §4.2).
const CONNECTION_FIELDS: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Checks a head, of an extended CONNECT (RFC 9220) where `extended`; says how long the body must be, if the head does.
///
/// # Errors
/// See [`Malformed`].
pub(super) fn check(parts: &Parts, extended: bool) -> Result<Option<u64>, Malformed> {
    if CONNECTION_FIELDS.iter().any(|name| parts.headers.contains_key(name)) {
        return Err(Malformed::ConnectionField);
    }
    if parts.headers.get_all(header::TE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        return Err(Malformed::Te);
    }
    check_pseudo(&parts.method, &parts.uri, extended)?;
    check_host(&parts.uri, &parts.headers)?;
    length(&parts.headers)
}

fn check_pseudo(method: &Method, uri: &Uri, extended: bool) -> Result<(), Malformed> {
    let (scheme, path) = (uri.scheme().is_some(), uri.path_and_query().is_some());
    let fits = match (method == Method::CONNECT, extended) {
        // The authority alone (RFC 9114 §4.4).
        (true, false) => !scheme && !path,
        // Like any other request (RFC 8441 §4).
        (true, true) | (false, false) => scheme && path,
        (false, true) => false,
    };
    if fits && uri.authority().is_some() { Ok(()) } else { Err(Malformed::Pseudo) }
}

fn check_host(uri: &Uri, headers: &HeaderMap) -> Result<(), Malformed> {
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') {
        return Err(Malformed::UserInfo);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => Ok(()),
        (Some(host), None) if host.as_bytes() == authority.as_bytes() => Ok(()),
        _ => Err(Malformed::Hosts),
    }
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => digits(only).map(Some).ok_or(Malformed::Length),
        (Some(_), Some(_)) => Err(Malformed::Length),
    }
}

fn digits(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn checked(method: &str, uri: &str, fields: &[(&str, &str)], extended: bool) -> Result<Option<u64>, Malformed> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0, extended)
    }

    fn get(fields: &[(&str, &str)]) -> Result<Option<u64>, Malformed> {
        checked("GET", "https://a.com/x", fields, false)
    }

    #[test]
    fn an_ordinary_head_passes_with_its_length() {
        assert_eq!(get(&[("host", "a.com"), ("te", "Trailers"), ("content-length", "17")]), Ok(Some(17)));
        assert_eq!(get(&[]), Ok(None));
    }

    #[test]
    fn fields_of_one_connection_are_malformed() {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            assert_eq!(get(&[(name, "x")]), Err(Malformed::ConnectionField), "{name}");
        }
        assert_eq!(get(&[("te", "gzip")]), Err(Malformed::Te));
        assert_eq!(get(&[("te", "trailers"), ("te", "gzip")]), Err(Malformed::Te));
    }

    #[test]
    fn the_host_must_be_the_authority_and_once() {
        assert_eq!(get(&[("host", "b.com")]), Err(Malformed::Hosts));
        assert_eq!(get(&[("host", "a.com"), ("host", "a.com")]), Err(Malformed::Hosts));
        assert_eq!(checked("GET", "https://u@a.com/", &[], false), Err(Malformed::UserInfo));
        assert_eq!(checked("GET", "https://u:p@a.com/", &[], false), Err(Malformed::UserInfo));
    }

    #[test]
    fn there_is_one_length_or_none() {
        for bad in ["", "-1", "+1", "1, 1", "1.0", "0x1", "18446744073709551616"] {
            assert_eq!(get(&[("content-length", bad)]), Err(Malformed::Length), "{bad}");
        }
        assert_eq!(get(&[("content-length", "1"), ("content-length", "1")]), Err(Malformed::Length));
    }

    #[test]
    fn pseudo_headers_fit_the_method() {
        assert_eq!(checked("CONNECT", "a.com:443", &[], false), Ok(None));
        assert_eq!(checked("CONNECT", "https://a.com/", &[], false), Err(Malformed::Pseudo));
        assert_eq!(checked("CONNECT", "https://a.com/chat", &[], true), Ok(None));
        assert_eq!(checked("CONNECT", "a.com:443", &[], true), Err(Malformed::Pseudo));
        assert_eq!(checked("GET", "https://a.com/", &[], true), Err(Malformed::Pseudo));
        assert_eq!(checked("GET", "a.com:443", &[], false), Err(Malformed::Pseudo));
        assert_eq!(checked("GET", "/x", &[], false), Err(Malformed::Pseudo));
    }
}
