//! IPv4 (RFC 791): the header with its options, its checksum, and fragments recognised.

use std::net::Ipv4Addr;

use super::{HopError, PacketError};

const HEADER_BYTES_MIN: usize = 20;
const TTL: usize = 8;
const CHECKSUM: usize = 10;

/// An IPv4 packet whose lengths and header checksum were checked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<'a> {
    packet: &'a [u8],
    header_bytes: usize,
}

impl<'a> Ipv4View<'a> {
    /// Checks version, IHL, total length against the buffer, and the header checksum.
    ///
    /// # Errors
    /// [`PacketError`], by fault.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        let version = super::version(packet)?;
        if version != 4 {
            return Err(PacketError::Version(version));
        }
        if packet.len() < HEADER_BYTES_MIN {
            return Err(truncated(packet));
        }
        let stated = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        if stated != packet.len() {
            return Err(PacketError::Length { stated, present: packet.len() });
        }
        let words = packet[0] & 0x0f;
        let header_bytes = usize::from(words) * 4;
        if header_bytes < HEADER_BYTES_MIN || header_bytes > packet.len() {
            return Err(PacketError::HeaderLength(words));
        }
        if sum(&packet[..header_bytes]) != 0xffff {
            return Err(PacketError::HeaderChecksum);
        }
        Ok(Self { packet, header_bytes })
    }

    /// The whole packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.packet
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        self.address(12)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.address(16)
    }

    /// Time to live, in hops.
    pub fn hop_limit(&self) -> u8 {
        self.packet[TTL]
    }

    /// What [`Self::payload`] is.
    pub fn protocol(&self) -> u8 {
        self.packet[9]
    }

    /// What follows the header and its options.
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_bytes..]
    }

    /// True if the header is longer than its fixed part.
    pub fn has_options(&self) -> bool {
        self.header_bytes > HEADER_BYTES_MIN
    }

    /// True if More Fragments is set or the fragment offset is not 0.
    pub fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.packet[6], self.packet[7]]) & 0x3fff != 0
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        let octets: [u8; 4] = self.packet[at..at + 4].try_into().expect("parse checked that the header is whole");
        octets.into()
    }
}

pub(super) fn decrement_hop_limit(packet: &mut [u8]) -> Result<u8, HopError> {
    if packet.len() < HEADER_BYTES_MIN {
        return Err(truncated(packet).into());
    }
    let limit = packet[TTL];
    if limit <= 1 {
        return Err(HopError::Expired);
    }
    let before = u16::from_be_bytes([packet[TTL], packet[TTL + 1]]);
    packet[TTL] = limit - 1;
    let after = u16::from_be_bytes([packet[TTL], packet[TTL + 1]]);
    let checksum = u16::from_be_bytes([packet[CHECKSUM], packet[CHECKSUM + 1]]);
    packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&updated(checksum, before, after).to_be_bytes());
    Ok(limit - 1)
}

/// RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m').
fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!before) + u32::from(after))
}

/// One's complement sum of 16-bit words, the last one filled up with a zero; 0xffff over a header whose checksum holds
/// (RFC 1071). For at most 64 KiB.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let (words, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |&odd| u32::from(odd) << 8);
    fold(words.iter().map(|&word| u32::from(u16::from_be_bytes(word))).sum::<u32>() + last)
}

/// One's complement addition.
pub(super) fn add(one: u16, other: u16) -> u16 {
    fold(u32::from(one) + u32::from(other))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded until it fits")
}

fn truncated(packet: &[u8]) -> PacketError {
    PacketError::Truncated { part: "header", needed: HEADER_BYTES_MIN, present: packet.len() }
}
