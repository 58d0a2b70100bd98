//! Where a body ends: that of an answer, read, and that of a request, written (RFC 9112 §6, §7). Pure.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{FIELDS_MAX, Http1Error, head};
use crate::proxy::headers::is_spoofed;

/// The longest line before a chunk, in bytes: its size, and extensions that nobody reads.
const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// The longest trailer section, in bytes; it is looked at anew with each part that comes.
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Reads a body.
#[derive(Debug)]
pub enum Decoder {
    /// This many bytes more.
    Length(u64),
    Chunked(Chunk),
    /// Until the connection ends (RFC 9112 §6.3, item 8).
    UntilClose,
}

/// Where in a chunked body the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    Size,
    /// Within one, with this many bytes to come.
    Data(u64),
    /// Behind one's data.
    Crlf,
    Trailers,
    End,
}

/// What the next bytes of a body were.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body ended where it should.
    End,
    /// More bytes are needed.
    More,
}

impl Decoder {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size)
    }

    /// Whether nothing more belongs to the body, as far as is known already.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// How long the rest is, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(rest) => Some(*rest),
            Self::Chunked(Chunk::End) => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// What the end of the connection means.
    pub(super) fn closed(&self) -> Result<(), Http1Error> {
        if self.is_done() || matches!(self, Self::UntilClose) { Ok(()) } else { Err(Http1Error::Cut) }
    }

    /// Takes the next part of the body out of `buffer`.
    ///
    /// # Errors
    /// [`Http1Error::Malformed`]: the chunks are not as they should be, or exceed a limit.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Http1Error> {
        match self {
            Self::Length(0) => Ok(Decoded::End),
            Self::Length(rest) => Ok(take(buffer, rest)),
            Self::UntilClose if buffer.is_empty() => Ok(Decoded::More),
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunk) => chunk.decode(buffer),
        }
    }
}

/// At most `rest` bytes of `buffer`, by which `rest` becomes less.
fn take(buffer: &mut BytesMut, rest: &mut u64) -> Decoded {
    let length = usize::try_from(*rest).unwrap_or(usize::MAX).min(buffer.len());
    if length == 0 {
        return Decoded::More;
    }
    *rest -= length as u64;
    Decoded::Data(buffer.split_to(length).freeze())
}

impl Chunk {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Http1Error> {
        loop {
            match self {
                Self::Size => {
                    let Some((size, length)) = chunk_size(buffer)? else { return Ok(Decoded::More) };
                    buffer.advance(length);
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(0) => *self = Self::Crlf,
                Self::Data(rest) => return Ok(take(buffer, rest)),
                Self::Crlf => match buffer.get(..2) {
                    None if buffer.first().is_none_or(|&first| first == b'\r') => return Ok(Decoded::More),
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    _ => return Err(Http1Error::Malformed("a chunk is longer than it says")),
                },
                Self::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(Decoded::More) };
                    *self = Self::End;
                    if !trailers.is_empty() {
                        return Ok(Decoded::Trailers(trailers));
                    }
                }
                Self::End => return Ok(Decoded::End),
            }
        }
    }
}

/// The size of the chunk whose line begins `buffer`, and how long the line is (RFC 9112 §7.1); `None` when it is not whole.
fn chunk_size(buffer: &[u8]) -> Result<Option<(u64, usize)>, Http1Error> {
    let malformed = Http1Error::Malformed("an invalid chunk size");
    let digits = buffer.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Sixteen digits are all that a length can have; more, be they zeros, nobody sends.
    if digits > 16 || (digits == 0 && !buffer.is_empty()) {
        return Err(malformed);
    }
    let Some(end) = buffer.iter().take(CHUNK_LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
        return if buffer.len() < CHUNK_LINE_BYTES_MAX { Ok(None) } else { Err(malformed) };
    };
    let line = buffer[..end].strip_suffix(b"\r");
    let extension = line.map(|line| line[digits..].trim_ascii_start());
    // Only an extension may follow, and a lone CR within it would end the line for others.
    if !extension.is_some_and(|rest| (rest.is_empty() || rest[0] == b';') && !rest.contains(&b'\r')) {
        return Err(malformed);
    }
    let size = buffer[..digits]
        .iter()
        .fold(0, |size, &digit| size << 4 | u64::from(char::from(digit).to_digit(16).unwrap_or_default()));
    Ok(Some((size, end + 1)))
}

/// Takes the trailer section out of `buffer` (RFC 9112 §7.1.2); `None` when it is not whole.
fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Http1Error> {
    let malformed = Http1Error::Malformed("invalid trailers");
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (length, fields) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(found)) => found,
        Ok(httparse::Status::Partial) if buffer.len() < TRAILER_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(malformed),
    };
    let mut trailers = HeaderMap::new();
    for field in fields {
        let parsed = (HeaderName::from_bytes(field.name.as_bytes()), HeaderValue::from_bytes(field.value));
        let (Ok(name), Ok(value)) = parsed else { return Err(malformed) };
        if may_trail(&name) {
            trailers.append(name, value);
        }
    }
    buffer.advance(length);
    Ok(Some(trailers))
}

/// Whether a field means nothing else when it comes after the body (RFC 9110 §6.5.1).
fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::AUTHORIZATION
            | header::CACHE_CONTROL
            | header::CONNECTION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::EXPECT
            | header::HOST
            | header::MAX_FORWARDS
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::SET_COOKIE
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    )
}

/// Writes a body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoder {
    /// This many bytes more.
    Length(u64),
    Chunked,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::Length(0)
    }
}

/// What surrounds the data of one frame.
#[derive(Debug, Default)]
pub(super) struct Around {
    pub(super) before: Bytes,
    pub(super) behind: &'static [u8],
}

impl Encoder {
    /// As the fields of the request's head say.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        Self::Length(length.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// What goes around `length` bytes of data; `None` when there are more than the head has promised.
    pub(super) fn data(&mut self, length: usize) -> Option<Around> {
        match self {
            Self::Length(rest) => {
                *rest = rest.checked_sub(length as u64)?;
                Some(Around::default())
            }
            // An empty chunk would be the last one.
            Self::Chunked if length == 0 => Some(Around::default()),
            Self::Chunked => Some(Around { before: format!("{length:x}\r\n").into(), behind: b"\r\n" }),
        }
    }

    /// What ends the body, with `trailers` where they can be sent; `None` when it is shorter than the head has promised.
    pub(super) fn end(&self, trailers: Option<&HeaderMap>) -> Option<Bytes> {
        match self {
            Self::Length(0) => Some(Bytes::new()),
            Self::Length(_) => None,
            Self::Chunked => {
                let mut end = b"0\r\n".to_vec();
                // Servers that join them with the head's fields are told nothing there that clients may not say.
                let may_pass = |name: &HeaderName| may_trail(name) && !is_spoofed(name.as_str());
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| may_pass(name)) {
                    head::field(&mut end, name, value);
                }
                end.extend_from_slice(b"\r\n");
                Some(end.into())
            }
        }
    }
}
