//! One agent's session with this relay: how it is reached for flows, and the life of its CONNECT-IP exchange.
//!
//! Owns the capsules and packets of one session. Does not own who may have one (`accept`), nor who is chosen (`registry`).

use std::{
    collections::BTreeSet,
    iter,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use ipnet::{IpNet, Ipv6Net};
use time::OffsetDateTime;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::sleep,
};
use tracing::{debug, info};
use underpass_shared::{
    identity::AgentIdentity,
    ledger::{Place, Reason},
    packet::icmp::Allowance,
    prefix::{AgentPrefix, NodePrefix, RELAY_NODE},
    quic::{
        capsules::{CAPSULE_PACKET_BYTES_MAX, CapsuleReader, CapsuleWriter, capsule_payload},
        datagrams::{Datagrams, Receiver, SendError},
        http3::{self, ServerStream, StreamError},
    },
    wire::{
        capsule::{Capsule, Drain},
        connect_ip::{AddressAssign, AddressRange, AddressRequest, AssignedAddress, RouteAdvertisement},
        datagram::{self, Framer},
        preface::{self, Host, Kind, Preface, Trace},
    },
};

use super::{
    accept::{Acceptor, Peer},
    consent::Consent,
    forward::Answer,
    registry::{Admission, SessionId},
};
use crate::clock;

/// How many flows one session carries at once.
///
/// An agent's stream limit ends at the same number; beyond it a dial is answered `Overloaded`.
pub(super) const FLOWS_MAX: usize = 16_384;

/// How many flows one session's agent may have open outwards; beyond it a CONNECT is answered 503.
///
/// Four browsers' worth of connections at their limits; each takes at most 64 KiB here, and a socket or a stream elsewhere.
const OUTBOUND_MAX: usize = 4_096;

/// How many packets that fit no datagram wait for a session's stream before the newest is dropped.
const CAPSULES_MAX: usize = 64;

/// How many packets of a session are taken at a time, so that its capsules have their turn.
const BATCH_PACKETS: usize = 64;

/// How long an agent may owe an acknowledgement before its node's other agents are tried.
///
/// An acknowledgement takes a round trip and 25 ms (RFC 9000 §13.2.1); two seconds leave room for the loss of several.
const SILENCE: Duration = Duration::from_secs(2);

/// Stands for an agent that was not found silent.
const NOT_SILENT: u64 = u64::MAX;

/// What a live session is to the rest of the relay.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: quinn::Connection,
    /// The CONNECT-IP exchange's stream id, which frames and the stream lane's prefaces name.
    pub(super) stream: u64,
    pub(super) datagrams: Datagrams,
    /// Whether the peer takes flows as streams; otherwise it has packets only.
    pub(super) stream_lane: bool,
    pub(super) admission: Admission,
    pub(super) connected_at: OffsetDateTime,
    /// How many ICMP errors it may still be sent, by the time since `since`.
    errors: Mutex<Allowance>,
    since: Instant,
    /// What goes as DATAGRAM capsules, as it fits no datagram.
    capsules: mpsc::Sender<Bytes>,
    /// How many datagrams had come from the agent when it was found silent; [`NOT_SILENT`] when it was not.
    silent_since: AtomicU64,
    flows: Arc<Semaphore>,
    outbound: Arc<Semaphore>,
}

/// A packet is larger than the session takes now, as datagram or as capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooBig;

/// Why a session is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its node was deleted, or does not know the agent any more.
    Deleted,
    /// The agent has a newer session with this relay.
    Replaced,
}

impl Session {
    /// Ends the session and every flow in it at once, whatever the agent is doing.
    pub(super) fn cut(&self, why: Cut) {
        let words: &[u8] = match why {
            Cut::Deleted => b"the session was cut: its node was deleted",
            Cut::Replaced => b"the session was cut: its agent came back elsewhere",
        };
        self.connection.close(CUT.into(), words);
    }

