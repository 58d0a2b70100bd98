//! IPv6 packets written out byte by byte, as a host in the overlay would send them.

use std::net::{Ipv6Addr, SocketAddrV6};

/// ICMPv6 (RFC 4443) and UDP, as the IPv6 header names them.
pub const ICMPV6: u8 = 58;
pub const UDP: u8 = 17;

/// A packet with a hop limit of 64.
#[must_use]
pub fn ipv6((source, destination): (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).expect("a packet of at most 64 KiB").to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An echo request with these bytes.
#[must_use]
pub fn ping(ends: (Ipv6Addr, Ipv6Addr), id: u16, data: &[u8]) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(data);
    let checksum = checksum(ends, ICMPV6, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ipv6(ends, ICMPV6, &message)
}

/// A UDP datagram.
#[must_use]
pub fn udp(from: SocketAddrV6, to: SocketAddrV6, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).expect("a datagram of at most 64 KiB");
    let header = [from.port().to_be_bytes(), to.port().to_be_bytes(), length.to_be_bytes(), [0, 0]];
    let mut datagram = header.concat();
    datagram.extend(data);
    let ends = (*from.ip(), *to.ip());
    let checksum = checksum(ends, UDP, &datagram);
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    ipv6(ends, UDP, &datagram)
}

/// Type and code of an ICMPv6 message, `None` for anything else.
#[must_use]
pub fn icmp_of(packet: &[u8]) -> Option<(u8, u8)> {
    match packet {
        [first, ..] if first >> 4 == 6 && packet.get(6) == Some(&ICMPV6) => Some((*packet.get(40)?, *packet.get(41)?)),
        _ => None,
    }
}

/// Over the pseudo header of RFC 8200 §8.1 and `body`, whose own checksum is zero.
fn checksum((source, destination): (Ipv6Addr, Ipv6Addr), next: u8, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).expect("a packet of at most 64 KiB").to_be_bytes();
    let covered = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, next], body].concat();
    let mut sum: u32 = 0;
    for word in covered.chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded until it fits")
}
