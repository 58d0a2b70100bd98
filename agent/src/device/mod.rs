//! Where packets appear on this host.

pub mod user;
