//! A connection to a backend, and the one exchange on it.

use std::{
    future::poll_fn,
    io::IoSlice,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Method, Response, StatusCode, request::Parts};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::{
    super::{
        body::{BodyError, RequestBody},
        dial::Transport,
    },
    HEAD_BYTES_MAX, Http1Error, INTERIM_MAX,
    framing::{Decoded, Decoder, Encoder},
    head,
};

/// How much is read of a short answer, or a slow one, at once, in bytes: most heads fit, with a short body behind.
const READ_BYTES_MIN: usize = 4 * 1024;

/// How much room a fast backend gets for one read, in bytes; as much is held of an answer that its client does not take.
const READ_BYTES_MAX: usize = 128 * 1024;

/// A connection between two exchanges.
#[derive(Debug)]
pub struct Connection(Box<InUse>);

/// A request but for its body.
#[derive(Debug, Clone)]
pub struct Outline {
    head: Bytes,
    method: Method,
    framing: Encoder,
}

impl Outline {
    /// Of a head for HTTP/1.1, whose fields say how the body is framed.
    #[must_use]
    pub fn new(parts: &Parts) -> Self {
        Self { head: head::request(parts), method: parts.method.clone(), framing: Encoder::of(&parts.headers) }
    }
}

impl Connection {
    #[must_use]
    pub fn new(io: Transport) -> Self {
        Self(Box::new(InUse {
            io,
            read: BytesMut::new(),
            room: 0,
            outgoing: Outgoing::default(),
            broken: None,
            interim: 0,
            without_line: 0,
        }))
    }

    /// Whether another request can be sent: it is open, and nothing came that nobody asked for.
    ///
    /// What the reactor has not seen yet is not known.
    pub fn is_open(&mut self) -> bool {
        let (mut byte, cx) = ([0], &mut Context::from_waker(Waker::noop()));
        Pin::new(&mut self.0.io).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends a request, and waits for the head of the answer.
    ///
    /// Interim answers but 101 are skipped. The body goes on being sent while that of the answer is read.
    ///
    /// # Errors
    /// [`Http1Error`]; the connection is closed.
    pub async fn send(self, outline: &Outline, body: RequestBody) -> Result<Response<Incoming>, Http1Error> {
        let Self(mut exchange) = self;
        exchange.room = READ_BYTES_MIN;
        exchange.outgoing =
            Outgoing { head: outline.head.clone(), body, framing: outline.framing, ..Outgoing::default() };
        let head = poll_fn(|cx| exchange.poll_head(cx, &outline.method)).await?;
        let persists = head.persists && head.status != StatusCode::SWITCHING_PROTOCOLS;
        let mut response = Response::new(Incoming { decoder: head.body, persists, exchange: Some(exchange) });
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

/// A connection in use.
#[derive(Debug)]
struct InUse {
    io: Transport,
    read: BytesMut,
    /// How much room the next read gets.
    room: usize,
    outgoing: Outgoing,
    /// Why the request cannot be sent in full.
    broken: Option<Http1Error>,
    /// Interim answers so far.
    interim: usize,
    /// How much of `read` has no end of a line, so that a head which comes in small parts is not parsed for each.
    without_line: usize,
}

impl InUse {
    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<head::Head, Http1Error>> {
        loop {
            self.go_on(cx);
            if let Some(head) = self.head(method)? {
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > INTERIM_MAX {
                    return Poll::Ready(Err(Http1Error::Malformed("too many interim answers")));
                }
                continue;
            }
            let read = match self.poll_read(cx) {
                // A backend that refuses a body may answer before it closes; one that says nothing is asked no more.
                Poll::Pending => match self.broken.take_if(|broken| matches!(broken, Http1Error::Upload(_))) {
                    Some(broken) => return Poll::Ready(Err(broken)),
                    None => return Poll::Pending,
                },
                Poll::Ready(read) => read,
            };
            match read {
                Ok(0) if self.read.is_empty() => {
                    return Poll::Ready(Err(self.broken.take().unwrap_or(Http1Error::Closed)));
                }
                Ok(0) => return Poll::Ready(Err(Http1Error::Cut)),
                Ok(_) => {}
                Err(error) if self.read.is_empty() => return Poll::Ready(Err(self.broken.take().unwrap_or(error))),
                Err(_) => return Poll::Ready(Err(Http1Error::Cut)),
            }
        }
    }

    /// The head of an answer, when all of it was read.
    fn head(&mut self, method: &Method) -> Result<Option<head::Head>, Http1Error> {
        if self.read.is_empty() {
            return Ok(None);
        }
        // What came first shows what it is; then only lines are waited for, of which there are at most as many as fields.
        let is_worth_it = self.without_line == 0
            || self.read[self.without_line..].contains(&b'\n')
            || self.read.len() >= HEAD_BYTES_MAX;
        let head = if is_worth_it { head::answer(&mut self.read, method)? } else { None };
        self.without_line = if head.is_some() { 0 } else { self.read.len() };
        Ok(head)
    }

    /// Holds nothing while it rests.
    fn rested(mut self: Box<Self>) -> Connection {
        self.read = BytesMut::new();
        self.outgoing = Outgoing::default();
        (self.interim, self.without_line) = (0, 0);
        Connection(self)
    }

    /// Sends what can be sent of the request.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        if self.broken.is_none()
            && !self.outgoing.is_done
            && let Poll::Ready(Err(error)) = self.outgoing.poll(&mut self.io, cx)
        {
            self.broken = Some(error);
        }
    }

    /// Reads more, up to as much as a backend may be ahead.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Http1Error>> {
        let (room, count) = if self.room > READ_BYTES_MIN {
            if self.read.capacity() - self.read.len() < self.room / 4 {
                self.read.reserve(self.room);
            }
            let room = (self.read.capacity() - self.read.len()).min(self.room);
            let read = poll_read_buf(Pin::new(&mut self.io), cx, &mut (&mut self.read).limit(room));
            (room, ready!(read).map_err(Http1Error::Broken)?)
        } else {
            // By the stack: glibc keeps only pieces of up to a kilobyte at hand, and a short answer is quickly copied.
            let mut short = [MaybeUninit::uninit(); READ_BYTES_MIN];
            let mut short = ReadBuf::uninit(&mut short);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut short)).map_err(Http1Error::Broken)?;
            self.read.extend_from_slice(short.filled());
            (READ_BYTES_MIN, short.filled().len())
        };
        // Who fills the room is fast, and gets more.
        if count == room {
            self.room = (self.room * 4).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }
}

