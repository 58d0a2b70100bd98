//! The vocabulary that agent and relay both speak.
//!
//! Everything here is pure, but for `quic`, `netstack` and `host`: these alone name tokio, quinn, smoltcp or the kernel.

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