    /// Sends a packet in its frame; what becomes of it is counted. `Err` when only a smaller one would go.
    pub(super) fn send(&self, frame: &Bytes) -> Result<(), TooBig> {
        let ledger = self.datagrams.ledger();
        match self.datagrams.send(frame) {
            Ok(()) | Err(SendError::Full | SendError::Closed) => Ok(()),
            Err(SendError::TooLarge) => {
                let Some(payload) = capsule_payload(frame) else {
                    ledger.lose(Place::QuicSend, Reason::TooBig, 1);
                    return Err(TooBig);
                };
                match self.capsules.try_send(payload) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => ledger.lose(Place::QuicSend, Reason::QueueFull, 1),
                    Err(TrySendError::Closed(_)) => ledger.lose(Place::QuicSend, Reason::NoSession, 1),
                }
                Ok(())
            }
        }
    }

    /// The largest packet that the session takes, in bytes.
    pub(super) fn packet_bytes_max(&self) -> u16 {
        let bytes = self.datagrams.packet_bytes_max(self.stream).unwrap_or(0).max(CAPSULE_PACKET_BYTES_MAX);
        u16::try_from(bytes).unwrap_or(u16::MAX)
    }

    /// Tells the agent what became of a packet that it sent, as often as is allowed.
    pub(super) fn answer(&self, packet: &[u8], answer: Answer, framer: &mut Framer) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if !errors.take(self.since.elapsed()) {
            return;
        }
        if let Some(error) = answer.about(packet, self.admission.project.relay_address()) {
            // An error is at most as long as what goes as a capsule.
            let _ = self.send(&framer.frame(self.stream, &error).freeze());
        }
    }

    /// Whether the agent was found silent and has sent nothing since.
    pub(super) fn is_silent(&self) -> bool {
        let since = self.silent_since.load(Relaxed);
        since != NOT_SILENT && since == self.received()
    }

    /// Returns when the agent has sent nothing at all for [`SILENCE`], not even an acknowledgement; call it with something
    /// under way that it must acknowledge. Never returns when it has.
    pub(super) async fn silence(&self) {
        let before = self.received();
        sleep(SILENCE).await;
        if self.received() != before {
            return std::future::pending().await;
        }
        self.silent_since.store(before, Relaxed);
    }

    fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Room for one more flow, `None` at [`FLOWS_MAX`].
    pub(super) fn reserve(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.flows).try_acquire_owned().ok()
    }

    /// Room for one more flow that the agent opens, `None` at [`OUTBOUND_MAX`].
    pub(super) fn reserve_outbound(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.outbound).try_acquire_owned().ok()
    }

    /// The preface of a flow to the agent's own loopback.
    pub(super) fn preface(&self, port: u16, client: Option<SocketAddr>) -> Preface {
        Preface { session: self.stream, kind: Kind::Tcp, host: Host::Loopback, port, client, trace: Trace::default() }
    }
}

