//! Floods of HTTP/2: each is small for the client and must be small for the relay. Its memory is bounded, others are
//! served meanwhile, and whoever only makes work is sent away.

use std::time::Duration;

use tokio::time::timeout;
use underpass_tests::{
    eventually::eventually,
    front::{Front, HOST},
    h2_wire::{
        ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, End, HEADERS, PING, PRIORITY,
        Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get, integer, literal, setting,
    },
    upstream::Upstream,
};

/// What the relay may hold more after an attack than before, in bytes: windows and queues of the attacker's connection
/// (about 2 MiB), and what the allocator keeps of what was given back.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// How long a client that reads nothing tries on: what the relay does not take by then, it does not take.
const ATTACK: Duration = Duration::from_secs(2);

/// A relay with a backend, and what it held before the attack.
struct Scene {
    upstream: Upstream,
    front: Front,
    before: u64,
}

impl Scene {
    async fn open() -> Self {
        let upstream = Upstream::start("front").await;
        let front = Front::open(upstream.address()).await;
        let before = front.memory();
        Self { upstream, front, before }
    }

    async fn peer(&self) -> Peer {
        Peer::open(self.front.addresses().http).await
    }

    /// Asserts that others are served, and that the relay holds little more than before.
    async fn stands(&self, meanwhile: &str) {
        self.front.serves_others(meanwhile).await;
        let grown = self.front.memory().saturating_sub(self.before);
        println!("{meanwhile}: {} KiB more", grown >> 10);
        assert!(grown < GROWTH_BYTES_MAX, "{meanwhile}: the relay holds {grown} bytes more");
    }

    /// Sends `piece` so many times, reading what comes; gives how the connection ended, if it did.
    async fn flood(&self, peer: &mut Peer, piece: &[u8], times: usize, name: &str) -> Option<End> {
        let mut last = None;
        for _ in 0..times {
            let frames = peer.flood(piece).await;
            last = frames.iter().filter_map(underpass_tests::h2_wire::Frame::end).next_back().or(last);
            if matches!(last, Some(End::Connection(_))) {
                break;
            }
        }
        self.stands(name).await;
        last
    }
}

fn asks(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&get(HOST, path)))
}

/// Frames that cost an answer, or nothing but the reading: 100,000 of each leave nothing behind.
#[tokio::test]
async fn frames_without_a_request_cost_no_memory() {
    const EACH: usize = 100_000;
    const AT_ONCE: usize = 1000;
    let scene = Scene::open().await;
    for (name, one) in [
        ("PING (CVE-2019-9512)", frame(PING, 0, 0, b"12345678")),
        ("answers to no PING", frame(PING, ACK, 0, b"12345678")),
        ("SETTINGS (CVE-2019-9515)", frame(SETTINGS, 0, 0, &setting(4, 65_535))),
        ("empty SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY (CVE-2019-9513)", frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 5])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("unknown frames", frame(0x42, 0, 0, &[0; 64])),
    ] {
        let mut peer = scene.peer().await;
        let end = scene.flood(&mut peer, &one.repeat(AT_ONCE), EACH / AT_ONCE, name).await;
        assert!(matches!(end, None | Some(End::Connection(ENHANCE_YOUR_CALM))), "{name}: {end:?}");
        if end.is_none() {
            peer.ask(1, &get(HOST, "/name")).await;
            assert_eq!(peer.end_of(1).await, End::Status(200), "{name}: the connection serves on");
        }
    }
}

/// The same of a client that reads nothing: answers are not gathered for it, its frames are not read any more.
#[tokio::test]
async fn answers_to_a_client_that_does_not_read_are_not_gathered() {
    const EACH: usize = 1_000_000;
    let scene = Scene::open().await;
    for (name, one) in [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("unknown hosts", Vec::new()),
    ] {
        let mut peer = scene.peer().await;
        let flood = if one.is_empty() {
            (0..20_000).flat_map(|at| frame(HEADERS, 5, 2 * at + 1, &block(&get("nobody.example.com", "/")))).collect()
        } else {
            one.repeat(EACH)
        };
        // The relay stops reading, or sends the client away.
        let _ = timeout(ATTACK, peer.send(&flood)).await;
        scene.stands(name).await;
    }
}

