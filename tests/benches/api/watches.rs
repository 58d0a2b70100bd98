//! Many watchers of one collection: how long until all have seen what was written.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use tokio::task::JoinSet;
use underpass_tests::{clock, etcd::Etcd, relay::Relay};

use crate::{
    Effort, etcd,
    figures::short,
    relay,
    side::{Place, Side},
    writes::mebibytes,
};

/// The relay takes 100 requests at once of one connection.
const WATCHERS_PER_CONNECTION: usize = 100;
const WRITERS: usize = 10;
const WRITES_EACH: usize = 20;
const EVENTS: usize = WRITERS * WRITES_EACH;
const NAMESPACE: &str = "watched";

/// What one side came to.
#[derive(Debug)]
struct Seen {
    /// From the first write until the last was answered.
    written: Duration,
    /// From the first write until the last watcher had seen the last event.
    all: Duration,
    /// Memory without watchers, with all of them open, and at the end.
    memory: [u64; 3],
}

/// Runs both sides and prints the table.
pub(crate) async fn measure(effort: Effort) {
    let connections = effort.watchers.div_ceil(WATCHERS_PER_CONNECTION);
    let etcd = of_etcd(effort.watchers, connections).await;
    let relay = of_relay(effort.watchers, connections).await;
    let events = (effort.watchers * EVENTS) as f64;
    println!(
        "\n{} watchers over {connections} connections see {EVENTS} updates by {WRITERS} writers\n",
        effort.watchers
    );
    println!("| {:38} | {:>9} | {:>9} | {:>11} |", "what", "etcd", "relay", "relay/etcd");
    println!("|{0:-<40}|{0:->11}|{0:->11}|{0:->13}|", "");
    let row = |name: &str, of: &dyn Fn(&Seen) -> f64| {
        let (etcd, relay) = (of(&etcd), of(&relay));
        println!("| {name:38} | {:>9} | {:>9} | {:>11.2} |", short(etcd), short(relay), relay / etcd);
    };
    row("all writes are answered, ms", &|seen| seen.written.as_secs_f64() * 1e3);
    row("all watchers have seen all events, ms", &|seen| seen.all.as_secs_f64() * 1e3);
    row("events seen, /s", &|seen| events / seen.all.as_secs_f64());
    let memory = |seen: &Seen| seen.memory.map(mebibytes).join(" / ");
    println!(
        "\nMemory without watchers / with them / at the end, MiB: etcd {}, relay {}",
        memory(&etcd),
        memory(&relay)
    );
}

async fn of_etcd(watchers: usize, connections: usize) -> Seen {
    let etcd = Etcd::start().await;
    let writers = prepare(etcd::Client::several(&etcd, 1).await.remove(0)).await;
    let memory = etcd.process.memory();
    let revision = newest(&writers);
    let mut clients = etcd::Client::several(&etcd, connections).await;
    let mut watching = JoinSet::new();
    for watcher in 0..watchers {
        let mut stream = clients[watcher % connections].watch(NAMESPACE, revision).await.expect("etcd takes a watch");
        watching.spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let message = stream.message().await.expect("the watch goes on").expect("the watch goes on");
                seen += message.events().len();
            }
            clock::now()
        });
    }
    let open = etcd.process.memory();
    let (begin, written) = write(writers).await;
    let all = last(watching).await - begin;
    Seen { written, all, memory: [memory, open, etcd.process.memory()] }
}

async fn of_relay(watchers: usize, connections: usize) -> Seen {
    let relay = Relay::start().await;
    let writers = prepare(relay::Client::several(&relay, 1).await.remove(0)).await;
    let memory = relay.process.memory();
    let revision = newest(&writers);
    let mut clients = relay::Client::several(&relay, connections).await;
    let mut watching = JoinSet::new();
    for watcher in 0..watchers {
        let mut body =
            clients[watcher % connections].watch(NAMESPACE, revision).await.expect("the relay takes a watch");
        watching.spawn(async move {
            let mut seen = 0;
            while seen < EVENTS {
                let frame = body.frame().await.expect("the watch goes on").expect("the watch goes on");
                // Each event is a line.
                seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
            }
            clock::now()
        });
    }
    let open = relay.process.memory();
    let (begin, written) = write(writers).await;
    let all = last(watching).await - begin;
    Seen { written, all, memory: [memory, open, relay.process.memory()] }
}

/// One object for each writer, with its revision.
async fn prepare<S: Side>(mut client: S) -> Vec<(S, Place, u64)> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let place = Place { namespace: NAMESPACE.to_owned(), name: format!("object-{writer}") };
        let revision = client.create(&place).await.expect("no write fails");
        writers.push((client.clone(), place, revision));
    }
    writers
}

fn newest<S>(writers: &[(S, Place, u64)]) -> u64 {
    writers.last().map_or(0, |(_, _, revision)| *revision)
}

/// All writers update their own objects; gives when that began and how long it took.
async fn write<S: Side>(writers: Vec<(S, Place, u64)>) -> (Instant, Duration) {
    let begin = clock::now();
    let mut writing = JoinSet::new();
    for (mut client, place, mut revision) in writers {
        writing.spawn(async move {
            for _ in 0..WRITES_EACH {
                revision = client.update(&place, revision).await.expect("no write fails");
            }
        });
    }
    writing.join_all().await;
    (begin, begin.elapsed())
}

async fn last(watching: JoinSet<Instant>) -> Instant {
    watching.join_all().await.into_iter().max().expect("there are watchers")
}
