//! Durable writes: creates and updates at several numbers of writers, in pairs that run back to back.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use underpass_tests::{clock, etcd::Etcd, relay::Relay};

use crate::{
    Effort, etcd,
    figures::{median, percentile, short},
    relay,
    side::{Place, Side, object},
};

/// The relay works on 256 requests at once and refuses more.
const WRITERS: [usize; 3] = [1, 32, 256];
/// The relay takes 100 requests at once of one connection.
const CONNECTIONS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Update,
}

/// What one half of a pair came to.
#[derive(Debug)]
struct Load {
    elapsed: Duration,
    latencies: Vec<Duration>,
}

/// Runs all work and prints the table.
pub(crate) async fn measure(effort: Effort) {
    let (relay, etcd) = (Relay::start().await, Etcd::start().await);
    let relays = relay::Client::several(&relay, CONNECTIONS).await;
    let etcds = etcd::Client::several(&etcd, CONNECTIONS).await;
    let place = Place { namespace: "w-1".to_owned(), name: "p0-256-1".to_owned() };
    println!("\nDurable writes of ConfigMaps of {} bytes, {CONNECTIONS} connections", object(&place, 0).len());
    println!("(medians of {} pairs of {} s; latency in microseconds)\n", effort.pairs, effort.seconds);
    println!(
        "| {:21} | {:>8} | {:>8} | {:>6} | {:>21} | {:>21} |",
        "work", "etcd /s", "relay /s", "ratio", "p50 etcd / relay", "p99 etcd / relay"
    );
    println!("|{0:-<23}|{0:->10}|{0:->10}|{0:->8}|{0:->23}|{0:->23}|", "");
    for verb in [Verb::Create, Verb::Update] {
        for writers in WRITERS {
            compare(&etcds, &relays, (verb, writers), effort).await;
        }
    }
    println!(
        "\nMemory now: etcd {} MiB, relay {} MiB",
        mebibytes(etcd.process.memory()),
        mebibytes(relay.process.memory())
    );
}

/// For people.
#[must_use]
pub(crate) fn mebibytes(bytes: u64) -> String {
    short(bytes as f64 / f64::from(1 << 20))
}

async fn compare(etcds: &[etcd::Client], relays: &[relay::Client], work: (Verb, usize), effort: Effort) {
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    let mut latency = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    let time = Duration::from_secs(effort.seconds as u64);
    for pair in 0..effort.pairs {
        let mut loads = [None, None];
        // Who goes first changes, so that whatever drifts hits both.
        for side in [pair % 2, 1 - pair % 2] {
            loads[side] = Some(match side {
                0 => load(etcds, work, pair, time).await,
                _ => load(relays, work, pair, time).await,
            });
        }
        for (side, load) in loads.iter().flatten().enumerate() {
            rates[side].push(load.latencies.len() as f64 / load.elapsed.as_secs_f64());
            latency[0][side].push(percentile(&load.latencies, 50));
            latency[1][side].push(percentile(&load.latencies, 99));
        }
        ratios.push(rates[1][pair] / rates[0][pair]);
    }
    let [etcd, relay] = rates.map(median);
    let [p50, p99] = latency.map(|sides| sides.map(|side| short(median(side))).join(" / "));
    let (verb, writers) = work;
    let name = format!("{verb:?}, {writers} writer{}", if writers == 1 { "" } else { "s" });
    let (etcd, relay, ratio) = (short(etcd), short(relay), median(ratios));
    println!("| {name:21} | {etcd:>8} | {relay:>8} | {ratio:>6.2} | {p50:>21} | {p99:>21} |");
}

/// Keeps all writers busy for `time`; a write under way at the end is finished and counted.
async fn load<S: Side>(clients: &[S], (verb, writers): (Verb, usize), pair: usize, time: Duration) -> Load {
    let mut preparing = JoinSet::new();
    for writer in 0..writers {
        let mut client = clients[writer % clients.len()].clone();
        let namespace = format!("w-{writer}");
        let place =
            Place { namespace, name: format!("{}-{pair}-{writers}", if verb == Verb::Create { "c" } else { "u" }) };
        preparing.spawn(async move {
            let revision = client.create(&place).await.expect("no write fails");
            (client, place, revision)
        });
    }
    let prepared = preparing.join_all().await;
    let begin = clock::now();
    let mut working = JoinSet::new();
    for (client, place, revision) in prepared {
        working.spawn(async move {
            let load = keep_busy(client, verb, (place, revision), begin + time).await;
            load.expect("no write fails")
        });
    }
    let mut latencies = working.join_all().await.concat();
    let elapsed = begin.elapsed();
    latencies.sort();
    Load { elapsed, latencies }
}

async fn keep_busy<S: Side>(
    mut client: S,
    verb: Verb,
    (mut place, mut revision): (Place, u64),
    end: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let (mut latencies, stem) = (Vec::new(), place.name.clone());
    loop {
        place.name = if verb == Verb::Create { format!("{stem}-{}", latencies.len()) } else { place.name };
        let begin = clock::now();
        revision = match verb {
            Verb::Create => client.create(&place).await?,
            Verb::Update => client.update(&place, revision).await?,
        };
        latencies.push(begin.elapsed());
        if clock::now() >= end {
            return Ok(latencies);
        }
    }
}
