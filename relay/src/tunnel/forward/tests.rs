use std::time::Duration;

use proptest::prelude::*;
use underpass_shared::{identity::AgentIdentity, packet::protocol, prefix::ProjectPrefix};

use super::*;
use crate::{
    clock,
    tunnel::consent::{Admits, NodeConsent, Ports, Service},
};

const SECOND: Duration = Duration::from_secs(1);

/// An agent for tests: project, node and agent by number.
type Who = (u8, u8, u8);

fn project(number: u8) -> ProjectName {
    format!("p{number}").parse().unwrap()
}

fn node(number: u8) -> NodeName {
    format!("n{number}").parse().unwrap()
}

fn admission((project, node, agent): Who) -> Admission {
    Admission {
        project: ProjectPrefix::from_global_id([project; 5]),
        node: NodeNumber(node.into()),
        agent: AgentNumber::new(agent.into()).unwrap(),
    }
}

fn address(who: Who) -> Ipv6Addr {
    admission(who).prefix().address()
}

/// Sessions by who holds them.
fn registry(agents: &[Who]) -> Registry<Who> {
    let mut registry = Registry::default();
    for &who in agents {
        let agent = format!("a{}", who.2).parse().unwrap();
        let identity = AgentIdentity { project: project(who.0), node: node(who.1), agent };
        registry.insert(identity, admission(who), who);
    }
    registry
}

/// In each project `to` admits `from` to these ports.
fn consent(entries: &[(u8, u8, u8, &[u16])]) -> Arc<Consent> {
    let mut consent = Consent::default();
    for &(in_project, to, _, _) in entries {
        let of_it = entries.iter().filter(|entry| (entry.0, entry.1) == (in_project, to));
        let admits = of_it.map(|(_, _, from, ports)| Admits {
            node: node(*from),
            ports: Ports::Only(ports.iter().map(|&port| port..=port).collect()),
        });
        consent.insert(project(in_project), node(to), NodeConsent { egress: false, admits: admits.collect() });
    }
    Arc::new(consent)
}

/// An IPv6 packet. Checksums are not looked at on the way.
fn ipv6((source, destination): (Ipv6Addr, Ipv6Addr), next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn udp(from: Who, to: Who, (source, destination): (u16, u16)) -> Vec<u8> {
    let payload = [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 8, 0, 0]].concat();
    ipv6((address(from), address(to)), protocol::UDP, 64, &payload)
}

fn tcp(from: Who, to: Who, (source, destination): (u16, u16), flags: u8) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let payload = [&ports[..], &[0; 8], &[0x50, flags, 0, 0, 0, 0, 0, 0]].concat();
    ipv6((address(from), address(to)), protocol::TCP, 64, &payload)
}

fn icmp(from: Who, to: Who, kind: u8, rest: &[u8]) -> Vec<u8> {
    let payload = [&[kind, 0, 0, 0][..], rest].concat();
    ipv6((address(from), address(to)), protocol::ICMPV6, 64, &payload)
}

/// What came of a packet, in a form that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Relay,
    To(Who),
    Refused(Reason, Answer),
    Lost(Reason),
}

const PROHIBITED: Fate = Fate::Refused(Reason::NotAllowed, Answer::Unreachable(Unreachable::Prohibited));
const NO_ROUTE: Fate = Fate::Refused(Reason::NoRoute, Answer::Unreachable(Unreachable::NoRoute));
const AWAY: Fate = Fate::Refused(Reason::NoSession, Answer::Unreachable(Unreachable::Address));

/// A relay's forwarding with its registry and a clock that is moved by hand.
struct Bench {
    forwarding: Forwarding,
    registry: Registry<Who>,
    now: Instant,
}

impl Bench {
    fn new(agents: &[Who], consent: &Arc<Consent>) -> Self {
        let mut forwarding = Forwarding::default();
        forwarding.set_consent(consent);
        Self { forwarding, registry: registry(agents), now: clock::instant() }
    }

    fn route(&mut self, from: Who, packet: &[u8]) -> Fate {
        let (project, node) = (project(from.0), node(from.1));
        let origin = Origin { project: &project, node: &node, admission: admission(from) };
        match self.forwarding.route(packet, &origin, &self.registry, self.now) {
            Route::Relay => Fate::Relay,
            Route::Session(entry) => Fate::To(entry.session),
            Route::Refused(reason, answer) => Fate::Refused(reason, answer),
            Route::Lost(reason) => Fate::Lost(reason),
        }
    }
}

