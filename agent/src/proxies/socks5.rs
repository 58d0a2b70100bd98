//! SOCKS5 as bytes: what a client says, and what it is answered (RFC 1928, RFC 1929). Pure.
//!
//! Each decoder looks at all that has come so far: `None` asks for more, an error is final. None reads beyond its message.

use std::net::{Ipv4Addr, Ipv6Addr};

use underpass_shared::wire::preface::Host;

use crate::link::outward::{Cause, Target};

/// The first byte of a SOCKS5 client.
pub const VERSION: u8 = 5;

/// The longest of the messages, in bytes: a name and a password of 255 each.
pub const MESSAGE_BYTES_MAX: usize = 3 + 2 * 255;

/// The version of the exchange of name and password.
const PASSWORD_VERSION: u8 = 1;

/// What a client offers to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods {
    pub none: bool,
    pub password: bool,
}

/// A name and a password, as they were sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub name: Vec<u8>,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// How a client is answered that cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it does not speak SOCKS5")]
    Version,
    #[error("it asks for a command that is not served")]
    Command,
    #[error("it gives an address of an unknown kind")]
    AddressKind,
    #[error("it gives no host and port")]
    Target,
}

/// A reply's second byte (RFC 1928 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    /// Of what timed out, as others have it too: there is no code of its own.
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressKindNotSupported = 8,
}

/// The method of [`choose`]'s answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    None = 0,
    Password = 2,
    Unacceptable = 0xff,
}

/// What a decoder found: the value and the bytes it took.
pub type Decoded<T> = Result<Option<(T, usize)>, Malformed>;

/// The client's first message: version, and the methods it knows.
pub fn greeting(bytes: &[u8]) -> Decoded<Methods> {
    let Some(&version) = bytes.first() else { return Ok(None) };
    if version != VERSION {
        return Err(Malformed::Version);
    }
    let Some((methods, end)) = run(bytes, 1) else { return Ok(None) };
    let offers = |method: Method| methods.contains(&(method as u8));
    Ok(Some((Methods { none: offers(Method::None), password: offers(Method::Password) }, end)))
}

/// The client's name and password.
pub fn credentials(bytes: &[u8]) -> Decoded<Credentials> {
    let Some(&version) = bytes.first() else { return Ok(None) };
    if version != PASSWORD_VERSION {
        return Err(Malformed::Version);
    }
    let Some((name, end)) = run(bytes, 1) else { return Ok(None) };
    let Some((password, end)) = run(bytes, end) else { return Ok(None) };
    Ok(Some((Credentials { name: name.to_vec(), password: password.to_vec() }, end)))
}

/// The client's request: CONNECT, and where to.
pub fn request(bytes: &[u8]) -> Decoded<Target> {
    const CONNECT: u8 = 1;
    match bytes {
        [version, ..] if *version != VERSION => return Err(Malformed::Version),
        [_, command, ..] if *command != CONNECT => return Err(Malformed::Command),
        [_, _, _, kind, ..] if ![1, 3, 4].contains(kind) => return Err(Malformed::AddressKind),
        _ => {}
    }
    let read = match bytes.get(3) {
        None => None,
        Some(1) => array::<4>(bytes, 4).map(|address| (Ok(Host::Address(Ipv4Addr::from(address).into())), 8)),
        Some(4) => array::<16>(bytes, 4).map(|address| (Ok(Host::Address(Ipv6Addr::from(address).into())), 20)),
        Some(_) => run(bytes, 4).map(|(name, end)| (named(name), end)),
    };
    let Some((host, end)) = read else { return Ok(None) };
    let host = host?;
    let Some(port) = array::<2>(bytes, end).map(u16::from_be_bytes) else { return Ok(None) };
    match port {
        0 => Err(Malformed::Target),
        port => Ok(Some((Target { host, port }, end + 2))),
    }
}

/// A host's name, or an address that was written as one.
fn named(bytes: &[u8]) -> Result<Host, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Target)?;
    match text.strip_suffix('.').unwrap_or(text).parse() {
        Ok(Host::Loopback) | Err(_) => Err(Malformed::Target),
        Ok(host) => Ok(host),
    }
}

