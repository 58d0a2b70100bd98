//! Checked, borrowed views over whole IP packets (RFC 8200, RFC 791), and the one change a forwarder makes to them.
//!
//! A view is proof that the header's lengths agree with the buffer's, so that nothing behind it reads out of bounds.
//! Which packets are wanted (fragments, extension headers, sources) is the caller's decision; here they are only
//! recognised.

use std::net::{IpAddr, SocketAddr};

pub use ipv4::Ipv4View;
pub use ipv6::{Extension, Ipv6View};

mod checksum;
pub mod icmp;
mod ipv4;
mod ipv6;
pub mod offload;

/// Protocol numbers this code base names (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
}

/// Why bytes are not an IP packet that may be read further. Offsets and lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The buffer ends inside the named part.
    #[error("the packet ends inside its {part}: {needed} bytes are needed, {present} are there")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// How long the buffer would have to be at least.
        needed: usize,
        /// How long it is.
        present: usize,
    },
    /// The version field is neither the one asked for nor one that is known.
    #[error("the packet says it is IP version {0}")]
    Version(u8),
    /// The length field and the buffer disagree; a jumbogram (RFC 2675) ends here too.
    #[error("the header says {stated} bytes, the packet has {present}")]
    Length {
        /// Total length by the header.
        stated: usize,
        /// Length of the buffer.
        present: usize,
    },
    /// IPv4 only: IHL below five words, or longer than the packet.
    #[error("the header length field (IHL) is {0} words")]
    HeaderLength(u8),
    /// IPv4 only: the header checksum does not hold.
    #[error("the header checksum is wrong")]
    HeaderChecksum,
    /// IPv6 only: more extension headers than anybody sends in good faith.
    #[error("the packet has more than {0} extension headers")]
    ExtensionCount(usize),
}

/// A packet of either version.
#[derive(Debug, Clone, Copy)]
pub enum IpView<'a> {
    /// IPv4.
    V4(Ipv4View<'a>),
    /// IPv6.
    V6(Ipv6View<'a>),
}

impl<'a> IpView<'a> {
    /// Reads the version and checks the rest as that version asks.
    ///
    /// # Errors
    /// As [`Ipv4View::parse`] and [`Ipv6View::parse`]; [`PacketError::Version`] for any other version.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketError> {
        match version(packet)? {
            4 => Ipv4View::parse(packet).map(Self::V4),
            6 => Ipv6View::parse(packet).map(Self::V6),
            other => Err(PacketError::Version(other)),
        }
    }

    /// Source address.
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(view) => view.source().into(),
            Self::V6(view) => view.source().into(),
        }
    }

    /// Destination address.
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(view) => view.destination().into(),
            Self::V6(view) => view.destination().into(),
        }
    }

    /// TTL or hop limit.
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(view) => view.hop_limit(),
            Self::V6(view) => view.hop_limit(),
        }
    }

    /// The protocol of [`Self::payload`]: the last header of the chain that could be read (see [`Ipv6View::protocol`]).
    pub fn protocol(&self) -> u8 {
        match self {
            Self::V4(view) => view.protocol(),
            Self::V6(view) => view.protocol(),
        }
    }

    /// What follows the IP header, its options and its extension headers.
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::V4(view) => view.payload(),
            Self::V6(view) => view.payload(),
        }
    }

    /// True if the packet is a part of a larger one.
    pub fn is_fragment(&self) -> bool {
        match self {
            Self::V4(view) => view.is_fragment(),
            Self::V6(view) => view.is_fragment(),
        }
    }

    /// True if there are IPv4 options or IPv6 extension headers, a fragment header included.
    pub fn has_extensions(&self) -> bool {
        match self {
            Self::V4(view) => view.has_options(),
            Self::V6(view) => view.extension().is_some(),
        }
    }

    /// Protocol, addresses and ports of a TCP or UDP packet.
    ///
    /// `None` for other protocols, and for fragments, whose later parts have no ports.
    ///
    /// # Errors
    /// [`PacketError::Truncated`] if the transport header's ports do not fit.
    pub fn five_tuple(&self) -> Result<Option<FiveTuple>, PacketError> {
        let transport = match self.protocol() {
            protocol::TCP => Transport::Tcp,
            protocol::UDP => Transport::Udp,
            _ => return Ok(None),
        };
        if self.is_fragment() {
            return Ok(None);
        }
        let payload = self.payload();
        let [s0, s1, d0, d1, ..] = *payload else {
            return Err(PacketError::Truncated { part: "ports", needed: 4, present: payload.len() });
        };
        Ok(Some(FiveTuple {
            transport,
            source: SocketAddr::new(self.source(), u16::from_be_bytes([s0, s1])),
            destination: SocketAddr::new(self.destination(), u16::from_be_bytes([d0, d1])),
        }))
    }
}

/// The transports that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What tells one flow from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// TCP or UDP.
    pub transport: Transport,
    /// Who sent the packet.
    pub source: SocketAddr,
    /// Whom it is for.
    pub destination: SocketAddr,
}

/// Why a packet must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    /// The limit is used up; the sender is owed a Time Exceeded (RFC 4443 §3.3, RFC 792).
    #[error("the packet's hop limit is used up")]
    Expired,
    /// Not an IP packet with a whole header.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// Takes one from the hop limit or TTL, in place, and mends the IPv4 header checksum. Returns what is left, at least 1.
///
/// For whoever puts a packet into a tunnel or takes one out (RFC 9484 §7). Only the fixed header is looked at: the
/// packet has been through [`IpView::parse`] before. A packet that is refused is left as it was.
///
/// # Errors
/// [`HopError::Expired`] when the limit is 0 or 1.
pub fn decrement_hop_limit(packet: &mut [u8]) -> Result<u8, HopError> {
    match version(packet)? {
        4 => ipv4::decrement_hop_limit(packet),
        6 => ipv6::decrement_hop_limit(packet),
        other => Err(PacketError::Version(other).into()),
    }
}

fn version(packet: &[u8]) -> Result<u8, PacketError> {
    match packet.first() {
        Some(first) => Ok(first >> 4),
        None => Err(PacketError::Truncated { part: "version", needed: 1, present: 0 }),
    }
}

#[cfg(test)]
pub(crate) mod build;

#[cfg(test)]
mod tests;
