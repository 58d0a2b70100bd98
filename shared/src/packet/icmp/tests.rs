use std::net::SocketAddr;

use super::*;
use crate::packet::build;

const RELAY: &str = "fd00::1";

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// All four errors that `offending` is answered with by `from`.
fn answers(offending: &[u8], from: &str) -> Vec<Option<BytesMut>> {
    let (view, from) = (IpView::parse(offending).unwrap(), from.parse().unwrap());
    vec![
        too_big(&view, from, 1280),
        time_exceeded(&view, from),
        unreachable(&view, from, Unreachable::Prohibited),
        unreachable(&view, from, Unreachable::Port),
    ]
}

#[test]
fn each_error_is_what_the_rfc_writes_over_both_versions() {
    let v6 = build::udp(socket("[fd00::2]:7"), socket("[fd00::3]:9"), &[1; 30]);
    let v4 = build::udp(socket("192.0.2.2:7"), socket("192.0.2.3:9"), &[1; 30]);
    for (offending, from, wanted) in [
        (&v6, RELAY, [(2, 0, 1280), (3, 0, 0), (1, 1, 0), (1, 4, 0)]),
        (&v4, "192.0.2.1", [(3, 4, 1280), (11, 0, 0), (3, 13, 0), (3, 3, 0)]),
    ] {
        let to = IpView::parse(offending).unwrap().source();
        for (answer, (kind, code, number)) in answers(offending, from).into_iter().zip(wanted) {
            let rest = [&u32::to_be_bytes(number)[..], offending].concat();
            let mut wanted = build::icmp(from.parse().unwrap(), to, kind, code, &rest);
            let answer = answer.unwrap();
            // The builder writes an identification and Don't Fragment, which mean nothing here.
            if to.is_ipv4() {
                wanted[4..12].copy_from_slice(&answer[4..12]);
            }
            assert_eq!(answer, wanted, "{kind} {code}");
            IpView::parse(&answer).unwrap();
        }
    }
}

#[test]
fn the_quotation_is_cut_so_that_the_answer_passes_every_link() {
    let v6 = build::udp(socket("[fd00::2]:7"), socket("[fd00::3]:9"), &[1; 3000]);
    let v4 = build::udp(socket("192.0.2.2:7"), socket("192.0.2.3:9"), &[1; 3000]);
    for (offending, from, bytes, quotation) in [(v6, RELAY, 1280, 48), (v4, "192.0.2.1", 576, 28)] {
        for answer in answers(&offending, from) {
            let answer = answer.unwrap();
            assert_eq!(answer.len(), bytes);
            assert_eq!(answer[quotation..], offending[..bytes - quotation]);
        }
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let error = |kind| build::icmp("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap(), kind, 0, &[0; 8]);
    let v4_error = |kind| build::icmp("192.0.2.2".parse().unwrap(), "192.0.2.3".parse().unwrap(), kind, 0, &[0; 8]);
    let between = |from: &str, to: &str| build::udp(socket(from), socket(to), b"hello");
    let (from, to) = ("fd00::2".parse().unwrap(), "fd00::3".parse().unwrap());
    let cases = [
        (error(1), RELAY, "an error"),
        (error(2), RELAY, "an error"),
        (error(127), RELAY, "an error not known yet"),
        (error(137), RELAY, "a redirect"),
        (build::ipv6(from, to, protocol::ICMPV6, 64, &[]), RELAY, "what may be an error"),
        (
            build::ipv6(from, to, 60, 64, &[protocol::ICMPV6, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            RELAY,
            "an error behind options",
        ),
        (build::ipv6(from, to, 44, 64, &[17, 0, 0, 8, 0, 0, 0, 1]), RELAY, "a fragment"),
        (between("[::]:1", "[fd00::3]:2"), RELAY, "from nobody"),
        (between("[ff02::1]:1", "[fd00::3]:2"), RELAY, "from a group"),
        (between("[fd00::2]:1", "[ff02::1]:2"), RELAY, "to a group"),
        (v4_error(3), "192.0.2.1", "an error"),
        (v4_error(5), "192.0.2.1", "a redirect"),
        (v4_error(11), "192.0.2.1", "an error"),
        (between("0.0.0.0:1", "192.0.2.3:2"), "192.0.2.1", "from nobody"),
        (between("127.0.0.1:1", "192.0.2.3:2"), "192.0.2.1", "from loopback"),
        (between("255.255.255.255:1", "192.0.2.3:2"), "192.0.2.1", "from all"),
        (between("192.0.2.2:1", "224.0.0.1:2"), "192.0.2.1", "to a group"),
        (between("192.0.2.2:1", "255.255.255.255:2"), "192.0.2.1", "to all"),
        (between("[fd00::2]:1", "[fd00::3]:2"), "192.0.2.1", "by one of the other version"),
    ];
    for (packet, by, what) in cases {
        assert_eq!(answers(&packet, by), [None, None, None, None], "{what}");
    }
    assert!(answers(&error(128), RELAY).iter().all(Option::is_some), "an echo request is no error");
    assert!(answers(&v4_error(8), "192.0.2.1").iter().all(Option::is_some), "an echo request is no error");
}

#[test]
fn errors_are_held_to_a_rate_with_a_burst() {
    let mut allowance = Allowance::default();
    let mut taken = |millis| (0..300).filter(|_| allowance.take(Duration::from_millis(millis))).count();
    assert_eq!(taken(5000), 100);
    assert_eq!(taken(5009), 0);
    assert_eq!(taken(5025), 2);
    assert_eq!(taken(5030), 1, "parts of a step are not lost");
    assert_eq!(taken(9_000_000), 100);
    assert_eq!(taken(5000), 0, "time that goes back fills nothing");
}
