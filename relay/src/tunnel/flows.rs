//! Flows that one agent began with others, so that their answers find the way back. Pure; time is an argument.
//!
//! Whether a flow may begin is `forward`'s to say. A table belongs to the agent that begins the flows, so that an agent
//! which begins too many hurts itself only.

use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use underpass_shared::packet::{IpView, protocol};

use super::consent::Service;

/// How many flows of one agent are known at once; beyond it the one that would be forgotten first makes room. As many as
/// one session carries in the stream lane; about 200 bytes each.
pub(super) const FLOWS_MAX: usize = 16_384;

/// How long a silent TCP connection is kept that both ends have confirmed (RFC 5382 §5, REQ-5: two hours and four minutes).
const TCP_ESTABLISHED: Duration = Duration::from_secs(7_440);

/// How long a TCP connection is kept that begins or ends (RFC 5382 §5, REQ-5: four minutes).
const TCP_TRANSITORY: Duration = Duration::from_secs(240);

/// How long a silent UDP flow is kept (RFC 4787 §4.3, REQ-5: five minutes).
const UDP: Duration = Duration::from_secs(300);

/// How long an echo request waits for its reply (RFC 5508 §3.2, REQ-1: sixty seconds).
const ECHO: Duration = Duration::from_secs(60);

/// How many flows at most are looked at for one that makes room: those that were used since they were queued are passed
/// over, so that a busy table costs a new flow no more than this.
const EVICTION_LOOKS: usize = 8;

/// How many flows that are over are forgotten at a time.
const EXPIRED_AT_ONCE: usize = 1024;

/// What tells one flow from another, as the packets of whoever began it have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowKey {
    protocol: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// Ports, or twice the identifier of an echo.
    ports: (u16, u16),
}

/// What a packet is to the flow that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SYN without ACK.
    TcpOpens,
    TcpCarries,
    /// FIN or RST.
    TcpEnds,
    Udp,
    EchoRequest,
    EchoReply,
    /// An ICMP error about a packet of the flow, sent the other way.
    Error,
}

/// A packet as far as forwarding reads it. For an error it is the packet quoted, turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) key: FlowKey,
    pub(super) kind: Kind,
}

/// The flows that one agent began.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// At most [`FLOWS_MAX`].
    flow_by_key: HashMap<FlowKey, Flow>,
    /// When each flow is looked at next: not after it is over. One entry a flow.
    queue: BTreeSet<(Instant, FlowKey)>,
}

#[derive(Debug, Clone, Copy)]
struct Flow {
    until: Instant,
    /// Where it stands in the queue.
    queued: Instant,
    stage: Stage,
    /// Which state of consent allowed it.
    consent: u64,
}

/// How far a TCP connection is; other flows stay at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    /// Both ends have spoken.
    Established,
    Ending,
}

impl FlowKey {
    /// The same flow as the packets of the other end have it.
    pub(super) fn reversed(self) -> Self {
        let (source, destination) = (self.destination, self.source);
        Self { source, destination, ports: (self.ports.1, self.ports.0), ..self }
    }

    pub(super) fn source(&self) -> Ipv6Addr {
        self.source
    }

    /// What whoever begins the flow asks for.
    pub(super) fn service(&self) -> Service {
        match self.protocol {
            protocol::TCP => Service::Tcp(self.ports.1),
            protocol::UDP => Service::Udp(self.ports.1),
            _ => Service::Icmp,
        }
    }
}

impl Segment {
    /// Reads what an IPv6 packet without extension headers is about; `None` for what belongs to no flow.
    pub(super) fn read(view: &IpView<'_>) -> Option<Self> {
        let IpView::V6(view) = view else { return None };
        let (ends, payload) = ((view.source(), view.destination()), view.payload());
        match view.protocol() {
            protocol::ICMPV6 => match *payload {
                [128, 0, _, _, high, low, ..] => Some(Self::echo(ends, [high, low], Kind::EchoRequest)),
                [129, 0, _, _, high, low, ..] => Some(Self::echo(ends, [high, low], Kind::EchoReply)),
                // RFC 4443 §3: unreachable, too big, time exceeded, parameter problem. Behind eight bytes the quotation.
                [1..=4, ..] => Self::quoted(payload.get(8..)?, ends),
                _ => None,
            },
            number => Self::with_ports(number, ends, payload),
        }
    }

    fn echo((source, destination): (Ipv6Addr, Ipv6Addr), id: [u8; 2], kind: Kind) -> Self {
        let id = u16::from_be_bytes(id);
        Self { key: FlowKey { protocol: protocol::ICMPV6, source, destination, ports: (id, id) }, kind }
    }

    fn with_ports(number: u8, (source, destination): (Ipv6Addr, Ipv6Addr), payload: &[u8]) -> Option<Self> {
        let [s0, s1, d0, d1, ..] = *payload else { return None };
        let kind = match number {
            protocol::TCP => match *payload.get(13)? {
                flags if flags & (FIN | RST) != 0 => Kind::TcpEnds,
                flags if flags & (SYN | ACK) == SYN => Kind::TcpOpens,
                _ => Kind::TcpCarries,
            },
            protocol::UDP => Kind::Udp,
            _ => return None,
        };
        let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        Some(Self { key: FlowKey { protocol: number, source, destination, ports }, kind })
    }

