//! quinn as the HTTP/3 library sees it: its `quic` traits, with the frame guard before every stream it reads.
//!
//! Neutral where it can be: a send half that is dropped is finished, as quinn does, so whoever writes a body must call
//! `stop_stream` when it cannot end it. Streams that the peer opens go to the library or, on an agent, to the lane.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::VarInt;

use super::guard::{FrameError, FrameGuard};

/// The most bytes taken from quinn at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Why a stream is always there.
const TAKEN: &str = "halves whose stream was taken are dropped at once";

/// How many chunks of frames that nobody wants are thrown away before other tasks have their turn.
const CHUNKS_PER_POLL: usize = 32;

type Slot<T> = Option<Pin<Box<dyn Future<Output = Result<T, quinn::ConnectionError>> + Send>>>;
type Streams = (quinn::SendStream, quinn::RecvStream);

/// Who gets the bidirectional streams that the peer opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerBidi {
    /// The library: they are requests. For a server.
    Http3,
    /// Whoever calls `quinn::Connection::accept_bi`: they are flows of the stream lane. For a client.
    Foreign,
}

/// Resolves when the peer has all of an answer, or wants no more of it.
///
/// The library itself notices the latter only when it writes.
pub type Delivery = Pin<Box<dyn Future<Output = Delivered> + Send>>;

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It was ended, or reset, and the peer has acknowledged all of it.
    Whole,
    /// The peer stopped it, or the connection is gone.
    Unwanted,
}

/// Where a server finds the [`Delivery`] of the request that it has just accepted.
#[derive(Clone, Default)]
pub struct Deliveries(Arc<Mutex<Option<Delivery>>>);

impl Deliveries {
    /// Of the newest request; once.
    #[must_use]
    pub fn take(&self) -> Option<Delivery> {
        self.slot().take()
    }

    fn put(&self, stream: &quinn::SendStream) {
        let stopped = stream.stopped();
        *self.slot() = Some(Box::pin(async move {
            match stopped.await {
                Ok(None) => Delivered::Whole,
                Ok(Some(_)) | Err(_) => Delivered::Unwanted,
            }
        }));
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection for the library.
pub struct Conn {
    connection: quinn::Connection,
    peer_bidi: PeerBidi,
    deliveries: Option<Deliveries>,
    opener: Opener,
    accepted_uni: Slot<quinn::RecvStream>,
    accepted_bidi: Slot<Streams>,
}

/// Opens streams on a connection.
pub struct Opener {
    connection: quinn::Connection,
    opened_uni: Slot<quinn::SendStream>,
    opened_bidi: Slot<Streams>,
}

/// A request's stream, both ways.
pub struct Bidi<B: Buf> {
    send: SendHalf<B>,
    receive: ReceiveHalf,
}

/// The sending half of a stream.
///
/// What `send_data` took stays queued when the flush is cancelled, so no byte is lost and none breaks the next write;
/// the queue grows by one buffer with each cancelled write and is otherwise at most one long.
pub struct SendHalf<B: Buf> {
    /// `None` once it was [taken](take).
    stream: Option<quinn::SendStream>,
    queue: VecDeque<WriteBuf<B>>,
}

/// The receiving half of a stream. Bytes of bodies are handed on without a copy.
pub struct ReceiveHalf {
    /// `None` once it was [taken](take).
    stream: Option<quinn::RecvStream>,
    guard: FrameGuard,
    held: Bytes,
    /// What the peer is told if this is dropped before its end; `None` once it ended or was stopped.
    stop_on_drop: Option<Code>,
}

/// A request's stream without the library.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) send: quinn::SendStream,
    pub(super) receive: quinn::RecvStream,
    /// What was read of it and not handed on, from a frame's beginning on.
    pub(super) held: Bytes,
}

enum Taking {
    No,
    Wanted,
    Taken(Raw),
}

thread_local! {
    /// Whether a stream that is split now shall be taken from the library: it hands none back, and only in its own `split`
    /// is it ours for a moment. Never set across an `await`.
    static TAKING: RefCell<Taking> = const { RefCell::new(Taking::No) };
}

/// Takes a stream from the library by what `split` splits: one whose head was read and whose own head was sent whole, and
/// of which nothing else was read or sent.
///
/// # Panics
/// When `split` splits no stream of this adapter.
pub(super) fn take(split: impl FnOnce()) -> Raw {
    TAKING.set(Taking::Wanted);
    split();
    match TAKING.replace(Taking::No) {
        Taking::Taken(raw) => raw,
        Taking::No | Taking::Wanted => unreachable!("a stream of this adapter was split"),
    }
}

impl Conn {
    #[must_use]
    pub fn new(connection: quinn::Connection, peer_bidi: PeerBidi) -> Self {
        let opener = Opener { connection: connection.clone(), opened_uni: None, opened_bidi: None };
        Self { connection, peer_bidi, deliveries: None, opener, accepted_uni: None, accepted_bidi: None }
    }

