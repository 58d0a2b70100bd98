//! How a flow begins on the stream lane: the relay's preface on a stream it opened, and the agent's answer.
//!
//! ```text
//!  relay ─▶ agent   stream type ─ version ─ session ─ kind ─ host ─ port ─ client ─ trace   then the flow's bytes
//!  agent ─▶ relay   code ─ reason                                                           then the flow's bytes
//!
//!  stream type, version, session, kind, code   variable-length integers (RFC 9000 §16)
//!  host, trace, reason                         a variable-length integer and as many bytes
//!  port                                        two bytes
//!  client                                      0 (unknown) │ 4 and 4 bytes and a port │ 6 and 16 bytes and a port
//! ```
//! Both ends name the versions they speak on the CONNECT-IP exchange, in the header [`LANE_HEADER`].

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    reader::{Reader, Stop},
    varint,
};

/// First integer on each stream of the lane.
///
/// Ours, drawn at random: no frame or stream type of HTTP/3, and outside those reserved for greasing, 0x1f * N + 0x21
/// (RFC 9114 §6.2.3, §7.2.8), so that no conforming peer sends it by chance.
pub const STREAM_TYPE: u64 = 0x2f4b_5d02;
const _: () = assert!(STREAM_TYPE % 0x1f != 0x21 % 0x1f && STREAM_TYPE > 0x3fff);

/// The versions this build speaks, newest first: N, and N - 1 from the second version on.
pub const VERSIONS_SUPPORTED: [u64; 1] = [1];

/// The request header by which an agent offers the lane, `1` or `2, 1`; the relay answers with the version it chose.
pub const LANE_HEADER: &str = "underpass-stream-lane";

/// Reset and stop code of a flow that its user dropped before both directions were done.
pub const CODE_ABANDONED: u64 = 0x2f4b_5d10;
/// Reset and stop code of a stream whose preface or answer cannot be read, be it malformed or of an unknown version.
pub const CODE_NOT_UNDERSTOOD: u64 = 0x2f4b_5d11;

/// The longest preface in bytes; an answer is shorter.
pub const PREFACE_BYTES_MAX: usize = 1 << 10;
/// The longest host in bytes (RFC 1035 §2.3.4, as text).
pub const HOST_BYTES_MAX: usize = 253;
/// The longest trace context in bytes: `traceparent` and the `tracestate` that must be kept (W3C Trace Context §3.3.1.5).
pub const TRACE_BYTES_MAX: usize = 512;
/// The longest reason in bytes.
pub const REASON_BYTES_MAX: usize = 256;

// Four integers, the host, the port, a client of IPv6, the trace.
const _: () = assert!(
    varint::BYTES_MAX * 4 + (varint::BYTES_MAX + HOST_BYTES_MAX) + 2 + 19 + (varint::BYTES_MAX + TRACE_BYTES_MAX)
        <= PREFACE_BYTES_MAX
);

/// What the relay says about a flow before its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// The stream id of the CONNECT-IP session that the flow belongs to.
    pub session: u64,
    pub kind: Kind,
    pub host: Host,
    /// The port to connect to, never 0.
    pub port: u16,
    /// Who asked, when that is known. An IPv6 scope or flow label does not cross.
    pub client: Option<SocketAddr>,
    pub trace: Trace,
}

/// What the flow carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One TCP connection's bytes: FIN ends a direction, a reset ends both.
    Tcp = 1,
}

/// Where the agent connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The agent's own loopback.
    Loopback,
    Address(IpAddr),
    /// To be resolved by the agent.
    Name(HostName),
}

/// A host's name as people write it: letters, digits, `-`, `_`, `.`; nothing a resolver could take for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// Opaque trace context, at most [`TRACE_BYTES_MAX`] bytes; may be empty.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Trace(Bytes);

/// What the agent says before its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Connected,
    Refused(Refused),
}

/// Why the agent made no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct Refused {
    pub code: RefusedCode,
    pub reason: Reason,
}

