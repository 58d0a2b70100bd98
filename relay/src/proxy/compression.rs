//! Responses packed for the client, where a filter asks for it and the client takes it (RFC 9110 §8.4, §12.5.3).
//!
//! Streaming: what the backend has sent so far goes out whenever it pauses, so that nobody waits for bytes that are
//! here. Little is held: the encoder's window, and less than [`TURN_BYTES_MAX`] of input with what it became.

use std::{
    fmt, io,
    io::Write as _,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::body::{Body, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    body::{BodyError, ResponseBody},
    headers::has_token,
};
use crate::route::{
    filter::{Algorithm, Compression, Filters},
    target::Rule,
};

/// The most responses that one worker packs at a time; what comes beyond them goes out as it is, which every client
/// takes. Each costs up to [`BROTLI_WINDOW_BITS`]' and [`ZSTD_WINDOW_BITS`]' worth of memory, about a MiB.
pub(super) const PACKED_MAX: usize = 256;

/// How much input is taken in before packed bytes are passed on, so that other requests get their turn.
const TURN_BYTES_MAX: usize = 128 * 1024;

/// Packed bytes that are worth a frame of their own.
const FRAME_BYTES: usize = 16 * 1024;

/// Beyond level 5 the processor pays more than the network gains.
const GZIP_LEVEL: u32 = 5;

/// The quality for content that is made at the moment: below 5 the encoder is several times faster.
const BROTLI_QUALITY: u32 = 4;
/// 256 KiB, of 16 MiB that the format allows: what a page repeats stands closer together.
const BROTLI_WINDOW_BITS: u32 = 18;
/// The encoder's own buffer for output, in bytes.
const BROTLI_BUFFER: usize = 4096;

const ZSTD_LEVEL: i32 = 3;
/// As of Brotli; the format lets no more than 8 MiB through (RFC 9659).
const ZSTD_WINDOW_BITS: u32 = 18;

/// What the client said that decides about packing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asks {
    gzip: bool,
    brotli: bool,
    zstd: bool,
    /// Whether the answer has a body of its own: not to HEAD, and not a tunnel to CONNECT.
    body: bool,
}

impl Asks {
    /// Nothing is looked at where nothing packs.
    pub(super) fn of(rule: &Rule, parts: &Parts) -> Self {
        let packs = |filters: &Filters| filters.compression.is_some();
        if !packs(&rule.filters) && !rule.backends.iter().any(|backend| packs(&backend.filters)) {
            return Self::default();
        }
        let body = !matches!(parts.method, Method::HEAD | Method::CONNECT);
        let takes = |names: &[&str]| takes(&parts.headers, names);
        Self { gzip: takes(&["gzip", "x-gzip"]), brotli: takes(&["br"]), zstd: takes(&["zstd"]), body }
    }

    fn takes(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Gzip => self.gzip,
            Algorithm::Brotli => self.brotli,
            Algorithm::Zstd => self.zstd,
        }
    }
}

/// Whether `Accept-Encoding` gives the coding a weight above zero, by a name or, without one, by `*`. No field at all
/// would allow anything; but who is silent usually decodes nothing.
fn takes(headers: &HeaderMap, names: &[&str]) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let (mut by_name, mut by_star) = (None, false);
    for member in values.flat_map(|value| value.split(',')) {
        let mut parts = member.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let is_taken = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0));
        if names.iter().any(|one| name.eq_ignore_ascii_case(one)) {
            by_name = Some(by_name.unwrap_or(false) || is_taken);
        } else if name == "*" {
            by_star = is_taken;
        }
    }
    by_name.unwrap_or(by_star)
}

/// Packs `response`, when the nearest of `filters` that speaks of it says so, and the answer and the client allow it.
pub(super) fn pack(
    filters: &[&Filters],
    asks: Asks,
    slots: &Arc<Semaphore>,
    mut response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    let Some(compression) = filters.iter().find_map(|filters| filters.compression.as_ref()) else { return response };
    if compression.algorithms.is_empty() || !is_worth_it(compression, asks, &response) {
        return response;
    }
    // Caches must know it of the answers that stay as they are, too.
    vary(response.headers_mut());
    let algorithm = compression.algorithms.iter().find(|algorithm| asks.takes(**algorithm));
    let Some(&algorithm) = algorithm else { return response };
    let Ok(slot) = slots.clone().try_acquire_owned() else { return response };
    let Ok(encoder) = Encoder::new(algorithm) else { return response };
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name(algorithm)));
    weaken(headers);
    response.map(|inner| ResponseBody::other(Packed { inner, encoder, waiting: 0, trailers: None, slot: Some(slot) }))
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Gzip => "gzip",
        Algorithm::Brotli => "br",
        Algorithm::Zstd => "zstd",
    }
}

fn is_worth_it(compression: &Compression, asks: Asks, response: &Response<ResponseBody>) -> bool {
    let (status, headers) = (response.status(), response.headers());
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    if !asks.body || status.is_informational() || status == StatusCode::PARTIAL_CONTENT || bodiless.contains(&status) {
        return false;
    }
    // Packed already, or signed as it is (RFC 9530).
    let settled = [header::CONTENT_ENCODING.as_str(), "content-range", "content-digest", "repr-digest", "digest"];
    if settled.iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    if headers.get_all(header::CACHE_CONTROL).iter().any(|value| has_token(value, "no-transform")) {
        return false;
    }
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let length = said.or_else(|| response.body().size_hint().exact());
    if length.is_some_and(|length| length == 0 || length < compression.least_bytes) {
        return false;
    }
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    compression.content_types.iter().any(|listed| media.eq_ignore_ascii_case(listed))
}

