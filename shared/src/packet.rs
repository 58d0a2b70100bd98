//! Checked views over IPv6 packets.