/// Which kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedCode {
    /// Nothing listens there.
    Refused = 1,
    /// The agent does not offer that host and port.
    NotPublished = 2,
    /// No way there, or the name does not resolve.
    Unreachable = 3,
    TimedOut = 4,
    /// The agent has no room for another flow.
    Overloaded = 5,
}

/// A sentence for people: at most [`REASON_BYTES_MAX`] bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason(String);

/// Why a preface or an answer cannot be read. That stream is reset, its connection lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    #[error("the stream is of the unknown type {0:#x}")]
    UnknownStreamType(u64),
    #[error("the preface is of version {0}, which this build does not speak")]
    UnknownVersion(u64),
    #[error("the flow is of the unknown kind {0}")]
    UnknownKind(u64),
    #[error("the answer has the unknown code {0}")]
    UnknownCode(u64),
    #[error("the {0} is longer than allowed")]
    TooLong(&'static str),
    #[error("the {0} is malformed")]
    Malformed(&'static str),
}

impl Preface {
    /// Appends the preface in the newest version.
    pub fn encode(&self, out: &mut BytesMut) {
        varint::encode(STREAM_TYPE, out);
        varint::encode(VERSIONS_SUPPORTED[0], out);
        varint::encode(self.session, out);
        varint::encode(self.kind as u64, out);
        put_run(self.host.to_string().as_bytes(), out);
        out.put_u16(self.port);
        put_client(self.client, out);
        put_run(&self.trace.0, out);
    }

    /// The preface at the start of `bytes` and how many bytes it took; `None` when more are needed.
    ///
    /// At most [`PREFACE_BYTES_MAX`] bytes are ever needed: a field that is too long is refused at its length.
    ///
    /// # Errors
    /// [`PrefaceError`], as soon as no further bytes could make it valid.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, PrefaceError> {
        whole(bytes, |reader| {
            let stream_type = reader.varint()?;
            if stream_type != STREAM_TYPE {
                return Err(Stop::Bad(PrefaceError::UnknownStreamType(stream_type)));
            }
            let version = reader.varint()?;
            if !VERSIONS_SUPPORTED.contains(&version) {
                return Err(Stop::Bad(PrefaceError::UnknownVersion(version)));
            }
            let session = reader.varint()?;
            let kind = match reader.varint()? {
                1 => Kind::Tcp,
                kind => return Err(Stop::Bad(PrefaceError::UnknownKind(kind))),
            };
            let host = reader.run(HOST_BYTES_MAX, PrefaceError::TooLong("host"))?;
            let host = str::from_utf8(host).map_err(|_| Stop::Bad(PrefaceError::Malformed("host")))?;
            let host = host.parse().map_err(Stop::Bad)?;
            let port = reader.port()?;
            if port == 0 {
                return Err(Stop::Bad(PrefaceError::Malformed("port")));
            }
            let client = read_client(reader)?;
            let trace = reader.run(TRACE_BYTES_MAX, PrefaceError::TooLong("trace context"))?;
            let trace = Trace(Bytes::copy_from_slice(trace));
            Ok(Self { session, kind, host, port, client, trace })
        })
    }
}

impl Answer {
    /// Appends the answer.
    pub fn encode(&self, out: &mut BytesMut) {
        let (code, reason) = match self {
            Self::Connected => (0, ""),
            Self::Refused(refused) => (refused.code as u64, refused.reason.as_str()),
        };
        varint::encode(code, out);
        put_run(reason.as_bytes(), out);
    }

