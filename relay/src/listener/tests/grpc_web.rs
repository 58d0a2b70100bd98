//! gRPC-Web from clients that have no trailers, to backends that speak gRPC.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::stream;
use http::{HeaderMap, header};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;
use crate::route::target::Answers;

const MESSAGE: &[u8] = b"\x00\x00\x00\x00\x05hello";
const LAST: &[u8] = b"\x80\x00\x00\x00\x22grpc-status: 0\r\ngrpc-message: ok\r\n";

/// A backend of gRPC that answers with the message it got, twice, when it was asked as gRPC asks.
async fn grpc() -> SocketAddr {
    server(|request: Request<Incoming>| async move {
        let asked = (request.headers()["content-type"].to_str().unwrap().to_owned(), request.headers()["te"].clone());
        assert_eq!((asked.0.as_str(), asked.1.to_str().unwrap()), ("application/grpc+proto", "trailers"));
        let message = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("grpc-message", "ok".parse().unwrap());
        let frames = [Frame::data(message.clone()), Frame::data(message), Frame::trailers(trailers)];
        let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        Response::builder().header("content-type", "application/grpc+proto").body(body).unwrap()
    })
    .await
}

fn gate(backend: SocketAddr, answers: Answers) -> Gate {
    Gate::open_rule(backend, |rule| {
        rule.answers = answers;
        rule.backends[0].target = to(Endpoint::Address(backend), Protocol::Http2);
    })
}

async fn asked(gate: &Gate, kind: &str, body: Vec<u8>) -> (HeaderMap, Bytes) {
    let request = Request::post("/a.B/C").header("host", "a.com").header("content-type", kind);
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = gate.http1().await.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    (head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn grpc_web_becomes_grpc_and_the_trailers_become_the_last_frame() {
    let gate = gate(grpc().await, Answers::Grpc);
    let want = [MESSAGE, MESSAGE, LAST].concat();
    let (headers, body) = asked(&gate, "application/grpc-web+proto", MESSAGE.to_vec()).await;
    assert_eq!(
        (&headers[header::CONTENT_TYPE], &body[..]),
        (&"application/grpc-web+proto".parse().unwrap(), &want[..])
    );

    // Parts may be padded each by itself, both ways.
    let text = [BASE64_STANDARD.encode(&MESSAGE[..4]), BASE64_STANDARD.encode(&MESSAGE[4..])].concat();
    let (headers, body) = asked(&gate, "application/grpc-web-text+proto", text.into_bytes()).await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/grpc-web-text+proto");
    let plain: Vec<u8> = body.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap()).collect();
    assert_eq!(plain, want);
}

#[tokio::test]
async fn base64_that_cannot_be_read_reaches_no_backend_whole() {
    let gate = gate(grpc().await, Answers::Grpc);
    for text in ["AAAA!", "AAA", "A===", "@@@@"] {
        let request = Request::post("/a.B/C").header("host", "a.com");
        let request = request.header("content-type", "application/grpc-web-text+proto");
        let request = request.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap();
        let response = gate.http1().await.send_request(request).await.unwrap();
        assert_eq!(response.status(), 400, "{text}");
    }
}

#[tokio::test]
async fn on_other_routes_it_is_a_body_like_any() {
    let backend = echo().await;
    let gate = Gate::open_rule(backend, |_| {});
    let (_, body) = asked(&gate, "application/grpc-web+proto", MESSAGE.to_vec()).await;
    assert!(String::from_utf8_lossy(&body).contains("content-type: application/grpc-web+proto"));
}
