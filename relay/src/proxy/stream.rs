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

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    Client, Routing, affinity,
    answer::Failure,
    dial::{Transport, dial, keep_alive},
};
use crate::{
    clock,
    route::{
        client::ClientSettings,
        fleet::{Ask, Held, Outcome},
        target::{Backend, Keepalive, Rule},
    },
};

/// Bytes held per direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// How long a connection may be silent in both directions.
///
/// Databases and shells rest for long, and many set keep-alives of two hours at best; an hour is what other gateways give.
const SILENCE: Duration = Duration::from_secs(3600);

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

/// How long a connection may last, by what its listener says of clients.
#[derive(Debug)]
pub struct Terms<'a> {
    pub clients: Option<Arc<ClientSettings>>,
    pub cut: &'a CancellationToken,
}

impl Terms<'_> {
    fn keepalive(&self) -> Keepalive {
        self.clients.as_ref().and_then(|clients| clients.arrival.keepalive).unwrap_or_default()
    }

    fn silence(&self) -> Duration {
        self.clients.as_ref().and_then(|clients| clients.connection.stream_idle).unwrap_or(SILENCE)
    }

    /// When it has lived as long as it may.
    async fn end(&self) {
        match self.clients.as_ref().and_then(|clients| clients.connection.duration) {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
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
    terms: &Terms<'_>,
) {
    let mut record = Record::new(rule, who);
    let opened = tokio::select! {
        () = terms.cut.cancelled() => return reset(client.socket()),
        opened = open(routing, rule, who, &mut record) => opened,
    };
    // Held until the connection ends.
    let (mut backend, _held) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            record.error = Some(failure.to_string());
            return reset(client.socket());
        }
    };
    keep_alive(client.socket(), &terms.keepalive());
    let ended = tokio::select! {
        () = terms.cut.cancelled() => Err(io::Error::other("the gateway stops")),
        () = terms.end() => Err(io::Error::new(io::ErrorKind::TimedOut, "it lived as long as it may")),
        ended = join(&mut client, &mut backend, early, (&record, terms.silence())) => ended,
    };
    if let Err(error) = ended {
        record.error = Some(error.to_string());
        reset(client.socket());
        if let Some(socket) = backend.socket() {
            reset(socket);
        }
    }
}

async fn open(
    routing: &Routing,
    rule: &Arc<Rule>,
    who: &Client,
    record: &mut Record,
) -> Result<(Transport, Option<Held>), Failure> {
    let nowhere = |status, text: &str| Failure::Unresolved { status, text: text.to_owned() };
    let backend: &Backend =
        rule.backend(rand::random()).ok_or_else(|| nowhere(500, "the route has no backend to send connections to"))?;
    record.backend = Some(backend.name.clone());
    let key = affinity::by_address(backend, who.address);
    let ask = Ask { seed: rand::random(), key, now: routing.now(), is_retry: false };
    let (upstream, held) = backend.choose(&ask).map_err(|answer| nowhere(answer.status, &answer.text))?;
    let upstream = upstream.on_behalf_of(who.address, who.local);
    let dialled = dial(routing, &upstream, who.address).await;
    if let Some(held) = &held {
        // A connection that was made is as good as an answer.
        held.report(dialled.as_ref().map_or(Outcome::Failed, |_| Outcome::Answered(200)), routing.now());
    }
    let transport = dialled?;
    if let (None, Some(socket)) = (upstream.link.keepalive, transport.socket()) {
        keep_alive(socket, &Keepalive::default());
    }
    Ok((transport, held))
}

/// Copies both ways. The end of one direction is passed on, and the other goes on without it.
async fn join<A, B>(
    client: &mut A,
    backend: &mut B,
    early: Vec<u8>,
    (record, silence): (&Record, Duration),
) -> io::Result<()>
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
            () = sleep(silence) => if before == record.bytes() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long"));
            },
        }
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
