//! Moves a flow's bytes, half-closes and resets, one to one: between a QUIC stream and a TCP connection, or another stream.
//!
//! One way for both kinds of stream: those of the lane carry the bytes as they are, CONNECT streams in DATA frames.

use std::{future::Future, io, pin::pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::sleep,
};

use super::{
    connect::{self, Frames},
    lane::{read_error, write_error},
};

/// How much is read from TCP at once, in bytes, and how much of it one flow holds beside what quinn has in flight.
const BUFFER_BYTES: usize = 64 << 10;

/// Below this much room a new buffer is taken.
const BUFFER_ROOM_MIN: usize = 8 << 10;

/// How many pieces of a packet's size are read at once and go to TCP in one call: about [`BUFFER_BYTES`].
const PIECES: usize = 48;

/// How often it is looked for a reset by the peer while the other side takes nothing.
const LOOK_FOR_RESET: Duration = Duration::from_secs(1);

/// How a flow went.
#[derive(Debug)]
pub struct Copied {
    /// From the stream to the TCP connection, or to the other stream.
    pub bytes_to_tcp: u64,
    /// From there to the stream.
    pub bytes_to_lane: u64,
    /// `None` when both directions ended by FIN or the peer closed; else both sides were reset, and this is why.
    pub error: Option<io::Error>,
}

/// How a flow's bytes stand in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// As they are.
    Bare,
    /// In DATA frames.
    Data,
}

/// The receiving half of a stream, from which whole batches are taken.
#[derive(Debug)]
pub(super) struct Source<'a> {
    stream: &'a mut quinn::RecvStream,
    /// Cleared when the stream has ended, so that nobody stops it.
    receiving: &'a mut bool,
    frames: Option<Frames>,
    /// What is read and not passed on yet.
    pieces: Vec<Bytes>,
}

/// The sending half of a stream.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    pub(super) stream: &'a mut quinn::SendStream,
    /// Cleared when we have ended it, so that nobody resets it.
    pub(super) sending: &'a mut bool,
    pub(super) framing: Framing,
}

impl<'a> Source<'a> {
    /// `early` is what came behind the flow's head.
    ///
    /// # Errors
    /// `early` breaks the framing.
    pub(super) fn new(
        stream: &'a mut quinn::RecvStream,
        receiving: &'a mut bool,
        framing: Framing,
        early: Bytes,
    ) -> io::Result<Self> {
        let frames = (framing == Framing::Data).then(Frames::default);
        let mut source = Self { stream, receiving, frames, pieces: Vec::new() };
        source.take(early)?;
        Ok(source)
    }

    fn take(&mut self, chunk: Bytes) -> io::Result<()> {
        match &mut self.frames {
            Some(frames) => frames.take(chunk, &mut self.pieces).map_err(malformed),
            None if chunk.is_empty() => Ok(()),
            None => {
                self.pieces.push(chunk);
                Ok(())
            }
        }
    }

    /// Fills `pieces`, which may stay empty; `false` at the end of the stream. Cancel-safe.
    async fn fill(&mut self) -> io::Result<bool> {
        self.pieces.clear();
        let mut chunks: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
        match self.stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => {
                for chunk in &mut chunks[..count] {
                    self.take(std::mem::take(chunk))?;
                }
                Ok(true)
            }
            Ok(None) => {
                *self.receiving = false;
                self.frames.as_ref().map_or(Ok(()), Frames::finish).map_err(malformed)?;
                Ok(false)
            }
            Err(error) => {
                *self.receiving = false;
                Err(read_error(error))
            }
        }
    }
}

