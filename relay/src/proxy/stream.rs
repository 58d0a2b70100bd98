//! Connections whose bytes nobody looks into: to a backend of the rule, and both ways until both ends are done.
//!
//! For TCPRoutes, and for TLSRoutes whether TLS ends at the listener or at the backend.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    Client, Routing,
    answer::Failure,
    dial::{Transport, dial},
};
use crate::{
    clock,
    route::target::{Backend, Rule},
};

/// Bytes held per direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long a connection may be silent in both directions.
///
/// Databases and shells rest for long, and many set keep-alives of two hours at best; an hour is what other gateways give.
const SILENCE: Duration = Duration::from_secs(3600);

/// When a silent peer is asked whether it is still there, and how often before it is given up: after two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// A client's end, which can be hung up so that the client notices: as a reset, not as an end.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Carrier for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Carrier for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Closes `socket` by a reset when it is dropped: whoever reads must not take what it has for everything.
pub fn reset(socket: &TcpStream) {
    if let Err(error) = socket.set_zero_linger() {
        tracing::debug!(%error, "a connection could not be reset");
    }
}

/// Passes what `client` carries to a backend of `rule` and back, beginning with `early`, which was read before.
///
/// Returns when both ends are done, or all is lost: no backend, a broken end, silence, `cut`. Then the client is reset.
pub async fn pass<S: Carrier>(
    routing: &Routing,
    rule: &Arc<Rule>,
    (who, mut client): (&Client, S),
    early: Vec<u8>,
    cut: &CancellationToken,
) {
    let mut record = Record::new(rule, who);
    let opened = tokio::select! {
        () = cut.cancelled() => return reset(client.socket()),
        opened = open(routing, rule, who, &mut record) => opened,
    };
    let mut backend = match opened {
        Ok(backend) => backend,
        Err(failure) => {
            record.error = Some(failure.to_string());
            return reset(client.socket());
        }
    };
    keep_alive(client.socket());
    if let Some(socket) = backend.socket() {
        keep_alive(socket);
    }
    let ended = tokio::select! {
        () = cut.cancelled() => Err(io::Error::other("the gateway stops")),
        ended = join(&mut client, &mut backend, early, &record) => ended,
    };
    if let Err(error) = ended {
        record.error = Some(error.to_string());
        reset(client.socket());
        if let Some(socket) = backend.socket() {
            reset(socket);
        }
    }
}

async fn open(routing: &Routing, rule: &Arc<Rule>, who: &Client, record: &mut Record) -> Result<Transport, Failure> {
    let nowhere = |status, text: &str| Failure::Unresolved { status, text: text.to_owned() };
    let backend: &Backend =
        rule.backend(rand::random()).ok_or_else(|| nowhere(500, "the route has no backend to send connections to"))?;
    record.backend = Some(backend.name.clone());
    let upstream = backend.endpoint(rand::random()).map_err(|answer| nowhere(answer.status, &answer.text))?;
    dial(routing, &upstream.on_behalf_of(who.address, who.local), who.address).await
}

/// Copies both ways. The end of one direction is passed on, and the other goes on without it.
async fn join<A, B>(client: &mut A, backend: &mut B, early: Vec<u8>, record: &Record) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    backend.write_all(&early).await?;
    record.received.fetch_add(early.len() as u64, Relaxed);
    drop(early);
    let mut client = Metered { io: client, bytes: &record.received };
    let mut backend = Metered { io: backend, bytes: &record.sent };
    let mut copy = std::pin::pin!(copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER_BYTES, BUFFER_BYTES));
    loop {
        let before = record.bytes();
        tokio::select! {
            done = &mut copy => return done.map(drop),
            () = sleep(SILENCE) => if before == record.bytes() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long"));
            },
        }
    }
}

/// Finds out about peers that went away without a word. What cannot be set is not needed to pass bytes.
fn keep_alive(socket: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN).with_retries(KEEPALIVE_TRIES);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no keep-alive");
    }
}

/// Counts what is read.
struct Metered<'a, S> {
    io: &'a mut S,
    bytes: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut *self.io).poll_read(cx, buf);
        self.bytes.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

/// What is remembered of one connection; it writes itself when it is dropped.
struct Record {
    started: Instant,
    rule: Arc<Rule>,
    who: Client,
    backend: Option<Arc<str>>,
    received: AtomicU64,
    sent: AtomicU64,
    error: Option<String>,
}

impl Record {
    fn new(rule: &Arc<Rule>, who: &Client) -> Self {
        Self {
            started: clock::instant(),
            rule: rule.clone(),
            who: who.clone(),
            backend: None,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            error: None,
        }
    }

    fn bytes(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (bytes_in, bytes_out) = self.bytes();
        tracing::debug!(
            project = %self.rule.project,
            route = &*self.rule.route,
            backend = self.backend.as_deref(),
            src = %self.who.address,
            port = self.who.at.port,
            bytes_in,
            bytes_out,
            elapsed = ?clock::instant().saturating_duration_since(self.started),
            error = self.error.as_deref(),
            "connection passed"
        );
    }
}
