//! A process that writes is killed at random points, again and again: everything acknowledged is there afterwards,
//! whole, and nothing else but what was under way.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use rand::{RngExt, rngs::StdRng};
use underpass_relay::store::{Store, object::Objects};
use underpass_tests::etcd::Etcd;

use crate::fixture::{blocking, number, open, random, seed, settings};

/// Of each writer at most this many lines are read before the kill.
const LINES_MAX: u64 = 120;

/// What must stand at a name: what was acknowledged last, or what was under way when the writer was killed.
#[derive(Debug, Default, Clone)]
struct Fate {
    value: u64,
    revision: u64,
    under_way: Option<u64>,
}

#[tokio::test]
async fn whatever_the_embedded_store_acknowledged_is_there_after_any_kill() {
    let (seed, crashes) = (seed(), number("UNDERPASS_CRASHES", 25));
    let folder = tempfile::tempdir().unwrap();
    let mut fates = BTreeMap::new();
    for crash in 0..crashes {
        run_and_kill(&[folder.path().to_str().unwrap()], &mut fates, &mut random(seed, crash));
        let path = folder.path().to_owned();
        // The lock of the killed process is no obstacle.
        let store = blocking(move || Store::open(&path).unwrap()).await;
        check(&store.snapshot(), &mut fates, crash);
        blocking(move || drop(store)).await;
    }
    println!("{crashes} crashes, {} names", fates.len());
}

#[tokio::test]
async fn whatever_the_store_in_etcd_acknowledged_is_there_after_any_kill() {
    let (seed, crashes) = (seed(), number("UNDERPASS_CRASHES", 25));
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start().await;
    let observer = open(settings(&etcd, folder.path())).await;
    let mut fates = BTreeMap::new();
    for crash in 0..crashes {
        let mut random = random(seed, crash);
        let endpoint = etcd.endpoint();
        run_and_kill(&[folder.path().to_str().unwrap(), &endpoint], &mut fates, &mut random);
        if random.random_bool(0.2) {
            etcd.kill().await;
            etcd.start_again().await;
        }
        let objects = fresh(&observer).await;
        check(&objects, &mut fates, crash);
    }
    let again = open(settings(&etcd, folder.path())).await;
    assert_eq!(*fresh(&again).await, *fresh(&observer).await, "who opens it now reads what was watched");
    println!("{crashes} crashes, {} names", fates.len());
    blocking(move || drop((observer, again))).await;
}

async fn fresh(store: &Store) -> std::sync::Arc<Objects> {
    let ask = async || store.fresh().await.map_err(|error| error.to_string());
    underpass_tests::eventually::eventually("the store answers", ask).await
}

/// Lets a writer write, kills it after some of its lines, and notes what it said.
fn run_and_kill(place: &[&str], fates: &mut BTreeMap<String, Fate>, random: &mut StdRng) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-writer"));
    command.arg(random.random_range(0..u64::MAX).to_string()).args(place);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..random.random_range(1..LINES_MAX) {
        note(&lines.next().expect("the writer writes until it is killed").unwrap(), fates);
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "it was killed and did not end by itself");
    // What was said before the kill may still be in the pipe; a last line may be cut.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    rest.iter().for_each(|line| note(line, fates));
}

fn note(line: &str, fates: &mut BTreeMap<String, Fate>) {
    let words: Vec<&str> = line.split(' ').collect();
    let [sign, _, name, number] = words.as_slice() else { return };
    let Ok(number) = number.parse() else { return };
    let fate = fates.entry((*name).to_owned()).or_default();
    match *sign {
        "?" => fate.under_way = Some(number),
        "=" => {
            let value = fate.under_way.take().expect("each write is announced");
            *fate = Fate { value, revision: number, under_way: None };
        }
        other => panic!("{other} is not what writers say"),
    }
}

fn check(objects: &Objects, fates: &mut BTreeMap<String, Fate>, crash: u64) {
    let stored: BTreeMap<&str, _> =
        objects.iter().filter(|object| object.key.name.starts_with('w')).map(|o| (o.key.name.as_str(), o)).collect();
    for (name, fate) in fates.iter_mut() {
        let found = stored.get(name.as_str());
        let value = found.map_or(0, |object| object.body.content["data"]["value"].as_u64().unwrap());
        let cut = fate.under_way.take();
        assert!(
            value == fate.value || Some(value) == cut,
            "crash {crash}: {name} holds {value}, not {fate:?} or {cut:?}"
        );
        if value == fate.value && value != 0 && cut.is_none() {
            assert_eq!(found.unwrap().body.revision, fate.revision, "crash {crash}: {name}");
        }
        fate.value = value;
        fate.revision = found.map_or(0, |object| object.body.revision);
    }
    assert!(stored.keys().all(|name| fates.contains_key(*name)), "crash {crash}: nothing came from nowhere");
}

#[test]
fn what_a_writer_says_is_understood() {
    let mut fates = BTreeMap::new();
    ["? 0 w0-1 7", "= 0 w0-1 3", "? 0 w0-1 8", "? 0 w0"].iter().for_each(|line| note(line, &mut fates));
    let fate = &fates["w0-1"];
    assert_eq!((fate.value, fate.revision, fate.under_way), (7, 3, Some(8)));
    assert!(Path::new(env!("CARGO_BIN_EXE_store-writer")).is_file());
}
