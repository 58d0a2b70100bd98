//! What the relay has said of our addresses and of what lies behind it, and which packets agree with that.
//!
//! The relay checks the same; here it is checked again, so that neither end has to trust the other.

use std::net::IpAddr;

use ipnet::IpNet;
use underpass_shared::{
    ledger::Reason,
    packet::{IpView, PacketError, protocol},
    prefix::{Place, ProjectPrefix},
    wire::connect_ip::{AddressAssign, AddressRange, RouteAdvertisement},
};

/// The addresses of a session and the routes that it may use, as last said; both are replaced whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    own: Vec<IpNet>,
    ranges: Vec<AddressRange>,
}

impl Routes {
    /// The addresses that are ours from now on; what is not in it is ours no more (RFC 9484 §4.7.1).
    pub fn set_assigned(&mut self, assigned: &AddressAssign) {
        self.own = assigned.entries().iter().map(|entry| entry.prefix).collect();
    }

    /// Where packets may go from now on (RFC 9484 §4.7.3).
    pub fn set_advertised(&mut self, advertised: &RouteAdvertisement) {
        self.ranges = advertised.ranges().to_vec();
    }

    /// Whether a packet may have come out of the session: to us, from where routes lead.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, packet: &[u8]) -> Result<(), Reason> {
        let view = plain(packet)?;
        if !self.leads_to(view.source(), view.protocol()) || stands_for_many(view.source()) {
            return Err(Reason::ForeignSource);
        }
        if self.is_own(view.destination()) { Ok(()) } else { Err(Reason::NoRoute) }
    }

    /// Whether a packet of ours may go into the session.
    ///
    /// # Errors
    /// Why not.
    pub fn lead(&self, packet: &[u8]) -> Result<(), Reason> {
        let view = plain(packet)?;
        if !self.is_own(view.source()) {
            return Err(Reason::ForeignSource);
        }
        if self.leads_to(view.destination(), view.protocol()) { Ok(()) } else { Err(Reason::NoRoute) }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.iter().any(|net| net.contains(&address))
    }

    /// ICMP is never held back by a range's protocol (RFC 9484 §4.7.3).
    fn leads_to(&self, address: IpAddr, protocol: u8) -> bool {
        let is_icmp = protocol == protocol::ICMP || protocol == protocol::ICMPV6;
        let asked = |range: &AddressRange| if is_icmp { range.protocol() } else { protocol };
        self.ranges.iter().any(|range| range.contains(address, asked(range)))
    }
}

/// A packet that the relay would forward: it drops fragments, options and extension headers.
fn plain(packet: &[u8]) -> Result<IpView<'_>, Reason> {
    match IpView::parse(packet) {
        Ok(view) if view.is_fragment() => Err(Reason::Fragment),
        Ok(view) if view.has_extensions() => Err(Reason::Extension),
        Ok(view) => Ok(view),
        Err(PacketError::ExtensionCount(_)) => Err(Reason::Extension),
        Err(_) => Err(Reason::Malformed),
    }
}

/// `NODE::` is any agent of a node, and none sends from it.
fn stands_for_many(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else { return false };
    let place = ProjectPrefix::of(address).and_then(|project| project.locate(address));
    matches!(place, Some(Place::AnyAgent(_)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use underpass_shared::wire::connect_ip::AssignedAddress;

    use super::*;

    const OWN: &str = "fd00:0:0:1:0:100:0:1";

    fn routes(ranges: &[(&str, u8)]) -> Routes {
        let mut routes = Routes::default();
        let prefix = "fd00:0:0:1:0:100::/96".parse().unwrap();
        routes.set_assigned(&AddressAssign::new([AssignedAddress { request_id: 0, prefix }]));
        let range = |(net, protocol): &(&str, u8)| {
            let of = AddressRange::of(net.parse().unwrap());
            AddressRange::new(of.start(), of.end(), *protocol).unwrap()
        };
        routes.set_advertised(&RouteAdvertisement::new(ranges.iter().map(range)).unwrap());
        routes
    }

    fn packet(source: &str, destination: &str, next: u8) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        for address in [source, destination] {
            packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        packet
    }

    #[test]
    fn packets_go_and_come_where_routes_lead_and_nowhere_else() {
        let routes = routes(&[("fd00:0:0:2::/64", 0)]);
        for (far, own, there, back) in [
            ("fd00:0:0:2::7", OWN, Ok(()), Ok(())),
            ("fd00:0:0:2::7", "fd00:0:0:1:0:100:c000:207", Ok(()), Ok(())),
            ("fd00:0:0:3::7", OWN, Err(Reason::NoRoute), Err(Reason::ForeignSource)),
            ("fd00:0:0:2::7", "fd00:0:0:1:0:200:0:1", Err(Reason::ForeignSource), Err(Reason::NoRoute)),
        ] {
            assert_eq!(routes.lead(&packet(own, far, 17)), there, "{own} to {far}");
            assert_eq!(routes.admit(&packet(far, own, 17)), back, "{far} to {own}");
        }
        assert_eq!(routes.lead(&[0x60; 39]), Err(Reason::Malformed));
        assert_eq!(routes.admit(&[]), Err(Reason::Malformed));
    }

    #[test]
    fn a_route_for_one_protocol_takes_that_and_icmp() {
        let routes = routes(&[("fd00:0:0:2::/64", 6)]);
        assert_eq!(routes.lead(&packet(OWN, "fd00:0:0:2::7", 6)), Ok(()));
        assert_eq!(routes.lead(&packet(OWN, "fd00:0:0:2::7", 58)), Ok(()));
        assert_eq!(routes.lead(&packet(OWN, "fd00:0:0:2::7", 17)), Err(Reason::NoRoute));
    }

    #[test]
    fn what_is_said_last_counts_alone() {
        let mut routes = routes(&[("fd00:0:0:2::/64", 0)]);
        routes.set_advertised(&RouteAdvertisement::new([]).unwrap());
        assert_eq!(routes.lead(&packet(OWN, "fd00:0:0:2::7", 6)), Err(Reason::NoRoute));
        routes.set_assigned(&AddressAssign::new([]));
        assert_eq!(routes.lead(&packet(OWN, "fd00:0:0:2::7", 6)), Err(Reason::ForeignSource));
    }
    #[test]
    fn what_is_no_plain_packet_is_dropped_by_its_reason() {
        let routes = routes(&[("fd00:0:0:2::/64", 0)]);
        let with_header = |next: u8| {
            let mut packet = packet("fd00:0:0:2:0:100:0:1", OWN, next);
            // A header of eight bytes that is the last: 59 is No Next Header (RFC 8200 §4.7).
            packet[5] = 8;
            packet.extend([59, 0, 0, 0, 0, 0, 0, 0]);
            packet
        };
        assert_eq!(routes.admit(&with_header(17)), Ok(()));
        for (next, reason) in [(44, Reason::Fragment), (43, Reason::Extension), (0, Reason::Extension)] {
            assert_eq!(routes.admit(&with_header(next)), Err(reason), "{next}");
        }
        assert_eq!(routes.admit(&with_header(17)[..47]), Err(Reason::Malformed));
        assert_eq!(routes.lead(&[]), Err(Reason::Malformed));
    }

    #[test]
    fn nobody_sends_from_an_address_that_stands_for_many() {
        let routes = routes(&[("fd00:0:0:2::/64", 0)]);
        assert_eq!(routes.admit(&packet("fd00:0:0:2::", OWN, 17)), Err(Reason::ForeignSource));
    }
}