/// What is still to be sent of a request.
#[derive(Debug, Default)]
struct Outgoing {
    head: Bytes,
    before: Bytes,
    data: Bytes,
    behind: Bytes,
    body: RequestBody,
    framing: Encoder,
    /// Read already, to be sent after `behind`.
    next: Option<Bytes>,
    /// The body gave its last frame.
    is_read: bool,
    is_flushed: bool,
    is_done: bool,
}

impl Outgoing {
    /// Done when all has been sent.
    fn poll(&mut self, io: &mut Transport, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        loop {
            let is_waiting = self.poll_body(cx)?.is_pending();
            if self.has_some() {
                let count = ready!(self.poll_write(io, cx)).map_err(Http1Error::Broken)?;
                self.advance(count);
                self.is_flushed = false;
                continue;
            }
            if !self.is_flushed {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Http1Error::Broken)?;
                self.is_flushed = true;
            }
            if self.is_read {
                self.is_done = true;
                return Poll::Ready(Ok(()));
            }
            if is_waiting {
                return Poll::Pending;
            }
        }
    }

    /// Takes the body's next frame when the one before has been sent; pending when it has not come.
    ///
    /// It looks at the one behind it, too: what ends the body goes with its last data, and of a body that is known to be
    /// malformed nothing more is sent.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Http1Error> {
        if self.is_read || !(self.before.is_empty() && self.data.is_empty() && self.behind.is_empty()) {
            return Ok(Poll::Ready(()));
        }
        let data = match self.next.take() {
            Some(data) => data,
            None => match self.poll_frame(cx)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(None) => return Ok(Poll::Ready(())),
                Poll::Ready(Some(data)) => data,
            },
        };
        let around = self.framing.data(data.len()).ok_or_else(|| upload(BodyError::Length))?;
        (self.before, self.data, self.behind) = (around.before, data, Bytes::from_static(around.behind));
        if let Poll::Ready(next) = self.poll_frame(cx)? {
            self.next = next;
        }
        Ok(Poll::Ready(()))
    }

    /// The next data of the body; none when it has ended, what ends it being put behind what is to be sent.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Bytes>>, Http1Error> {
        let mut trailers = None;
        if !self.body.is_end_stream() {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Ok(Poll::Pending) };
            match frame.transpose().map_err(upload)?.map(Frame::into_data) {
                None => {}
                Some(Ok(data)) => return Ok(Poll::Ready(Some(data))),
                Some(Err(other)) => trailers = other.into_trailers().ok(),
            }
        }
        let end = self.framing.end(trailers.as_ref()).ok_or_else(|| upload(BodyError::Length))?;
        self.behind = if self.behind.is_empty() { end } else { [&self.behind[..], &end].concat().into() };
        self.is_read = true;
        Ok(Poll::Ready(None))
    }

    fn has_some(&self) -> bool {
        !(self.head.is_empty() && self.before.is_empty() && self.data.is_empty() && self.behind.is_empty())
    }

    fn poll_write(&self, io: &mut Transport, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let pieces = [&self.head, &self.before, &self.data, &self.behind];
        let written = match pieces.iter().find(|piece| !piece.is_empty()) {
            Some(only) if pieces.iter().filter(|piece| !piece.is_empty()).count() == 1 || !io.is_write_vectored() => {
                ready!(Pin::new(io).poll_write(cx, only))?
            }
            _ => ready!(Pin::new(io).poll_write_vectored(cx, &pieces.map(|piece| IoSlice::new(piece))))?,
        };
        if written == 0 { Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())) } else { Poll::Ready(Ok(written)) }
    }

    fn advance(&mut self, mut count: usize) {
        for piece in [&mut self.head, &mut self.before, &mut self.data, &mut self.behind] {
            let of_piece = count.min(piece.len());
            piece.advance(of_piece);
            count -= of_piece;
        }
    }
}

