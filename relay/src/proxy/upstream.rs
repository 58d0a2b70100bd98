//! Sends a request to an upstream over a pooled connection, and keeps the pool of one worker.
//!
//! HTTP/1.1 connections are used by one request at a time and rest idle in between; HTTP/2 has one shared connection.
//! Where the backend may choose between them, the first connection asks it, and the others follow.
//! A connection that closed while it rested costs no request: what was not sent is sent again, and so is once a request
//! without body whose method is idempotent.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, Uri, Version, header, uri::Scheme};
use hyper::{
    body::{Body, Frame, SizeHint},
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    task::JoinHandle,
    time::{timeout, timeout_at},
};

use super::{
    Routing,
    answer::Failure,
    body::{BodyError, Meter, RequestBody},
    dial::{Transport, dial_http},
    http1::{self, Connection, Outline, Taken},
};
use crate::{
    clock,
    route::target::{Protocol, Upstream},
};

/// How long an HTTP/1.1 connection may rest, to within a [`SWEEP`], and how long an HTTP/2 connection is kept after its
/// last request.
const IDLE: Duration = Duration::from_secs(60);

/// Resting connections per upstream; more are closed when they come back. With fewer, a thousand clients at once would
/// make most of their connections anew.
const IDLE_PER_UPSTREAM_MAX: usize = 1024;

/// Resting connections of one worker; more are closed when they come back.
const IDLE_MAX: usize = 4096;

/// HTTP/2 connections that one worker keeps for further requests; beyond it the one unused for longest ends after its
/// last. Only upstreams that announce each client need so many.
const SHARED_MAX: usize = 1024;

/// How often connections that rested too long are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// How long the backend may take for the head of its answer, counted from the last byte of the request that moved.
///
/// The default that edges of the big providers use; routes will say otherwise.
const ANSWER: Duration = Duration::from_secs(100);

/// How long a request may take to be sent in full after its answer has ended, for its connection to be used again.
const SETTLE: Duration = Duration::from_secs(5);

/// The longest header list of an answer over HTTP/2, in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// How much of one HTTP/2 stream, and of a connection, a backend may send ahead of the client, in bytes.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// How often a busy HTTP/2 connection is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);

type Http2Sender = http2::SendRequest<RequestBody>;

/// The upstream connections of one worker, keyed by project, endpoint, protocol and TLS.
#[derive(Debug)]
pub struct Pool {
    routing: Arc<Routing>,
    resting: Mutex<Resting>,
}

#[derive(Debug, Default)]
struct Resting {
    http1: HashMap<Arc<Upstream>, Vec<Idle>>,
    http1_count: usize,
    http2: HashMap<Arc<Upstream>, Slot>,
    sweeper: Option<JoinHandle<()>>,
    /// How often the sweeper has been round.
    turns: u64,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    /// The turn of the sweeper when it came to rest: no clock is read for each request.
    turn: u64,
}

/// The one attempt to connect that several requests wait for, and its result.
type Connecting = Shared<BoxFuture<'static, Result<Shareable, Arc<Failure>>>>;

/// What the first connection to an upstream turned out to be.
#[derive(Debug, Clone)]
enum Shareable {
    Http2(Http2Sender),
    /// The backend chose HTTP/1.1, and so it is asked over that from now on.
    Http1,
}

/// The shared connection to an HTTP/2 upstream, or the attempt to make it.
#[derive(Debug, Clone)]
struct Slot {
    connection: Connecting,
    used: Instant,
}

/// The body of a backend's answer. When it has ended well, its connection rests where it came from; dropped before, it is
/// closed.
#[derive(Debug)]
pub(super) enum Received {
    Http1 { incoming: http1::Incoming, home: Home },
    Http2(hyper::body::Incoming),
}

/// Where a connection over HTTP/1.1 rests.
#[derive(Debug)]
pub(super) struct Home {
    pool: Weak<Pool>,
    upstream: Arc<Upstream>,
}

/// What came of one attempt over HTTP/2 that failed.
enum Attempt {
    /// The request never left and can be sent elsewhere.
    Unsent(Box<Request<RequestBody>>),
    Failed(hyper::Error),
}

impl From<TrySendError<Request<RequestBody>>> for Attempt {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Failed(error.into_error()),
        }
    }
}

impl Pool {
    pub(super) fn new(routing: Arc<Routing>) -> Arc<Self> {
        Arc::new(Self { routing, resting: Mutex::default() })
    }

