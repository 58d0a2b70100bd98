//! The PROXY protocol, versions 1 and 2: what a proxy writes before all else to say for whom it connects. Bytes only.
//!
//! Source: "The PROXY protocol, versions 1 & 2" of HAProxy (doc/proxy-protocol.txt), here "the text".

mod decode;
mod encode;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use self::{
    decode::{DecodeError, Decoded, HEADER_BYTES_MAX, decode},
    encode::encode,
};

/// What version 1 begins with (the text, §2.1).
const V1: &[u8] = b"PROXY ";

/// What version 2 begins with (the text, §2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Which way it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// For whom the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// For the proxy itself, or for somebody whose address it cannot say: the connection's own addresses hold.
    Local,
    Proxied(Addresses),
}

/// The two ends of the connection that the proxy took, both IPv4 or both IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addresses {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Addresses {
    /// `None` when one is IPv4 and the other IPv6. An IPv4 address in IPv6 form counts as IPv4.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (plain(source), plain(destination));
        (source.is_ipv4() == destination.is_ipv4()).then_some(Self { source, destination })
    }

    /// The client.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Where the client connected to.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}
