//! smoltcp made async: TCP over a lane of whole IP packets, in user space, without a privilege; UDP and echo beside it.
//!
//! The agent's user mode accepts with it on every port of its own addresses; the relay dials agents with it over the
//! packet lane. It never names QUIC: packets enter and leave through a [`PacketPort`]. Flows are told apart here,
//! before smoltcp sees them: each has an interface and a socket set of its own, so that a thousand idle flows cost
//! nothing.
//!
//! Journey of a packet: `port` → `driver` → `stack` (checks, demultiplexes) → `live` (one flow's smoltcp) → `flow` (the
//! application's end); answers the other way.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use tokio::sync::{Mutex, mpsc, oneshot};

pub use driver::Driver;
pub use flow::{AcceptError, PendingFlow, TcpFlow};
pub use port::{PacketPort, PacketReceiver, PacketSender};
pub use udp::{Datagram, DatagramReceiver, DatagramSender};

use crate::ledger::Ledger;
use flow::{End, Shared};
use stack::Stack;

mod driver;
mod flow;
mod live;
mod port;
mod replies;
mod stack;
mod timers;
mod udp;
mod window;

/// Dials that wait for the driver; further ones wait at the handle.
const DIALS_MAX: usize = 64;

/// What a netstack is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses that are this stack's. Every address of a prefix is accepted (see [`PendingFlow::local`]); the
    /// address the prefix is written with is the one that dials come from and that answers pings. A single address is
    /// a /128 or /32. A handful: they are searched in order for every packet.
    pub addresses: Vec<IpNet>,
    /// The largest packet sent, in bytes; 1280 to 65535, other values are taken as the nearest. Larger ones are still
    /// received. The stack does not lower it by ICMP: choose what the lane carries.
    pub mtu: usize,
    /// Flows and SYNs that exist at one time. Each flow holds 2 × `tcp_buffer` bytes from acceptance or dial until both
    /// directions are closed.
    pub flows_max: usize,
    /// SYNs that wait for a decision or for the peer's confirmation. Further ones are dropped, and the peer repeats
    /// them. With 0 nothing is accepted and every SYN is refused.
    pub pending_max: usize,
    /// Bytes of the send and of the receive buffer of a flow; 4 KiB to 16 MiB, other values are taken as the nearest.
    /// The bandwidth of a flow is at most this much a round trip.
    pub tcp_buffer: usize,
    /// Where packets are counted, as those of [`Place::Netstack`](crate::ledger::Place::Netstack) and
    /// [`Place::Flow`](crate::ledger::Place::Flow).
    pub ledger: Arc<Ledger>,
    /// Where port numbers and initial sequence numbers come from. Random, and new for each netstack: a peer that knew
    /// it could forge segments.
    pub seed: u64,
}

impl Config {
    /// A configuration with the default limits.
    ///
    /// A ledger of its own. MTU 1280: what every lane carries (RFC 8200 §5). Buffers of 256 KiB: measured best where round trips are short.
    pub fn new(addresses: Vec<IpNet>, seed: u64) -> Self {
        let ledger = Arc::default();
        Self { addresses, mtu: 1280, flows_max: 4096, pending_max: 256, tcp_buffer: 256 * 1024, ledger, seed }
    }
}

/// Why there is no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The peer answered RST.
    #[error("{remote} refused the connection; is a service listening there?")]
    Refused {
        /// The peer.
        remote: SocketAddr,
    },
    /// The network answered that the peer cannot be reached.
    #[error("{remote} cannot be reached; is it connected?")]
    Unreachable {
        /// The peer.
        remote: SocketAddr,
    },
    /// Nobody answered for 30 seconds.
    #[error("{remote} does not answer")]
    TimedOut {
        /// The peer.
        remote: SocketAddr,
    },
    /// The stack has no address of the peer's family.
    #[error("there is no address of our own to reach {remote} from")]
    NoAddress {
        /// The peer.
        remote: SocketAddr,
    },
    /// Not an address and port that can be dialled: this stack's own, port 0, multicast, loopback.
    #[error("{remote} is not a peer's address and port")]
    Target {
        /// What was to be dialled.
        remote: SocketAddr,
    },
    /// `flows_max` flows exist, or every port to that peer is in use.
    #[error("the netstack has no room for another flow; wait until some end")]
    Overloaded,
    /// The driver has ended.
    #[error("the netstack has ended")]
    Closed,
}

/// How much of the limits is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Flows that hold buffers.
    pub flows: usize,
    /// SYNs that wait for a decision.
    pub pending: usize,
    /// Closed flows that still acknowledge a repeated FIN; they hold no buffers.
    pub lingering: usize,
}

