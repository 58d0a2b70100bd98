//! Flows between a relay and an agent over loopback.

use std::{net::Ipv4Addr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    quic::{
        endpoint::RELAY_STREAMS,
        streams::StreamLimit,
        testbed::{Pair, pair, soon},
    },
    wire::preface::{Host, Kind, STREAM_TYPE, Trace},
};

const TEN_MB: usize = 10_000_000;

fn preface(port: u16) -> Preface {
    let trace = Trace::new(Bytes::from_static(b"trace")).unwrap();
    let client = Some("192.0.2.1:40000".parse().unwrap());
    Preface { session: 0, kind: Kind::Tcp, host: Host::Loopback, port, client, trace }
}

fn pattern(seed: usize) -> Vec<u8> {
    (0..TEN_MB).map(|i| ((i + seed) % 251) as u8).collect()
}

async fn accept(pair: &Pair) -> Result<(Preface, PendingFlow), AcceptError> {
    let (send, receive) = pair.agent.accept_bi().await.unwrap();
    accept_flow(send, receive).await
}

/// A connected flow: the relay's end, the agent's end.
async fn flow(pair: &Pair) -> (LaneStream, LaneStream) {
    let preface = preface(80);
    let agent = async { accept(pair).await.unwrap().1.connected().await.unwrap() };
    let (relay, agent) = soon(async { tokio::join!(open_flow(&pair.relay, &preface), agent) }).await;
    (relay.unwrap(), agent)
}