/// Answers a CONNECT-IP request that was found good, and lives the session until either side ends it.
pub(super) async fn run(
    acceptor: &Acceptor,
    peer: &Peer,
    identity: &AgentIdentity,
    admission: Admission,
    offered: &HeaderMap,
    mut stream: ServerStream,
) -> Result<(), StreamError> {
    let id = stream.send_id().into_inner();
    let lane = offered.get(preface::LANE_HEADER).and_then(|value| preface::negotiate(value.to_str().ok()?));
    let mut response = http3::connect_ip_response();
    if let Some(version) = lane {
        response.headers_mut().insert(preface::LANE_HEADER, HeaderValue::from(version));
    }
    // Before the 200 goes out: the first packet may come right behind it.
    let incoming = peer.datagrams.register(id).expect("a connection has one session");
    let (capsules, outgoing) = mpsc::channel(CAPSULES_MAX);
    let session = Arc::new(Session {
        connection: peer.connection.clone(),
        stream: id,
        datagrams: peer.datagrams.clone(),
        stream_lane: lane.is_some(),
        admission,
        connected_at: clock::now(),
        errors: Mutex::default(),
        since: clock::instant(),
        capsules,
        silent_since: AtomicU64::new(NOT_SILENT),
        flows: Arc::new(Semaphore::new(FLOWS_MAX)),
        outbound: Arc::new(Semaphore::new(OUTBOUND_MAX)),
    });
    // The first flow may come right behind the 200 too.
    let _live = peer.enliven(&session);
    stream.send_response(response).await?;
    let (send, receive) = stream.split();
    let (reader, mut writer) = (receive.into(), CapsuleWriter::from(send));
    // Subscribed before the first routes are made, so that no change falls between.
    let consent = acceptor.tunnels.consent();
    let routes = routes(acceptor, identity, admission).await;
    introduce(&mut writer, admission, &routes).await?;
    let entered = acceptor.tunnels.enter(identity, Arc::clone(&session));
    // The node may have been deleted between admission and entry, when there was nothing to cut yet.
    if acceptor.enrolment.admit(identity).await.ok() != Some(admission) {
        session.cut(Cut::Deleted);
    }
    let exchange = Exchange { acceptor, peer, identity, session: &session, entered, consent, routes, reader, writer };
    info!(project = %identity.project, node = %identity.node, agent = %identity.agent, "session opened");
    let ended = exchange.live(incoming, outgoing).await;
    acceptor.tunnels.leave(identity, &session, entered);
    info!(project = %identity.project, node = %identity.node, agent = %identity.agent, "session closed");
    ended
}

/// One session's CONNECT-IP exchange, and what it is about.
struct Exchange<'a> {
    acceptor: &'a Acceptor,
    peer: &'a Peer,
    identity: &'a AgentIdentity,
    session: &'a Arc<Session>,
    entered: SessionId,
    consent: watch::Receiver<Arc<Consent>>,
    /// What the agent was told last.
    routes: RouteAdvertisement,
    reader: CapsuleReader,
    writer: CapsuleWriter,
}

impl Exchange<'_> {
    /// Moves capsules and packets until either side ends the session.
    async fn live(mut self, mut incoming: Receiver, outgoing: mpsc::Receiver<Bytes>) -> Result<(), StreamError> {
        let mut outgoing = Outgoing { capsules: outgoing, datagrams: &self.session.datagrams };
        let mut draining = false;
        let mut batch = Vec::with_capacity(BATCH_PACKETS);
        loop {
            tokio::select! {
                capsule = self.reader.next() => match capsule {
                    Ok(Some(capsule)) => self.handle_capsule(capsule).await?,
                    Ok(None) => return self.writer.finish().await,
                    Err(error) => {
                        debug!(%error, "capsules ended");
                        return Ok(());
                    }
                },
                1.. = incoming.recv_many(&mut batch, BATCH_PACKETS) => {
                    self.acceptor.tunnels.handle_packets(self.identity, self.session, batch.drain(..));
                }
                Some(payload) = outgoing.capsules.recv() => {
                    let sent = self.writer.send(&Capsule::Datagram(payload)).await;
                    outgoing.count(sent.is_ok());
                    sent?;
                }
                () = self.peer.drain.cancelled(), if !draining => {
                    draining = true;
                    // First of all no new flow may choose a session that is told to go.
                    self.acceptor.tunnels.leave(self.identity, self.session, self.entered);
                    // More than a capsule takes, or an address that no capsule takes, is no reason to keep an agent.
                    let elsewhere = Drain::new(self.acceptor.enrolment.other_relays()).unwrap_or_default();
                    self.writer.send(&Capsule::Drain(elsewhere)).await?;
                }
                Ok(()) = self.consent.changed() => {
                    let routes = routes(self.acceptor, self.identity, self.session.admission).await;
                    if routes != self.routes {
                        self.writer.send(&Capsule::RouteAdvertisement(routes.clone())).await?;
                        self.routes = routes;
                    }
                }
            }
        }
    }

    async fn handle_capsule(&mut self, capsule: Capsule) -> Result<(), StreamError> {
        match capsule {
            Capsule::Datagram(payload) => match datagram::decode_payload(payload) {
                Ok(packet) => self.acceptor.tunnels.handle_packets(self.identity, self.session, iter::once(packet)),
                Err(_) => {
                    self.acceptor.tunnels.ledger().enter(Place::QuicReceive, 1);
                    self.acceptor.tunnels.ledger().lose(Place::QuicReceive, Reason::Malformed, 1);
                }
            },
            Capsule::AddressRequest(request) => {
                let answer = assign(&request, self.session.admission.prefix());
                self.writer.send(&Capsule::AddressAssign(answer)).await?;
            }
            // What an agent assigns or advertises takes an allow rule, which no node has yet.
            Capsule::AddressAssign(_) | Capsule::RouteAdvertisement(_) | Capsule::Drain(_) => {}
        }
        Ok(())
    }
}

