//! The Capsule Protocol: typed, length-prefixed messages on a request stream (RFC 9297 §3.2).
//!
//! ```text
//!  capsule type ─ capsule length ─ value          (two variable-length integers, then `length` bytes)
//! ```
//! A [`Decoder`] is fed chunks cut anywhere. It gathers at most one known capsule; unknown ones pass through unheld.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    connect_ip::{AddressAssign, AddressRequest, ConnectIpError, RouteAdvertisement},
    reader::{Reader, Stop},
    varint,
};

/// The longest value of a known capsule, in bytes: room for the largest IP packet and for thousands of routes.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// The most relays that one [`Drain`] names.
pub const ALTERNATIVES_MAX: usize = 16;

/// The longest `host:port` in a [`Drain`]: a DNS name, a colon, five digits.
pub const ALTERNATIVE_BYTES_MAX: usize = 253 + 6;

const DATAGRAM: u64 = 0x00;
const ADDRESS_ASSIGN: u64 = 0x01;
const ADDRESS_REQUEST: u64 = 0x02;
const ROUTE_ADVERTISEMENT: u64 = 0x03;
/// Ours: drawn at random from the first-come range, outside the reserved types 0x29 * N + 0x17 (RFC 9297 §5.4).
const DRAIN: u64 = 0x2f4b_5d01;
const _: () = assert!(DRAIN % 0x29 != 0x17 && DRAIN > 0x3f);

/// One message on a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capsule {
    /// An HTTP datagram payload, for [`datagram::decode_payload`](super::datagram::decode_payload).
    Datagram(Bytes),
    AddressAssign(AddressAssign),
    AddressRequest(AddressRequest),
    RouteAdvertisement(RouteAdvertisement),
    Drain(Drain),
}

/// The relay will stop: the agent should make another session before it ends this one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drain {
    alternatives: Vec<String>,
}

/// Why the peer's capsules cannot be read on. The request stream is aborted (RFC 9297 §3.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    #[error("the peer sent a capsule of type {kind:#x} with {length} bytes; at most {VALUE_BYTES_MAX} are taken")]
    TooLong { kind: u64, length: u64 },
    #[error("the request stream ended inside a capsule")]
    Truncated,
    #[error("the peer sent a malformed capsule of type {kind:#x}")]
    ConnectIp { kind: u64, source: ConnectIpError },
    #[error("the peer sent a malformed drain capsule: {0}")]
    Drain(&'static str),
}

impl Capsule {
    /// Appends the capsule.
    ///
    /// The value is taken as it is, of any length: who sends more than [`VALUE_BYTES_MAX`] is not understood.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        let kind = match self {
            Self::Datagram(payload) => {
                varint::encode(DATAGRAM, out);
                varint::encode(payload.len() as u64, out);
                out.put_slice(payload);
                return;
            }
            Self::AddressAssign(assign) => {
                assign.encode(&mut value);
                ADDRESS_ASSIGN
            }
            Self::AddressRequest(request) => {
                request.encode(&mut value);
                ADDRESS_REQUEST
            }
            Self::RouteAdvertisement(routes) => {
                routes.encode(&mut value);
                ROUTE_ADVERTISEMENT
            }
            Self::Drain(drain) => {
                drain.encode(&mut value);
                DRAIN
            }
        };
        varint::encode(kind, out);
        varint::encode(value.len() as u64, out);
        out.put_slice(&value);
    }

    /// The capsule as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    fn decode(kind: u64, value: Bytes) -> Result<Self, CapsuleError> {
        let malformed = |source| CapsuleError::ConnectIp { kind, source };
        match kind {
            DATAGRAM => Ok(Self::Datagram(value)),
            ADDRESS_ASSIGN => AddressAssign::decode(&value).map(Self::AddressAssign).map_err(malformed),
            ADDRESS_REQUEST => AddressRequest::decode(&value).map(Self::AddressRequest).map_err(malformed),
            ROUTE_ADVERTISEMENT => RouteAdvertisement::decode(&value).map(Self::RouteAdvertisement).map_err(malformed),
            DRAIN => Drain::decode(&value).map(Self::Drain),
            _ => unreachable!("unknown capsules are skipped before they are gathered"),
        }
    }
}

impl Drain {
    /// Names relays to go to, as `host:port`, best first.
    ///
    /// # Errors
    /// [`CapsuleError::Drain`] for more than [`ALTERNATIVES_MAX`], or one that is empty, too long or not visible ASCII.
    pub fn new(alternatives: Vec<String>) -> Result<Self, CapsuleError> {
        if alternatives.len() > ALTERNATIVES_MAX {
            return Err(CapsuleError::Drain("too many alternatives"));
        }
        if alternatives.iter().any(|text| text.is_empty() || text.len() > ALTERNATIVE_BYTES_MAX) {
            return Err(CapsuleError::Drain("an alternative is empty or too long"));
        }
        if !alternatives.iter().all(|text| text.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(CapsuleError::Drain("an alternative is not visible ASCII"));
        }
        Ok(Self { alternatives })
    }

