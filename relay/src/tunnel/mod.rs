//! Tunnels: the sessions that agents hold with this relay, and how a request reaches a service behind one.
//!
//! Journey A crosses here from `proxy/upstream` to a QUIC stream, or to packets for an agent that takes no streams.
//! Pure parts: `registry` (who is where), `consent` (who may reach whom), `destination` (what an agent's CONNECT asks for),
//! `forward` (where a packet goes) and `flows` (whose answers pass).

mod accept;
mod connect;
pub mod consent;
mod datagrams;
mod destination;
mod flow;
mod flows;
mod forward;
pub mod registry;
mod session;
mod stack;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use underpass_shared::{
    identity::{AgentId, AgentIdentity, NodeName, ProjectName},
    ledger::{Ledger, Place, Reason},
    netstack::{DialError as StackError, PacketReceiver},
    packet::{IpView, decrement_hop_limit},
    prefix::{AgentNumber, NodeNumber, ProjectPrefix},
    quic::lane::{self, LaneStream, OpenError},
    wire::{
        datagram::{self, Framer},
        preface::RefusedCode,
    },
};

pub use self::{
    accept::{Acceptor, TunnelPort},
    datagrams::DatagramFlow,
    flow::Flow,
};
use self::{
    consent::Consent,
    forward::{Answer, Forwarding, Origin, Route},
    registry::{Admission, Entry, Registry, SessionId},
    session::{Cut, Session},
    stack::Stack,
};
use crate::clock;

/// How long an agent may take to reach its service: the agent's own limit and two round trips round the world.
const DIAL: Duration = Duration::from_secs(7);

/// How many sessions are tried for one flow when they turn out to be lost or silent.
const TRIES: usize = 3;

/// How many sockets to the internet agents may have at this relay, all together; beyond it they are told that there are too
/// many. Each is an open file and at most 64 KiB, and the gateway's connections need files too.
const EGRESS_MAX: usize = 16_384;

/// A service behind an agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowTarget {
    pub project: ProjectName,
    pub node: NodeName,
    /// One agent of the node, or any.
    pub agent: Option<AgentNumber>,
    /// The TCP port on the agent's loopback, as the Backend reference names it.
    pub port: u16,
}

/// Why no flow to a service behind an agent came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("no agent of node {node} is connected")]
    NodeAway { node: NodeName },
    #[error("node {node} refused the connection to port {port}: nothing listens there")]
    Refused { node: NodeName, port: u16 },
    #[error("node {node} does not publish port {port}")]
    NotPublished { node: NodeName, port: u16 },
    #[error("node {node} could not reach port {port}: {reason}")]
    Unreachable { node: NodeName, port: u16, reason: String },
    #[error("node {node} did not answer in time")]
    TimedOut { node: NodeName },
    #[error("node {node} has no room for another flow")]
    Overloaded { node: NodeName },
    /// Over packets the agent could not tell another node from its gateway.
    #[error("node {node} takes packets only, by which flows of other nodes do not come")]
    PacketsOnly { node: NodeName },
}

/// Who a flow is opened for, as the agent is told.
#[derive(Debug, Clone, Copy)]
enum Caller {
    /// A client of the gateway, if one is known.
    Gateway(Option<SocketAddr>),
    /// An agent of another node, by its own overlay address: in what it may reach it is not the gateway's equal.
    Node(SocketAddr),
}

impl Caller {
    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Gateway(client) => client,
            Self::Node(agent) => Some(agent),
        }
    }
}

/// A connected agent, for the status of its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub identity: AgentIdentity,
    pub admission: Admission,
    pub since: OffsetDateTime,
}

/// The sessions of this relay, by project and node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tunnels {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: RwLock<Registry<Arc<Session>>>,
    /// The relay's netstack by project, made with the project's first session that takes packets only.
    stacks: RwLock<BTreeMap<ProjectName, Arc<Stack>>>,
    ledger: Arc<Ledger>,
    changes: watch::Sender<u64>,
    consent: watch::Sender<Arc<Consent>>,
    egress: Arc<Semaphore>,
    lanes: Mutex<Lanes>,
    /// The flows that agents opened.
    outbound: TaskTracker,
    runtime: Handle,
}

/// What the packet lanes of all sessions share. They run on one thread, so nobody waits for it.
#[derive(Debug, Default)]
struct Lanes {
    forwarding: Forwarding,
    framer: Framer,
}

