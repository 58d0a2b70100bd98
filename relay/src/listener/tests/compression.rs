//! Responses packed on their way to clients, decoded again as those would.

use std::io::Read as _;

use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::*;
use crate::route::filter::{Algorithm, Compression, Direct, End};

const ALL: [Algorithm; 3] = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];

fn packing(algorithms: &[Algorithm]) -> Compression {
    let content_types = vec!["text/plain".into(), "text/event-stream".into()];
    Compression { algorithms: algorithms.to_vec(), least_bytes: 128, content_types }
}

fn decode(coding: &str, packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(packed).read_to_end(&mut plain),
        "br" => brotli::Decompressor::new(packed, 4096).read_to_end(&mut plain),
        "zstd" => zstd::stream::read::Decoder::new(packed).unwrap().read_to_end(&mut plain),
        other => panic!("{other} is no coding of ours"),
    }
    .unwrap();
    plain
}

/// A gate whose backend answers `/COUNT` with that many bytes of text, in frames of 10,000, and these fields.
async fn gate(fields: &'static [(&'static str, &'static str)], change: impl FnOnce(&mut Rule)) -> Gate {
    let address = server(move |request: Request<Incoming>| async move {
        let length: usize = request.uri().path()[1..].parse().unwrap();
        let mut response = Response::builder().header("content-type", "text/plain; charset=utf-8");
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let text = text(length);
        let frames: Vec<_> = text.chunks(10_000).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
        response.header("content-length", length).body(StreamBody::new(stream::iter(frames))).unwrap()
    })
    .await;
    Gate::open_rule(address, change)
}

/// Text that packs well, and is never the same.
fn text(length: usize) -> Vec<u8> {
    let mut text: Vec<u8> = (0..length / 4 + 1).flat_map(|number| format!("{number:04} ").into_bytes()).collect();
    text.truncate(length);
    text
}

/// GET with this `Accept-Encoding`: the head's fields and the body as it came.
async fn asked(gate: &Gate, path: &str, accept: &str) -> (HeaderMap, Bytes) {
    let request = Request::get(path).header("host", "a.com").header("accept-encoding", accept);
    let response = gate.http1().await.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_first_algorithm_that_the_client_takes_packs_what_it_can_decode() {
    let gate = gate(&[("etag", "\"v1\""), ("accept-ranges", "bytes")], |rule| {
        rule.filters.compression = Some(packing(&ALL));
    })
    .await;
    for (accept, coding) in [
        ("gzip, br, zstd", "gzip"),
        ("br, zstd", "br"),
        ("gzip;q=0, zstd", "zstd"),
        ("*", "gzip"),
        ("gzip;q=0,*", "br"),
    ] {
        for length in [200, 9_999, 1_000_000] {
            let (headers, body) = asked(&gate, &format!("/{length}"), accept).await;
            assert_eq!(headers[header::CONTENT_ENCODING], coding, "{accept}");
            assert!(decode(coding, &body) == text(length), "{coding} of {length} bytes");
            assert!(body.len() < length, "{} of {length} bytes in {coding}", body.len());
            assert_eq!(
                (&headers[header::VARY], &headers[header::ETAG]),
                (&"accept-encoding".parse().unwrap(), &"W/\"v1\"".parse().unwrap())
            );
            assert!(!headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::ACCEPT_RANGES));
        }
    }
}

#[tokio::test]
async fn who_takes_nothing_gets_the_whole_answer_and_caches_are_told() {
    let gate = gate(&[], |rule| rule.filters.compression = Some(packing(&[Algorithm::Brotli]))).await;
    for accept in ["gzip", "br;q=0", "identity"] {
        let (headers, body) = asked(&gate, "/500", accept).await;
        assert!(body == text(500) && !headers.contains_key(header::CONTENT_ENCODING), "{accept}");
        assert_eq!(
            (&headers[header::CONTENT_LENGTH], &headers[header::VARY]),
            (&"500".parse().unwrap(), &"accept-encoding".parse().unwrap())
        );
    }
    let (headers, body) = asked(&gate, "/127", "br").await;
    assert!(body == text(127) && !headers.contains_key(header::VARY), "too short for anybody");
}