#[tokio::test]
async fn a_preface_arrives_as_it_was_sent() {
    let pair = pair().await;
    let sent = preface(8080);
    let (_, got) = soon(async {
        tokio::join!(open_flow(&pair.relay, &sent), async {
            let (preface, pending) = accept(&pair).await.unwrap();
            pending.connected().await.unwrap();
            preface
        })
    })
    .await;
    assert_eq!(got, sent);
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let pair = pair().await;
    let (mut relay, mut agent) = flow(&pair).await;
    relay.write_all(b"request").await.unwrap();
    relay.shutdown().await.unwrap();
    let mut request = Vec::new();
    soon(agent.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    agent.write_all(b"answer after the end of the request").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(relay.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer after the end of the request");
    assert!(relay.write_all(b"more").await.is_err(), "our direction is over");
}

#[tokio::test]
async fn ten_megabytes_cross_both_ways_at_once() {
    let pair = pair().await;
    let (relay, agent) = flow(&pair).await;
    let (up, down) = (pattern(1), pattern(2));
    let (got_up, got_down) = soon(async { tokio::join!(exchange(agent, &down), exchange(relay, &up)) }).await;
    assert!(got_up == up && got_down == down);
}

async fn exchange(stream: LaneStream, sent: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut got = Vec::new();
    let send = async {
        write.write_all(sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), received) = tokio::join!(send, read.read_to_end(&mut got));
    received.unwrap();
    got
}

#[tokio::test]
async fn a_refusal_says_why_and_leaves_nothing_open() {
    let pair = pair().await;
    for code in [
        RefusedCode::Refused,
        RefusedCode::NotPublished,
        RefusedCode::Unreachable,
        RefusedCode::TimedOut,
        RefusedCode::Overloaded,
    ] {
        let sent = preface(81);
        let agent = async { accept(&pair).await.unwrap().1.refuse(code, "nothing\nlistens there").await.unwrap() };
        let (opened, ()) = soon(async { tokio::join!(open_flow(&pair.relay, &sent), agent) }).await;
        let Err(OpenError::Refused(refused)) = opened else { panic!("{opened:?}") };
        assert_eq!((refused.code, refused.reason.as_str()), (code, "nothing listens there"));
    }
}

#[tokio::test]
async fn bytes_that_come_with_the_preface_or_the_answer_are_kept() {
    let pair = pair().await;
    let mut head = BytesMut::new();
    preface(80).encode(&mut head);
    head.extend_from_slice(b"early request");
    let (mut send, receive) = pair.relay.open_bi().await.unwrap();
    send.write_all(&head).await.unwrap();
    send.finish().unwrap();
    let (_, pending) = soon(accept(&pair)).await.unwrap();
    let mut agent = pending.connected().await.unwrap();
    let mut request = Vec::new();
    soon(agent.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"early request");
    drop(receive);

    let sent = preface(80);
    let answer = async {
        let (mut send, receive) = pair.agent.accept_bi().await.unwrap();
        send.write_all(b"\x00\x00early answer").await.unwrap();
        send.finish().unwrap();
        receive
    };
    let (relay, _receive) = soon(async { tokio::join!(open_flow(&pair.relay, &sent), answer) }).await;
    let mut got = [0; 5];
    let mut relay = relay.unwrap();
    soon(relay.read_exact(&mut got)).await.unwrap();
    let mut rest = String::new();
    soon(relay.read_to_string(&mut rest)).await.unwrap();
    assert_eq!((&got, rest.as_str()), (b"early", " answer"));
}

#[tokio::test]
async fn what_is_not_understood_resets_its_stream_only() {
    let pair = pair().await;
    let header = |values: &[u64]| {
        let mut out = BytesMut::new();
        values.iter().for_each(|&value| crate::wire::varint::encode(value, &mut out));
        out
    };
    for (head, want) in [
        (header(&[0x54, 1]), PrefaceError::UnknownStreamType(0x54)),
        (header(&[STREAM_TYPE, 2]), PrefaceError::UnknownVersion(2)),
        (header(&[STREAM_TYPE, 1, 0, 7]), PrefaceError::UnknownKind(7)),
    ] {
        let (mut send, mut receive) = pair.relay.open_bi().await.unwrap();
        send.write_all(&head).await.unwrap();
        let refused = soon(accept(&pair)).await;
        assert!(matches!(refused, Err(AcceptError::Preface(error)) if error == want));
        let code = VarInt::from_u64(CODE_NOT_UNDERSTOOD).unwrap();
        assert_eq!(soon(receive.read_to_end(10)).await, Err(quinn::ReadError::Reset(code).into()));
        assert_eq!(soon(send.stopped()).await.unwrap(), Some(code));
    }
    flow(&pair).await;
    assert_eq!(pair.relay.close_reason(), None);
}

#[tokio::test]
async fn an_agent_that_does_not_know_the_lane_is_told_from_one_that_refuses() {
    let pair = pair().await;
    let sent = preface(80);
    let reset = async {
        let (mut send, mut receive) = pair.agent.accept_bi().await.unwrap();
        send.reset(0x103u32.into()).unwrap();
        receive.stop(0x103u32.into()).unwrap();
    };
    let (opened, ()) = soon(async { tokio::join!(open_flow(&pair.relay, &sent), reset) }).await;
    assert!(matches!(opened, Err(OpenError::Reset(0x103))), "{opened:?}");
    let garbage = async {
        let (mut send, receive) = pair.agent.accept_bi().await.unwrap();
        send.write_all(&[9]).await.unwrap();
        (send, receive)
    };
    let (opened, _streams) = soon(async { tokio::join!(open_flow(&pair.relay, &sent), garbage) }).await;
    assert!(matches!(opened, Err(OpenError::Answer(PrefaceError::UnknownCode(9)))), "{opened:?}");
}

#[tokio::test]
async fn a_preface_cut_short_is_no_flow() {
    let pair = pair().await;
    let (mut send, _receive) = pair.relay.open_bi().await.unwrap();
    send.write_all(&[0xaf, 0x4b]).await.unwrap();
    send.finish().unwrap();
    assert!(matches!(soon(accept(&pair)).await, Err(AcceptError::Cut)));
}

#[tokio::test]
async fn a_preface_that_never_comes_is_not_waited_for() {
    let pair = pair().await;
    let (mut send, _receive) = pair.relay.open_bi().await.unwrap();
    send.write_all(&[0xaf]).await.unwrap();
    let (agent_send, agent_receive) = soon(pair.agent.accept_bi()).await.unwrap();
    tokio::time::pause();
    let accepted = accept_flow(agent_send, agent_receive).await;
    assert!(matches!(accepted, Err(AcceptError::TimedOut)));
}

#[tokio::test]
async fn a_dropped_flow_is_reset_at_the_other_end() {
    let pair = pair().await;
    let (relay, mut agent) = flow(&pair).await;
    drop(relay);
    let error = soon(agent.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let code = VarInt::from_u64(CODE_ABANDONED).unwrap();
    assert_eq!(soon(agent.send.stopped()).await.unwrap(), Some(code));
    assert_eq!(agent.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dial_that_is_given_up_is_seen_by_the_agent() {
    let pair = pair().await;
    let sent = preface(80);
    let mut pending = {
        let dial = open_flow(&pair.relay, &sent);
        tokio::pin!(dial);
        tokio::select! {
            opened = &mut dial => panic!("nobody answered, yet {opened:?}"),
            accepted = soon(accept(&pair)) => accepted.unwrap().1,
        }
    };
    soon(pending.abandoned()).await;
    assert_eq!(pending.connected().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_loss_of_the_session_is_not_a_reset() {
    let pair = pair().await;
    let (_relay, mut agent) = flow(&pair).await;
    pair.relay.close(0u32.into(), b"gone");
    let error = soon(agent.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let opened = open_flow(&pair.relay, &preface(80)).await;
    assert!(matches!(opened, Err(OpenError::Lost(_))));
}

#[tokio::test]
async fn a_stalled_flow_does_not_stop_its_neighbour() {
    let pair = pair().await;
    let (mut stalled, _unread) = flow(&pair).await;
    let filling = tokio::spawn(async move { stalled.write_all(&pattern(0)).await });
    let (relay, agent) = flow(&pair).await;
    let (up, down) = (pattern(1), pattern(2));
    let (got_up, got_down) = soon(async { tokio::join!(exchange(agent, &down), exchange(relay, &up)) }).await;
    assert!(got_up == up && got_down == down);
    assert!(!filling.is_finished(), "its window is full");
    filling.abort();
}

#[tokio::test]
async fn more_flows_than_the_first_limit_open_as_it_is_raised() {
    let pair = pair().await;
    let wanted = RELAY_STREAMS as usize * 5 / 2;
    let agent = pair.agent.clone();
    let accepting = tokio::spawn(async move {
        let (mut limit, mut flows) = (StreamLimit::new(RELAY_STREAMS), Vec::new());
        while flows.len() < wanted {
            let (send, receive) = agent.accept_bi().await.unwrap();
            if let Some(raised) = limit.handle_opened() {
                agent.set_max_concurrent_bi_streams(raised.into());
            }
            flows.push(accept_flow(send, receive).await.unwrap().1.connected().await.unwrap());
        }
        flows
    });
    let relay = Arc::new(pair.relay.clone());
    let opened: Vec<_> = (0..wanted)
        .map(|_| {
            let relay = Arc::clone(&relay);
            tokio::spawn(async move { open_flow(&relay, &preface(80)).await.unwrap() })
        })
        .collect();
    let accepted = soon(accepting).await.unwrap();
    let mut streams = Vec::new();
    for dial in opened {
        streams.push(soon(dial).await.unwrap());
    }
    assert_eq!((accepted.len(), streams.len()), (wanted, wanted));
}

/// The relay's end of a flow that the agent copies to a TCP connection, that connection's far end, and the copy.
async fn copied(pair: &Pair) -> (LaneStream, TcpStream, tokio::task::JoinHandle<Copied>) {
    let (relay, agent) = flow(pair).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (relay, far.unwrap().0, tokio::spawn(copy(agent, near.unwrap())))
}

#[tokio::test]
async fn copying_keeps_half_closes_and_counts_bytes() {
    let pair = pair().await;
    let (mut relay, mut service, copying) = copied(&pair).await;
    let body = pattern(3);
    let upload = tokio::spawn(async move {
        relay.write_all(&body).await.unwrap();
        relay.shutdown().await.unwrap();
        relay
    });
    let mut got = Vec::new();
    soon(service.read_to_end(&mut got)).await.unwrap();
    assert!(got == pattern(3));
    let download = tokio::spawn(async move {
        service.write_all(&pattern(4)).await.unwrap();
        service.shutdown().await.unwrap();
        service
    });
    let mut relay = soon(upload).await.unwrap();
    let mut got = Vec::new();
    soon(relay.read_to_end(&mut got)).await.unwrap();
    assert!(got == pattern(4));
    soon(download).await.unwrap();
    let copied = soon(copying).await.unwrap();
    assert!(copied.error.is_none(), "{copied:?}");
    assert_eq!((copied.bytes_to_tcp, copied.bytes_to_lane), (TEN_MB as u64, TEN_MB as u64));
}

#[tokio::test]
async fn a_reset_of_the_service_resets_the_flow() {
    let pair = pair().await;
    let (mut relay, service, copying) = copied(&pair).await;
    socket2::SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
    drop(service);
    let error = soon(relay.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let copied = soon(copying).await.unwrap();
    assert_eq!(copied.error.unwrap().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_flow_resets_the_service() {
    let pair = pair().await;
    let (relay, mut service, copying) = copied(&pair).await;
    drop(relay);
    let error = soon(service.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(soon(copying).await.unwrap().error.is_some());
}

#[tokio::test]
async fn a_relay_that_closes_is_no_reset_and_a_silent_service_is_not_waited_for() {
    let pair = pair().await;
    let (mut relay, mut service, copying) = copied(&pair).await;
    let closing = tokio::spawn(async move {
        relay.write_all(&pattern(5)).await.unwrap();
        relay.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    soon(service.read_to_end(&mut got)).await.expect("no reset");
    soon(closing).await.unwrap();
    assert!(got == pattern(5), "every byte before the close came through");
    let copied = soon(copying).await.unwrap();
    assert!(copied.error.is_none(), "{copied:?}");
}

#[tokio::test]
async fn a_reset_is_seen_while_the_service_takes_nothing() {
    let pair = pair().await;
    let (mut relay, mut service, copying) = copied(&pair).await;
    // With the other direction over, only the reset itself can tell.
    service.shutdown().await.unwrap();
    assert_eq!(soon(relay.read(&mut [0; 1])).await.unwrap(), 0);
    // More than all windows and socket buffers hold, so that the copy is stuck in a write.
    let stuck = tokio::time::timeout(Duration::from_secs(1), async {
        let chunk = vec![0; 1 << 20];
        loop {
            relay.write_all(&chunk).await.unwrap();
        }
    });
    assert!(stuck.await.is_err());
    drop(relay);
    let copied = soon(copying).await.unwrap();
    assert_eq!(copied.error.unwrap().kind(), io::ErrorKind::ConnectionReset);
    drop(service);
}
