//! An answer on its way out: in pieces that the client must take in time, and never whole unless it is.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc2822};
use tokio::time::timeout;
use underpass_shared::quic::http3::{Code, ServerSend, StreamError};

use crate::{
    clock,
    listener::watch::WRITE,
    proxy::body::{BodyError, ResponseBody},
};

/// What is written at once, in bytes; a client must take each such piece within [`WRITE`].
const PIECE_BYTES: usize = 16 * 1024;

/// Why an answer was not sent whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsent {
    #[error("the client took nothing for {} seconds", WRITE.as_secs())]
    Slow,
    #[error("the client's stream: {0}")]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the client broke its body off")]
    Broken,
    #[error("the request is malformed: {0}")]
    Malformed(String),
}

/// The sending half of a request's stream; dropped before its end, it is reset: quinn alone would end it as if whole.
pub(super) struct Answer {
    stream: ServerSend,
    ended: bool,
}

impl Answer {
    pub(super) fn new(stream: ServerSend) -> Self {
        Self { stream, ended: false }
    }

    /// Resets the stream of a malformed request (RFC 9114 §4.1.2).
    pub(super) fn refuse(mut self, why: &dyn std::error::Error) -> Unsent {
        self.ended = true;
        self.stream.stop_stream(Code::H3_MESSAGE_ERROR);
        Unsent::Malformed(why.to_string())
    }

    /// Sends `response`, which answers a request of `method`, to its end.
    ///
    /// # Errors
    /// See [`Unsent`]; the stream is reset.
    pub(super) async fn send(mut self, response: Response<ResponseBody>, method: &Method) -> Result<(), Unsent> {
        let (mut parts, mut body) = response.into_parts();
        let bodiless = *method == Method::HEAD || is_bodiless(parts.status);
        if let Some(length) = body.size_hint().exact().filter(|_| !bodiless) {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
        }
        if !parts.headers.contains_key(header::DATE) {
            parts.headers.extend(date(clock::now()).map(|date| (header::DATE, date)));
        }
        self.head(parts.status, parts.headers).await?;
        if !bodiless {
            while let Some(frame) = body.frame().await {
                match frame?.into_data() {
                    Ok(data) => self.data(data).await?,
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => in_time(self.stream.send_trailers(trailers)).await?,
                        Err(_) => continue,
                    },
                }
            }
        }
        self.end().await
    }

    pub(super) async fn head(&mut self, status: StatusCode, headers: HeaderMap) -> Result<(), Unsent> {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        in_time(self.stream.send_response(head)).await
    }

    pub(super) async fn data(&mut self, mut data: Bytes) -> Result<(), Unsent> {
        while data.has_remaining() {
            let piece = data.split_to(data.len().min(PIECE_BYTES));
            in_time(self.stream.send_data(piece)).await?;
        }
        Ok(())
    }

    pub(super) async fn end(mut self) -> Result<(), Unsent> {
        in_time(self.stream.finish()).await?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            self.stream.stop_stream(Code::H3_INTERNAL_ERROR);
        }
    }
}

/// Answers that have no body, whatever their head says of its length (RFC 9110 §6.4.1).
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// As header fields have it (RFC 9110 §5.6.7). Over the other versions hyper adds it.
fn date(now: OffsetDateTime) -> Option<HeaderValue> {
    let text = now.to_offset(UtcOffset::UTC).format(&Rfc2822).ok()?;
    HeaderValue::from_str(&text.replace("+0000", "GMT")).ok()
}

async fn in_time(write: impl Future<Output = Result<(), StreamError>>) -> Result<(), Unsent> {
    match timeout(WRITE, write).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Unsent::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let then = OffsetDateTime::from_unix_timestamp(784_111_777).unwrap();
        assert_eq!(date(then).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
