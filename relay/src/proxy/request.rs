//! The hostile head of a request, checked: one valid host, a path with one meaning, a body with one length.
//!
//! Pure. What passes here is forwarded re-serialised, never as the bytes that came.

use http::{
    HeaderMap, HeaderValue, Method, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};

use super::path::{self, PathError};

/// The most header fields a request may have; HTTP/1.1 is held to it by the listener, HTTP/2 here.
pub(super) const HEADERS_MAX: usize = 100;

/// What a client asked for, in the one spelling that is routed and forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Host and port as the client named them, for the backend.
    pub authority: Authority,
    /// The host in lower case, without port or trailing dot, for the table.
    pub host: String,
    pub path_and_query: PathAndQuery,
}

/// Why a request is refused before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the request names no host")]
    NoHost,
    #[error("the request names its host more than once")]
    SeveralHosts,
    #[error("the request's host is not valid")]
    BadHost,
    #[error("the request's body has a transfer coding other than chunked")]
    TransferCoding,
    #[error("the request has more than {HEADERS_MAX} header fields")]
    TooManyHeaders,
    #[error("CONNECT is not served here")]
    Connect,
    #[error("of the protocols over extended CONNECT only websocket is served here")]
    Protocol,
    #[error("{0}")]
    Path(String),
}

/// Reads the head strictly.
///
/// # Errors
/// [`Refusal`] says what is wrong; the connection is closed with the answer.
pub(super) fn check(parts: &Parts) -> Result<Asked, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if parts.headers.len() > HEADERS_MAX {
        return Err(Refusal::TooManyHeaders);
    }
    check_coding(&parts.headers)?;
    let authority = authority(parts)?;
    let host = host(&authority)?;
    let path_and_query = path_and_query(parts)?;
    Ok(Asked { authority, host, path_and_query })
}

/// Anything but one `chunked` is read in different ways by different servers.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Refusal::TransferCoding),
    }
}

/// The host that counts: the target's own (absolute form, `:authority`), else the one Host header (RFC 9112 §3.2).
fn authority(parts: &Parts) -> Result<Authority, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (named, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Refusal::SeveralHosts);
    }
    let named = named.map(parse_authority).transpose()?;
    match (parts.uri.authority(), named) {
        (None, None) => Err(Refusal::NoHost),
        (None, Some(named)) => Ok(named),
        // Absolute form needs Host nonetheless, but what it says is ignored.
        (Some(_), None) if parts.version == Version::HTTP_11 => Err(Refusal::NoHost),
        (Some(target), Some(named)) if parts.version >= Version::HTTP_2 && *target != named => {
            Err(Refusal::SeveralHosts)
        }
        (Some(target), _) => Ok(target.clone()),
    }
}

fn parse_authority(value: &HeaderValue) -> Result<Authority, Refusal> {
    Authority::try_from(value.as_bytes()).map_err(|_| Refusal::BadHost)
}

fn host(authority: &Authority) -> Result<String, Refusal> {
    let text = authority.as_str();
    let name = authority.host();
    // What follows the host must be nothing or `:port`; user information would come before it.
    let port = text.strip_prefix(name).ok_or(Refusal::BadHost)?;
    let port_is_valid = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
    };
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let name_is_valid = match is_address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.bytes().all(inner),
    };
    let bare = name.strip_suffix('.').unwrap_or(name);
    if !port_is_valid || !name_is_valid || bare.is_empty() || bare.len() > crate::route::host::HOST_BYTES_MAX {
        return Err(Refusal::BadHost);
    }
    Ok(bare.to_ascii_lowercase())
}

