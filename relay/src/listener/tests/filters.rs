//! What a rule does to requests and answers beside choosing a backend: filters, time-outs, further attempts.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::mpsc;

use super::*;
use crate::route::filter::{
    Cors, End, HeaderChanges, Listed, Mirror, OriginPattern, PathChange, Redirect, Retry, Rewrite,
};

fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

async fn send(gate: &Gate, request: Request<Full<Bytes>>) -> Response<Incoming> {
    gate.http1().await.send_request(request).await.unwrap()
}

/// A backend that answers what `answer` makes of the number of the request, from 0, and its body.
async fn counting(answer: impl Fn(u32, &[u8]) -> StatusCode + Clone + Send + Sync + 'static) -> SocketAddr {
    let count = Arc::new(AtomicU32::new(0));
    server(move |request| {
        let (answer, count) = (answer.clone(), count.clone());
        async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let status = answer(count.fetch_add(1, Relaxed), &body);
            Response::builder().status(status).body(Full::new(body)).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn headers_are_changed_by_the_rule_then_by_the_backend_and_back_in_the_other_order() {
    let gate = Gate::open_rule(echo().await, |rule| {
        rule.filters.request_headers =
            HeaderChanges { set: vec![pair("x-rule", "1"), pair("x-both", "rule")], ..HeaderChanges::default() };
        rule.filters.response_headers =
            HeaderChanges { set: vec![pair("x-answer", "rule")], ..HeaderChanges::default() };
        let backend = &mut rule.backends[0].filters;
        backend.request_headers = HeaderChanges {
            set: vec![pair("x-both", "backend")],
            remove: vec![HeaderName::from_static("x-secret")],
            ..HeaderChanges::default()
        };
        backend.response_headers = HeaderChanges {
            set: vec![pair("x-answer", "backend"), pair("x-of", "backend")],
            ..HeaderChanges::default()
        };
    });
    let request = Request::get("/").header("host", "a.com").header("x-secret", "1").body(Full::default()).unwrap();
    let response = send(&gate, request).await;
    assert_eq!(response.headers()["x-answer"], "rule");
    assert_eq!(response.headers()["x-of"], "backend");
    let (_, seen) = told(response).await;
    assert!(seen.contains("\nx-rule: 1") && seen.contains("\nx-both: backend"), "{seen}");
    assert!(!seen.contains("x-secret"), "{seen}");
}

#[tokio::test]
async fn a_redirect_needs_no_backend() {
    let (closed, address) = listener().await;
    drop(closed);
    let gate = Gate::open_rule(address, |rule| {
        rule.backends.clear();
        let path = Some(PathChange::Full("/new".into()));
        let redirect = Redirect { scheme: None, hostname: Some("b.com".into()), path, port: None, status: 301 };
        rule.filters.end = Some(End::Redirect(redirect));
        rule.filters.response_headers = HeaderChanges { set: vec![pair("x-answer", "1")], ..HeaderChanges::default() };
    });
    let response = send(&gate, get("a.com", "/old?q=1")).await;
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(response.headers()[header::LOCATION], "http://b.com/new?q=1");
    assert_eq!(response.headers()["x-answer"], "1");
}

#[tokio::test]
async fn a_rewrite_is_what_the_backend_sees() {
    let gate = Gate::open_rule(echo().await, |rule| {
        let path = Some(PathChange::Prefix { matched: "/a".into(), replacement: "/b".into() });
        rule.filters.rewrite = Some(Rewrite { hostname: Some("inner.example".into()), path });
    });
    let (status, seen) = gate.get("a.com", "/a/c?q=1").await;
    assert_eq!(status, 200);
    assert!(seen.starts_with("GET /b/c?q=1 HTTP/1.1"), "{seen}");
    assert!(seen.contains("\nhost: inner.example"), "{seen}");
    assert!(seen.contains("\nx-forwarded-host: a.com"), "{seen}");
}

#[tokio::test]
async fn a_mirror_gets_a_copy_with_the_body_and_the_client_the_primary_s_answer() {
    let (copies, mut copied) = mpsc::unbounded_channel();
    let mirror = server(move |request| {
        let copies = copies.clone();
        async move {
            let head = format!("{} {}", request.method(), request.headers()["x-rule"].to_str().unwrap());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            copies.send((head, body)).unwrap();
            Response::builder().status(500).body(Full::<Bytes>::default()).unwrap()
        }
    })
    .await;
    let primary = counting(|_, _| StatusCode::OK).await;
    let gate = Gate::open_rule(primary, |rule| {
        rule.filters.request_headers = HeaderChanges { set: vec![pair("x-rule", "1")], ..HeaderChanges::default() };
        let backend = target::Backend { target: to_address(mirror), ..rule.backends[0].clone() };
        rule.filters.mirrors = vec![Mirror { backend, numerator: 1, denominator: 1 }];
    });
    for body in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![7; 300_000])] {
        let request = Request::post("/").header("host", "a.com").body(Full::new(body.clone())).unwrap();
        let response = send(&gate, request).await;
        assert_eq!(response.status(), 200);
        let echoed = response.into_body().collect().await.unwrap().to_bytes();
        assert!(echoed == body, "the primary got all of {} bytes", body.len());
        let (head, copy) = copied.recv().await.unwrap();
        assert_eq!(head, "POST 1");
        assert!(copy == body, "the mirror got all of {} bytes", body.len());
    }
}

#[tokio::test]
async fn preflights_are_answered_here_and_answers_are_marked() {
    let gate = Gate::open_rule(counting(|_, _| StatusCode::IM_A_TEAPOT).await, |rule| {
        rule.filters.cors = Some(Cors {
            origins: vec![OriginPattern::parse("https://*.a.com").unwrap()],
            credentials: true,
            methods: Listed::These(vec![Method::GET]),
            headers: Listed::All,
            expose: Listed::These(vec![]),
            max_age: 60,
        });
    });
    let ask = |method: Method, origin: &str| {
        let request = Request::builder().method(method).uri("/").header("host", "a.com").header("origin", origin);
        request.header("access-control-request-method", "GET").body(Full::default()).unwrap()
    };
    let preflight = send(&gate, ask(Method::OPTIONS, "https://x.a.com")).await;
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://x.a.com");
    assert_eq!(preflight.headers()[header::ACCESS_CONTROL_MAX_AGE], "60");
    assert_eq!(preflight.headers().get_all(header::VARY).iter().count(), 1);
    let foreign = send(&gate, ask(Method::OPTIONS, "https://b.com")).await;
    assert_eq!(foreign.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    let actual = send(&gate, ask(Method::GET, "https://x.a.com")).await;
    assert_eq!(actual.status(), 418, "the backend's answer");
    assert_eq!(actual.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://x.a.com");
    assert_eq!(actual.headers()[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
}

#[tokio::test]
async fn a_backend_that_is_too_slow_for_the_route_is_504() {
    let (listener, address) = listener().await;
    for both in [true, false] {
        let gate = Gate::open_rule(address, |rule| {
            let limit = Some(Duration::from_millis(20));
            if both {
                rule.timeouts.request = limit;
            } else {
                rule.timeouts.backend_request = limit;
            }
        });
        let (status, text) = gate.get("a.com", "/").await;
        assert_eq!(
            (status, text.as_str()),
            (504, "the backend did not answer within the time that the route allows\n")
        );
    }
    drop(listener);
}

fn retry(attempts: u32, codes: &[u16]) -> Option<Retry> {
    Some(Retry { attempts, codes: codes.to_vec(), backoff: Duration::from_millis(1) })
}

#[tokio::test]
async fn listed_answers_are_tried_again_with_the_same_body() {
    let backend = counting(|count, body| {
        assert_eq!(body, b"hello", "at each attempt");
        if count < 2 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    })
    .await;
    let gate = Gate::open_rule(backend, |rule| rule.retry = retry(3, &[500, 503]));
    let request = Request::post("/").header("host", "a.com").body(Full::new(Bytes::from("hello"))).unwrap();
    assert_eq!(told(send(&gate, request).await).await, (200, "hello".to_owned()));
}

#[tokio::test]
async fn attempts_end_and_answers_that_are_not_listed_are_not_tried_again() {
    for (code, codes, sent) in [(503, [503], 3), (502, [503], 1)] {
        let count = Arc::new(AtomicU32::new(0));
        let backend = counting({
            let count = count.clone();
            move |_, _| {
                count.fetch_add(1, Relaxed);
                StatusCode::from_u16(code).unwrap()
            }
        });
        let gate = Gate::open_rule(backend.await, |rule| rule.retry = retry(2, &codes));
        assert_eq!(gate.get("a.com", "/").await.0, code);
        assert_eq!(count.load(Relaxed), sent, "{code}");
    }
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_sent_once() {
    let gate = Gate::open_rule(counting(|_, _| StatusCode::SERVICE_UNAVAILABLE).await, |rule| {
        rule.retry = retry(5, &[503]);
    });
    let body = Bytes::from(vec![1; 100_000]);
    let request = Request::post("/").header("host", "a.com").body(Full::new(body.clone())).unwrap();
    let response = send(&gate, request).await;
    assert_eq!(response.status(), 503);
    assert!(response.into_body().collect().await.unwrap().to_bytes() == body, "all of it passed");
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_words() {
    let gate = Gate::open(&[]);
    let request = Request::post("/svc/Method").header("host", "a.com").header("content-type", "application/grpc+proto");
    let response = send(&gate, request.body(Full::default()).unwrap()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["grpc-message"], "no route for host \"a.com\"");
}
