//! CONNECT streams between a relay and an agent over loopback, and the TCP connections that they join.

use std::net::Ipv4Addr;

use http::{Method, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    quic::{
        lane,
        testbed::{self, Pair, pair, soon},
    },
    wire::preface::{Host, Kind, Preface, Trace},
};

const TEN_MB: usize = 10_000_000;

fn pattern(seed: usize) -> Vec<u8> {
    (0..TEN_MB).map(|i| ((i + seed) % 251) as u8).collect()
}

fn never() -> impl Future<Output = ()> {
    std::future::pending()
}

/// An answered CONNECT: the relay's end and the agent's. What else must live as long comes last.
async fn flow(pair: &Pair) -> (ConnectStream, ConnectStream, impl Sized) {
    let (server, mut requests) = testbed::http3(pair).await;
    let mut incoming = testbed::requests(server);
    let relay = async {
        let (request, mut stream) = incoming.recv().await.unwrap().unwrap();
        assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "192.0.2.1:80".to_owned()));
        stream.send_response(Response::new(())).await.unwrap();
        ConnectStream::of_relay(stream)
    };
    let agent = async {
        let request = Request::builder().method(Method::CONNECT).uri("192.0.2.1:80").body(()).unwrap();
        let mut stream = requests.send_request(request).await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        ConnectStream::of_agent(stream)
    };
    let (relay, agent) = soon(async { tokio::join!(relay, agent) }).await;
    (relay, agent, (incoming, requests))
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// The whole way: a client's TCP connection to the agent, the CONNECT stream, a TCP connection of the relay to a server.
struct Way {
    client: TcpStream,
    server: TcpStream,
    agent: JoinHandle<Copied>,
    relay: JoinHandle<Copied>,
}

async fn way(pair: &Pair) -> (Way, impl Sized) {
    let (relay, agent, rest) = flow(pair).await;
    let ((client, near), (far, server)) = tokio::join!(tcp(), tcp());
    let agent = tokio::spawn(agent.copy(near, never()));
    let relay = tokio::spawn(relay.copy(far, never()));
    (Way { client, server, agent, relay }, rest)
}

async fn exchange(stream: TcpStream, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let mut got = Vec::new();
    let send = async {
        write.write_all(sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, read.read_to_end(&mut got));
    received.unwrap();
    got
}

#[tokio::test]
async fn ten_megabytes_cross_both_ways_at_once_and_are_counted() {
    let pair = pair().await;
    let (way, _rest) = way(&pair).await;
    let (up, down) = (pattern(1), pattern(2));
    let (got_down, got_up) = soon(async { tokio::join!(exchange(way.client, &up), exchange(way.server, &down)) }).await;
    assert!(got_up == up && got_down == down);
    let (agent, relay) = soon(async { tokio::join!(way.agent, way.relay) }).await;
    for (copied, end) in [(agent.unwrap(), "agent"), (relay.unwrap(), "relay")] {
        assert!(copied.error.is_none(), "{end}: {copied:?}");
        assert_eq!((copied.bytes_to_tcp, copied.bytes_to_lane), (TEN_MB as u64, TEN_MB as u64), "{end}");
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let pair = pair().await;
    let (mut way, _rest) = way(&pair).await;
    way.client.write_all(b"request").await.unwrap();
    way.client.shutdown().await.unwrap();
    let mut request = Vec::new();
    soon(way.server.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    way.server.write_all(b"answer after the end of the request").await.unwrap();
    drop(way.server);
    let mut answer = Vec::new();
    soon(way.client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer after the end of the request");
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let pair = pair().await;
    let (mut way, _rest) = way(&pair).await;
    way.server.write_all(b"x").await.unwrap();
    soon(way.client.read_u8()).await.unwrap();
    socket2::SockRef::from(&way.server).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(way.server);
    let error = soon(way.client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(soon(way.agent).await.unwrap().error.is_some() && soon(way.relay).await.unwrap().error.is_some());
}

#[tokio::test]
async fn what_is_cut_is_reset_on_both_sides() {
    let pair = pair().await;
    let (relay, agent, _rest) = flow(&pair).await;
    let ((mut client, near), (far, mut server)) = tokio::join!(tcp(), tcp());
    let (cut, was_cut) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(agent.copy(near, never()));
    let relay = tokio::spawn(relay.copy(far, async { drop(was_cut.await) }));
    client.write_all(b"x").await.unwrap();
    soon(server.read_u8()).await.unwrap();
    cut.send(()).unwrap();
    for stream in [&mut client, &mut server] {
        assert_eq!(soon(stream.read_u8()).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(soon(relay).await.unwrap().error.unwrap().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn what_stands_behind_the_heads_is_not_lost_and_other_frames_are_passed_over_or_refused() {
    let pair = pair().await;
    let (server, mut requests) = testbed::http3(&pair).await;
    let mut incoming = testbed::requests(server);
    for (trailers, want) in [(false, Ok(5)), (true, Err(io::ErrorKind::ConnectionReset))] {
        let request = Request::builder().method(Method::CONNECT).uri("192.0.2.1:80").body(()).unwrap();
        let mut stream = soon(requests.send_request(request)).await.unwrap();
        soon(stream.send_data(Bytes::from_static(b"early"))).await.unwrap();
        if trailers {
            soon(stream.send_trailers(http::HeaderMap::new())).await.unwrap();
        }
        // The first to end a stream puts a frame there that nobody knows (RFC 9114 §7.2.8).
        soon(stream.finish()).await.unwrap();
        let (_, mut answered) = soon(incoming.recv()).await.unwrap().unwrap();
        soon(answered.send_response(Response::new(()))).await.unwrap();
        let (far, mut server) = tcp().await;
        let copy = tokio::spawn(ConnectStream::of_relay(answered).copy(far, never()));
        let mut got = Vec::new();
        let read = soon(server.read_to_end(&mut got)).await;
        assert_eq!(read.map_err(|error| error.kind()), want);
        drop(server);
        let copied = soon(copy).await.unwrap();
        assert_eq!(copied.error.map(|error| error.kind()), trailers.then_some(io::ErrorKind::InvalidData));
    }
}

#[tokio::test]
async fn a_flow_of_the_lane_is_joined_byte_for_byte() {
    let (near, far) = (pair().await, pair().await);
    let (relay, agent, _rest) = flow(&near).await;
    let preface =
        Preface { session: 0, kind: Kind::Tcp, host: Host::Loopback, port: 80, client: None, trace: Trace::default() };
    let accept = async {
        let (send, receive) = far.agent.accept_bi().await.unwrap();
        lane::accept_flow(send, receive).await.unwrap().1.connected().await.unwrap()
    };
    let (opened, accepted) = soon(async { tokio::join!(lane::open_flow(&far.relay, &preface), accept) }).await;
    let ((client, at_agent), (at_other, server)) = tokio::join!(tcp(), tcp());
    tokio::spawn(agent.copy(at_agent, never()));
    tokio::spawn(lane::copy(accepted, at_other));
    let relay = tokio::spawn(relay.join(opened.unwrap(), never()));
    let (up, down) = (pattern(3), pattern(4));
    let (got_down, got_up) = soon(async { tokio::join!(exchange(client, &up), exchange(server, &down)) }).await;
    assert!(got_up == up && got_down == down);
    let copied = soon(relay).await.unwrap();
    assert!(copied.error.is_none(), "{copied:?}");
    assert_eq!((copied.bytes_to_tcp, copied.bytes_to_lane), (TEN_MB as u64, TEN_MB as u64));
}
