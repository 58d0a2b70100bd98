//! What the gateway costs beside nginx, HAProxy and Envoy: the same upstream, the same load, one after the other in each
//! round, so that whatever drifts hits all.
//!
//! Figures for people, never a test. `scripts/bench http` builds what it needs and runs it.

#[path = "../tunnel/figures.rs"]
#[expect(dead_code, reason = "percentiles come from the programs that make the load")]
mod figures;
mod http3;
mod load;
mod peers;
mod relay;

use std::env;

use self::{
    figures::{median, short},
    load::{Load, Work},
    peers::Peer,
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    seconds: u64,
}

const WORK: &[Work] = &[
    Work { name: "HTTP/1.1, 64 B, 32 connections", load: Load::Wrk { connections: 32 }, port: Port::Plain, path: "/s" },
    Work {
        name: "HTTP/1.1, 64 B, 1,000 connections",
        load: Load::Wrk { connections: 1_000 },
        port: Port::Plain,
        path: "/s",
    },
    Work {
        name: "HTTP/1.1, 1 MiB, 32 connections",
        load: Load::Wrk { connections: 32 },
        port: Port::Plain,
        path: "/m",
    },
    Work { name: "HTTPS/1.1, 64 B, 32 connections", load: Load::Wrk { connections: 32 }, port: Port::Tls, path: "/s" },
    Work { name: "HTTPS/1.1, 1 MiB, 32 connections", load: Load::Wrk { connections: 32 }, port: Port::Tls, path: "/m" },
    Work { name: "HTTP/2 over TLS, 64 B, 8 x 16", load: Load::H2load, port: Port::Tls, path: "/s" },
    Work { name: "h2c, 64 B, 8 x 16", load: Load::H2load, port: Port::H2c, path: "/s" },
    Work { name: "HTTP/3, 64 B, 8 x 16", load: Load::Http3, port: Port::Http3, path: "/s" },
];

/// Which of a proxy's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Plain,
    Tls,
    H2c,
    /// Over UDP, where there is one.
    Http3,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let effort =
        Effort { rounds: number(&arguments, "--rounds", 5), seconds: number(&arguments, "--seconds", 3) as u64 };
    let only = arguments.iter().position(|argument| argument == "--only").and_then(|at| arguments.get(at + 1));
    let folder = tempfile::tempdir().expect("a folder for the peers");
    let (_origin, origin) = peers::origin(folder.path()).await;
    let mut sides = vec![relay::start(origin).await];
    sides.extend(peers::start_all(folder.path(), origin).await);
    println!(
        "\nThe same load through each, {} rounds of {} s; ratio: the relay's by this one's\n",
        effort.rounds, effort.seconds
    );
    for work in WORK.iter().filter(|work| only.is_none_or(|only| work.name.contains(only.as_str()))) {
        compare(work, &sides, effort).await;
    }
    if only.is_none_or(|only| only == "routes") {
        relay::many_routes(&sides[0], effort).await;
    }
}

/// The number behind `flag`, or `default`.
fn number(arguments: &[String], flag: &str, default: usize) -> usize {
    let Some(at) = arguments.iter().position(|argument| argument == flag) else { return default };
    let value = arguments.get(at + 1).and_then(|text| text.parse().ok()).filter(|&number| number > 0);
    value.unwrap_or_else(|| panic!("{flag} wants a number above 0"))
}

/// Runs one work on all sides and prints a table of it.
async fn compare(work: &Work, sides: &[Peer], effort: Effort) {
    let sides: Vec<&Peer> = sides.iter().filter(|side| side.speaks(work.port)).collect();
    let mut rounds: Vec<Vec<load::Figures>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds {
        for turn in 0..sides.len() {
            // Who goes first changes.
            let at = (round + turn) % sides.len();
            rounds[at].push(load::run(work, sides[at], effort.seconds).await);
        }
    }
    println!("{}", work.name);
    println!(
        "| {:8} | {:>12} | {:>6} | {:>9} | {:>9} | {:>12} | {:>9} |",
        "", "per second", "ratio", "p50", "p99", "CPU/request", "memory"
    );
    println!("|{0:-<10}|{0:->14}|{0:->8}|{0:->11}|{0:->11}|{0:->14}|{0:->11}|", "");
    for (side, figures) in sides.iter().zip(&rounds) {
        let of = |pick: fn(&load::Figures) -> f64| median(figures.iter().map(pick).collect());
        let ratios = rounds[0].iter().zip(figures).map(|(own, other)| own.rate / other.rate).collect();
        println!(
            "| {:8} | {:>12} | {:>6.2} | {:>6} us | {:>6} us | {:>9} us | {:>5.1} MiB |",
            side.name,
            short(of(|one| one.rate)),
            median(ratios),
            short(of(|one| one.p50)),
            short(of(|one| one.p99)),
            short(of(|one| one.cpu)),
            of(|one| one.memory as f64 / f64::from(1 << 20)),
        );
    }
    println!();
}
