//! What takes a host of its own: kernel mode, in network namespaces that each test makes and removes.
//!
//! Needs root and `/dev/net/tun`; without them every test fails and says so. `network.rs` is the place, `town.rs` who
//! lives there; each other module is one theme.
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

mod firewall;
mod host;
mod lanes;
mod network;
mod nodes;
mod town;
