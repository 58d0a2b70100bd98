//! Policies for backends: endpoints that fail get nothing and come back, keys stay, and too much is refused.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::{
    proxy::checks,
    route::{
        filter::Retry,
        fleet::Fleet,
        traffic::{Active, Balance, HashOn, Health, Limits, Passive, Probe, Traffic},
    },
};

/// A server whose answer's status can be changed, which counts what it is asked and says when it was.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
    called: Arc<Notify>,
}

impl Server {
    async fn new(name: &'static str) -> Self {
        let (status, asked, called) =
            (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (told, count, notify) = (status.clone(), asked.clone(), called.clone());
        let address = server(move |request: Request<Incoming>| {
            let status = told.load(Relaxed);
            if request.uri().path() != "/health" {
                count.fetch_add(1, Relaxed);
            }
            notify.notify_one();
            async move { Response::builder().status(status).body(Full::new(Bytes::from(name))).unwrap() }
        })
        .await;
        Self { address, status, asked, called }
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        self.asked.swap(0, Relaxed)
    }
}

fn fleet(servers: &[&Server], traffic: Traffic) -> Target {
    let of = |server: &&Server| match to_address(server.address) {
        Target::Upstreams(mut upstreams) => upstreams.remove(0),
        other => panic!("{other:?}"),
    };
    let upstreams = servers.iter().map(of).collect();
    Target::Fleet(Fleet::new(ProjectName::default(), "default/b".into(), Arc::new(traffic), upstreams))
}

fn judged(panic_percent: u8) -> Traffic {
    let passive = Passive {
        split: false,
        interval: Duration::from_secs(3600),
        local_failures: 0,
        gateway_errors: 0,
        server_errors: 3,
        base: Duration::from_secs(3600),
        max_percent: 100,
    };
    let health = Health { panic_percent, passive: Some(passive), active: None };
    let balance = Some(Balance::RoundRobin { slow_start: None });
    Traffic { balance, health: Some(Arc::new(health)), ..Traffic::default() }
}

fn watched(probe: Probe) -> Traffic {
    let (timeout, interval) = (Duration::from_secs(5), Duration::from_millis(10));
    let active = Active { probe, timeout, interval, initial_jitter: Duration::ZERO, unhealthy: 1, healthy: 1 };
    let health = Health { panic_percent: 0, passive: None, active: Some(active) };
    Traffic { health: Some(Arc::new(health)), ..judged(0) }
}

fn http_probe() -> Probe {
    let (method, path, body) = (http::Method::GET, "/health".into(), Arc::default());
    Probe::Http { method, path, host: None, statuses: vec![200], body }
}

/// Whether requests are answered with `want` before many have been asked.
async fn becomes(gate: &Gate, want: u16) -> bool {
    for _ in 0..5000 {
        if gate.get("a.com", "/").await.0 == want {
            return true;
        }
    }
    false
}

async fn ask(gate: &Gate, count: usize) {
    for _ in 0..count {
        gate.get("a.com", "/").await;
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_gets_nothing_even_when_the_table_changes() {
    let (good, bad) = (Server::new("good").await, Server::new("bad").await);
    bad.status.store(500, Relaxed);
    let routes = || [("a.com", fleet(&[&good, &bad], judged(50)))];
    let gate = Gate::open(&[]);
    gate.publish(&routes());
    ask(&gate, 20).await;
    assert_eq!(bad.asked(), 3, "as often as it may fail");
    gate.publish(&routes());
    ask(&gate, 20).await;
    assert_eq!((good.asked(), bad.asked()), (37, 0));
    // Without it in the table its past is forgotten.
    gate.publish(&[("a.com", fleet(&[&good], judged(50)))]);
    gate.publish(&routes());
    ask(&gate, 2).await;
    assert_eq!(bad.asked(), 1);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_connected_to_is_out_too() {
    let good = Server::new("good").await;
    let (listener, address) = listener().await;
    drop(listener);
    let gone = Server { address, ..Server::new("gone").await };
    let gate = Gate::open(&[]);
    gate.publish(&[("a.com", fleet(&[&good, &gone], judged(50)))]);
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(gate.get("a.com", "/").await.0 != 200);
    }
    assert_eq!(failed, 3);
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_not_well_gets_nothing_and_comes_back() {
    let (good, other) = (Server::new("good").await, Server::new("other").await);
    let gate = Gate::open(&[]);
    let checking = tokio::spawn(checks::run(gate.gateway.routing.clone(), gate.stop.clone()));
    gate.publish(&[("a.com", fleet(&[&good, &other], watched(http_probe())))]);
    let seen = || async {
        // Two questions later, the answer to the first has been noted.
        other.called.notified().await;
        other.called.notified().await;
        other.called.notified().await;
    };
    seen().await;
    ask(&gate, 10).await;
    assert_eq!(other.asked(), 5);
    other.status.store(503, Relaxed);
    seen().await;
    ask(&gate, 10).await;
    assert_eq!(other.asked(), 0);
    other.status.store(200, Relaxed);
    seen().await;
    ask(&gate, 10).await;
    assert_eq!(other.asked(), 5);
    gate.stop.cancel();
    checking.await.unwrap();
}

#[tokio::test]
async fn checks_over_tcp_and_grpc_tell_the_good_from_the_bad() {
    for (probe, good) in [
        (Probe::Tcp { send: b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..].into(), receive: b"yes"[..].into() }, true),
        (
            Probe::Tcp {
                send: b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"[..].into(),
                receive: b"no"[..].into(),
            },
            false,
        ),
        (Probe::Tcp { send: Arc::default(), receive: Arc::default() }, true),
        (Probe::Grpc { service: "x".into() }, false),
    ] {
        let server = Server::new("yes").await;
        let gate = Gate::open(&[]);
        let _stop = gate.stop.clone().drop_guard();
        tokio::spawn(checks::run(gate.gateway.routing.clone(), gate.stop.clone()));
        let text = format!("{probe:?}");
        gate.publish(&[("a.com", fleet(&[&server], watched(probe)))]);
        let want = if good { 200 } else { 503 };
        // The first answer decides; until it has come, the endpoint counts as healthy.
        assert!(becomes(&gate, want).await, "{text}");
        assert_eq!(gate.get("a.com", "/").await.0, want, "{text}");
    }
}

#[tokio::test]
async fn a_server_that_says_over_grpc_that_it_serves_is_well() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, called) = (asked.clone(), Arc::new(Notify::new()));
    let notify = called.clone();
    let address = server(move |request: Request<Incoming>| {
        let (seen, notify) = (seen.clone(), notify.clone());
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            seen.lock().unwrap().push((path, body));
            notify.notify_one();
            Response::new(Full::new(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])))
        }
    })
    .await;
    let server = Server { address, ..Server::new("x").await };
    let gate = Gate::open(&[]);
    tokio::spawn(checks::run(gate.gateway.routing.clone(), gate.stop.clone()));
    gate.publish(&[("a.com", fleet(&[&server], watched(Probe::Grpc { service: "ab".into() })))]);
    for _ in 0..3 {
        called.notified().await;
    }
    assert_eq!(gate.get("a.com", "/").await.0, 200);
    let want = ("/grpc.health.v1.Health/Check".to_owned(), Bytes::from_static(&[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']));
    assert_eq!(asked.lock().unwrap()[0], want);
    gate.stop.cancel();
}

#[tokio::test]
async fn requests_with_the_same_header_or_cookie_go_to_the_same_endpoint() {
    let servers = [Server::new("a").await, Server::new("b").await, Server::new("c").await];
    let all = [&servers[0], &servers[1], &servers[2]];
    let by = |on| Traffic { balance: Some(Balance::ConsistentHash { on, table_size: 1009 }), ..Traffic::default() };
    let cookie = HashOn::Cookie { name: "pin".into(), made: Some("; Max-Age=60".into()) };
    let gate = Gate::open(&[]);
    gate.publish(&[
        ("a.com", fleet(&all, by(HashOn::Header(http::header::USER_AGENT)))),
        ("b.com", fleet(&all, by(cookie))),
        ("c.com", fleet(&all, by(HashOn::SourceIp))),
    ]);
    let ask = async |host: &str, header: Option<(&str, &str)>| {
        let mut request = get(host, "/");
        if let Some((name, value)) = header {
            request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let response = gate.http1().await.send_request(request).await.unwrap();
        let cookie = response.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        (told(response).await.1, cookie)
    };
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..20 {
        let agent = format!("agent-{index}");
        let (first, cookie) = ask("a.com", Some(("user-agent", &agent))).await;
        assert_eq!((ask("a.com", Some(("user-agent", &agent))).await.0, cookie), (first.clone(), None));
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
    for _ in 0..10 {
        let (first, cookie) = ask("b.com", None).await;
        let cookie = cookie.unwrap();
        let pair = cookie.strip_suffix("; Max-Age=60").unwrap();
        assert_eq!(ask("b.com", Some(("cookie", pair))).await, (first, None));
    }
    let (first, _) = ask("c.com", None).await;
    assert_eq!(ask("c.com", None).await.0, first);
}

#[tokio::test]
async fn more_requests_at_once_than_allowed_are_refused_and_room_comes_back() {
    let (room, called) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (wait, notify) = (room.clone(), called.clone());
    let address = server(move |_| {
        let (wait, notify) = (wait.clone(), notify.clone());
        async move {
            notify.notify_one();
            wait.acquire().await.unwrap().forget();
            Response::new(Full::new(Bytes::from("ok")))
        }
    })
    .await;
    let server = Server { address, ..Server::new("x").await };
    let limits = Some(Limits { requests: 1, retries: 1, connections: 9, per_endpoint: 9, budget: None });
    let gate = Gate::open(&[]);
    gate.publish(&[("a.com", fleet(&[&server], Traffic { limits, ..Traffic::default() }))]);
    let mut sender = gate.http1().await;
    let first = tokio::spawn(sender.send_request(get("a.com", "/")));
    called.notified().await;
    let (status, text) = gate.get("a.com", "/").await;
    assert_eq!((status, text.as_str()), (503, "the backend has as many requests to do as it may have at once\n"));
    room.add_permits(2);
    assert_eq!(told(first.await.unwrap().unwrap()).await.0, 200);
    // The gateway gives the room back when it has sent the last byte, which the client may see before.
    assert!(becomes(&gate, 200).await);
}

#[tokio::test]
async fn a_policys_retry_counts_where_the_route_has_none() {
    let server = Server::new("x").await;
    server.status.store(503, Relaxed);
    let retry = Some(Retry { attempts: 2, codes: vec![503], backoff: Duration::from_millis(1) });
    let target = fleet(&[&server], Traffic { retry, ..Traffic::default() });
    let gate = Gate::open(&[]);
    gate.publish(&[("a.com", target.clone())]);
    assert_eq!((gate.get("a.com", "/").await.0, server.asked()), (503, 3));
    let gate = Gate::open_rule(server.address, |rule| {
        rule.backends[0].target = target;
        rule.retry = Some(Retry { attempts: 0, codes: vec![], backoff: Duration::from_millis(1) });
    });
    assert_eq!((gate.get("a.com", "/").await.0, server.asked()), (503, 1), "the route's own counts");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_longer_than_the_policy_allows_is_504_and_has_failed() {
    let (listener, address) = listener().await;
    let hold = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok(stream) = listener.accept().await {
            all.push(stream);
        }
    });
    let silent = Server { address, ..Server::new("x").await };
    let traffic = Traffic { request_timeout: Some(Duration::from_secs(1)), ..judged(0) };
    let gate = Gate::open(&[]);
    gate.publish(&[("a.com", fleet(&[&silent], traffic))]);
    for _ in 0..3 {
        assert_eq!(gate.get("a.com", "/").await.0, 504);
    }
    assert_eq!(gate.get("a.com", "/").await, (503, "no endpoint of the backend is healthy\n".to_owned()));
    hold.abort();
}