    /// Sends `request` to `upstream` and waits for the head of the answer.
    ///
    /// `replay` says that the request has no body and an idempotent method, so that it may be sent twice. `asked` is when
    /// the backend's time begins.
    ///
    /// # Errors
    /// Those of dialling; [`Failure::Exchange`], [`Failure::AnswerTimedOut`], [`Failure::UploadStalled`],
    /// [`Failure::UploadBroken`].
    pub(super) async fn send(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
        mut request: Box<Request<RequestBody>>,
        (replay, asked): (bool, Instant),
        meter: &Meter,
    ) -> Result<Response<Received>, Failure> {
        if upstream.tls.is_some() {
            secure(&mut request);
        }
        // A WebSocket is asked for over HTTP/1.1 (RFC 6455 §4.1).
        let upgrades = upstream.protocol == Protocol::Either && request.headers().contains_key(header::UPGRADE);
        let exchange = async {
            match upstream.protocol {
                Protocol::Http1 => self.send_http1(upstream, client, request, replay).await,
                Protocol::Either if upgrades => {
                    into_http1(&mut request);
                    self.send_http1(upstream, client, request, replay).await
                }
                Protocol::Http2 | Protocol::Either => {
                    Box::pin(self.send_http2(upstream, client, request, replay)).await
                }
            }
        };
        let mut exchange = pin!(exchange);
        let mut until = asked + ANSWER;
        loop {
            let before = meter.bytes();
            match timeout_at(until.into(), &mut exchange).await {
                Ok(Err(Failure::Exchange { .. })) if meter.has_stalled() => return Err(Failure::UploadStalled),
                // Whatever the backend made of it, it is not the backend's fault.
                Ok(Err(Failure::Exchange { .. })) if meter.is_broken() => return Err(Failure::UploadBroken),
                Ok(result) => return result,
                Err(_) if meter.bytes() == before => return Err(Failure::AnswerTimedOut),
                Err(_) => until = clock::instant() + ANSWER,
            }
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
        request: Box<Request<RequestBody>>,
        replay: bool,
    ) -> Result<Response<Received>, Failure> {
        let (outline, body) = taken_apart(*request);
        let body = match self.take_idle(upstream) {
            None => body,
            Some(connection) => match connection.send(&outline, body).await {
                Ok(response) => return Ok(self.received(upstream, response)),
                // The connection died while it rested: a fresh one decides.
                Err(error) if replay && error.is_lost() => RequestBody::Empty,
                Err(error) => return Err(error.into()),
            },
        };
        // Apart, for what connecting takes is much more than what most requests need.
        Box::pin(self.send_http1_anew(upstream, client, &outline, body)).await
    }

    async fn send_http1_anew(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
        outline: &Outline,
        body: RequestBody,
    ) -> Result<Response<Received>, Failure> {
        let dialled = dial_http(&self.routing, upstream, client, Protocol::Http1).await;
        let transport = dialled.inspect_err(|_| self.forget_choice(upstream))?;
        let response = Connection::new(transport).send(outline, body).await?;
        Ok(self.received(upstream, response))
    }

    fn received(self: &Arc<Self>, upstream: &Arc<Upstream>, response: Response<http1::Incoming>) -> Response<Received> {
        let home = Home { pool: Arc::downgrade(self), upstream: upstream.clone() };
        response.map(|incoming| {
            let mut received = Received::Http1 { incoming, home };
            received.give_back();
            received
        })
    }

    async fn send_http2(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
        mut request: Box<Request<RequestBody>>,
        replay: bool,
    ) -> Result<Response<Received>, Failure> {
        let (shareable, shared) = self.shareable(upstream, client).await?;
        let Shareable::Http2(mut sender) = shareable else {
            into_http1(&mut request);
            return self.send_http1(upstream, client, request, replay).await;
        };
        let copy = (replay && shared).then(|| copy_head(&request));
        match sender.try_send_request(*request).await.map_err(Attempt::from) {
            Ok(response) => return Ok(response.map(Received::Http2)),
            Err(Attempt::Unsent(unsent)) => request = unsent,
            Err(Attempt::Failed(error)) => match copy.filter(|_| is_lost(&error) || sender.is_closed()) {
                Some(copy) => request = copy,
                None => return Err(Failure::Exchange { source: error.into() }),
            },
        }
        let (Shareable::Http2(mut sender), _) = self.shareable(upstream, client).await? else {
            into_http1(&mut request);
            return self.send_http1(upstream, client, request, replay).await;
        };
        match sender.try_send_request(*request).await {
            Ok(response) => Ok(response.map(Received::Http2)),
            Err(error) => Err(Failure::Exchange { source: error.into_error().into() }),
        }
    }

    /// The shared connection, made if there is none; says whether it was there before.
    async fn shareable(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
    ) -> Result<(Shareable, bool), Failure> {
        let (connection, shared) = self.slot(upstream, client);
        let result = connection.clone().await;
        match result {
            Ok(shareable) => Ok((shareable, shared)),
            Err(failure) => {
                let mut resting = self.resting();
                let same = |slot: &Slot| slot.connection.ptr_eq(&connection);
                if resting.http2.get(upstream).is_some_and(same) {
                    resting.http2.remove(upstream);
                }
                drop(resting);
                drop(connection);
                Err(again(&failure))
            }
        }
    }

    fn slot(self: &Arc<Self>, upstream: &Arc<Upstream>, client: SocketAddr) -> (Connecting, bool) {
        let now = clock::instant();
        let mut resting = self.resting();
        if let Some(slot) = resting.http2.get_mut(upstream) {
            let is_closed = matches!(slot.connection.peek(), Some(Ok(Shareable::Http2(sender))) if sender.is_closed());
            if !is_closed {
                slot.used = now;
                return (slot.connection.clone(), true);
            }
        }
        // A task of its own, so that the attempt goes on when the request that began it is given up.
        let (pool, target) = (self.clone(), upstream.clone());
        let attempt = tokio::spawn(async move { pool.make_shareable(&target, client).await.map_err(Arc::new) });
        let attempt = attempt.map(|done| done.unwrap_or_else(|_| Err(Arc::new(Failure::Internal))));
        let connection = attempt.boxed().shared();
        if resting.http2.len() >= SHARED_MAX {
            let oldest = resting.http2.iter().min_by_key(|(_, slot)| slot.used).map(|(upstream, _)| upstream.clone());
            oldest.and_then(|oldest| resting.http2.remove(&oldest));
        }
        resting.http2.insert(upstream.clone(), Slot { connection: connection.clone(), used: now });
        self.watch_over(&mut resting);
        (connection, false)
    }

    /// Makes the connection that the protocol asks for, or that the backend chooses.
    async fn make_shareable(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        client: SocketAddr,
    ) -> Result<Shareable, Failure> {
        let transport = dial_http(&self.routing, upstream, client, upstream.protocol).await?;
        if upstream.protocol == Protocol::Http2 || transport.agreed() == Protocol::Http2 {
            return handshake_http2(transport).await.map(Shareable::Http2);
        }
        // It rests where the request that caused it will look for one.
        self.put_idle(upstream, Connection::new(transport));
        Ok(Shareable::Http1)
    }

    /// Lets a backend choose again that chose HTTP/1.1 and could not be connected to over that now.
    fn forget_choice(&self, upstream: &Arc<Upstream>) {
        let mut resting = self.resting();
        let chose = |slot: &Slot| matches!(slot.connection.peek(), Some(Ok(Shareable::Http1)));
        if resting.http2.get(upstream).is_some_and(chose) {
            resting.http2.remove(upstream);
        }
    }

    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that rested for the shortest time, if it is still open.
    fn take_idle(&self, upstream: &Arc<Upstream>) -> Option<Connection> {
        let mut resting = self.resting();
        let Resting { http1, http1_count, .. } = &mut *resting;
        let idle = http1.get_mut(upstream)?;
        while let Some(Idle { mut connection, .. }) = idle.pop() {
            *http1_count -= 1;
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    fn put_idle(self: &Arc<Self>, upstream: &Arc<Upstream>, connection: Connection) {
        let mut resting = self.resting();
        if resting.http1_count >= IDLE_MAX {
            return;
        }
        let turn = resting.turns;
        let idle = match resting.http1.get_mut(upstream) {
            Some(idle) => idle,
            None => resting.http1.entry(upstream.clone()).or_default(),
        };
        if idle.len() >= IDLE_PER_UPSTREAM_MAX {
            return;
        }
        idle.push(Idle { connection, turn });
        resting.http1_count += 1;
        self.watch_over(&mut resting);
    }

    /// Starts the task that closes what rested too long; it ends when nothing rests, or with the pool.
    fn watch_over(self: &Arc<Self>, resting: &mut Resting) {
        if resting.sweeper.is_some() {
            return;
        }
        let pool = Arc::downgrade(self);
        resting.sweeper = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut resting = pool.resting();
                resting.sweep(clock::instant());
                if resting.http1.is_empty() && resting.http2.is_empty() {
                    resting.sweeper = None;
                    return;
                }
            }
        }));
    }
}

