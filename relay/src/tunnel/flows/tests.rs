use proptest::prelude::*;

use super::*;
use crate::clock;

const SECOND: Duration = Duration::from_secs(1);

fn key(number: u8, port: u16) -> FlowKey {
    let address = |last: u8| Ipv6Addr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    FlowKey { protocol: number, source: address(1), destination: address(2), ports: (port, 80) }
}

fn is_known(flows: &mut Flows, key: FlowKey, now: Instant) -> bool {
    flows.consent(key, now).is_some()
}

#[test]
fn each_kind_of_flow_is_forgotten_exactly_at_its_deadline() {
    let start = clock::instant();
    // What the beginner sends and what is answered, at once; then how long the flow is known.
    let cases: [(u8, Kind, &[Kind], Duration); 8] = [
        (protocol::TCP, Kind::TcpOpens, &[], TCP_TRANSITORY),
        (protocol::TCP, Kind::TcpOpens, &[Kind::TcpCarries], TCP_ESTABLISHED),
        (protocol::TCP, Kind::TcpOpens, &[Kind::TcpCarries, Kind::TcpEnds], TCP_TRANSITORY),
        (protocol::TCP, Kind::TcpOpens, &[Kind::TcpCarries, Kind::TcpEnds, Kind::TcpCarries], TCP_TRANSITORY),
        (protocol::TCP, Kind::TcpCarries, &[Kind::TcpCarries, Kind::Error], TCP_ESTABLISHED),
        (protocol::UDP, Kind::Udp, &[], UDP),
        (protocol::UDP, Kind::Udp, &[Kind::Udp], UDP),
        (protocol::ICMPV6, Kind::EchoRequest, &[Kind::EchoReply], ECHO),
    ];
    for (number, begins, answers, life) in cases {
        let mut flows = Flows::default();
        let key = key(number, 7);
        flows.begin(key, begins, 1, start);
        for &answer in answers {
            flows.answer(key, answer, 1, start);
        }
        let case = format!("{begins:?} {answers:?}");
        assert!(is_known(&mut flows, key, start + life - Duration::from_nanos(1)), "{case}");
        assert!(!is_known(&mut flows, key, start + life), "{case}");
        flows.handle_timeout(start + life);
        assert_eq!(flows.len(), 0, "{case}");
    }
}

#[test]
fn a_flow_in_use_is_kept_and_its_ports_may_be_used_again() {
    let mut now = clock::instant();
    let mut flows = Flows::default();
    let key = key(protocol::TCP, 1);
    flows.begin(key, Kind::TcpOpens, 1, now);
    flows.answer(key, Kind::TcpCarries, 1, now);
    for _ in 0..10 {
        now += TCP_ESTABLISHED - SECOND;
        flows.handle_timeout(now);
        flows.answer(key, Kind::TcpCarries, 1, now);
    }
    assert!(is_known(&mut flows, key, now));
    flows.begin(key, Kind::TcpEnds, 1, now);
    assert!(!is_known(&mut flows, key, now + TCP_TRANSITORY), "it ended");
    flows.begin(key, Kind::TcpOpens, 1, now);
    flows.answer(key, Kind::TcpCarries, 1, now);
    assert!(is_known(&mut flows, key, now + TCP_TRANSITORY), "and began again");
}

#[test]
fn an_answer_begins_nothing() {
    let now = clock::instant();
    let mut flows = Flows::default();
    flows.answer(key(protocol::UDP, 1), Kind::Udp, 1, now);
    assert!(!is_known(&mut flows, key(protocol::UDP, 1), now));
    assert!(flows.is_empty());
}

#[test]
fn at_the_limit_the_flow_that_would_be_forgotten_first_makes_room() {
    let start = clock::instant();
    let later = start + SECOND * 60;
    let mut flows = Flows::default();
    for number in 0..u16::try_from(FLOWS_MAX).unwrap() {
        flows.begin(key(protocol::UDP, number), Kind::Udp, 1, start + Duration::from_millis(number.into()));
    }
    // The oldest three are in use.
    for port in 0..3 {
        flows.answer(key(protocol::UDP, port), Kind::Udp, 1, later);
    }
    for port in 60_000..60_010 {
        flows.begin(key(protocol::UDP, port), Kind::Udp, 1, later);
    }
    assert_eq!(flows.len(), FLOWS_MAX);
    let known: Vec<_> = (0..16).map(|port| is_known(&mut flows, key(protocol::UDP, port), later)).collect();
    assert_eq!(known[..3], [true; 3], "flows in use stay");
    assert_eq!(known[3..13], [false; 10], "the oldest make room");
    assert_eq!(known[13..], [true; 3]);
    assert!((60_000..60_010).all(|port| is_known(&mut flows, key(protocol::UDP, port), later)));
}

proptest! {
    /// Against a list that is searched from end to end.
    #[test]
    fn the_table_knows_what_a_list_of_deadlines_knows(
        steps in proptest::collection::vec((0u16..6, 0u8..4, 0u32..200), 0..200),
    ) {
        let mut now = clock::instant();
        let mut flows = Flows::default();
        let mut list: Vec<(u16, Instant)> = Vec::new();
        for (port, what, seconds) in steps {
            now += SECOND * seconds;
            let key = key(protocol::UDP, port);
            list.retain(|(_, until)| now < *until);
            let position = list.iter().position(|(known, _)| *known == port);
            match what {
                0 => {
                    flows.begin(key, Kind::Udp, 1, now);
                    position.map(|at| list.remove(at));
                    list.push((port, now + UDP));
                }
                1 => {
                    flows.answer(key, Kind::Udp, 1, now);
                    if let Some(at) = position {
                        list[at].1 = now + UDP;
                    }
                }
                2 => {
                    flows.forget(key);
                    position.map(|at| list.remove(at));
                }
                _ => {
                    flows.handle_timeout(now);
                    prop_assert_eq!(flows.len(), list.len());
                }
            }
            for port in 0..6 {
                let known = list.iter().any(|(known, _)| *known == port);
                prop_assert_eq!(is_known(&mut flows, FlowKey { ports: (port, 80), ..key }, now), known);
            }
        }
    }
}
