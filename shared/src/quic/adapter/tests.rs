//! HTTP/3 between a relay and an agent, and between a relay and a client that writes its own frames.

use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::mpsc;

use super::*;
use crate::{
    quic::{
        guard::FRAME_BYTES_MAX,
        http3::{ServerStream, StreamError},
        testbed::{self, Pair, pair, soon},
    },
    wire::varint,
};

const DATA: u64 = 0;
const HEADERS: u64 = 1;
/// `POST https://r/` out of QPACK's static table (RFC 9204 appendix A).
const POST: &[u8] = &[0, 0, 0xd4, 0xd7, 0xc1, 0x50, 1, b'r'];

type Incoming = mpsc::Receiver<Result<(Request<()>, ServerStream), StreamError>>;

fn header(kind: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(kind, &mut out);
    varint::encode(length, &mut out);
    out
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    [header(kind, payload.len() as u64), payload.to_vec()].concat()
}

/// A relay that serves HTTP/3, and a raw connection to it.
async fn serving() -> (Pair, Incoming) {
    let pair = pair().await;
    let server = soon(crate::quic::http3::serve(pair.relay.clone())).await.unwrap();
    (pair, testbed::requests(server))
}

/// Sends `frames` and FIN as one request.
async fn send(pair: &Pair, frames: &[&[u8]]) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = pair.agent.open_bi().await.unwrap();
    send.write_all(&frames.concat()).await.unwrap();
    send.finish().unwrap();
    (send, receive)
}

async fn next(incoming: &mut Incoming) -> ServerStream {
    soon(incoming.recv()).await.unwrap().unwrap().1
}

/// The whole body, or how it broke.
async fn body(stream: &mut ServerStream) -> Result<Vec<u8>, StreamError> {
    let mut body = Vec::new();
    while let Some(mut data) = soon(stream.recv_data()).await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(body)
}

#[tokio::test]
async fn a_body_cut_inside_a_frame_is_an_error() {
    let (pair, mut incoming) = serving().await;
    let _streams = send(&pair, &[&frame(HEADERS, POST), &header(DATA, 50), b"abc"]).await;
    let mut stream = next(&mut incoming).await;
    let mut first = soon(stream.recv_data()).await.unwrap().unwrap();
    assert_eq!(first.copy_to_bytes(first.remaining()), "abc");
    drop(first);
    assert!(soon(stream.recv_data()).await.is_err(), "the library alone takes it for the end, and panics later");
    assert_eq!(pair.relay.close_reason(), None);
}

#[tokio::test]
async fn an_empty_data_frame_is_not_the_end() {
    let (pair, mut incoming) = serving().await;
    let (head, empty) = (frame(HEADERS, POST), frame(DATA, b""));
    let _streams = send(&pair, &[&head, &empty, &frame(DATA, b"abc"), &empty, &frame(DATA, b"def"), &empty]).await;
    let mut stream = next(&mut incoming).await;
    assert_eq!(body(&mut stream).await.unwrap(), b"abcdef");
    assert!(soon(stream.recv_trailers()).await.unwrap().is_none());
}

#[tokio::test]
async fn giant_headers_end_their_request_only() {
    let (pair, mut incoming) = serving().await;
    let (mut giant, _answer) = pair.agent.open_bi().await.unwrap();
    giant.write_all(&header(HEADERS, 1 << 40)).await.unwrap();
    let refused = soon(incoming.recv()).await.unwrap();
    assert!(refused.is_err());
    let code = VarInt::from_u64(Code::H3_EXCESSIVE_LOAD.value()).unwrap();
    assert_eq!(soon(giant.stopped()).await.unwrap(), Some(code));
    let _streams = send(&pair, &[&frame(HEADERS, POST), &frame(DATA, b"next")]).await;
    assert_eq!(body(&mut next(&mut incoming).await).await.unwrap(), b"next");
}

