//! Requests and bytes through gateway, relay and agent, beside the same upstream reached directly.
//!
//! Clients and upstream run in this process in both cases, so their cost is in both figures, and the processors that
//! they use are missing to the tunnel: on a small machine the ratios are the tunnel's worst.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use tokio::task::JoinSet;
use underpass_tests::{
    client::{self, Connection},
    clock,
    office::{HOST, Office},
};

use crate::{
    Effort,
    figures::{median, percentile, short},
};

/// Above this many requests in one half of a pair no more latencies are kept.
const LATENCIES_MAX: usize = 1_000_000;
const MEBIBYTE: f64 = (1 << 20) as f64;

/// One line of the table.
struct Work {
    name: &'static str,
    path: &'static str,
    /// Bytes of each request's body.
    upload: u64,
    connections: usize,
    unit: Unit,
}

enum Unit {
    Requests,
    Mebibytes,
}

const WORK: &[Work] = &[
    Work { name: "GET 6 B, 1 connection", path: "/name", upload: 0, connections: 1, unit: Unit::Requests },
    Work { name: "GET 6 B, 32 connections", path: "/name", upload: 0, connections: 32, unit: Unit::Requests },
    Work { name: "GET 1 MiB, 4 connections", path: "/zeros/1048576", upload: 0, connections: 4, unit: Unit::Mebibytes },
    Work {
        name: "GET 64 MiB, 1 connection",
        path: "/zeros/67108864",
        upload: 0,
        connections: 1,
        unit: Unit::Mebibytes,
    },
    Work { name: "PUT 64 MiB, 1 connection", path: "/sink", upload: 64 << 20, connections: 1, unit: Unit::Mebibytes },
];

/// What one half of a pair came to.
#[derive(Debug, Default)]
struct Load {
    bytes: u64,
    elapsed: Duration,
    latencies: Vec<Duration>,
}

impl Load {
    /// In the work's unit, for each second.
    fn rate(&self, unit: &Unit) -> f64 {
        let amount = match unit {
            Unit::Requests => self.latencies.len() as f64,
            Unit::Mebibytes => self.bytes as f64 / MEBIBYTE,
        };
        amount / self.elapsed.as_secs_f64()
    }
}

/// Runs all work and prints the tables.
pub(crate) async fn measure(effort: Effort) {
    let office = Office::open().await;
    let (relay, agent) = (office.relay.process.memory(), office.agent.process.memory());
    println!("\nMemory of idle processes: relay {:.1} MiB, agent {:.1} MiB", mebibytes(relay), mebibytes(agent));
    println!("\nThrough gateway, relay and agent, beside the same upstream without them");
    println!("(medians of {} pairs of {} s; latency in microseconds)\n", effort.pairs, effort.seconds);
    println!(
        "| {:26} | {:>13} | {:>13} | {:>6} | {:>20} | {:>20} |",
        "work", "direct /s", "tunnel /s", "ratio", "p50 direct+added", "p99 direct+added"
    );
    println!("|{0:-<28}|{0:->15}|{0:->15}|{0:->8}|{0:->22}|{0:->22}|", "");
    let (direct, tunnel) = (office.upstream.address(), office.relay.addresses.http);
    for work in WORK {
        compare(work, direct, tunnel, effort).await;
    }
    let (relay, agent) = (office.relay.process.peak_memory(), office.agent.process.peak_memory());
    println!("\nPeak memory: relay {:.1} MiB, agent {:.1} MiB", mebibytes(relay), mebibytes(agent));
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MEBIBYTE
}

async fn compare(work: &Work, direct: SocketAddr, tunnel: SocketAddr, effort: Effort) {
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    let mut latency = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
    for pair in 0..effort.pairs {
        // Who goes first changes, so that whatever drifts hits both.
        let first = pair % 2;
        let mut pair_rates = [0.0; 2];
        for side in [first, 1 - first] {
            let load = run(work, [direct, tunnel][side], Duration::from_secs(effort.seconds)).await;
            pair_rates[side] = load.rate(&work.unit);
            rates[side].push(pair_rates[side]);
            for (at, percent) in [50, 99].into_iter().enumerate() {
                latency[at][side].push(percentile(&load.latencies, percent));
            }
        }
        ratios.push(pair_rates[1] / pair_rates[0]);
    }
    let [direct, tunnel] = rates.map(median);
    let unit = match work.unit {
        Unit::Requests => "req",
        Unit::Mebibytes => "MiB",
    };
    let added = latency.map(|sides| {
        let [direct, tunnel] = sides.map(median);
        format!("{} {:+.0}", short(direct), tunnel - direct)
    });
    println!(
        "| {:26} | {:>9} {unit} | {:>9} {unit} | {:>6.2} | {:>20} | {:>20} |",
        work.name,
        short(direct),
        short(tunnel),
        median(ratios),
        added[0],
        added[1],
    );
}

/// Keeps all connections of `work` busy for `time`; a request under way at the end is finished and counted.
async fn run(work: &Work, address: SocketAddr, time: Duration) -> Load {
    let begin = clock::now();
    let mut workers = JoinSet::new();
    for _ in 0..work.connections {
        workers.spawn(keep_busy(work.path, work.upload, address, begin + time));
    }
    let mut all = Load::default();
    for worker in workers.join_all().await {
        let worker = worker.expect("no request of the load fails");
        all.bytes += worker.bytes;
        all.latencies.extend(worker.latencies);
    }
    all.elapsed = begin.elapsed();
    all.latencies.sort();
    all
}

async fn keep_busy(
    path: &'static str,
    upload: u64,
    address: SocketAddr,
    end: std::time::Instant,
) -> anyhow::Result<Load> {
    let mut connection = Connection::http1(address).await?;
    let mut load = Load::default();
    loop {
        let begin = clock::now();
        let (method, body) =
            if upload == 0 { (Method::GET, client::empty()) } else { (Method::PUT, client::zeros(upload)) };
        let request = connection.request(method, HOST, path, body);
        let response = connection.begin(request).await?;
        anyhow::ensure!(response.status() == http::StatusCode::OK, "{}", response.status());
        load.bytes += client::discard(response.into_body()).await? + upload;
        if load.latencies.len() < LATENCIES_MAX {
            load.latencies.push(begin.elapsed());
        }
        if clock::now() >= end {
            return Ok(load);
        }
    }
}
