//! Where whole IP packets enter and leave a netstack.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::ledger::{Ledger, Place, Reason};

/// Packets that wait to be read by the driver, and packets that wait to be read by the owner, at most.
///
/// 5 MB at the default MTU: full windows of twenty flows, which may all arrive in one burst. What does not fit costs
/// a flow a time-out of a second.
pub(super) const QUEUE_PACKETS_MAX: usize = 4096;

/// Both ends of the packet lane. Dropping either half ends the netstack, as pulling a cable out would.
#[derive(Debug)]
pub struct PacketPort {
    inbound: PacketSender,
    outbound: PacketReceiver,
}

impl PacketPort {
    pub(super) fn new(inbound: mpsc::Sender<Bytes>, outbound: mpsc::Receiver<BytesMut>, ledger: Arc<Ledger>) -> Self {
        Self { inbound: PacketSender { queue: inbound, ledger }, outbound: PacketReceiver { queue: outbound } }
    }

    /// As [`PacketSender::push`].
    pub fn push(&self, packet: impl Into<Bytes>) -> bool {
        self.inbound.push(packet)
    }

    /// As [`PacketReceiver::recv`].
    pub async fn recv(&mut self) -> Option<BytesMut> {
        self.outbound.recv().await
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (PacketSender, PacketReceiver) {
        (self.inbound, self.outbound)
    }
}

/// Packets into the netstack. The netstack ends when the last clone is gone.
#[derive(Debug, Clone)]
pub struct PacketSender {
    queue: mpsc::Sender<Bytes>,
    ledger: Arc<Ledger>,
}

impl PacketSender {
    /// Hands over one whole IP packet, of any content. Never waits.
    ///
    /// At 4096 packets that the driver has not read the packet is dropped and counted ([`Reason::QueueFull`]).
    /// False once the driver has ended.
    pub fn push(&self, packet: impl Into<Bytes>) -> bool {
        self.ledger.enter(Place::Netstack, 1);
        match self.queue.try_send(packet.into()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.ledger.lose(Place::Netstack, Reason::QueueFull, 1);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                self.ledger.lose(Place::Netstack, Reason::NoSession, 1);
                false
            }
        }
    }

    /// As [`Self::push`], but waits for room instead of dropping: for an owner whose own source can wait. Cancel
    /// safe, but for the packet.
    pub async fn send(&self, packet: impl Into<Bytes>) -> bool {
        let Ok(room) = self.queue.reserve().await else { return false };
        self.ledger.enter(Place::Netstack, 1);
        room.send(packet.into());
        true
    }
}

/// Packets out of the netstack.
#[derive(Debug)]
pub struct PacketReceiver {
    queue: mpsc::Receiver<BytesMut>,
}

impl PacketReceiver {
    /// The next packet to send, or `None` once the driver has ended. Cancel safe.
    ///
    /// At most 4096 packets wait here; then the flows wait, and nothing is lost.
    pub async fn recv(&mut self) -> Option<BytesMut> {
        self.queue.recv().await
    }

    /// Adds up to `limit` packets to `batch` and returns how many; 0 once the driver has ended. Cancel safe.
    pub async fn recv_many(&mut self, batch: &mut Vec<BytesMut>, limit: usize) -> usize {
        self.queue.recv_many(batch, limit).await
    }
}