#[tokio::test]
async fn unknown_frames_of_any_size_are_passed_over() {
    let (pair, mut incoming) = serving().await;
    let sender = pair.agent.clone();
    let sending = tokio::spawn(async move {
        let (mut send, receive) = sender.open_bi().await.unwrap();
        send.write_all(&frame(HEADERS, POST)).await.unwrap();
        send.write_all(&frame(0x21, &vec![7; 8 << 20])).await.unwrap();
        send.write_all(&frame(DATA, b"body")).await.unwrap();
        send.finish().unwrap();
        receive
    });
    assert_eq!(body(&mut next(&mut incoming).await).await.unwrap(), b"body");
    sending.await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_stops_a_sender_of_tiny_frames() {
    let (pair, mut incoming) = serving().await;
    let (mut tiny, _answer) = pair.agent.open_bi().await.unwrap();
    tiny.write_all(&frame(HEADERS, POST)).await.unwrap();
    let mut stream = next(&mut incoming).await;
    let frames = frame(DATA, b"x").repeat(100_000);
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(500), async {
        loop {
            tiny.write_all(&frames).await.unwrap();
            // The reader takes a little, as a slow one does.
            stream.recv_data().await.unwrap().unwrap();
        }
    });
    assert!(stuck.await.is_err(), "the window holds about 1 MiB");
    let sent = pair.agent.stats().udp_tx.bytes;
    assert!(sent < 4 << 20, "{sent} bytes were taken");
}

#[tokio::test]
async fn a_header_section_above_the_limit_is_answered_431() {
    let (pair, mut incoming) = serving().await;
    let value_length = [0x7f, 0xe9, 0x83, 0x01];
    let section = [POST, &[0x21, b'a'], &value_length, &[b'v'; 17_000]].concat();
    assert!((section.len() as u64) < FRAME_BYTES_MAX);
    let (_send, mut receive) = send(&pair, &[&frame(HEADERS, &section)]).await;
    assert!(matches!(soon(incoming.recv()).await.unwrap(), Err(StreamError::HeaderTooBig { .. })));
    let answer = soon(receive.read_to_end(4096)).await.expect("the answer was not reset");
    // `:status` by the static table, `431` in Huffman code (RFC 9204 appendix A, RFC 7541 appendix B).
    assert!(answer.ends_with(&[0x5f, 0x09, 0x83, 0x69, 0x90, 0xff]), "{answer:x?}");
}

#[tokio::test]
async fn requests_and_answers_carry_bodies_and_trailers() {
    let pair = pair().await;
    let (server, mut requests) = testbed::http3(&pair).await;
    let mut incoming = testbed::requests(server);
    let request = Request::builder().method(Method::POST).uri("https://relay.underpass.internal/x").body(()).unwrap();
    let serving = async {
        let mut stream = next(&mut incoming).await;
        let body = body(&mut stream).await.unwrap();
        stream.send_response(Response::new(())).await.unwrap();
        stream.send_data(Bytes::from(body)).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "42".parse().unwrap());
        stream.send_trailers(trailers).await.unwrap();
        stream.finish().await.unwrap();
    };
    let asking = async {
        let stream = requests.send_request(request).await.unwrap();
        let (mut send, mut receive) = stream.split();
        let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let upload = async {
            send.send_data(Bytes::from(sent.clone())).await.unwrap();
            send.finish().await.unwrap();
        };
        let download = async {
            assert_eq!(receive.recv_response().await.unwrap().status(), StatusCode::OK);
            let mut got = Vec::new();
            while let Some(mut data) = receive.recv_data().await.unwrap() {
                got.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
            let trailers = receive.recv_trailers().await.unwrap().unwrap();
            assert_eq!(trailers["x-sum"], "42");
            got
        };
        let ((), got) = tokio::join!(upload, download);
        assert!(got == sent);
    };
    soon(async { tokio::join!(serving, asking) }).await;
}