/// A length of one byte at `at`, and as many bytes; and where they end.
fn run(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = at + 1 + usize::from(*bytes.get(at)?);
    Some((bytes.get(at + 1..end)?, end))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Which method is asked of a client, where `password` says whether one is needed.
#[must_use]
pub fn choose(methods: Methods, password: bool) -> Method {
    match password {
        true if methods.password => Method::Password,
        false if methods.none => Method::None,
        _ => Method::Unacceptable,
    }
}

/// The answer to a greeting.
#[must_use]
pub fn chosen(method: Method) -> [u8; 2] {
    [VERSION, method as u8]
}

/// The answer to name and password.
#[must_use]
pub fn judged(good: bool) -> [u8; 2] {
    [PASSWORD_VERSION, u8::from(!good)]
}

/// The answer to a request. The address that the relay connected from is not the client's concern: it is said to be none.
#[must_use]
pub fn replied(reply: Reply) -> [u8; 10] {
    [VERSION, reply as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

impl From<Malformed> for Reply {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Command => Self::CommandNotSupported,
            Malformed::AddressKind => Self::AddressKindNotSupported,
            Malformed::Version | Malformed::Target => Self::Failure,
        }
    }
}

impl From<Cause> for Reply {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::NotAllowed => Self::NotAllowed,
            Cause::HostUnreachable => Self::HostUnreachable,
            Cause::NetworkUnreachable => Self::NetworkUnreachable,
            Cause::ConnectionRefused => Self::ConnectionRefused,
            Cause::TimedOut => Self::TtlExpired,
            Cause::Other => Self::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.parse().unwrap(), port }
    }

    fn asked(kind: u8, rest: &[u8]) -> Vec<u8> {
        [&[5, 1, 0, kind], rest].concat()
    }

    #[test]
    fn a_greeting_says_what_is_offered() {
        let check = |bytes: &[u8], want: Decoded<Methods>| assert_eq!(greeting(bytes), want, "{bytes:?}");
        let offers = |none, password, length| Ok(Some((Methods { none, password }, length)));
        check(&[5, 1, 0], offers(true, false, 3));
        check(&[5, 2, 0, 2], offers(true, true, 4));
        check(&[5, 1, 2, 5, 1], offers(false, true, 3));
        check(&[5, 0], offers(false, false, 2));
        check(&[5, 2, 0], Ok(None));
        check(&[4, 1], Err(Malformed::Version));
    }

    #[test]
    fn a_method_is_chosen_that_both_sides_want() {
        let methods = |none, password| Methods { none, password };
        assert_eq!(choose(methods(true, true), false), Method::None);
        assert_eq!(choose(methods(true, true), true), Method::Password);
        assert_eq!(choose(methods(true, false), true), Method::Unacceptable, "who needs a password takes no less");
        assert_eq!(choose(methods(false, true), false), Method::Unacceptable);
    }

    #[test]
    fn names_and_passwords_are_read_whole() {
        let credentials = |bytes: &[u8]| credentials(bytes).map(|read| read.map(|(c, end)| (c.name, c.password, end)));
        assert_eq!(credentials(b"\x01\x02me\x03abc!"), Ok(Some((b"me".to_vec(), b"abc".to_vec(), 8))));
        assert_eq!(credentials(b"\x01\x00\x00"), Ok(Some((vec![], vec![], 3))));
        assert_eq!(credentials(b"\x01\x02me\x03ab"), Ok(None));
        assert_eq!(credentials(b"\x05"), Err(Malformed::Version));
    }

    #[test]
    fn a_request_names_an_address_or_a_name() {
        let check = |bytes: &[u8], host: &str| {
            assert_eq!(request(bytes), Ok(Some((target(host, 443), bytes.len()))), "{bytes:?}");
        };
        check(&asked(1, &[192, 0, 2, 1, 1, 187]), "192.0.2.1");
        check(&asked(4, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 187]), "fd00::1");
        check(&asked(3, b"\x0bexample.com\x01\xbb"), "example.com");
        check(&asked(3, b"\x09192.0.2.1\x01\xbb"), "192.0.2.1");
        assert_eq!(request(&asked(3, b"\x0cexample.com.\x01\xbb")), Ok(Some((target("example.com", 443), 19))));
    }

    #[test]
    fn what_is_not_served_has_its_own_reply() {
        let check = |bytes: &[u8], want: Reply| {
            assert_eq!(request(bytes).map_err(Reply::from), Err(want), "{bytes:?}");
        };
        check(&[4], Reply::Failure);
        check(&[5, 2], Reply::CommandNotSupported);
        check(&[5, 3, 0, 1], Reply::CommandNotSupported);
        check(&[5, 1, 0, 2], Reply::AddressKindNotSupported);
        check(&asked(1, &[192, 0, 2, 1, 0, 0]), Reply::Failure);
        for name in
            [&b"a\0b"[..], b"", b".", b"a..b", b"a b", b"\xff", b"127.1", b"0x7f000001", b"[::1]", b"a/b", b"a\r\nb"]
        {
            let bytes = [&asked(3, &[name.len() as u8])[..], name, &[0, 80]].concat();
            check(&bytes, Reply::Failure);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_or_read_alike_however_much_came(
            first in prop_oneof![Just(5u8), Just(1u8), any::<u8>()],
            rest in vec(prop_oneof![0u8..6, any::<u8>()], 0..600),
        ) {
            let bytes = [&[first][..], &rest].concat();
            fn alike<T: PartialEq + std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Decoded<T>) {
                let mut length = 0;
                let found = loop {
                    match decode(&bytes[..length]) {
                        Ok(None) if length < bytes.len() => length += 1,
                        found => break found,
                    }
                };
                if let Ok(Some((_, used))) = &found {
                    assert_eq!(*used, length, "nothing beyond the message is waited for or taken");
                    assert!(*used <= MESSAGE_BYTES_MAX);
                }
                assert_eq!(decode(bytes), found, "what follows changes nothing");
                assert!(length <= MESSAGE_BYTES_MAX, "no message is longer");
            }
            alike(&bytes, greeting);
            alike(&bytes, credentials);
            alike(&bytes, request);
        }
    }
}
