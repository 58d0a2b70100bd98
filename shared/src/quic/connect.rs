//! A CONNECT stream once its answer was 200: one TCP flow in the DATA frames of a request's stream (RFC 9114 §4.4).
//!
//! The agent asks, the relay connects. From the answer on the bytes no longer pass through the HTTP/3 library, which would
//! copy each of them once more; [`ConnectStream::copy`] is what [`lane::copy`](super::lane::copy()) is on the stream lane.

mod frames;

use std::{future::Future, io};

use bytes::{Bytes, BytesMut};
use quinn::VarInt;
use tokio::net::TcpStream;

use self::frames::HEADER_BYTES;
pub(super) use self::frames::{Frames, FramesError, header};
use super::{
    adapter::{self, Raw},
    copy::{self, Copied, Framing, Sink, Source},
    http3::{ClientStream, Code, ServerStream},
    lane::LaneStream,
};

/// A flow's two directions. Dropped before both are done it resets what is left.
pub struct ConnectStream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    /// What came behind the head.
    held: Bytes,
    sending: bool,
    receiving: bool,
    /// What the peer is told when this is dropped.
    drop_code: Code,
}

impl ConnectStream {
    /// At the relay: of a request whose 200 was sent.
    #[must_use]
    pub fn of_relay(stream: ServerStream) -> Self {
        Self::new(adapter::take(|| drop(stream.split())))
    }

    /// At the agent: of a request whose 200 was read.
    #[must_use]
    pub fn of_agent(stream: ClientStream) -> Self {
        Self::new(adapter::take(|| drop(stream.split())))
    }

    fn new(Raw { send, receive, held }: Raw) -> Self {
        Self { send, receive, held, sending: true, receiving: true, drop_code: Code::H3_REQUEST_CANCELLED }
    }

    /// Copies both ways until both directions are done or either side is reset, or `cut` says that it is over; then so is
    /// the other.
    ///
    /// Costs what [`lane::copy`](super::lane::copy()) costs: one buffer of 64 KiB for what comes from TCP, no copy of what
    /// comes from the stream.
    pub async fn copy(mut self, tcp: TcpStream, cut: impl Future<Output = ()>) -> Copied {
        let (source, sink) = self.halves();
        let copied = copy::with_tcp(source, sink, tcp, cut).await;
        self.ended(copied)
    }

    /// The same with a flow of the stream lane, whose `bytes_to_tcp` are those that went there. Nothing is copied.
    pub async fn join(mut self, mut flow: LaneStream, cut: impl Future<Output = ()>) -> Copied {
        let copied = copy::with_stream(self.halves(), flow.halves(), cut).await;
        self.ended(copied)
    }

    fn ended(mut self, copied: Copied) -> Copied {
        if copied.error.is_some() {
            self.drop_code = Code::H3_CONNECT_ERROR;
        }
        copied
    }

    fn halves(&mut self) -> (io::Result<Source<'_>>, Sink<'_>) {
        let held = std::mem::take(&mut self.held);
        let sink = Sink { stream: &mut self.send, sending: &mut self.sending, framing: Framing::Data };
        (Source::new(&mut self.receive, &mut self.receiving, Framing::Data, held), sink)
    }
}

/// Leaves room for the header of a DATA frame.
pub(super) fn begin(buffer: &mut BytesMut) {
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
}

/// Writes the header of a DATA frame, which is all of `buffer`, into the room that [`begin`] left.
pub(super) fn end(buffer: &mut BytesMut) {
    let header = header(buffer.len() - HEADER_BYTES);
    buffer[..HEADER_BYTES].copy_from_slice(&header);
}

impl Drop for ConnectStream {
    fn drop(&mut self) {
        let code = VarInt::from_u64(self.drop_code.value()).expect("codes of HTTP/3 are variable-length integers");
        // Either may be over already: nothing is left to say then.
        if self.sending {
            let _ = self.send.reset(code);
        }
        if self.receiving {
            let _ = self.receive.stop(code);
        }
    }
}

impl std::fmt::Debug for ConnectStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConnectStream({})", self.send.id())
    }
}

#[cfg(test)]
mod tests;
