//! Opens the byte stream to an endpoint: through a tunnel, or from a socket of this host where `may_dial` allows it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{
    Routing,
    answer::Failure,
    may_dial::{Purpose, may_dial},
};
use crate::{
    route::target::{Endpoint, Upstream},
    tunnel::{DialError, Flow},
};

/// How long a connection to a backend may take, name resolution included.
///
/// Three SYN retransmissions (1, 3 and 7 seconds) fit; a person still waits for the answer.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// How many of a name's addresses are tried.
pub(super) const ADDRESSES_MAX: usize = 4;

/// A connection to a backend, whatever carries it.
#[derive(Debug)]
pub(super) enum Transport {
    Socket(TcpStream),
    Flow(Flow),
}

/// Connects to the endpoint of `upstream` on behalf of `client`.
///
/// # Errors
/// [`Failure::Tunnel`], [`Failure::Denied`], [`Failure::Unknown`], [`Failure::Connect`], [`Failure::ConnectTimedOut`].
pub(super) async fn dial(routing: &Routing, upstream: &Upstream, client: SocketAddr) -> Result<Transport, Failure> {
    let attempt = async {
        match &upstream.endpoint {
            Endpoint::Node(target) => Ok(Transport::Flow(routing.tunnels.dial(target, Some(client)).await?)),
            Endpoint::Address(address) => connect(routing, upstream, &[*address]).await,
            Endpoint::Host { name, port } => {
                let unknown = |source| Failure::Unknown { name: name.to_string(), source };
                let found = lookup_host((&**name, *port)).await.map_err(|error| unknown(Some(error)))?;
                let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
                if addresses.is_empty() {
                    return Err(unknown(None));
                }
                connect(routing, upstream, &addresses).await
            }
        }
    };
    match timeout(CONNECT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(match &upstream.endpoint {
            Endpoint::Node(target) => DialError::TimedOut { node: target.node.clone() }.into(),
            Endpoint::Address(_) | Endpoint::Host { .. } => Failure::ConnectTimedOut,
        }),
    }
}

/// Tries the addresses in the resolver's order, each for its share of the time.
async fn connect(routing: &Routing, upstream: &Upstream, addresses: &[SocketAddr]) -> Result<Transport, Failure> {
    let share = CONNECT / u32::try_from(addresses.len()).unwrap_or(1).max(1);
    let mut last = Failure::ConnectTimedOut;
    for &address in addresses {
        // The guard of `load` must not live across an await.
        let allowed = may_dial(&routing.dial_policy.load(), &upstream.project, Purpose::Backend, address);
        if let Err(denied) = allowed {
            last = denied.into();
            continue;
        }
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(|source| Failure::Connect { source })?;
                return Ok(Transport::Socket(stream));
            }
            Ok(Err(source)) => last = Failure::Connect { source },
            Err(_) => last = Failure::ConnectTimedOut,
        }
    }
    Err(last)
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Flow(flow) => Pin::new(flow).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Flow(flow) => Pin::new(flow).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Self::Flow(flow) => Pin::new(flow).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Flow(flow) => Pin::new(flow).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Flow(flow) => Pin::new(flow).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Socket(stream) => stream.is_write_vectored(),
            Self::Flow(flow) => flow.is_write_vectored(),
        }
    }
}
