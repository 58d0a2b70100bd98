//! UDP listeners: each client's datagrams go to one endpoint, and that endpoint's back to the client, while they come.
//!
//! A client has a session: a way of its own towards the endpoint, by which its answers are known. Nothing else of a
//! datagram is looked at. Answers leave from the address that the listener is bound to; on the wildcard of a host with
//! several addresses the kernel chooses among them, so that such a host's Gateways should have addresses of their own.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{ACCEPT_PAUSE, Worker};
use crate::{
    proxy::datagrams::{Way, choose, dial, serves},
    route::{
        table::ListenAddress,
        target::{Rule, Upstream},
    },
};

/// Sessions of one worker, each with a socket or a port of the tunnel.
///
/// Beyond it the port's client that has been silent for longest gives way: most clients ask once and are answered, and
/// refusing new ones instead would leave a port of such clients at 68 of them a second. A port without any session
/// drops the datagram.
pub(super) const SESSIONS_MAX: usize = 4096;

/// What waits for endpoints that are being looked up, in bytes for all sessions of one worker; the rest is dropped.
pub(super) const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Datagrams of one client that wait for its endpoint; further ones are dropped.
const WAITING_MAX: usize = 16;

/// How long a session may be silent in both directions: it ends within [`TICK`] after that.
///
/// RFC 4787 §4.3 wants two minutes of translators that do not know what they carry. Here both ends are known services
/// and their clients, which DNS, QUIC and games keep much busier than that; what other gateways give by default.
const IDLE: Duration = Duration::from_secs(60);

/// How often a session is looked at.
const TICK: Duration = Duration::from_secs(15);

/// Silent looks until a session ends.
const QUIET_TICKS_MAX: u64 = IDLE.as_secs() / TICK.as_secs();

/// The most that one datagram can hold, in bytes (RFC 768: the length has 16 bits).
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Answers passed at once before others have their turn.
const BATCH: usize = 32;

