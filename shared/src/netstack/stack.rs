//! The demultiplexer: packets and the application's wishes in, packets and pending flows out. No async, no clock.
//!
//! Order of use: any number of `handle_…`, then `poll_flows`, then `poll_pending` and `poll_transmit` until they are
//! empty; again when something arrives or `poll_timeout` is due.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::UdpPacket;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::flow::{Decision, End, FlowCell, FlowKey, Shared};
use super::live::{Farewell, Live, Shape, Turn, finish};
use super::replies::{self, Icmp, Segment, SegmentError};
use super::timers::Timers;
use super::udp::{self, Datagram, Wanted};
use super::{Config, DialError};
use crate::ledger::{Place, Reason};
use crate::packet::{
    IpView,
    icmp::{self, Allowance, Unreachable},
    protocol,
};

/// Packets that `poll_transmit` has not fetched yet; beyond it flows wait and the stack's own answers are dropped.
///
/// A turn that is under way may go over it by the answers to its inbox.
const OUT_PACKETS_MAX: usize = 256;

/// Packets that wait in all flows for their next turns; those beyond are dropped.
const WAITING_PACKETS_MAX: usize = 4096;

/// How long a SYN waits for the application's decision.
const PENDING_MAX: Duration = Duration::from_secs(30);

/// How long a closed flow still acknowledges a repeated FIN.
///
/// RFC 9293 asks for four minutes; as in smoltcp it is ten seconds, which outlasts the first three repetitions.
const FAREWELL: Duration = Duration::from_secs(10);

/// Closed flows that still acknowledge a repeated FIN; beyond it they are forgotten at once and answer RST.
const FAREWELLS_MAX: usize = 4096;

/// The ports dials are made from (RFC 6335 §6 would start at 49152; Linux at 32768, and so do we: more flows to one
/// peer).
const PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

/// How many random ports are tried before the range is searched in order.
const PORT_GUESSES: usize = 32;

/// The least time between two turns that only a timer asked for.
const TIMER_STEP: Duration = Duration::from_millis(1);

#[derive(Debug)]
enum Slot {
    Pending(Pending),
    Live(Box<Live>),
    Farewell(Farewell),
}

#[derive(Debug)]
struct Pending {
    cell: Arc<FlowCell>,
    syn: Bytes,
    segment: Segment,
}

#[derive(Debug)]
pub(super) struct Stack {
    config: Config,
    shared: Arc<Shared>,
    random: StdRng,
    /// At most `flows_max` flows and pending flows, and [`FAREWELLS_MAX`].
    slots: HashMap<FlowKey, Slot>,
    timers: Timers,
    /// Flows that want a turn; each at most once.
    ready: VecDeque<FlowKey>,
    out: VecDeque<BytesMut>,
    /// Packets in the inboxes of all flows; at most [`WAITING_PACKETS_MAX`].
    waiting: usize,
    /// SYNs the application has not been told of; at most `pending_max`.
    arrivals: VecDeque<Arc<FlowCell>>,
    flows: usize,
    pending: usize,
    /// Accepted flows whose handshake is not complete.
    half_open: usize,
    farewells: usize,
    icmp_errors: Allowance,
    /// Where datagrams go that have come to us.
    datagrams: mpsc::Sender<Datagram>,
    accepting: bool,
}

