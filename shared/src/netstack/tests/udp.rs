//! Datagrams in and out.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::{CLIENT, SERVER, config, join, lost, service, settle, start};
use crate::ledger::{Place, Reason};
use crate::netstack::{Netstack, PacketPort};
use crate::packet::build::udp;
use crate::packet::{IpView, protocol};

const PEER: &str = "[fd00:9::1]:5000";

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

fn server() -> (Netstack, PacketPort) {
    let (stack, port, _) = start(config(&[SERVER]));
    (stack, port)
}

async fn answer(port: &mut PacketPort) -> Option<(u8, Vec<u8>)> {
    let packet = tokio::time::timeout(Duration::from_millis(500), port.recv()).await.ok()??;
    let view = IpView::parse(&packet).unwrap();
    Some((view.protocol(), view.payload().to_vec()))
}

#[tokio::test(start_paused = true)]
async fn datagrams_reach_the_application_and_its_answers_the_peer() {
    for (client, server, from, own) in [
        (CLIENT, SERVER, "[fd00:1::1]:5000", "[fd00:2::1]:53"),
        ("100.64.0.1/32", "100.64.0.2/32", "100.64.0.1:5000", "100.64.0.2:53"),
    ] {
        let (client, client_port, _) = start(config(&[client]));
        let (server, server_port, _) = start(config(&[server]));
        join(client_port, server_port, super::Faults::default());
        let (mut at_client, mut at_server) = (client.datagrams().unwrap(), server.datagrams().unwrap());
        let (from, own): (SocketAddr, SocketAddr) = (from.parse().unwrap(), own.parse().unwrap());
        for length in [0, 1, 1000, 9001] {
            let asked = Bytes::from(vec![7; length]);
            client.datagram_sender().send(from, own, asked.clone());
            let came = at_server.recv().await.unwrap();
            assert_eq!((came.local(), came.remote(), came.payload()), (own, from, &asked));
            server.datagram_sender().send(own, from, Bytes::from(vec![8; length]));
            let came = at_client.recv().await.unwrap();
            assert_eq!((came.local(), came.remote(), came.payload().len()), (from, own, length));
        }
        let sums = server.ledger().sums();
        assert_eq!((sums.entered(Place::Netstack), sums.delivered(Place::Netstack)), (4, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_application_refuses_is_answered_by_port_unreachable_and_so_is_what_nobody_takes() {
    let (stack, mut port) = server();
    let asked = udp(peer(), service(), b"hello");
    port.push(asked.clone());
    let nobody = answer(&mut port).await.unwrap();
    assert_eq!((nobody.0, &nobody.1[..2], &nobody.1[8..]), (protocol::ICMPV6, &[1, 4][..], &asked[..]));
    let mut datagrams = stack.datagrams().unwrap();
    assert!(stack.datagrams().is_none(), "they are taken once");
    port.push(asked.clone());
    let came = datagrams.recv().await.unwrap();
    assert_eq!(answer(&mut port).await, None);
    stack.datagram_sender().refuse(came);
    assert_eq!(answer(&mut port).await.as_ref(), Some(&nobody));
    drop(datagrams);
    port.push(asked);
    assert_eq!(answer(&mut port).await, Some(nobody));
    assert_eq!(lost(&stack, Reason::UdpUnmatched), 2);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_read_loses_the_newest_and_the_flood_is_counted() {
    let (stack, port) = server();
    let mut datagrams = stack.datagrams().unwrap();
    for _ in 0..30 {
        for number in 0..100u8 {
            port.push(udp(peer(), service(), &[number]));
        }
        settle().await;
    }
    assert_eq!(lost(&stack, Reason::QueueFull), 3000 - 1024);
    for number in 0..1024 {
        let came = datagrams.recv().await.unwrap();
        assert_eq!(usize::from(came.payload()[0]), number % 100);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_that_the_stack_may_not_send() {
    let (stack, mut port) = server();
    let sender = stack.datagram_sender();
    sender.send(peer(), service(), Bytes::new());
    sender.send(service(), "192.0.2.1:9".parse().unwrap(), Bytes::new());
    sender.send(service(), peer(), Bytes::from(vec![0; 65_528]));
    assert_eq!(answer(&mut port).await, None);
    assert_eq!((lost(&stack, Reason::ForeignSource), lost(&stack, Reason::TooBig)), (1, 2));
}