const LAPTOP: Who = (1, 1, 1);
const OFFICE: Who = (1, 2, 1);

/// The office admits the laptop to port 80 and nobody else to anything.
fn office() -> Bench {
    Bench::new(&[LAPTOP, OFFICE, (1, 3, 1), (2, 2, 1)], &consent(&[(1, 2, 1, &[80])]))
}

#[test]
fn a_node_reaches_what_it_was_allowed_and_its_answers_come_back() {
    let mut bench = office();
    for (there, back) in [
        (udp(LAPTOP, OFFICE, (5000, 80)), udp(OFFICE, LAPTOP, (80, 5000))),
        (tcp(LAPTOP, OFFICE, (5000, 80), 2), tcp(OFFICE, LAPTOP, (80, 5000), 18)),
        (icmp(LAPTOP, OFFICE, 128, &[0, 7, 0, 1]), icmp(OFFICE, LAPTOP, 129, &[0, 7, 0, 1])),
    ] {
        assert_eq!(bench.route(OFFICE, &back), PROHIBITED, "nothing was asked yet");
        assert_eq!(bench.route(LAPTOP, &there), Fate::To(OFFICE));
        assert_eq!(bench.route(OFFICE, &back), Fate::To(LAPTOP));
    }
}

#[test]
fn everything_else_is_denied() {
    let mut bench = office();
    assert_eq!(bench.route(LAPTOP, &udp(LAPTOP, OFFICE, (5000, 80))), Fate::To(OFFICE));
    for (from, packet, what) in [
        (LAPTOP, udp(LAPTOP, OFFICE, (5000, 81)), "another port"),
        ((1, 3, 1), udp((1, 3, 1), OFFICE, (5000, 80)), "another node"),
        (OFFICE, udp(OFFICE, LAPTOP, (80, 5001)), "an answer to another port"),
        (OFFICE, udp(OFFICE, LAPTOP, (81, 5000)), "an answer from another port"),
        (OFFICE, tcp(OFFICE, LAPTOP, (80, 5000), 16), "an answer of another protocol"),
        (OFFICE, icmp(OFFICE, LAPTOP, 129, &[0, 7, 0, 1]), "a reply without a request"),
        (LAPTOP, icmp(LAPTOP, OFFICE, 135, &[0; 20]), "neighbour discovery"),
        (LAPTOP, ipv6((address(LAPTOP), address(OFFICE)), 132, 64, &[0; 20]), "SCTP"),
        (LAPTOP, ipv6((address(LAPTOP), address(OFFICE)), protocol::UDP, 64, &[0]), "half a header"),
    ] {
        assert_eq!(bench.route(from, &packet), PROHIBITED, "{what}");
    }
}

#[test]
fn errors_pass_when_they_quote_a_flow_of_their_sender() {
    let mut bench = office();
    let asked = udp(LAPTOP, OFFICE, (5000, 80));
    let error = |from, to, quoted: &[u8]| icmp(from, to, 1, &[&[0; 4][..], quoted].concat());
    assert_eq!(bench.route(OFFICE, &error(OFFICE, LAPTOP, &asked)), PROHIBITED, "nothing was asked yet");
    assert_eq!(bench.route(LAPTOP, &asked), Fate::To(OFFICE));
    assert_eq!(bench.route(OFFICE, &error(OFFICE, LAPTOP, &asked)), Fate::To(LAPTOP));
    assert_eq!(bench.route(OFFICE, &error(OFFICE, LAPTOP, &asked[..48])), Fate::To(LAPTOP), "cut short");
    let answered = udp(OFFICE, LAPTOP, (80, 5000));
    assert_eq!(bench.route(LAPTOP, &error(LAPTOP, OFFICE, &answered)), Fate::To(OFFICE), "about an answer");
    for (from, to, quoted, what) in [
        (OFFICE, LAPTOP, udp(LAPTOP, OFFICE, (5001, 80)), "about what was not asked"),
        (OFFICE, LAPTOP, asked[..43].to_vec(), "with half the ports"),
        (OFFICE, LAPTOP, asked[..39].to_vec(), "with half a header"),
        ((1, 3, 1), LAPTOP, asked.clone(), "from a third"),
        (LAPTOP, OFFICE, asked.clone(), "about what it sent itself"),
    ] {
        assert_eq!(bench.route(from, &error(from, to, &quoted)), PROHIBITED, "{what}");
    }
}

