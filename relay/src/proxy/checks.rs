//! Asks endpoints for their health, in one task for the whole relay, over the same connections that requests would take.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::{BodyExt as _, Limited, combinators::UnsyncBoxBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Routing,
    body::{BodyError, RequestBody},
    dial::{Transport, dial, dial_http},
    http1::{Connection, Outline},
};
use crate::route::{
    fleet::Watched,
    target::{Endpoint, Protocol, Upstream},
    traffic::{Active, Probe},
};

/// Endpoints that are asked at once; others wait their turn.
const AT_ONCE_MAX: usize = 64;

/// How much of an answer is looked at, in bytes; what is expected further behind is not found.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// By how much an interval is longer or shorter, as a part of it, so that endpoints do not fall into step.
const JITTER: f64 = 0.1;

/// Whom the agents are told that a connection is for: nobody.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// Asks every endpoint of the tables that are published until `stop` is cancelled, or the table has it no more.
///
/// Only the first call for a [`Routing`] does anything.
pub async fn run(routing: Arc<Routing>, stop: CancellationToken) {
    let taken = routing.to_watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(mut to_watch) = taken else { return };
    let room = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let mut watching = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            watched = to_watch.recv() => match watched {
                Some(watched) => watching.push(watch(routing.clone(), watched, room.clone())),
                None => return,
            },
            Some(()) = watching.next() => {}
        }
    }
}

async fn watch(routing: Arc<Routing>, watched: Watched, room: Arc<Semaphore>) {
    let Some(active) = watched.active() else { return };
    sleep(active.initial_jitter.mul_f64(rand::random())).await;
    while watched.member.strong_count() > 0 {
        let asked = {
            let Ok(_room) = room.acquire().await else { return };
            timeout(active.timeout, ask(&routing, &watched.upstream, &active.probe)).await
        };
        let result = asked.unwrap_or_else(|_| Err("no answer came in time".to_owned()));
        // Nobody chooses it any more.
        let Some(member) = watched.member.upgrade() else { return };
        if let Some(is_healthy) = member.asked(active, result.is_ok()) {
            let (project, endpoint) = (&watched.upstream.project, &watched.upstream.endpoint);
            let why = result.err();
            tracing::info!(%project, %endpoint, is_healthy, why, "an endpoint's health has changed");
        }
        drop(member);
        sleep(pause(active)).await;
    }
}

fn pause(active: &Active) -> Duration {
    active.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rand::random::<f64>())
}

async fn ask(routing: &Routing, upstream: &Upstream, probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Tcp { send, receive } => {
            let mut transport = dial(routing, upstream, NOBODY).await.map_err(|error| error.to_string())?;
            exchange(&mut transport, send, receive).await
        }
        Probe::Http { method, path, host, statuses, body } => {
            let request = request(method, path, host.as_ref(), upstream)?;
            let response = send(routing, upstream, request).await?;
            let status = response.0.status().as_u16();
            if statuses.binary_search(&status).is_err() {
                return Err(format!("the answer is {status}"));
            }
            if body.is_empty() {
                return Ok(());
            }
            let found = contains(&whole(response).await?, body);
            if found { Ok(()) } else { Err("the answer does not hold what is expected".to_owned()) }
        }
        Probe::Grpc { service } => {
            let upstream = Upstream { protocol: Protocol::Http2, ..upstream.clone() };
            let mut request = request(&Method::POST, "/grpc.health.v1.Health/Check", None, &upstream)?;
            let headers = request.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            *request.body_mut() = RequestBody::Whole(Some(health_request(service)));
            let response = send(routing, &upstream, request).await?;
            let serves = is_serving(&whole(response).await?);
            if serves { Ok(()) } else { Err("the server does not say that it serves".to_owned()) }
        }
    }
}

async fn exchange(transport: &mut Transport, send: &[u8], receive: &[u8]) -> Result<(), String> {
    transport.write_all(send).await.map_err(|error| error.to_string())?;
    let mut seen = Vec::new();
    while !contains(&seen, receive) {
        let mut buffer = [0; 1024];
        let count = transport.read(&mut buffer).await.map_err(|error| error.to_string())?;
        seen.extend_from_slice(&buffer[..count]);
        if count == 0 || seen.len() > ANSWER_BYTES_MAX {
            return Err("what is expected did not come".to_owned());
        }
    }
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

fn request(
    method: &Method,
    path: &str,
    host: Option<&HeaderValue>,
    upstream: &Upstream,
) -> Result<Request<RequestBody>, String> {
    let name = match (host.map(HeaderValue::to_str), &upstream.endpoint) {
        (Some(Ok(host)), _) => host.to_owned(),
        (_, Endpoint::Address(address)) => address.to_string(),
        (_, Endpoint::Host { name, port, .. }) => format!("{name}:{port}"),
        (_, Endpoint::Asked { port, .. }) => format!("localhost:{port}"),
        (_, Endpoint::Node(target)) => format!("localhost:{}", target.port),
    };
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = method.clone();
    if upstream.protocol == Protocol::Http2 {
        let scheme = if upstream.tls.is_some() { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(name).path_and_query(path).build();
        *request.uri_mut() = uri.map_err(|error| error.to_string())?;
        *request.version_mut() = Version::HTTP_2;
    } else {
        *request.uri_mut() = path.parse().map_err(|_| "the path is not valid".to_owned())?;
        request.headers_mut().insert(header::HOST, HeaderValue::try_from(name).map_err(|error| error.to_string())?);
    }
    Ok(request)
}

/// An answer, and what drives its connection, which ends with it.
type Answer = (Response<UnsyncBoxBody<Bytes, BodyError>>, Option<AbortOnDropHandle<()>>);

/// The head of the answer, on a connection of its own.
async fn send(routing: &Routing, upstream: &Upstream, request: Request<RequestBody>) -> Result<Answer, String> {
    let text = |error: hyper::Error| error.to_string();
    let protocol = if upstream.protocol == Protocol::Http2 { Protocol::Http2 } else { Protocol::Http1 };
    let transport = dial_http(routing, upstream, NOBODY, protocol).await.map_err(|error| error.to_string())?;
    if protocol == Protocol::Http1 {
        let (parts, body) = request.into_parts();
        let response = Connection::new(transport).send(&Outline::new(&parts), body).await;
        let response = response.map_err(|error| error.to_string())?;
        return Ok((response.map(|body| body.map_err(BodyError::from).boxed_unsync()), None));
    }
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let handshake = builder.timer(TokioTimer::new()).handshake(TokioIo::new(transport)).await;
    let (mut sender, connection) = handshake.map_err(text)?;
    // What ends a connection early is told to whoever waits for the answer.
    let task = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(text)?;
    Ok((response.map(|body| body.map_err(BodyError::from).boxed_unsync()), Some(task)))
}

async fn whole((response, _connection): Answer) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

/// `HealthCheckRequest { service = 1 }` as one gRPC message.
fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// Whether a gRPC message is `HealthCheckResponse { status = 1: SERVING (1) }`, with nothing else in it that we know.
fn is_serving(message: &[u8]) -> bool {
    matches!(message.split_at_checked(5), Some(([0, ..], [0x08, 0x01])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_and_the_answer_of_grpc_are_what_the_protocol_says() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = health_request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        for bad in [&[0, 0, 0, 0, 2, 8, 2][..], &[0, 0, 0, 0, 0], &[], &[1, 0, 0, 0, 2, 8, 1], &[8, 1]] {
            assert!(!is_serving(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_expected_may_stand_anywhere() {
        assert!(contains(b"all is well", b"is") && contains(b"", b"") && !contains(b"wel", b"well"));
    }
}
