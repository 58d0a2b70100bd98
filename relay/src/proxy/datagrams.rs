//! Datagrams towards backends: which endpoint a client's go to, and the socket for them.

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
use crate::route::{
    fleet::Ask,
    target::{Endpoint, Rule, Upstream},
};

/// Why datagrams cannot be sent to an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    #[error("the endpoint is behind a node, and tunnels carry no datagrams for routes yet")]
    Node,
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

/// A socket from which datagrams go to the endpoint of `upstream`, and to which only this endpoint's come.
///
/// # Errors
/// See [`Unsendable`].
pub async fn dial(routing: &Routing, upstream: &Upstream) -> Result<UdpSocket, Unsendable> {
    match &upstream.endpoint {
        Endpoint::Node(_) => Err(Unsendable::Node),
        Endpoint::Address(address) => connect(routing, upstream, &[*address]).await,
        Endpoint::Asked { .. } => Err(Unsendable::NoHost),
        Endpoint::Host { name, port, lookup } => {
            let found = routing.names.addresses(name, *port, lookup.as_ref()).await;
            let found = found.map_err(|why| Unsendable::Unknown(name.to_string(), why))?;
            connect(routing, upstream, &found).await
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
