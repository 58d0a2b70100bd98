//! Bytes that anybody can make again, and their SHA-256.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

/// The size of one piece of a generated body, in bytes.
pub const PIECE_BYTES: usize = 64 << 10;

/// A running SHA-256.
pub struct Sha256 {
    context: Context,
    bytes: u64,
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sha256(of {} bytes)", self.bytes)
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), bytes: 0 }
    }
}

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// `LENGTH:HEX`, so that a difference shows which of the two went wrong.
    #[must_use]
    pub fn finish(self) -> String {
        let hex: String = self.context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{hex}", self.bytes)
    }
}

/// `length` bytes in pieces; equal for equal length, and no piece equals its neighbour.
#[derive(Debug, Clone)]
pub struct Pieces {
    left: u64,
    state: u64,
}

impl Pieces {
    #[must_use]
    pub fn of(length: u64) -> Self {
        Self { left: length, state: 0x9E37_79B9_7F4A_7C15 ^ length }
    }

    /// What [`Sha256::finish`] says of all pieces together.
    #[must_use]
    pub fn digest(self) -> String {
        let mut sha = Sha256::default();
        for piece in self {
            sha.update(&piece);
        }
        sha.finish()
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let size = usize::try_from(self.left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let mut piece = Vec::with_capacity(size + 8);
        while piece.len() < size {
            // xorshift64: cheap, and a lost or repeated word shows in the hash.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            piece.extend_from_slice(&self.state.to_le_bytes());
        }
        piece.truncate(size);
        self.left -= size as u64;
        Some(Bytes::from(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lengths_give_equal_bytes_and_others_do_not() {
        let length = PIECE_BYTES as u64 * 2 + 5;
        assert_eq!(Pieces::of(length).map(|piece| piece.len() as u64).sum::<u64>(), length);
        assert_eq!(Pieces::of(length).digest(), Pieces::of(length).digest());
        assert_ne!(Pieces::of(length).digest(), Pieces::of(length + 1).digest());
    }

    #[test]
    fn the_digest_is_sha_256() {
        let mut sha = Sha256::default();
        sha.update(b"abc");
        assert_eq!(sha.finish(), "3:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
