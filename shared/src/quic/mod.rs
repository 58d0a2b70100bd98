//! QUIC as both ends use it.
