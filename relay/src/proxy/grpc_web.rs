//! gRPC-Web: what browsers can send of gRPC becomes gRPC for the backend, and its trailers become a last frame of the
//! body (grpc/grpc, `PROTOCOL-WEB.md`).
//!
//! Streamed: each part is passed on as it comes. Whether a browser may ask from elsewhere is the CORS filter's matter.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};

use super::body::{BodyError, ClientBody, ResponseBody};

/// The flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// The form in which a client speaks gRPC-Web.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Binary,
    /// In base64, each part by itself.
    Text,
}

impl Form {
    /// Makes the head of a request in gRPC-Web one of gRPC; of others, nothing.
    pub(super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
        let rest = kind.strip_prefix("application/grpc-web")?;
        let (form, rest) = rest.strip_prefix("-text").map_or((Self::Binary, rest), |rest| (Self::Text, rest));
        if !(rest.is_empty() || rest.starts_with('+') || rest.starts_with(';')) {
            return None;
        }
        let kind = HeaderValue::from_str(&format!("application/grpc{rest}")).ok()?;
        headers.insert(header::CONTENT_TYPE, kind);
        if form == Self::Text {
            headers.remove(header::CONTENT_LENGTH);
        }
        Some(form)
    }

    /// The body of the request, in the bytes of gRPC.
    pub(super) fn upload(self, body: ClientBody) -> ClientBody {
        match self {
            Self::Text if !body.is_end_stream() => {
                ClientBody::Other(Decoded { inner: body, rest: Vec::new() }.boxed_unsync())
            }
            Self::Binary | Self::Text => body,
        }
    }

    /// Makes the backend's answer one of gRPC-Web, if it is gRPC at all. One without a body says its status in the head,
    /// which stays.
    pub(super) fn answer(self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let Some(rest) = kind.and_then(|kind| kind.strip_prefix("application/grpc")) else { return response };
        let name = if self == Self::Text { "application/grpc-web-text" } else { "application/grpc-web" };
        let Ok(kind) = HeaderValue::from_str(&format!("{name}{rest}")) else { return response };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRAILER);
        response.map(|inner| ResponseBody::other(Framed { inner, form: self, ended: false }))
    }

    fn write(self, data: Bytes) -> Frame<Bytes> {
        Frame::data(match self {
            Self::Binary => data,
            Self::Text => BASE64_STANDARD.encode(data).into(),
        })
    }
}

/// A request's body out of base64; less than four characters wait for the rest of their group.
#[derive(Debug)]
struct Decoded {
    inner: ClientBody,
    rest: Vec<u8>,
}

impl Decoded {
    /// The bytes of every whole group. Padding may stand at the end of any part.
    fn decode(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        let mut text = mem::take(&mut self.rest);
        text.extend_from_slice(data);
        self.rest = text.split_off(text.len() / 4 * 4);
        let mut plain = Vec::with_capacity(text.len() / 4 * 3);
        for part in text.chunks_exact(4) {
            BASE64_STANDARD.decode_vec(part, &mut plain).ok()?;
        }
        Some(plain)
    }
}

impl Body for Decoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let odd = || Poll::Ready(Some(Err(BodyError::Lost("its base64 cannot be read".to_owned()))));
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) if !self.rest.is_empty() => return odd(),
                other => return other,
            };
            // A request has no trailers in gRPC.
            let Ok(data) = frame.into_data() else { continue };
            match self.decode(&data) {
                None => return odd(),
                Some(plain) if plain.is_empty() => {}
                Some(plain) => return Poll::Ready(Some(Ok(Frame::data(plain.into())))),
            }
        }
    }
}

/// A response's body with its trailers in a frame of their own.
#[derive(Debug)]
struct Framed {
    inner: ResponseBody,
    form: Form,
    ended: bool,
}

impl Body for Framed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let form = self.form;
        Pin::new(&mut self.inner).poll_frame(cx).map(|frame| {
            let frame = match frame {
                None => {
                    self.ended = true;
                    return None;
                }
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(frame)) => frame,
            };
            Some(Ok(match frame.into_data() {
                Ok(data) => form.write(data),
                Err(frame) => {
                    self.ended = true;
                    form.write(trailers(&frame.into_trailers().unwrap_or_default()))
                }
            }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// The trailers as a frame: its flag, its length in four bytes, a line for each field.
fn trailers(fields: &HeaderMap) -> Bytes {
    let mut text = Vec::new();
    for (name, value) in fields {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    // The listeners let far less than 4 GiB of trailers through.
    let length = u32::try_from(text.len()).unwrap_or_default();
    [&[TRAILERS][..], &length.to_be_bytes(), &text].concat().into()
}