impl Tunnels {
    /// No sessions yet; netstacks will run on `runtime`, where the tunnel port does.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        let shared = Shared {
            registry: RwLock::default(),
            stacks: RwLock::default(),
            ledger: Arc::default(),
            changes: watch::Sender::new(0),
            consent: watch::Sender::default(),
            egress: Arc::new(Semaphore::new(EGRESS_MAX)),
            lanes: Mutex::default(),
            outbound: TaskTracker::new(),
            runtime,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a flow to `target`; `client` is who asked, told to the agent.
    ///
    /// # Errors
    /// See [`DialError`]; none of them leaves anything open.
    pub async fn dial(&self, target: &FlowTarget, client: Option<SocketAddr>) -> Result<Flow, DialError> {
        self.dial_as(target, Caller::Gateway(client)).await
    }

    /// Opens a flow to `target` for an agent of another node, whose consent was asked for before.
    async fn dial_for_node(
        &self,
        target: &FlowTarget,
        origin: SocketAddr,
    ) -> Result<(LaneStream, OwnedSemaphorePermit), DialError> {
        let flow = self.dial_as(target, Caller::Node(origin)).await?;
        flow.into_stream().ok_or_else(|| DialError::PacketsOnly { node: target.node.clone() })
    }

    async fn dial_as(&self, target: &FlowTarget, caller: Caller) -> Result<Flow, DialError> {
        let client = caller.address();
        let mut tried = Vec::new();
        while tried.len() < TRIES {
            let Some(entry) = self.select(target, client, &tried) else { break };
            tried.push(entry.id);
            let another = || self.select(target, client, &tried).is_some();
            tokio::select! {
                opened = timeout(DIAL, self.open(&entry, target, caller)) => match opened {
                    Ok(Ok(flow)) => return Ok(flow),
                    Ok(Err(Some(error))) => return Err(error),
                    Ok(Err(None)) => self.leave(&entry.identity, &entry.session, entry.id),
                    Err(_) => return Err(DialError::TimedOut { node: target.node.clone() }),
                },
                () = entry.session.silence(), if another() => {}
            }
        }
        Err(DialError::NodeAway { node: target.node.clone() })
    }

    /// A way for the datagrams of `client` to `target`; the port is one of UDP.
    ///
    /// # Errors
    /// [`DialError::NodeAway`] and [`DialError::Overloaded`].
    pub fn datagrams(&self, target: &FlowTarget, client: SocketAddr) -> Result<DatagramFlow, DialError> {
        let node = || target.node.clone();
        let entry = self.select(target, Some(client), &[]).ok_or_else(|| DialError::NodeAway { node: node() })?;
        let place = entry.session.reserve().ok_or_else(|| DialError::Overloaded { node: node() })?;
        let service = SocketAddr::from((entry.admission.prefix().address(), target.port));
        let flow = self.stack(&entry.identity.project, entry.admission.project).datagrams(
            service,
            entry.session.connection.clone(),
            place,
        );
        flow.ok_or_else(|| DialError::Overloaded { node: node() })
    }

    /// Opens a flow in one session. The error is `None` when the session turned out to be lost.
    async fn open(
        &self,
        entry: &Entry<Arc<Session>>,
        target: &FlowTarget,
        caller: Caller,
    ) -> Result<Flow, Option<DialError>> {
        let place = entry.session.reserve().ok_or_else(|| DialError::Overloaded { node: target.node.clone() })?;
        if entry.session.stream_lane {
            let preface = entry.session.preface(target.port, caller.address());
            let stream = lane::open_flow(&entry.session.connection, &preface).await;
            return stream.map(|stream| Flow::stream(stream, place)).map_err(|error| by_stream(error, target));
        }
        if let Caller::Node(_) = caller {
            return Err(Some(DialError::PacketsOnly { node: target.node.clone() }));
        }
        let address = SocketAddr::from((entry.admission.prefix().address(), target.port));
        let flow = self.stack(&entry.identity.project, entry.admission.project).netstack.dial(address).await;
        flow.map(|flow| Flow::packet(flow, place)).map_err(|error| Some(by_packet(error, target)))
    }

    /// The agents of a node that are connected now.
    #[must_use]
    pub fn agents(&self, project: &ProjectName, node: &NodeName) -> Vec<AgentNumber> {
        self.registry().of_node(project, node).map(|entry| entry.admission.agent).collect()
    }

    /// The agent that a flow of `client` to `target` would go to; `None` when none is connected.
    #[must_use]
    pub fn agent_for(&self, target: &FlowTarget, client: SocketAddr) -> Option<AgentNumber> {
        self.select(target, Some(client), &[]).map(|entry| entry.admission.agent)
    }

