//! Packets nobody should send: each is dropped for its own reason, and holds nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{all_lost, config, lost, service, settle, start};
use crate::ledger::Reason;
use crate::netstack::{DialError, Load, Netstack, PacketPort};
use crate::packet::build::{ACK, FIN, RST, SYN, icmp, ipv4, ipv6, seal, tcp, tcp_with, udp};
use crate::packet::{IpView, protocol};

fn peer(port: u16) -> SocketAddr {
    format!("[fd00:9::{port:x}]:{port}").parse().unwrap()
}

fn server() -> (Netstack, PacketPort) {
    let (stack, port, _) = start(config(&[super::SERVER, "100.64.0.2/32"]));
    (stack, port)
}

async fn answer(port: &mut PacketPort) -> Option<BytesMut> {
    tokio::time::timeout(Duration::from_millis(500), port.recv()).await.ok().flatten()
}

/// Flags, sequence and acknowledgement number of a segment.
fn header(packet: &[u8]) -> (u8, u32, u32) {
    let payload = IpView::parse(packet).unwrap().payload();
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    (payload[13], number(4), number(8))
}

#[tokio::test(start_paused = true)]
async fn a_syn_flood_is_held_to_pending_max_and_starves_no_flow() {
    let mut limited = config(&[super::SERVER]);
    limited.pending_max = 10;
    let (stack, mut port, _) = start(limited);
    for number in 1..=1000 {
        assert!(port.push(tcp(peer(number), service(), (1, 0), SYN, &[])));
        if number % 100 == 0 {
            settle().await;
        }
    }
    settle().await;
    assert_eq!(stack.load(), Load { flows: 0, pending: 10, lingering: 0 });
    assert_eq!(lost(&stack, Reason::PendingFull), 990);
    assert!(answer(&mut port).await.is_none(), "nothing was answered before a decision");
}

