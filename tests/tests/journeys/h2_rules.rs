//! The rules of RFC 9113 that a client can break, section by section, frame by frame: what the relay answers, that no
//! backend hears of it, and that others are served meanwhile.

use underpass_tests::{
    front::{Front, HOST},
    h2_wire::{
        self, ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, FLOW_CONTROL_ERROR,
        FRAME_SIZE_ERROR, GOAWAY, HEADERS, PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, Peer,
        REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, WITH_PRIORITY, block, frame, get, literal,
        setting,
    },
    upstream::Upstream,
};

/// The longest payload that the relay takes, in bytes (RFC 9113 §4.2).
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// What must come of a case.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// GOAWAY with one of these codes, and the end of the connection.
    Connection(&'static [u32]),
    /// The stream is reset with one of these codes, and the connection serves on.
    Stream(&'static [u32]),
    /// The stream is answered with this status, and the connection serves on.
    Status(u16),
}

/// The name of a case, what it sends once both sides have greeted, and what must come of it. Streams below 9 are its own.
type Case = (&'static str, Vec<u8>, Want);

const OF_PROTOCOL: Want = Want::Connection(&[PROTOCOL_ERROR]);
/// RFC 9113 §5.4.1 lets a server name the error less exactly: the library says PROTOCOL_ERROR for most wrong lengths.
const OF_SIZE: Want = Want::Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
/// A malformed request (RFC 9113 §8.1.1).
const MALFORMED: Want = Want::Stream(&[PROTOCOL_ERROR]);
/// A field or a method that HTTP does not know of: the library ends the connection, which RFC 9113 §5.4.2 lets it.
const NO_HTTP: Want = OF_PROTOCOL;

/// Tries each case on a connection of its own, in the clear and, every other one, over TLS.
async fn check(cases: &[Case]) {
    let upstream = Upstream::start("front").await;
    let front = Front::open(upstream.address()).await;
    for (at, (name, sent, want)) in cases.iter().enumerate() {
        let before = upstream.requests();
        let mut peer = if at % 2 == 0 {
            Peer::open(front.addresses().http).await
        } else {
            Peer::open_tls(front.addresses().https, HOST).await
        };
        peer.send(sent).await;
        let end = peer.end().await;
        let own = match (want, end) {
            (Want::Connection(codes), End::Connection(code)) if codes.contains(&code) => {
                assert_eq!(peer.end().await, End::Closed, "{name}: the connection ends");
                0
            }
            (Want::Stream(codes), End::Stream(code)) if codes.contains(&code) => {
                served_on(&mut peer, name).await;
                1
            }
            (Want::Status(status), End::Status(seen)) if *status == seen => {
                served_on(&mut peer, name).await;
                1 + usize::from(seen == 200)
            }
            _ => panic!("{name}: {want:?}, but the relay answered {end:?}"),
        };
        assert_eq!(upstream.requests() - before, own, "{name}: the backend hears of nothing that is wrong");
        front.serves_others(name).await;
    }
}

/// A good request on the same connection.
async fn served_on(peer: &mut Peer, name: &str) {
    peer.ask(9, &get(HOST, "/name")).await;
    assert_eq!(peer.end_of(9).await, End::Status(200), "{name}: the connection serves on");
}

/// HEADERS that are whole, of a request without a body.
fn asks(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// HEADERS that are whole, of a request whose body follows.
fn begins(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}

fn good() -> Vec<(&'static str, &'static str)> {
    get(HOST, "/name")
}

/// A request that waits for its body, which is never answered by itself.
fn posts<'a>() -> Vec<(&'a str, &'a str)> {
    vec![(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/digest")]
}

/// A good GET with one more field.
fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    [good(), vec![(name, value)]].concat()
}

#[tokio::test]
async fn rfc9113_3_4_the_preface() {
    let upstream = Upstream::start("front").await;
    let front = Front::open(upstream.address()).await;
    let before = upstream.requests();
    let spoilt = PREFACE.replace_byte(PREFACE.len() - 5, b'X');
    for (name, sent) in [
        ("cut and then HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec()),
        ("spoilt", spoilt),
        ("twice", [PREFACE, &frame(SETTINGS, 0, 0, &[]), PREFACE].concat()),
        ("and then no frame", [PREFACE, b"GET / HTTP/1.1\r\nhost: front.example.com\r\n\r\n"].concat()),
    ] {
        let mut peer = Peer::connect(front.addresses().http).await;
        peer.send(&sent).await;
        while peer.next().await.is_ok_and(|frame| frame.is_some()) {}
        front.serves_others(name).await;
    }
    assert_eq!(upstream.requests() - before, 4, "only the others are served");
}

trait ReplaceByte {
    fn replace_byte(&self, at: usize, byte: u8) -> Vec<u8>;
}

impl ReplaceByte for [u8] {
    fn replace_byte(&self, at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = self.to_vec();
        bytes[at] = byte;
        bytes
    }
}

#[tokio::test]
async fn rfc9113_4_frames_and_their_sizes() {
    let good = asks(1, &good());
    let mut reserved = good.clone();
    reserved[5] |= 0x80;
    let mut undefined = good.clone();
    undefined[4] |= 0xd2 & !PADDED & !WITH_PRIORITY;
    check(&[
        ("§4.1: an unknown type is ignored", [frame(0x42, 0xff, 3, b"anything"), good].concat(), Want::Status(200)),
        ("§4.1: the reserved bit is ignored", reserved, Want::Status(200)),
        ("§4.1: undefined flags are ignored", undefined, Want::Status(200)),
        (
            "§4.2: DATA beyond SETTINGS_MAX_FRAME_SIZE",
            [begins(1, &posts()), frame(DATA, 0, 1, &vec![0; FRAME_BYTES_MAX + 1])].concat(),
            Want::Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "§4.2: HEADERS beyond SETTINGS_MAX_FRAME_SIZE",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &vec![0; FRAME_BYTES_MAX + 1]),
            Want::Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "§4.3: an index beyond every table",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x7f]),
            Want::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "§4.3: a block that ends within a field",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0, 10, b'x']),
            Want::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "§4.3: a table larger than was allowed",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xff, 0xff, 0x7f]),
            Want::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "§4.3: an integer that never ends",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[[0x7f].as_slice(), &[0xff; 100]].concat()),
            Want::Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_5_states_and_numbers_of_streams() {
    let window = 1_u32.to_be_bytes();
    let cancel = CANCEL.to_be_bytes();
    check(&[
        ("§5.1: DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), OF_PROTOCOL),
        ("§5.1: RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &cancel), OF_PROTOCOL),
        ("§5.1: WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, &window), OF_PROTOCOL),
        ("§5.1: CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1, &block(&good())), OF_PROTOCOL),
        (
            "§5.1: DATA after END_STREAM",
            [asks(1, &get(HOST, "/hold")), frame(DATA, 0, 1, b"x")].concat(),
            Want::Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "§5.1: HEADERS after END_STREAM",
            [asks(1, &get(HOST, "/hold")), asks(1, &good())].concat(),
            Want::Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        ("§5.1.1: a stream with an even number", asks(2, &good()), OF_PROTOCOL),
        ("§5.1.1: stream 0", asks(0, &good()), OF_PROTOCOL),
        (
            "§5.1.1: a number below one that was used",
            [asks(5, &get(HOST, "/hold")), asks(3, &good())].concat(),
            Want::Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "§5.3: a stream that depends on itself",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 1, 16][..], &block(&good())].concat(),
            ),
            MALFORMED,
        ),
        (
            "§5.5: an unknown frame within a header block",
            [frame(HEADERS, END_STREAM, 1, &block(&good())), frame(0x42, 0, 1, b"x")].concat(),
            OF_PROTOCOL,
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_6_1_to_6_4_data_headers_priority_and_resets() {
    let head = block(&good());
    check(&[
        ("§6.1: DATA on stream 0", frame(DATA, 0, 0, b"x"), OF_PROTOCOL),
        (
            "§6.1: padding as long as the frame",
            [begins(1, &posts()), frame(DATA, PADDED | END_STREAM, 1, &[3, 0, 0])].concat(),
            OF_PROTOCOL,
        ),
        (
            "§6.2: padding longer than the block",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[&[255][..], &head].concat()),
            OF_PROTOCOL,
        ),
        (
            "§6.2: a block that another frame interrupts",
            [frame(HEADERS, END_STREAM, 1, &head), frame(PING, 0, 0, &[0; 8])].concat(),
            OF_PROTOCOL,
        ),
        (
            "§6.2: a block that another stream interrupts",
            [frame(HEADERS, END_STREAM, 1, &head), asks(3, &good())].concat(),
            OF_PROTOCOL,
        ),
        (
            "§6.2: padding and priority that fit",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED | WITH_PRIORITY,
                1,
                &[&[2, 0, 0, 0, 3, 7][..], &head, &[0, 0]].concat(),
            ),
            Want::Status(200),
        ),
        ("§6.3: PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1]), OF_PROTOCOL),
        ("§6.3: PRIORITY of four bytes", frame(PRIORITY, 0, 1, &[0; 4]), OF_SIZE),
        ("§6.4: RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), OF_PROTOCOL),
        (
            "§6.4: RST_STREAM of three bytes",
            [asks(1, &get(HOST, "/hold")), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            OF_SIZE,
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_6_5_settings() {
    let of = |id, value| frame(SETTINGS, 0, 0, &setting(id, value));
    check(&[
        ("§6.5: an acknowledgement with a payload", frame(SETTINGS, ACK, 0, &setting(4, 1)), OF_SIZE),
        ("§6.5: on a stream", frame(SETTINGS, 0, 1, &setting(4, 1)), OF_PROTOCOL),
        ("§6.5: five bytes", frame(SETTINGS, 0, 0, &[0; 5]), OF_SIZE),
        ("§6.5.2: ENABLE_PUSH of 2", of(2, 2), OF_PROTOCOL),
        ("§6.5.2: a window of 2^31", of(4, 1 << 31), Want::Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR])),
        ("§6.5.2: frames of 16,383 bytes", of(5, 16_383), OF_PROTOCOL),
        ("§6.5.2: frames of 2^24 bytes", of(5, 1 << 24), OF_PROTOCOL),
        ("§6.5.2: an unknown setting", [of(0x7777, 7), asks(1, &good())].concat(), Want::Status(200)),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_6_6_to_6_8_push_ping_and_goaway() {
    let promise = [&2_u32.to_be_bytes()[..], &block(&good())].concat();
    check(&[
        (
            "§6.6: a client that promises a push",
            [begins(1, &posts()), frame(PUSH_PROMISE, END_HEADERS, 1, &promise)].concat(),
            OF_PROTOCOL,
        ),
        ("§6.7: PING of seven bytes", frame(PING, 0, 0, &[0; 7]), OF_SIZE),
        ("§6.7: PING on a stream", frame(PING, 0, 1, &[0; 8]), OF_PROTOCOL),
        (
            "§6.7: an answer to no PING",
            [frame(PING, ACK, 0, b"unasked!"), asks(1, &good())].concat(),
            Want::Status(200),
        ),
        ("§6.8: GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), OF_PROTOCOL),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_6_9_windows() {
    let add = |stream, bytes: u32| frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    let most = (1_u32 << 31) - 1;
    let held = asks(1, &get(HOST, "/hold"));
    check(&[
        ("§6.9: three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), OF_SIZE),
        ("§6.9: nothing added to the connection", add(0, 0), OF_PROTOCOL),
        ("§6.9.1: a connection's window beyond 2^31-1", add(0, most), Want::Connection(&[FLOW_CONTROL_ERROR])),
        ("§6.9: nothing added to a stream", [held.clone(), add(1, 0)].concat(), OF_PROTOCOL),
        ("§6.9.1: a stream's window beyond 2^31-1", [held, add(1, most)].concat(), Want::Stream(&[FLOW_CONTROL_ERROR])),
        (
            "§6.9.2: a window that becomes negative and positive again",
            [
                asks(1, &get(HOST, "/bytes/70000")),
                frame(SETTINGS, 0, 0, &setting(4, 0)),
                frame(SETTINGS, 0, 0, &setting(4, 65_535)),
            ]
            .concat(),
            Want::Status(200),
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_6_10_continuation() {
    let head = block(&good());
    let (first, second) = head.split_at(20);
    check(&[
        (
            "a block in three frames",
            [
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, 0, 1, &second[..5]),
                frame(CONTINUATION, END_HEADERS, 1, &second[5..]),
            ]
            .concat(),
            Want::Status(200),
        ),
        (
            "after END_HEADERS",
            [asks(1, &get(HOST, "/hold")), frame(CONTINUATION, END_HEADERS, 1, &head)].concat(),
            OF_PROTOCOL,
        ),
        (
            "on another stream",
            [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 3, second)].concat(),
            OF_PROTOCOL,
        ),
        (
            "on stream 0",
            [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 0, second)].concat(),
            OF_PROTOCOL,
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_8_1_messages_whose_parts_do_not_fit() {
    let cut = |length| [posts(), vec![("content-length", length)]].concat();
    let trailers = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields));
    let body = frame(DATA, 0, 1, b"12345");
    check(&[
        (
            "§8.1: trailers that do not end",
            [begins(1, &posts()), body.clone(), begins(1, &[("x-t", "1")])].concat(),
            MALFORMED,
        ),
        (
            // The library should reset the stream, and drops the field instead, so that no backend sees it.
            "§8.1: a pseudo-header among trailers",
            [begins(1, &posts()), body.clone(), trailers(&[(":path", "/")])].concat(),
            Want::Status(200),
        ),
        (
            "§8.1.1: a body longer than its length",
            [begins(1, &cut("3")), frame(DATA, END_STREAM, 1, b"12345")].concat(),
            MALFORMED,
        ),
        (
            "§8.1.1: a body shorter than its length",
            [begins(1, &cut("9")), frame(DATA, END_STREAM, 1, b"12345")].concat(),
            MALFORMED,
        ),
        ("§8.1.1: a length and no body", asks(1, &cut("9")), MALFORMED),
        (
            "§8.1.1: a length and no body but trailers",
            [begins(1, &cut("9")), trailers(&[("x-t", "1")])].concat(),
            MALFORMED,
        ),
        ("§8.1.1: a length that is no number", asks(1, &cut("5x")), MALFORMED),
        ("§8.1.1: a negative length", asks(1, &cut("-1")), MALFORMED),
        ("§8.1.1: two lengths", asks(1, &[cut("5"), vec![("content-length", "6")]].concat()), MALFORMED),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_8_2_fields_that_http2_does_not_have() {
    let mut cases: Vec<Case> = vec![
        ("§8.2.1: a name in upper case", asks(1, &with("X-Upper", "1")), NO_HTTP),
        ("§8.2.1: a name with a space", asks(1, &with("x y", "1")), NO_HTTP),
        ("§8.2.1: a name with a colon", asks(1, &with("x:y", "1")), NO_HTTP),
        ("§8.2.1: a name with a line feed", asks(1, &with("x\ny", "1")), NO_HTTP),
        ("§8.2.1: an empty name", asks(1, &with("", "1")), NO_HTTP),
        ("§8.2.1: a value with CR LF", asks(1, &with("x-y", "1\r\nx-z: 2")), NO_HTTP),
        ("§8.2.1: a value with a line feed", asks(1, &with("x-y", "1\nx-z: 2")), NO_HTTP),
        ("§8.2.1: a value with NUL", asks(1, &with("x-y", "1\0")), NO_HTTP),
        ("§8.2.2: connection", asks(1, &with("connection", "close")), MALFORMED),
        ("§8.2.2: keep-alive", asks(1, &with("keep-alive", "5")), MALFORMED),
        ("§8.2.2: proxy-connection", asks(1, &with("proxy-connection", "close")), MALFORMED),
        ("§8.2.2: transfer-encoding", asks(1, &with("transfer-encoding", "chunked")), MALFORMED),
        ("§8.2.2: upgrade", asks(1, &with("upgrade", "h2c")), MALFORMED),
        ("§8.2.2: te that is not trailers", asks(1, &with("te", "gzip")), MALFORMED),
        ("§8.2.2: te: trailers", asks(1, &with("te", "trailers")), Want::Status(200)),
    ];
    let mut latin = block(&good());
    literal(&mut latin, b"x-y", &[0xe9, 0xff]);
    cases.push((
        "§8.2.1: a value beyond ASCII",
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &latin),
        Want::Status(200),
    ));
    check(&cases).await;
}

#[tokio::test]
async fn rfc9113_8_3_pseudo_headers() {
    let without = |name: &str| -> Vec<_> { good().into_iter().filter(|(field, _)| *field != name).collect() };
    let instead = |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    let late = [vec![("x-first", "1")], good()].concat();
    check(&[
        ("one that does not exist", asks(1, &[vec![(":unknown", "1")], good()].concat()), NO_HTTP),
        ("one of answers", asks(1, &[vec![(":status", "200")], good()].concat()), MALFORMED),
        ("after an ordinary field", asks(1, &late), MALFORMED),
        ("no method", asks(1, &without(":method")), MALFORMED),
        ("no scheme", asks(1, &without(":scheme")), MALFORMED),
        ("no path", asks(1, &without(":path")), MALFORMED),
        ("an empty path", asks(1, &instead(":path", "")), MALFORMED),
        ("two methods", asks(1, &[vec![(":method", "GET")], good()].concat()), MALFORMED),
        ("two schemes", asks(1, &[vec![(":scheme", "http")], good()].concat()), MALFORMED),
        ("two paths", asks(1, &[vec![(":path", "/a")], good()].concat()), MALFORMED),
        ("two authorities", asks(1, &[vec![(":authority", HOST)], good()].concat()), MALFORMED),
        ("a path that is none", asks(1, &instead(":path", "name")), MALFORMED),
        ("a path with CR LF", asks(1, &instead(":path", "/a HTTP/1.1\r\nx: y")), MALFORMED),
        ("a path with a space", asks(1, &instead(":path", "/a b")), MALFORMED),
        ("a method with a space", asks(1, &instead(":method", "GET /admin")), NO_HTTP),
        ("a method with CR LF", asks(1, &instead(":method", "GET\r\n")), NO_HTTP),
        ("no authority and no host", asks(1, &without(":authority")), Want::Status(400)),
        ("an authority that is none", asks(1, &instead(":authority", "a b")), MALFORMED),
        ("an authority of a user", asks(1, &instead(":authority", "u@front.example.com")), Want::Status(400)),
        ("a host beside another authority", asks(1, &with("host", "other.example.com")), Want::Status(400)),
        ("§8.5: CONNECT with a path", asks(1, &instead(":method", "CONNECT")), MALFORMED),
        (
            "RFC 8441: a protocol without CONNECT",
            asks(1, &[vec![(":protocol", "websocket")], good()].concat()),
            MALFORMED,
        ),
    ])
    .await;
}

#[tokio::test]
async fn rfc9113_5_1_2_streams_beyond_the_limit_are_refused_and_the_others_answered() {
    const ALLOWED: u32 = 100;
    const BEYOND: u32 = 50;
    let upstream = Upstream::start("front").await;
    let front = Front::open(upstream.address()).await;
    let mut peer = Peer::open(front.addresses().http).await;
    let all: Vec<u8> = (0..ALLOWED + BEYOND).flat_map(|at| asks(2 * at + 1, &get(HOST, "/hold"))).collect();
    peer.send(&all).await;
    for at in 0..BEYOND {
        assert_eq!(peer.end().await, End::Stream(REFUSED_STREAM), "after {at} that were refused");
    }
    upstream.holds(ALLOWED as usize).await;
    front.serves_others("a hundred requests are held").await;
    upstream.release();
    for at in 0..ALLOWED {
        assert_eq!(peer.end().await, End::Status(200), "the answer after {at}");
    }
}

#[tokio::test]
async fn rfc9113_6_9_1_a_client_that_minds_no_window_is_sent_away() {
    /// More than the relay takes ahead on the stream and on the connection, however fast a backend reads.
    const SENT: usize = 64 << 20;
    let upstream = Upstream::start("front").await;
    let front = Front::open(upstream.address()).await;
    let mut peer = Peer::open(front.addresses().http).await;
    peer.send(&begins(1, &posts())).await;
    let piece = frame(DATA, 0, 1, &vec![0; FRAME_BYTES_MAX]).repeat(64);
    let mut ends = Vec::new();
    for _ in 0..SENT / piece.len() {
        ends.extend(peer.flood(&piece).await.iter().filter_map(h2_wire::Frame::end));
        if matches!(ends.last(), Some(End::Connection(_))) {
            break;
        }
    }
    let last = if let Some(last) = ends.last() { *last } else { peer.end().await };
    assert!(
        matches!(last, End::Stream(FLOW_CONTROL_ERROR) | End::Connection(FLOW_CONTROL_ERROR)),
        "the windows are held: {ends:?} {last:?}"
    );
    front.serves_others("a client minds no window").await;
}
