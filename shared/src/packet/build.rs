//! Packets for tests, written out byte by byte so that they share no code with the views they check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::protocol;

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

/// FIN, SYN, RST and ACK as they stand in a TCP header.
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A TCP segment of either IP version, without options, window 65535.
pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, numbers: (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    tcp_with((from, to), numbers, flags, (65535, &[]), payload)
}

/// A TCP segment with a window and options (whole words) of its own.
pub(crate) fn tcp_with(
    (from, to): (SocketAddr, SocketAddr),
    (seq, ack): (u32, u32),
    flags: u8,
    (window, options): (u16, &[u8]),
    payload: &[u8],
) -> Vec<u8> {
    let mut body = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes()].concat();
    body.extend(seq.to_be_bytes());
    body.extend(ack.to_be_bytes());
    body.extend([u8::try_from(5 + options.len() / 4).unwrap() << 4, flags]);
    body.extend(window.to_be_bytes());
    body.extend([0; 4]);
    body.extend(options);
    body.extend(payload);
    transport((from.ip(), to.ip()), protocol::TCP, 16, &mut body)
}

/// A UDP datagram of either IP version.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut body = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes()].concat();
    body.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    transport((from.ip(), to.ip()), protocol::UDP, 6, &mut body)
}

/// An ICMP message; for IPv4 the checksum has no pseudo header.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut body = [&[kind, code, 0, 0][..], rest].concat();
    match from {
        IpAddr::V6(_) => transport((from, to), protocol::ICMPV6, 2, &mut body),
        IpAddr::V4(_) => {
            let checksum = !folded_sum(&body);
            body[2..4].copy_from_slice(&checksum.to_be_bytes());
            ip((from, to), protocol::ICMP, &body)
        }
    }
}

/// Seals `body` with the checksum at `at` over the pseudo header (RFC 8200 §8.1, RFC 9293 §3.1) and wraps it.
fn transport(ends: (IpAddr, IpAddr), number: u8, at: usize, body: &mut [u8]) -> Vec<u8> {
    let mut covered = match ends {
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("both ends are of one family"),
    };
    covered.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    covered.extend([0, 0, 0, number]);
    covered.extend(&*body);
    body[at..at + 2].copy_from_slice(&(!folded_sum(&covered)).to_be_bytes());
    ip(ends, number, body)
}

fn ip(ends: (IpAddr, IpAddr), number: u8, body: &[u8]) -> Vec<u8> {
    match ends {
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, number, 64, body),
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4((from, to), number, 64, &[], body),
        _ => panic!("both ends are of one family"),
    }
}

fn folded_sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for word in bytes.chunks(2) {
        total += (u64::from(word[0]) << 8) + u64::from(word.get(1).copied().unwrap_or(0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}
