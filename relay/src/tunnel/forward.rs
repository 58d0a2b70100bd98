//! Pure: where a packet goes that came out of a session, and the flows that make answers pass.
//!
//! Who may begin a flow is `consent`'s to say, who is where `registry`'s. Every table here is keyed by project; a packet is
//! only ever compared with what its own project has.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use underpass_shared::{
    identity::{NodeName, ProjectName},
    ledger::Reason,
    packet::{
        IpView, PacketError,
        icmp::{self, Unreachable},
    },
    prefix::{AgentNumber, NodeNumber, Place, RELAY_NODE},
};

use super::{
    consent::Consent,
    flows::{FlowKey, Flows, Kind, Segment},
    registry::{Admission, Entry, Registry},
};

/// Who sent a packet, by the certificate of its session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) node: &'a NodeName,
    pub(super) admission: Admission,
}

/// Where a packet goes.
#[derive(Debug)]
pub(super) enum Route<'a, S> {
    /// To the relay's own netstack in the project.
    Relay,
    /// To another agent.
    Session(&'a Entry<S>),
    /// Nowhere, and its sender is owed this error.
    Refused(Reason, Answer),
    /// Nowhere, and whoever sent it is told nothing.
    Lost(Reason),
}

/// What the sender of a packet that goes nowhere is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Unreachable(Unreachable),
    TimeExceeded,
    /// At most this many bytes pass.
    TooBig(u16),
}

impl Answer {
    /// The ICMP error about `packet`, `None` when it must not be answered.
    pub(super) fn about(self, packet: &[u8], from: Ipv6Addr) -> Option<BytesMut> {
        let offending = IpView::parse(packet).ok()?;
        match self {
            Self::Unreachable(why) => icmp::unreachable(&offending, from.into(), why),
            Self::TimeExceeded => icmp::time_exceeded(&offending, from.into()),
            Self::TooBig(bytes) => icmp::too_big(&offending, from.into(), bytes),
        }
    }
}

/// An agent's place in its project.
type Seat = (NodeNumber, AgentNumber);

/// What forwarding remembers: the flows that agents began, and what was consented to.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    consent: Arc<Consent>,
    /// Counts the changes of `consent`: what an older one allowed is asked again.
    version: u64,
    flows: BTreeMap<ProjectName, BTreeMap<Seat, Flows>>,
}

impl Forwarding {
    /// What counts from the next packet on, also for flows that began before.
    pub(super) fn set_consent(&mut self, consent: &Arc<Consent>) {
        if !Arc::ptr_eq(&self.consent, consent) {
            self.consent = Arc::clone(consent);
            self.version += 1;
        }
    }

    /// Routes a packet that an admitted agent sent. Whoever forwards it takes one hop off, which is there.
    pub(super) fn route<'a, S: Clone>(
        &mut self,
        packet: &[u8],
        from: &Origin<'_>,
        registry: &'a Registry<S>,
        now: Instant,
    ) -> Route<'a, S> {
        let view = match IpView::parse(packet) {
            Ok(view) if view.is_fragment() => return Route::Lost(Reason::Fragment),
            Ok(view) if view.has_extensions() => return Route::Lost(Reason::Extension),
            Ok(view) => view,
            Err(PacketError::ExtensionCount(_)) => return Route::Lost(Reason::Extension),
            Err(_) => return Route::Lost(Reason::Malformed),
        };
        let own = from.admission.prefix();
        // No agent has an IPv4 address in the overlay.
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (view.source(), view.destination()) else {
            return Route::Lost(Reason::NoRoute);
        };
        if !own.contains(source) || source == own.network() {
            return Route::Lost(Reason::ForeignSource);
        }
        let to_relay = destination == from.admission.project.relay_address();
        if !to_relay && !is_agent(from, destination) {
            return Route::Refused(Reason::NoRoute, Answer::Unreachable(Unreachable::NoRoute));
        }
        let to = match registry.locate(from.project, destination) {
            _ if to_relay => Route::Relay,
            None => return Route::Refused(Reason::NoSession, Answer::Unreachable(Unreachable::Address)),
            Some(entry) if self.allows(&view, from, entry, now) => Route::Session(entry),
            Some(_) => return Route::Refused(Reason::NotAllowed, Answer::Unreachable(Unreachable::Prohibited)),
        };
        if view.hop_limit() <= 1 {
            return Route::Refused(Reason::HopLimit, Answer::TimeExceeded);
        }
        to
    }

    /// Forgets flows that are over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for seats in self.flows.values_mut() {
            seats.retain(|_, flows| {
                flows.handle_timeout(now);
                !flows.is_empty()
            });
        }
        self.flows.retain(|_, seats| !seats.is_empty());
    }

    /// Whether a packet belongs to a flow that was allowed, or begins one that is.
    fn allows<S>(&mut self, view: &IpView<'_>, from: &Origin<'_>, entry: &Entry<S>, now: Instant) -> bool {
        let Some(Segment { key, kind }) = Segment::read(view) else { return false };
        // An error is about what its sender had a part in.
        if !from.admission.prefix().contains(key.source()) {
            return false;
        }
        let own = (from.admission.node, from.admission.agent);
        let other = (entry.admission.node, entry.admission.agent);
        let (there, back) = ((from.node, &entry.identity.node), (&entry.identity.node, from.node));
        let (project, version) = (from.project, self.version);
        if let Some(flows) = self.standing((project, own), there, key, now) {
            flows.begin(key, kind, version, now);
            return true;
        }
        if let Some(flows) = self.standing((project, other), back, key.reversed(), now) {
            flows.answer(key.reversed(), kind, version, now);
            return true;
        }
        let begins = matches!(kind, Kind::TcpOpens | Kind::TcpCarries | Kind::TcpEnds | Kind::Udp | Kind::EchoRequest);
        if !begins || !self.consent.may_send(project, there.0, there.1, key.service()) {
            return false;
        }
        let seats = match self.flows.get_mut(project) {
            Some(seats) => seats,
            None => self.flows.entry(project.clone()).or_default(),
        };
        seats.entry(own).or_default().begin(key, kind, version, now);
        true
    }

    /// The table of the agent at `seat`, if the flow `key` is in it and what was consented to still allows it; `ends` are
    /// the nodes of whoever began it and whoever answers.
    fn standing(
        &mut self,
        (project, seat): (&ProjectName, Seat),
        ends: (&NodeName, &NodeName),
        key: FlowKey,
        now: Instant,
    ) -> Option<&mut Flows> {
        let flows = self.flows.get_mut(project)?.get_mut(&seat)?;
        let allowed = flows.consent(key, now)?;
        if allowed == self.version || self.consent.may_send(project, ends.0, ends.1, key.service()) {
            return Some(flows);
        }
        flows.forget(key);
        None
    }
}

/// Whether an agent of the project has the address. What is behind an agent has no route yet, and `NODE::` is nobody's.
fn is_agent(from: &Origin<'_>, address: Ipv6Addr) -> bool {
    let project = from.admission.project;
    match project.locate(address) {
        Some(Place::Agent(node, agent, _)) => {
            node != RELAY_NODE && project.node(node).agent(agent).address() == address
        }
        Some(Place::AnyAgent(_)) | None => false,
    }
}

#[cfg(test)]
mod tests;
