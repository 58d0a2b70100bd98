//! The vocabulary that agent and relay both speak.
//!
//! Everything here is pure, but for `quic` and `netstack`: those two alone name tokio, quinn or smoltcp.

pub mod enrolment;
pub mod host;
pub mod identity;
pub mod ledger;
pub mod netstack;
pub mod packet;
pub mod prefix;
pub mod quic;
pub mod resource;
pub mod wire;
