//! What stands between a hostile peer and the HTTP/3 library's weak places. Pure: bytes in, bytes out.
//!
//! It follows the frame layer (RFC 9114 §7.1) and hands on one piece of one frame at a time. The library would gather
//! HEADERS, SETTINGS and unknown frames without limit, take an empty DATA frame for the end of the body, take a body cut
//! inside a frame for a whole one, and then panic.

use bytes::{Buf, Bytes};

use crate::wire::varint;

/// The longest frame other than DATA, in bytes; the library gathers these whole.
pub const FRAME_BYTES_MAX: u64 = 64 << 10;

const DATA: u64 = 0x00;
/// First integer of a control stream (RFC 9114 §6.2.1).
const CONTROL_STREAM: u64 = 0x00;

/// What the peer did to the frame layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of type {kind:#x} has {length} bytes; at most {FRAME_BYTES_MAX} are taken")]
    TooLong { kind: u64, length: u64 },
    #[error("the stream ended inside a frame")]
    Cut,
}

/// Follows the frames of one stream as its bytes pass.
#[derive(Debug)]
pub struct FrameGuard {
    stream: Stream,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    /// Frames from the first byte.
    Request,
    /// A type, then what it says.
    Unidirectional,
    /// A type, then frames.
    Control,
}

#[derive(Debug)]
enum State {
    /// Between frames, or inside a frame's (or the stream's) type and length.
    Header { bytes: [u8; varint::BYTES_MAX * 2], length: usize },
    /// Inside a frame; `skip`: nobody wants it.
    Payload { left: u64, skip: bool },
    /// Not made of frames: the bytes of QPACK, or of a stream the library will refuse.
    Raw,
}

/// Nothing gathered yet.
const BETWEEN: State = State::Header { bytes: [0; varint::BYTES_MAX * 2], length: 0 };

impl FrameGuard {
    /// For a stream that carries a request or its answer.
    #[must_use]
    pub fn request() -> Self {
        Self { stream: Stream::Request, state: BETWEEN }
    }

    /// For a unidirectional stream.
    #[must_use]
    pub fn unidirectional() -> Self {
        Self { stream: Stream::Unidirectional, state: BETWEEN }
    }

    /// The next piece to hand on, taken off the front of `held`. `None`: `held` is used up and more is needed.
    ///
    /// A piece ends where its frame does at the latest, and is never empty.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]. Nothing more may be handed on then.
    pub fn next(&mut self, held: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        while !held.is_empty() {
            match &mut self.state {
                State::Raw => return Ok(Some(std::mem::take(held))),
                State::Payload { left, skip } => {
                    let piece = held.split_to(usize::try_from(*left).map_or(held.len(), |left| left.min(held.len())));
                    *left -= piece.len() as u64;
                    let skipped = *skip;
                    if *left == 0 {
                        self.state = BETWEEN;
                    }
                    if !skipped {
                        return Ok(Some(piece));
                    }
                }
                State::Header { bytes, length } => {
                    bytes[*length] = held.get_u8();
                    *length += 1;
                    let (bytes, length) = (*bytes, *length);
                    if let Some(piece) = self.follow(&bytes[..length])? {
                        return Ok(Some(piece));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`FrameError::Cut`] when that was inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match (&self.state, self.stream) {
            (State::Header { length: 0, .. } | State::Raw, _) | (_, Stream::Unidirectional) => Ok(()),
            _ => Err(FrameError::Cut),
        }
    }

    /// Looks at what is gathered of a header, and hands it on when it is whole and wanted.
    fn follow(&mut self, header: &[u8]) -> Result<Option<Bytes>, FrameError> {
        let Some((kind, read)) = varint::decode(header) else {
            return Ok(None);
        };
        if self.stream == Stream::Unidirectional {
            self.stream = if kind == CONTROL_STREAM { Stream::Control } else { self.stream };
            self.state = if kind == CONTROL_STREAM { BETWEEN } else { State::Raw };
            return Ok(Some(Bytes::copy_from_slice(header)));
        }
        let Some((length, _)) = varint::decode(&header[read..]) else {
            return Ok(None);
        };
        if is_known(kind) && kind != DATA && length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { kind, length });
        }
        let empty_data = self.stream == Stream::Request && kind == DATA && length == 0;
        let skip = !is_known(kind);
        self.state = if length == 0 { BETWEEN } else { State::Payload { left: length, skip } };
        Ok((!skip && !empty_data).then(|| Bytes::copy_from_slice(header)))
    }
}

/// Frames of HTTP/3, and those of HTTP/2 that it forbids: the library must see these to refuse them (RFC 9114 §7.2.8).
pub(super) fn is_known(kind: u64) -> bool {
    matches!(kind, 0x00..=0x09 | 0x0d)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HEADERS: u64 = 0x01;
    const SETTINGS: u64 = 0x04;
    const UNKNOWN: u64 = 0x21 + 0x1f * 5;

    fn header(kind: u64, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint::encode(kind, &mut out);
        varint::encode(length, &mut out);
        out
    }

    fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
        [header(kind, payload.len() as u64), payload.to_vec()].concat()
    }

