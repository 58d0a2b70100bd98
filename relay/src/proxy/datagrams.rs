//! Datagrams towards backends: which endpoint a client's go to, and the way there.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::net::UdpSocket;

use super::{
    Routing, affinity,
    may_dial::{Denied, Purpose, may_dial},
    names::Unresolved,
};
use crate::{
    route::{
        fleet::Ask,
        target::{Endpoint, Rule, Upstream},
    },
    tunnel::{DatagramFlow, DialError},
};

/// Why datagrams cannot be sent to an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    #[error("the endpoint cannot be reached: {0}")]
    Node(#[from] DialError),
    #[error("the backend goes by the host that requests name, and datagrams name none")]
    NoHost,
    #[error("the backend may not be reached: {0}")]
    Denied(#[from] Denied),
    #[error("the backend's name {0} {1}")]
    Unknown(String, Unresolved),
    #[error("no socket can be had: {}", .0.kind())]
    Socket(#[from] io::Error),
}

/// The endpoint for a new client; `None` when the backend whose turn it is leads nowhere. What it has to do is not counted.
#[must_use]
pub fn choose(routing: &Routing, rule: &Rule, client: SocketAddr) -> Option<Arc<Upstream>> {
    let backend = rule.backend(rand::random())?;
    let key = affinity::by_address(backend, client);
    let ask = Ask { seed: rand::random(), key, now: routing.now(), is_retry: false };
    backend.choose(&ask).ok().map(|(upstream, _)| upstream)
}

/// Whether `rule` may still send clients to `upstream`.
#[must_use]
pub fn serves(rule: &Rule, upstream: &Arc<Upstream>) -> bool {
    let mut used = rule.backends.iter().filter(|backend| backend.weight > 0);
    used.any(|backend| backend.target.upstreams().contains(upstream))
}

/// How datagrams get to an endpoint, and only this endpoint's back.
#[derive(Debug)]
pub enum Way {
    Socket(UdpSocket),
    Node(DatagramFlow),
}

impl Way {
    /// Returns when it takes datagrams, which it then always may.
    ///
    /// # Errors
    /// The socket is of no use.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.writable().await,
            Self::Node(_) => Ok(()),
        }
    }

    /// Returns when an answer waits. Cancel-safe.
    ///
    /// # Errors
    /// The socket is of no use, or the agent has gone away.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.readable().await,
            Self::Node(flow) => flow.readable().await,
        }
    }

    /// Sends, or drops what there is no room for.
    pub fn send(&self, datagram: &[u8]) {
        let socket = match self {
            Self::Socket(socket) => socket,
            Self::Node(flow) => return flow.send(datagram),
        };
        // The first attempt may report what became of an earlier datagram instead of sending this one.
        for _ in 0..2 {
            match socket.try_send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return tracing::trace!(%error, "a datagram was dropped"),
                Ok(_) => return,
            }
        }
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none waits; others do not end it.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.try_recv(buffer),
            Self::Node(flow) => flow.try_recv(buffer),
        }
    }
}

/// A way for the datagrams of `client` to the endpoint of `upstream`.
///
/// # Errors
/// See [`Unsendable`].
pub async fn dial(routing: &Routing, upstream: &Upstream, client: SocketAddr) -> Result<Way, Unsendable> {
    match &upstream.endpoint {
        Endpoint::Node(target) => Ok(Way::Node(routing.tunnels.datagrams(target, client)?)),
        Endpoint::Address(address) => connect(routing, upstream, &[*address]).await.map(Way::Socket),
        Endpoint::Asked { .. } => Err(Unsendable::NoHost),
        Endpoint::Host { name, port, lookup } => {
            let found = routing.names.addresses(name, *port, lookup.as_ref()).await;
            let found = found.map_err(|why| Unsendable::Unknown(name.to_string(), why))?;
            connect(routing, upstream, &found).await.map(Way::Socket)
        }
    }
}

/// The first of the addresses that may be reached and has a way to it.
async fn connect(routing: &Routing, upstream: &Upstream, addresses: &[SocketAddr]) -> Result<UdpSocket, Unsendable> {
    let mut last = Unsendable::Socket(io::ErrorKind::AddrNotAvailable.into());
    for &address in addresses {
        // The guard of `load` must not live across an await.
        let allowed = may_dial(&routing.dial_policy.load(), &upstream.project, Purpose::Backend, address);
        if let Err(denied) = allowed {
            last = denied.into();
            continue;
        }
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}
