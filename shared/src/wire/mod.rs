//! What crosses between agent and relay; every type encodes and decodes (RFC 9297, RFC 9484).
//!
//! Pure: bytes in, values out. Moving the bytes is `quic`'s.

pub mod capsule;
pub mod connect_ip;
pub mod datagram;
pub mod preface;
mod reader;
pub mod varint;