impl Resting {
    fn sweep(&mut self, now: Instant) {
        self.turns += 1;
        let turns = self.turns;
        self.http1.retain(|_, idle| {
            idle.retain_mut(|one| turns - one.turn < IDLE.as_secs() / SWEEP.as_secs() && one.connection.is_open());
            !idle.is_empty()
        });
        self.http1_count = self.http1.values().map(Vec::len).sum();
        self.http2.retain(|_, slot| now.saturating_duration_since(slot.used) < IDLE);
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        if let Some(sweeper) = &self.sweeper {
            sweeper.abort();
        }
    }
}

impl Received {
    /// Lets the connection rest as soon as the answer has ended.
    fn give_back(&mut self) {
        let Self::Http1 { incoming, home } = self else { return };
        match incoming.take() {
            None => {}
            Some(Taken::Ready(connection)) => home.put(connection),
            Some(Taken::Sending(sending)) => {
                let home = Home { pool: home.pool.clone(), upstream: home.upstream.clone() };
                // Ends within `SETTLE`.
                tokio::spawn(async move {
                    if let Ok(Some(connection)) = timeout(SETTLE, sending.finish()).await {
                        home.put(connection);
                    }
                });
            }
        }
    }

    /// What carries another protocol, after 101, and the bytes of it that were read already.
    pub(super) fn into_switched(self) -> Option<(Transport, Bytes)> {
        match self {
            Self::Http1 { incoming, .. } => incoming.into_switched(),
            Self::Http2(_) => None,
        }
    }
}