fn vary(headers: &mut HeaderMap) {
    let knows = |value: &HeaderValue| has_token(value, "accept-encoding") || has_token(value, "*");
    if !headers.get_all(header::VARY).iter().any(knows) {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// The packed bytes are others than those that a strong validator stands for (RFC 9110 §8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) => drop(headers.insert(header::ETAG, weak)),
        Err(_) => drop(headers.remove(header::ETAG)),
    }
}

/// A body that is packed while it passes.
struct Packed {
    inner: ResponseBody,
    encoder: Encoder,
    /// Bytes that the encoder may still hold.
    waiting: usize,
    /// They come after what the encoder held.
    trailers: Option<Frame<Bytes>>,
    /// Goes back with the end of the body; the encoder is finished then.
    slot: Option<OwnedSemaphorePermit>,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("inner", &self.inner).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Packed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.slot.is_none() {
            return Poll::Ready(self.trailers.take().map(Ok));
        }
        loop {
            let data = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Pending if self.waiting == 0 => return Poll::Pending,
                // The backend pauses: what came so far is for the client.
                Poll::Pending => return Poll::Ready(Some(self.flush())),
                Poll::Ready(None) => return Poll::Ready(Some(self.finish())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        return Poll::Ready(Some(self.finish()));
                    }
                },
            };
            if let Err(error) = self.encoder.write(&data) {
                return Poll::Ready(Some(Err(error.into())));
            }
            self.waiting += data.len();
            if self.waiting >= TURN_BYTES_MAX {
                return Poll::Ready(Some(self.flush()));
            }
            if self.encoder.output().len() >= FRAME_BYTES {
                return Poll::Ready(Some(Ok(self.frame())));
            }
        }
    }

    fn flush(&mut self) -> Result<Frame<Bytes>, BodyError> {
        self.encoder.flush()?;
        self.waiting = 0;
        Ok(self.frame())
    }

    fn finish(&mut self) -> Result<Frame<Bytes>, BodyError> {
        self.encoder.finish()?;
        self.slot = None;
        Ok(self.frame())
    }

    fn frame(&mut self) -> Frame<Bytes> {
        Frame::data(mem::take(self.encoder.output()).into())
    }
}

impl Body for Packed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.slot.is_none() && self.trailers.is_none()
    }
}

/// What packs; the output is gathered in the vector that it writes to.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Done(Vec<u8>),
}

impl Encoder {
    fn new(algorithm: Algorithm) -> io::Result<Self> {
        Ok(match algorithm {
            Algorithm::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Algorithm::Brotli => Self::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                BROTLI_WINDOW_BITS,
            ))),
            Algorithm::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_BITS)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(data),
            Self::Brotli(encoder) => encoder.write_all(data),
            Self::Zstd(encoder) => encoder.write_all(data),
            Self::Done(_) => Ok(()),
        }
    }

    /// Everything written so far can be read from the output.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
            Self::Done(_) => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        let output = match mem::replace(self, Self::Done(Vec::new())) {
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Done(output) => output,
        };
        *self = Self::Done(output);
        Ok(())
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Done(output) => output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_coding_is_taken_by_its_name_else_by_the_star_and_never_with_weight_zero() {
        for (field, gzip, brotli) in [
            ("gzip", true, false),
            ("X-GZIP;q=0.001, br ; q=0", true, false),
            ("gzip;q=0, *", false, true),
            ("*;q=0.0", false, false),
            ("*", true, true),
            ("deflate, br;level=1;Q=0.5", false, true),
            ("gzip;q=x", false, false),
            ("identity", false, false),
            ("", false, false),
        ] {
            let headers = headers(&[("accept-encoding", field)]);
            assert_eq!((takes(&headers, &["gzip", "x-gzip"]), takes(&headers, &["br"])), (gzip, brotli), "{field}");
        }
        assert!(!takes(&HeaderMap::new(), &["gzip"]));
    }

    #[test]
    fn a_strong_validator_becomes_weak_and_vary_is_said_once() {
        let mut changed = headers(&[("etag", "\"a\""), ("vary", "Origin, Accept-Encoding")]);
        weaken(&mut changed);
        weaken(&mut changed);
        vary(&mut changed);
        assert_eq!(changed, headers(&[("etag", "W/\"a\""), ("vary", "Origin, Accept-Encoding")]));
        let mut changed = headers(&[("vary", "origin")]);
        vary(&mut changed);
        assert_eq!(changed.get_all(header::VARY).iter().count(), 2);
    }

    fn worth(status: u16, fields: &[(&'static str, &'static str)], body: &'static str) -> bool {
        let compression =
            Compression { algorithms: vec![Algorithm::Gzip], least_bytes: 4, content_types: vec!["text/plain".into()] };
        let asks = Asks { gzip: true, body: true, ..Asks::default() };
        let mut response = Response::new(ResponseBody::text(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("Text/Plain; charset=utf-8"));
        response.headers_mut().extend(headers(fields));
        is_worth_it(&compression, asks, &response)
    }

    #[test]
    fn only_whole_unpacked_text_of_some_length_is_packed() {
        assert!(worth(200, &[], "abcd") && worth(404, &[("cache-control", "no-store")], "abcd"));
        assert!(!worth(200, &[], "abc"), "too short");
        assert!(!worth(200, &[("content-length", "3")], "abcd"), "the head counts first");
        assert!(!worth(200, &[], ""));
        for status in [101, 204, 205, 206, 304] {
            assert!(!worth(status, &[], "abcd"), "{status}");
        }
        for field in [
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-3/9"),
            ("content-digest", "sha-256=:x:"),
            ("cache-control", "max-age=1, No-Transform"),
            ("content-type", "image/png"),
        ] {
            assert!(!worth(200, &[field], "abcd"), "{field:?}");
        }
    }
}