    /// The answer at the start of `bytes` and how many bytes it took; `None` when more are needed.
    ///
    /// # Errors
    /// [`PrefaceError`], as soon as no further bytes could make it valid.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, PrefaceError> {
        whole(bytes, |reader| {
            let code = match reader.varint()? {
                0 => None,
                1 => Some(RefusedCode::Refused),
                2 => Some(RefusedCode::NotPublished),
                3 => Some(RefusedCode::Unreachable),
                4 => Some(RefusedCode::TimedOut),
                5 => Some(RefusedCode::Overloaded),
                code => return Err(Stop::Bad(PrefaceError::UnknownCode(code))),
            };
            let reason = reader.run(REASON_BYTES_MAX, PrefaceError::TooLong("reason"))?;
            let reason = str::from_utf8(reason).map_err(|_| Stop::Bad(PrefaceError::Malformed("reason")))?;
            Ok(match code {
                None => Self::Connected,
                Some(code) => Self::Refused(Refused { code, reason: Reason::new(reason) }),
            })
        })
    }
}

impl HostName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = PrefaceError;

    /// Reads a host as it crosses: empty is the agent's loopback, then an address, then a name.
    fn from_str(text: &str) -> Result<Self, PrefaceError> {
        if text.is_empty() {
            return Ok(Self::Loopback);
        }
        if text.len() > HOST_BYTES_MAX {
            return Err(PrefaceError::TooLong("host"));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
        match text.split('.').all(label) && !ends_in_a_number(text) {
            true => Ok(Self::Name(HostName(text.to_owned()))),
            false => Err(PrefaceError::Malformed("host")),
        }
    }
}

/// Whether resolvers could take `name` for an IPv4 address in one of its old spellings, as `127.1` or `0x7f000001`.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit()) || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => Ok(()),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(&name.0),
        }
    }
}

impl Trace {
    /// # Errors
    /// [`PrefaceError::TooLong`] beyond [`TRACE_BYTES_MAX`].
    pub fn new(bytes: Bytes) -> Result<Self, PrefaceError> {
        match bytes.len() <= TRACE_BYTES_MAX {
            true => Ok(Self(bytes)),
            false => Err(PrefaceError::TooLong("trace context")),
        }
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} bytes)", self.0.len())
    }
}

impl fmt::Display for RefusedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::NotPublished => "not published",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::Overloaded => "overloaded",
        })
    }
}

impl Reason {
    /// `text` made fit: control characters become spaces, and what is too long is cut.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            if kept.len() + c.len_utf8() > REASON_BYTES_MAX {
                break;
            }
            kept.push(c);
        }
        Self(kept)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The agent's value of [`LANE_HEADER`]: every version it speaks, newest first.
#[must_use]
pub fn offer() -> String {
    VERSIONS_SUPPORTED.map(|version| version.to_string()).join(", ")
}

/// The relay's choice from an agent's offer: the newest version both speak. `None`: no stream lane, packets only.
///
/// What is no number in the offer is passed over, so that later versions may say more.
#[must_use]
pub fn negotiate(offered: &str) -> Option<u64> {
    newest_of(&VERSIONS_SUPPORTED, offered)
}

fn newest_of(supported: &[u64], offered: &str) -> Option<u64> {
    offered.split(',').filter_map(|version| version.trim().parse().ok()).filter(|v| supported.contains(v)).max()
}

fn whole<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Stop<PrefaceError>>,
) -> Result<Option<(T, usize)>, PrefaceError> {
    let mut reader = Reader::new(bytes);
    match read(&mut reader) {
        Ok(value) => Ok(Some((value, reader.consumed()))),
        Err(Stop::More) => Ok(None),
        Err(Stop::Bad(error)) => Err(error),
    }
}

