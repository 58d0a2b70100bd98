//! Pure: where a packet that came out of a session may go, and the ledger of those that go nowhere.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use underpass_shared::{
    packet::{IpView, PacketError, decrement_hop_limit},
    prefix::{Place, RELAY_NODE},
};

use super::registry::Admission;

/// Why a packet was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drop {
    /// Not an IP packet, or one whose lengths lie.
    Malformed,
    /// A fragment or a packet with extension headers: the netstacks take neither.
    Extended,
    /// The source is not the session's own.
    ForeignSource,
    /// Outside the project's overlay, or to nobody.
    NoRoute,
    /// To another node, which denies by default.
    Policy,
    /// Its Hop Limit ran out (RFC 8200 §3).
    HopLimit,
    /// Larger than the session takes.
    TooBig,
    /// The receiver's queue was full.
    QueueFull,
}

/// All reasons, in the order of the ledger.
pub(super) const DROPS: [Drop; 8] = [
    Drop::Malformed,
    Drop::Extended,
    Drop::ForeignSource,
    Drop::NoRoute,
    Drop::Policy,
    Drop::HopLimit,
    Drop::TooBig,
    Drop::QueueFull,
];

/// Packets dropped since the start, by reason.
#[derive(Debug, Default)]
pub(super) struct Ledger([AtomicU64; DROPS.len()]);

impl Ledger {
    /// Counts one more.
    pub(super) fn count(&self, drop: Drop) {
        self.0[drop as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub(super) fn of(&self, drop: Drop) -> u64 {
        self.0[drop as usize].load(Ordering::Relaxed)
    }
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the relay's own netstack in the project.
    Relay,
    Drop(Drop),
}

/// Routes a packet that an admitted agent sent, and takes one hop off it (RFC 9484 §7).
///
/// `relay` is the relay's own address in the agent's project.
pub(super) fn route(packet: &mut [u8], from: &Admission, relay: Ipv6Addr) -> Route {
    let (source, destination) = match IpView::parse(packet) {
        Ok(view) if view.is_fragment() || view.has_extensions() => return Route::Drop(Drop::Extended),
        Ok(view) => (view.source(), view.destination()),
        Err(PacketError::ExtensionCount(_)) => return Route::Drop(Drop::Extended),
        Err(_) => return Route::Drop(Drop::Malformed),
    };
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else {
        return Route::Drop(Drop::NoRoute);
    };
    if !from.prefix().contains(source) || source == from.prefix().network() {
        return Route::Drop(Drop::ForeignSource);
    }
    match from.project.locate(destination) {
        _ if destination == relay => {}
        Some(Place::Agent(node, ..) | Place::AnyAgent(node)) if node != RELAY_NODE => return Route::Drop(Drop::Policy),
        _ => return Route::Drop(Drop::NoRoute),
    }
    if decrement_hop_limit(packet).is_err() {
        return Route::Drop(Drop::HopLimit);
    }
    Route::Relay
}

#[cfg(test)]
mod tests {
    use underpass_shared::prefix::{AgentNumber, NodeNumber, ProjectPrefix};

    use super::*;
    use crate::tunnel::stack::relay_address;

    fn admission(agent: u32) -> Admission {
        Admission {
            project: ProjectPrefix::from_global_id([7; 5]),
            node: NodeNumber(3),
            agent: AgentNumber::new(agent).unwrap(),
        }
    }

    /// An IPv6 header with `next` and an eight-byte payload.
    fn packet(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hops: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, next, hops];
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend([0; 8]);
        packet
    }

    fn routed(source: Ipv6Addr, destination: Ipv6Addr) -> Route {
        route(&mut packet(source, destination, 17, 64), &admission(1), relay_address(admission(1).project))
    }

    #[test]
    fn a_packet_to_the_relay_goes_there_with_one_hop_less() {
        let relay = relay_address(admission(1).project);
        let mut packet = packet(admission(1).prefix().address(), relay, 17, 64);
        assert_eq!(route(&mut packet, &admission(1), relay), Route::Relay);
        assert_eq!(packet[7], 63);
    }

    #[test]
    fn sources_that_are_not_the_sessions_own_are_dropped() {
        let relay = relay_address(admission(1).project);
        for source in [
            admission(2).prefix().address(),
            relay,
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::UNSPECIFIED,
            admission(1).prefix().network(),
        ] {
            assert_eq!(routed(source, relay), Route::Drop(Drop::ForeignSource), "{source}");
        }
    }

    #[test]
    fn other_nodes_deny_and_the_outside_has_no_route() {
        let own = admission(1);
        let source = own.prefix().address();
        assert_eq!(routed(source, admission(2).prefix().address()), Route::Drop(Drop::Policy));
        assert_eq!(routed(source, own.project.node(NodeNumber(9)).network()), Route::Drop(Drop::Policy));
        let other = Admission { project: ProjectPrefix::from_global_id([8; 5]), ..own };
        for outside in [relay_address(other.project), "2001:db8::1".parse().unwrap(), own.project.network()] {
            assert_eq!(routed(source, outside), Route::Drop(Drop::NoRoute), "{outside}");
        }
    }

    #[test]
    fn what_is_cut_extended_or_out_of_hops_is_dropped_by_its_reason() {
        let (source, relay) = (admission(1).prefix().address(), relay_address(admission(1).project));
        let dropped = |mut packet: Vec<u8>| route(&mut packet, &admission(1), relay);
        assert_eq!(dropped(packet(source, relay, 17, 1)), Route::Drop(Drop::HopLimit));
        assert_eq!(dropped(packet(source, relay, 44, 64)), Route::Drop(Drop::Extended), "a fragment header");
        assert_eq!(dropped(packet(source, relay, 17, 64)[..47].to_vec()), Route::Drop(Drop::Malformed));
        assert_eq!(dropped(Vec::new()), Route::Drop(Drop::Malformed));
        assert_eq!(dropped(vec![0x45; 20]), Route::Drop(Drop::Malformed));
    }

    #[test]
    fn the_ledger_counts_each_reason_apart() {
        let ledger = Ledger::default();
        for (times, drop) in DROPS.into_iter().enumerate() {
            (0..times).for_each(|_| ledger.count(drop));
        }
        for (times, drop) in DROPS.into_iter().enumerate() {
            assert_eq!(ledger.of(drop), times as u64, "{drop:?}");
        }
    }
}