    /// The node of that number, and its agent of that number where one is asked for; `None` when it is not connected.
    fn named(
        &self,
        project: &ProjectName,
        node: NodeNumber,
        agent: Option<AgentNumber>,
    ) -> Option<(NodeName, Option<AgentId>)> {
        let registry = self.registry();
        let entry = registry.numbered(project, node, agent)?;
        Some((entry.identity.node.clone(), agent.map(|_| entry.identity.agent.clone())))
    }

    /// The number of a node's agent; `None` when it is not connected.
    fn number_of(&self, project: &ProjectName, node: &NodeName, agent: &AgentId) -> Option<AgentNumber> {
        let registry = self.registry();
        let mut agents = registry.of_node(project, node);
        agents.find(|entry| entry.identity.agent == *agent).map(|entry| entry.admission.agent)
    }

    /// The flows that agents opened; one holds a token of it for as long as it lasts.
    fn outbound(&self) -> &TaskTracker {
        &self.shared.outbound
    }

    /// Room for one more socket to the internet, `None` at [`EGRESS_MAX`].
    fn reserve_egress(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.egress).try_acquire_owned().ok()
    }

    /// Every agent that is connected now.
    #[must_use]
    pub fn connected(&self) -> Vec<Connected> {
        let describe = |entry: &Entry<Arc<Session>>| Connected {
            identity: entry.identity.clone(),
            admission: entry.admission,
            since: entry.session.connected_at,
        };
        self.registry().iter().map(describe).collect()
    }

    /// Changes whenever an agent comes or goes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Cuts every session whose agent `admitted` does not know any more.
    pub fn cut_unless(&self, admitted: impl Fn(&AgentIdentity) -> Option<Admission>) {
        for entry in self.registry().iter() {
            if admitted(&entry.identity) != Some(entry.admission) {
                entry.session.cut(Cut::Deleted);
            }
        }
    }

    /// What nodes have consented to from now on; until the first time, to nothing.
    ///
    /// Whoever waits on [`Self::consent`] hears of it, and only when something is different.
    pub fn set_consent(&self, consent: Consent) {
        self.shared.consent.send_if_modified(|current| {
            let differs = **current != consent;
            if differs {
                *current = Arc::new(consent);
                self.lanes().forwarding.set_consent(current);
            }
            differs
        });
    }

    /// What nodes have consented to, now and whenever it changes.
    #[must_use]
    pub fn consent(&self) -> watch::Receiver<Arc<Consent>> {
        self.shared.consent.subscribe()
    }

    /// Where this relay's packets are counted.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    /// Brings the ledger up to date with what the sessions' connections have sent, and forgets flows that are over.
    pub(crate) fn settle(&self, now: Instant) {
        for entry in self.registry().iter() {
            entry.session.datagrams.settle();
        }
        self.lanes().forwarding.handle_timeout(now);
    }

    /// An agent that was not tried yet, a silent one only when there is no other.
    fn select(
        &self,
        target: &FlowTarget,
        client: Option<SocketAddr>,
        tried: &[SessionId],
    ) -> Option<Entry<Arc<Session>>> {
        let registry = self.registry();
        let select = |usable: &dyn Fn(&Entry<Arc<Session>>) -> bool| {
            let flow = (client, target.port);
            registry.select(&target.project, &target.node, target.agent, &flow, usable).cloned()
        };
        let fresh = |entry: &Entry<Arc<Session>>| !tried.contains(&entry.id);
        select(&|entry| fresh(entry) && !entry.session.is_silent()).or_else(|| select(&fresh))
    }

    fn enter(&self, identity: &AgentIdentity, session: Arc<Session>) -> SessionId {
        let admission = session.admission;
        let (id, replaced) = self.registry_mut().insert(identity.clone(), admission, session);
        if let Some(replaced) = replaced {
            replaced.session.cut(Cut::Replaced);
        }
        self.shared.changes.send_modify(|count| *count += 1);
        id
    }

    fn leave(&self, identity: &AgentIdentity, session: &Session, id: SessionId) {
        if self.registry_mut().remove(&identity.project, &session.admission, id).is_some() {
            self.shared.changes.send_modify(|count| *count += 1);
        }
    }

    /// Takes packets that an agent sent.
    fn handle_packets(&self, identity: &AgentIdentity, session: &Session, packets: impl Iterator<Item = Bytes>) {
        let now = clock::instant();
        let origin = Origin { project: &identity.project, node: &identity.node, admission: session.admission };
        let lose = |reason| self.ledger().lose(Place::Forward, reason, 1);
        let registry = self.registry();
        let Lanes { forwarding, framer } = &mut *self.lanes();
        for packet in packets {
            self.ledger().enter(Place::Forward, 1);
            match forwarding.route(&packet, &origin, &registry, now) {
                Route::Relay => {
                    self.ledger().deliver(Place::Forward, 1);
                    let stack = self.stack(&identity.project, session.admission.project);
                    // What the netstack does not take it counts itself.
                    stack.inbound.push(one_hop_less(BytesMut::from(&packet[..]), 0));
                }
                Route::Session(entry) => {
                    self.ledger().deliver(Place::Forward, 1);
                    let to = &entry.session;
                    let frame = framer.frame(to.stream, &packet);
                    if to.send(&one_hop_less(frame, datagram::header_bytes(to.stream))).is_err() {
                        session.answer(&packet, Answer::TooBig(to.packet_bytes_max()), framer);
                    }
                }
                Route::Refused(reason, answer) => {
                    lose(reason);
                    session.answer(&packet, answer, framer);
                }
                Route::Lost(reason) => lose(reason),
            }
        }
    }

    /// The project's netstack, started when there is none.
    fn stack(&self, project: &ProjectName, prefix: ProjectPrefix) -> Arc<Stack> {
        if let Some(stack) = self.stacks().get(project) {
            return Arc::clone(stack);
        }
        let mut stacks = self.shared.stacks.write().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (stack, outbound) = Stack::start(prefix, Arc::clone(self.ledger()), &self.shared.runtime);
            self.shared.runtime.spawn(self.clone().deliver(project.clone(), outbound));
            Arc::new(stack)
        };
        Arc::clone(stacks.entry(project.clone()).or_insert_with(start))
    }

    /// Hands what the project's netstack sends to the sessions it is for.
    async fn deliver(self, project: ProjectName, mut outbound: PacketReceiver) {
        let mut framer = Framer::default();
        while let Some(packet) = outbound.recv().await {
            self.ledger().enter(Place::Forward, 1);
            let session = match IpView::parse(&packet).map(|view| view.destination()) {
                Ok(IpAddr::V6(to)) => self.registry().locate(&project, to).map(|entry| Arc::clone(&entry.session)),
                _ => None,
            };
            match session {
                Some(session) => {
                    self.ledger().deliver(Place::Forward, 1);
                    let frame = framer.frame(session.stream, &packet);
                    // The netstack sends nothing that would not go as a capsule.
                    let _ = session.send(&frame.freeze());
                }
                None => self.ledger().lose(Place::Forward, Reason::NoSession, 1),
            }
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> RwLockReadGuard<'_, Registry<Arc<Session>>> {
        self.shared.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry<Arc<Session>>> {
        self.shared.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn stacks(&self) -> RwLockReadGuard<'_, BTreeMap<ProjectName, Arc<Stack>>> {
        self.shared.stacks.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packet behind `header_bytes` with one hop less, which it has (RFC 9484 §7).
fn one_hop_less(mut frame: BytesMut, header_bytes: usize) -> Bytes {
    decrement_hop_limit(&mut frame[header_bytes..]).expect("only packets with two hops are forwarded");
    frame.freeze()
}

/// `None`: the session was lost, another may serve.
fn by_stream(error: OpenError, target: &FlowTarget) -> Option<DialError> {
    let (node, port) = (target.node.clone(), target.port);
    Some(match error {
        OpenError::Lost(_) => return None,
        OpenError::Refused(refused) => match refused.code {
            RefusedCode::Refused => DialError::Refused { node, port },
            RefusedCode::NotPublished => DialError::NotPublished { node, port },
            RefusedCode::TimedOut => DialError::TimedOut { node },
            RefusedCode::Overloaded => DialError::Overloaded { node },
            RefusedCode::Unreachable => DialError::Unreachable { node, port, reason: refused.reason.to_string() },
        },
        OpenError::Reset(_) | OpenError::Answer(_) | OpenError::NoAnswer => {
            DialError::Unreachable { node, port, reason: error.to_string() }
        }
    })
}

fn by_packet(error: StackError, target: &FlowTarget) -> DialError {
    let (node, port) = (target.node.clone(), target.port);
    match error {
        // A reset says no more than that: nothing listens, or the port is not published.
        StackError::Refused { .. } => DialError::Refused { node, port },
        StackError::TimedOut { .. } => DialError::TimedOut { node },
        StackError::Overloaded => DialError::Overloaded { node },
        other => DialError::Unreachable { node, port, reason: other.to_string() },
    }
}