    /// For a server that watches over its answers: what is accepted puts its [`Delivery`] into `deliveries`.
    #[must_use]
    pub fn with_deliveries(self, deliveries: Deliveries) -> Self {
        Self { deliveries: Some(deliveries), ..self }
    }
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self { connection: self.connection.clone(), opened_uni: None, opened_bidi: None }
    }
}

impl<B: Buf> quic::Connection<B> for Conn {
    type RecvStream = ReceiveHalf;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReceiveHalf, ConnectionErrorIncoming>> {
        let connection = &self.connection;
        let accepted = ready!(poll_slot(&mut self.accepted_uni, cx, || {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_uni().await })
        }));
        Poll::Ready(accepted.map(ReceiveHalf::unidirectional).map_err(connection_error))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi<B>, ConnectionErrorIncoming>> {
        if self.peer_bidi == PeerBidi::Foreign {
            // The end of the connection shows in `poll_accept_recv`, which is polled beside this.
            return Poll::Pending;
        }
        let connection = &self.connection;
        let accepted = ready!(poll_slot(&mut self.accepted_bidi, cx, || {
            let connection = connection.clone();
            Box::pin(async move { connection.accept_bi().await })
        }));
        if let (Some(deliveries), Ok((send, _))) = (&self.deliveries, &accepted) {
            deliveries.put(send);
        }
        // Who answers without reading the whole request says so (RFC 9114 §4.1).
        Poll::Ready(accepted.map(|streams| Bidi::new(streams, Code::H3_NO_ERROR)).map_err(connection_error))
    }

    fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl<B: Buf> quic::OpenStreams<B> for Conn {
    type BidiStream = Bidi<B>;
    type SendStream = SendHalf<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi<B>, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendHalf<B>, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<B>::close(&mut self.opener, code, reason);
    }
}

impl<B: Buf> quic::OpenStreams<B> for Opener {
    type BidiStream = Bidi<B>;
    type SendStream = SendHalf<B>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi<B>, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opened = ready!(poll_slot(&mut self.opened_bidi, cx, || {
            let connection = connection.clone();
            Box::pin(async move { connection.open_bi().await })
        }));
        Poll::Ready(opened.map(|streams| Bidi::new(streams, Code::H3_REQUEST_CANCELLED)).map_err(lost))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendHalf<B>, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opened = ready!(poll_slot(&mut self.opened_uni, cx, || {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        }));
        Poll::Ready(opened.map(SendHalf::new).map_err(lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(varint(code.value()), reason);
    }
}

impl<B: Buf> Bidi<B> {
    fn new((send, receive): Streams, stop_on_drop: Code) -> Self {
        Self { send: SendHalf::new(send), receive: ReceiveHalf::request(receive, stop_on_drop) }
    }
}

impl<B: Buf> quic::BidiStream<B> for Bidi<B> {
    type SendStream = SendHalf<B>;
    type RecvStream = ReceiveHalf;

    fn split(mut self) -> (SendHalf<B>, ReceiveHalf) {
        TAKING.with_borrow_mut(|taking| {
            if let Taking::Wanted = taking
                && let (Some(send), Some(receive)) = (self.send.stream.take(), self.receive.stream.take())
            {
                self.receive.stop_on_drop = None;
                *taking = Taking::Taken(Raw { send, receive, held: std::mem::take(&mut self.receive.held) });
            }
        });
        (self.send, self.receive)
    }
}

impl<B: Buf> quic::SendStream<B> for Bidi<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }
    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }
    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }
    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl<B: Buf> quic::SendStreamUnframed<B> for Bidi<B> {
    fn poll_send<D: Buf>(&mut self, cx: &mut Context<'_>, data: &mut D) -> Poll<Result<usize, StreamErrorIncoming>> {
        self.send.poll_send(cx, data)
    }
}

impl<B: Buf> quic::RecvStream for Bidi<B> {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receive.poll_data(cx)
    }
    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }
    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

impl<B: Buf> SendHalf<B> {
    fn new(stream: quinn::SendStream) -> Self {
        Self { stream: Some(stream), queue: VecDeque::new() }
    }

    fn stream(&mut self) -> &mut quinn::SendStream {
        self.stream.as_mut().expect(TAKEN)
    }
}

impl<B: Buf> quic::SendStream<B> for SendHalf<B> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let stream = self.stream.as_mut().expect(TAKEN);
        while let Some(buffer) = self.queue.front_mut() {
            while buffer.has_remaining() {
                let written = ready!(Pin::new(&mut *stream).poll_write(cx, buffer.chunk())).map_err(write_error)?;
                buffer.advance(written);
            }
            self.queue.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<B>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.queue.push_back(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_ready(cx))?;
        Poll::Ready(self.stream().finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        self.queue.clear();
        // A stream that is over already has nothing left to reset.
        let _ = self.stream().reset(varint(code));
    }

    fn send_id(&self) -> StreamId {
        stream_id(self.stream.as_ref().expect(TAKEN).id())
    }
}

