//! Bytes arrive, all of them and in order.

use std::time::Duration;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

use super::{Faults, all_lost, config, connect, lost, pair, pair_of, service};
use crate::ledger::Reason;
use crate::netstack::{Netstack, TcpFlow};

const MEGABYTE: usize = 1_000_000;

/// Sends back what comes, with half-close, until the stack ends.
async fn echo(server: Netstack) {
    let mut flows = JoinSet::new();
    while let Some(pending) = server.accept().await {
        flows.spawn(async move {
            let flow = pending.accept().await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(flow);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
    }
}

async fn send(mut to: impl AsyncWrite + Unpin, bytes: usize, seed: u64) -> Digest {
    let mut random = StdRng::seed_from_u64(seed);
    let mut hash = Context::new(&SHA256);
    let mut left = bytes;
    while left > 0 {
        let mut block = vec![0; left.min(30_011)];
        random.fill_bytes(&mut block);
        hash.update(&block);
        to.write_all(&block).await.unwrap();
        left -= block.len();
    }
    to.shutdown().await.unwrap();
    hash.finish()
}

async fn receive(mut from: impl AsyncRead + Unpin) -> (usize, Digest) {
    let mut hash = Context::new(&SHA256);
    let mut block = vec![0; 17_011];
    let mut bytes = 0;
    loop {
        match from.read(&mut block).await.unwrap() {
            0 => return (bytes, hash.finish()),
            read => {
                bytes += read;
                hash.update(&block[..read]);
            }
        }
    }
}

async fn check_echo(flow: TcpFlow, bytes: usize, seed: u64) {
    let (reader, writer) = tokio::io::split(flow);
    let (sent, (received, hash)) = tokio::join!(send(writer, bytes, seed), receive(reader));
    assert_eq!(received, bytes);
    assert_eq!(hash.as_ref(), sent.as_ref());
}

#[tokio::test(start_paused = true)]
async fn ten_megabytes_come_back_unchanged() {
    let (client, server) = pair(Faults::default());
    tokio::spawn(echo(server.clone()));
    check_echo(client.dial(service()).await.unwrap(), 10 * MEGABYTE, 1).await;
    assert_eq!(all_lost(&client), 0, "{:?}", client.ledger().sums().to_string());
    assert_eq!(all_lost(&server), 0, "{:?}", server.ledger().sums().to_string());
}

#[tokio::test(start_paused = true)]
async fn bytes_survive_loss_and_reordering() {
    for seed in 0..4 {
        let faults =
            Faults { lost_percent: 5, delay: Duration::from_millis(10), jitter: Duration::from_millis(10), seed };
        let (client, server) = pair(faults);
        tokio::spawn(echo(server));
        check_echo(client.dial(service()).await.unwrap(), MEGABYTE, seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_flows_at_once_each_get_their_own_bytes() {
    let mut server_config = config(&[super::SERVER]);
    server_config.pending_max = 500;
    let (client, server) = pair_of(config(&[super::CLIENT]), server_config, Faults::default());
    tokio::spawn(echo(server.clone()));
    let mut flows = JoinSet::new();
    for seed in 0..500 {
        let client = client.clone();
        flows.spawn(async move { check_echo(client.dial(service()).await.unwrap(), 20_000, seed).await });
    }
    assert_eq!(flows.join_all().await.len(), 500);
    super::settle().await;
    assert_eq!((client.load().flows, server.load().flows), (0, 0));
    assert_eq!(server.load().pending, 0);
}

#[tokio::test(start_paused = true)]
async fn ipv4_carries_bytes_too() {
    let (client, server) = pair_of(config(&["100.64.0.1/32"]), config(&["100.64.0.2/32"]), Faults::default());
    tokio::spawn(echo(server));
    check_echo(client.dial("100.64.0.2:8080".parse().unwrap()).await.unwrap(), MEGABYTE, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_holds_the_writer_back_and_loses_nothing() {
    let (client, server) = pair(Faults::default());
    let (mut dialled, accepted) = connect(&client, &server).await;
    let buffer = 64 * 1024;
    let mut written = 0;
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(5), dialled.write(&[7; 10_000])).await {
        written += sent.unwrap();
    }
    assert!((2 * buffer - 10_000..=2 * buffer).contains(&written), "{written}");
    let rest = async {
        dialled.write_all(&[7; 10_000]).await.unwrap();
        dialled.shutdown().await.unwrap();
    };
    let ((), (received, _)) = tokio::join!(rest, receive(accepted));
    assert_eq!(received, written + 10_000);
    assert_eq!(lost(&server, Reason::FlowFull), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_small_pieces_does_not_stall() {
    let (client, server) = pair(Faults { delay: Duration::from_millis(5), ..Faults::default() });
    let (dialled, mut accepted) = connect(&client, &server).await;
    let started = tokio::time::Instant::now();
    let slow = async {
        let mut received = 0;
        let mut piece = [0; 900];
        loop {
            match accepted.read(&mut piece).await.unwrap() {
                0 => return received,
                read => received += read,
            }
            tokio::task::yield_now().await;
        }
    };
    let (_, received) = tokio::join!(send(dialled, MEGABYTE, 9), slow);
    assert_eq!(received, MEGABYTE);
    // Sixteen windows of 64 KiB at 10 ms each, and slow start; a stall would wait for a probe of a second.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bytes_survive_every_mix_of_buffers_loss_and_delay() {
    let mut seed = 0;
    for buffer in [4096, 20_000, 65_536, 262_144] {
        for other in [20_001, 70_000, 1_000_001] {
            seed += 1;
            let faults = Faults {
                lost_percent: [1, 3, 5][seed as usize % 3],
                delay: Duration::from_millis([0, 10, 40][seed as usize / 3 % 3]),
                jitter: Duration::from_millis([1, 10][seed as usize % 2]),
                seed,
            };
            let (mut one, mut two) = (config(&[super::CLIENT]), config(&[super::SERVER]));
            (one.tcp_buffer, two.tcp_buffer) = (buffer, other);
            let (client, server) = pair_of(one, two, faults);
            tokio::spawn(echo(server.clone()));
            check_echo(client.dial(service()).await.unwrap(), MEGABYTE / 2, seed).await;
            assert_eq!(lost(&client, Reason::FlowFault) + lost(&server, Reason::FlowFault), 0);
        }
    }
}
