//! What is asked, what is forwarded of it, and what is answered when there is nobody to ask.

use futures_util::future::join_all;

use super::*;
use crate::route::target::Answer;

#[tokio::test]
async fn a_thousand_requests_use_one_connection_after_another() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let mut sender = gate.http1().await;
    for index in 0..1000 {
        let (status, body) = told(sender.send_request(get("a.com", &format!("/{index}"))).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(body.starts_with(&format!("GET /{index} HTTP/1.1")), "{body}");
        sender.ready().await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_requests_at_once_are_all_answered() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let answers = join_all((0..200).map(|_| gate.get("a.com", "/"))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 200);
}

#[tokio::test]
async fn two_hundred_streams_of_http2_are_all_answered() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let gate = Gate::open(&[("a.com", to(Endpoint::Address(echo().await), protocol))]);
        let sender = gate.http2().await;
        let answers = join_all((0..200).map(|_| {
            let mut sender = sender.clone();
            async move { told(sender.send_request(get_absolute()).await.unwrap()).await }
        }))
        .await;
        assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 200);
    }
}

fn get_absolute() -> Request<Full<Bytes>> {
    Request::get("http://a.com/x").body(Full::default()).unwrap()
}

#[tokio::test]
async fn an_unknown_host_is_told_which() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    assert_eq!(gate.get("b.com", "/").await, (404, "no route for host \"b.com\"\n".to_owned()));
}

#[tokio::test]
async fn an_answer_of_ours_to_head_has_a_length_and_no_body() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let request = || Request::head("http://b.com/").header("host", "b.com").body(Full::<Bytes>::default()).unwrap();
    let mut request1 = request();
    *request1.uri_mut() = "/".parse().unwrap();
    let mut request2 = request();
    request2.headers_mut().remove("host");
    let answers = [
        gate.http1().await.send_request(request1).await.unwrap(),
        gate.http2().await.send_request(request2).await.unwrap(),
    ];
    for answer in answers {
        let version = answer.version();
        assert_eq!(answer.headers()["content-length"], "26", "{version:?}");
        // With a body the client of HTTP/2 would break off.
        assert_eq!(told(answer).await, (404, String::new()), "{version:?}");
    }
}

#[tokio::test]
async fn a_dead_upstream_is_502() {
    let (closed, address) = listener().await;
    drop(closed);
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert_eq!((status, body.as_str()), (502, "the backend does not accept connections: connection refused\n"));
}

#[tokio::test]
async fn a_dead_http2_upstream_is_502_and_is_tried_again() {
    let (closed, address) = listener().await;
    drop(closed);
    let gate = Gate::open(&[("a.com", to(Endpoint::Address(address), Protocol::Http2))]);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
}

#[tokio::test]
async fn a_node_that_is_away_is_503() {
    let upstream = Upstream::node(&ProjectName::default(), &"office".parse().unwrap(), 80, Protocol::Http1);
    let gate = Gate::open(&[("a.com", Target::Upstreams(vec![Arc::new(upstream)]))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert_eq!((status, body.as_str()), (503, "no agent of node office is connected\n"));
}

#[tokio::test]
async fn an_unresolved_backend_answers_its_own_status() {
    let answer = Answer { status: 500, text: "Backend default/x does not exist".into() };
    let gate = Gate::open(&[("a.com", Target::Answer(answer))]);
    assert_eq!(gate.get("a.com", "/").await, (500, "Backend default/x does not exist\n".to_owned()));
}

#[tokio::test]
async fn loopback_is_not_dialled_without_the_operators_word() {
    let address = echo().await;
    let by_name = to(Endpoint::Host { name: "localhost".into(), port: address.port(), lookup: None }, Protocol::Http1);
    let routes = [("a.com", to_address(address)), ("b.com", by_name)];
    let closed = Gate::open_with(&routes, Scheme::Http, &[]);
    for host in ["a.com", "b.com"] {
        let (status, body) = closed.get(host, "/").await;
        assert_eq!(status, 502);
        assert!(body.contains("loopback") && !body.contains("127.0.0.1"), "{body}");
    }
    assert_eq!(Gate::open(&routes).get("b.com", "/").await.0, 200);
}

#[tokio::test]
async fn an_upstream_that_does_not_speak_http_is_502() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert_eq!(status, 502);
    assert!(body.contains("not valid HTTP"), "{body}");
}

#[tokio::test]
async fn only_what_may_pass_reaches_the_backend() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let request = "GET /a/../b?q=1 HTTP/1.1\r\nHost: A.com:80\r\nConnection: close, x-secret\r\nX-Secret: 1\r\n\
        X-Forwarded-For: 6.6.6.6\r\nUpgrade: h2c\r\nTE: trailers\r\nX_Under: 1\r\nX-Kept: yes\r\n\r\n";
    let answer = gate.raw(request).await;
    let (_, seen) = answer.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = seen.trim().lines().collect();
    lines.sort_unstable();
    let want = [
        "GET /b?q=1 HTTP/1.1",
        "connection: te",
        "host: A.com:80",
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: A.com:80",
        "x-forwarded-proto: http",
        "x-kept: yes",
    ];
    assert_eq!(lines, want);
}