/// The handle of a netstack; clones are the same netstack.
#[derive(Debug, Clone)]
pub struct Netstack {
    shared: Arc<Shared>,
    dials: mpsc::Sender<Dial>,
    arrivals: Arc<Mutex<mpsc::Receiver<PendingFlow>>>,
    datagrams: Arc<std::sync::Mutex<Option<DatagramReceiver>>>,
    datagram_sender: DatagramSender,
}

impl Netstack {
    /// A netstack, where its packets enter and leave, and the future that does its work.
    ///
    /// It ends when all handles are dropped and the last flow has ended, when the port is dropped, or when the driver
    /// is.
    pub fn new(mut config: Config) -> (Self, PacketPort, Driver) {
        config.mtu = config.mtu.clamp(1280, 65535);
        config.tcp_buffer = config.tcp_buffer.clamp(4 * 1024, 16 * 1024 * 1024);
        let shared = Arc::new(Shared::new(config.ledger.clone()));
        let (inbound, packets_in) = mpsc::channel(port::QUEUE_PACKETS_MAX);
        let (packets_out, outbound) = mpsc::channel(port::QUEUE_PACKETS_MAX);
        let (dials, dials_begun) = mpsc::channel(DIALS_MAX);
        let (arrived, arrivals) = mpsc::channel(config.pending_max.max(1));
        let (datagrams, datagrams_in) = mpsc::channel(udp::QUEUE_DATAGRAMS_MAX);
        let (wanted, datagrams_out) = mpsc::channel(udp::QUEUE_DATAGRAMS_MAX);
        let datagram_sender = DatagramSender { queue: wanted, ledger: shared.ledger.clone() };
        let driver = Driver {
            stack: Stack::new(config, shared.clone(), datagrams),
            wanted: datagrams_out,
            shared: shared.clone(),
            inbound: packets_in,
            outbound: packets_out,
            dials: dials_begun,
            arrivals: arrived,
            started: tokio::time::Instant::now(),
        };
        let port = PacketPort::new(inbound, outbound, shared.ledger.clone());
        let arrivals = Arc::new(Mutex::new(arrivals));
        let datagrams = Arc::new(std::sync::Mutex::new(Some(DatagramReceiver { queue: datagrams_in })));
        (Self { shared, dials, arrivals, datagrams, datagram_sender }, port, driver)
    }

    /// Opens a flow to `remote`. Returns when the handshake is complete; dropping the future gives it up with a RST.
    ///
    /// # Errors
    /// [`DialError`]. The time-out of its own is 30 seconds; callers want a shorter one.
    pub async fn dial(&self, remote: SocketAddr) -> Result<TcpFlow, DialError> {
        let (reply, answer) = oneshot::channel();
        self.dials.send(Dial { remote, reply }).await.map_err(|_| DialError::Closed)?;
        let flow = answer.await.map_err(|_| DialError::Closed)??;
        match std::future::poll_fn(|cx| flow.poll_established(cx)).await {
            Ok(()) => Ok(flow),
            Err(End::Reset | End::Finished) => Err(DialError::Refused { remote }),
            Err(End::Unreachable) => Err(DialError::Unreachable { remote }),
            Err(End::TimedOut) => Err(DialError::TimedOut { remote }),
            Err(End::Aborted) => Err(DialError::Closed),
        }
    }

    /// The next SYN to one of our addresses, on whatever port; `None` once the driver has ended. Cancel safe.
    ///
    /// Of several callers each SYN goes to one.
    pub async fn accept(&self) -> Option<PendingFlow> {
        let mut arrivals = self.arrivals.lock().await;
        loop {
            let pending = arrivals.recv().await?;
            if !pending.is_over() {
                return Some(pending);
            }
        }
    }

    /// The UDP datagrams that come to our addresses, on whatever port; `None` when they were taken already. As long as nobody
    /// has taken them, and after that was dropped, they are answered by Port Unreachable.
    pub fn datagrams(&self) -> Option<DatagramReceiver> {
        self.datagrams.lock().unwrap_or_else(PoisonError::into_inner).take().inspect(|_| self.shared.take_datagrams())
    }

    /// Where UDP datagrams go out.
    pub fn datagram_sender(&self) -> DatagramSender {
        self.datagram_sender.clone()
    }

    /// Where its packets are counted; see [`Config::ledger`].
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// How many flows there are. At most one round of the driver old.
    pub fn load(&self) -> Load {
        let load = &self.shared.load;
        Load {
            flows: load.flows.load(Ordering::Relaxed),
            pending: load.pending.load(Ordering::Relaxed),
            lingering: load.lingering.load(Ordering::Relaxed),
        }
    }
}

/// A dial on its way to the driver.
#[derive(Debug)]
struct Dial {
    remote: SocketAddr,
    reply: oneshot::Sender<Result<TcpFlow, DialError>>,
}

#[cfg(test)]
mod tests;
