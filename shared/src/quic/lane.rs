//! The stream lane: one QUIC stream for each TCP flow, opened by the relay, answered by the agent.
//!
//! A [`LaneStream`] behaves as a TCP connection does: FIN ends a direction, a reset ends both, back-pressure is the
//! stream's window. [`copy()`] joins one to a real TCP connection.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use quinn::VarInt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

pub use super::copy::Copied;
use super::copy::{self, Framing, Sink, Source};
use crate::wire::preface::{
    Answer, CODE_ABANDONED, CODE_NOT_UNDERSTOOD, PREFACE_BYTES_MAX, Preface, PrefaceError, Reason, Refused, RefusedCode,
};

/// How long an agent waits for the whole preface of a stream; it is sent with the stream's first packet.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the relay has no flow.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The agent said why.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The agent does not know the lane, or this version or kind of it.
    #[error("the agent gave the stream up with code {0:#x}")]
    Reset(u64),
    #[error("the agent's answer cannot be read")]
    Answer(#[from] PrefaceError),
    #[error("the agent ended the stream before its answer")]
    NoAnswer,
    #[error("the connection to the agent ended")]
    Lost(#[from] quinn::ConnectionError),
}

/// Why an agent did not take a stream. Only that stream is reset.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("the relay opened a stream that cannot be read")]
    Preface(#[from] PrefaceError),
    #[error("the relay ended or reset a stream before its preface was whole")]
    Cut,
    #[error("the relay sent no whole preface in time")]
    TimedOut,
}

/// A flow's two directions.
///
/// Dropped before both directions are done it resets what is left, with [`CODE_ABANDONED`]. A reset by the peer is
/// [`io::ErrorKind::ConnectionReset`], the loss of the connection [`io::ErrorKind::ConnectionAborted`].
pub struct LaneStream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// What arrived together with the preface or answer.
    early: Bytes,
    sending: bool,
    receiving: bool,
    drop_code: u64,
}

/// A flow that the agent has not answered yet. Dropped, it is reset.
#[derive(Debug)]
pub struct PendingFlow {
    stream: LaneStream,
}

/// Opens a flow on the agent's `connection` and waits for its answer, however long that takes: the caller sets the limit.
///
/// Dropping the future resets the stream, so that the agent stops trying too.
///
/// # Errors
/// See [`OpenError`]; none of them leaves a stream open.
pub async fn open_flow(connection: &quinn::Connection, preface: &Preface) -> Result<LaneStream, OpenError> {
    let (send, receive) = connection.open_bi().await?;
    let mut stream = LaneStream::new(send, receive);
    let mut bytes = BytesMut::with_capacity(PREFACE_BYTES_MAX);
    preface.encode(&mut bytes);
    match stream.send.write_chunk(bytes.freeze()).await {
        Ok(()) => {}
        Err(quinn::WriteError::ConnectionLost(error)) => return Err(error.into()),
        // Whoever stops reading may have answered before.
        Err(_) => stream.sending = false,
    }
    match stream.read_head(Answer::decode).await {
        Ok(Answer::Connected) => Ok(stream),
        Ok(Answer::Refused(refused)) => Err(refused.into()),
        Err(HeadError::Wrong(error)) => Err(error.into()),
        Err(HeadError::Ended) => Err(OpenError::NoAnswer),
        Err(HeadError::Failed(quinn::ReadError::Reset(code))) => Err(OpenError::Reset(code.into_inner())),
        Err(HeadError::Failed(quinn::ReadError::ConnectionLost(error))) => Err(error.into()),
        Err(HeadError::Failed(_)) => Err(OpenError::NoAnswer),
    }
}

/// Reads the preface of a stream that the relay opened; run it in a task for each stream, as it may take its time.
///
/// # Errors
/// See [`AcceptError`]; the stream is reset then, with [`CODE_NOT_UNDERSTOOD`], and its connection lives on.
pub async fn accept_flow(
    send: quinn::SendStream,
    receive: quinn::RecvStream,
) -> Result<(Preface, PendingFlow), AcceptError> {
    let mut stream = LaneStream::new(send, receive);
    match tokio::time::timeout(PREFACE_TIMEOUT, stream.read_head(Preface::decode)).await {
        Ok(Ok(preface)) => Ok((preface, PendingFlow { stream })),
        Ok(Err(HeadError::Wrong(error))) => Err(error.into()),
        Ok(Err(HeadError::Ended | HeadError::Failed(_))) => Err(AcceptError::Cut),
        Err(_) => Err(AcceptError::TimedOut),
    }
}

impl PendingFlow {
    /// Tells the relay that the connection stands.
    ///
    /// # Errors
    /// The relay gave the flow up meanwhile, or the session ended.
    pub async fn connected(mut self) -> io::Result<LaneStream> {
        self.answer(&Answer::Connected).await?;
        Ok(self.stream)
    }