fn path_and_query(parts: &Parts) -> Result<PathAndQuery, Refusal> {
    let refuse = |error: PathError| Refusal::Path(error.to_string());
    let Some(asked) = parts.uri.path_and_query() else { return Err(refuse(PathError::NotAbsolute)) };
    // `http` keeps the empty path of an absolute target as the root.
    let normal = path::normalise(asked.path()).map_err(refuse)?;
    if *normal == *asked.path() && asked.as_str().starts_with('/') {
        return Ok(asked.clone());
    }
    let text = match asked.query() {
        Some(query) => format!("{normal}?{query}"),
        None => normal.into_owned(),
    };
    PathAndQuery::try_from(text).map_err(|_| refuse(PathError::NotAbsolute))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(version: Version, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn h1(target: &str, headers: &[(&str, &str)]) -> Result<Asked, Refusal> {
        check(&parts(Version::HTTP_11, target, headers))
    }

    fn h2(target: &str, headers: &[(&str, &str)]) -> Result<Asked, Refusal> {
        check(&parts(Version::HTTP_2, target, headers))
    }

    #[test]
    fn the_host_is_routed_in_lower_case_without_port_and_dot_and_forwarded_as_it_came() {
        let asked = h1("/x?y=1", &[("host", "API.Example.com.:8080")]).unwrap();
        assert_eq!(asked.host, "api.example.com");
        assert_eq!(asked.authority.as_str(), "API.Example.com.:8080");
        assert_eq!(asked.path_and_query.as_str(), "/x?y=1");
        assert_eq!(h1("/", &[("host", "[::1]:80")]).unwrap().host, "[::1]");
    }

    #[test]
    fn exactly_one_valid_host_is_needed() {
        assert_eq!(h1("/", &[]), Err(Refusal::NoHost));
        assert_eq!(h1("/", &[("host", "a.com"), ("host", "a.com")]), Err(Refusal::SeveralHosts));
        for bad in
            ["", "a b", "a.com:", "a.com:x", "a.com:99999", "u@a.com", "a.com/x", "a,b", ".", ":80", "[::z]", "ä.com"]
        {
            let refused = h1("/", &[("host", bad)]);
            // An empty port is what RFC 3986 §3.2.3 allows and nobody sends.
            assert_eq!(refused, Err(Refusal::BadHost), "{bad}");
        }
    }

    #[test]
    fn absolute_form_wins_over_host_and_still_needs_it() {
        let asked = h1("http://b.com/x", &[("host", "a.com")]).unwrap();
        assert_eq!((asked.host.as_str(), asked.authority.as_str()), ("b.com", "b.com"));
        assert_eq!(h1("http://b.com/x", &[]), Err(Refusal::NoHost));
        assert_eq!(h1("http://u@b.com/x", &[("host", "b.com")]), Err(Refusal::BadHost));
    }

    #[test]
    fn authority_and_host_must_agree_on_http2() {
        assert_eq!(h2("http://b.com/x", &[]).unwrap().host, "b.com");
        assert_eq!(h2("http://b.com/x", &[("host", "B.com")]).unwrap().host, "b.com");
        assert_eq!(h2("http://b.com/x", &[("host", "a.com")]), Err(Refusal::SeveralHosts));
    }

    #[test]
    fn only_chunked_is_a_transfer_coding() {
        let coded = |coding| h1("/", &[("host", "a.com"), ("transfer-encoding", coding)]);
        assert!(coded("chunked").is_ok() && coded("Chunked").is_ok());
        for bad in ["gzip, chunked", "identity", "chunked, chunked", "xchunked", ""] {
            assert_eq!(coded(bad), Err(Refusal::TransferCoding), "{bad}");
        }
        let twice = [("host", "a.com"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(h1("/", &twice), Err(Refusal::TransferCoding));
    }

    #[test]
    fn the_normal_form_of_the_path_is_forwarded_with_its_query() {
        let asked = h1("/a//b/%2e%2e/c?x=%2e", &[("host", "a.com")]).unwrap();
        assert_eq!(asked.path_and_query.as_str(), "/a/c?x=%2e");
        assert!(matches!(h1("/a%5cb", &[("host", "a.com")]), Err(Refusal::Path(_))));
        assert!(matches!(h1("*", &[("host", "a.com")]), Err(Refusal::Path(_))));
        assert_eq!(h1("http://a.com", &[("host", "a.com")]).unwrap().path_and_query.as_str(), "/");
        assert_eq!(h1("http://a.com?q", &[("host", "a.com")]).unwrap().path_and_query.as_str(), "/?q");
    }

    #[test]
    fn connect_and_too_many_headers_are_refused() {
        let mut connect = parts(Version::HTTP_11, "a.com:80", &[("host", "a.com")]);
        connect.method = Method::CONNECT;
        assert_eq!(check(&connect), Err(Refusal::Connect));
        let many: Vec<(String, &str)> = (0..HEADERS_MAX).map(|index| (format!("x-{index}"), "1")).collect();
        let mut all: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        all.push(("host", "a.com"));
        assert_eq!(h2("http://a.com/", &all), Err(Refusal::TooManyHeaders));
        all.remove(0);
        assert!(h2("http://a.com/", &all).is_ok());
    }
}