#[tokio::test(start_paused = true)]
async fn accepted_syns_that_are_never_confirmed_are_held_to_pending_max_too() {
    let mut limited = config(&[super::SERVER]);
    limited.pending_max = 10;
    let (stack, port, _) = start(limited);
    let accepting = stack.clone();
    tokio::spawn(async move {
        while let Some(pending) = accepting.accept().await {
            tokio::spawn(pending.accept());
        }
    });
    for number in 1..=200 {
        assert!(port.push(tcp(peer(number), service(), (1, 0), SYN, &[])));
        settle().await;
    }
    assert_eq!(stack.load(), Load { flows: 10, pending: 0, lingering: 0 });
    assert_eq!(lost(&stack, Reason::PendingFull), 190);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(stack.load().flows, 0, "half-open flows go by themselves");
    port.push(tcp(peer(1), service(), (1, 0), SYN, &[]));
    settle().await;
    assert_eq!(stack.load().flows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_stops_at_flows_max() {
    let mut limited = config(&[super::SERVER]);
    limited.flows_max = 5;
    let (stack, port, _) = start(limited);
    for number in 1..=50 {
        assert!(port.push(tcp(peer(number), service(), (1, 0), SYN, &[])));
    }
    settle().await;
    assert_eq!(stack.load().pending, 5);
    assert_eq!(lost(&stack, Reason::TableFull), 45);
}

#[tokio::test(start_paused = true)]
async fn a_syn_with_a_bad_checksum_holds_nothing_and_is_not_answered() {
    let (stack, mut port) = server();
    let mut packet = tcp(peer(1), service(), (1, 0), SYN, &[]);
    packet[40 + 16] ^= 1;
    port.push(packet);
    assert!(answer(&mut port).await.is_none());
    assert_eq!(stack.load(), Load { flows: 0, pending: 0, lingering: 0 });
    assert_eq!(lost(&stack, Reason::Checksum), 1);
    assert_eq!(all_lost(&stack), 1);
}

#[tokio::test(start_paused = true)]
async fn a_segment_of_no_flow_is_answered_by_a_reset_but_a_reset_is_not() {
    let (stack, mut port) = server();
    port.push(tcp(peer(1), service(), (70, 500), ACK, b"data"));
    assert_eq!(header(&answer(&mut port).await.unwrap()), (RST, 500, 0));
    port.push(tcp(peer(1), service(), (70, 0), FIN, b"data"));
    assert_eq!(header(&answer(&mut port).await.unwrap()), (RST | ACK, 0, 75));
    port.push(tcp(peer(1), service(), (70, 500), RST, &[]));
    assert!(answer(&mut port).await.is_none());
    assert_eq!(lost(&stack, Reason::TcpUnmatched), 3);
}

#[tokio::test(start_paused = true)]
async fn packets_are_dropped_each_for_its_reason() {
    let to = service();
    let from = peer(5);
    let IpAddr::V6(to_ip) = to.ip() else { unreachable!() };
    let IpAddr::V6(from_ip) = from.ip() else { unreachable!() };
    let syn = tcp(from, to, (1, 0), SYN, &[]);
    let fragment = [&[protocol::TCP, 0, 0, 1, 0, 0, 0, 9][..], &syn[40..]].concat();
    let routing = [&[protocol::TCP, 0, 0, 0, 0, 0, 0, 0][..], &syn[40..]].concat();
    let v4 =
        |source: [u8; 4], options: &[u8]| ipv4((source.into(), [100, 64, 0, 2].into()), 6, 64, options, &syn[40..]);
    let mut v4_fragment = v4([9, 9, 9, 9], &[]);
    v4_fragment[6] = 0x20;
    seal(&mut v4_fragment);
    let elsewhere: SocketAddr = "[fd00:3::1]:80".parse().unwrap();
    let own: SocketAddr = "[fd00:2::1]:9".parse().unwrap();
    let looped: SocketAddr = "[::1]:9".parse().unwrap();
    let group: SocketAddr = "[ff02::1]:9".parse().unwrap();
    let cases = [
        (vec![], Reason::Malformed),
        (vec![0x45], Reason::Malformed),
        (syn[..59].to_vec(), Reason::Malformed),
        (ipv6(from_ip, to_ip, protocol::TCP, 64, &syn[40..50]), Reason::Malformed),
        (tcp(peer(0), to, (1, 0), SYN, &[]), Reason::Malformed),
        (ipv6(from_ip, to_ip, 44, 64, &fragment), Reason::Fragment),
        (v4_fragment, Reason::Fragment),
        (ipv6(from_ip, to_ip, 43, 64, &routing), Reason::Extension),
        (v4([9, 9, 9, 9], &[1, 1, 1, 1]), Reason::Extension),
        (tcp(from, elsewhere, (1, 0), SYN, &[]), Reason::NoRoute),
        (tcp(own, to, (1, 0), SYN, &[]), Reason::ForeignSource),
        (tcp(looped, to, (1, 0), SYN, &[]), Reason::ForeignSource),
        (tcp(group, to, (1, 0), SYN, &[]), Reason::ForeignSource),
        (v4([255, 255, 255, 255], &[]), Reason::ForeignSource),
        (ipv6(from_ip, to_ip, 132, 64, &[0; 20]), Reason::UnknownProtocol),
        (ipv6(from_ip, to_ip, protocol::ICMP, 64, &[8; 20]), Reason::UnknownProtocol),
        (icmp(from.ip(), to.ip(), 129, 0, &[0; 8]), Reason::IcmpIgnored),
        (icmp(from.ip(), to.ip(), 2, 0, &[0; 60]), Reason::IcmpIgnored),
        (ipv6(from_ip, to_ip, protocol::ICMPV6, 64, &[128, 0, 0, 0, 0, 0, 0, 0]), Reason::Checksum),
    ];
    for (at, (packet, reason)) in cases.into_iter().enumerate() {
        let (stack, mut port) = server();
        port.push(packet);
        assert!(answer(&mut port).await.is_none(), "case {at}");
        assert_eq!(
            (lost(&stack, reason), all_lost(&stack)),
            (1, 1),
            "case {at}: {:?}",
            stack.ledger().sums().to_string()
        );
        assert_eq!(stack.load().pending, 0, "case {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_with_its_own_bytes() {
    let (stack, mut port) = server();
    let body = [0, 1, 0, 2, 9, 8, 7];
    for (from, to, request, reply) in [("fd00:9::9", "fd00:2::1", 128, 129), ("100.64.0.9", "100.64.0.2", 8, 0)] {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        port.push(icmp(from, to, request, 0, &body));
        let want = icmp(to, from, reply, 0, &body);
        let got = answer(&mut port).await.unwrap();
        assert_eq!(IpView::parse(&got).unwrap().payload(), IpView::parse(&want).unwrap().payload());
        assert_eq!(IpView::parse(&got).unwrap().destination(), from);
    }
    assert_eq!(all_lost(&stack), 0);
}

#[tokio::test(start_paused = true)]
async fn addresses_of_a_prefix_accept_flows_but_answer_no_pings() {
    let (stack, mut port, _) = start(config(&["fd00:2::1/96"]));
    let behind: SocketAddr = "[fd00:2::c000:207]:443".parse().unwrap();
    port.push(icmp(peer(1).ip(), behind.ip(), 128, 0, &[0; 4]));
    assert!(answer(&mut port).await.is_none());
    port.push(tcp(peer(1), behind, (1, 0), SYN, &[]));
    assert_eq!(stack.accept().await.unwrap().local(), behind);
}

#[tokio::test(start_paused = true)]
async fn a_datagram_for_nobody_is_answered_by_port_unreachable_up_to_a_rate() {
    let (stack, mut port) = server();
    let datagram = udp(peer(3), service(), &[1; 1500]);
    port.push(datagram.clone());
    let got = answer(&mut port).await.unwrap();
    assert_eq!(got.len(), 1280);
    let view = IpView::parse(&got).unwrap();
    assert_eq!((view.protocol(), &view.payload()[..2]), (protocol::ICMPV6, &[1, 4][..]));
    assert_eq!(view.payload()[8..], datagram[..1280 - 48]);

    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..300 {
        port.push(datagram.clone());
    }
    let mut answers = 0;
    while answer(&mut port).await.is_some() {
        answers += 1;
    }
    assert_eq!(answers, 100);
    assert_eq!(lost(&stack, Reason::UdpUnmatched), 301);
}

#[tokio::test(start_paused = true)]
async fn unreachable_ends_a_dial_only_if_it_quotes_its_syn() {
    let (stack, mut port, _) = start(config(&[super::CLIENT]));
    let dial = tokio::spawn(async move { (stack.dial(service()).await.map(drop), stack) });
    let syn = port.recv().await.unwrap();
    let relay = "fd00::1".parse().unwrap();
    let client = "fd00:1::1".parse().unwrap();
    let mut forged = syn.to_vec();
    forged[40 + 7] ^= 1;
    port.push(icmp(relay, client, 1, 0, &[&[0; 4][..], &forged].concat()));
    settle().await;
    assert!(!dial.is_finished());
    port.push(icmp(relay, client, 1, 0, &[&[0; 4][..], &syn].concat()));
    let (dialled, stack) = dial.await.unwrap();
    assert_eq!(dialled.unwrap_err(), DialError::Unreachable { remote: service() });
    assert_eq!(lost(&stack, Reason::IcmpIgnored), 1);
    settle().await;
    assert_eq!(stack.load().flows, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reset_in_the_handshake_ends_an_accepted_flow() {
    let (stack, mut port) = server();
    port.push(tcp(peer(1), service(), (100, 0), SYN, &[]));
    let accepted = tokio::spawn(stack.accept().await.unwrap().accept());
    let (flags, _, ack) = header(&port.recv().await.unwrap());
    assert_eq!((flags, ack), (SYN | ACK, 101));
    port.push(tcp(peer(1), service(), (101, 0), RST, &[]));
    assert!(accepted.await.unwrap().is_err());
    settle().await;
    assert_eq!(stack.load().flows, 0);
}

#[tokio::test(start_paused = true)]
async fn a_reset_outside_the_window_changes_nothing() {
    let (stack, mut port) = server();
    port.push(tcp(peer(1), service(), (100, 0), SYN, &[]));
    let accepted = tokio::spawn(stack.accept().await.unwrap().accept());
    let (_, seq, _) = header(&port.recv().await.unwrap());
    port.push(tcp(peer(1), service(), (101, seq + 1), ACK, &[]));
    let _flow = accepted.await.unwrap().unwrap();
    port.push(tcp(peer(1), service(), (9_000_000, 0), RST, &[]));
    settle().await;
    assert_eq!(stack.load().flows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_fin_is_acknowledged_after_the_flow_is_gone() {
    let (stack, mut port) = server();
    port.push(tcp(peer(1), service(), (100, 0), SYN, &[]));
    let accepted = tokio::spawn(stack.accept().await.unwrap().accept());
    let (_, seq, _) = header(&port.recv().await.unwrap());
    port.push(tcp(peer(1), service(), (101, seq + 1), ACK, &[]));
    let mut flow = accepted.await.unwrap().unwrap();
    flow.shutdown().await.unwrap();
    assert_eq!(header(&port.recv().await.unwrap()), (FIN | ACK, seq + 1, 101));
    for _ in 0..3 {
        port.push(tcp(peer(1), service(), (101, seq + 2), FIN | ACK, &[]));
        assert_eq!(header(&answer(&mut port).await.unwrap()), (ACK, seq + 2, 102));
        assert_eq!(stack.load(), Load { flows: 0, pending: 0, lingering: 1 });
    }
    port.push(tcp(peer(1), service(), (5000, 0), SYN, &[]));
    assert_eq!(stack.accept().await.unwrap().remote(), peer(1), "a newer SYN may reuse the ports");
}

#[tokio::test(start_paused = true)]
async fn packets_pushed_faster_than_the_driver_reads_are_dropped_and_counted() {
    let (stack, port) = server();
    for _ in 0..5000 {
        assert!(port.push(vec![0]));
    }
    settle().await;
    assert_eq!(lost(&stack, Reason::QueueFull), 5000 - 4096);
    assert_eq!(lost(&stack, Reason::Malformed), 4096);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_takes_no_packets_holds_flows_back_and_is_bounded() {
    let (stack, mut port) = server();
    for number in 1..=6000 {
        assert!(port.push(tcp(peer(number), service(), (1, 1), ACK, &[])));
        if number % 1000 == 0 {
            settle().await;
        }
    }
    settle().await;
    // The queue of the port, and what the stack keeps before it.
    assert_eq!(lost(&stack, Reason::TcpUnmatched), 4096 + 256);
    assert_eq!(lost(&stack, Reason::AnswerFull), 6000 - 4096 - 256);
    let mut packets = 0;
    while answer(&mut port).await.is_some() {
        packets += 1;
    }
    assert_eq!(packets, 4096 + 256);
}

/// A segment that is nearly right: numbers around the window, any flags, any window, any options.
fn nearly(random: &mut StdRng, from: SocketAddr, theirs: u32, ours: u32) -> Vec<u8> {
    let seq = theirs.wrapping_add(random.random_range(0..140_000)).wrapping_sub(70_000 * random.random_range(0..2));
    let ack = ours.wrapping_add(random.random_range(0..3000)).wrapping_sub(50);
    let mut options = vec![0; 4 * random.random_range(0..=10)];
    random.fill_bytes(&mut options);
    let flags = match random.random_range(0..4) {
        0 => random.random::<u8>() & !RST,
        1 => FIN | ACK,
        _ => ACK,
    };
    let payload = vec![1; random.random_range(0..1500) * random.random_range(0..2)];
    tcp_with((from, service()), (seq, ack), flags, (random.random(), &options), &payload)
}

#[tokio::test(start_paused = true)]
async fn nearly_right_segments_neither_break_a_flow_s_engine_nor_the_driver() {
    let mut established = 0;
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let (stack, mut port) = server();
        let from = peer(u16::try_from(seed + 1).unwrap());
        let theirs: u32 = random.random();
        let options = [2, 4, 2, 0, 3, 3, random.random_range(0..16), 1, 4, 2, 1, 1];
        port.push(tcp_with((from, service()), (theirs, 0), SYN, (random.random(), &options), &[]));
        let accepted = tokio::spawn(stack.accept().await.unwrap().accept());
        let (_, ours, _) = header(&port.recv().await.unwrap());
        port.push(tcp(from, service(), (theirs.wrapping_add(1), ours.wrapping_add(1)), ACK, &[]));
        let (mut reader, mut writer) = tokio::io::split(accepted.await.unwrap().unwrap());
        established += 1;
        let write = tokio::spawn(async move { while writer.write_all(&[9; 5000]).await.is_ok() {} });
        let read = tokio::spawn(async move {
            let mut piece = [0; 700];
            while matches!(reader.read(&mut piece).await, Ok(1..)) {}
        });
        for _ in 0..600 {
            port.push(nearly(&mut random, from, theirs, ours));
            if random.random_range(0..4) == 0 {
                settle().await;
            }
            while let Ok(Some(_)) = tokio::time::timeout(Duration::ZERO, port.recv()).await {}
        }
        settle().await;
        assert_eq!(lost(&stack, Reason::FlowFault), 0, "seed {seed}");
        drop(port);
        write.await.unwrap();
        read.await.unwrap();
    }
    assert_eq!(established, 40);
}