#[test]
fn consent_that_is_taken_back_ends_what_it_had_allowed() {
    let mut bench = office();
    let (there, back) = (udp(LAPTOP, OFFICE, (5000, 80)), udp(OFFICE, LAPTOP, (80, 5000)));
    assert_eq!(bench.route(LAPTOP, &there), Fate::To(OFFICE));
    bench.forwarding.set_consent(&consent(&[(1, 2, 1, &[80, 443]), (1, 3, 2, &[1])]));
    assert_eq!(bench.route(OFFICE, &back), Fate::To(LAPTOP), "what is still allowed goes on");
    bench.forwarding.set_consent(&consent(&[(1, 2, 1, &[443])]));
    assert_eq!(bench.route(OFFICE, &back), PROHIBITED);
    assert_eq!(bench.route(LAPTOP, &there), PROHIBITED);
    bench.forwarding.set_consent(&consent(&[(1, 2, 1, &[80])]));
    assert_eq!(bench.route(OFFICE, &back), PROHIBITED, "the flow was forgotten");
}

#[test]
fn answers_pass_as_long_as_the_flow_is_known() {
    let mut bench = office();
    assert_eq!(bench.route(LAPTOP, &udp(LAPTOP, OFFICE, (5000, 80))), Fate::To(OFFICE));
    let back = udp(OFFICE, LAPTOP, (80, 5000));
    bench.now += SECOND * 299;
    assert_eq!(bench.route(OFFICE, &back), Fate::To(LAPTOP));
    bench.now += SECOND * 300;
    assert_eq!(bench.route(OFFICE, &back), PROHIBITED);
    bench.forwarding.handle_timeout(bench.now);
    assert!(bench.forwarding.flows.is_empty(), "nothing is left of it");
}

#[test]
fn sources_that_are_not_the_sessions_own_are_dropped() {
    let mut bench = office();
    let relay = admission(LAPTOP).project.relay_address();
    let network = admission(LAPTOP).prefix().network();
    for source in [address((1, 1, 2)), address(OFFICE), relay, Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, network] {
        for destination in [relay, address(OFFICE)] {
            let packet = ipv6((source, destination), protocol::UDP, 64, &[0, 1, 0, 80, 0, 8, 0, 0]);
            assert_eq!(bench.route(LAPTOP, &packet), Fate::Lost(Reason::ForeignSource), "{source}");
        }
    }
}

#[test]
fn addresses_of_nobody_have_no_route_and_agents_that_are_away_are_said_to_be() {
    let mut bench = office();
    let project = admission(LAPTOP).project;
    let behind = admission(OFFICE).prefix().embed([192, 0, 2, 7].into());
    let other = admission((2, 2, 1)).project;
    for outside in [
        other.relay_address(),
        address((2, 2, 1)),
        "2001:db8::1".parse().unwrap(),
        project.network(),
        project.node(NodeNumber(2)).network(),
        behind,
    ] {
        let packet = ipv6((address(LAPTOP), outside), protocol::UDP, 64, &[0, 1, 0, 80, 0, 8, 0, 0]);
        assert_eq!(bench.route(LAPTOP, &packet), NO_ROUTE, "{outside}");
    }
    assert_eq!(bench.route(LAPTOP, &udp(LAPTOP, (1, 2, 9), (5000, 80))), AWAY);
}

#[test]
fn the_relay_is_reached_by_everybody_as_far_as_hops_reach() {
    let mut bench = office();
    let ends = (address(LAPTOP), admission(LAPTOP).project.relay_address());
    assert_eq!(bench.route(LAPTOP, &ipv6(ends, protocol::UDP, 2, &[0; 8])), Fate::Relay);
    let expired = Fate::Refused(Reason::HopLimit, Answer::TimeExceeded);
    assert_eq!(bench.route(LAPTOP, &ipv6(ends, protocol::UDP, 1, &[0; 8])), expired);
    let mut last = udp(LAPTOP, OFFICE, (5000, 80));
    last[7] = 1;
    assert_eq!(bench.route(LAPTOP, &last), expired);
}

