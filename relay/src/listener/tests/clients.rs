//! Listeners whose policies say how clients are dealt with.

use std::time::Duration;

use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::time::timeout;

use super::{
    tls::{rule, to_backend},
    *,
};
use crate::route::client::{Arrival, ClientSettings, Connection, ConnectionLimit, Http2, Origin, Requests};

const AT: ListenAddress = ListenAddress { address: None, port: 80 };

/// Serves `a.com` by `backend` in the clear, by these settings.
async fn gate_to(backend: SocketAddr, settings: ClientSettings) -> Gate {
    let gate = Gate::open(&[]);
    gate.gateway.routing.publish(table_of(backend, settings));
    gate
}

fn table_of(backend: SocketAddr, settings: ClientSettings) -> Table {
    let (project, mut builder, settings) = (ProjectName::default(), TableBuilder::default(), Arc::new(settings));
    builder.http(AT, &project, &HostPattern::Any);
    builder.arrive(AT, &settings);
    builder.settle(AT, &project, &HostPattern::Any, &settings);
    attach(&mut builder, AT, "a.com", Rule::new(project, "default/r".into(), vec![to_backend(backend, 1)]));
    builder.build()
}

fn requests(requests: Requests) -> ClientSettings {
    ClientSettings { requests, ..ClientSettings::default() }
}

fn connection(connection: Connection) -> ClientSettings {
    ClientSettings { connection, ..ClientSettings::default() }
}

fn limited(connections: u64) -> ClientSettings {
    let limit = Some(ConnectionLimit { connections, close_delay: Duration::from_secs(1) });
    ClientSettings { arrival: Arrival { limit, ..Arrival::default() }, ..ClientSettings::default() }
}

