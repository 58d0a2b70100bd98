//! The body of a request on its way in: read when it is asked for, held to the length that the head promised.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use underpass_shared::quic::http3::{Code, ServerReceive, StreamError};

use crate::proxy::body::{BodyError, ClientBody};

/// What a client did wrong with a body, for whoever answers the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<AtomicU8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is not as long as the head says: the request is malformed (RFC 9114 §4.1.2).
    Misfit = 1,
    /// It was broken off.
    Broken = 2,
}

impl Fault {
    pub(super) fn kind(&self) -> Option<Kind> {
        [Kind::Misfit, Kind::Broken].into_iter().find(|kind| *kind as u8 == self.0.load(Relaxed))
    }

    fn set(&self, kind: Kind) {
        self.0.store(kind as u8, Relaxed);
    }
}

/// What a client sends after the head, trailers too.
pub(super) struct Upload {
    stream: ServerReceive,
    state: State,
    /// What is still to come of the length that the head named.
    left: Option<u64>,
    fault: Fault,
}

enum State {
    Data,
    /// Read ahead, to learn whether it is the last.
    Ahead(Frame<Bytes>),
    Trailers,
    Done,
}

impl Upload {
    pub(super) fn new(stream: ServerReceive, length: Option<u64>, fault: Fault) -> Self {
        Self { stream, state: State::Data, left: length, fault }
    }

    /// As the proxy takes it. What has come already is looked at, so that a request without body is known as one.
    pub(super) async fn into_body(mut self) -> Result<ClientBody, BodyError> {
        std::future::poll_fn(|cx| Poll::Ready(self.look_ahead(cx))).await?;
        match self.state {
            State::Done => Ok(ClientBody::Empty),
            State::Data | State::Ahead(_) | State::Trailers => {
                Ok(ClientBody::Other(http_body_util::combinators::UnsyncBoxBody::new(self)))
            }
        }
    }

    /// Reads the next frame if it is there, without waiting for it.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        match self.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => self.state = State::Ahead(frame),
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if matches!(self.state, State::Data) {
            if let Some(mut data) = ready!(self.stream.poll_recv_data(cx)).map_err(|error| self.lose(&error))? {
                // The library hands out `Bytes`: this copies nothing.
                let data = data.copy_to_bytes(data.remaining());
                self.count(data.len() as u64)?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.left.is_some_and(|left| left > 0) {
                return Poll::Ready(Some(Err(self.refuse())));
            }
            self.state = State::Trailers;
        }
        if matches!(self.state, State::Trailers) {
            let trailers: Option<HeaderMap> =
                ready!(self.stream.poll_recv_trailers(cx)).map_err(|error| self.lose(&error))?;
            self.state = State::Done;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn count(&mut self, bytes: u64) -> Result<(), BodyError> {
        match &mut self.left {
            None => Ok(()),
            Some(left) if bytes <= *left => {
                *left -= bytes;
                Ok(())
            }
            Some(_) => Err(self.refuse()),
        }
    }

    fn lose(&mut self, error: &StreamError) -> BodyError {
        self.fault.set(Kind::Broken);
        self.state = State::Done;
        BodyError::Lost(error.to_string())
    }

    fn refuse(&mut self) -> BodyError {
        self.fault.set(Kind::Misfit);
        self.state = State::Done;
        self.stream.stop_sending(Code::H3_MESSAGE_ERROR);
        BodyError::Length
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match std::mem::replace(&mut self.state, State::Data) {
            State::Ahead(frame) => {
                if frame.is_trailers() {
                    self.state = State::Done;
                }
                frame
            }
            state => {
                self.state = state;
                match ready!(self.poll(cx)) {
                    Some(Ok(frame)) => frame,
                    other => return Poll::Ready(other),
                }
            }
        };
        // Whoever forwards a body of known length does not ask again after its last byte.
        if self.left == Some(0) && matches!(self.state, State::Data) {
            self.look_ahead(cx)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = match &self.state {
            State::Ahead(frame) => frame.data_ref().map_or(0, |data| data.len() as u64),
            State::Data | State::Trailers | State::Done => 0,
        };
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + ahead))
    }
}