#[test]
fn what_is_cut_or_extended_is_dropped_by_its_reason() {
    let mut bench = office();
    let ends = (address(LAPTOP), admission(LAPTOP).project.relay_address());
    let fragment = ipv6(ends, 44, 64, &[17, 0, 0, 8, 0, 0, 0, 1]);
    assert_eq!(bench.route(LAPTOP, &fragment), Fate::Lost(Reason::Fragment));
    let options = ipv6(ends, 60, 64, &[17, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bench.route(LAPTOP, &options), Fate::Lost(Reason::Extension));
    for cut in [&options[..47], &[], &[0x45; 20]] {
        assert_eq!(bench.route(LAPTOP, cut), Fate::Lost(Reason::Malformed));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send { from: Who, to: Who, ports: (u16, u16) },
    Consent(Vec<(u8, u8, u8, Vec<u16>)>),
    Wait(u32),
}

fn who() -> impl Strategy<Value = Who> {
    (1u8..3, 1u8..3, 1u8..3)
}

fn step() -> impl Strategy<Value = Step> {
    let send = (who(), who(), (1u16..3, 1u16..3)).prop_map(|(from, to, ports)| Step::Send { from, to, ports });
    let entry = (1u8..3, 1u8..3, 1u8..3, proptest::collection::vec(1u16..3, 0..3));
    let consent = proptest::collection::vec(entry, 0..5).prop_map(Step::Consent);
    prop_oneof![8 => send, 1 => consent, 1 => (0u32..400).prop_map(Step::Wait)]
}

/// What is obvious: a list of flows, each with its end, and the consent of now, asked anew for each packet.
#[derive(Default)]
struct Naive {
    consent: Arc<Consent>,
    flows: Vec<(Who, Who, (u16, u16), Instant)>,
}

impl Naive {
    fn route(&mut self, from: Who, to: Who, ports: (u16, u16), now: Instant) -> Fate {
        if from.0 != to.0 {
            return NO_ROUTE;
        }
        self.flows.retain(|flow| now < flow.3);
        let back = (ports.1, ports.0);
        let may = |from: Who, to: Who, port| {
            self.consent.may_send(&project(from.0), &node(from.1), &node(to.1), Service::Udp(port))
        };
        let (may_begin, may_answer) = (may(from, to, ports.1), may(to, from, ports.0));
        let has = |flows: &[(Who, Who, (u16, u16), Instant)], from, to, ports| {
            flows.iter().position(|flow| (flow.0, flow.1, flow.2) == (from, to, ports))
        };
        let until = now + SECOND * 300;
        // What is not allowed any more is forgotten when it is next used.
        match has(&self.flows, from, to, ports) {
            Some(at) if may_begin => self.flows[at].3 = until,
            own => {
                own.map(|at| self.flows.remove(at));
                match has(&self.flows, to, from, back) {
                    Some(at) if may_answer => self.flows[at].3 = until,
                    begun => {
                        begun.map(|at| self.flows.remove(at));
                        if !may_begin {
                            return PROHIBITED;
                        }
                        self.flows.push((from, to, ports, until));
                    }
                }
            }
        }
        Fate::To(to)
    }
}

proptest! {
    #[test]
    fn the_tables_say_what_a_naive_list_says_and_projects_never_meet(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let everybody: Vec<Who> =
            (0..8u8).map(|bits| (1 + (bits & 1), 1 + (bits >> 1 & 1), 1 + (bits >> 2 & 1))).collect();
        let mut bench = Bench::new(&everybody, &Arc::default());
        let mut naive = Naive::default();
        for step in steps {
            match step {
                Step::Send { from, to, ports } => {
                    let fate = bench.route(from, &udp(from, to, ports));
                    prop_assert_eq!(fate, naive.route(from, to, ports, bench.now));
                    if let Fate::To(reached) = fate {
                        prop_assert_eq!(reached.0, from.0);
                    }
                }
                Step::Consent(entries) => {
                    let entries: Vec<_> =
                        entries.iter().map(|(project, to, from, ports)| (*project, *to, *from, &ports[..])).collect();
                    let consent = consent(&entries);
                    bench.forwarding.set_consent(&consent);
                    naive.consent = consent;
                }
                Step::Wait(seconds) => {
                    bench.now += SECOND * seconds;
                    bench.forwarding.handle_timeout(bench.now);
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_go_nowhere_and_never_panic(bytes: Vec<u8>, header in any::<bool>()) {
        let mut bench = office();
        let packet = match header {
            true => ipv6((address(LAPTOP), address(OFFICE)), bytes.first().copied().unwrap_or(58), 64, &bytes),
            false => bytes,
        };
        let fate = bench.route(LAPTOP, &packet);
        let may_pass = header && [protocol::TCP, protocol::UDP, protocol::ICMPV6].contains(&packet[6]);
        prop_assert!(may_pass || !matches!(fate, Fate::To(_) | Fate::Relay), "{:?}", fate);
    }
}
