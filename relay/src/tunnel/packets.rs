//! Pure: where a packet that came out of a session may go.

use std::net::{IpAddr, Ipv6Addr};

use underpass_shared::{
    ledger::Reason,
    packet::{IpView, PacketError, decrement_hop_limit},
    prefix::{Place, RELAY_NODE},
};

use super::registry::Admission;

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To the relay's own netstack in the project.
    Relay,
    Drop(Reason),
}

/// Routes a packet that an admitted agent sent, and takes one hop off it (RFC 9484 §7).
///
/// `relay` is the relay's own address in the agent's project.
pub(super) fn route(packet: &mut [u8], from: &Admission, relay: Ipv6Addr) -> Route {
    let (source, destination) = match IpView::parse(packet) {
        Ok(view) if view.is_fragment() => return Route::Drop(Reason::Fragment),
        Ok(view) if view.has_extensions() => return Route::Drop(Reason::Extension),
        Ok(view) => (view.source(), view.destination()),
        Err(PacketError::ExtensionCount(_)) => return Route::Drop(Reason::Extension),
        Err(_) => return Route::Drop(Reason::Malformed),
    };
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else {
        return Route::Drop(Reason::NoRoute);
    };
    if !from.prefix().contains(source) || source == from.prefix().network() {
        return Route::Drop(Reason::ForeignSource);
    }
    match from.project.locate(destination) {
        _ if destination == relay => {}
        Some(Place::Agent(node, ..) | Place::AnyAgent(node)) if node != RELAY_NODE => {
            return Route::Drop(Reason::NotAllowed);
        }
        _ => return Route::Drop(Reason::NoRoute),
    }
    if decrement_hop_limit(packet).is_err() {
        return Route::Drop(Reason::HopLimit);
    }
    Route::Relay
}

#[cfg(test)]
mod tests {
    use underpass_shared::prefix::{AgentNumber, NodeNumber, ProjectPrefix};

    use super::*;

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
        route(&mut packet(source, destination, 17, 64), &admission(1), admission(1).project.relay_address())
    }

    #[test]
    fn a_packet_to_the_relay_goes_there_with_one_hop_less() {
        let relay = admission(1).project.relay_address();
        let mut packet = packet(admission(1).prefix().address(), relay, 17, 64);
        assert_eq!(route(&mut packet, &admission(1), relay), Route::Relay);
        assert_eq!(packet[7], 63);
    }

    #[test]
    fn sources_that_are_not_the_sessions_own_are_dropped() {
        let relay = admission(1).project.relay_address();
        for source in [
            admission(2).prefix().address(),
            relay,
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::UNSPECIFIED,
            admission(1).prefix().network(),
        ] {
            assert_eq!(routed(source, relay), Route::Drop(Reason::ForeignSource), "{source}");
        }
    }

    #[test]
    fn other_nodes_deny_and_the_outside_has_no_route() {
        let own = admission(1);
        let source = own.prefix().address();
        assert_eq!(routed(source, admission(2).prefix().address()), Route::Drop(Reason::NotAllowed));
        assert_eq!(routed(source, own.project.node(NodeNumber(9)).network()), Route::Drop(Reason::NotAllowed));
        let other = Admission { project: ProjectPrefix::from_global_id([8; 5]), ..own };
        for outside in [other.project.relay_address(), "2001:db8::1".parse().unwrap(), own.project.network()] {
            assert_eq!(routed(source, outside), Route::Drop(Reason::NoRoute), "{outside}");
        }
    }

    #[test]
    fn what_is_cut_extended_or_out_of_hops_is_dropped_by_its_reason() {
        let (source, relay) = (admission(1).prefix().address(), admission(1).project.relay_address());
        let dropped = |mut packet: Vec<u8>| route(&mut packet, &admission(1), relay);
        assert_eq!(dropped(packet(source, relay, 17, 1)), Route::Drop(Reason::HopLimit));
        assert_eq!(dropped(packet(source, relay, 44, 64)), Route::Drop(Reason::Fragment), "a fragment header");
        assert_eq!(dropped(packet(source, relay, 17, 64)[..47].to_vec()), Route::Drop(Reason::Malformed));
        assert_eq!(dropped(Vec::new()), Route::Drop(Reason::Malformed));
        assert_eq!(dropped(vec![0x45; 20]), Route::Drop(Reason::Malformed));
    }
}
