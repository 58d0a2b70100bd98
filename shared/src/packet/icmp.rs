//! ICMP errors in answer to packets that go no further (RFC 4443, RFC 792), and how many of them may be sent.
//!
//! Who may be answered at all is decided here; `None` means the packet must be dropped in silence.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::{BufMut as _, BytesMut};

use super::{IpView, ipv4, protocol};

/// The longest answer over IPv6, in bytes: what every link carries (RFC 4443 §2.4 (c)).
const V6_BYTES_MAX: usize = 1280;

/// The longest answer over IPv4, in bytes (RFC 1812 §4.3.2.3).
const V4_BYTES_MAX: usize = 576;

/// Type, code, checksum and four bytes that differ by message.
const ICMP_HEADER_BYTES: usize = 8;

/// The hop limit of our own packets: what RFC 1700 recommends, as far as anybody is away.
const HOP_LIMIT: u8 = 64;

/// Why a destination is not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nobody here has the address.
    NoRoute,
    /// The destination does not allow it.
    Prohibited,
    /// The address is somebody's who is not there now.
    Address,
    /// Nothing listens on the port.
    Port,
}

/// Packet Too Big (RFC 4443 §3.2), or over IPv4 Fragmentation Needed (RFC 1191 §4): at most `mtu` bytes pass.
#[must_use]
pub fn too_big(offending: &IpView<'_>, from: IpAddr, mtu: u16) -> Option<BytesMut> {
    let [high, low] = mtu.to_be_bytes();
    error(offending, from, [2, 0, 0, 0, 0, 0, high, low], [3, 4, 0, 0, 0, 0, high, low])
}

/// Time Exceeded in transit (RFC 4443 §3.3, RFC 792).
#[must_use]
pub fn time_exceeded(offending: &IpView<'_>, from: IpAddr) -> Option<BytesMut> {
    error(offending, from, [3, 0, 0, 0, 0, 0, 0, 0], [11, 0, 0, 0, 0, 0, 0, 0])
}

/// Destination Unreachable (RFC 4443 §3.1, RFC 792, RFC 1812 §5.2.7.1).
#[must_use]
pub fn unreachable(offending: &IpView<'_>, from: IpAddr, why: Unreachable) -> Option<BytesMut> {
    let (v6, v4) = match why {
        Unreachable::NoRoute => (0, 0),
        Unreachable::Prohibited => (1, 13),
        Unreachable::Address => (3, 1),
        Unreachable::Port => (4, 3),
    };
    error(offending, from, [1, v6, 0, 0, 0, 0, 0, 0], [3, v4, 0, 0, 0, 0, 0, 0])
}

fn error(offending: &IpView<'_>, from: IpAddr, v6: [u8; 8], v4: [u8; 8]) -> Option<BytesMut> {
    if !may_be_answered(offending) {
        return None;
    }
    match (offending, from) {
        (IpView::V6(packet), IpAddr::V6(from)) => Some(over_v6(packet.bytes(), (from, packet.source()), v6)),
        (IpView::V4(packet), IpAddr::V4(from)) => Some(over_v4(packet.bytes(), (from, packet.source()), v4)),
        _ => None,
    }
}

/// RFC 4443 §2.4 (e), RFC 1122 §3.2.2: no error about an error, none to a group and none about a packet to one, and none
/// where the sender cannot be told. Fragments are never answered: only the first could be, and none is forwarded.
fn may_be_answered(packet: &IpView<'_>) -> bool {
    let is_error = match (packet.protocol(), packet.payload()) {
        // A message without a type may be an error.
        (protocol::ICMPV6 | protocol::ICMP, []) => true,
        // Redirects are no errors, and are treated as such.
        (protocol::ICMPV6, [kind, ..]) => *kind < 128 || *kind == 137,
        (protocol::ICMP, [kind, ..]) => [3, 4, 5, 11, 12].contains(kind),
        _ => false,
    };
    let one = match packet {
        IpView::V6(packet) => {
            let source = packet.source();
            !source.is_unspecified() && !source.is_multicast() && !packet.destination().is_multicast()
        }
        IpView::V4(packet) => {
            let group = |address: Ipv4Addr| address.is_multicast() || address.is_broadcast();
            let source = packet.source();
            let plain = !source.is_unspecified() && !source.is_loopback() && source.octets()[0] < 240;
            plain && !group(source) && !group(packet.destination())
        }
    };
    one && !is_error && !packet.is_fragment()
}