/// Packets that go as capsules; those that wait at the end are lost.
struct Outgoing<'a> {
    capsules: mpsc::Receiver<Bytes>,
    datagrams: &'a Datagrams,
}

impl Outgoing<'_> {
    fn count(&self, sent: bool) {
        match sent {
            true => self.datagrams.ledger().deliver(Place::QuicSend, 1),
            false => self.datagrams.ledger().lose(Place::QuicSend, Reason::NoSession, 1),
        }
    }
}

impl Drop for Outgoing<'_> {
    fn drop(&mut self) {
        self.capsules.close();
        while self.capsules.try_recv().is_ok() {
            self.count(false);
        }
    }
}

/// Where the agent may send to, and what it may expect packets from: the relays, and nodes that consent has to do with.
async fn routes(acceptor: &Acceptor, identity: &AgentIdentity, admission: Admission) -> RouteAdvertisement {
    let consent = Arc::clone(&acceptor.tunnels.consent().borrow());
    let neighbours = consent.neighbours(&identity.project, &identity.node);
    let mut nodes = BTreeSet::from([RELAY_NODE]);
    if !neighbours.is_empty() {
        nodes.extend(acceptor.enrolment.numbers(&identity.project, neighbours).await);
    }
    let ranges = nodes.into_iter().map(|node| AddressRange::of(node_net(admission.project.node(node))));
    RouteAdvertisement::new(ranges).expect("the networks of different nodes do not overlap")
}

/// Tells the agent what lies behind the relay and then its address, on which it has waited: packets may follow at once.
async fn introduce(
    writer: &mut CapsuleWriter,
    admission: Admission,
    routes: &RouteAdvertisement,
) -> Result<(), StreamError> {
    writer.send(&Capsule::RouteAdvertisement(routes.clone())).await?;
    let assigned = AssignedAddress { request_id: 0, prefix: agent_net(admission.prefix()) };
    writer.send(&Capsule::AddressAssign(AddressAssign::new([assigned]))).await
}

/// Close code of a session that was cut (RFC 9114 §8.1, `H3_REQUEST_REJECTED`).
const CUT: u32 = 0x10b;

/// Each request is answered with what the agent has anyway; an IPv4 one with nothing (RFC 9484 §4.7.2).
fn assign(request: &AddressRequest, prefix: AgentPrefix) -> AddressAssign {
    AddressAssign::new(request.entries().iter().map(|asked| {
        let prefix = match asked.prefix {
            IpNet::V6(_) => agent_net(prefix),
            IpNet::V4(_) => IpNet::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 32).expect("32 bits fit"),
        };
        AssignedAddress { request_id: asked.request_id, prefix }
    }))
}

fn agent_net(prefix: AgentPrefix) -> IpNet {
    IpNet::V6(Ipv6Net::new(prefix.network(), AgentPrefix::BITS).expect("96 bits fit"))
}

fn node_net(prefix: NodePrefix) -> IpNet {
    IpNet::V6(Ipv6Net::new(prefix.network(), NodePrefix::BITS).expect("64 bits fit"))
}