#[tokio::test]
async fn a_cancelled_write_loses_no_byte() {
    let pair = pair().await;
    let (server, mut requests) = testbed::http3(&pair).await;
    let mut incoming = testbed::requests(server);
    let request = Request::builder().method(Method::POST).uri("https://relay.underpass.internal/x").body(()).unwrap();
    let mut stream = soon(requests.send_request(request)).await.unwrap();
    let mut at_relay = next(&mut incoming).await;
    for part in 0..4u8 {
        // Each is larger than the window, nobody reads yet, and all but the last are given up half-way.
        let writing = stream.send_data(Bytes::from(vec![part; 2_000_000]));
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), writing).await;
    }
    let (finished, got) = soon(async { tokio::join!(stream.finish(), body(&mut at_relay)) }).await;
    finished.unwrap();
    let want: Vec<u8> = (0..4u8).flat_map(|part| vec![part; 2_000_000]).collect();
    assert!(got.unwrap() == want);
}

#[tokio::test]
async fn a_body_dropped_inside_a_write_does_not_look_whole() {
    let pair = pair().await;
    let (server, mut requests) = testbed::http3(&pair).await;
    let mut incoming = testbed::requests(server);
    let request = Request::builder().method(Method::POST).uri("https://relay.underpass.internal/x").body(()).unwrap();
    let mut stream = soon(requests.send_request(request)).await.unwrap();
    let mut at_relay = next(&mut incoming).await;
    let writing = stream.send_data(Bytes::from(vec![1; 4_000_000]));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), writing).await.is_err());
    drop(stream);
    let ended = body(&mut at_relay).await;
    let code = Code::H3_REQUEST_CANCELLED;
    assert!(matches!(&ended, Err(StreamError::RemoteTerminate { code: c }) if *c == code), "{ended:?}");
}

#[tokio::test]
async fn streams_the_relay_opens_go_to_the_lane_and_not_to_the_library() {
    let pair = pair().await;
    let (server, mut requests) = testbed::http3(&pair).await;
    let mut incoming = testbed::requests(server);
    let (mut send, _receive) = pair.relay.open_bi().await.unwrap();
    send.write_all(b"not HTTP").await.unwrap();
    let (_send, mut receive) = soon(pair.agent.accept_bi()).await.unwrap();
    let mut got = [0; 8];
    soon(receive.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"not HTTP");
    // An unknown unidirectional stream is harmless too.
    let mut unknown = pair.relay.open_uni().await.unwrap();
    unknown.write_all(&header(0x21, 0)).await.unwrap();
    soon(unknown.stopped()).await.unwrap();
    let request = Request::builder().uri("https://relay.underpass.internal/").body(()).unwrap();
    let _asked = soon(requests.send_request(request)).await.unwrap();
    next(&mut incoming).await;
    assert_eq!(pair.agent.close_reason(), None);
}

#[tokio::test]
async fn a_server_learns_how_its_answers_fare_without_writing() {
    let pair = pair().await;
    let (mut server, deliveries) = soon(crate::quic::http3::serve_public(pair.relay.clone(), 1 << 14)).await.unwrap();
    let head = frame(HEADERS, POST);

    let (_send, mut answer) = send(&pair, &[&head]).await;
    let resolver = soon(server.accept()).await.unwrap().unwrap();
    let delivery = deliveries.take().unwrap();
    let (_, mut stream) = soon(resolver.resolve_request()).await.unwrap();
    soon(stream.send_response(Response::new(()))).await.unwrap();
    soon(stream.finish()).await.unwrap();
    soon(answer.read_to_end(1 << 10)).await.unwrap();
    assert_eq!(soon(delivery).await, Delivered::Whole);

    let (_send, mut answer) = send(&pair, &[&head]).await;
    let resolver = soon(server.accept()).await.unwrap().unwrap();
    let delivery = deliveries.take().unwrap();
    assert!(deliveries.take().is_none());
    let (_, _stream) = soon(resolver.resolve_request()).await.unwrap();
    answer.stop(0x10c_u32.into()).unwrap();
    assert_eq!(soon(delivery).await, Delivered::Unwanted);
}
