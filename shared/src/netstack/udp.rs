//! UDP: whole datagrams to the application and from it. What belongs together is the application's to know.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, UdpPacket};
use tokio::sync::mpsc;

use crate::ledger::{Ledger, Place, Reason};

/// Datagrams that wait for the application, and datagrams of the application's that wait for the driver; those beyond are
/// lost. About a megabyte each.
pub(super) const QUEUE_DATAGRAMS_MAX: usize = 1024;

const HEADER_BYTES: usize = 8;

/// The hop limit of what we send.
const HOP_LIMIT: u8 = 64;

/// A datagram that came to one of the stack's addresses, whole and with a good checksum.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// The packet that it came in.
    pub(super) packet: Bytes,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) payload: Bytes,
}

/// What the application wants of the driver.
#[derive(Debug)]
pub(super) enum Wanted {
    Send { from: SocketAddr, to: SocketAddr, payload: Bytes },
    Refuse(Datagram),
}

/// Where datagrams come out of a netstack. When it is dropped, they are answered by Port Unreachable.
#[derive(Debug)]
pub struct DatagramReceiver {
    pub(super) queue: mpsc::Receiver<Datagram>,
}

/// Where datagrams go into a netstack; clones are the same.
#[derive(Debug, Clone)]
pub struct DatagramSender {
    pub(super) queue: mpsc::Sender<Wanted>,
    pub(super) ledger: Arc<Ledger>,
}

impl Datagram {
    /// Whom it is for.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Who sent it.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// What it carries; may be empty.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

impl DatagramReceiver {
    /// The next datagram, `None` once the driver has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<Datagram> {
        self.queue.recv().await
    }
}

impl DatagramSender {
    /// Sends a datagram from an address of the stack. Never waits: without room, or longer than UDP allows, it is lost and
    /// counted. The stack does not fragment; whether the lane takes its length is the lane's to say.
    pub fn send(&self, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        self.want(Wanted::Send { from, to, payload });
    }

    /// Answers a datagram by Port Unreachable, as often as that may be sent.
    pub fn refuse(&self, datagram: Datagram) {
        self.want(Wanted::Refuse(datagram));
    }

    fn want(&self, wanted: Wanted) {
        if self.queue.try_send(wanted).is_err() {
            self.ledger.lose(Place::Flow, Reason::QueueFull, 1);
        }
    }
}

/// The packet that carries `payload`; `None` for ends of two IP versions and for more than UDP carries.
pub(super) fn packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<BytesMut> {
    if from.is_ipv4() != to.is_ipv4() {
        return None;
    }
    let bytes = HEADER_BYTES + payload.len();
    let length = u16::try_from(bytes).ok()?;
    let ip = IpRepr::new(from.ip().into(), to.ip().into(), IpProtocol::Udp, bytes, HOP_LIMIT);
    if matches!(from.ip(), IpAddr::V4(_)) && ip.header_len() + bytes > usize::from(u16::MAX) {
        return None;
    }
    let mut packet = BytesMut::zeroed(ip.header_len());
    ip.emit(&mut packet[..], &ChecksumCapabilities::default());
    packet.put_u16(from.port());
    packet.put_u16(to.port());
    packet.put_u16(length);
    packet.put_u16(0);
    packet.put_slice(payload);
    UdpPacket::new_unchecked(&mut packet[ip.header_len()..]).fill_checksum(&from.ip().into(), &to.ip().into());
    Some(packet)
}
