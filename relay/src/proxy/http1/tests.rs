use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{poll, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame};
use proptest::{collection::vec, prelude::*, sample::Index};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    connection::{Connection, Incoming, Outline, Taken},
    framing::{Decoded, Decoder, Encoder},
    *,
};
use crate::proxy::{
    body::{ClientBody, RequestBody},
    dial::Transport,
};

fn parts(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn read(text: &str, method: &Method) -> Result<Option<(Head, String)>, Http1Error> {
    let mut buffer = BytesMut::from(text);
    let head = answer(&mut buffer, method)?;
    Ok(head.map(|head| (head, String::from_utf8_lossy(&buffer).into_owned())))
}

fn whole(text: &str) -> Head {
    read(text, &Method::GET).unwrap().unwrap().0
}

#[test]
fn a_request_is_its_line_its_fields_and_an_empty_line() {
    let parts =
        parts("POST", "http://ignored/a?b=c", &[("host", "a.com"), ("content-length", "3"), ("x", "1"), ("x", "2")]);
    let text = "POST /a?b=c HTTP/1.1\r\nhost: a.com\r\ncontent-length: 3\r\nx: 1\r\nx: 2\r\n\r\n";
    assert_eq!(head::request(&parts), text);
}

#[test]
fn an_answer_ends_where_rfc_9112_says() {
    let check = |method: Method, head: &str, want: &str| {
        let (head, rest) = read(&format!("HTTP/1.1 {head}\r\n\r\nrest"), &method).unwrap().unwrap();
        assert_eq!((format!("{:?}", head.body).as_str(), rest.as_str()), (want, "rest"), "{method} {head:?}");
    };
    check(Method::GET, "200 OK\r\ncontent-length: 5", "Length(5)");
    check(Method::GET, "200\r\ncontent-length: 5, 5\r\nContent-Length:5", "Length(5)");
    check(Method::GET, "200 OK\r\ntransfer-encoding: Chunked", "Chunked(Size)");
    check(Method::GET, "200 OK", "UntilClose");
    check(Method::HEAD, "200 OK\r\ncontent-length: 5", "Length(0)");
    check(Method::HEAD, "200 OK\r\ntransfer-encoding: chunked", "Length(0)");
    check(Method::GET, "304 Not Modified\r\ncontent-length: 5", "Length(0)");
    check(Method::GET, "204 No Content", "Length(0)");
    check(Method::GET, "103 Early Hints\r\nlink: </a>", "Length(0)");
    check(Method::GET, "101 Switching Protocols", "Length(0)");
}

#[test]
fn what_two_readers_could_take_differently_is_not_an_answer() {
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6",
        "HTTP/1.1 200 OK\r\ncontent-length: +5",
        "HTTP/1.1 200 OK\r\ncontent-length: -5",
        "HTTP/1.1 200 OK\r\ncontent-length: 5a",
        "HTTP/1.1 200 OK\r\ncontent-length: 1 2",
        "HTTP/1.1 200 OK\r\ncontent-length:",
        "HTTP/1.1 200 OK\r\ncontent-length: 5,",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\nname : value",
        "HTTP/1.1 200 OK\r\nna\x01me: value",
        "HTTP/1.1 200 OK\r\na: b\r\n c",
        "HTTP/1.1 200 OK\r\na: b\rc: d",
        "HTTP/1.1 20x OK",
        "HTTP/1.1 099 Odd",
        "HTTP/2 200 OK",
        "hello\r\n",
        "\0\0\0\0",
    ] {
        let read = read(&format!("{bad}\r\n\r\n"), &Method::GET);
        assert!(matches!(read, Err(Http1Error::Malformed(_))), "{bad:?}: {read:?}");
    }
}

#[test]
fn heads_have_limits_and_may_come_in_pieces() {
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for end in 0..text.len() {
        assert!(read(&text[..end], &Method::GET).unwrap().is_none(), "{end}");
    }
    let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(whole(&fields(FIELDS_MAX)).headers.len(), FIELDS_MAX);
    assert!(read(&fields(FIELDS_MAX + 1), &Method::GET).is_err());
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(HEAD_BYTES_MAX));
    assert!(read(&long, &Method::GET).is_err());
}

#[test]
fn a_connection_persists_as_version_and_fields_say() {
    let check = |head: &str, want| assert_eq!(whole(&format!("{head}\r\n\r\n")).persists, want, "{head}");
    check("HTTP/1.1 200 OK", true);
    check("HTTP/1.1 200 OK\r\nconnection: x, Close", false);
    check("HTTP/1.0 200 OK", false);
    check("HTTP/1.0 200 OK\r\nconnection: Keep-Alive", true);
    check("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\nconnection: close", false);
}

