//! Joins a flow to a TCP connection: bytes, half-closes and resets, one to one.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{LaneStream, read_error, write_error};

/// How much is read from TCP at once, in bytes, and how much of it one flow holds beside what quinn has in flight.
const BUFFER_BYTES: usize = 64 << 10;

/// Below this much room a new buffer is taken.
const BUFFER_ROOM_MIN: usize = 8 << 10;

/// How many pieces of a packet's size go to TCP in one call: about [`BUFFER_BYTES`].
const PIECES: usize = 48;

/// How a flow went.
#[derive(Debug)]
pub struct Copied {
    /// From the lane to the TCP connection.
    pub bytes_to_tcp: u64,
    /// From the TCP connection to the lane.
    pub bytes_to_lane: u64,
    /// `None` when both directions ended by FIN or the peer closed; else both sides were reset, and this is why.
    pub error: Option<io::Error>,
}

/// Copies both ways until both directions are done or either side is reset; then so is the other.
///
/// A peer that finishes its direction and reads no more has closed, and so is the TCP connection, after its last byte.
/// Holds one buffer of 64 KiB for what comes from TCP; what comes from the lane is not copied.
pub async fn copy(mut lane: LaneStream, mut tcp: TcpStream) -> Copied {
    let (mut bytes_to_tcp, mut bytes_to_lane) = (0, 0);
    let outcome = {
        let (tcp_read, tcp_write) = tcp.split();
        let early = std::mem::take(&mut lane.early);
        tokio::try_join!(
            lane_to_tcp(early, &mut lane.receive, &mut lane.receiving, tcp_write, &mut bytes_to_tcp),
            tcp_to_lane(tcp_read, &mut lane.send, &mut lane.sending, &mut bytes_to_lane),
        )
    };
    let error = outcome.err();
    if error.is_some() {
        // With no time to linger the kernel sends a reset on drop; where it cannot, the connection is gone already.
        let _ = socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
    }
    Copied { bytes_to_tcp, bytes_to_lane, error }
}

async fn lane_to_tcp(
    early: Bytes,
    lane: &mut quinn::RecvStream,
    receiving: &mut bool,
    mut tcp: WriteHalf<'_>,
    copied: &mut u64,
) -> io::Result<()> {
    let mut pieces: [Bytes; PIECES] = std::array::from_fn(|_| Bytes::new());
    pieces[0] = early;
    let mut filled = usize::from(!pieces[0].is_empty());
    loop {
        write_pieces(&mut pieces[..filled], lane, &mut tcp, copied).await?;
        match lane.read_chunks(&mut pieces).await {
            Ok(Some(count)) => filled = count,
            Ok(None) => {
                *receiving = false;
                return tcp.shutdown().await;
            }
            Err(error) => {
                *receiving = false;
                return Err(read_error(error));
            }
        }
    }
}

/// Writes all of `pieces`, and gives up when the lane is reset while TCP takes nothing.
async fn write_pieces(
    mut pieces: &mut [Bytes],
    lane: &mut quinn::RecvStream,
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
            written = tcp.write_vectored(&slices[..pieces.len()]) => written?,
            reset = lane.received_reset(), if reset_possible => match reset {
                Ok(Some(code)) => return Err(read_error(quinn::ReadError::Reset(code))),
                Ok(None) => {
                    reset_possible = false;
                    continue;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)),
            },
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

/// Ends well when TCP does, and when the peer reads no more: whether that is a close or a reset, its own direction says.
async fn tcp_to_lane(
    mut tcp: ReadHalf<'_>,
    lane: &mut quinn::SendStream,
    sending: &mut bool,
    copied: &mut u64,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut stopped = std::pin::pin!(lane.stopped());
    loop {
        if buffer.capacity() < BUFFER_ROOM_MIN {
            buffer.reserve(BUFFER_BYTES);
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
            *sending = false;
            // The only error is that the peer reads no more.
            let _ = lane.finish();
            return Ok(());
        }
        match lane.write_chunk(buffer.split().freeze()).await {
            Ok(()) => *copied += read as u64,
            Err(quinn::WriteError::Stopped(_)) => return Ok(()),
            Err(error) => return Err(write_error(error)),
        }
    }
}
