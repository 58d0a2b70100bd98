//! Many objects: the memory they take, how long lists of them take, and how long a start with them takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use underpass_tests::{clock, etcd::Etcd, relay::Relay};

use crate::{
    Effort, etcd,
    figures::{median, short},
    relay,
    side::{Listed, Place, Side},
};

const WRITERS: usize = 256;
const CONNECTIONS: usize = 4;
const NAMESPACES: usize = 100;
/// How often each list is read.
const READS: usize = 3;
const PAGE: usize = 500;

/// One side's column of the table.
type Column = Vec<(String, f64)>;

/// Fills both sides, one after the other, and prints the table.
pub(crate) async fn measure(effort: Effort) {
    let etcd = of_etcd(effort.objects).await;
    let relay = of_relay(effort.objects).await;
    println!("\n{} ConfigMaps in {NAMESPACES} namespaces (lists: medians of {READS})\n", short(effort.objects as f64));
    println!("| {:38} | {:>9} | {:>9} | {:>11} |", "what", "etcd", "relay", "relay/etcd");
    println!("|{0:-<40}|{0:->11}|{0:->11}|{0:->13}|", "");
    for ((name, etcd), (_, relay)) in etcd.into_iter().zip(relay) {
        println!("| {name:38} | {:>9} | {:>9} | {:>11.2} |", short(etcd), short(relay), relay / etcd);
    }
}

async fn of_etcd(objects: usize) -> Column {
    let mut etcd = Etcd::start().await;
    let mut column = Column::new();
    let empty = etcd.process.memory();
    fill(&etcd::Client::several(&etcd, CONNECTIONS).await, objects, &mut column).await;
    remember(&mut column, [empty, etcd.process.memory()]);
    read(etcd::Client::several(&etcd, 1).await.remove(0), objects, &mut column).await;
    column.push(("memory after these lists, MiB".to_owned(), in_mebibytes(etcd.process.memory())));
    etcd.process.terminate().await;
    etcd.process.exit().await;
    let begin = clock::now();
    etcd.start_again().await;
    column.push(("start after SIGTERM, ms".to_owned(), milliseconds(begin.elapsed())));
    etcd.kill().await;
    let begin = clock::now();
    etcd.start_again().await;
    column.push(("start after SIGKILL, ms".to_owned(), milliseconds(begin.elapsed())));
    column.push(("memory after that start, MiB".to_owned(), in_mebibytes(etcd.process.memory())));
    column
}

async fn of_relay(objects: usize) -> Column {
    let mut relay = Relay::start().await;
    let mut column = Column::new();
    let empty = relay.process.memory();
    fill(&relay::Client::several(&relay, CONNECTIONS).await, objects, &mut column).await;
    remember(&mut column, [empty, relay.process.memory()]);
    read(relay::Client::several(&relay, 1).await.remove(0), objects, &mut column).await;
    column.push(("memory after these lists, MiB".to_owned(), in_mebibytes(relay.process.memory())));
    relay.stop().await;
    let begin = clock::now();
    relay.start_again().await;
    column.push(("start after SIGTERM, ms".to_owned(), milliseconds(begin.elapsed())));
    relay.kill().await;
    let begin = clock::now();
    relay.start_again().await;
    column.push(("start after SIGKILL, ms".to_owned(), milliseconds(begin.elapsed())));
    column.push(("memory after that start, MiB".to_owned(), in_mebibytes(relay.process.memory())));
    column
}

fn remember(column: &mut Column, [empty, full]: [u64; 2]) {
    column.push(("memory when empty, MiB".to_owned(), in_mebibytes(empty)));
    column.push(("memory when filled, MiB".to_owned(), in_mebibytes(full)));
}

/// Creates all objects, and says how fast that was.
async fn fill<S: Side>(clients: &[S], objects: usize, column: &mut Column) {
    let next = Arc::new(AtomicUsize::new(0));
    let begin = clock::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (mut client, next) = (clients[writer % clients.len()].clone(), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects {
                    return;
                }
                client.create(&place(number)).await.expect("no write fails");
            }
        });
    }
    writers.join_all().await;
    column.push((format!("creates by {WRITERS} writers, /s"), objects as f64 / begin.elapsed().as_secs_f64()));
}

fn place(number: usize) -> Place {
    Place { namespace: format!("n-{:02}", number % NAMESPACES), name: format!("object-{number:06}") }
}

async fn read<S: Side>(mut client: S, objects: usize, column: &mut Column) {
    let in_first = objects.div_ceil(NAMESPACES);
    let reads = [
        ("list of all".to_owned(), None, None, objects),
        (format!("list of all in pages of {PAGE}"), None, Some(PAGE), objects),
        ("list of one namespace".to_owned(), Some("n-00"), None, in_first),
    ];
    for (name, namespace, limit, expected) in reads {
        let (mut times, mut listed) = (Vec::new(), Listed::default());
        for _ in 0..READS {
            let begin = clock::now();
            listed = client.list(namespace, limit).await.expect("lists are answered");
            times.push(milliseconds(begin.elapsed()));
            assert_eq!(listed.objects, expected, "{name}: all are there");
        }
        column.push((format!("{name}, ms"), median(times)));
        if namespace.is_none() && limit.is_none() {
            column.push((format!("{name}, MiB"), in_mebibytes(listed.bytes as u64)));
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn in_mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