impl<B: Buf> quic::SendStreamUnframed<B> for SendHalf<B> {
    fn poll_send<D: Buf>(&mut self, cx: &mut Context<'_>, data: &mut D) -> Poll<Result<usize, StreamErrorIncoming>> {
        ready!(quic::SendStream::<B>::poll_ready(self, cx))?;
        let written = ready!(Pin::new(self.stream()).poll_write(cx, data.chunk())).map_err(write_error)?;
        data.advance(written);
        Poll::Ready(Ok(written))
    }
}

impl<B: Buf> Drop for SendHalf<B> {
    /// What is cut inside a write must not look whole; quinn alone would finish the stream.
    fn drop(&mut self) {
        if !self.queue.is_empty() {
            quic::SendStream::reset(self, Code::H3_REQUEST_CANCELLED.value());
        }
    }
}

impl ReceiveHalf {
    fn request(stream: quinn::RecvStream, stop_on_drop: Code) -> Self {
        let stream = Some(stream);
        Self { stream, guard: FrameGuard::request(), held: Bytes::new(), stop_on_drop: Some(stop_on_drop) }
    }

    fn unidirectional(stream: quinn::RecvStream) -> Self {
        let stream = Some(stream);
        Self { stream, guard: FrameGuard::unidirectional(), held: Bytes::new(), stop_on_drop: None }
    }

    fn stream(&mut self) -> &mut quinn::RecvStream {
        self.stream.as_mut().expect(TAKEN)
    }
}

impl quic::RecvStream for ReceiveHalf {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        for _ in 0..CHUNKS_PER_POLL {
            match self.guard.next(&mut self.held) {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) => {}
                Err(error) => {
                    self.stop_sending(Code::H3_EXCESSIVE_LOAD.value());
                    return Poll::Ready(Err(broken(error)));
                }
            }
            // A new future for each poll costs nothing: it is cancel-safe, and quinn keeps the waker by stream.
            let stream = self.stream.as_mut().expect(TAKEN);
            match ready!(pin!(stream.read_chunk(CHUNK_BYTES, true)).poll(cx)).map_err(read_error)? {
                Some(chunk) => self.held = chunk.bytes,
                None => {
                    self.stop_on_drop = None;
                    return Poll::Ready(self.guard.finish().map(|()| None).map_err(broken));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn stop_sending(&mut self, code: u64) {
        self.stop_on_drop = None;
        // A stream that is over already has nothing left to stop.
        let _ = self.stream().stop(varint(code));
    }

    fn recv_id(&self) -> StreamId {
        stream_id(self.stream.as_ref().expect(TAKEN).id())
    }
}

impl Drop for ReceiveHalf {
    fn drop(&mut self) {
        if let Some(code) = self.stop_on_drop {
            quic::RecvStream::stop_sending(self, code.value());
        }
    }
}

/// Polls the future kept in `slot`, making it first where there is none.
fn poll_slot<T>(
    slot: &mut Slot<T>,
    cx: &mut Context<'_>,
    make: impl FnOnce() -> Pin<Box<dyn Future<Output = Result<T, quinn::ConnectionError>> + Send>>,
) -> Poll<Result<T, quinn::ConnectionError>> {
    let output = ready!(slot.get_or_insert_with(make).as_mut().poll(cx));
    *slot = None;
    Poll::Ready(output)
}

fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn stream_id(id: quinn::StreamId) -> StreamId {
    VarInt::from(id).into_inner().try_into().expect("a QUIC stream id is a variable-length integer")
}

fn connection_error(error: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn broken(error: FrameError) -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown(Box::new(error))
}

fn lost(error: quinn::ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(error) }
}

fn write_error(error: quinn::WriteError) -> StreamErrorIncoming {
    match error {
        quinn::WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        quinn::WriteError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn read_error(error: quinn::ReadError) -> StreamErrorIncoming {
    match error {
        quinn::ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        quinn::ReadError::ConnectionLost(error) => lost(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deliveries(..)")
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conn({}, {:?})", self.connection.remote_address(), self.peer_bidi)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({})", self.connection.remote_address())
    }
}

impl<B: Buf> fmt::Debug for Bidi<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bidi({:?})", self.send)
    }
}

impl<B: Buf> fmt::Debug for SendHalf<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendHalf({:?})", self.stream.as_ref().map(quinn::SendStream::id))
    }
}

impl fmt::Debug for ReceiveHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveHalf({:?})", self.stream.as_ref().map(quinn::RecvStream::id))
    }
}

#[cfg(test)]
mod tests;
