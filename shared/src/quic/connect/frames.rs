//! The bytes of a CONNECT stream: what stands in DATA frames (RFC 9114 §4.4, §7.2.1). Pure.

use bytes::{Buf, Bytes};

use crate::{quic::guard::is_known, wire::varint};

/// The bytes of a DATA frame's header as [`header`] writes it.
pub(in crate::quic) const HEADER_BYTES: usize = 5;

const DATA: u64 = 0x00;

/// Why a CONNECT stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::quic) enum FramesError {
    /// Only DATA and what nobody knows may come after the head (RFC 9114 §4.4).
    #[error("a frame of type {0:#x} stands where only DATA may")]
    Unexpected(u64),
    #[error("the stream ended inside a frame")]
    Cut,
}

/// Follows the frames of one stream as its bytes pass.
#[derive(Debug, Default)]
pub(in crate::quic) struct Frames {
    /// What has come of a frame's type and length.
    header: [u8; varint::BYTES_MAX * 2],
    gathered: usize,
    /// How much of the frame's payload is to come, and whether anybody wants it.
    left: u64,
    wanted: bool,
}

impl Frames {
    /// Appends to `out` what of `chunk` is in DATA frames; nothing is copied, and no piece is empty.
    ///
    /// # Errors
    /// [`FramesError::Unexpected`]; the stream is to be reset then.
    pub(in crate::quic) fn take(&mut self, mut chunk: Bytes, out: &mut Vec<Bytes>) -> Result<(), FramesError> {
        while !chunk.is_empty() {
            if self.left > 0 {
                let length = usize::try_from(self.left).map_or(chunk.len(), |left| left.min(chunk.len()));
                self.left -= length as u64;
                let piece = chunk.split_to(length);
                if self.wanted {
                    out.push(piece);
                }
                continue;
            }
            self.header[self.gathered] = chunk.get_u8();
            self.gathered += 1;
            let header = &self.header[..self.gathered];
            let Some((kind, read)) = varint::decode(header) else { continue };
            let Some((length, _)) = varint::decode(&header[read..]) else { continue };
            if kind != DATA && is_known(kind) {
                return Err(FramesError::Unexpected(kind));
            }
            (self.gathered, self.left, self.wanted) = (0, length, kind == DATA);
        }
        Ok(())
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`FramesError::Cut`] when that was inside a frame.
    pub(in crate::quic) fn finish(&self) -> Result<(), FramesError> {
        match (self.gathered, self.left) {
            (0, 0) => Ok(()),
            _ => Err(FramesError::Cut),
        }
    }
}

/// The header of a DATA frame of `length` bytes, below 2^30: always as long, so that room for it can be left.
pub(in crate::quic) fn header(length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).ok().filter(|&length| length < 1 << 30).expect("a buffer is below a gigabyte");
    // The two highest bits say four bytes (RFC 9000 §16).
    let [a, b, c, d] = (length | 2 << 30).to_be_bytes();
    [DATA as u8, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const GREASE: u64 = 0x21 + 0x1f * 5;

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::encode(kind, &mut out);
        varint::encode(payload.len() as u64, &mut out);
        out.extend(payload);
        out
    }

    /// The payload in `bytes` when they come in chunks of the given sizes, and how it ends.
    fn taken(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Result<(), FramesError>) {
        let (mut frames, mut out, mut rest) = (Frames::default(), Vec::new(), bytes);
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            rest = tail;
            if let Err(error) = frames.take(Bytes::copy_from_slice(chunk), &mut out) {
                return (out.concat(), Err(error));
            }
        }
        assert!(out.iter().all(|piece| !piece.is_empty()));
        (out.concat(), frames.finish())
    }

    #[test]
    fn a_header_of_ours_is_read_as_any_other() {
        for length in [0, 1, 63, 64, 16_384, (1 << 30) - 1] {
            let header = header(length);
            assert_eq!(varint::decode(&header), Some((DATA, 1)));
            assert_eq!(varint::decode(&header[1..]), Some((length as u64, 4)));
        }
    }

    #[test]
    fn only_data_counts_and_what_is_known_otherwise_is_refused() {
        let bytes = [frame(GREASE, b"grease"), frame(DATA, b"one"), frame(DATA, b""), frame(DATA, b" two")].concat();
        assert_eq!(taken(&bytes, &[]), (b"one two".to_vec(), Ok(())));
        for kind in [0x01, 0x03, 0x04, 0x05, 0x07, 0x0d] {
            let bytes = [frame(DATA, b"one"), frame(kind, b"x")].concat();
            assert_eq!(taken(&bytes, &[]), (b"one".to_vec(), Err(FramesError::Unexpected(kind))));
        }
    }

    #[test]
    fn a_stream_cut_inside_a_frame_is_not_whole() {
        let bytes = frame(DATA, b"payload");
        for cut in 1..bytes.len() {
            assert_eq!(taken(&bytes[..cut], &[]).1, Err(FramesError::Cut), "{cut}");
        }
        let endless = [vec![0, 0xff], vec![0xff; 7], vec![1; 100]].concat();
        assert_eq!(taken(&endless, &[]), (vec![1; 100], Err(FramesError::Cut)));
    }

    proptest! {
        #[test]
        fn payload_passes_alike_however_it_is_cut(
            frames in vec((prop_oneof![Just(DATA), Just(GREASE)], vec(any::<u8>(), 0..100)), 0..8),
            cuts in vec(1usize..30, 0..5),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            let wanted = frames.iter().filter(|(kind, _)| *kind == DATA).flat_map(|(_, payload)| payload.clone());
            prop_assert_eq!(taken(&bytes, &cuts), (wanted.collect(), Ok(())));
        }

        #[test]
        fn arbitrary_bytes_pass_alike_however_they_are_cut(
            bytes in vec(prop_oneof![0u8..16, any::<u8>()], 0..200),
            cuts in vec(1usize..20, 0..5),
        ) {
            prop_assert_eq!(taken(&bytes, &cuts), taken(&bytes, &[]));
        }
    }
}
