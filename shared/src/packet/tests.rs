//! Both views against packets built by hand, against lies, and against noise.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::build::{ipv4, ipv6, seal};
use super::{Extension, HopError, IpView, Ipv4View, Ipv6View, PacketError, Transport, decrement_hop_limit, protocol};

const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1);
const A4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const B4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

#[test]
fn lengths_that_lie_are_refused_by_name() {
    let good = ipv6(A, B, protocol::UDP, 64, &[0; 8]);
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Ipv6View::parse(&longer).unwrap_err(), PacketError::Length { stated: 48, present: 49 });
    assert_eq!(Ipv6View::parse(&good[..47]).unwrap_err(), PacketError::Length { stated: 48, present: 47 });
    assert_eq!(
        Ipv6View::parse(&good[..39]).unwrap_err(),
        PacketError::Truncated { part: "header", needed: 40, present: 39 }
    );
    let mut jumbo = good;
    jumbo[4..6].fill(0);
    assert_eq!(Ipv6View::parse(&jumbo).unwrap_err(), PacketError::Length { stated: 40, present: 48 });
    assert_eq!(IpView::parse(&[]).unwrap_err(), PacketError::Truncated { part: "version", needed: 1, present: 0 });
    assert_eq!(IpView::parse(&[0x50; 64]).unwrap_err(), PacketError::Version(5));
    assert_eq!(Ipv4View::parse(&[0x60; 64]).unwrap_err(), PacketError::Version(6));
}

#[test]
fn an_ipv4_header_length_below_five_or_beyond_the_packet_is_refused() {
    let mut packet = ipv4((A4, B4), protocol::TCP, 64, &[], &[0; 8]);
    packet[0] = 0x44;
    assert_eq!(Ipv4View::parse(&packet).unwrap_err(), PacketError::HeaderLength(4));
    packet[0] = 0x4f;
    assert_eq!(Ipv4View::parse(&packet).unwrap_err(), PacketError::HeaderLength(15));
}

#[test]
fn an_ipv4_total_length_other_than_the_buffers_is_refused() {
    let mut packet = ipv4((A4, B4), protocol::TCP, 64, &[], &[0; 8]);
    packet[3] = 60;
    seal(&mut packet);
    assert_eq!(Ipv4View::parse(&packet).unwrap_err(), PacketError::Length { stated: 60, present: 28 });
    packet[3] = 20;
    seal(&mut packet);
    assert_eq!(Ipv4View::parse(&packet).unwrap_err(), PacketError::Length { stated: 20, present: 28 });
}

#[test]
fn a_flipped_bit_in_an_ipv4_header_is_seen() {
    let packet = ipv4((A4, B4), protocol::TCP, 64, &[1, 1, 1, 1], &[0; 8]);
    for bit in 64..24 * 8 {
        let mut flipped = packet.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Ipv4View::parse(&flipped).unwrap_err(), PacketError::HeaderChecksum, "bit {bit}");
    }
}

#[test]
fn fragments_and_extension_headers_are_recognised() {
    let udp = [0, 1, 0, 2, 0, 8, 0, 0];
    let options = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp].concat();
    let packet = ipv6(A, B, 60, 64, &options);
    let view = Ipv6View::parse(&packet).unwrap();
    assert_eq!(view.extension(), Some(Extension::Other(60)));
    assert_eq!((view.next_header(), view.protocol(), view.payload()), (60, protocol::UDP, &udp[..]));

    let fragment = [&[44, 0, 1, 4, 0, 0, 0, 0][..], &[protocol::UDP, 0, 0, 0, 0, 0, 0, 9], &udp].concat();
    let packet = ipv6(A, B, 0, 64, &fragment);
    let view = IpView::parse(&packet).unwrap();
    assert!(view.is_fragment());
    assert!(view.has_extensions());
    assert_eq!(view.five_tuple(), Ok(None));

    let mut packet = ipv4((A4, B4), protocol::UDP, 64, &[], &udp);
    assert!(!IpView::parse(&packet).unwrap().is_fragment());
    for flags in [[0x20, 0], [0, 1], [0x1f, 0xff]] {
        packet[6..8].copy_from_slice(&flags);
        seal(&mut packet);
        assert!(IpView::parse(&packet).unwrap().is_fragment(), "{flags:?}");
    }
}