    /// The flow that an error between `ends` is about: its quotation must have come from whom the error is for.
    fn quoted(quotation: &[u8], (_, to): (Ipv6Addr, Ipv6Addr)) -> Option<Self> {
        let (header, payload) = quotation.split_at_checked(40)?;
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("16 bytes"));
        let (source, destination) = (address(8), address(24));
        if header[0] >> 4 != 6 || source != to {
            return None;
        }
        let ports = match (header[6], payload) {
            (protocol::TCP | protocol::UDP, [s0, s1, d0, d1, ..]) => [*s0, *s1, *d0, *d1],
            (protocol::ICMPV6, [128 | 129, 0, _, _, high, low, ..]) => [*high, *low, *high, *low],
            _ => return None,
        };
        let ports = (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
        let quoted = FlowKey { protocol: header[6], source, destination, ports };
        Some(Self { key: quoted.reversed(), kind: Kind::Error })
    }
}

/// TCP's flags (RFC 9293 §3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Flows {
    /// Enters or keeps a flow that its beginner may have by `consent`, when it sends a packet of this kind.
    pub(super) fn begin(&mut self, key: FlowKey, kind: Kind, consent: u64, now: Instant) {
        if let Some(flow) = self.live(key, now) {
            flow.consent = consent;
            match kind {
                // The ports are used again.
                Kind::TcpOpens => flow.stage = Stage::Opening,
                Kind::TcpEnds => flow.stage = Stage::Ending,
                Kind::TcpCarries | Kind::Udp | Kind::EchoRequest | Kind::EchoReply => {}
                // It says nothing of how long the flow lives.
                Kind::Error => return,
            }
            let until = now + life(kind, flow.stage);
            self.keep(key, until);
            return;
        }
        self.forget(key);
        if self.flow_by_key.len() >= FLOWS_MAX {
            self.make_room(now);
        }
        let until = now + life(kind, Stage::Opening);
        self.flow_by_key.insert(key, Flow { until, queued: until, stage: Stage::Opening, consent });
        self.queue.insert((until, key));
    }

    /// Which consent allowed the flow, `None` when there is none.
    pub(super) fn consent(&mut self, key: FlowKey, now: Instant) -> Option<u64> {
        self.live(key, now).map(|flow| flow.consent)
    }

    /// Keeps a flow that the other end answers with a packet of this kind, as allowed by `consent`.
    pub(super) fn answer(&mut self, key: FlowKey, kind: Kind, consent: u64, now: Instant) {
        let Some(flow) = self.live(key, now) else { return };
        flow.consent = consent;
        match kind {
            Kind::TcpCarries if flow.stage == Stage::Opening => flow.stage = Stage::Established,
            Kind::TcpEnds => flow.stage = Stage::Ending,
            Kind::TcpOpens | Kind::TcpCarries | Kind::Udp | Kind::EchoRequest | Kind::EchoReply => {}
            Kind::Error => return,
        }
        let until = now + life(kind, flow.stage);
        self.keep(key, until);
    }

    /// Forgets a flow at once.
    pub(super) fn forget(&mut self, key: FlowKey) {
        if let Some(flow) = self.flow_by_key.remove(&key) {
            self.queue.remove(&(flow.queued, key));
        }
    }

    /// Forgets what is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..EXPIRED_AT_ONCE {
            match self.queue.first() {
                Some(&(at, key)) if at <= now => self.look_again(key, now),
                _ => return,
            }
        }
    }

    /// Whether no flow is known.
    pub(super) fn is_empty(&self) -> bool {
        self.flow_by_key.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.flow_by_key.len(), self.queue.len());
        self.flow_by_key.len()
    }

    fn live(&mut self, key: FlowKey, now: Instant) -> Option<&mut Flow> {
        self.flow_by_key.get_mut(&key).filter(|flow| now < flow.until)
    }

    /// The queue learns of a later end only when it comes to the flow, which spares it an update for each packet.
    fn keep(&mut self, key: FlowKey, until: Instant) {
        let Some(flow) = self.flow_by_key.get_mut(&key) else { return };
        flow.until = until;
        if until < flow.queued {
            self.queue.remove(&(flow.queued, key));
            flow.queued = until;
            self.queue.insert((until, key));
        }
    }

    /// The first of the queue: forgotten if it is over, else queued for its end.
    fn look_again(&mut self, key: FlowKey, now: Instant) {
        match self.flow_by_key.get_mut(&key) {
            Some(flow) if now < flow.until => {
                self.queue.remove(&(flow.queued, key));
                flow.queued = flow.until;
                self.queue.insert((flow.until, key));
            }
            _ => self.forget(key),
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.handle_timeout(now);
        for _ in 0..EVICTION_LOOKS {
            let Some(&(_, key)) = self.queue.first() else { return };
            if self.flow_by_key.get(&key).is_none_or(|flow| flow.queued == flow.until) {
                break;
            }
            self.look_again(key, now);
        }
        if self.flow_by_key.len() >= FLOWS_MAX
            && let Some(&(_, key)) = self.queue.first()
        {
            self.forget(key);
        }
    }
}

fn life(kind: Kind, stage: Stage) -> Duration {
    match (kind, stage) {
        (Kind::TcpOpens | Kind::TcpCarries | Kind::TcpEnds, Stage::Established) => TCP_ESTABLISHED,
        (Kind::TcpOpens | Kind::TcpCarries | Kind::TcpEnds, Stage::Opening | Stage::Ending) => TCP_TRANSITORY,
        (Kind::Udp, _) => UDP,
        (Kind::EchoRequest | Kind::EchoReply | Kind::Error, _) => ECHO,
    }
}

#[cfg(test)]
mod tests;