fn over_v6(quoted: &[u8], (from, to): (Ipv6Addr, Ipv6Addr), header: [u8; 8]) -> BytesMut {
    let quoted = &quoted[..quoted.len().min(V6_BYTES_MAX - 40 - ICMP_HEADER_BYTES)];
    let body_bytes = u16::try_from(ICMP_HEADER_BYTES + quoted.len()).expect("it was cut to 1280 bytes");
    let mut packet = BytesMut::with_capacity(40 + usize::from(body_bytes));
    packet.put_slice(&[0x60, 0, 0, 0]);
    packet.put_u16(body_bytes);
    packet.put_slice(&[protocol::ICMPV6, HOP_LIMIT]);
    packet.put_slice(&from.octets());
    packet.put_slice(&to.octets());
    packet.put_slice(&header);
    packet.put_slice(quoted);
    // The pseudo header of RFC 8200 §8.1: addresses, length, three zeros and the protocol.
    let pseudo = ipv4::add(ipv4::sum(&packet[8..40]), ipv4::add(body_bytes, u16::from(protocol::ICMPV6)));
    let checksum = !ipv4::add(pseudo, ipv4::sum(&packet[40..]));
    packet[42..44].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn over_v4(quoted: &[u8], (from, to): (Ipv4Addr, Ipv4Addr), header: [u8; 8]) -> BytesMut {
    let quoted = &quoted[..quoted.len().min(V4_BYTES_MAX - 20 - ICMP_HEADER_BYTES)];
    let bytes = u16::try_from(20 + ICMP_HEADER_BYTES + quoted.len()).expect("it was cut to 576 bytes");
    let mut packet = BytesMut::with_capacity(usize::from(bytes));
    packet.put_slice(&[0x45, 0]);
    packet.put_u16(bytes);
    packet.put_slice(&[0, 0, 0, 0, HOP_LIMIT, protocol::ICMP, 0, 0]);
    packet.put_slice(&from.octets());
    packet.put_slice(&to.octets());
    let checksum = !ipv4::sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.put_slice(&header);
    packet.put_slice(quoted);
    let checksum = !ipv4::sum(&packet[20..]);
    packet[22..24].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// How many errors may still be sent: a bucket that fills with time (RFC 4443 §2.4 (f)).
///
/// Time is counted from any moment that stays the same.
#[derive(Debug)]
pub struct Allowance {
    left: u32,
    /// Up to when `left` is filled.
    filled: Duration,
}

impl Allowance {
    /// Errors a second in the long run, and at once after a pause.
    pub const A_SECOND: u32 = 100;

    /// One more error every so often.
    const EVERY: Duration = Duration::from_millis(1000 / Self::A_SECOND as u64);

    /// Whether one more error may be sent; takes it from what is left.
    pub fn take(&mut self, now: Duration) -> bool {
        let more = now.saturating_sub(self.filled).as_millis() / Self::EVERY.as_millis();
        match u32::try_from(more) {
            Ok(more) if self.left.saturating_add(more) < Self::A_SECOND => {
                self.left += more;
                self.filled += Self::EVERY * more;
            }
            _ => (self.left, self.filled) = (Self::A_SECOND, now),
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

/// A full one, at whatever time.
impl Default for Allowance {
    fn default() -> Self {
        Self { left: Self::A_SECOND, filled: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests;