fn upload(error: BodyError) -> Http1Error {
    Http1Error::Upload(Box::new(error))
}

/// The body of an answer, which goes on sending that of the request; dropped early, it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    decoder: Decoder,
    /// The backend leaves the connection open.
    persists: bool,
    /// Until it was taken for the next exchange, or for bytes of another protocol.
    exchange: Option<Box<InUse>>,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Http1Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        let Self { decoder, persists, exchange } = &mut *self;
        let Some(exchange) = exchange else { return Poll::Ready(None) };
        exchange.go_on(cx);
        // A backend that lacks a part of the request may not be believed to have answered it.
        if let Some(broken) = exchange.broken.take_if(|broken| matches!(broken, Http1Error::Upload(_))) {
            *persists = false;
            return Poll::Ready(Some(Err(broken)));
        }
        loop {
            match decoder.decode(&mut exchange.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(exchange.poll_read(cx)) {
                Ok(0) => {
                    *persists = false;
                    return Poll::Ready(decoder.closed().err().map(Err));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Incoming {
    /// The connection, for another request, when the answer has ended and left it in order. What the request had left to
    /// say is said first, if it is given the time.
    #[must_use]
    pub fn take(&mut self) -> Option<Taken> {
        let mut exchange = self.exchange.take_if(|_| self.persists && self.decoder.is_done())?;
        // More than the answer would be taken for the answer to the next request.
        if !exchange.read.is_empty() || exchange.broken.is_some() {
            return None;
        }
        exchange.go_on(&mut Context::from_waker(Waker::noop()));
        match exchange.outgoing.is_done {
            true => Some(Taken::Ready(exchange.rested())),
            false if exchange.broken.is_some() => None,
            false => Some(Taken::Sending(Sending(exchange))),
        }
    }

    /// What carries another protocol, after 101 (RFC 9110 §15.2.2), and the bytes of it that were read already.
    #[must_use]
    pub fn into_switched(mut self) -> Option<(Transport, Bytes)> {
        let exchange = self.exchange.take()?;
        Some((exchange.io, exchange.read.freeze()))
    }
}

/// A connection whose answer has ended.
#[derive(Debug)]
pub enum Taken {
    Ready(Connection),
    Sending(Sending),
}

/// A connection whose backend answered before it had the whole request.
#[derive(Debug)]
pub struct Sending(Box<InUse>);

impl Sending {
    /// Sends the rest; `None` when the connection did not survive that.
    pub async fn finish(mut self) -> Option<Connection> {
        let InUse { io, outgoing, .. } = &mut *self.0;
        poll_fn(|cx| outgoing.poll(io, cx)).await.ok()?;
        Some(self.0.rested())
    }
}
