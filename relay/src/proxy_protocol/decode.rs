//! Bytes → header, as far as they have come.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Header, V1, V2};

/// The longest line of version 1 in bytes, CR LF included (the text, §2.1).
const V1_BYTES_MAX: usize = 107;

/// The fixed part of version 2, in bytes: signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// The most that may follow it, in bytes. The text allows 65,535; what proxies say beside addresses, a client's
/// certificate included, needs a few thousand.
const V2_REST_BYTES_MAX: usize = 8 * 1024;

/// No header is longer than this, in bytes.
pub const HEADER_BYTES_MAX: usize = V2_FIXED_BYTES + V2_REST_BYTES_MAX;

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// Complete, and so many bytes long; what follows belongs to the client.
    Header(Header, usize),
    /// The beginning of a header: all of the bytes belong to it, and more must come.
    More,
    /// Too few to say whether they begin a header.
    Unsure,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin as one.
    #[error("there is no PROXY header")]
    None,
    #[error("the line of the PROXY header is longer than {V1_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("the PROXY header is longer than {HEADER_BYTES_MAX} bytes")]
    TooLong,
    #[error("the PROXY header's {0} is wrong")]
    Wrong(&'static str),
}

/// Reads the header that `bytes` begin with.
///
/// Additional fields of version 2 (TLVs) are passed over unread, its checksum too: TCP has one.
///
/// # Errors
/// See [`DecodeError`]; more bytes would not help.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    match (begins(bytes, V1), begins(bytes, V2)) {
        (Some(true), _) => decode_v1(bytes),
        (_, Some(true)) => decode_v2(bytes),
        (None, _) | (_, None) => Ok(Decoded::Unsure),
        _ => Err(DecodeError::None),
    }
}

/// Whether `bytes` begin with `signature`; `None` as long as they may.
fn begins(bytes: &[u8], signature: &[u8]) -> Option<bool> {
    let common = bytes.len().min(signature.len());
    if bytes[..common] != signature[..common] {
        return Some(false);
    }
    (common == signature.len()).then_some(true)
}

fn decode_v1(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if window.len() == V1_BYTES_MAX { Err(DecodeError::LineTooLong) } else { Ok(Decoded::More) };
    };
    let line = std::str::from_utf8(&window[V1.len()..end]).map_err(|_| DecodeError::Wrong("line"))?;
    let mut words = line.split(' ');
    let header = match words.next() {
        // What follows is to be ignored (the text, §2.1).
        Some("UNKNOWN") => return Ok(Decoded::Header(Header::Local, end + 2)),
        Some("TCP4") => v1_addresses(&mut words, |word| word.parse().ok().map(IpAddr::V4))?,
        Some("TCP6") => v1_addresses(&mut words, |word| word.parse().ok().map(IpAddr::V6))?,
        _ => return Err(DecodeError::Wrong("family")),
    };
    match words.next() {
        None => Ok(Decoded::Header(header, end + 2)),
        Some(_) => Err(DecodeError::Wrong("line")),
    }
}

fn v1_addresses<'a>(
    words: &mut impl Iterator<Item = &'a str>,
    parse: impl Fn(&str) -> Option<IpAddr>,
) -> Result<Header, DecodeError> {
    let mut address = || words.next().and_then(&parse).ok_or(DecodeError::Wrong("address"));
    let (source, destination) = (address()?, address()?);
    let mut port = || words.next().and_then(v1_port).ok_or(DecodeError::Wrong("port"));
    let (source, destination) = (SocketAddr::new(source, port()?), SocketAddr::new(destination, port()?));
    Ok(header(source, destination))
}

/// A decimal number without sign and leading zeros (the text, §2.1).
fn v1_port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if plain { word.parse().ok() } else { None }
}

fn decode_v2(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else { return Ok(Decoded::More) };
    let [.., version_and_command, family, high, low] = *fixed;
    if version_and_command >> 4 != 2 {
        return Err(DecodeError::Wrong("version"));
    }
    let is_local = match version_and_command & 0xf {
        0 => true,
        1 => false,
        _ => return Err(DecodeError::Wrong("command")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_REST_BYTES_MAX {
        return Err(DecodeError::TooLong);
    }
    let Some(rest) = rest.get(..length) else { return Ok(Decoded::More) };
    // The addresses of a local connection are to be ignored (the text, §2.2).
    let header = if is_local { Header::Local } else { v2_addresses(family, rest)? };
    Ok(Decoded::Header(header, V2_FIXED_BYTES + length))
}

fn v2_addresses(family: u8, rest: &[u8]) -> Result<Header, DecodeError> {
    let short = DecodeError::Wrong("length");
    match family {
        // Unspecified, or a Unix socket: nothing that would say who the client is.
        0x00 | 0x31 => Ok(Header::Local),
        // TCP over IPv4.
        0x11 => {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *rest.first_chunk().ok_or(short)?;
            let source = (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j]));
            let destination = (Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l]));
            Ok(header(source.into(), destination.into()))
        }
        // TCP over IPv6.
        0x21 => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let (destination, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            let [a, b, c, d] = *rest.first_chunk().ok_or(short)?;
            let source = (Ipv6Addr::from(*source), u16::from_be_bytes([a, b]));
            let destination = (Ipv6Addr::from(*destination), u16::from_be_bytes([c, d]));
            Ok(header(source.into(), destination.into()))
        }
        // Datagrams among them, which do not come over a connection.
        _ => Err(DecodeError::Wrong("family")),
    }
}

/// An IPv4 address in IPv6 form beside a real IPv6 one says nothing that could be passed on.
fn header(source: SocketAddr, destination: SocketAddr) -> Header {
    Addresses::new(source, destination).map_or(Header::Local, Header::Proxied)
}