/// All that a decoder makes of `pieces`, one behind the other: data, trailers, and whether it ended.
fn decoded(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, HeaderMap, bool), Http1Error> {
    let (mut data, mut trailers, mut buffer) = (Vec::new(), HeaderMap::new(), BytesMut::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(part) => data.extend_from_slice(&part),
                Decoded::Trailers(found) => trailers = found,
                Decoded::End => return Ok((data, trailers, true)),
                Decoded::More => break,
            }
        }
    }
    Ok((data, trailers, decoder.closed().is_ok()))
}

#[test]
fn chunks_are_read_strictly() {
    let good = b"5;a=\"b\"\r\nhello\r\n00A \t;x\r\n0123456789\r\n0\r\nx-sum: 1\r\ncontent-length: 9\r\n\r\n";
    let (data, trailers, ended) = decoded(Decoder::chunked(), &[good]).unwrap();
    assert_eq!((&data[..], trailers.len(), ended), (&b"hello0123456789"[..], 1, true));
    assert_eq!(trailers["x-sum"], "1");
    let long = format!("5;{}\r\nhello\r\n", "x".repeat(5000));
    for bad in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        " 5\r\nhello\r\n",
        "5 x\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhello!\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n",
        "11111111111111111\r\n",
        "0\r\na b: c\r\n\r\n",
        "0\r\nx: y\r\n z\r\n\r\n",
        &long,
    ] {
        let read = decoded(Decoder::chunked(), &[bad.as_bytes()]);
        assert!(matches!(read, Err(Http1Error::Malformed(_))), "{bad:?}: {read:?}");
    }
    for cut in ["", "5", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "0\r\n", "0\r\nx: y\r\n"] {
        let (_, _, ended) = decoded(Decoder::chunked(), &[cut.as_bytes()]).unwrap();
        assert!(!ended, "{cut:?}");
    }
}

proptest! {
    /// What one side writes the other reads, however the bytes arrive.
    #[test]
    fn bodies_survive_any_cut(frames in vec(vec(any::<u8>(), 0..40), 0..6), chunked: bool, cuts in vec(any::<Index>(), 0..8)) {
        let content = frames.concat();
        let mut encoder = if chunked { Encoder::Chunked } else { Encoder::Length(content.len() as u64) };
        let decoder = if chunked { Decoder::chunked() } else { Decoder::Length(content.len() as u64) };
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        trailers.insert("content-length", "7".parse().unwrap());
        trailers.insert("x-forwarded-for", "7".parse().unwrap());
        let mut text = Vec::new();
        for frame in &frames {
            let around = encoder.data(frame.len()).unwrap();
            text.extend([&around.before[..], frame, around.behind].concat());
        }
        text.extend(encoder.end(Some(&trailers)).unwrap());
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
        let (data, found, ended) = decoded(decoder, &pieces).unwrap();
        prop_assert_eq!(data, content);
        prop_assert!(ended);
        prop_assert_eq!(found.len(), usize::from(chunked));
    }
}

#[test]
fn a_body_is_as_long_as_its_head_says() {
    let mut encoder = Encoder::of(&parts("PUT", "/", &[("content-length", "3")]).headers);
    assert!(encoder.data(4).is_none());
    assert!(encoder.data(2).is_some());
    assert!(encoder.end(None).is_none());
    assert!(encoder.data(1).is_some());
    assert_eq!(encoder.end(None).unwrap(), "");
    let mut nothing = Encoder::of(&HeaderMap::new());
    assert!(nothing.data(1).is_none());
}

/// A connection, and the backend's end of it.
async fn connected() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (backend, _) = listener.accept().await.unwrap();
    (Connection::new(Transport::Socket(client)), backend)
}

/// Sends a request on `connection` while `backend` reads it all and says `answer`.
async fn ask(
    connection: Connection,
    backend: &mut TcpStream,
    request: (&Parts, RequestBody),
    answer: &str,
) -> (Result<Response<Incoming>, Http1Error>, String) {
    let outline = Outline::new(request.0);
    let serve = async {
        let mut seen = vec![0; 64 * 1024];
        let count = backend.read(&mut seen).await.unwrap();
        backend.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&seen[..count]).into_owned()
    };
    let (response, seen) = tokio::join!(connection.send(&outline, request.1), serve);
    (response, seen)
}