impl Worker {
    /// Passes the datagrams that come to `socket` until `stop` is cancelled; then all of its sessions end, since no
    /// datagram says that it was the last.
    ///
    /// # Errors
    /// When `socket` cannot be used by the runtime.
    pub async fn serve_datagrams(
        self: Arc<Self>,
        socket: std::net::UdpSocket,
        at: ListenAddress,
        stop: CancellationToken,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let cut = self.cut.clone();
        let buffer = Mutex::new(vec![0; DATAGRAM_BYTES_MAX].into());
        let port = Port {
            shared: Arc::new(Shared { worker: self, socket, at, buffer }),
            rule: None,
            sessions: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            tasks: JoinSet::new(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = cut.cancelled() => {}
            () = port.run() => {}
        }
        Ok(())
    }
}

/// One socket of a port, with the sessions of the clients that the kernel gives it.
struct Port {
    shared: Arc<Shared>,
    /// The rule of the last table that was looked at.
    rule: Option<Arc<Rule>>,
    sessions: HashMap<SocketAddr, Session>,
    /// Clients, those silent for longest first.
    by_use: BTreeMap<u64, SocketAddr>,
    /// Counts datagrams of clients.
    uses: u64,
    /// One for each session, which says whose it was, and which of the client's by its number.
    tasks: JoinSet<(SocketAddr, u64)>,
}

/// What a port and its sessions have in common.
struct Shared {
    worker: Arc<Worker>,
    socket: UdpSocket,
    at: ListenAddress,
    /// Holds one answer between two calls, so that not every session needs a buffer.
    buffer: Mutex<Box<[u8]>>,
}

/// A client and its endpoint, as the port sees them.
struct Session {
    /// The count of uses when it began.
    number: u64,
    /// The count of uses when it was used last.
    used: u64,
    upstream: Arc<Upstream>,
    lane: Arc<Lane>,
    waiting: mpsc::Sender<Waiting>,
    task: AbortHandle,
    room: OwnedSemaphorePermit,
}

/// What a session's task shares with the port.
#[derive(Default)]
struct Lane {
    /// Empty until the endpoint is known.
    way: OnceLock<Way>,
    /// Counts datagrams both ways.
    moved: AtomicU64,
}

/// A datagram that waits for its endpoint, and its part of what may wait.
type Waiting = (Box<[u8]>, OwnedSemaphorePermit);

impl Port {
    async fn run(mut self) {
        let shared = self.shared.clone();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok((client, number)) => {
                        if self.sessions.get(&client).is_some_and(|session| session.number == number) {
                            self.end(client);
                        }
                    }
                    // It was ended by this port, which has forgotten it already.
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => tracing::warn!(%error, port = shared.at.port, "a session of datagrams ended badly"),
                },
                received = shared.socket.recv_from(&mut buffer) => match received {
                    Ok((length, client)) => self.handle(client, &buffer[..length]),
                    Err(error) => {
                        tracing::debug!(%error, port = shared.at.port, "a datagram could not be received");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn handle(&mut self, client: SocketAddr, datagram: &[u8]) {
        self.follow_table();
        self.uses += 1;
        if !self.sessions.contains_key(&client) && !self.begin(client) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&client) else { return };
        self.by_use.remove(&session.used);
        session.used = self.uses;
        self.by_use.insert(session.used, client);
        session.send(datagram, &self.shared.worker.datagrams.waiting);
    }

    /// Ends the sessions whose rule is gone, or does not lead to their endpoint any more.
    fn follow_table(&mut self) {
        let table = self.shared.worker.gateway.routing.table.load();
        let rule = table.datagrams(self.shared.at);
        if rule.map(Arc::as_ptr) == self.rule.as_ref().map(Arc::as_ptr) {
            return;
        }
        self.rule = rule.cloned();
        let rule = self.rule.as_deref();
        let ended = |session: &Session| !rule.is_some_and(|rule| serves(rule, &session.upstream));
        let ended: Vec<_> =
            self.sessions.iter().filter(|(_, session)| ended(session)).map(|(&client, _)| client).collect();
        for client in ended {
            self.end(client);
        }
    }

    /// Whether `client` has a session now.
    fn begin(&mut self, client: SocketAddr) -> bool {
        // Nobody can be answered there; whoever says so wants something else.
        if client.port() == 0 {
            return false;
        }
        let routing = &self.shared.worker.gateway.routing;
        let chosen = self.rule.as_deref().and_then(|rule| choose(routing, rule, client));
        let Some(upstream) = chosen else {
            tracing::debug!(src = %client, port = self.shared.at.port, "no backend for a datagram");
            return false;
        };
        let room = match self.shared.worker.datagrams.room.clone().try_acquire_owned() {
            Ok(room) => room,
            Err(_) => {
                let Some((_, &longest_silent)) = self.by_use.first_key_value() else { return false };
                let Some(session) = self.end(longest_silent) else { return false };
                session.room
            }
        };
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let (number, lane) = (self.uses, Arc::<Lane>::default());
        let running = run(self.shared.clone(), client, upstream.clone(), lane.clone(), queue);
        let task = self.tasks.spawn(async move {
            running.await;
            (client, number)
        });
        let session = Session { number, used: number, upstream, lane, waiting, task, room };
        self.by_use.insert(number, client);
        self.sessions.insert(client, session);
        true
    }

    fn end(&mut self, client: SocketAddr) -> Option<Session> {
        let session = self.sessions.remove(&client)?;
        self.by_use.remove(&session.used);
        session.task.abort();
        Some(session)
    }
}

impl Session {
    fn send(&self, datagram: &[u8], waiting: &Arc<Semaphore>) {
        self.lane.moved.fetch_add(1, Relaxed);
        if let Some(way) = self.lane.way.get() {
            return way.send(datagram);
        }
        let bytes = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
        let place = waiting.clone().try_acquire_many_owned(bytes);
        let sent = place.ok().and_then(|place| self.waiting.try_send((datagram.into(), place)).ok());
        if sent.is_none() {
            tracing::trace!("too many datagrams wait for their endpoint, one is dropped");
        }
    }
}

/// One session from its endpoint's address to its end.
async fn run(
    shared: Arc<Shared>,
    client: SocketAddr,
    upstream: Arc<Upstream>,
    lane: Arc<Lane>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let routing = &shared.worker.gateway.routing;
    let way = match dial(routing, &upstream, client).await {
        Ok(way) => way,
        Err(error) => {
            tracing::debug!(src = %client, port = shared.at.port, backend = %upstream.endpoint, %error, "datagrams dropped");
            return;
        }
    };
    // Before that nothing could be sent.
    if way.writable().await.is_err() {
        return;
    }
    while let Ok((datagram, _place)) = waiting.try_recv() {
        way.send(&datagram);
    }
    let way = lane.way.get_or_init(|| way);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut quiet, mut seen) = (0, lane.moved.load(Relaxed));
    loop {
        tokio::select! {
            ready = way.readable() => match ready {
                Ok(()) => shared.pass_back(way, client, &lane),
                Err(_) => return,
            },
            _ = ticks.tick() => {
                let moved = lane.moved.load(Relaxed);
                quiet = if moved == seen { quiet + 1 } else { 0 };
                seen = moved;
                // A backend that only sends would not notice a new table otherwise.
                let served = routing.table.load().datagrams(shared.at).is_some_and(|rule| serves(rule, &upstream));
                if quiet >= QUIET_TICKS_MAX || !served {
                    return;
                }
            }
        }
    }
}

impl Shared {
    /// Passes what has come from the endpoint, as much as one turn allows.
    fn pass_back(&self, endpoint: &Way, client: SocketAddr, lane: &Lane) {
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..BATCH {
            match endpoint.try_recv(&mut buffer) {
                Ok(length) => {
                    lane.moved.fetch_add(1, Relaxed);
                    if let Err(error) = self.socket.try_send_to(&buffer[..length], client) {
                        tracing::trace!(src = %client, %error, "an answer was dropped");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there at the moment (ICMP); datagrams have no other way to learn it.
                Err(error) => tracing::trace!(src = %client, %error, "the endpoint does not take datagrams"),
            }
        }
    }
}

/// What the datagram sessions of one worker share.
#[derive(Debug)]
pub(super) struct Limits {
    pub(super) room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Limits {
    /// Room for `sessions`, see [`SESSIONS_MAX`].
    pub(super) fn new(sessions: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(sessions)), waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)) }
    }
}
