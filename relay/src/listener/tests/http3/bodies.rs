//! Bodies over HTTP/3: streamed, with trailers, broken off by either side.

use tokio::sync::{mpsc, oneshot};

use super::*;

const MEBIBYTE: &[u8] = &[b'x'; 1 << 20];

#[tokio::test]
async fn a_mebibyte_passes_both_ways_with_and_without_a_length() {
    let address = server(|request: Request<Incoming>| async move {
        Response::new(request.into_body().map_err(|_| unreachable!()).boxed())
    })
    .await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let site = Site::open(&[("a.com", to(Endpoint::Address(address), protocol))]);
        let mut visitor = site.visit("a.com").await;
        for length in [None, Some(MEBIBYTE.len())] {
            let mut request = Request::post("https://a.com/").body(()).unwrap();
            request.headers_mut().extend(length.map(|length| (http::header::CONTENT_LENGTH, length.into())));
            let (mut send, receive) = visitor.begin(request).await;
            let sent = async {
                send.send_data(Bytes::from_static(MEBIBYTE)).await.unwrap();
                send.finish().await.unwrap();
            };
            let ((), told) = soon(async { tokio::join!(sent, told_by(receive)) }).await;
            assert!(told.unwrap().body == MEBIBYTE, "{protocol:?} {length:?}");
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let address = super::super::bodies::trailer_echo().await;
        let site = Site::open(&[("a.com", to(Endpoint::Address(address), protocol))]);
        let mut visitor = site.visit("a.com").await;
        let request = Request::post("https://a.com/").header("te", "trailers").header("trailer", "x-sum");
        let (mut send, receive) = visitor.begin(request.body(()).unwrap()).await;
        send.send_data(Bytes::from_static(b"x")).await.unwrap();
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "h3".parse().unwrap())]);
        send.send_trailers(trailers).await.unwrap();
        send.finish().await.unwrap();
        let told = soon(told_by(receive)).await.unwrap();
        assert_eq!(told.trailers.unwrap()["x-sum"], "h3", "{protocol:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_reset_and_not_ended() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.unwrap();
    });
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let error = soon(visitor.ask(get3("a.com", "/"), b"")).await.unwrap_err();
    assert_eq!(code_of(&error), Some(Code::H3_INTERNAL_ERROR), "{error}");
}

/// A backend that says when a request's head has come, and then when the connection has gone.
async fn watched() -> (SocketAddr, oneshot::Receiver<()>, oneshot::Receiver<String>) {
    let (upstream, address) = listener().await;
    let ((arrive, arrived), (leave, left)) = (oneshot::channel(), oneshot::channel());
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let mut seen = read_until(&mut stream, "\r\n\r\n").await;
        arrive.send(()).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        seen.push_str(&String::from_utf8_lossy(&rest));
        leave.send(seen).unwrap();
    });
    (address, arrived, left)
}

#[tokio::test]
async fn a_client_that_gives_up_waiting_frees_the_backend() {
    let (address, arrived, left) = watched().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, mut receive) = visitor.begin(get3("a.com", "/")).await;
    send.finish().await.unwrap();
    soon(arrived).await.unwrap();
    receive.stop_sending(Code::H3_REQUEST_CANCELLED);
    soon(left).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_is_broken_off_is_not_whole_for_the_backend() {
    let (address, arrived, left) = watched().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, _receive) = visitor.begin(Request::post("https://a.com/").body(()).unwrap()).await;
    send.send_data(Bytes::from_static(b"half")).await.unwrap();
    soon(arrived).await.unwrap();
    send.stop_stream(Code::H3_REQUEST_CANCELLED);
    let seen = soon(left).await.unwrap();
    assert!(!seen.ends_with("0\r\n\r\n"), "the last chunk says that a body is whole: {seen:?}");
}

#[tokio::test]
async fn events_pass_one_by_one() {
    let (feed, fed) = mpsc::channel::<Bytes>(1);
    let fed = Arc::new(std::sync::Mutex::new(Some(fed)));
    let address = server(move |_| {
        let mut fed = fed.lock().unwrap().take().unwrap();
        async move {
            let frames = futures_util::stream::poll_fn(move |cx| {
                fed.poll_recv(cx).map(|data| data.map(|data| Ok::<_, Infallible>(hyper::body::Frame::data(data))))
            });
            Response::new(http_body_util::StreamBody::new(frames))
        }
    })
    .await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, mut receive) = visitor.begin(get3("a.com", "/")).await;
    send.finish().await.unwrap();
    feed.send(Bytes::from_static(b"0")).await.unwrap();
    soon(receive.recv_response()).await.unwrap();
    for index in 1..20 {
        let mut data = soon(receive.recv_data()).await.unwrap().unwrap();
        assert_eq!(data.copy_to_bytes(data.remaining()), (index - 1).to_string());
        feed.send(index.to_string().into()).await.unwrap();
    }
}
