//! HTTP's CONNECT as bytes: what a client asks a proxy for, and what it is answered (RFC 9110 §9.3.6). Pure.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use underpass_shared::wire::preface::Host;

use super::socks5::Credentials;
use crate::link::outward::Target;

/// The longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;

/// How many fields a head may have.
const FIELDS_MAX: usize = 64;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub target: Target,
    /// From `Proxy-Authorization: Basic` (RFC 7617).
    pub credentials: Option<Credentials>,
}

/// Why a head is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    #[error("the request is malformed")]
    Malformed,
    #[error("only CONNECT is served here: this is no proxy for http URLs (curl: --proxytunnel)")]
    Method,
    #[error("the target is not HOST:PORT")]
    Target,
    #[error("the request's head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
}

impl NotServed {
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Target => 400,
            Self::Method => 405,
            Self::TooLong => 431,
        }
    }
}

/// Reads a request's head, and how many bytes it took; what follows is the tunnel's, whatever the head says of a body.
///
/// # Errors
/// See [`NotServed`].
pub fn head(bytes: &[u8]) -> Result<Option<(Asked, usize)>, NotServed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(NotServed::TooLong),
        Err(_) => return Err(NotServed::Malformed),
    };
    if request.method != Some("CONNECT") {
        return Err(NotServed::Method);
    }
    let target = ask(request.path.unwrap_or_default()).ok_or(NotServed::Target)?;
    let mut authorizations =
        request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("proxy-authorization"));
    let credentials = authorizations.next().and_then(|field| basic(field.value));
    if authorizations.next().is_some() {
        return Err(NotServed::Malformed);
    }
    Ok(Some((Asked { target, credentials }, length)))
}

/// The target that an authority names: HOST:PORT, an IPv6 address in brackets.
#[must_use]
pub fn ask(authority: &str) -> Option<Target> {
    let (host, port) = authority.rsplit_once(':')?;
    let port =
        port.parse().ok().filter(|_| port.bytes().all(|byte| byte.is_ascii_digit())).filter(|&port| port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => Host::Address(std::net::IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?)),
        None => host.strip_suffix('.').unwrap_or(host).parse().ok()?,
    };
    // An address of IPv6 without brackets is none here, and no host at all is not this one.
    let is_bare = matches!(host, Host::Address(std::net::IpAddr::V6(_))) && !authority.starts_with('[');
    (host != Host::Loopback && !is_bare).then_some(Target { host, port })
}

fn basic(value: &[u8]) -> Option<Credentials> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(token.trim()).ok())??;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    Some(Credentials { name: decoded[..colon].to_vec(), password: decoded[colon + 1..].to_vec() })
}

/// The answer behind which the tunnel begins.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The answer to who did not get a tunnel; the connection ends with it.
#[must_use]
pub fn refusal(status: u16, text: &str) -> Vec<u8> {
    let name = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let further = match status {
        405 => "allow: CONNECT\r\n",
        407 => "proxy-authenticate: Basic realm=\"underpass\"\r\n",
        _ => "",
    };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status} {name}\r\n{further}content-type: text/plain\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(text: &str) -> Result<Option<(Asked, usize)>, NotServed> {
        head(text.as_bytes())
    }

    #[test]
    fn a_head_names_its_target_and_leaves_the_rest() {
        let check = |authority: &str, host: &str| {
            let text = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 9\r\n\r\n");
            let (asked, length) = asked(&format!("{text}tunnelled")).unwrap().unwrap();
            let want = Target { host: host.parse().unwrap(), port: 443 };
            assert_eq!((asked, length), (Asked { target: want, credentials: None }, text.len()), "{authority}");
        };
        check("example.com:443", "example.com");
        check("example.com.:443", "example.com");
        check("192.0.2.1:443", "192.0.2.1");
        check("[fd00::1]:443", "fd00::1");
        assert_eq!(asked("CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n"), Ok(None));
    }

    #[test]
    fn what_is_not_served_says_why() {
        let check = |text: &str, want: NotServed| assert_eq!(asked(text), Err(want), "{text:?}");
        check("GET http://example.com/ HTTP/1.1\r\n\r\n", NotServed::Method);
        check("CONNECT\0", NotServed::Malformed);
        let long = format!("CONNECT a.example:1 HTTP/1.1\r\nx: {}", "y".repeat(HEAD_BYTES_MAX));
        check(&long, NotServed::TooLong);
        check(
            &format!("CONNECT a.example:1 HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(FIELDS_MAX + 1)),
            NotServed::TooLong,
        );
        let twice = "Proxy-Authorization: Basic YTpi\r\n".repeat(2);
        check(&format!("CONNECT a.example:1 HTTP/1.1\r\n{twice}\r\n"), NotServed::Malformed);
        for target in [
            "example.com",
            ":443",
            "example.com:",
            "example.com:0",
            "example.com:+1",
            "example.com:65536",
            "fd00::1:443",
            "[fd00::1:443",
            "[192.0.2.1]:443",
            "me@example.com:443",
            "a..b:1",
            "127.1:80",
            "http://example.com:443/",
        ] {
            check(&format!("CONNECT {target} HTTP/1.1\r\n\r\n"), NotServed::Target);
        }
    }

    #[test]
    fn credentials_are_read_as_a_browser_sends_them() {
        let check = |value: &str, want: Option<(&[u8], &[u8])>| {
            let text = format!("CONNECT a.example:1 HTTP/1.1\r\nproxy-authorization: {value}\r\n\r\n");
            let credentials = asked(&text).unwrap().unwrap().0.credentials;
            assert_eq!(credentials.as_ref().map(|c| (&c.name[..], &c.password[..])), want, "{value}");
        };
        check("Basic bWU6YTpi", Some((b"me", b"a:b")));
        check("basic bWU6", Some((b"me", b"")));
        for none in ["Basic", "Basic bWU=", "Basic !", "Bearer bWU6YTpi", "Basic bWU6YTpi x"] {
            check(none, None);
        }
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let text = String::from_utf8(refusal(403, "not allowed")).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 Forbidden\r\ncontent-type"), "{text}");
        assert!(text.ends_with("content-length: 12\r\nconnection: close\r\n\r\nnot allowed\n"), "{text}");
        assert!(String::from_utf8(refusal(405, "")).unwrap().contains("\r\nallow: CONNECT\r\n"));
        assert!(String::from_utf8(refusal(407, "")).unwrap().contains("\r\nproxy-authenticate: Basic"));
    }

    proptest! {
        #[test]
        fn arbitrary_heads_are_refused_or_read(
            text in "(CONNECT |GET )?[a-z0-9:.\\[\\]@]{0,20}( HTTP/1.1\r\n)?(([a-zA-Z-]{1,9}: [ -~]{0,9}|\\PC{0,9})\r\n){0,3}(\r\n)?\\PC{0,9}",
        ) {
            if let Ok(Some((asked, length))) = asked(&text) {
                prop_assert!(asked.target.port > 0 && length <= text.len());
                prop_assert_eq!(head(&text.as_bytes()[..length - 1]), Ok(None), "nothing less is enough");
            }
        }
    }
}