#[tokio::test]
async fn data_without_bytes_costs_no_memory() {
    let scene = Scene::open().await;
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/digest")];
    for (name, one) in [
        ("empty DATA (CVE-2019-9518)", frame(DATA, 0, 1, &[])),
        ("DATA of padding", frame(DATA, 8, 1, &[[4].as_slice(), &[0; 4]].concat())),
    ] {
        let mut peer = scene.peer().await;
        peer.send(&frame(HEADERS, END_HEADERS, 1, &block(&head))).await;
        let end = scene.flood(&mut peer, &one.repeat(1000), 100, name).await;
        // What the backend's side takes at once is not waited for and so not counted by the library.
        assert!(matches!(end, None | Some(End::Connection(ENHANCE_YOUR_CALM))), "{name}: {end:?}");
        drop(peer);
        scene.upstream.holds(0).await;
    }
}

/// A thousand small frames are an ordinary upload.
#[tokio::test]
async fn data_of_one_byte_each_is_served() {
    let scene = Scene::open().await;
    let mut peer = scene.peer().await;
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", HOST), (":path", "/digest")];
    peer.send(&frame(HEADERS, END_HEADERS, 1, &block(&head))).await;
    peer.send(&frame(DATA, 0, 1, b"x").repeat(1000)).await;
    peer.send(&frame(DATA, END_STREAM, 1, &[])).await;
    assert_eq!(peer.end_of(1).await, End::Status(200));
    scene.stands("a thousand bytes").await;
}

#[tokio::test]
async fn a_block_without_end_is_cut_off() {
    let scene = Scene::open().await;
    let mut name_then_value = Vec::new();
    literal(&mut name_then_value, b"x-long", &[b'a'; 1000]);
    let mut endless = vec![0, 1, b'x'];
    integer(&mut endless, 0, 7, 1 << 30);
    let begin = frame(HEADERS, END_STREAM, 1, &block(&get(HOST, "/name")));
    for (name, first, more) in [
        ("empty CONTINUATION", begin.clone(), Vec::new()),
        ("CONTINUATION with fields (VU#421644)", begin.clone(), name_then_value.repeat(16)),
        ("a value without end", frame(HEADERS, END_STREAM, 1, &endless), vec![b'a'; 16 << 10]),
    ] {
        let mut peer = scene.peer().await;
        peer.send(&first).await;
        let end = scene.flood(&mut peer, &frame(CONTINUATION, 0, 1, &more), 10_000, name).await;
        assert!(matches!(end, Some(End::Connection(_))), "{name}: {end:?}");
    }
}

/// RFC 7541 §7.3, CVE-2016-6581: few bytes that stand for many.
#[tokio::test]
async fn a_bomb_of_references_is_refused() {
    let scene = Scene::open().await;
    let mut bomb = block(&get(HOST, "/name"));
    // A value of 4,000 bytes goes into the table, and 16,000 references to it stand for 64 MB.
    bomb.push(0x40);
    bomb.extend([1, b'x']);
    integer(&mut bomb, 0, 7, 4000);
    bomb.extend([b'a'; 4000]);
    bomb.extend([0xbe; 12_000]);
    assert!(bomb.len() < 16 << 10, "the bomb is one frame");
    for round in 0..20 {
        let mut peer = scene.peer().await;
        let end = scene.flood(&mut peer, &frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb), 1, "a bomb").await;
        let end = if let Some(end) = end { end } else { peer.end().await };
        assert_eq!(end, End::Connection(ENHANCE_YOUR_CALM), "round {round}");
    }
}

#[tokio::test]
async fn heads_beyond_the_limits_are_431() {
    let scene = Scene::open().await;
    let long = "a".repeat(9000);
    let many: Vec<(String, String)> = (0..120).map(|at| (format!("x-{at}"), "1".to_owned())).collect();
    let large: Vec<(String, String)> = (0..8).map(|at| (format!("x-{at}"), long.clone())).collect();
    for (name, fields) in [("too many fields", many), ("64 KiB and more", large)] {
        let before = scene.upstream.requests();
        let mut peer = scene.peer().await;
        let mut all = block(&get(HOST, "/name"));
        for (name, value) in &fields {
            literal(&mut all, name.as_bytes(), value.as_bytes());
        }
        let pieces: Vec<&[u8]> = all.chunks(16 << 10).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let (kind, first) = if at == 0 { (HEADERS, END_STREAM) } else { (CONTINUATION, 0) };
            let last = if at + 1 == pieces.len() { END_HEADERS } else { 0 };
            peer.send(&frame(kind, first | last, 1, piece)).await;
        }
        assert_eq!(peer.end_of(1).await, End::Status(431), "{name}");
        peer.ask(3, &get(HOST, "/name")).await;
        assert_eq!(peer.end_of(3).await, End::Status(200), "{name}: the connection serves on");
        assert_eq!(scene.upstream.requests() - before, 1, "{name}");
        scene.stands(name).await;
    }
}

