//! Listeners behind proxies that say for whom they connect.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    tls::{rule, to_backend},
    *,
};
use crate::{
    proxy_protocol::{Addresses, Header, Version, encode},
    route::{
        client::{Arrival, ClientSettings, FromProxies},
        target::Announces,
    },
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 80\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n";

pub(super) fn from_proxies(from: FromProxies) -> Arc<ClientSettings> {
    let arrival = Arrival { from_proxies: Some(from), ..Arrival::default() };
    Arc::new(ClientSettings { arrival, ..ClientSettings::default() })
}

async fn gate(from: FromProxies) -> Gate {
    let gate = Gate::open(&[]);
    let (at, project) = (ListenAddress::shared(80), ProjectName::default());
    let mut builder = TableBuilder::default();
    builder.http(at, &project, &HostPattern::Any);
    let backend = target::Backend {
        name: "default/b".into(),
        weight: 1,
        target: to_address(echo().await),
        filters: Filters::default(),
    };
    attach(&mut builder, at, "a.com", Rule::new(project, "default/r".into(), vec![backend]));
    builder.arrive(at, &from_proxies(from));
    gate.gateway.routing.table.store(Arc::new(builder.build()));
    gate
}

/// Whose request the backend saw, after `pieces` were sent one by one.
async fn whose(gate: &Gate, pieces: &[&[u8]]) -> String {
    let mut stream = gate.connect().await;
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix("x-forwarded-for: "));
    line.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn the_client_is_who_the_proxy_says() {
    let gate = gate(FromProxies::Always).await;
    let addresses = Addresses::new("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap()).unwrap();
    let mut v2 = encode(Version::V2, &Header::Proxied(addresses));
    assert_eq!(whose(&gate, &[V1, REQUEST]).await, "192.0.2.1");
    assert_eq!(whose(&gate, &[&[V1, REQUEST].concat()]).await, "192.0.2.1");
    assert_eq!(whose(&gate, &[&v2, REQUEST]).await, "2001:db8::1");
    // Fields beyond the addresses, more than one step takes.
    let more = [0x04; 3000];
    let length = u16::from_be_bytes([v2[14], v2[15]]) + 3000;
    v2[14..16].copy_from_slice(&length.to_be_bytes());
    assert_eq!(whose(&gate, &[&v2, &more, REQUEST]).await, "2001:db8::1");
    let local = encode(Version::V2, &Header::Local);
    assert_eq!(whose(&gate, &[&local, REQUEST]).await, "127.0.0.1");
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    for from in [FromProxies::Always, FromProxies::OrNot] {
        let gate = gate(from).await;
        let pieces: Vec<&[u8]> = V1.chunks(1).chain([REQUEST]).collect();
        assert_eq!(whose(&gate, &pieces).await, "192.0.2.1");
    }
}

#[tokio::test]
async fn without_a_header_only_those_are_served_that_may_do_without() {
    let may = gate(FromProxies::OrNot).await;
    assert_eq!(whose(&may, &[REQUEST]).await, "127.0.0.1");
    assert_eq!(whose(&may, &[b"G", &REQUEST[1..]]).await, "127.0.0.1");
    let must = gate(FromProxies::Always).await;
    assert_eq!(must.raw(std::str::from_utf8(REQUEST).unwrap()).await, "");
    for from in [FromProxies::Always, FromProxies::OrNot] {
        let gate = gate(from).await;
        assert_eq!(gate.raw("PROXY TCP4 nonsense\r\n").await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let gate = gate(FromProxies::Always).await;
    for begun in ["", "PRO", "PROXY TCP4 192."] {
        let mut stream = gate.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let end = timeout(Duration::from_secs(11), stream.read(&mut [0; 16])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{begun:?}");
    }
}

/// A backend at `address` that is told of each client in this way.
fn told_of_clients(address: SocketAddr, version: Version, protocol: Protocol) -> target::Backend {
    let (project, endpoint) = (ProjectName::default(), Endpoint::Address(address));
    let announces = Some(Announces { version, of: None });
    let upstream = Upstream { project, endpoint, protocol, tls: None, announces, link: Link::default() };
    target::Backend { target: Target::Upstreams(vec![Arc::new(upstream)]), ..to_backend(address, 1) }
}

/// What a connection of `client` begins with.
fn header(version: Version, client: &TcpStream) -> Vec<u8> {
    let addresses = Addresses::new(client.local_addr().unwrap(), client.peer_addr().unwrap()).unwrap();
    encode(version, &Header::Proxied(addresses))
}

#[tokio::test]
async fn backends_of_streams_are_told_of_the_client() {
    for version in [Version::V1, Version::V2] {
        let (listener, address) = listener().await;
        let mut builder = TableBuilder::default();
        let at = ListenAddress::shared(443);
        builder.tcp(at, Some(rule(vec![told_of_clients(address, version, Protocol::Http1)])));
        let gate = Gate::serving(builder.build());
        let mut client = gate.connect().await;
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut backend, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        backend.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, [&header(version, &client), &b"hello"[..]].concat());
    }
}

#[tokio::test]
async fn what_one_proxy_says_is_told_to_the_next() {
    let (listener, address) = listener().await;
    let mut builder = TableBuilder::default();
    let at = ListenAddress::shared(443);
    builder.tcp(at, Some(rule(vec![told_of_clients(address, Version::V1, Protocol::Http1)])));
    builder.arrive(at, &from_proxies(FromProxies::Always));
    let gate = Gate::serving(builder.build());
    let mut client = gate.connect().await;
    client.write_all(V1).await.unwrap();
    client.shutdown().await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    let mut said = Vec::new();
    backend.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, V1);
}

/// A backend that reads a line of version 1 from each connection, serves HTTP on it, and answers with the line.
async fn answering_with_the_line() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(stream.read_u8().await.unwrap());
            }
            let line = Bytes::from(line);
            let service = service_fn(move |_: Request<Incoming>| {
                let response = Response::new(Full::new(line.clone()));
                async move { Ok::<_, Infallible>(response) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { drop(builder.serve_connection(TokioIo::new(stream), service).await) });
        }
    });
    address
}

#[tokio::test]
async fn connections_that_tell_of_one_client_serve_no_other() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let address = answering_with_the_line().await;
        let target = told_of_clients(address, Version::V1, protocol).target;
        let gate = Gate::open(&[("a.com", target)]);
        for _ in 0..3 {
            let stream = gate.connect().await;
            let want = header(Version::V1, &stream);
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..2 {
                let (status, line) = told(sender.send_request(get("a.com", "/")).await.unwrap()).await;
                assert_eq!((status, line.as_bytes()), (200, &want[..]));
                sender.ready().await.unwrap();
            }
        }
    }
}