#[tokio::test]
async fn the_authority_of_http2_becomes_the_backends_host() {
    for (protocol, want) in [(Protocol::Http1, "GET /x HTTP/1.1"), (Protocol::Http2, "GET http://a.com/x HTTP/2.0")] {
        let gate = Gate::open(&[("a.com", to(Endpoint::Address(echo().await), protocol))]);
        let mut sender = gate.http2().await;
        let (_, seen) = told(sender.send_request(get_absolute()).await.unwrap()).await;
        assert!(seen.starts_with(want), "{seen}");
        assert_eq!(seen.contains("\nhost: a.com"), protocol == Protocol::Http1, "{seen}");
    }
}

#[tokio::test]
async fn the_backends_hop_by_hop_fields_stay_here() {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x-inner\r\nX-Inner: 1\r\nKeep-Alive: 5\r\n\
            X-Outer: 1\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
    });
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let answer = gate.raw("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await.to_lowercase();
    assert!(answer.contains("x-outer: 1"), "{answer}");
    assert!(!answer.contains("x-inner") && !answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn hostile_heads_are_refused_and_the_connection_ends() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let check = async |request: &str, status: &str| {
        let answer = gate.raw(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
    };
    check("GET / HTTP/1.1\r\n\r\n", "400").await;
    check("GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com\r\n\r\n", "400").await;
    check("GET /%5c HTTP/1.1\r\nHost: a.com\r\n\r\n", "400").await;
    check("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400").await;
    check("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400").await;
    check("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: -1\r\n\r\n", "400").await;
    check("GET / HTTP/1.1\nHost: a.com\r\nX: a\rb\r\n\r\n", "400").await;
    check("CONNECT a.com:80 HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n", "501").await;
    let long = format!("GET / HTTP/1.1\r\nHost: a.com\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    check(&long, "431").await;
    let many = format!("GET / HTTP/1.1\r\nHost: a.com\r\n{}\r\n", "a: b\r\n".repeat(101));
    check(&many, "431").await;
}

#[tokio::test]
async fn a_body_with_two_lengths_is_never_forwarded_with_both() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let smuggled = "POST /first HTTP/1.1\r\nHost: a.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
        1\r\nx\r\n0\r\n\r\nGET /second HTTP/1.1\r\nHost: a.com\r\n\r\n";
    let answer = gate.raw(smuggled).await;
    // The chunked body counts, and the connection ends with the answer: nothing behind it is read.
    assert!(answer.contains("POST /first") && !answer.contains("/second"), "{answer}");
    assert!(!answer.contains("content-length: 4"), "{answer}");
}

#[tokio::test]
async fn too_many_fields_over_http2_are_431() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let mut request = get_absolute();
    for index in 0..101 {
        let name: http::HeaderName = format!("x-{index}").parse().unwrap();
        request.headers_mut().insert(name, "1".parse().unwrap());
    }
    let mut sender = gate.http2().await;
    assert_eq!(sender.send_request(request).await.unwrap().status(), 431);
}
