//! WebSockets over HTTP/3.

use super::*;
use crate::listener::tests::websockets::{Backend, backend};

fn connect(protocol: library::Protocol) -> Request<()> {
    let mut request = Request::connect("https://a.com/chat").header("sec-websocket-version", "13").body(()).unwrap();
    request.extensions_mut().insert(protocol);
    request
}

#[tokio::test]
async fn a_websocket_echoes_until_each_half_is_closed() {
    let site = Site::open(&[("a.com", to_address(backend(Backend::Echo).await))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, mut receive) = visitor.begin(connect(library::Protocol::WEBSOCKET)).await;
    let head = soon(receive.recv_response()).await.unwrap();
    assert_eq!(head.status(), 200);
    assert!(!head.headers().contains_key("sec-websocket-accept") && !head.headers().contains_key("upgrade"));
    send.send_data(Bytes::from_static(b"one ")).await.unwrap();
    let mut data = soon(receive.recv_data()).await.unwrap().unwrap();
    assert_eq!(data.copy_to_bytes(data.remaining()), "one ");
    send.send_data(Bytes::from_static(b"two")).await.unwrap();
    send.finish().await.unwrap();
    let mut rest = Vec::new();
    while let Some(mut data) = soon(receive.recv_data()).await.unwrap() {
        rest.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    assert_eq!(rest, b"two");
}

#[tokio::test]
async fn refusals_are_ordinary_answers_and_never_successes() {
    for (kind, status) in [(Backend::Refuse(403), 403), (Backend::Refuse(200), 502), (Backend::WrongProof, 502)] {
        let site = Site::open(&[("a.com", to_address(backend(kind).await))]);
        let mut visitor = site.visit("a.com").await;
        let told = soon(visitor.ask(connect(library::Protocol::WEBSOCKET), b"")).await.unwrap();
        assert_eq!(told.status, status);
    }
}

#[tokio::test]
async fn other_protocols_are_not_served() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let mut visitor = site.visit("a.com").await;
    let told = soon(visitor.ask(connect(library::Protocol::CONNECT_UDP), b"")).await.unwrap();
    assert_eq!(told.status, 501);
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_websocket_with_it() {
    let (gone, went) = tokio::sync::oneshot::channel();
    let site = Site::open(&[("a.com", to_address(backend(Backend::Watch(gone)).await))]);
    let mut visitor = site.visit("a.com").await;
    let (_send, mut receive) = visitor.begin(connect(library::Protocol::WEBSOCKET)).await;
    assert_eq!(soon(receive.recv_response()).await.unwrap().status(), 200);
    visitor.connection.close(0x100_u32.into(), b"");
    soon(went).await.unwrap();
}
