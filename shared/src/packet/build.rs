//! Packets for tests, written out byte by byte so that they share no code with the views they check.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An IPv6 packet with `payload` behind the fixed header.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IPv4 packet with `options` (whole words) and `payload`.
pub(crate) fn ipv4(
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    ttl: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header_bytes / 4).unwrap(), 0];
    packet.extend(u16::try_from(header_bytes + payload.len()).unwrap().to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, ttl, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    seal(&mut packet);
    packet.extend(payload);
    packet
}

/// Writes the IPv4 header checksum of a packet of which only the header may be there yet.
pub(crate) fn seal(packet: &mut [u8]) {
    let header_bytes = usize::from(packet[0] & 0x0f) * 4;
    packet[10..12].fill(0);
    let mut total: u32 = 0;
    for at in (0..header_bytes).step_by(2) {
        total += (u32::from(packet[at]) << 8) | u32::from(packet[at + 1]);
    }
    let folded = (total & 0xffff) + (total >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[10..12].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
}
