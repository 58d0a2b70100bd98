//! The Internet checksum (RFC 1071) over pieces, with the pseudo header of TCP and UDP (RFC 8200 §8.1, RFC 9293 §3.1).

use std::net::IpAddr;

/// A running one's complement sum. Every piece but the last has an even number of bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum over the pseudo header; `length` is the transport header's and payload's, in bytes.
    pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let sum = [source, destination].into_iter().fold(Self::default(), |sum, address| match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        });
        // Packets are at most 65,575 bytes long.
        sum.add(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()).add(&[0, protocol])
    }

    /// Adds a piece. In the machine's own order, which the sum does not mind (RFC 1071 §2 B), four bytes at a time.
    #[must_use]
    pub(super) fn add(self, piece: &[u8]) -> Self {
        let (words, rest) = piece.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        // 2^32 words fit before anything is lost.
        Self(self.0 + sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The sum in 16 bits, not complemented: what stands in a checksum field that is still to be filled in.
    pub(super) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap_or(u16::MAX).to_ne_bytes()
    }

    /// What the checksum field is to hold.
    pub(super) fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether what was added, its checksum field included, is whole.
    pub(super) fn is_whole(self) -> bool {
        self.folded() == [0xff; 2]
    }
}

/// UDP's: zero would mean that there is none (RFC 768).
pub(super) fn udp(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0; 2] { [0xff; 2] } else { checksum }
}
