//! What the agent's proxies read of programs.

use std::fmt::Debug;

use underpass_agent::proxies::{http_connect as http, socks5 as socks};

/// SOCKS5: each of its messages is read or refused alike however much came at once.
pub fn socks5(bytes: &[u8]) {
    let limit = socks::MESSAGE_BYTES_MAX;
    alike(bytes, limit, socks::greeting);
    alike(bytes, limit, socks::credentials);
    if let Some(target) = alike(bytes, limit, socks::request) {
        assert!(target.port > 0);
        assert!(
            http::ask(&target.to_string()).is_some_and(|again| again == target),
            "{target} is written as it is read"
        );
    }
}

/// The head of a CONNECT over HTTP.
pub fn http_connect(bytes: &[u8]) {
    if let Some(asked) = alike(bytes, http::HEAD_BYTES_MAX, http::head) {
        let again = http::ask(&asked.target.to_string());
        assert_eq!(again, Some(asked.target), "what is asked of the relay is what was meant");
    }
}

/// Decodes what grows byte by byte, and all at once; gives the value.
fn alike<T: PartialEq + Debug, E: PartialEq + Debug>(
    bytes: &[u8],
    limit: usize,
    decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, E>,
) -> Option<T> {
    let mut length = 0;
    let found = loop {
        match decode(&bytes[..length]) {
            Ok(None) if length < bytes.len() => length += 1,
            found => break found,
        }
    };
    assert!(length <= limit, "nobody waits for more than the limit");
    let (value, used) = found.ok()??;
    assert_eq!(used, length, "nothing is taken of what follows");
    assert_eq!(decode(bytes).ok().flatten().as_ref(), Some(&(value, used)), "what follows changes nothing");
    decode(bytes).ok()?.map(|(value, _)| value)
}