fn put_run(bytes: &[u8], out: &mut BytesMut) {
    varint::encode(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn put_client(client: Option<SocketAddr>, out: &mut BytesMut) {
    match client.map(|client| (client.ip(), client.port())) {
        None => out.put_u8(0),
        Some((IpAddr::V4(address), port)) => {
            out.put_u8(4);
            out.put_slice(&address.octets());
            out.put_u16(port);
        }
        Some((IpAddr::V6(address), port)) => {
            out.put_u8(6);
            out.put_slice(&address.octets());
            out.put_u16(port);
        }
    }
}

fn read_client(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, Stop<PrefaceError>> {
    match reader.byte()? {
        0 => Ok(None),
        version => {
            let address = reader.address(version, PrefaceError::Malformed("client address"))?;
            Ok(Some(SocketAddr::new(address, reader.port()?)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn clients() -> impl Strategy<Value = SocketAddr> {
        let address = prop_oneof![
            any::<u32>().prop_map(|address| IpAddr::V4(address.into())),
            any::<u128>().prop_map(|address| IpAddr::V6(address.into())),
        ];
        (address, any::<u16>()).prop_map(SocketAddr::from)
    }

    fn hosts() -> impl Strategy<Value = Host> {
        prop_oneof![
            Just(Host::Loopback),
            clients().prop_map(|client| Host::Address(client.ip())),
            "[a-zA-Z_][a-zA-Z0-9_-]{0,62}(\\.[a-zA-Z][a-zA-Z0-9_-]{0,61}){0,2}".prop_map(|name| name.parse().unwrap()),
        ]
    }

    fn prefaces() -> impl Strategy<Value = Preface> {
        let trace = vec(any::<u8>(), 0..=TRACE_BYTES_MAX).prop_map(|trace| Trace::new(trace.into()).unwrap());
        (0..=varint::MAX, hosts(), 1u16.., option::of(clients()), trace).prop_map(
            |(session, host, port, client, trace)| Preface { session, kind: Kind::Tcp, host, port, client, trace },
        )
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let code = prop_oneof![
            Just(RefusedCode::Refused),
            Just(RefusedCode::NotPublished),
            Just(RefusedCode::Unreachable),
            Just(RefusedCode::TimedOut),
            Just(RefusedCode::Overloaded),
        ];
        let refused = (code, any::<String>());
        prop_oneof![
            Just(Answer::Connected),
            refused.prop_map(|(code, text)| Answer::Refused(Refused { code, reason: Reason::new(&text) })),
        ]
    }

    fn encoded(preface: &Preface) -> Vec<u8> {
        let mut out = BytesMut::new();
        preface.encode(&mut out);
        out.to_vec()
    }

    fn example() -> Preface {
        Preface {
            session: 4,
            kind: Kind::Tcp,
            host: Host::Loopback,
            port: 8080,
            client: Some("192.0.2.1:5000".parse().unwrap()),
            trace: Trace::default(),
        }
    }

    #[test]
    fn version_one_is_laid_out_as_documented() {
        let bytes = [0xaf, 0x4b, 0x5d, 0x02, 1, 4, 1, 0, 0x1f, 0x90, 4, 192, 0, 2, 1, 0x13, 0x88, 0];
        assert_eq!(encoded(&example()), bytes);
        let mut answer = BytesMut::new();
        Answer::Refused(Refused { code: RefusedCode::NotPublished, reason: Reason::new("no") }).encode(&mut answer);
        assert_eq!(&answer[..], b"\x02\x02no");
    }

    #[test]
    fn the_first_wrong_field_is_named_before_more_is_read() {
        let bytes = encoded(&example());
        let with = |at: usize, value: &[u8]| [&bytes[..at], value].concat();
        for (bytes, want) in [
            (with(0, &[0]), PrefaceError::UnknownStreamType(0)),
            (with(4, &[2]), PrefaceError::UnknownVersion(2)),
            (with(6, &[2]), PrefaceError::UnknownKind(2)),
            (with(7, &[0x40, 254]), PrefaceError::TooLong("host")),
            (with(7, &[0xff; 8]), PrefaceError::TooLong("host")),
            (with(7, &[1, 0xff]), PrefaceError::Malformed("host")),
            (with(7, &[3, b'a', 0, b'b']), PrefaceError::Malformed("host")),
            (with(8, &[0, 0]), PrefaceError::Malformed("port")),
            (with(10, &[5]), PrefaceError::Malformed("client address")),
            (with(17, &[0x42, 1]), PrefaceError::TooLong("trace context")),
        ] {
            assert_eq!(Preface::decode(&bytes), Err(want), "{bytes:?}");
        }
    }

    #[test]
    fn wrong_answers_are_refused() {
        assert_eq!(Answer::decode(&[6]), Err(PrefaceError::UnknownCode(6)));
        assert_eq!(Answer::decode(&[1, 0x41, 1]), Err(PrefaceError::TooLong("reason")));
        assert_eq!(Answer::decode(&[1, 1, 0xff]), Err(PrefaceError::Malformed("reason")));
        assert_eq!(Answer::decode(&[0, 2, b'o', b'k', 9]), Ok(Some((Answer::Connected, 4))));
    }

    #[test]
    fn reasons_are_cut_at_a_character_and_hold_no_control_characters() {
        assert_eq!(Reason::new("a\r\nb\x1b[31m").as_str(), "a  b [31m");
        assert_eq!(Reason::new(&"€".repeat(100)).as_str().len(), 255);
    }

    #[test]
    fn hosts_are_loopback_address_or_name() {
        let parse = |text: &str| text.parse::<Host>();
        assert_eq!(parse(""), Ok(Host::Loopback));
        assert_eq!(parse("192.0.2.1"), Ok(Host::Address("192.0.2.1".parse().unwrap())));
        assert_eq!(parse("fd00::1"), Ok(Host::Address("fd00::1".parse().unwrap())));
        assert!(matches!(parse("nas.local"), Ok(Host::Name(name)) if name.as_str() == "nas.local"));
        for bad in [".", "a..b", "a b", "a/b", "[::1]", "ä", "a:80", "127.1", "0x7f.1", "a.0X7f", &"a".repeat(64)] {
            assert_eq!(parse(bad), Err(PrefaceError::Malformed("host")), "{bad}");
        }
        assert_eq!(parse(&"a.".repeat(127)), Err(PrefaceError::TooLong("host")));
    }

    #[test]
    fn the_newest_version_that_both_speak_is_chosen() {
        assert_eq!(offer(), "1");
        assert_eq!(negotiate(&offer()), Some(1));
        assert_eq!(newest_of(&[2, 1], "1"), Some(1), "an older agent");
        assert_eq!(newest_of(&[1], "2, 1"), Some(1), "a newer agent");
        assert_eq!(newest_of(&[2, 1], "2, 1"), Some(2));
        assert_eq!(newest_of(&[3, 2], "1"), None, "two versions apart");
        for nothing in ["", "x", "-1", "99999999999999999999", ","] {
            assert_eq!(negotiate(nothing), None);
        }
    }

    proptest! {
        #[test]
        fn every_preface_survives_the_round_trip(preface in prefaces(), tail: Vec<u8>) {
            let mut bytes = encoded(&preface);
            let length = bytes.len();
            prop_assert!(length <= PREFACE_BYTES_MAX);
            for cut in 0..length {
                prop_assert_eq!(Preface::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend(tail);
            prop_assert_eq!(Preface::decode(&bytes), Ok(Some((preface, length))));
        }

        #[test]
        fn every_answer_survives_the_round_trip(answer in answers(), tail: Vec<u8>) {
            let mut bytes = BytesMut::new();
            answer.encode(&mut bytes);
            let length = bytes.len();
            for cut in 0..length {
                prop_assert_eq!(Answer::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend(tail);
            prop_assert_eq!(Answer::decode(&bytes), Ok(Some((answer, length))));
        }

        #[test]
        fn arbitrary_bytes_never_panic_nor_wait_beyond_the_limit(tail in vec(any::<u8>(), PREFACE_BYTES_MAX..1100)) {
            let _ = Answer::decode(&tail);
            let header = encoded(&example());
            for kept in 0..header.len() {
                let bytes = [&header[..kept], &tail].concat();
                prop_assert_ne!(Preface::decode(&bytes[..PREFACE_BYTES_MAX]), Ok(None));
            }
        }
    }
}