    /// Tells the relay why there is no connection; `reason` is for people.
    ///
    /// # Errors
    /// The relay gave the flow up meanwhile, or the session ended.
    pub async fn refuse(mut self, code: RefusedCode, reason: &str) -> io::Result<()> {
        self.answer(&Answer::Refused(Refused { code, reason: Reason::new(reason) })).await?;
        self.stream.finish();
        Ok(())
    }

    /// Waits until the relay gives the flow up, so that the agent need not try on. Cancel-safe.
    pub async fn abandoned(&mut self) {
        // Every end of it means the same: nobody waits for the answer any more.
        let _ = self.stream.send.stopped().await;
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes);
        self.stream.send.write_chunk(bytes.freeze()).await.map_err(write_error)
    }
}

/// Why the head of a stream was not read.
enum HeadError {
    Wrong(PrefaceError),
    Ended,
    Failed(quinn::ReadError),
}

impl LaneStream {
    fn new(send: quinn::SendStream, receive: quinn::RecvStream) -> Self {
        let (early, drop_code) = (Bytes::new(), CODE_ABANDONED);
        Self { send, receive, early, sending: true, receiving: true, drop_code }
    }

    /// Gathers at most [`PREFACE_BYTES_MAX`] bytes until `decode` has its value; what is beyond it is kept as early bytes.
    async fn read_head<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<Option<(T, usize)>, PrefaceError>,
    ) -> Result<T, HeadError> {
        let mut head = BytesMut::new();
        loop {
            let room = PREFACE_BYTES_MAX - head.len();
            match self.receive.read_chunk(room, true).await {
                Ok(Some(chunk)) => head.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.receiving = false;
                    return Err(HeadError::Ended);
                }
                Err(error) => return Err(HeadError::Failed(error)),
            }
            match decode(&head) {
                Ok(Some((value, length))) => {
                    self.early = head.freeze().split_off(length);
                    return Ok(value);
                }
                Ok(None) if head.len() < PREFACE_BYTES_MAX => {}
                Ok(None) => return Err(self.not_understood(PrefaceError::TooLong("head"))),
                Err(error) => return Err(self.not_understood(error)),
            }
        }
    }

    fn not_understood(&mut self, error: PrefaceError) -> HeadError {
        self.drop_code = CODE_NOT_UNDERSTOOD;
        HeadError::Wrong(error)
    }

    /// Both directions, to be copied.
    pub(super) fn halves(&mut self) -> (io::Result<Source<'_>>, Sink<'_>) {
        let early = std::mem::take(&mut self.early);
        let sink = Sink { stream: &mut self.send, sending: &mut self.sending, framing: Framing::Bare };
        (Source::new(&mut self.receive, &mut self.receiving, Framing::Bare, early), sink)
    }

    /// Ends our direction.
    fn finish(&mut self) {
        self.sending = false;
        // Finished or reset already: it is over either way.
        let _ = self.send.finish();
    }
}

/// Copies both ways until both directions are done or either side is reset; then so is the other.
///
/// A peer that finishes its direction and reads no more has closed, and so is the TCP connection, after its last byte.
/// Holds one buffer of 64 KiB for what comes from TCP; what comes from the lane is not copied.
pub async fn copy(mut lane: LaneStream, tcp: TcpStream) -> Copied {
    let (source, sink) = lane.halves();
    copy::with_tcp(source, sink, tcp, std::future::pending()).await
}

impl AsyncRead for LaneStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let length = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let wanted = buf.remaining() > 0;
        ready!(this.receive.poll_read_buf(cx, buf)).map_err(|error| {
            this.receiving = false;
            read_error(error)
        })?;
        if wanted && buf.filled().len() == before {
            this.receiving = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        Pin::new(&mut this.send).poll_write(cx, buf).map_err(write_error)
    }

    /// Does nothing: what was written is sent without being asked for.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for LaneStream {
    fn drop(&mut self) {
        let code = VarInt::from_u64(self.drop_code).expect("our codes are variable-length integers");
        // Either may be over already: nothing is left to say then.
        if self.sending {
            let _ = self.send.reset(code);
        }
        if self.receiving {
            let _ = self.receive.stop(code);
        }
    }
}

impl fmt::Debug for LaneStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneStream({})", self.send.id())
    }
}

pub(super) fn read_error(error: quinn::ReadError) -> io::Error {
    match error {
        quinn::ReadError::Reset(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        quinn::ReadError::ConnectionLost(_) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
        _ => io::Error::other(error),
    }
}

pub(super) fn write_error(error: quinn::WriteError) -> io::Error {
    match error {
        quinn::WriteError::Stopped(_) => io::Error::new(io::ErrorKind::ConnectionReset, error),
        quinn::WriteError::ConnectionLost(_) => io::Error::new(io::ErrorKind::ConnectionAborted, error),
        quinn::WriteError::ClosedStream => io::Error::new(io::ErrorKind::BrokenPipe, error),
        quinn::WriteError::ZeroRttRejected => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests;
