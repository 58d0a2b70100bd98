//! A byte flow to a service behind an agent, over whichever lane the agent has.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use underpass_shared::{netstack::TcpFlow, quic::lane::LaneStream};

/// A TCP-like byte flow to a service behind an agent.
///
/// Half-close: `poll_shutdown` ends our direction only. Dropping it before both ends are done resets it.
#[derive(Debug)]
pub struct Flow {
    lane: Lane,
    /// The flow's place among its session's.
    place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Lane {
    Stream(LaneStream),
    Packet(TcpFlow),
}

impl Flow {
    pub(super) fn stream(stream: LaneStream, place: OwnedSemaphorePermit) -> Self {
        Self { lane: Lane::Stream(stream), place }
    }

    /// The stream, and the flow's place among its session's; `None` of a flow by packets.
    pub(super) fn into_stream(self) -> Option<(LaneStream, OwnedSemaphorePermit)> {
        match self.lane {
            Lane::Stream(stream) => Some((stream, self.place)),
            Lane::Packet(_) => None,
        }
    }

    pub(super) fn packet(flow: TcpFlow, place: OwnedSemaphorePermit) -> Self {
        Self { lane: Lane::Packet(flow), place }
    }
}

impl AsyncRead for Flow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.lane {
            Lane::Stream(stream) => Pin::new(stream).poll_read(cx, buf),
            Lane::Packet(flow) => Pin::new(flow).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Flow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.lane {
            Lane::Stream(stream) => Pin::new(stream).poll_write(cx, buf),
            Lane::Packet(flow) => Pin::new(flow).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lane {
            Lane::Stream(stream) => Pin::new(stream).poll_flush(cx),
            Lane::Packet(flow) => Pin::new(flow).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lane {
            Lane::Stream(stream) => Pin::new(stream).poll_shutdown(cx),
            Lane::Packet(flow) => Pin::new(flow).poll_shutdown(cx),
        }
    }
}