#[tokio::test]
async fn what_is_packed_or_signed_or_not_to_be_touched_stays_as_it_is() {
    let cases: [&[(&str, &str)]; 3] =
        [&[("content-encoding", "x-own")], &[("cache-control", "no-transform")], &[("repr-digest", "sha-256=:x:")]];
    for fields in cases {
        let gate = gate(fields, |rule| rule.filters.compression = Some(packing(&ALL))).await;
        let (headers, body) = asked(&gate, "/500", "gzip").await;
        assert!(body == text(500) && headers[header::CONTENT_LENGTH] == "500", "{fields:?}");
    }
    let gate = gate(&[], |rule| {
        rule.filters.compression = Some(packing(&ALL));
        rule.backends[0].filters.compression = Some(packing(&[]));
    })
    .await;
    assert!(asked(&gate, "/500", "gzip").await.1 == text(500), "the backend's filter says no");
}

#[tokio::test]
async fn the_answer_to_head_keeps_its_fields() {
    let gate = gate(&[], |rule| rule.filters.compression = Some(packing(&ALL))).await;
    let request = Request::head("/500").header("host", "a.com").header("accept-encoding", "gzip");
    let response = gate.http1().await.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "500");
}

#[tokio::test]
async fn each_event_can_be_decoded_before_the_next_is_written_and_trailers_come_last() {
    for (algorithm, coding) in [(ALL[0], "gzip"), (ALL[1], "br"), (ALL[2], "zstd")] {
        let (feed, receiver) = mpsc::channel::<Frame<Bytes>>(1);
        let receiver = Arc::new(std::sync::Mutex::new(Some(receiver)));
        let address = server(move |_| {
            let mut receiver = receiver.lock().unwrap().take().unwrap();
            let body = StreamBody::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok::<_, Infallible>));
            async move { Response::builder().header("content-type", "text/event-stream").body(body).unwrap() }
        })
        .await;
        let gate = Gate::open_rule(address, |rule| {
            rule.backends[0].target = to(Endpoint::Address(address), Protocol::Http2);
            rule.filters.compression = Some(packing(&[algorithm]));
        });
        let mut sender = gate.http2().await;
        let request = Request::get("http://a.com/").header("accept-encoding", coding).header("te", "trailers");
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let (mut packed, mut sent) = (Vec::new(), String::new());
        for number in 0..5 {
            let event = format!("data: {number}\n\n");
            sent.push_str(&event);
            feed.send(Frame::data(event.into())).await.unwrap();
            while so_far(coding, &packed) != sent.as_bytes() {
                packed.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "5".parse().unwrap());
        feed.send(Frame::trailers(trailers.clone())).await.unwrap();
        drop(feed);
        let rest = body.collect().await.unwrap();
        assert_eq!(rest.trailers(), Some(&trailers), "{coding}");
        packed.extend_from_slice(&rest.to_bytes());
        assert_eq!(decode(coding, &packed), sent.as_bytes(), "{coding}");
    }
}

/// What can be decoded of a body that has not ended.
fn so_far(coding: &str, packed: &[u8]) -> Vec<u8> {
    let mut decoder: Box<dyn std::io::Read> = match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(packed)),
        "br" => Box::new(brotli::Decompressor::new(packed, 1)),
        _ => Box::new(zstd::stream::read::Decoder::new(packed).unwrap()),
    };
    let (mut plain, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = decoder.read(&mut byte) {
        plain.push(byte[0]);
    }
    plain
}

#[tokio::test]
async fn a_fixed_answer_is_packed_as_any_other() {
    let (closed, address) = listener().await;
    drop(closed);
    let gate = Gate::open_rule(address, |rule| {
        let headers = vec![(header::CONTENT_TYPE, "text/plain".parse().unwrap())];
        rule.filters.end = Some(End::Direct(Direct { status: 404, headers, body: text(1000).into() }));
        rule.filters.compression = Some(packing(&ALL));
    });
    let (headers, body) = asked(&gate, "/", "gzip").await;
    assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
    assert!(decode("gzip", &body) == text(1000));
}