    /// `host:port` of other relays, best first; may be empty.
    #[must_use]
    pub fn alternatives(&self) -> &[String] {
        &self.alternatives
    }

    fn encode(&self, out: &mut impl BufMut) {
        for text in &self.alternatives {
            varint::encode(text.len() as u64, out);
            out.put_slice(text.as_bytes());
        }
    }

    fn decode(value: &[u8]) -> Result<Self, CapsuleError> {
        let mut reader = Reader::new(value);
        let mut alternatives = Vec::new();
        while !reader.is_empty() && alternatives.len() <= ALTERNATIVES_MAX {
            let text = reader.run(ALTERNATIVE_BYTES_MAX, "an alternative is empty or too long").map_err(|stop| {
                CapsuleError::Drain(match stop {
                    Stop::More => "it ends inside an alternative",
                    Stop::Bad(problem) => problem,
                })
            })?;
            let text = str::from_utf8(text).map_err(|_| CapsuleError::Drain("an alternative is not visible ASCII"))?;
            alternatives.push(text.to_owned());
        }
        Self::new(alternatives)
    }
}

/// Reads capsules out of chunks that are cut anywhere.
///
/// Give each chunk to [`Decoder::decode`] until it yields `None`, then the next chunk; [`Decoder::finish`] at the end.
/// Holds at most [`VALUE_BYTES_MAX`] bytes, and those only as they arrive. After an error, drop it and the stream.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
}

#[derive(Debug)]
enum State {
    /// Gathering type and length: at most two variable-length integers.
    Header { bytes: [u8; varint::BYTES_MAX * 2], length: usize },
    /// Gathering a known capsule's value.
    Value { kind: u64, missing: usize, value: BytesMut },
    /// Passing an unknown capsule's value.
    Skip { missing: u64 },
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; varint::BYTES_MAX * 2], length: 0 }
    }
}

