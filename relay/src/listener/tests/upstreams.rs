//! The pool: connections are used again, and those that died while they rested cost nothing.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Serves connections with `serve`, and counts them.
async fn counted<F, R>(serve: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listener().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Relaxed);
            tokio::spawn(serve(stream));
        }
    });
    (address, count)
}

async fn ask(sender: &mut http1::SendRequest<Full<Bytes>>) -> (u16, String) {
    let answer = told(sender.send_request(get("a.com", "/")).await.unwrap()).await;
    sender.ready().await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let (address, count) = counted(|mut stream| async move {
        loop {
            let mut buffer = [0; 1024];
            if matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                return;
            }
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    for _ in 0..50 {
        assert_eq!(ask(&mut sender).await.0, 200);
    }
    assert_eq!(count.load(Relaxed), 1);
}

#[tokio::test]
async fn connections_are_never_shared_between_projects() {
    let (address, count) = counted(|mut stream| async move {
        while !matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let other = Upstream {
        project: "other".parse().unwrap(),
        endpoint: Endpoint::Address(address),
        protocol: Protocol::Http1,
        tls: None,
        announces: None,
    };
    let gate = Gate::open(&[("a.com", to_address(address)), ("b.com", Target::Upstreams(vec![Arc::new(other)]))]);
    assert_eq!(gate.get("a.com", "/").await.0, 200);
    assert_eq!(gate.get("b.com", "/").await.0, 200);
    assert_eq!(count.load(Relaxed), 2);
}

#[tokio::test]
async fn an_upstream_that_closes_after_every_answer_fails_no_request() {
    let (address, count) = counted(|mut stream| async move {
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    for index in 0..200 {
        assert_eq!(ask(&mut sender).await, (200, "ok".to_owned()), "request {index}");
    }
    assert_eq!(count.load(Relaxed), 200);
}

/// Answers once, then reads the next request and closes without an answer: the race that a proxy cannot see coming.
async fn closes_on_the_second() -> (SocketAddr, Arc<AtomicUsize>) {
    counted(|mut stream| async move {
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(OK).await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await
}

#[tokio::test]
async fn a_get_that_met_a_dying_connection_is_sent_once_more() {
    let (address, count) = closes_on_the_second().await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    for _ in 0..20 {
        assert_eq!(ask(&mut sender).await, (200, "ok".to_owned()));
    }
    assert_eq!(count.load(Relaxed), 20);
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_twice() {
    let (address, _) = closes_on_the_second().await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut sender = gate.http1().await;
    assert_eq!(ask(&mut sender).await.0, 200);
    let post = Request::post("/").header("host", "a.com").body(Full::new(Bytes::from("x"))).unwrap();
    let (status, body) = told(sender.send_request(post).await.unwrap()).await;
    assert_eq!((status, body.as_str()), (502, "the backend closed the connection before it answered\n"));
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_502_at_once() {
    let (address, count) = counted(|mut stream| async move {
        let _ = read_until(&mut stream, "\r\n\r\n").await;
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    assert_eq!(gate.get("a.com", "/").await.0, 502);
    assert_eq!(count.load(Relaxed), 1);
}

#[tokio::test]
async fn http2_upstreams_share_one_connection_and_survive_its_end() {
    let stop = CancellationToken::new();
    let (listener, address) = listener().await;
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, ends) = (count.clone(), stop.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let first = counter.fetch_add(1, Relaxed) == 0;
            let ends = ends.clone();
            tokio::spawn(async move {
                let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok")))) });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    _ = connection => {}
                    () = ends.cancelled(), if first => {}
                }
            });
        }
    });
    let gate = Gate::open(&[("a.com", to(Endpoint::Address(address), Protocol::Http2))]);
    let answers = futures_util::future::join_all((0..50).map(|_| gate.get("a.com", "/"))).await;
    assert!(answers.iter().all(|answer| *answer == (200, "ok".to_owned())));
    assert_eq!(count.load(Relaxed), 1);
    stop.cancel();
    for _ in 0..10 {
        assert_eq!(gate.get("a.com", "/").await, (200, "ok".to_owned()));
    }
    assert_eq!(count.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_answers_is_504() {
    let (address, _) =
        counted(|mut stream| async move { while !matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {} })
            .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let (status, body) = gate.get("a.com", "/").await;
    assert_eq!((status, body.as_str()), (504, "the backend did not answer in time\n"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stops_is_408() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let answer = gate.raw("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nhel").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}
