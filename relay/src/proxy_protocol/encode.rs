//! Header → bytes.

use std::net::IpAddr;

use super::{Header, V1, V2, Version};

/// `header` as `version` writes it.
#[must_use]
pub fn encode(version: Version, header: &Header) -> Vec<u8> {
    match version {
        Version::V1 => encode_v1(header),
        Version::V2 => encode_v2(header),
    }
}

fn encode_v1(header: &Header) -> Vec<u8> {
    let mut bytes = V1.to_vec();
    match header {
        Header::Local => bytes.extend_from_slice(b"UNKNOWN"),
        Header::Proxied(addresses) => {
            let (source, destination) = (addresses.source, addresses.destination);
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            let line = format!("{family} {from} {to} {} {}", source.port(), destination.port());
            bytes.extend_from_slice(line.as_bytes());
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn encode_v2(header: &Header) -> Vec<u8> {
    let mut bytes = V2.to_vec();
    match header {
        // Version 2, LOCAL; unspecified; nothing follows.
        Header::Local => bytes.extend_from_slice(&[0x20, 0, 0, 0]),
        Header::Proxied(addresses) => {
            let (source, destination) = (addresses.source, addresses.destination);
            // Version 2, PROXY; TCP over IPv4 or IPv6; the length of both addresses and ports.
            bytes.extend_from_slice(if source.is_ipv4() { &[0x21, 0x11, 0, 12] } else { &[0x21, 0x21, 0, 36] });
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
                }
            }
            for port in [source.port(), destination.port()] {
                bytes.extend_from_slice(&port.to_be_bytes());
            }
        }
    }
    bytes
}