fn get() -> Parts {
    parts("GET", "/", &[("host", "a")])
}

async fn text(incoming: &mut Incoming) -> Result<String, Http1Error> {
    let body = incoming.collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

fn upload(frames: impl stream::Stream<Item = Result<Frame<Bytes>, BodyError>> + Send + 'static) -> RequestBody {
    RequestBody::stream(ClientBody::Other(UnsyncBoxBody::new(StreamBody::new(frames))), Arc::default())
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn a_connection_carries_one_exchange_after_the_other() {
    let (mut connection, mut backend) = connected().await;
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", "ab"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx: y\r\n\r\n", "abc"),
    ] {
        assert!(connection.is_open());
        let (response, seen) = ask(connection, &mut backend, (&get(), RequestBody::Empty), answer).await;
        assert_eq!(seen, "GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut incoming = response.unwrap().into_body();
        assert_eq!(text(&mut incoming).await.unwrap(), want);
        let Some(Taken::Ready(again)) = incoming.take() else { panic!("it does not rest after {answer}") };
        connection = again;
    }
    drop(backend);
    // The reactor has seen the end when it says so.
    while connection.is_open() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_out_of_order_is_not_used_again() {
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n", "ab"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab", "ab"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab", "ab"),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nab", ""),
    ] {
        let (connection, mut backend) = connected().await;
        let (response, _) = ask(connection, &mut backend, (&get(), RequestBody::Empty), answer).await;
        let mut incoming = response.unwrap().into_body();
        assert_eq!(text(&mut incoming).await.unwrap(), want);
        assert!(incoming.take().is_none(), "{answer}");
    }
    let (connection, mut backend) = connected().await;
    let (response, _) = ask(connection, &mut backend, (&get(), RequestBody::Empty), "HTTP/1.1 200 OK\r\n\r\nabc").await;
    drop(backend);
    let mut incoming = response.unwrap().into_body();
    assert_eq!(text(&mut incoming).await.unwrap(), "abc");
    assert!(incoming.take().is_none());
}

