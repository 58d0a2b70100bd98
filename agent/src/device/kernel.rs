//! Kernel mode: a TUN device at the agent's overlay address, the route to the project through it, and a firewall table.
//!
//! Needs CAP_NET_ADMIN and nothing else. The device goes with the process, however that ends, and takes address and route
//! along; the table, which is about that device alone, is removed on every exit but a kill, and replaced at the next start.
//! One agent of a host (of a network namespace) has it; the device's name is the lock.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Bytes, BytesMut};
use tracing::warn;
use underpass_shared::{
    host::{
        netlink::{Netlink, NetlinkError},
        nftables::{self, FirewallError},
        ruleset::{Admitted, Ruleset},
        tun::{Tun, TunError},
    },
    ledger::{Place, Reason},
    packet::offload::{Coalescer, FRAME_BYTES_MAX, VIRTIO_BYTES, WRITE_SEGMENTS_MAX, packet_of, split},
};

use super::{BATCH_PACKETS, Gate};
use crate::node::{overlay::Overlay, publish::Published};

/// The device's name.
pub(super) const NAME: &str = "underpass0";

/// The longest packet: what every path of the tunnel takes, as a datagram or as a capsule (RFC 8200 §5).
const MTU: u16 = 1280;

/// Why the kernel has no device for us.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Without it the host would be open where nothing is published.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

#[derive(Debug)]
pub(super) struct KernelDevice {
    tun: Tun,
    netlink: Netlink,
    frame: Box<[u8]>,
    /// Where frames are split into; what is under way in the connection still lies in its earlier parts.
    slab: BytesMut,
    cuts: Vec<usize>,
    coalescer: Coalescer,
}

impl KernelDevice {
    pub(super) fn open() -> Result<Self, KernelError> {
        Ok(Self {
            tun: Tun::open(NAME, MTU)?,
            netlink: Netlink::open()?,
            frame: vec![0; FRAME_BYTES_MAX].into(),
            slab: BytesMut::new(),
            cuts: Vec::new(),
            coalescer: Coalescer::default(),
        })
    }

    /// The rules stand before the device is up.
    pub(super) async fn assign(&mut self, overlay: &Overlay, published: &Published) -> Result<(), KernelError> {
        let admitted = if published.is_everything() {
            Admitted::From(overlay.relays())
        } else {
            Admitted::Ports(published.unmapped().collect())
        };
        nftables::apply(&Ruleset::new(NAME, &admitted))?;
        Ok(self.netlink.assign(self.tun.index(), overlay.address(), &[overlay.route()]).await?)
    }

    /// Waits for a frame, then reads what is there, up to a batch.
    pub(super) async fn collect(
        &mut self,
        mut gate: Gate<'_>,
        prefix: &[u8],
        frames: &mut VecDeque<Bytes>,
    ) -> io::Result<()> {
        self.tun.readable().await?;
        let full = frames.len() + BATCH_PACKETS;
        while frames.len() < full {
            match self.tun.try_read(&mut self.frame) {
                Ok(bytes) => self.take(bytes, &mut gate, prefix, frames),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Splits the frame that was read.
    fn take(&mut self, bytes: usize, gate: &mut Gate<'_>, prefix: &[u8], frames: &mut VecDeque<Bytes>) {
        let frame = &self.frame[..bytes];
        // Too short for a virtio header: as good as an empty packet.
        if !gate.lead(packet_of(frame).unwrap_or_default()) {
            return;
        }
        self.cuts.clear();
        if split(frame, prefix, &mut self.slab, &mut self.cuts).is_err() {
            gate.ledger.enter(Place::Device, 1);
            return gate.ledger.lose(Place::Device, Reason::Malformed, 1);
        }
        let whole = self.slab.split().freeze();
        let mut from = 0;
        for &to in &self.cuts {
            frames.push_back(whole.slice(from..to));
            from = to;
        }
    }

    /// Writes a batch, packets of one flow together. What the host does not take is dropped: it has no queue to wait for.
    pub(super) fn deliver(&mut self, gate: &mut Gate<'_>, packets: &[Bytes]) {
        gate.ledger.enter(Place::Device, packets.len() as u64);
        for write in self.coalescer.plan(packets) {
            let mut slices = [IoSlice::new(&[]); 1 + WRITE_SEGMENTS_MAX];
            slices[0] = IoSlice::new(write.header());
            let (mut count, mut bytes) = (1, write.header().len());
            for (packet, from) in write.pieces() {
                let piece = &packets[packet][from..];
                slices[count] = IoSlice::new(piece);
                (count, bytes) = (count + 1, bytes + piece.len());
            }
            let held = (count - 1) as u64;
            match self.tun.try_write(&slices[..count]) {
                Ok(()) => {
                    gate.crossed.frames_in += 1;
                    gate.crossed.bytes_in += (bytes - VIRTIO_BYTES) as u64;
                    gate.ledger.deliver(Place::Device, held);
                }
                Err(_) => gate.ledger.lose(Place::Device, Reason::HostRefused, held),
            }
        }
    }
}

impl Drop for KernelDevice {
    fn drop(&mut self) {
        remove_rules();
    }
}

/// Removes what would outlive the process. Nothing is left to do where the host refuses: without the device no rule of
/// the table applies, and the next start replaces it.
pub(super) fn remove_rules() {
    if let Err(error) = nftables::reset() {
        warn!(%error, "rules remain");
    }
}