/// CVE-2023-44487: every request is given up at once, so that no limit of open streams is met.
#[tokio::test]
async fn a_client_that_resets_what_it_begins_is_sent_away() {
    let scene = Scene::open().await;
    let mut peer = scene.peer().await;
    let cancel = CANCEL.to_be_bytes();
    let pairs = |from: u32| -> Vec<u8> {
        (from..from + 1000)
            .flat_map(|at| [asks(2 * at + 1, "/hold"), frame(RST_STREAM, 0, 2 * at + 1, &cancel)].concat())
            .collect()
    };
    let end = scene.flood(&mut peer, &pairs(0), 1, "rapid reset").await;
    let end = if let Some(end) = end { end } else { peer.end().await };
    assert_eq!(end, End::Connection(ENHANCE_YOUR_CALM));
    scene.upstream.holds(0).await;
    assert!(scene.upstream.requests() < 200, "few requests reach the backend: {}", scene.upstream.requests());
}

/// The same slowly: each request has reached the backend before it is given up.
#[tokio::test]
async fn a_client_that_resets_what_a_backend_works_on_is_sent_away() {
    const ENOUGH: usize = 1000;
    let scene = Scene::open().await;
    let mut peer = scene.peer().await;
    let before = scene.upstream.requests();
    let mut tried = 0;
    for at in 0..ENOUGH {
        let stream = 2 * u32::try_from(at).unwrap() + 1;
        peer.send(&asks(stream, "/hold")).await;
        peer.send(&frame(PING, 0, 0, &[1; 8])).await;
        // The answer to the PING: what was sent before it was read.
        let answered = loop {
            match peer.next().await {
                Ok(Some(frame)) if frame.kind == PING && frame.flags & ACK == ACK => break true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break false,
            }
        };
        if !answered {
            break;
        }
        // The relay may take note of the last reset only after it has read this request.
        tokio::select! {
            () = scene.upstream.saw(before + at + 1) => {}
            end = peer.end() => {
                assert_eq!(end, End::Closed);
                break;
            }
        }
        peer.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await;
        tried = at;
    }
    assert!(tried < 200, "the connection ends after {tried} requests for nothing");
    scene.upstream.holds(0).await;
    scene.stands("slow resets").await;
}

/// CVE-2025-8671: the client makes the relay reset what it begins.
#[tokio::test]
async fn a_client_that_makes_the_relay_reset_is_sent_away() {
    let scene = Scene::open().await;
    let zero = 0_u32.to_be_bytes();
    let most = ((1_u32 << 31) - 1).to_be_bytes();
    for (name, fault) in [
        ("a window beyond its limit", frame(WINDOW_UPDATE, 0, 1, &most)),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])),
        ("DATA after the end", frame(DATA, 0, 1, b"x")),
        ("nothing added to a window", frame(WINDOW_UPDATE, 0, 1, &zero)),
        ("HEADERS after the end", asks(1, "/hold")),
    ] {
        let before = scene.upstream.requests();
        let mut peer = scene.peer().await;
        let mut all = Vec::new();
        for at in 0..1000_u32 {
            let stream = 2 * at + 1;
            let mut fault = fault.clone();
            fault[5..9].copy_from_slice(&stream.to_be_bytes());
            if fault[3] == PRIORITY {
                fault[9..13].copy_from_slice(&stream.to_be_bytes());
            }
            all.extend([asks(stream, "/hold"), fault].concat());
        }
        let end = scene.flood(&mut peer, &all, 1, name).await;
        let mut end = end.unwrap_or(End::Closed);
        while !matches!(end, End::Connection(_) | End::Closed) {
            end = peer.end().await;
        }
        assert_ne!(end, End::Connection(0), "{name}");
        scene.upstream.holds(0).await;
        let reached = scene.upstream.requests() - before;
        assert!(reached <= 200, "{name}: {reached} requests reach the backend");
    }
}

#[tokio::test]
async fn a_thousand_streams_at_once_end_the_connection_and_free_the_backend() {
    let scene = Scene::open().await;
    let mut peer = scene.peer().await;
    let all: Vec<u8> = (0..1000).flat_map(|at| asks(2 * at + 1, "/hold")).collect();
    let mut end = scene.flood(&mut peer, &all, 1, "a thousand streams").await.unwrap_or(End::Stream(0));
    while matches!(end, End::Stream(_)) {
        end = peer.end().await;
    }
    assert_eq!(end, End::Connection(ENHANCE_YOUR_CALM));
    eventually("the backend is free", async || {
        let grown = scene.front.memory().saturating_sub(scene.before);
        if grown < GROWTH_BYTES_MAX { Ok(()) } else { Err(grown) }
    })
    .await;
    scene.upstream.holds(0).await;
}