    /// The pieces that pass when `bytes` arrive in chunks of the given sizes, and how it ends.
    fn pass(mut guard: FrameGuard, bytes: &[u8], cuts: &[usize]) -> (Vec<Bytes>, Result<(), FrameError>) {
        let (mut pieces, mut rest) = (Vec::new(), bytes);
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            rest = tail;
            let mut held = Bytes::copy_from_slice(chunk);
            loop {
                match guard.next(&mut held) {
                    Ok(Some(piece)) => pieces.push(piece),
                    Ok(None) => break,
                    Err(error) => return (pieces, Err(error)),
                }
            }
        }
        let end = guard.finish();
        (pieces, end)
    }

    fn passed(guard: FrameGuard, bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Result<(), FrameError>) {
        let (pieces, end) = pass(guard, bytes, cuts);
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty piece would read as the end");
        (pieces.concat(), end)
    }

    #[test]
    fn a_body_cut_inside_a_frame_is_not_whole() {
        let bytes = [frame(HEADERS, b"head"), header(DATA, 50), b"abc".to_vec()].concat();
        assert_eq!(passed(FrameGuard::request(), &bytes, &[]), (bytes.clone(), Err(FrameError::Cut)));
        let (_, end) = passed(FrameGuard::request(), &[0x40], &[]);
        assert_eq!(end, Err(FrameError::Cut), "cut inside a header");
    }

    #[test]
    fn empty_data_is_dropped_on_requests_and_kept_elsewhere() {
        let wanted = [frame(HEADERS, b"head"), frame(DATA, b"body")].concat();
        let bytes = [frame(DATA, b""), wanted.clone(), frame(DATA, b"")].concat();
        assert_eq!(passed(FrameGuard::request(), &bytes, &[]), (wanted, Ok(())));
        let control = [vec![0], frame(SETTINGS, b""), frame(DATA, b"")].concat();
        assert_eq!(passed(FrameGuard::unidirectional(), &control, &[]), (control, Ok(())));
    }

    #[test]
    fn giant_frames_that_would_be_gathered_are_refused_at_their_header() {
        let length = FRAME_BYTES_MAX + 1;
        for kind in [HEADERS, SETTINGS, 0x05, 0x07] {
            let want = (vec![], Err(FrameError::TooLong { kind, length }));
            assert_eq!(passed(FrameGuard::request(), &header(kind, length), &[]), want);
        }
        let largest = frame(HEADERS, &vec![b'x'; FRAME_BYTES_MAX as usize]);
        assert_eq!(passed(FrameGuard::request(), &largest, &[1400]), (largest.clone(), Ok(())));
        let data = [header(DATA, varint::MAX), b"some of it".to_vec()].concat();
        assert_eq!(passed(FrameGuard::request(), &data, &[]), (data, Err(FrameError::Cut)), "DATA has no limit");
    }

    #[test]
    fn unknown_frames_vanish_while_they_stream() {
        let bytes = [frame(UNKNOWN, &vec![1; 1 << 20]), frame(DATA, b"body"), frame(0x41, b"webtransport")].concat();
        assert_eq!(passed(FrameGuard::request(), &bytes, &[1200]), (frame(DATA, b"body"), Ok(())));
        let endless = [header(UNKNOWN, 1 << 40), vec![0; 5000]].concat();
        assert_eq!(passed(FrameGuard::request(), &endless, &[]), (vec![], Err(FrameError::Cut)));
    }

    #[test]
    fn streams_that_are_not_frames_pass_untouched() {
        let qpack = [vec![0x02], vec![0xff; 300]].concat();
        assert_eq!(passed(FrameGuard::unidirectional(), &qpack, &[7]), (qpack, Ok(())));
        assert_eq!(passed(FrameGuard::unidirectional(), &[0x40], &[]), (vec![], Ok(())), "ended inside its type");
    }

    proptest! {
        #[test]
        fn frames_pass_alike_however_they_are_cut(
            frames in vec((prop_oneof![Just(DATA), Just(HEADERS), Just(UNKNOWN)], vec(any::<u8>(), 0..200)), 0..8),
            cuts in vec(1usize..50, 0..6),
        ) {
            let all: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            let wanted: Vec<u8> = frames
                .iter()
                .filter(|(kind, payload)| *kind == HEADERS || *kind == DATA && !payload.is_empty())
                .flat_map(|(kind, payload)| frame(*kind, payload))
                .collect();
            prop_assert_eq!(passed(FrameGuard::request(), &all, &cuts), (wanted, Ok(())));
        }

        #[test]
        fn no_piece_spans_two_frames(bodies in vec(vec(any::<u8>(), 1..200), 1..8)) {
            let all: Vec<u8> = bodies.iter().flat_map(|body| frame(DATA, body)).collect();
            let (pieces, _) = pass(FrameGuard::request(), &all, &[]);
            let payloads: Vec<_> = pieces.iter().skip(1).step_by(2).map(|piece| piece.to_vec()).collect();
            prop_assert_eq!(payloads, bodies);
        }

        #[test]
        fn arbitrary_bytes_pass_alike_however_they_are_cut(
            bytes in vec(prop_oneof![0u8..16, any::<u8>()], 0..300),
            cuts in vec(1usize..20, 0..5),
            request: bool,
        ) {
            let guard = || if request { FrameGuard::request() } else { FrameGuard::unidirectional() };
            prop_assert_eq!(passed(guard(), &bytes, &cuts), passed(guard(), &bytes, &[]));
        }
    }
}
