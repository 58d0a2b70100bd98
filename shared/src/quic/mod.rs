//! QUIC as both ends use it: TLS, sockets, HTTP/3 over quinn, the stream lane, datagrams.
//!
//! The rim of `wire`: it moves bytes and decides little. What a session means is the relay's and the agent's.

pub mod adapter;
pub mod capsules;
pub mod connect;
mod copy;
pub mod datagrams;
pub mod endpoint;
pub mod guard;
pub mod http3;
pub mod lane;
pub mod losses;
pub mod relay_verifier;
pub mod socket;
pub mod streams;
#[cfg(test)]
mod testbed;
pub mod tls;
