//! Listeners: sockets, TLS and HTTP towards the clients; every request goes to `proxy`, which never sees a socket of theirs.
//!
//! How the parts are put together, by `app`:
//!
//! 1. `let routing = Arc::new(Routing::new(tunnels, dial_policy))` and `let gateway = Gateway::new(routing)`, once;
//!    `gateway.tls.store(Some(tls::server_config(chain, key)?))`, again whenever the certificate changes.
//! 2. One `Worker::new(gateway.clone())` inside each current-thread runtime.
//! 3. The controller stores each new table in `gateway.routing.table`; [`wanted`] says which ports it needs. For a port
//!    that is new, [`bind::bind`] gives one socket per worker on the same address; hand each to [`Worker::serve`] of its
//!    worker; for datagrams, [`bind::bind_datagrams`] and [`Worker::serve_datagrams`], or [`Worker::serve_http3`]. For a port that went, cancel the
//!    token that its `serve` was given.
//! 4. To stop: cancel all tokens, then await [`Worker::drain`] in every worker.

pub mod bind;
mod connection;
mod datagrams;
mod handshake;
mod http3;
mod places;
mod proxied;
pub mod tls;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    datagrams::{Limits, SESSIONS_MAX},
    places::Places,
};
use crate::{
    proxy::{Client, Proxy, Routing},
    route::{
        client::Connection,
        table::{ListenAddress, Speaks, Table},
    },
};

/// Connections of one worker; further ones wait in the kernel's backlog.
///
/// About 64 KiB each when busy, so that a full worker stays below a gibibyte.
const CONNECTIONS_MAX: usize = 16 * 1024;

/// The longest head of an HTTP/1.1 request, and header list of an HTTP/2 one, in bytes; beyond it the answer is 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header fields of an HTTP/1.1 request; beyond it the answer is 431. `proxy` holds HTTP/2 to the same number.
const HEADERS_MAX: usize = 100;

/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 100;

/// Streams that a client reset before they were looked at; beyond it the connection ends (CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;

/// Streams that we had to reset for a client's errors; beyond it the connection ends (CVE-2025-8671).
const RESETS_OWN_MAX: usize = 100;

/// What a client may send ahead on one HTTP/2 stream and on all together, in bytes.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What waits per HTTP/2 stream to be sent, in bytes.
const SEND_BYTES_MAX: usize = 128 * 1024;

/// How often a silent HTTP/2 client is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(20);

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the listeners of all workers share.
#[derive(Debug)]
pub struct Gateway {
    pub routing: Arc<Routing>,
    /// What listeners without certificates of their own present; without it they end every connection.
    pub tls: ArcSwapOption<rustls::ServerConfig>,
    /// What all others present.
    pub configs: tls::Configs,
    http3_tickets: http3::Tickets,
    places: Arc<Places>,
}

impl Gateway {
    #[must_use]
    pub fn new(routing: Arc<Routing>) -> Arc<Self> {
        let (configs, http3_tickets) = (tls::Configs::default(), http3::Tickets::default());
        Arc::new(Self { routing, tls: ArcSwapOption::empty(), configs, http3_tickets, places: Arc::default() })
    }
}

/// What `table` needs sockets for.
#[must_use]
pub fn wanted(table: &Table) -> BTreeSet<(ListenAddress, Speaks)> {
    table.listens().collect()
}

/// One core's share of the gateway: its connections, its pool, its tasks.
///
/// Lives in one current-thread runtime; nothing of it is used from another.
#[derive(Debug)]
pub struct Worker {
    gateway: Arc<Gateway>,
    proxy: Proxy,
    builder: auto::Builder<TokioExecutor>,
    room: Arc<Semaphore>,
    datagrams: Limits,
    http3: Arc<http3::Served>,
    tasks: TaskTracker,
    cut: CancellationToken,
    /// Asks the connections that began with it to finish.
    goodbye: ArcSwap<CancellationToken>,
}

impl Worker {
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        Self::with_sessions(gateway, SESSIONS_MAX)
    }

    /// With room for so many sessions of datagrams.
    fn with_sessions(gateway: Arc<Gateway>, sessions: usize) -> Arc<Self> {
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        let proxy = Proxy::new(gateway.routing.clone(), tasks.clone(), cut.clone());
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (datagrams, http3) = (Limits::new(sessions), Arc::default());
        let (builder, goodbye) = (builder(&Connection::default()), ArcSwap::default());
        Arc::new(Self { gateway, proxy, builder, room, datagrams, http3, tasks, cut, goodbye })
    }

    /// Asks the connections that are there to finish; those that come later are not.
    pub fn say_goodbye(&self) {
        self.goodbye.swap(Arc::default()).cancel();
    }

    /// Accepts on `socket` until `stop` is cancelled, which also asks the connections to finish.
    ///
    /// What is spoken there is looked up for each connection, wherever `socket` is bound. Connections go on after this returns;
    /// [`Worker::drain`] waits for them.
    ///
    /// # Errors
    /// When `socket` cannot be used by the runtime.
    pub async fn serve(
        self: Arc<Self>,
        socket: TcpListener,
        at: ListenAddress,
        stop: CancellationToken,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(socket)?;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((room, stream, address)) => {
                    let local = stream.local_addr().unwrap_or(address);
                    let client = Client { address, local, at, tls: None };
                    let connection = connection::serve(self.clone(), stream, client, room, stop.clone());
                    self.tasks.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, port = at.port, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until every connection has ended, and ends those that are left at `deadline`; says how many these were.
    pub async fn drain(&self, deadline: Instant) -> usize {
        self.tasks.close();
        if tokio::time::timeout_at(deadline.into(), self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tasks.len();
        self.cut.cancel();
        self.tasks.wait().await;
        left
    }

    async fn accept(
        &self,
        listener: &tokio::net::TcpListener,
    ) -> io::Result<(tokio::sync::OwnedSemaphorePermit, tokio::net::TcpStream, std::net::SocketAddr)> {
        let room = self.room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = listener.accept().await?;
        Ok((room, stream, address))
    }
}

/// HTTP/1.1 and HTTP/2 with every limit set, where a policy does not set another; the timers are needed by the limits that take time.
fn builder(of: &Connection) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // A policy's idle time, to the moment. `watch` sees to all others, and to slow heads, for less than a timer for
        // each request.
        .header_read_timeout(of.idle)
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(of.http2.streams.unwrap_or(STREAMS_MAX))
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_OWN_MAX)
        .initial_stream_window_size(of.http2.stream_window.unwrap_or(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(of.http2.connection_window.unwrap_or(CONNECTION_WINDOW_BYTES))
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}
