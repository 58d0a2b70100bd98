//! Tunnels: the sessions that agents hold with this relay, and how a request reaches a service behind one.
//!
//! Journey A crosses here from `proxy/upstream` to a QUIC stream.

pub mod registry;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass_shared::{
    identity::{NodeName, ProjectName},
    prefix::AgentNumber,
};

/// A service behind an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowTarget {
    pub project: ProjectName,
    pub node: NodeName,
    /// One agent of the node, or any.
    pub agent: Option<AgentNumber>,
    /// The TCP port on the agent's loopback, as the Backend reference names it.
    pub port: u16,
}

/// Why no flow to a service behind an agent came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("no agent of node {node} is connected")]
    NodeAway { node: NodeName },
    #[error("node {node} refused the connection to port {port}: nothing listens there")]
    Refused { node: NodeName, port: u16 },
    #[error("node {node} does not publish port {port}")]
    NotPublished { node: NodeName, port: u16 },
    #[error("node {node} could not reach port {port}: {reason}")]
    Unreachable { node: NodeName, port: u16, reason: String },
    #[error("node {node} did not answer in time")]
    TimedOut { node: NodeName },
    #[error("node {node} has no room for another flow")]
    Overloaded { node: NodeName },
}

/// The sessions of this relay, by project and node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {}

/// A TCP-like byte flow to a service behind an agent.
///
/// Half-close: `poll_shutdown` ends our direction only. Dropping it before both ends are done resets it.
#[derive(Debug)]
pub struct Flow {
    inner: tokio::io::DuplexStream,
}

impl Tunnels {
    /// Opens a flow to `target`; `client` is who asked, told to the agent.
    ///
    /// # Errors
    /// See [`DialError`]; none of them leaves anything open.
    #[expect(clippy::unused_async, reason = "the lanes are not joined yet")]
    pub async fn dial(&self, target: &FlowTarget, client: Option<SocketAddr>) -> Result<Flow, DialError> {
        let _ = client;
        Err(DialError::NodeAway { node: target.node.clone() })
    }
}

impl AsyncRead for Flow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Flow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
