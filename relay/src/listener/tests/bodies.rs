//! Bodies on their way: event by event, with trailers, half-closed, upgraded.

use std::time::Duration;

use futures_util::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::*;

/// A body whose frames the test sends one by one.
fn fed() -> (mpsc::Sender<Frame<Bytes>>, impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static) {
    let (sender, mut receiver) = mpsc::channel::<Frame<Bytes>>(1);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, Infallible>);
    (sender, StreamBody::new(stream))
}

fn data(text: &str) -> Frame<Bytes> {
    Frame::data(Bytes::from(text.to_owned()))
}

fn trailer(value: &'static str) -> Frame<Bytes> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", value.parse().unwrap());
    Frame::trailers(trailers)
}

#[tokio::test]
async fn events_are_flushed_before_the_next_is_written() {
    let (feed, body) = fed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let address = server(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    feed.send(data("data: 0\n\n")).await.unwrap();
    let mut events = sender.send_request(get("a.com", "/")).await.unwrap().into_body();
    for index in 0..20 {
        let frame = events.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, format!("data: {index}\n\n"));
        feed.send(data(&format!("data: {}\n\n", index + 1))).await.unwrap();
    }
}

#[tokio::test]
async fn an_upload_is_answered_part_by_part_while_it_goes_on() {
    let address = server(|request: Request<Incoming>| async move {
        let frames = request.into_body().into_data_stream().map(|part| Ok::<_, Infallible>(Frame::data(part.unwrap())));
        Response::new(StreamBody::new(frames))
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let gate = Gate::open(&[("a.com", to(Endpoint::Address(address), protocol))]);
        let (feed, body) = fed();
        let request = Request::post("/").header("host", "a.com").body(body).unwrap();
        let mut sender = gate.http1().await;
        feed.send(data("0")).await.unwrap();
        let mut parts = sender.send_request(request).await.unwrap().into_body();
        for index in 0..10 {
            assert_eq!(parts.frame().await.unwrap().unwrap().into_data().unwrap(), format!("{index}"));
            feed.send(data(&format!("{}", index + 1))).await.unwrap();
        }
    }
}

/// A server that sends back the request's trailers as its own.
pub(super) async fn trailer_echo() -> SocketAddr {
    server(|request: Request<Incoming>| async move {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder().header("trailer", "x-sum").body(body).unwrap()
    })
    .await
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http2() {
    let gate = Gate::open(&[("a.com", to(Endpoint::Address(trailer_echo().await), Protocol::Http2))]);
    let (feed, body) = fed();
    let mut sender = gate.http2().await;
    let request = Request::post("http://a.com/").header("te", "trailers").body(body).unwrap();
    let answer = tokio::spawn(async move { sender.send_request(request).await.unwrap() });
    feed.send(data("x")).await.unwrap();
    feed.send(trailer("h2")).await.unwrap();
    drop(feed);
    let collected = answer.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "h2");
}

#[tokio::test]
async fn trailers_pass_both_ways_over_http1() {
    let gate = Gate::open(&[("a.com", to_address(trailer_echo().await))]);
    let request = "POST / HTTP/1.1\r\nHost: a.com\r\nTE: trailers\r\nConnection: close, te\r\nTrailer: x-sum\r\n\
        Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: h1\r\n\r\n";
    let answer = gate.raw(request).await;
    assert!(answer.ends_with("0\r\nx-sum: h1\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn the_body_of_a_get_is_not_lost() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let request = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\n\r\n";
    let answer = gate.raw(request).await;
    assert!(answer.ends_with("\n\nhello"), "{answer:?}");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length_and_their_connection() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n").await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1]).await;
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    let head = Request::head("/").header("host", "a.com").body(Full::default()).unwrap();
    let response = sender.send_request(head).await.unwrap();
    assert_eq!(response.headers()["content-length"], "1234");
    assert_eq!(told(response).await, (200, String::new()));
    sender.ready().await.unwrap();
    let response = sender.send_request(get("a.com", "/")).await.unwrap();
    assert_eq!(response.headers()["etag"], "x");
    assert_eq!(told(response).await, (304, String::new()));
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let mut stream = gate.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    read_until(&mut stream, "\n\nhello").await;
}

#[tokio::test]
async fn early_answers_of_the_backend_do_not_count_as_the_answer() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        stream.write_all(hints).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    assert_eq!(gate.get("a.com", "/").await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn a_client_that_closed_its_half_gets_its_answer() {
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let gone = Arc::new(tokio::sync::Mutex::new(Some(gone)));
    let address = server(move |_| {
        let gone = gone.clone();
        async move {
            gone.lock().await.take().unwrap().await.unwrap();
            Response::new(Full::new(Bytes::from("late")))
        }
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut stream = gate.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    go.send(()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nlate"), "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    let response = sender.send_request(get("a.com", "/")).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half", "what came is passed on");
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn an_answer_with_two_lengths_is_502() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
}

const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn a_websocket_echoes_until_each_half_is_closed() {
    let (upstream, address) = listener().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: x\r\n\r\nhi";
        stream.write_all(switch.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        // The client's half is closed; ours still speaks.
        stream.write_all(heard.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut stream = gate.connect().await;
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_until(&mut stream, "hi").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: x"), "{head}");
    stream.write_all(b"one two").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut echoed = String::new();
    stream.read_to_string(&mut echoed).await.unwrap();
    assert_eq!(echoed, "one two");
    server.await.unwrap();
    gate.stop.cancel();
    assert_eq!(gate.worker.drain(far()).await, 0);
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let address =
        server(|_| async { Response::builder().status(403).body(Full::new(Bytes::from("no"))).unwrap() }).await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut stream = gate.connect().await;
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\nno").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[tokio::test]
async fn a_backend_that_switches_unasked_is_502() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            let _ = read_until(&mut stream, "\r\n\r\n").await;
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            stream.write_all(switch).await.unwrap();
        }
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
}

fn far() -> std::time::Instant {
    crate::clock::instant() + Duration::from_secs(60)
}