#[test]
fn an_extension_header_that_does_not_fit_is_refused() {
    let packet = ipv6(A, B, 43, 64, &[protocol::TCP, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        Ipv6View::parse(&packet).unwrap_err(),
        PacketError::Truncated { part: "extension header", needed: 56, present: 48 }
    );
    let packet = ipv6(A, B, 0, 64, &[59]);
    assert_eq!(
        Ipv6View::parse(&packet).unwrap_err(),
        PacketError::Truncated { part: "extension header", needed: 2, present: 1 }
    );
    let endless = [60, 0, 0, 0, 0, 0, 0, 0].repeat(9);
    assert_eq!(Ipv6View::parse(&ipv6(A, B, 60, 64, &endless)).unwrap_err(), PacketError::ExtensionCount(8));
}

#[test]
fn ports_that_are_cut_off_are_an_error_and_other_protocols_have_none() {
    let packet = ipv6(A, B, protocol::TCP, 64, &[0, 80, 1]);
    assert_eq!(
        IpView::parse(&packet).unwrap().five_tuple(),
        Err(PacketError::Truncated { part: "ports", needed: 4, present: 3 })
    );
    let packet = ipv6(A, B, protocol::ICMPV6, 64, &[128, 0, 0, 0]);
    assert_eq!(IpView::parse(&packet).unwrap().five_tuple(), Ok(None));
}

#[test]
fn a_used_up_hop_limit_stops_a_packet_and_leaves_it_as_it_was() {
    for limit in [0, 1] {
        for packet in [ipv6(A, B, protocol::TCP, limit, &[]), ipv4((A4, B4), protocol::TCP, limit, &[], &[])] {
            let mut forwarded = packet.clone();
            assert_eq!(decrement_hop_limit(&mut forwarded), Err(HopError::Expired));
            assert_eq!(forwarded, packet);
        }
    }
}

proptest! {
    #[test]
    fn noise_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..3) {
        if let Some(first) = bytes.first_mut() && version > 0 {
            *first = (*first & 0x0f) | (version * 2 + 2) << 4;
        }
        if version == 2 && bytes.len() >= 40 {
            let length = u16::try_from(bytes.len() - 40).unwrap().to_be_bytes();
            bytes[4..6].copy_from_slice(&length);
        }
        if let Ok(view) = IpView::parse(&bytes) {
            let _ = (view.source(), view.destination(), view.hop_limit(), view.five_tuple());
            prop_assert!(view.payload().len() < bytes.len());
        }
        let _ = decrement_hop_limit(&mut bytes);
    }

    #[test]
    fn a_built_ipv6_packet_reads_as_built(
        source: u128, destination: u128, limit: u8, ports: (u16, u16), udp: bool,
        body in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let number = if udp { protocol::UDP } else { protocol::TCP };
        let payload = [&ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &body].concat();
        let packet = ipv6(source.into(), destination.into(), number, limit, &payload);
        let view = IpView::parse(&packet).unwrap();
        let tuple = view.five_tuple().unwrap().unwrap();
        prop_assert_eq!(tuple.source, (Ipv6Addr::from(source), ports.0).into());
        prop_assert_eq!(tuple.destination, (Ipv6Addr::from(destination), ports.1).into());
        prop_assert_eq!(tuple.transport, if udp { Transport::Udp } else { Transport::Tcp });
        prop_assert_eq!(view.hop_limit(), limit);
        prop_assert_eq!(view.payload(), &payload);
        prop_assert!(!view.has_extensions());
    }

    #[test]
    fn a_built_ipv4_packet_reads_as_built_and_stays_sealed_when_forwarded(
        source: u32, destination: u32, limit in 2u8.., words in 0usize..=10,
        body in proptest::collection::vec(any::<u8>(), 4..100),
    ) {
        let options = vec![1; words * 4];
        let mut packet = ipv4((source.into(), destination.into()), protocol::UDP, limit, &options, &body);
        let view = Ipv4View::parse(&packet).unwrap();
        prop_assert_eq!((view.source(), view.destination()), (source.into(), destination.into()));
        prop_assert_eq!((view.hop_limit(), view.protocol(), view.payload()), (limit, protocol::UDP, &body[..]));
        prop_assert_eq!(view.has_options(), words > 0);
        for left in (1..limit).rev() {
            prop_assert_eq!(decrement_hop_limit(&mut packet), Ok(left));
            prop_assert_eq!(Ipv4View::parse(&packet).map(|view| view.hop_limit()), Ok(left));
        }
    }
}