#[tokio::test]
async fn proxies_are_believed_only_where_a_policy_says_so() {
    let origin = Origin::Networks(vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    let gate = gate_to(echo().await, requests(Requests { origin: Some(origin), ..Requests::default() })).await;
    let head = "GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\nx-forwarded-for: 6.6.6.6, 1.1.1.1, 10.0.0.9\r\n\
                x-forwarded-proto: https\r\nx-real-ip: 6.6.6.6\r\n\r\n";
    let seen = gate.raw(head).await;
    assert!(seen.contains("x-forwarded-for: 1.1.1.1, 10.0.0.9, 127.0.0.1\n"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: https\n") && !seen.contains("6.6.6.6"), "{seen}");
    gate.publish(&[("a.com", to_address(echo().await))]);
    let seen = gate.raw(head).await;
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\n") && seen.contains("x-forwarded-proto: http\n"), "{seen}");
}

#[tokio::test]
async fn a_request_without_the_header_that_says_whose_it_is_is_refused() {
    let origin = Origin::Header { name: "x-client".parse().unwrap(), fail_closed: true };
    let gate = gate_to(echo().await, requests(Requests { origin: Some(origin), ..Requests::default() })).await;
    let refused = gate.raw("GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    let seen = gate.raw("GET / HTTP/1.1\r\nhost: a.com\r\nx-client: 1.1.1.1\r\nconnection: close\r\n\r\n").await;
    assert!(seen.contains("x-forwarded-for: 1.1.1.1, 127.0.0.1\n"), "{seen}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_too_many_is_closed_and_a_place_comes_back() {
    let backend = echo().await;
    let gate = gate_to(backend, limited(1)).await;
    let mut first = gate.http1().await;
    assert_eq!(told(first.send_request(get("a.com", "/")).await.unwrap()).await.0, 200);
    assert_eq!(gate.raw("GET / HTTP/1.1\r\nhost: a.com\r\n\r\n").await, "");
    // A higher limit reaches the address at once, and the connection that is there goes on.
    gate.gateway.routing.publish(table_of(backend, limited(2)));
    assert_eq!(gate.get("a.com", "/").await.0, 200);
    first.ready().await.unwrap();
    assert_eq!(told(first.send_request(get("a.com", "/")).await.unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_connection_carries_only_so_many_requests() {
    let two = Connection { requests: Some(2), ..Connection::default() };
    let gate = gate_to(echo().await, connection(two)).await;
    let mut sender = gate.http1().await;
    for last in [false, true] {
        sender.ready().await.unwrap();
        let response = sender.send_request(get("a.com", "/")).await.unwrap();
        assert_eq!(response.headers().get("connection").is_some_and(|value| value == "close"), last);
        assert_eq!(told(response).await.0, 200);
    }
    assert!(sender.ready().await.is_err());
    let mut sender = gate.http2().await;
    for _ in 0..2 {
        let request = Request::get("http://a.com/").body(Full::<Bytes>::default()).unwrap();
        assert_eq!(told(sender.send_request(request).await.unwrap()).await.0, 200);
    }
    let third = Request::get("http://a.com/").body(Full::<Bytes>::default()).unwrap();
    let mut third = std::pin::pin!(sender.send_request(third));
    assert!(third.as_mut().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_and_an_old_connection_end_when_the_policy_says_so() {
    let backend = echo().await;
    for settings in [
        Connection { idle: Some(Duration::from_secs(3)), ..Connection::default() },
        Connection { duration: Some(Duration::from_secs(4)), ..Connection::default() },
    ] {
        let gate = gate_to(backend, connection(settings.clone())).await;
        let mut stream = gate.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.com\r\n\r\n").await.unwrap();
        read_until(&mut stream, "x-forwarded-host").await;
        let rest = timeout(Duration::from_secs(9), stream.read_to_end(&mut Vec::new())).await;
        assert!(rest.is_ok(), "{settings:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_come_in_full_in_time_is_given_up() {
    let within = Requests { received_within: Some(Duration::from_secs(5)), ..Requests::default() };
    let silent = Requests { idle: Some(Duration::from_secs(5)), ..Requests::default() };
    for settings in [within, silent] {
        let gate = gate_to(echo().await, requests(settings.clone())).await;
        let part = "POST / HTTP/1.1\r\nhost: a.com\r\ncontent-length: 9\r\n\r\nhalf";
        let answer = timeout(Duration::from_secs(20), gate.raw(part)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{settings:?}: {answer}");
        // One that is whole is not held to it.
        assert_eq!(gate.get("a.com", "/").await.0, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_silent_for_longer_than_the_policy_says_is_given_up() {
    let never = server(|request: Request<Incoming>| async move {
        if request.uri().path() == "/head" {
            std::future::pending::<()>().await;
        }
        let begun = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"a")))]);
        let rest = futures_util::stream::pending();
        Response::new(StreamBody::new(futures_util::StreamExt::chain(begun, rest)))
    })
    .await;
    let silent = Requests { idle: Some(Duration::from_secs(5)), ..Requests::default() };
    let gate = gate_to(never, requests(silent)).await;
    let mut sender = gate.http1().await;
    let response = timeout(Duration::from_secs(20), sender.send_request(get("a.com", "/head"))).await.unwrap();
    assert_eq!(response.unwrap().status(), 504);
    let mut sender = gate.http1().await;
    let response = sender.send_request(get("a.com", "/body")).await.unwrap();
    assert!(timeout(Duration::from_secs(20), response.into_body().collect()).await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_silent_for_longer_than_the_policy_says_ends() {
    let (listener, address) = listener().await;
    let mut builder = TableBuilder::default();
    builder.tcp(AT, Some(rule(vec![to_backend(address, 1)])));
    let idle = Connection { stream_idle: Some(Duration::from_secs(5)), ..Connection::default() };
    builder.arrive(AT, &Arc::new(connection(idle)));
    let gate = Gate::open(&[]);
    gate.gateway.routing.publish(builder.build());
    let mut client = gate.connect().await;
    client.write_all(b"hello").await.unwrap();
    let (mut backend, _) = listener.accept().await.unwrap();
    backend.read_exact(&mut [0; 5]).await.unwrap();
    let end = timeout(Duration::from_secs(20), client.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn http2_begins_with_what_the_policy_allows() {
    let http2 = Http2 { streams: Some(7), stream_window: Some(100_000), connection_window: Some(300_000) };
    let gate = gate_to(echo().await, connection(Connection { http2, ..Connection::default() })).await;
    let mut stream = gate.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let value = |id: u8| {
        let found = settings.chunks(6).find(|one| one[1] == id).unwrap();
        u32::from_be_bytes(found[2..].try_into().unwrap())
    };
    assert_eq!((value(3), value(4)), (7, 100_000));
}
