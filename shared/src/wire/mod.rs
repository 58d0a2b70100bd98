//! What crosses between agent and relay; every type encodes and decodes (RFC 9297, RFC 9484).