impl Home {
    fn put(&self, connection: Connection) {
        // One that announces its client is for that one, and would keep others' from resting long after it has gone.
        if let Some(pool) = self.pool.upgrade().filter(|_| self.upstream.announces.is_none()) {
            pool.put_idle(&self.upstream, connection);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let incoming = match &mut *self {
            Self::Http2(incoming) => return Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Http1 { incoming, .. } => incoming,
        };
        let frame = Pin::new(&mut *incoming).poll_frame(cx).map_err(BodyError::from);
        if incoming.is_end_stream() {
            self.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1 { incoming, .. } => incoming.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1 { incoming, .. } => incoming.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// Whether the connection went away, as opposed to an answer that made no sense.
fn is_lost(error: &hyper::Error) -> bool {
    !(error.is_parse() || error.is_parse_too_large() || error.is_parse_status() || error.is_user())
}

/// The failure of a shared attempt, told to each request that waited for it.
fn again(failure: &Failure) -> Failure {
    match failure {
        Failure::Tunnel(error) => Failure::Tunnel(error.clone()),
        Failure::Denied(denied) => Failure::Denied(*denied),
        Failure::Unknown { name, why } => Failure::Unknown { name: name.clone(), why: *why },
        Failure::Connect { source } => Failure::Connect { source: source.kind().into() },
        Failure::ConnectTimedOut => Failure::ConnectTimedOut,
        Failure::Tls(fault) => Failure::Tls(fault.clone()),
        Failure::Exchange { .. } => Failure::Connect { source: std::io::ErrorKind::ConnectionReset.into() },
        _ => Failure::Internal,
    }
}

/// Apart from what waits, which would have room for the parts as long as it does.
fn taken_apart(request: Request<RequestBody>) -> (Outline, RequestBody) {
    let (parts, body) = request.into_parts();
    (Outline::new(&parts), body)
}

/// A copy of a request without body.
fn copy_head(request: &Request<RequestBody>) -> Box<Request<RequestBody>> {
    let mut copy = Box::new(Request::new(RequestBody::Empty));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// Says in an HTTP/2 head that the connection is a secure one (RFC 9113 §8.3.1, `:scheme`).
fn secure(request: &mut Request<RequestBody>) {
    if request.uri().scheme().is_some() {
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// Turns a head that was made for HTTP/2 into one for HTTP/1.1.
fn into_http1(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    let parts = request.uri().clone().into_parts();
    let Some(authority) = parts.authority else { return };
    let host = HeaderValue::from_str(authority.as_str()).ok();
    *request.uri_mut() = parts.path_and_query.map(Uri::from).unwrap_or_default();
    let bodiless = request.body().is_end_stream();
    let headers = request.headers_mut();
    headers.extend(host.map(|host| (header::HOST, host)));
    if headers.contains_key(header::TE) && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // Without it the body of a GET would be left out.
    if !bodiless && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

async fn handshake_http2(transport: Transport) -> Result<Http2Sender, Failure> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let handshake = builder.handshake(TokioIo::new(transport)).await;
    let (sender, connection) = handshake.map_err(|source| Failure::Exchange { source: source.into() })?;
    // Ends when every sender is dropped and every stream is done.
    tokio::spawn(connection);
    Ok(sender)
}
