//! HTTP/2 in all places, trailers, TLS with ALPN, WebSocket.

use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::Message;
use underpass_tests::{
    client::{self, Answer, Connection},
    office::{HOST, Office},
    websocket::WebSocket,
};

fn assert_trailers(answer: &Answer) {
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "a body"));
    let trailers = answer.trailers.as_ref().expect("the trailers arrive");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-checksum"], "abc");
}

#[tokio::test]
async fn trailers_survive_http2_on_both_sides() {
    let office = Office::open_with("h2c", &[]).await;
    let mut connection = Connection::http2(office.relay.addresses.http).await.unwrap();
    let answer = connection.get(HOST, "/head").await.unwrap();
    assert!(answer.text().contains("HTTP/2.0"), "the upstream is spoken to in HTTP/2: {}", answer.text());

    assert_trailers(&connection.get(HOST, "/trailers").await.unwrap());
}

#[tokio::test]
async fn trailers_of_a_request_reach_an_http2_upstream() {
    let office = Office::open_with("h2c", &[]).await;
    let mut connection = Connection::http2(office.relay.addresses.http).await.unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "42".parse().unwrap());
    let frames = [
        Ok(hyper::body::Frame::data(bytes::Bytes::from_static(b"sent"))),
        Ok(hyper::body::Frame::trailers(trailers.clone())),
    ];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
    let body = http_body_util::BodyExt::boxed_unsync(body);

    let request = connection.request(Method::POST, HOST, "/echo", body);
    let answer = client::whole(connection.begin(request).await.unwrap()).await.unwrap();

    assert_eq!(answer.text(), "sent");
    assert_eq!(answer.trailers, Some(trailers), "the echo returns what it was sent");
}

#[tokio::test]
async fn an_http2_client_is_served_by_an_http1_upstream() {
    let office = Office::open().await;
    let mut connection = Connection::http2(office.relay.addresses.http).await.unwrap();
    let answer = connection.get(HOST, "/head").await.unwrap();
    assert!(answer.text().contains("HTTP/1.1"), "{}", answer.text());
    assert!(answer.text().to_lowercase().contains(&format!("host: {HOST}")), "{}", answer.text());
}

#[tokio::test]
async fn tls_negotiates_http2_or_http1_by_alpn() {
    let office = Office::open_with("h2c", &[]).await;
    let https = office.relay.addresses.https;
    for (offer, wanted) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1"), (&[], "")] {
        let (mut connection, chosen) = Connection::tls(https, HOST, offer).await.unwrap();
        assert_eq!(chosen, wanted, "for an offer of {offer:?}");
        assert_eq!(connection.get(HOST, "/name").await.unwrap().text(), "office");
    }
    let (mut connection, _) = Connection::tls(https, HOST, &["h2"]).await.unwrap();
    assert_trailers(&connection.get(HOST, "/trailers").await.unwrap());
}

#[tokio::test]
async fn a_websocket_echoes_text_and_large_binary_messages() {
    let office = Office::open().await;
    let mut socket = WebSocket::open(office.relay.addresses.http, HOST, "/websocket").await.unwrap();
    for message in [Message::text("first"), Message::binary(vec![7; 1 << 20]), Message::text("")] {
        assert_eq!(socket.exchange(message.clone()).await.unwrap(), message);
    }
    socket.close().await.unwrap();
    office.upstream.holds(0).await;
}