impl Decoder {
    /// The next capsule, taking from `chunk` what it needs. `None`: `chunk` is used up and the next one is wanted.
    ///
    /// A value that lies whole in `chunk` is shared with it, not copied.
    ///
    /// # Errors
    /// [`CapsuleError`], but for [`CapsuleError::Truncated`].
    pub fn decode(&mut self, chunk: &mut Bytes) -> Result<Option<Capsule>, CapsuleError> {
        loop {
            match &mut self.state {
                State::Header { bytes, length } => {
                    let Some((kind, value_length)) = gather_header(bytes, length, chunk) else {
                        return Ok(None);
                    };
                    self.state = after_header(kind, value_length)?;
                }
                State::Skip { missing } => {
                    let step = usize::try_from(*missing).map_or(chunk.len(), |missing| missing.min(chunk.len()));
                    chunk.advance(step);
                    *missing -= step as u64;
                    if *missing > 0 {
                        return Ok(None);
                    }
                    self.state = State::default();
                }
                State::Value { kind, missing, value } => {
                    let whole = if value.is_empty() && chunk.len() >= *missing {
                        chunk.split_to(*missing)
                    } else {
                        let step = (*missing).min(chunk.len());
                        value.extend_from_slice(&chunk.split_to(step));
                        *missing -= step;
                        if *missing > 0 {
                            return Ok(None);
                        }
                        std::mem::take(value).freeze()
                    };
                    let kind = *kind;
                    self.state = State::default();
                    return Capsule::decode(kind, whole).map(Some);
                }
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`CapsuleError::Truncated`] when that was inside a capsule.
    pub fn finish(&self) -> Result<(), CapsuleError> {
        match self.state {
            State::Header { length: 0, .. } => Ok(()),
            _ => Err(CapsuleError::Truncated),
        }
    }
}

/// Adds bytes of `chunk` to the header until it holds both integers: type and length.
fn gather_header(bytes: &mut [u8; varint::BYTES_MAX * 2], length: &mut usize, chunk: &mut Bytes) -> Option<(u64, u64)> {
    loop {
        let header = &bytes[..*length];
        if let Some((kind, read)) = varint::decode(header)
            && let Some((value_length, _)) = varint::decode(&header[read..])
        {
            return Some((kind, value_length));
        }
        if chunk.is_empty() {
            return None;
        }
        bytes[*length] = chunk.get_u8();
        *length += 1;
    }
}

fn after_header(kind: u64, length: u64) -> Result<State, CapsuleError> {
    if !matches!(kind, DATAGRAM | ADDRESS_ASSIGN | ADDRESS_REQUEST | ROUTE_ADVERTISEMENT | DRAIN) {
        return Ok(State::Skip { missing: length });
    }
    match usize::try_from(length) {
        Ok(missing) if missing <= VALUE_BYTES_MAX => Ok(State::Value { kind, missing, value: BytesMut::new() }),
        _ => Err(CapsuleError::TooLong { kind, length }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::wire::connect_ip::tests::{assigns, requests, routes};

    fn capsules() -> impl Strategy<Value = Capsule> {
        prop_oneof![
            vec(any::<u8>(), 0..300).prop_map(|payload| Capsule::Datagram(payload.into())),
            assigns().prop_map(Capsule::AddressAssign),
            requests().prop_map(Capsule::AddressRequest),
            routes().prop_map(Capsule::RouteAdvertisement),
            vec("[a-z0-9.:]{1,40}", 0..ALTERNATIVES_MAX)
                .prop_map(|alternatives| Capsule::Drain(Drain::new(alternatives).unwrap())),
        ]
    }

    /// What a stream of `bytes`, cut into chunks of the given sizes, yields.
    fn read(bytes: &[u8], cuts: &[usize]) -> (Vec<Capsule>, Result<(), CapsuleError>) {
        let (mut decoder, mut capsules, mut rest) = (Decoder::default(), Vec::new(), bytes);
        let mut cuts = cuts.iter().copied().cycle();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(cuts.next().unwrap_or(rest.len()).clamp(1, rest.len()));
            rest = tail;
            let mut chunk = Bytes::copy_from_slice(chunk);
            loop {
                match decoder.decode(&mut chunk) {
                    Ok(Some(capsule)) => capsules.push(capsule),
                    Ok(None) => break,
                    Err(error) => return (capsules, Err(error)),
                }
            }
            assert!(chunk.is_empty(), "a chunk is used up before more is asked for");
        }
        let end = decoder.finish();
        (capsules, end)
    }

    fn raw(kind: u64, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::encode(kind, &mut out);
        varint::encode(value.len() as u64, &mut out);
        out.extend_from_slice(value);
        out
    }

    #[test]
    fn unknown_capsules_are_passed_over_without_being_held() {
        let unknown = raw(0x29 * 7 + 0x17, &vec![1; 3 * VALUE_BYTES_MAX]);
        let known = Capsule::Datagram(Bytes::from_static(b"packet"));
        let bytes = [unknown, known.to_bytes().to_vec(), raw(0x3fff, b"")].concat();
        assert_eq!(read(&bytes, &[1000]), (vec![known], Ok(())));
    }

    #[test]
    fn a_known_capsule_may_be_64_kib_and_not_more() {
        let largest = Capsule::Datagram(vec![7; VALUE_BYTES_MAX].into());
        assert_eq!(read(&largest.to_bytes(), &[999]), (vec![largest], Ok(())));
        let length = VALUE_BYTES_MAX as u64 + 1;
        for kind in [DATAGRAM, ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT, DRAIN] {
            let mut header = Vec::new();
            varint::encode(kind, &mut header);
            varint::encode(length, &mut header);
            assert_eq!(read(&header, &[]), (vec![], Err(CapsuleError::TooLong { kind, length })));
        }
    }

    #[test]
    fn a_malformed_capsule_says_which_rule_it_breaks() {
        let source = ConnectIpError::RequestEmpty;
        assert_eq!(read(&raw(ADDRESS_REQUEST, b""), &[]).1, Err(CapsuleError::ConnectIp { kind: 2, source }));
        for (value, problem) in [
            (&b"\x04a:1"[..], "it ends inside an alternative"),
            (b"\x00", "an alternative is empty or too long"),
            (b"\x7f\xff", "an alternative is empty or too long"),
            (b"\x02a\n", "an alternative is not visible ASCII"),
            (b"\x01\xff", "an alternative is not visible ASCII"),
            (&[1, b'a'].repeat(ALTERNATIVES_MAX + 1), "too many alternatives"),
        ] {
            assert_eq!(read(&raw(DRAIN, value), &[]).1, Err(CapsuleError::Drain(problem)));
        }
    }

    #[test]
    fn a_good_capsule_before_a_bad_one_is_yielded() {
        let good = Capsule::AddressAssign(AddressAssign::default());
        let (capsules, end) = read(&[good.to_bytes().to_vec(), raw(DRAIN, b"\x00")].concat(), &[]);
        assert_eq!(capsules, [good]);
        assert!(end.is_err());
    }

    proptest! {
        #[test]
        fn capsules_survive_any_cutting(sent in vec(capsules(), 0..6), cuts in vec(1usize..40, 0..8)) {
            let mut out = BytesMut::new();
            sent.iter().for_each(|capsule| capsule.encode(&mut out));
            prop_assert_eq!(read(&out, &cuts), (sent, Ok(())));
        }

        #[test]
        fn a_truncated_capsule_never_yields(capsule in capsules(), at: prop::sample::Index) {
            let bytes = capsule.to_bytes();
            let cut = at.index(bytes.len());
            let want = if cut == 0 { Ok(()) } else { Err(CapsuleError::Truncated) };
            prop_assert_eq!(read(&bytes[..cut], &[]), (vec![], want));
        }

        #[test]
        fn arbitrary_bytes_decode_alike_however_they_are_cut(
            bytes in vec(prop_oneof![0u8..8, any::<u8>()], 0..300),
            cuts in vec(1usize..20, 0..5),
        ) {
            prop_assert_eq!(read(&bytes, &cuts), read(&bytes, &[]));
        }
    }
}
