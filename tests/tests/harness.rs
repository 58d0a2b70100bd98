//! The harness against itself: its clients and upstreams agree with nothing between them.
//!
//! When a journey fails and these pass, the fault is the relay's or the agent's.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use underpass_tests::{
    client::{self, Connection},
    digest::{Pieces, Sha256},
    upstream::{Abrupt, Upstream},
    websocket::{self, WebSocket},
};

const HOST: &str = "app.example.com";

#[tokio::test]
async fn generated_bytes_come_down_and_go_up_by_the_same_hash() {
    let upstream = Upstream::start("direct").await;
    let wanted = Pieces::of(5_000_000).digest();
    for mut connection in
        [Connection::http1(upstream.address()).await.unwrap(), Connection::http2(upstream.address()).await.unwrap()]
    {
        let down = connection.request(Method::GET, HOST, "/bytes/5000000", client::empty());
        let response = connection.begin(down).await.unwrap();
        assert_eq!(response.headers()["content-length"], "5000000");
        assert_eq!(client::digest(response.into_body()).await.unwrap(), wanted);
        let up = connection.request(Method::PUT, HOST, "/digest", client::pieces(Pieces::of(5_000_000)));
        assert_eq!(client::whole(connection.begin(up).await.unwrap()).await.unwrap().text(), wanted);
    }
    assert_eq!((upstream.requests(), upstream.connections()), (4, 2));
}

#[tokio::test]
async fn events_wait_for_permission() {
    let upstream = Upstream::start("direct").await;
    let mut connection = Connection::http1(upstream.address()).await.unwrap();
    let request = connection.request(Method::GET, HOST, "/events/2", client::empty());
    let mut response = connection.begin(request).await.unwrap();
    for at in 0..2 {
        upstream.allow_event();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from(format!("data: {at}\n\n")));
    }
    assert!(response.body_mut().frame().await.is_none());
}

#[tokio::test]
async fn trailers_come_over_http2() {
    let upstream = Upstream::start("direct").await;
    let mut connection = Connection::http2(upstream.address()).await.unwrap();
    let answer = connection.get(HOST, "/trailers").await.unwrap();
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn held_requests_are_counted_and_released() {
    let upstream = Upstream::start("direct").await;
    let mut connection = Connection::http2(upstream.address()).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        let request = connection.request(Method::GET, HOST, "/hold", client::empty());
        held.push(tokio::spawn(connection.start(request).await.unwrap()));
    }
    upstream.holds(5).await;
    upstream.release();
    for response in held {
        assert_eq!(response.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    upstream.holds(0).await;
    upstream.saw(5).await;
}

#[tokio::test]
async fn websockets_echo_and_close() {
    let upstream = Upstream::start("direct").await;
    let mut socket = WebSocket::open(upstream.address(), HOST, "/websocket").await.unwrap();
    let message = Message::binary(vec![1; 100_000]);
    assert_eq!(socket.exchange(message.clone()).await.unwrap(), message);
    upstream.holds(1).await;
    socket.close().await.unwrap();
    upstream.holds(0).await;
}

#[tokio::test]
async fn an_upgraded_connection_closes_by_halves() {
    let upstream = Upstream::start("direct").await;
    let mut tcp = websocket::upgrade(upstream.address(), HOST, "/raw").await.unwrap();
    tcp.write_all(b"abc").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    let mut sha = Sha256::default();
    sha.update(b"abc");
    assert!(answer.starts_with(format!("{}\n", sha.finish()).as_bytes()));
}

#[tokio::test]
async fn an_abrupt_upstream_answers_once_and_closes() {
    let upstream = Abrupt::start().await;
    let mut connection = Connection::http1(([127, 0, 0, 1], upstream.port()).into()).await.unwrap();
    assert_eq!(connection.get(HOST, "/").await.unwrap().text(), "abrupt");
    assert!(connection.get(HOST, "/").await.is_err());
}