#[tokio::test]
async fn how_an_exchange_broke_off_is_told() {
    let check = async |answer: &str, is_lost: bool| {
        let (connection, mut backend) = connected().await;
        let outline = Outline::new(&get());
        let serve = async {
            let count = backend.read(&mut [0; 1024]).await.unwrap();
            assert!(count > 0);
            backend.write_all(answer.as_bytes()).await.unwrap();
            drop(backend);
        };
        let (response, ()) = tokio::join!(connection.send(&outline, RequestBody::Empty), serve);
        let error = match response {
            Err(error) => error,
            Ok(response) => text(&mut response.into_body()).await.unwrap_err(),
        };
        assert_eq!(error.is_lost(), is_lost, "{answer:?}: {error}");
        error
    };
    assert!(matches!(check("", true).await, Http1Error::Closed));
    assert!(matches!(check("HTTP/1.1 200", false).await, Http1Error::Cut));
    assert!(matches!(check("HTTP/1.1 100 Continue\r\n\r\n", true).await, Http1Error::Closed));
    assert!(matches!(check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", false).await, Http1Error::Cut));
    assert!(matches!(
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", false).await,
        Http1Error::Cut
    ));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(INTERIM_MAX + 1);
    assert!(check(&interim, false).await.is_malformed());
}

#[tokio::test]
async fn interim_answers_are_counted_also_when_they_come_one_by_one() {
    let (connection, mut backend) = connected().await;
    let outline = Outline::new(&get());
    let mut sending = std::pin::pin!(connection.send(&outline, RequestBody::Empty));
    for nth in 0..=INTERIM_MAX {
        // In two parts, of which the first has no end of a line.
        for part in ["HTTP/1.1 102 Proc", "essing\r\n\r\n"] {
            assert!(poll!(sending.as_mut()).is_pending(), "{nth}");
            backend.write_all(part.as_bytes()).await.unwrap();
            // The runtime looks at its sockets after 61 tasks at the latest.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }
    let done = poll!(sending.as_mut());
    assert!(matches!(done, Poll::Ready(Err(Http1Error::Malformed("too many interim answers")))), "{done:?}");
}

#[tokio::test]
async fn bodies_are_framed_as_the_head_says_and_trailers_pass() {
    let chunked = parts("POST", "/", &[("transfer-encoding", "chunked")]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let body = upload(stream::iter([data("ab"), data(""), data("c"), Ok(Frame::trailers(trailers))]));
    let (connection, mut backend) = connected().await;
    let outline = Outline::new(&chunked);
    let serve = async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") || seen.len() < 60 {
            assert_ne!(backend.read_buf(&mut seen).await.unwrap(), 0);
        }
        backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(seen).unwrap()
    };
    let (response, seen) = tokio::join!(connection.send(&outline, body), serve);
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(seen, format!("{head}2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 1\r\n\r\n"));
    assert!(matches!(response.unwrap().into_body().take(), Some(Taken::Ready(_))));
}

#[tokio::test]
async fn a_body_that_is_not_what_was_promised_ends_the_exchange() {
    let promised = parts("POST", "/", &[("content-length", "3")]);
    for frames in [vec![data("ab")], vec![data("abcd")], vec![data("ab"), Err(BodyError::Lost("gone".into()))]] {
        let (connection, backend) = connected().await;
        let sent = connection.send(&Outline::new(&promised), upload(stream::iter(frames))).await;
        assert!(matches!(sent, Err(Http1Error::Upload(_))), "{sent:?}");
        drop(backend);
    }
    // Also when the backend has begun to answer.
    let (connection, mut backend) = connected().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = upload(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }));
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na";
    let (response, _) = ask(connection, &mut backend, (&promised, body), answer).await;
    sender.send(Err(BodyError::Lost("gone".into()))).await.unwrap();
    assert!(matches!(text(&mut response.unwrap().into_body()).await, Err(Http1Error::Upload(_))));
}

#[tokio::test]
async fn a_backend_may_answer_before_it_has_the_whole_request() {
    let promised = parts("POST", "/", &[("content-length", "4")]);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let body = upload(stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }));
    sender.send(data("ab")).await.unwrap();
    let (connection, mut backend) = connected().await;
    let (response, _) =
        ask(connection, &mut backend, (&promised, body), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut incoming = response.unwrap().into_body();
    assert!(incoming.is_end_stream());
    let Some(Taken::Sending(sending)) = incoming.take() else { panic!("the request is not sent in full") };
    sender.send(data("cd")).await.unwrap();
    drop(sender);
    let mut connection = sending.finish().await.unwrap();
    let mut rest = [0; 8];
    let mut seen = 0;
    while seen < 2 {
        seen += backend.read(&mut rest[seen..]).await.unwrap();
    }
    assert!(rest[..seen].ends_with(b"cd"));
    assert!(connection.is_open());
}

/// More than all buffers hold goes both ways at once.
#[tokio::test]
async fn an_echo_of_any_length_does_not_block() {
    const FRAMES: usize = 400;
    let frame = Bytes::from(vec![7_u8; 64 * 1024]);
    let length = (FRAMES * frame.len()).to_string();
    let request = parts("POST", "/", &[("content-length", &length)]);
    let total = FRAMES * frame.len() + head::request(&request).len();
    let frames = std::iter::repeat_n(frame.clone(), FRAMES).map(|frame| Ok(Frame::data(frame)));
    let (connection, mut backend) = connected().await;
    let serve = tokio::spawn(async move {
        backend.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\n\r\n").await.unwrap();
        let (mut from, mut to) = backend.split();
        let mut buffer = vec![0; 64 * 1024];
        let mut echoed = 0;
        while echoed < total {
            let count = from.read(&mut buffer).await.unwrap();
            to.write_all(&buffer[..count]).await.unwrap();
            echoed += count;
        }
    });
    let response = connection.send(&Outline::new(&request), upload(stream::iter(frames))).await.unwrap();
    let mut incoming = response.into_body();
    let mut length = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= 2 * 128 * 1024);
        length += data.len();
    }
    assert_eq!(length, total);
    serve.await.unwrap();
}

#[tokio::test]
async fn after_101_the_bytes_are_another_protocols() {
    let (connection, mut backend) = connected().await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nfirst";
    let (response, _) = ask(connection, &mut backend, (&get(), RequestBody::Empty), answer).await;
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut incoming = response.into_body();
    assert!(incoming.take().is_none(), "it carries no further request");
    let (mut switched, ahead) = incoming.into_switched().unwrap();
    backend.write_all(b"second").await.unwrap();
    let mut seen = [0; 6];
    switched.read_exact(&mut seen).await.unwrap();
    assert_eq!((&ahead[..], &seen[..]), (&b"first"[..], &b"second"[..]));
    switched.write_all(b"third").await.unwrap();
    let mut seen = [0; 5];
    backend.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"third");
}
