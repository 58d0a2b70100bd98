//! Where packets appear on this host.

mod datagrams;
pub mod user;
