//! Who may reach whom through the tunnels, as `TunnelNode.spec` has it. Pure; `translate` builds it, [`super::Tunnels`] holds it.
//!
//! Owns the node's half of the consent. The other half is the agent's: what it publishes. Who is not named may not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use underpass_shared::identity::{NodeName, ProjectName};

/// What every node has consented to, replaced whole when any of it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consent {
    projects: BTreeMap<ProjectName, BTreeMap<NodeName, NodeConsent>>,
}

/// What one node's spec says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeConsent {
    /// Whether the node's agents may reach the internet through the relay (`egressGateway.enabled`).
    pub egress: bool,
    /// Which nodes may reach it (`allowFrom`). Several for one node add up.
    pub admits: Vec<Admits>,
}

/// A node that may come, and to which ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admits {
    pub node: NodeName,
    pub ports: Ports,
}

/// Ports of TCP and UDP alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// All that the node publishes.
    All,
    /// Those in any of the ranges; in an empty one, or in none at all, there is no port.
    Only(Vec<RangeInclusive<u16>>),
}

/// What is to be reached at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Tcp(u16),
    Udp(u16),
    /// Echo, and errors about what was sent: it has no ports, and whoever may come to any may be heard.
    Icmp,
}

impl Consent {
    /// Enters what `node` says, in place of what it said before.
    pub fn insert(&mut self, project: ProjectName, node: NodeName, consent: NodeConsent) {
        self.projects.entry(project).or_default().insert(node, consent);
    }

    /// Whether agents of `from` may reach `service` at agents of `to`.
    ///
    /// A node is no exception to itself: its agents reach one another when its `allowFrom` names it. Answers to what was
    /// allowed are the caller's to know. Runs in O(entries of `to`).
    #[must_use]
    pub fn may_send(&self, project: &ProjectName, from: &NodeName, to: &NodeName, service: Service) -> bool {
        let admits = self.of(project, to).map_or(&[][..], |consent| &consent.admits);
        admits.iter().filter(|admits| admits.node == *from).any(|admits| admits.ports.contain(service))
    }

    /// Whether agents of `node` may reach the internet through the relay.
    #[must_use]
    pub fn may_leave(&self, project: &ProjectName, node: &NodeName) -> bool {
        self.of(project, node).is_some_and(|consent| consent.egress)
    }

    /// The nodes of which `from` may reach something, in order: whose addresses it has a use for.
    pub fn reachable<'a>(&'a self, project: &ProjectName, from: &'a NodeName) -> impl Iterator<Item = &'a NodeName> {
        let nodes = self.projects.get(project).into_iter().flatten();
        let admits = move |consent: &NodeConsent| {
            consent.admits.iter().any(|admits| admits.node == *from && admits.ports.contain(Service::Icmp))
        };
        nodes.filter(move |(_, consent)| admits(consent)).map(|(node, _)| node)
    }

    /// The nodes that `node` may reach something of, and those that may reach something of it, in order: packets to and
    /// from their addresses are for it to expect.
    #[must_use]
    pub fn neighbours(&self, project: &ProjectName, node: &NodeName) -> BTreeSet<NodeName> {
        let admits = self.of(project, node).map_or(&[][..], |consent| &consent.admits);
        let come = admits.iter().filter(|admits| admits.ports.contain(Service::Icmp)).map(|admits| &admits.node);
        self.reachable(project, node).chain(come).cloned().collect()
    }

    fn of(&self, project: &ProjectName, node: &NodeName) -> Option<&NodeConsent> {
        self.projects.get(project)?.get(node)
    }
}