impl Stack {
    pub(super) fn new(config: Config, shared: Arc<Shared>, datagrams: mpsc::Sender<Datagram>) -> Self {
        Self {
            random: StdRng::seed_from_u64(config.seed),
            accepting: config.pending_max > 0,
            config,
            shared,
            slots: HashMap::new(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            out: VecDeque::new(),
            waiting: 0,
            arrivals: VecDeque::new(),
            flows: 0,
            pending: 0,
            half_open: 0,
            farewells: 0,
            icmp_errors: Allowance::default(),
            datagrams,
        }
    }

    /// Takes one packet from the lane; what is not wanted is counted.
    pub(super) fn handle_packet(&mut self, packet: Bytes, now: Instant) {
        match self.sort(packet, now) {
            Ok(()) => self.shared.ledger.deliver(Place::Netstack, 1),
            Err(reason) => self.shared.ledger.lose(Place::Netstack, reason, 1),
        }
    }

    /// Starts a flow to `remote`; its SYN goes out with the next `poll_flows`.
    pub(super) fn handle_dial(&mut self, remote: SocketAddr, now: Instant) -> Result<Arc<FlowCell>, DialError> {
        if remote.port() == 0 || !plausible(remote.ip()) || self.owns(remote.ip()) {
            return Err(DialError::Target { remote });
        }
        if self.is_full() {
            return Err(DialError::Overloaded);
        }
        let source = self.source_for(remote.ip()).ok_or(DialError::NoAddress { remote })?;
        let key = self.free_key(source, remote).ok_or(DialError::Overloaded)?;
        let cell = FlowCell::new(key, self.shared.clone());
        let live = Live::dial(cell.clone(), self.shape(), now).ok_or(DialError::Target { remote })?;
        self.install(live, false);
        Ok(cell)
    }

    /// Sends a datagram of the application's, or refuses one.
    pub(super) fn handle_wanted(&mut self, wanted: Wanted, now: Instant) {
        let done = match wanted {
            Wanted::Send { from, to, payload } => match udp::packet(from, to, &payload) {
                Some(packet) if self.owns(from.ip()) => self.answer(packet),
                Some(_) => Err(Reason::ForeignSource),
                None => Err(Reason::TooBig),
            },
            Wanted::Refuse(datagram) => match IpView::parse(&datagram.packet) {
                Ok(view) => self.refuse_datagram(&view, now),
                Err(_) => Err(Reason::Malformed),
            },
        };
        if let Err(reason) = done {
            self.shared.ledger.lose(Place::Flow, reason, 1);
        }
    }

    /// Does what the application asked for on `cell` since the last time.
    pub(super) fn handle_signal(&mut self, cell: &Arc<FlowCell>, now: Instant) {
        let decision = {
            let mut state = cell.lock();
            state.signalled = false;
            state.decision
        };
        match self.slots.get(&cell.key) {
            Some(Slot::Live(live)) if Arc::ptr_eq(&live.cell, cell) => self.make_ready(cell.key),
            Some(Slot::Pending(pending)) if Arc::ptr_eq(&pending.cell, cell) => self.decide(cell.key, decision, now),
            _ => {}
        }
    }

    /// Looks at whatever is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.timers.pop_due(now) {
            match self.slots.get(&key) {
                Some(Slot::Live(_)) => self.make_ready(key),
                Some(Slot::Pending(pending)) => {
                    finish(&mut pending.cell.lock(), End::TimedOut);
                    self.forget(key);
                }
                Some(Slot::Farewell(_)) => self.forget(key),
                None => {}
            }
        }
    }

    /// From now on a SYN is answered with RST: nobody is left to decide.
    pub(super) fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// When `handle_timeout` has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Gives each flow that wants one a turn, as long as there is room for what it sends.
    pub(super) fn poll_flows(&mut self, now: Instant) {
        for _ in 0..self.ready.len() {
            if self.is_blocked() {
                break;
            }
            let Some(key) = self.ready.pop_front() else { break };
            self.turn(key, now);
        }
        self.report_load();
    }

    /// The next packet to send.
    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    /// The next SYN that waits for the application's decision.
    pub(super) fn poll_pending(&mut self) -> Option<Arc<FlowCell>> {
        self.arrivals.pop_front()
    }

    /// True while `poll_pending` has something.
    pub(super) fn has_pending(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// True while flows wait for a turn.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// True while there are packets to fetch.
    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// True while no flow gets a turn, because nobody fetches packets. Packets may still come in, so that two stacks
    /// that send to each other never wait for each other.
    pub(super) fn is_blocked(&self) -> bool {
        self.out.len() >= OUT_PACKETS_MAX
    }

    /// True when no flow needs the driver any more.
    pub(super) fn is_idle(&self) -> bool {
        self.flows == 0 && self.pending == 0 && self.out.is_empty()
    }

    /// Ends everything at once.
    pub(super) fn abort(&mut self) {
        for (_, slot) in self.slots.drain() {
            match slot {
                Slot::Live(live) => live.end(End::Aborted),
                Slot::Pending(pending) => finish(&mut pending.cell.lock(), End::Aborted),
                Slot::Farewell(_) => {}
            }
        }
        (self.flows, self.pending, self.half_open, self.farewells, self.waiting) = (0, 0, 0, 0, 0);
        self.report_load();
    }

    fn sort(&mut self, packet: Bytes, now: Instant) -> Result<(), Reason> {
        let view = IpView::parse(&packet).map_err(|_| Reason::Malformed)?;
        if view.is_fragment() {
            return Err(Reason::Fragment);
        }
        if view.has_extensions() {
            return Err(Reason::Extension);
        }
        if !self.owns(view.destination()) {
            return Err(Reason::NoRoute);
        }
        if !plausible(view.source()) || self.owns(view.source()) {
            return Err(Reason::ForeignSource);
        }
        match (view.protocol(), &view) {
            (protocol::TCP, _) => {
                let segment = Segment::parse(&view)?;
                let ports = view.five_tuple().ok().flatten().ok_or(Reason::Malformed)?;
                if ports.source.port() == 0 || ports.destination.port() == 0 {
                    return Err(Reason::Malformed);
                }
                let key = FlowKey { local: ports.destination, remote: ports.source };
                self.sort_segment(key, packet, &segment, now)
            }
            (protocol::UDP, _) => self.sort_datagram(&packet, &view, now),
            (protocol::ICMPV6, IpView::V6(_)) | (protocol::ICMP, IpView::V4(_)) => self.sort_icmp(&view),
            _ => Err(Reason::UnknownProtocol),
        }
    }

    fn sort_segment(&mut self, key: FlowKey, packet: Bytes, segment: &Segment, now: Instant) -> Result<(), Reason> {
        match self.slots.get_mut(&key) {
            Some(Slot::Live(live)) => {
                if self.waiting >= WAITING_PACKETS_MAX || !live.push(packet, segment) {
                    return Err(Reason::FlowFull);
                }
                self.waiting += 1;
                self.make_ready(key);
                Ok(())
            }
            Some(Slot::Pending(pending)) => {
                if segment.syn && segment.ack.is_none() && !segment.rst {
                    if segment.seq == pending.segment.seq {
                        return Err(Reason::SynRepeated);
                    }
                    // The peer gave its first attempt up and uses the port again.
                    (pending.syn, pending.segment) = (Bytes::copy_from_slice(&packet), *segment);
                } else if segment.rst && segment.seq == pending.segment.seq.wrapping_add(1) {
                    finish(&mut pending.cell.lock(), End::Reset);
                    self.forget(key);
                }
                Ok(())
            }
            Some(Slot::Farewell(farewell)) => {
                let farewell = *farewell;
                let newer = segment.seq.wrapping_sub(farewell.ack).cast_signed() > 0;
                if segment.syn && segment.ack.is_none() && newer {
                    self.forget(key);
                    return self.sort_unmatched(key, &packet, segment, now);
                }
                if !segment.rst && (segment.fin || segment.syn || segment.payload_bytes > 0) {
                    return self.answer(replies::acknowledge(key, farewell.seq, farewell.ack));
                }
                Ok(())
            }
            None => self.sort_unmatched(key, &packet, segment, now),
        }
    }

    fn sort_unmatched(&mut self, key: FlowKey, packet: &Bytes, segment: &Segment, now: Instant) -> Result<(), Reason> {
        let is_syn = segment.syn && segment.ack.is_none() && !segment.rst && !segment.fin;
        if !is_syn || !self.accepting {
            if let Some(reset) = replies::reset(key, segment) {
                self.answer(reset)?;
            }
            return Err(Reason::TcpUnmatched);
        }
        // SYNs that were taken back stay in the queue until somebody looks, so it has a bound of its own.
        if self.pending + self.half_open >= self.config.pending_max || self.arrivals.len() >= self.config.pending_max {
            return Err(Reason::PendingFull);
        }
        if self.is_full() {
            return Err(Reason::TableFull);
        }
        let cell = FlowCell::new(key, self.shared.clone());
        self.arrivals.push_back(cell.clone());
        // The packet may be a slice of a large buffer that would live as long as the SYN waits.
        let syn = Bytes::copy_from_slice(packet);
        self.slots.insert(key, Slot::Pending(Pending { cell, syn, segment: *segment }));
        self.pending += 1;
        self.timers.schedule(key, now + PENDING_MAX);
        Ok(())
    }

    fn sort_datagram(&mut self, packet: &Bytes, view: &IpView<'_>, now: Instant) -> Result<(), Reason> {
        let datagram = UdpPacket::new_checked(view.payload()).map_err(|_| Reason::Malformed)?;
        // No source port means that no answer is wanted (RFC 768); none here is for nobody.
        if datagram.dst_port() == 0 {
            return Err(Reason::Malformed);
        }
        if !datagram.verify_checksum(&view.source().into(), &view.destination().into()) {
            return Err(Reason::Checksum);
        }
        if self.shared.takes_datagrams() {
            let came = Datagram {
                local: SocketAddr::new(view.destination(), datagram.dst_port()),
                remote: SocketAddr::new(view.source(), datagram.src_port()),
                payload: packet.slice_ref(datagram.payload()),
                packet: packet.clone(),
            };
            match self.datagrams.try_send(came) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Reason::QueueFull),
                Err(TrySendError::Closed(_)) => {}
            }
        }
        self.refuse_datagram(view, now)?;
        Err(Reason::UdpUnmatched)
    }

    fn refuse_datagram(&mut self, view: &IpView<'_>, now: Instant) -> Result<(), Reason> {
        match icmp::unreachable(view, view.destination(), Unreachable::Port) {
            Some(answer) if self.icmp_errors.take(since_start(now)) => self.answer(answer),
            _ => Ok(()),
        }
    }

    fn sort_icmp(&mut self, view: &IpView<'_>) -> Result<(), Reason> {
        match replies::icmp(view)? {
            // Only the stack's own addresses are here for certain; what is behind a prefix may not be.
            Icmp::Echo(reply) if self.config.addresses.iter().any(|net| net.addr() == view.destination()) => {
                self.answer(reply)
            }
            Icmp::Unreachable { key, seq } => match self.slots.get(&key) {
                Some(Slot::Live(live)) if live.dialled_with(seq) => {
                    live.end(End::Unreachable);
                    self.forget(key);
                    Ok(())
                }
                _ => Err(Reason::IcmpIgnored),
            },
            Icmp::Echo(_) | Icmp::Other => Err(Reason::IcmpIgnored),
        }
    }

    fn decide(&mut self, key: FlowKey, decision: Decision, now: Instant) {
        if decision == Decision::Waiting {
            return;
        }
        let shape = self.shape();
        let Some(Slot::Pending(pending)) = self.slots.get(&key) else { return };
        let (cell, syn, segment) = (pending.cell.clone(), pending.syn.clone(), pending.segment);
        self.forget(key);
        let abandoned = cell.lock().abandoned;
        if decision == Decision::Refused || abandoned {
            finish(&mut cell.lock(), End::Reset);
            if let Some(reset) = replies::reset(key, &segment) {
                let _ = self.answer(reset).map_err(|reason| self.shared.ledger.lose(Place::Flow, reason, 1));
            }
            return;
        }
        match Live::accept(cell.clone(), shape, (syn, segment), now) {
            Some(live) => self.install(live, true),
            None => finish(&mut cell.lock(), End::Aborted),
        }
    }

    fn install(&mut self, live: Live, accepted: bool) {
        let key = live.cell.key;
        self.flows += 1;
        self.half_open += usize::from(accepted);
        self.waiting += live.waiting();
        self.slots.insert(key, Slot::Live(Box::new(live)));
        self.make_ready(key);
    }

    fn turn(&mut self, key: FlowKey, now: Instant) {
        let Some(Slot::Live(live)) = self.slots.get_mut(&key) else { return };
        live.ready = false;
        let waiting = live.waiting();
        let was_half_open = live.is_half_open();
        let room = OUT_PACKETS_MAX.saturating_sub(self.out.len());
        let turn = live.turn(now, room, &mut self.out);
        self.half_open -= usize::from(was_half_open && !live.is_half_open());
        self.waiting -= waiting - live.waiting();
        match turn {
            Turn::Again => self.make_ready(key),
            Turn::Idle(None) => {}
            Turn::Idle(Some(next)) => self.timers.schedule(key, next.max(now + TIMER_STEP)),
            Turn::Ended(farewell) => {
                self.forget(key);
                if let Some(farewell) = farewell
                    && self.farewells < FAREWELLS_MAX
                {
                    self.farewells += 1;
                    self.slots.insert(key, Slot::Farewell(farewell));
                    self.timers.schedule(key, now + FAREWELL);
                }
            }
            Turn::Fault => {
                self.shared.ledger.lose(Place::Flow, Reason::FlowFault, 1);
                self.forget(key);
            }
        }
    }

    fn make_ready(&mut self, key: FlowKey) {
        if let Some(Slot::Live(live)) = self.slots.get_mut(&key)
            && !live.ready
        {
            live.ready = true;
            self.ready.push_back(key);
        }
    }

    /// Takes a slot out, with its timer and its place in the counts.
    fn forget(&mut self, key: FlowKey) {
        self.timers.cancel(key);
        let Entry::Occupied(slot) = self.slots.entry(key) else { return };
        match slot.remove() {
            Slot::Live(live) => {
                self.flows -= 1;
                self.waiting -= live.waiting();
                self.half_open -= usize::from(live.is_half_open());
            }
            Slot::Pending(_) => self.pending -= 1,
            Slot::Farewell(_) => self.farewells -= 1,
        }
    }

    fn answer(&mut self, packet: BytesMut) -> Result<(), Reason> {
        if self.is_blocked() {
            return Err(Reason::AnswerFull);
        }
        self.out.push_back(packet);
        Ok(())
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.config.addresses.iter().any(|net| net.contains(&address))
    }

    /// The address that shares the longest prefix with `remote` (RFC 6724 §5, rule 8).
    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        let own = self.config.addresses.iter().map(ipnet::IpNet::addr);
        own.filter(|address| address.is_ipv4() == remote.is_ipv4()).max_by_key(|address| match (*address, remote) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => 0,
        })
    }

    fn free_key(&mut self, source: IpAddr, remote: SocketAddr) -> Option<FlowKey> {
        let key = |port| FlowKey { local: SocketAddr::new(source, port), remote };
        for _ in 0..PORT_GUESSES {
            let guess = key(self.random.random_range(PORTS));
            if !self.slots.contains_key(&guess) {
                return Some(guess);
            }
        }
        PORTS.map(key).find(|key| !self.slots.contains_key(key))
    }

    fn is_full(&self) -> bool {
        self.flows + self.pending >= self.config.flows_max
    }

    fn shape(&mut self) -> Shape {
        Shape { tcp_buffer: self.config.tcp_buffer, mtu: self.config.mtu, seed: self.random.next_u64() }
    }

    fn report_load(&self) {
        self.shared.load.flows.store(self.flows, Ordering::Relaxed);
        self.shared.load.pending.store(self.pending, Ordering::Relaxed);
        self.shared.load.lingering.store(self.farewells, Ordering::Relaxed);
    }
}

impl From<SegmentError> for Reason {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Malformed => Self::Malformed,
            SegmentError::Checksum => Self::Checksum,
        }
    }
}

fn since_start(now: Instant) -> std::time::Duration {
    std::time::Duration::from_micros(now.total_micros().unsigned_abs())
}

/// False for addresses that no peer can have.
fn plausible(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast()),
    }
}
