//! Bodies: a gibibyte each way with bounded memory, event by event, and each way in which a connection may end.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_tests::{
    client::{self, Connection},
    digest::{Pieces, Sha256},
    eventually::{PATIENCE, within},
    office::{HOST, Office},
    upstream::Abrupt,
    websocket,
};

const GIBIBYTE: u64 = 1 << 30;
/// What relay or agent may hold at their peak while a gibibyte passes.
const MEMORY_BYTES_MAX: u64 = 200 << 20;
/// For a gibibyte through an unoptimised build on a busy machine.
const BULK_PATIENCE: Duration = Duration::from_secs(600);

fn assert_bounded_memory(office: &Office, what: &str) {
    let (relay, agent) = (office.relay.process.peak_memory(), office.agent.process.peak_memory());
    println!("{what}: peak memory of the relay {} MiB, of the agent {} MiB", relay >> 20, agent >> 20);
    assert!(relay < MEMORY_BYTES_MAX, "the relay held {relay} bytes");
    assert!(agent < MEMORY_BYTES_MAX, "the agent held {agent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_comes_down_whole_with_bounded_memory() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::GET, HOST, &format!("/bytes/{GIBIBYTE}"), client::empty());
    let wanted = tokio::task::spawn_blocking(|| Pieces::of(GIBIBYTE).digest());

    let response = connection.begin(request).await.unwrap();
    let got = within(BULK_PATIENCE, "a gibibyte down", client::digest(response.into_body())).await.unwrap();

    assert_eq!(got, wanted.await.unwrap());
    assert_bounded_memory(&office, "1 GiB down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_goes_up_whole_with_bounded_memory() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let body = client::pieces(Pieces::of(GIBIBYTE));
    let request = connection.request(Method::PUT, HOST, "/digest", body);
    let wanted = tokio::task::spawn_blocking(|| Pieces::of(GIBIBYTE).digest());

    let exchange = async { client::whole(connection.begin(request).await?).await };
    let answer = within(BULK_PATIENCE, "a gibibyte up", exchange).await.unwrap();

    assert_eq!(answer.text(), wanted.await.unwrap());
    assert_bounded_memory(&office, "1 GiB up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_stops_the_sender_and_costs_no_memory() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::GET, HOST, &format!("/bytes/{GIBIBYTE}"), client::empty());

    let mut stalled = connection.begin(request).await.unwrap().into_body();
    assert!(stalled.frame().await.is_some());
    // Others are served meanwhile, over the same session, and many bytes pass.
    for _ in 0..20 {
        let length = 5 << 20;
        let answer = office.get(&format!("/bytes/{length}")).await;
        let mut sha = Sha256::default();
        sha.update(&answer.body);
        assert_eq!(sha.finish(), Pieces::of(length).digest());
    }

    assert_bounded_memory(&office, "1 GiB to a reader that stalled");
    drop(stalled);
}

async fn expect_each_event_before_the_next(office: &Office, mut response: Response<Incoming>, count: u64) {
    assert_eq!(response.status(), StatusCode::OK);
    for at in 0..count {
        office.upstream.allow_event();
        let frame = within(PATIENCE, &format!("event {at}"), response.body_mut().frame()).await;
        let data = frame.expect("the body goes on").unwrap().into_data().unwrap();
        assert_eq!(data, Bytes::from(format!("data: {at}\n\n")));
    }
    let end = within(PATIENCE, "the end of the body", response.body_mut().frame()).await;
    assert!(end.is_none(), "the body ends after the last event: {end:?}");
}

#[tokio::test]
async fn server_sent_events_arrive_each_before_the_next_is_written() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::GET, HOST, "/events/20", client::empty());
    // The head must come before the first event is allowed, too.
    let response = within(PATIENCE, "the head", connection.begin(request)).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    expect_each_event_before_the_next(&office, response, 20).await;
}

#[tokio::test]
async fn chunks_of_any_media_type_arrive_each_before_the_next_is_written() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::GET, HOST, "/chunks/20", client::empty());
    let response = within(PATIENCE, "the head", connection.begin(request)).await.unwrap();
    assert!(response.headers().get("content-length").is_none());
    expect_each_event_before_the_next(&office, response, 20).await;
}

#[tokio::test]
async fn an_uploaded_piece_comes_back_before_the_next_is_sent() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let (pieces, body) = futures_pieces();
    let request = connection.request(Method::POST, HOST, "/echo", body);
    pieces.send(Bytes::from_static(b"piece 0")).await.unwrap();
    let mut response = within(PATIENCE, "the head", connection.begin(request)).await.unwrap();
    for at in 0..10 {
        let frame = within(PATIENCE, "a piece back", response.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), Bytes::from(format!("piece {at}")));
        pieces.send(Bytes::from(format!("piece {}", at + 1))).await.unwrap();
    }
}

fn futures_pieces() -> (tokio::sync::mpsc::Sender<Bytes>, client::Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece: Bytes = receiver.recv().await?;
        Some((Ok(hyper::body::Frame::data(piece)), receiver))
    });
    (sender, http_body_util::StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn a_client_that_closes_its_half_after_the_request_still_gets_the_answer() {
    let office = Office::open().await;
    let mut tcp = TcpStream::connect(office.relay.addresses.http).await.unwrap();
    let request = format!("GET /hold HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.shutdown().await.unwrap();
    office.upstream.holds(1).await;
    office.upstream.release();

    let mut answer = String::new();
    within(PATIENCE, "the answer", tcp.read_to_string(&mut answer)).await.unwrap();

    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("office"), "{answer}");
}

#[tokio::test]
async fn each_half_of_an_upgraded_connection_closes_by_itself() {
    let office = Office::open().await;
    let mut tcp = websocket::upgrade(office.relay.addresses.http, HOST, "/raw").await.unwrap();
    let sent = 1 << 20;
    for piece in Pieces::of(sent) {
        within(PATIENCE, "room to write", tcp.write_all(&piece)).await.unwrap();
    }
    tcp.shutdown().await.unwrap();

    // The upstream answers only after it has seen our end.
    let mut answer = Vec::new();
    within(PATIENCE, "what follows our half-close", tcp.read_to_end(&mut answer)).await.unwrap();

    let line_end = answer.iter().position(|&byte| byte == b'\n').expect("the upstream answers a line first");
    assert_eq!(String::from_utf8_lossy(&answer[..line_end]), Pieces::of(sent).digest());
    let mut rest = Sha256::default();
    rest.update(&answer[line_end + 1..]);
    assert_eq!(rest.finish(), Pieces::of(300_000).digest());
}

#[tokio::test]
async fn an_upstream_that_closes_idle_connections_unannounced_costs_no_request() {
    let office = Office::open().await;
    let abrupt = Abrupt::start().await;
    office.add("abrupt", "abrupt.example.com", abrupt.port()).await;
    underpass_tests::office::serves(&office.relay, "abrupt.example.com", "abrupt").await;

    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    for at in 0..100 {
        let answer = connection.get("abrupt.example.com", "/").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "abrupt"), "request {at}");
    }
}
