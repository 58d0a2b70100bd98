//! Segmentation offload of a TUN device with `IFF_VNET_HDR`: one read or write is a header and up to 64 KiB of one flow.
//!
//! ```text
//!  device ─ frame: virtio header, long packet ─▶ split ─▶ packets of the path's size, behind the tunnel's own prefix
//!  device ◀─ frames ─ Coalescer::plan ◀─ packets as they came out of the tunnel, which stay where they are
//! ```
//! Pure. The header is that of VIRTIO 1.2 §5.1.6 without `num_buffers`, in the machine's own byte order, as Linux's
//! `tun` speaks it. What `split` makes of a planned frame are the packets that went in, byte for byte.

mod coalesce;
mod split;

pub use coalesce::{Coalescer, Write};
pub use split::split;

use super::{IpView, protocol};

/// How long the virtio header is.
pub const VIRTIO_BYTES: usize = 10;

/// The longest packet that a frame carries: what the length fields of both IP versions can say.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// The longest frame that a device hands out: an IPv6 header is not in its length field, and comes on top.
pub const FRAME_BYTES_MAX: usize = VIRTIO_BYTES + 40 + PACKET_BYTES_MAX;

/// How many packets one frame stands for at most, when we write it: the kernel takes no more (`UDP_MAX_SEGMENTS`).
pub const WRITE_SEGMENTS_MAX: usize = 64;

/// How many packets one frame may be split into.
///
/// The kernel's smallest TCP segment has 48 bytes of payload (`TCP_MIN_SND_MSS`), of which 64 KiB hold 1,366.
pub const READ_SEGMENTS_MAX: usize = 1400;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Set beside the type when the long packet has CWR set, which only its first segment keeps (RFC 3168 §6.1.2).
const GSO_ECN: u8 = 0x80;

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_BYTES: usize = 8;
const TCP_BYTES_MIN: usize = 20;
const TCP_BYTES_MAX: usize = 60;

/// The flags of TCP that matter here.
mod flag {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const CWR: u8 = 0x80;
}

/// Why a frame from the device cannot be turned into packets. It is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OffloadError {
    #[error("the frame ends inside its headers")]
    Truncated,
    #[error("segmentation of type {0} was never asked for")]
    Type(u8),
    #[error("the frame would be more than {READ_SEGMENTS_MAX} packets")]
    Segments,
    #[error("the packet is not what its virtio header says")]
    Mismatch,
}

/// The virtio header of a frame. Offsets and lengths are in bytes, from the start of the packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Virtio {
    flags: u8,
    gso_type: u8,
    headers: u16,
    segment: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Virtio {
    fn parse(frame: &[u8]) -> Result<(Self, &[u8]), OffloadError> {
        let (header, packet) = frame.split_first_chunk::<VIRTIO_BYTES>().ok_or(OffloadError::Truncated)?;
        let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = *header;
        let word = |low, high| u16::from_ne_bytes([low, high]);
        let virtio = Self {
            flags,
            gso_type,
            headers: word(h0, h1),
            segment: word(s0, s1),
            checksum_start: word(c0, c1),
            checksum_offset: word(o0, o1),
        };
        Ok((virtio, packet))
    }

    fn encode(self) -> [u8; VIRTIO_BYTES] {
        let words = [self.headers, self.segment, self.checksum_start, self.checksum_offset].map(u16::to_ne_bytes);
        let [[h0, h1], [s0, s1], [c0, c1], [o0, o1]] = words;
        [self.flags, self.gso_type, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}

/// The packet of a frame, without its virtio header.
///
/// # Errors
/// [`OffloadError::Truncated`].
pub fn packet_of(frame: &[u8]) -> Result<&[u8], OffloadError> {
    Virtio::parse(frame).map(|(_, packet)| packet)
}

/// Where the headers of a TCP or UDP packet end, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    v4: bool,
    protocol: u8,
    ip: usize,
    headers: usize,
}

impl Layout {
    /// `None`: a fragment, a packet with options or extension headers, another protocol, or one whose header does not fit.
    fn of(packet: &[u8], view: &IpView<'_>) -> Option<Self> {
        if view.is_fragment() || view.has_extensions() {
            return None;
        }
        let payload = view.payload();
        let ip = packet.len() - payload.len();
        let protocol = view.protocol();
        let transport = match protocol {
            protocol::TCP => usize::from(payload.get(12)? >> 4) * 4,
            protocol::UDP => UDP_BYTES,
            _ => return None,
        };
        let fits = transport <= payload.len() && (protocol == protocol::UDP || transport >= TCP_BYTES_MIN);
        fits.then_some(Self { v4: matches!(view, IpView::V4(_)), protocol, ip, headers: ip + transport })
    }

    /// From the start of the transport header.
    fn checksum_offset(&self) -> usize {
        if self.protocol == protocol::TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Writes the length fields of IP and UDP into `headers`, of a packet of `total` bytes, and seals an IPv4 header.
fn put_lengths(headers: &mut [u8], layout: Layout, total: usize) {
    // No packet here is longer than the fields can say.
    let field = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    if layout.v4 {
        put(headers, 2, &field(total));
        seal_v4(&mut headers[..layout.ip]);
    } else {
        put(headers, 4, &field(total - layout.ip));
    }
    if layout.protocol == protocol::UDP {
        put(headers, layout.ip + 4, &field(total - layout.ip));
    }
}

fn seal_v4(header: &mut [u8]) {
    put(header, 10, &[0, 0]);
    let checksum = super::checksum::Sum::default().add(header).checksum();
    put(header, 10, &checksum);
}

#[cfg(test)]
mod tests;
