//! Variable-length integers as QUIC writes them (RFC 9000 §16).
//!
//! ```text
//!  first two bits   bytes   values up to
//!  00               1       63
//!  01               2       16_383
//!  10               4       1_073_741_823
//!  11               8       4_611_686_018_427_387_903
//! ```

use bytes::BufMut;

/// The largest value that a variable-length integer holds: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// The longest encoding in bytes.
pub const BYTES_MAX: usize = 8;

/// How many bytes `value` takes in its shortest encoding.
///
/// # Panics
/// When `value` is above [`MAX`].
#[must_use]
pub const fn size(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        0x4000_0000..=MAX => 8,
        _ => panic!("a variable-length integer has 62 bits"),
    }
}

/// Appends `value` in its shortest encoding.
///
/// # Panics
/// When `value` is above [`MAX`]: lengths and stream ids never are, nor is anything that was decoded.
pub fn encode(value: u64, out: &mut impl BufMut) {
    let length = size(value);
    let prefix = u64::from(length.trailing_zeros()) << (length * 8 - 2);
    out.put_uint(prefix | value, length);
}

/// Reads the integer at the start of `bytes`: its value, and how many bytes it took. `None` when more bytes are needed.
///
/// Longer encodings than needed are read too, as RFC 9000 demands.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1 << (first >> 6);
    let rest = bytes.get(1..length)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte));
    Some((value, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out);
        out
    }

    #[test]
    fn the_examples_of_the_standard_hold() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
            assert_eq!(encoded(value), bytes);
        }
        assert_eq!(decode(&[0x40, 0x25]), Some((37, 2)), "a longer encoding than needed is read");
    }

    #[test]
    fn each_length_begins_where_the_one_before_ends() {
        for (last, length) in [(0x3f, 1), (0x3fff, 2), (0x3fff_ffff, 4), (MAX, 8)] {
            assert_eq!(encoded(last).len(), length);
            if last < MAX {
                assert_eq!(encoded(last + 1).len(), length * 2);
            }
        }
    }

    #[test]
    #[should_panic(expected = "62 bits")]
    fn a_value_beyond_62_bits_is_a_bug() {
        encode(MAX + 1, &mut Vec::new());
    }

    proptest! {
        #[test]
        fn every_value_survives_the_round_trip(value in 0..=MAX, shift in 0u32..62, tail: Vec<u8>) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            let length = bytes.len();
            prop_assert_eq!(length, size(value));
            for cut in 0..length {
                prop_assert_eq!(decode(&bytes[..cut]), None);
            }
            bytes.extend(tail);
            prop_assert_eq!(decode(&bytes), Some((value, length)));
        }
    }
}
