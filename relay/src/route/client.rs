//! How a listener deals with its clients, where a ClientTrafficPolicy says so.
//!
//! Plain data, compiled by `translate`; `listener` and `proxy` act on it. Without a policy there is none of it. Every
//! time-out and limit that is `None` is the relay's own.

use std::{net::IpAddr, time::Duration};

use http::HeaderName;
use ipnet::IpNet;

use super::target::Keepalive;

/// Everything that a policy says of one listener, but for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientSettings {
    pub arrival: Arrival,
    pub connection: Connection,
    pub requests: Requests,
    /// Whether HTTP/3 is served, where it can be.
    pub http3: bool,
}

/// What holds as soon as a connection is there, so that all listeners of one address share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrival {
    pub from_proxies: Option<FromProxies>,
    pub limit: Option<ConnectionLimit>,
    pub keepalive: Option<Keepalive>,
}

/// Whether connections begin by saying for whom they are (PROXY protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromProxies {
    /// Those that do not are closed.
    Always,
    OrNot,
}

/// How many connections an address has at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    pub connections: u64,
    /// How long one that is too many waits before it is closed.
    pub close_delay: Duration,
}

/// What holds while a connection lives. Over TLS each listener has its own, as the name of the handshake selects it; in
/// the clear nobody knows yet whose requests will come, and the first listener of an address decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Without a request.
    pub idle: Option<Duration>,
    /// Of a connection whose bytes are passed on: without a byte.
    pub stream_idle: Option<Duration>,
    /// How long it lives; requests under way are finished.
    pub duration: Option<Duration>,
    /// How many requests it carries.
    pub requests: Option<u32>,
    pub http2: Http2,
}

/// RFC 9113 §6.5.2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Http2 {
    pub streams: Option<u32>,
    /// In bytes.
    pub stream_window: Option<u32>,
    /// In bytes.
    pub connection_window: Option<u32>,
}

/// What holds for each request, of the listener that its host belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    pub origin: Option<Origin>,
    /// How long until a request has come in full.
    pub received_within: Option<Duration>,
    /// How long a request or its response may be silent.
    pub idle: Option<Duration>,
}

/// Where the client's address is taken from when a proxy stands between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// That many proxies stand before the relay, each of which adds whom it serves.
    Hops(usize),
    /// Proxies of these networks are believed.
    Networks(Vec<IpNet>),
    /// A header that proxies set.
    Header {
        name: HeaderName,
        /// Whether requests without it are refused.
        fail_closed: bool,
    },
}

impl Arrival {
    /// Whether nothing is said here that `decided` does not say.
    #[must_use]
    pub fn agrees_with(&self, decided: &Self) -> bool {
        fits(&self.from_proxies, &decided.from_proxies)
            && fits(&self.limit, &decided.limit)
            && fits(&self.keepalive, &decided.keepalive)
    }
}

impl Connection {
    /// Whether nothing is said here that `decided` does not say.
    #[must_use]
    pub fn agrees_with(&self, decided: &Self) -> bool {
        fits(&self.idle, &decided.idle)
            && fits(&self.stream_idle, &decided.stream_idle)
            && fits(&self.duration, &decided.duration)
            && fits(&self.requests, &decided.requests)
            && fits(&self.http2.streams, &decided.http2.streams)
            && fits(&self.http2.stream_window, &decided.http2.stream_window)
            && fits(&self.http2.connection_window, &decided.http2.connection_window)
    }
}

fn fits<T: PartialEq>(said: &Option<T>, decided: &Option<T>) -> bool {
    said.is_none() || said == decided
}

impl Origin {
    /// Whether a hop of this address is one of ours.
    #[must_use]
    pub fn trusts(networks: &[IpNet], address: IpAddr) -> bool {
        let address = address.to_canonical();
        networks.iter().any(|network| network.contains(&address))
    }
}
