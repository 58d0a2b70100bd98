//! Heads: of requests, written, and of answers, read. Pure.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};

use super::{FIELDS_MAX, HEAD_BYTES_MAX, Http1Error, framing::Decoder};

/// The head of an answer, and what its body is made of.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Where the body ends.
    pub body: Decoder,
    /// Whether the connection may carry another request after it (RFC 9112 §9.3).
    pub persists: bool,
}

/// The head of a request as bytes (RFC 9112 §3, §5). How the body is framed is what its fields say.
pub(super) fn request(parts: &Parts) -> Bytes {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut head = Vec::with_capacity(parts.method.as_str().len() + target.len() + fields + 14);
    head.extend_from_slice(parts.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        field(&mut head, name, value);
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

/// Appends a field line; neither part can hold a line's end.
pub(super) fn field(to: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    to.extend_from_slice(name.as_str().as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value.as_bytes());
    to.extend_from_slice(b"\r\n");
}

/// Takes the head of an answer to a request with `method` out of `buffer`; `None` when it is not whole yet.
///
/// # Errors
/// [`Http1Error::Malformed`]: it is not the head of an answer, has no clear length, or exceeds a limit.
pub fn answer(buffer: &mut BytesMut, method: &Method) -> Result<Option<Head>, Http1Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Http1Error::Malformed("its head is too long")),
        Err(error) => return Err(Http1Error::Malformed(reason(error))),
    };
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Http1Error::Malformed("invalid status"))?;
    let start = buffer.as_ptr() as usize;
    let place = |part: &[u8]| (part.as_ptr() as usize - start, part.len());
    let mut places = [((0, 0), (0, 0)); FIELDS_MAX];
    let count = parsed.headers.len();
    for (to, field) in places.iter_mut().zip(parsed.headers.iter()) {
        *to = (place(field.name.as_bytes()), place(field.value));
    }
    let head = buffer.split_to(length).freeze();
    let headers = fields_of(&head, &places[..count])?;
    let persists = persists(version, &headers);
    let body = framing(method, status, version, &headers)?;
    Ok(Some(Head { status, headers, body, persists }))
}

type Place = (usize, usize);

/// The fields at these places of `head`, which their values keep.
fn fields_of(head: &Bytes, places: &[(Place, Place)]) -> Result<HeaderMap, Http1Error> {
    let mut headers = HeaderMap::with_capacity(places.len());
    for &((name, name_length), (value, value_length)) in places {
        let name = HeaderName::from_bytes(&head[name..name + name_length]);
        let value = HeaderValue::from_maybe_shared(head.slice(value..value + value_length));
        match (name, value) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => return Err(Http1Error::Malformed("invalid field")),
        };
    }
    Ok(headers)
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::TooManyHeaders => "it has too many fields",
        httparse::Error::Status => "invalid status",
        httparse::Error::Version => "invalid version",
        httparse::Error::HeaderName | httparse::Error::HeaderValue => "invalid field",
        httparse::Error::NewLine | httparse::Error::Token => "invalid status line",
    }
}

/// Whether the connection outlives the answer (RFC 9112 §9.3).
fn persists(version: Version, headers: &HeaderMap) -> bool {
    let says =
        |token| headers.get_all(header::CONNECTION).iter().any(|value| super::super::headers::has_token(value, token));
    if version == Version::HTTP_11 { !says("close") } else { says("keep-alive") && !says("close") }
}

/// Where the body ends (RFC 9112 §6.3). Anything that two readers could take differently is refused.
fn framing(method: &Method, status: StatusCode, version: Version, headers: &HeaderMap) -> Result<Decoder, Http1Error> {
    let length = content_length(headers)?;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok(Decoder::Length(0));
    }
    match (coding, length) {
        (Some(_), _) if version == Version::HTTP_10 => Err(Http1Error::Malformed("a transfer coding in HTTP/1.0")),
        (Some(coding), _) => {
            let is_chunked =
                coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            let unknown = Http1Error::Malformed("a transfer coding other than chunked");
            if is_chunked { Ok(Decoder::chunked()) } else { Err(unknown) }
        }
        (None, Some(length)) => Ok(Decoder::Length(length)),
        (None, None) => Ok(Decoder::UntilClose),
    }
}

/// The one length that all `Content-Length` fields say (RFC 9112 §6.3, item 5).
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Http1Error> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for member in value.as_bytes().split(|&byte| byte == b',') {
            let digits = member.trim_ascii();
            let length = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length: u64 =
                length.and_then(|text| text.parse().ok()).ok_or(Http1Error::Malformed("an invalid content-length"))?;
            if found.is_some_and(|found| found != length) {
                return Err(Http1Error::Malformed("two lengths"));
            }
            found = Some(length);
        }
    }
    Ok(found)
}
