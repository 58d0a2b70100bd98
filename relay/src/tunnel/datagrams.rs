//! Datagrams to a service behind an agent, over the packet lane: the relay's netstack sends them from a port for each client.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use underpass_shared::{
    ledger::{Ledger, Place, Reason},
    netstack::{DatagramReceiver, DatagramSender},
};

/// Answers of one service that wait for its client's turn; further ones are lost.
const WAITING_MAX: usize = 64;

/// The ports that datagrams are sent from, as Linux has them.
const PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

/// How many random ports are tried for a flow: of one service's flows half the ports are free in all but absurd cases.
const PORT_GUESSES: usize = 32;

/// A service's answers to one client.
#[derive(Debug, Default)]
struct Inbox {
    /// At most [`WAITING_MAX`].
    waiting: Mutex<VecDeque<Bytes>>,
    /// Told of each answer; one waits.
    arrived: Notify,
}

/// Our port, and the service.
type Ends = (u16, SocketAddr);

/// The flows of one project's netstack. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct DatagramFlows {
    /// As many as all sessions together have room for.
    inbox_by_ends: Arc<Mutex<HashMap<Ends, Arc<Inbox>>>>,
}

/// One client's datagrams to a service behind an agent, and the answers.
#[derive(Debug)]
pub struct DatagramFlow {
    flows: DatagramFlows,
    sender: DatagramSender,
    local: SocketAddr,
    service: SocketAddr,
    inbox: Arc<Inbox>,
    connection: quinn::Connection,
    /// The flow's place among its session's.
    _place: OwnedSemaphorePermit,
}

impl DatagramFlows {
    /// Hands what comes to the netstack to the flows it is for, until the netstack ends.
    pub(super) async fn deliver(self, mut receiver: DatagramReceiver, sender: DatagramSender, ledger: Arc<Ledger>) {
        while let Some(datagram) = receiver.recv().await {
            let inbox = self.lock().get(&(datagram.local().port(), datagram.remote())).cloned();
            let Some(inbox) = inbox else {
                sender.refuse(datagram);
                continue;
            };
            let mut waiting = inbox.lock();
            if waiting.len() >= WAITING_MAX {
                ledger.lose(Place::Flow, Reason::FlowFull, 1);
                continue;
            }
            waiting.push_back(datagram.payload().clone());
            drop(waiting);
            inbox.arrived.notify_one();
        }
    }

    /// A flow from a free port of `local` to `service`; `None` when no port is free. It ends with `connection`.
    pub(super) fn open(
        &self,
        sender: DatagramSender,
        (local, service): (std::net::IpAddr, SocketAddr),
        connection: quinn::Connection,
        place: OwnedSemaphorePermit,
    ) -> Option<DatagramFlow> {
        let mut inboxes = self.lock();
        let mut ports = (0..PORT_GUESSES).map(|_| rand::random_range(PORTS));
        let port = ports.find(|&port| !inboxes.contains_key(&(port, service)))?;
        let inbox = Arc::<Inbox>::default();
        inboxes.insert((port, service), Arc::clone(&inbox));
        drop(inboxes);
        let (flows, local) = (self.clone(), SocketAddr::new(local, port));
        Some(DatagramFlow { flows, sender, local, service, inbox, connection, _place: place })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, Arc<Inbox>>> {
        self.inbox_by_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DatagramFlow {
    /// Sends a datagram; what there is no room for on the way is lost and counted there.
    pub fn send(&self, datagram: &[u8]) {
        self.sender.send(self.local, self.service, Bytes::copy_from_slice(datagram));
    }

    /// Returns when an answer waits. Cancel-safe; for one caller at a time.
    ///
    /// # Errors
    /// The agent's session has ended.
    pub async fn readable(&self) -> io::Result<()> {
        while self.inbox.lock().is_empty() {
            tokio::select! {
                () = self.inbox.arrived.notified() => {}
                ended = self.connection.closed() => return Err(io::Error::other(ended)),
            }
        }
        Ok(())
    }

    /// The next answer, cut to the length of `buffer`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none waits.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = self.inbox.lock().pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let length = answer.len().min(buffer.len());
        buffer[..length].copy_from_slice(&answer[..length]);
        Ok(length)
    }
}

impl Drop for DatagramFlow {
    fn drop(&mut self) {
        self.flows.lock().remove(&(self.local.port(), self.service));
    }
}
