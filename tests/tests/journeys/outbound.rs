//! Flows that begin at an agent: programs at its SOCKS5 and HTTP CONNECT proxies reach other nodes and the internet, as far
//! as the TunnelNodes say.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use underpass_tests::{
    digest::{Pieces, Sha256},
    eventually::{PATIENCE, within},
    manifest,
    office::answers,
    socks::{self, HOST_UNREACHABLE, NOT_ALLOWED, Nodes, REFUSED, SUCCEEDED, replies},
};

const TEN_MEGABYTES: u64 = 10_000_000;

/// GET over a connection that stands; gives all that comes back.
async fn get(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: office\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(PATIENCE, "an answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// A server that answers the end of what it is sent with how much it was, and closes.
async fn counting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = Vec::new();
                if stream.read_to_end(&mut sent).await.is_ok() {
                    let mut sha = Sha256::default();
                    sha.update(&sent);
                    // Who asked may be gone.
                    let _ = stream.write_all(format!("{} {}", sent.len(), sha.finish()).as_bytes()).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_service_of_another_node_is_reached_where_both_its_node_and_its_agent_allow_it() {
    let nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    assert_eq!(socks::connect(proxy, "office.tun.internal", port).await.unwrap_err(), NOT_ALLOWED, "nobody said so");

    nodes.office_admits("[{node: laptop}]").await;
    let by_name = replies(proxy, "office.tun.internal", port, SUCCEEDED).await.unwrap();
    assert!(get(by_name, "/name").await.ends_with("office"));
    let address = nodes.at_office.address;
    let any = std::net::Ipv6Addr::from(u128::from(address) >> 64 << 64);
    let agent = format!("{}.office.tun.internal.", nodes.at_office.agent);
    for host in [address.to_string(), any.to_string(), agent, "OFFICE.tun.internal".to_owned()] {
        let stream = socks::connect(proxy, &host, port).await.unwrap_or_else(|code| panic!("{host}: {code}"));
        assert!(get(stream, "/name").await.ends_with("office"), "{host}");
    }
    let unpublished = socks::connect(proxy, "office.tun.internal", nodes.relay.addresses.api.port()).await;
    assert_eq!(unpublished.unwrap_err(), NOT_ALLOWED, "the agent publishes one port only");
    let of_laptop = socks::connect(proxy, "laptop.tun.internal", port).await;
    assert_eq!(of_laptop.unwrap_err(), NOT_ALLOWED, "consent has a direction");
    let behind = std::net::Ipv6Addr::from(u128::from(address) >> 32 << 32 | 0xc000_0207).to_string();
    assert_eq!(socks::connect(proxy, &behind, port).await.unwrap_err(), NOT_ALLOWED, "{behind}");
    let nobody = socks::connect(proxy, "a-none.office.tun.internal", port).await;
    assert_eq!(nobody.unwrap_err(), HOST_UNREACHABLE);

    nodes.office_admits(&format!("[{{node: laptop, ports: ['{}-65535']}}]", u32::from(port) + 1)).await;
    replies(proxy, "office.tun.internal", port, NOT_ALLOWED).await;
    nodes.office_admits(&format!("[{{node: laptop, ports: [{port}]}}]")).await;
    replies(proxy, "office.tun.internal", port, SUCCEEDED).await;
}

#[tokio::test]
async fn an_agent_that_publishes_nothing_by_name_publishes_to_the_gateway_only() {
    let nodes = Nodes::open().await;
    nodes.relay.cli().apply(&(manifest::node("bare") + "spec: {allowFrom: [{node: laptop}, {node: office}]}\n")).await;
    let settings = underpass_tests::agent::Settings::node("bare");
    let (_bare, _) = underpass_tests::agent::Agent::enrol(&nodes.relay, settings).await;
    let target = manifest::Target { node: "bare", port: nodes.upstream.port(), protocol: "" };
    nodes.relay.cli().apply(&manifest::service("app", "bare.example.com", target)).await;
    underpass_tests::office::serves(&nodes.relay, "bare.example.com", "office").await;
    let refused = socks::connect(nodes.proxy, "bare.tun.internal", nodes.upstream.port()).await;
    assert_eq!(refused.unwrap_err(), NOT_ALLOWED);
}

#[tokio::test]
async fn revoking_a_permission_cuts_what_runs_by_it_and_nothing_else() {
    let nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    nodes.office_admits("[{node: laptop}]").await;
    nodes.laptop_may_leave(true).await;
    let mut inside = replies(proxy, "office.tun.internal", port, SUCCEEDED).await.unwrap();
    let mut outside = replies(proxy, "127.0.0.1", port, SUCCEEDED).await.unwrap();
    for stream in [&mut inside, &mut outside] {
        stream.write_all(b"GET /hold HTTP/1.1\r\nhost: office\r\n\r\n").await.unwrap();
    }
    nodes.upstream.holds(2).await;

    nodes.office_admits("[]").await;
    let cut = within(PATIENCE, "the flow is cut", inside.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(socks::connect(proxy, "office.tun.internal", port).await.unwrap_err(), NOT_ALLOWED);
    nodes.upstream.release();
    within(PATIENCE, "the other flow goes on", outside.read_u8()).await.unwrap();

    let mut outside = socks::connect(proxy, "127.0.0.1", port).await.unwrap();
    nodes.laptop_may_leave(false).await;
    let cut = within(PATIENCE, "the flow is cut", outside.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(socks::connect(proxy, "127.0.0.1", port).await.unwrap_err(), NOT_ALLOWED);
}

#[tokio::test]
async fn the_internet_is_reached_where_the_node_may_and_what_must_never_be_is_not() {
    let nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    assert_eq!(socks::connect(proxy, "127.0.0.1", port).await.unwrap_err(), NOT_ALLOWED, "the node may not leave");
    nodes.laptop_may_leave(true).await;
    let stream = replies(proxy, "127.0.0.1", port, SUCCEEDED).await.unwrap();
    assert!(get(stream, "/name").await.ends_with("office"));
    let stream = socks::connect(proxy, "localhost", port).await.expect("the relay resolves names");
    assert!(get(stream, "/name").await.ends_with("office"));

    let relay = &nodes.relay.addresses;
    let other_overlay = "fd12:3456:789a:1::1";
    for (host, port) in [
        ("169.254.169.254", 80),
        ("::ffff:169.254.169.254", 80),
        ("64:ff9b::a9fe:a9fe", 80),
        ("2002:a9fe:a9fe::", 80),
        ("fd00:ec2::254", 80),
        ("fe80::1", 80),
        ("0.0.0.0", port),
        ("255.255.255.255", port),
        ("224.0.0.1", port),
        ("10.0.0.1", 80),
        ("::1", port),
        (other_overlay, 80),
        ("127.0.0.1", relay.api.port()),
        ("127.0.0.1", relay.tunnel.port()),
        ("127.0.0.1", relay.http.port()),
        ("localhost", relay.api.port()),
        ("::ffff:127.0.0.1", relay.api.port()),
    ] {
        let refused = socks::connect(proxy, host, port).await;
        assert_eq!(refused.err(), Some(NOT_ALLOWED), "{host}:{port}");
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(socks::connect(proxy, "127.0.0.1", free).await.unwrap_err(), REFUSED);
    assert_eq!(socks::connect(proxy, "no-such-host.invalid", 80).await.unwrap_err(), HOST_UNREACHABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_go_up_and_the_answer_comes_after_their_end() {
    let nodes = Nodes::open().await;
    nodes.laptop_may_leave(true).await;
    let server = counting().await;
    let mut stream = replies(nodes.proxy, "127.0.0.1", server.port(), SUCCEEDED).await.unwrap();
    let mut sha = Sha256::default();
    for piece in Pieces::of(TEN_MEGABYTES) {
        sha.update(&piece);
        stream.write_all(&piece).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    within(PATIENCE, "the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, format!("{TEN_MEGABYTES} {}", sha.finish()));

    let stream = socks::connect(nodes.proxy, "127.0.0.1", nodes.upstream.port()).await.unwrap();
    let mut stream = stream;
    let request = format!("GET /bytes/{TEN_MEGABYTES} HTTP/1.1\r\nhost: office\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within(PATIENCE, "ten megabytes down", stream.read_to_end(&mut answer)).await.unwrap();
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let mut sha = Sha256::default();
    sha.update(&answer[head..]);
    assert_eq!(sha.finish(), Pieces::of(TEN_MEGABYTES).digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_flows_are_open_at_once() {
    const FLOWS: usize = 300;
    let nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    nodes.office_admits("[{node: laptop}]").await;
    replies(proxy, "office.tun.internal", port, SUCCEEDED).await;
    let mut flows = JoinSet::new();
    for _ in 0..FLOWS {
        flows.spawn(async move {
            let stream = socks::connect(proxy, "office.tun.internal", port).await.unwrap();
            get(stream, "/hold").await
        });
    }
    nodes.upstream.holds(FLOWS).await;
    nodes.upstream.release();
    let answers = within(PATIENCE, "all are answered", flows.join_all()).await;
    assert!(answers.iter().all(|answer| answer.ends_with("office")));
}

#[tokio::test]
async fn hostile_bytes_at_the_proxies_hurt_nobody_else() {
    let nodes = Nodes::open().await;
    nodes.laptop_may_leave(true).await;
    let port = nodes.upstream.port();
    replies(nodes.proxy, "127.0.0.1", port, SUCCEEDED).await;
    let long = vec![b'A'; 100_000];
    let name = [&[5, 1, 0, 5, 1, 0, 3, 255][..], &[b'a'; 255], &[0, 80]].concat();
    for bytes in [
        &b"\x05"[..],
        b"\x05\xff",
        b"\x05\x00",
        b"\x05\x01\x00\x05\x01\x00\x09",
        b"\x05\x01\x00\x05\x01\x00\x03\x04a\x00b.\x00\x50",
        b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\n\r\n",
        b"CONNECT \r\n\r\n",
        b"CONNECT 127.0.0.1:80\0 HTTP/1.1\r\n\r\n",
        b"CONNECT a:b@127.0.0.1:80 HTTP/1.1\r\n\r\n",
        &name,
        &long,
    ] {
        let mut stream = TcpStream::connect(nodes.proxy).await.unwrap();
        // It may be cut before all of it was taken.
        let _ = stream.write_all(bytes).await;
        drop(stream);
    }
    let silent = TcpStream::connect(nodes.proxy).await.unwrap();
    let stream = socks::connect(nodes.proxy, "127.0.0.1", port).await.unwrap();
    assert!(get(stream, "/name").await.ends_with("office"));
    drop(silent);
}

#[tokio::test]
async fn the_gateway_does_not_reach_the_agents_own_proxies() {
    let nodes = Nodes::open().await;
    let target = manifest::Target { node: "laptop", port: nodes.proxy.port(), protocol: "" };
    nodes.relay.cli().apply(&manifest::service("proxy", "proxy.example.com", target)).await;
    let body = answers(&nodes.relay, "proxy.example.com", 502).await;
    assert!(body.contains("does not publish port"), "{body}");
}

#[tokio::test]
async fn flows_go_by_the_next_session_after_the_relay_was_killed() {
    let mut nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    nodes.laptop_may_leave(true).await;
    let mut running = replies(proxy, "127.0.0.1", port, SUCCEEDED).await.unwrap();
    nodes.relay.kill().await;
    nodes.relay.start_again().await;
    nodes.laptop.connected().await;
    let stream = replies(proxy, "127.0.0.1", port, SUCCEEDED).await.unwrap();
    assert!(get(stream, "/name").await.ends_with("office"));
    let cut = within(PATIENCE, "the old flow ends", running.read_u8()).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_flow_in_flight_ends_in_its_own_time_when_the_relay_is_stopped() {
    let mut nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy, nodes.upstream.port());
    nodes.laptop_may_leave(true).await;
    let stream = replies(proxy, "127.0.0.1", port, SUCCEEDED).await.unwrap();
    let answer = tokio::spawn(get(stream, "/hold"));
    nodes.upstream.holds(1).await;
    nodes.relay.process.terminate().await;
    nodes.laptop.process.line("`disconnected: …`", |line| line.starts_with("disconnected: ").then_some(())).await;
    // Agents have three seconds to leave; the flow outlives them.
    let early = tokio::time::timeout(std::time::Duration::from_secs(4), nodes.relay.process.exit()).await;
    assert!(early.is_err(), "{early:?}");
    nodes.upstream.release();
    assert!(within(PATIENCE, "the answer", answer).await.unwrap().ends_with("office"));
    assert!(within(PATIENCE, "the relay ends", nodes.relay.process.exit()).await.success());
}
