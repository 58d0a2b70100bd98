//! The store's Kubernetes-style face: REST over TLS, client certificates or bearer tokens, `Status` errors.
//!
//! Owns the API port's connections and their limits. Knows nothing of tunnels or routes: it writes to the store and
//! the controller wakes (journey C).

mod account_token;
mod backup;
pub mod decoders;
mod discovery;
mod exchange;
pub mod json;
mod list;
mod negotiate;
mod openapi;
mod options;
mod path;
mod protobuf;
mod review;
mod selector;
mod status;
mod synthetic;
mod table;
mod verbs;
mod watch;
pub mod yaml;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use underpass_shared::{
    identity::Identity,
    quic::tls::{PeerIdentityError, identity_of},
};

use self::exchange::CloseAfter;
use crate::{access::Guard, enrolment::Enrolment, store::Store};

/// How many requests are worked on at once; more are answered 429.
const IN_FLIGHT_MAX: usize = 256;
/// How many watches are open at once; more are answered 429.
const WATCHES_MAX: usize = 4096;
/// How many connections may be in their TLS handshake; more wait to be accepted.
const HANDSHAKES_MAX: usize = 64;
/// How many connections that have shown no good credential are kept; more are closed.
const ANONYMOUS_MAX: usize = 64;
/// How many connections that have shown one are kept; more are closed.
const KNOWN_MAX: usize = 2048;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that has shown no good credential lives: it is good for `/version` and `/healthz` only.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(30);
/// How long a request's head may take, idle time before it included (HTTP/1.1).
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a silent HTTP/2 client is asked whether it lives, and how long it may take to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of one request's header fields.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Requests of one HTTP/2 connection at once.
const STREAMS_MAX: u32 = 100;
/// How long requests in flight may take to finish when the relay stops.
const DRAIN: Duration = Duration::from_secs(5);
/// How long accepting pauses when the system has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the API works on.
#[derive(Debug)]
pub struct Api {
    store: Store,
    enrolment: Enrolment,
    guard: Guard,
    in_flight: Semaphore,
    watches: Arc<Semaphore>,
    paged: list::Paged,
    logs: verbs::Logs,
    /// Ends the watches when the relay stops.
    shutdown: CancellationToken,
    /// The relay was told to stop, and load balancers are to choose others.
    leaving: CancellationToken,
}

impl Api {
    /// `/readyz` says no as soon as `leaving` is cancelled.
    #[must_use]
    pub fn new(store: Store, enrolment: Enrolment, guard: Guard, leaving: CancellationToken) -> Self {
        let (in_flight, watches) = (Semaphore::new(IN_FLIGHT_MAX), Arc::new(Semaphore::new(WATCHES_MAX)));
        Self {
            store,
            enrolment,
            guard,
            in_flight,
            watches,
            paged: list::Paged::default(),
            logs: verbs::Logs::default(),
            shutdown: CancellationToken::new(),
            leaving,
        }
    }

    fn is_ready(&self) -> bool {
        !self.leaving.is_cancelled()
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    Anonymous,
    Unknown(PeerIdentityError),
    Known(Identity),
}

impl Caller {
    fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        match certificates.and_then(<[_]>::first) {
            None => Self::Anonymous,
            Some(certificate) => identity_of(certificate).map_or_else(Self::Unknown, Self::Known),
        }
    }
}

/// Serves the API on `listener` until `shutdown`, then finishes what is in flight, at most five seconds.
///
/// `tls` is [`crate::authority::tls::api_config`]'s.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, api: Arc<Api>, shutdown: CancellationToken) {
    let server = Arc::new(Server {
        acceptor: TlsAcceptor::from(tls),
        api,
        anonymous: Arc::new(Semaphore::new(ANONYMOUS_MAX)),
        known: Arc::new(Semaphore::new(KNOWN_MAX)),
        shutdown: shutdown.clone(),
    });
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut connections = JoinSet::new();
    loop {
        let room = handshakes.clone().acquire_owned();
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, room) => accepted,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
        };
        match accepted {
            Ok((stream, handshake)) => {
                connections.spawn(server.clone().connection(stream, handshake));
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    server.api.shutdown.cancel();
    let drained = tokio::time::timeout(DRAIN, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    room: impl Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let handshake = room.await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, handshake))
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "an API connection has panicked");
    }
}

struct Server {
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    anonymous: Arc<Semaphore>,
    known: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream, handshake: OwnedSemaphorePermit) {
        // Answers are written whole; waiting to fill packets only adds latency.
        let _ = stream.set_nodelay(true);
        let accepting = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream));
        let stream = tokio::select! {
            () = self.shutdown.cancelled() => return,
            accepted = accepting => match accepted {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "an API connection failed its handshake"),
                Err(_) => return tracing::debug!("an API connection took too long over its handshake"),
            },
        };
        drop(handshake);
        let caller = Caller::of(stream.get_ref().1.peer_certificates());
        let is_anonymous = !matches!(caller, Caller::Known(_));
        let room = |is_anonymous: bool| {
            let room = if is_anonymous { &self.anonymous } else { &self.known };
            room.clone().try_acquire_owned().inspect_err(|_| tracing::debug!("an API connection too many was closed"))
        };
        let Ok(mut _room) = room(is_anonymous) else { return };
        let ended = self.shutdown.child_token();
        let trusted = CancellationToken::new();
        let exchange = self.exchange(stream, caller, ended.clone(), trusted.clone());
        if !is_anonymous {
            return exchange.await;
        }
        let mut exchange = Box::pin(exchange);
        let is_over = tokio::select! {
            () = &mut exchange => return,
            () = trusted.cancelled() => room(false).map(|room| _room = room).is_err(),
            () = tokio::time::sleep(ANONYMOUS_LIFE) => true,
        };
        if !is_over {
            return exchange.await;
        }
        ended.cancel();
        let _ = tokio::time::timeout(DRAIN, exchange).await;
    }

    /// Speaks HTTP until the client leaves or `ended`, then finishes what is in flight.
    ///
    /// Cancels `trusted` when a request has shown a good token.
    async fn exchange(
        &self,
        stream: TlsStream<TcpStream>,
        caller: Caller,
        ended: CancellationToken,
        trusted: CancellationToken,
    ) {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (api, caller) = (self.api.clone(), Arc::new(caller));
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, caller, trusted) = (api.clone(), caller.clone(), trusted.clone());
            async move {
                let version = request.version();
                let mut response = exchange::answer(&api, &caller, request, &trusted).await;
                if response.extensions_mut().remove::<CloseAfter>().is_some() && version == Version::HTTP_11 {
                    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let stream = TokioIo::new(stream);
        let result = if is_http2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEADER_BYTES_MAX as u32);
            let mut connection = std::pin::pin!(http.serve_connection(stream, service));
            tokio::select! {
                result = connection.as_mut() => result,
                () = ended.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEADER_BYTES_MAX);
            let mut connection = std::pin::pin!(http.serve_connection(stream, service));
            tokio::select! {
                result = connection.as_mut() => result,
                () = ended.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "an API connection ended badly");
        }
    }
}

#[cfg(test)]
mod tests;