fn malformed(error: connect::FramesError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Copies both ways until both directions are done or either side is reset, or `cut` says that it is over; then so is the
/// other.
///
/// A peer that finishes its direction and reads no more has closed, and so is the TCP connection, after its last byte.
/// Holds one buffer of 64 KiB for what comes from TCP; what comes from the stream is not copied.
pub(super) async fn with_tcp(
    source: io::Result<Source<'_>>,
    sink: Sink<'_>,
    mut tcp: TcpStream,
    cut: impl Future<Output = ()>,
) -> Copied {
    let (mut bytes_to_tcp, mut bytes_to_lane) = (0, 0);
    let outcome = async {
        let (tcp_read, tcp_write) = tcp.split();
        let both = async {
            tokio::try_join!(
                to_tcp(source?, tcp_write, &mut bytes_to_tcp),
                from_tcp(tcp_read, sink, &mut bytes_to_lane)
            )
        };
        tokio::select! {
            outcome = both => outcome,
            () = cut => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    };
    let error = outcome.await.err();
    if error.is_some() {
        // With no time to linger the kernel sends a reset on drop; where it cannot, the connection is gone already.
        let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
    Copied { bytes_to_tcp, bytes_to_lane, error }
}

/// As [`with_tcp`], between two streams; nothing is copied.
pub(super) async fn with_stream(
    near: (io::Result<Source<'_>>, Sink<'_>),
    far: (io::Result<Source<'_>>, Sink<'_>),
    cut: impl Future<Output = ()>,
) -> Copied {
    let (mut bytes_to_tcp, mut bytes_to_lane) = (0, 0);
    let both = async {
        let (there, back) = ((near.0?, far.1), (far.0?, near.1));
        tokio::try_join!(to_stream(there.0, there.1, &mut bytes_to_tcp), to_stream(back.0, back.1, &mut bytes_to_lane))
    };
    let outcome = tokio::select! {
        outcome = both => outcome,
        () = cut => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    Copied { bytes_to_tcp, bytes_to_lane, error: outcome.err() }
}

async fn to_tcp(mut source: Source<'_>, mut tcp: WriteHalf<'_>, copied: &mut u64) -> io::Result<()> {
    loop {
        write_pieces(&mut source.pieces, source.stream, &mut tcp, copied).await?;
        if !source.fill().await? {
            return tcp.shutdown().await;
        }
    }
}

/// Writes all of `pieces`, and gives up when the stream is reset while TCP takes nothing.
async fn write_pieces(
    mut pieces: &mut [Bytes],
    stream: &mut quinn::RecvStream,
    tcp: &mut WriteHalf<'_>,
    copied: &mut u64,
) -> io::Result<()> {
    let mut reset_possible = true;
    while !pieces.is_empty() {
        let mut slices = [io::IoSlice::new(&[]); PIECES];
        for (slice, piece) in slices.iter_mut().zip(pieces.iter()) {
            *slice = io::IoSlice::new(piece);
        }
        let mut written = tokio::select! {
            biased;
            written = tcp.write_vectored(&slices[..pieces.len().min(PIECES)]) => written?,
            reset = was_reset(stream), if reset_possible => {
                reset?;
                reset_possible = false;
                continue;
            }
        };
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *copied += written as u64;
        while let Some(piece) = pieces.first_mut() {
            let step = written.min(piece.len());
            piece.advance(step);
            written -= step;
            if !piece.is_empty() {
                break;
            }
            pieces = &mut pieces[1..];
        }
    }
    Ok(())
}

/// Waits for a reset, which is the error; all is well when the stream has ended without one. Cancel-safe.
///
/// It looks from time to time. quinn's own `received_reset` would leave its waker behind for the rest of the connection when
/// it is given up after the stream's end has come.
async fn was_reset(stream: &mut quinn::RecvStream) -> io::Result<()> {
    loop {
        sleep(LOOK_FOR_RESET).await;
        match stream.read_chunk(0, true).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(read_error(error)),
        }
    }
}

/// Ends well when TCP does, and when the peer reads no more: whether that is a close or a reset, its own direction says.
async fn from_tcp(mut tcp: ReadHalf<'_>, sink: Sink<'_>, copied: &mut u64) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut stopped = pin!(sink.stream.stopped());
    loop {
        if buffer.capacity() < BUFFER_ROOM_MIN {
            buffer.reserve(BUFFER_BYTES);
        }
        if sink.framing == Framing::Data && buffer.is_empty() {
            connect::begin(&mut buffer);
        }
        let read = tokio::select! {
            biased;
            stop = &mut stopped => return match stop {
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
            },
            read = tcp.read_buf(&mut buffer) => read?,
        };
        if read == 0 {
            *sink.sending = false;
            // The only error is that the peer reads no more.
            let _ = sink.stream.finish();
            return Ok(());
        }
        if sink.framing == Framing::Data {
            connect::end(&mut buffer);
        }
        match sink.stream.write_chunk(buffer.split().freeze()).await {
            Ok(()) => *copied += read as u64,
            Err(quinn::WriteError::Stopped(_)) => return Ok(()),
            Err(error) => return Err(write_error(error)),
        }
    }
}

/// From one stream to another; ends as [`from_tcp`] does.
async fn to_stream(mut source: Source<'_>, sink: Sink<'_>, copied: &mut u64) -> io::Result<()> {
    let mut stopped = pin!(sink.stream.stopped());
    let mut framed = Vec::new();
    loop {
        let length: usize = source.pieces.iter().map(Bytes::len).sum();
        let pieces = match sink.framing {
            Framing::Bare => &mut source.pieces,
            Framing::Data => {
                framed.clear();
                if length > 0 {
                    framed.push(Bytes::copy_from_slice(&connect::header(length)));
                }
                framed.append(&mut source.pieces);
                &mut framed
            }
        };
        if !send_pieces(pieces, source.stream, sink.stream).await? {
            return Ok(());
        }
        *copied += length as u64;
        let more = tokio::select! {
            biased;
            stop = &mut stopped => return match stop {
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
            },
            more = source.fill() => more?,
        };
        if !more {
            *sink.sending = false;
            // The only error is that the peer reads no more.
            let _ = sink.stream.finish();
            return Ok(());
        }
    }
}

/// Sends all of `pieces`; `false` when the peer reads no more. Gives up when `source` is reset while nothing is taken.
async fn send_pieces(
    mut pieces: &mut [Bytes],
    source: &mut quinn::RecvStream,
    sink: &mut quinn::SendStream,
) -> io::Result<bool> {
    let mut reset_possible = true;
    while !pieces.is_empty() {
        let written = tokio::select! {
            biased;
            written = sink.write_chunks(pieces) => match written {
                Ok(written) => written,
                Err(quinn::WriteError::Stopped(_)) => return Ok(false),
                Err(error) => return Err(write_error(error)),
            },
            reset = was_reset(source), if reset_possible => {
                reset?;
                reset_possible = false;
                continue;
            }
        };
        // Of a piece that went in part, quinn has left the rest.
        pieces = &mut pieces[written.chunks..];
    }
    Ok(true)
}