impl Ports {
    fn contain(&self, service: Service) -> bool {
        match (self, service) {
            (Self::All, _) => true,
            (Self::Only(ranges), Service::Tcp(port) | Service::Udp(port)) => {
                ranges.iter().any(|range| range.contains(&port))
            }
            (Self::Only(ranges), Service::Icmp) => ranges.iter().any(|range| !range.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn project(text: &str) -> ProjectName {
        text.parse().unwrap()
    }

    fn only(ranges: &[(u16, u16)]) -> Ports {
        Ports::Only(ranges.iter().map(|&(first, last)| first..=last).collect())
    }

    /// `office` admits as told, and may not leave.
    fn office(admits: &[(&str, Ports)]) -> Consent {
        let admits = admits.iter().map(|(node, ports)| Admits { node: name(node), ports: ports.clone() }).collect();
        let mut consent = Consent::default();
        consent.insert(project("default"), name("office"), NodeConsent { egress: false, admits });
        consent
    }

    fn check(consent: &Consent, from: &str, to: &str, service: Service) -> bool {
        consent.may_send(&project("default"), &name(from), &name(to), service)
    }

    const ALL: [Service; 3] = [Service::Tcp(80), Service::Udp(80), Service::Icmp];

    #[test]
    fn who_is_not_named_may_not() {
        let consent = office(&[("laptop", Ports::All)]);
        for service in ALL {
            assert!(check(&consent, "laptop", "office", service), "{service:?}");
            assert!(!check(&consent, "phone", "office", service), "{service:?}");
            assert!(!check(&consent, "office", "laptop", service), "consent has a direction: {service:?}");
            assert!(
                !check(&consent, "office", "office", service),
                "a node does not name itself by itself: {service:?}"
            );
            assert!(!check(&consent, "laptop", "nowhere", service), "{service:?}");
            assert!(!check(&Consent::default(), "laptop", "office", service), "{service:?}");
        }
    }

    #[test]
    fn ports_are_for_both_transports_and_icmp_is_for_whoever_has_one() {
        let consent = office(&[("laptop", only(&[(80, 80), (8000, 8010)])), ("phone", only(&[]))]);
        for (port, want) in [(79, false), (80, true), (81, false), (8000, true), (8010, true), (8011, false)] {
            assert_eq!(check(&consent, "laptop", "office", Service::Tcp(port)), want, "TCP {port}");
            assert_eq!(check(&consent, "laptop", "office", Service::Udp(port)), want, "UDP {port}");
        }
        assert!(check(&consent, "laptop", "office", Service::Icmp));
        assert!(!check(&consent, "phone", "office", Service::Icmp));
        let inverted = office(&[("laptop", only(&[(90, 80)]))]);
        assert!(!check(&inverted, "laptop", "office", Service::Tcp(85)));
        assert!(!check(&inverted, "laptop", "office", Service::Icmp), "an empty range is no port");
    }

    #[test]
    fn several_entries_for_one_node_add_up() {
        let consent = office(&[("laptop", only(&[(80, 80)])), ("laptop", only(&[(443, 443)]))]);
        assert!([80, 443].iter().all(|&port| check(&consent, "laptop", "office", Service::Tcp(port))));
        assert!(!check(&consent, "laptop", "office", Service::Tcp(444)));
    }

    #[test]
    fn equal_names_in_another_project_are_others() {
        let consent = office(&[("laptop", Ports::All)]);
        assert!(!consent.may_send(&project("red"), &name("laptop"), &name("office"), Service::Tcp(80)));
        assert_eq!(consent.reachable(&project("red"), &name("laptop")).count(), 0);
    }

    #[test]
    fn neighbours_are_those_that_may_come_and_those_that_may_be_reached() {
        let mut consent = office(&[("laptop", only(&[(80, 80)])), ("phone", only(&[]))]);
        let of = |consent: &Consent, node: &str| -> Vec<String> {
            let found = consent.neighbours(&project("default"), &name(node));
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(of(&consent, "office"), ["laptop"]);
        assert_eq!(of(&consent, "laptop"), ["office"]);
        assert_eq!(of(&consent, "phone"), Vec::<String>::new());
        let admits = vec![Admits { node: name("office"), ports: Ports::All }];
        consent.insert(project("default"), name("printer"), NodeConsent { egress: false, admits });
        assert_eq!(of(&consent, "office"), ["laptop", "printer"]);
        assert_eq!(consent.neighbours(&project("red"), &name("office")).len(), 0);
    }

    #[test]
    fn only_a_node_that_may_leave_may() {
        let mut consent = office(&[("laptop", Ports::All)]);
        consent.insert(project("default"), name("laptop"), NodeConsent { egress: true, admits: Vec::new() });
        assert!(consent.may_leave(&project("default"), &name("laptop")));
        assert!(!consent.may_leave(&project("default"), &name("office")));
        assert!(!consent.may_leave(&project("red"), &name("laptop")));
        assert!(!consent.may_leave(&project("default"), &name("nowhere")));
        consent.insert(project("default"), name("laptop"), NodeConsent::default());
        assert!(!consent.may_leave(&project("default"), &name("laptop")), "the newest word counts");
    }

    proptest! {
        #[test]
        fn a_node_is_reachable_when_something_of_it_is(
            entries in vec((0u8..3, 0u8..3, vec((0u16..6, 0u16..6), 0..3), any::<bool>()), 0..8),
        ) {
            let node = |number: u8| name(&format!("n{number}"));
            let mut consent = Consent::default();
            for to in 0..3 {
                let of_it = entries.iter().filter(|entry| entry.0 == to);
                let admits = of_it.map(|(_, from, ranges, all)| {
                    Admits { node: node(*from), ports: if *all { Ports::All } else { only(ranges) } }
                });
                let admits = admits.collect();
                consent.insert(project("default"), node(to), NodeConsent { egress: false, admits });
            }
            for from in 0..3 {
                let seen: Vec<_> = consent.reachable(&project("default"), &node(from)).cloned().collect();
                for to in 0..3 {
                    let may = |service| consent.may_send(&project("default"), &node(from), &node(to), service);
                    let any = (0..6).any(|port| may(Service::Tcp(port)));
                    prop_assert_eq!(seen.contains(&node(to)), any, "{} to {}", from, to);
                    prop_assert_eq!(may(Service::Icmp), any);
                    prop_assert!((0..6).all(|port| may(Service::Tcp(port)) == may(Service::Udp(port))));
                }
            }
        }
    }
}
