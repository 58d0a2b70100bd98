//! IPv6 (RFC 8200): the fixed header and a walk over extension headers, without acting on any of them.

use std::net::Ipv6Addr;

use super::{HopError, PacketError};

const HEADER_BYTES: usize = 40;
const HOP_LIMIT: usize = 7;

/// How many extension headers are walked. RFC 8200 §4.1 has seven in its recommended order.
const EXTENSIONS_MAX: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// What stands between the fixed header and the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// A fragment header is in the chain; the payload is a part of a packet (RFC 8200 §4.5).
    Fragment,
    /// Other extension headers; the first one's number.
    Other(u8),
}

/// An IPv6 packet whose lengths were checked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6View<'a> {
    packet: &'a [u8],
    extension: Option<Extension>,
    protocol: u8,
    payload_start: usize,
}

impl<'a> Ipv6View<'a> {
    /// Checks version, payload length against the buffer, and that every extension header fits.
    ///
    /// # Errors
    /// [`PacketError`], by fault. A payload length of 0 with bytes behind it (a jumbogram) is a
    /// [`PacketError::Length`].
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        let version = super::version(packet)?;
        if version != 6 {
            return Err(PacketError::Version(version));
        }
        if packet.len() < HEADER_BYTES {
            return Err(truncated("header", HEADER_BYTES, packet.len()));
        }
        let stated = HEADER_BYTES + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
        if stated != packet.len() {
            return Err(PacketError::Length { stated, present: packet.len() });
        }
        walk(packet)
    }

    /// The whole packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.packet
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// Hop limit.
    pub fn hop_limit(&self) -> u8 {
        self.packet[HOP_LIMIT]
    }

    /// The fixed header's next header field.
    pub fn next_header(&self) -> u8 {
        self.packet[6]
    }

    /// What [`Self::payload`] is: the next header field of the last header that was read.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// What follows the last header that was read.
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.payload_start..]
    }

    /// The extension headers, if there are any.
    pub fn extension(&self) -> Option<Extension> {
        self.extension
    }

    /// True if a fragment header is in the chain, atomic fragments (RFC 6946) included.
    pub fn is_fragment(&self) -> bool {
        self.extension == Some(Extension::Fragment)
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let octets: [u8; 16] = self.packet[at..at + 16].try_into().expect("parse checked that the header is whole");
        octets.into()
    }
}

pub(super) fn decrement_hop_limit(packet: &mut [u8]) -> Result<u8, HopError> {
    if packet.len() < HEADER_BYTES {
        return Err(truncated("header", HEADER_BYTES, packet.len()).into());
    }
    let limit = packet[HOP_LIMIT];
    if limit <= 1 {
        return Err(HopError::Expired);
    }
    packet[HOP_LIMIT] = limit - 1;
    Ok(limit - 1)
}

fn walk(packet: &[u8]) -> Result<Ipv6View<'_>, PacketError> {
    let mut view = Ipv6View { packet, extension: None, protocol: packet[6], payload_start: HEADER_BYTES };
    for _ in 0..EXTENSIONS_MAX {
        let Some(bytes) = extension_bytes(view.protocol, &packet[view.payload_start..])? else {
            return Ok(view);
        };
        let end = view.payload_start + bytes;
        if end > packet.len() {
            return Err(truncated("extension header", end, packet.len()));
        }
        view.extension = match (view.protocol, view.extension) {
            (FRAGMENT, _) => Some(Extension::Fragment),
            (first, None) => Some(Extension::Other(first)),
            (_, earlier) => earlier,
        };
        view.protocol = packet[view.payload_start];
        view.payload_start = end;
        if view.is_fragment() {
            return Ok(view);
        }
    }
    match extension_bytes(view.protocol, &packet[view.payload_start..])? {
        None => Ok(view),
        Some(_) => Err(PacketError::ExtensionCount(EXTENSIONS_MAX)),
    }
}

/// Length of the extension header `number` at the start of `rest`, or `None` if `number` is not an extension header.
fn extension_bytes(number: u8, rest: &[u8]) -> Result<Option<usize>, PacketError> {
    let length = |rest: &[u8]| match *rest {
        [_, length, ..] => Ok(usize::from(length)),
        _ => Err(truncated("extension header", 2, rest.len())),
    };
    Ok(match number {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => Some((length(rest)? + 1) * 8),
        AUTHENTICATION => Some((length(rest)? + 2) * 4),
        FRAGMENT => Some(8),
        _ => None,
    })
}

fn truncated(part: &'static str, needed: usize, present: usize) -> PacketError {
    PacketError::Truncated { part, needed, present }
}
