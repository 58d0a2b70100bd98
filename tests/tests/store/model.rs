//! Any interleaving of writers, watchers, compaction, outages and restarts: no acknowledged write is lost, every
//! watcher sees every revision once and in order or is told to list again, and all stores end alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use futures_util::{FutureExt as _, future::join_all};
use rand::{RngExt, rngs::StdRng};
use tokio::task::JoinSet;
use underpass_relay::store::{Store, TransactError};
use underpass_tests::eventually::{PATIENCE, eventually, within};

use crate::{
    fixture::{Place, close, key, number, random, seed, value},
    player::{Known, Player, SHARED, counter},
    watcher::{Segment, watch},
};

const WRITERS: u64 = 4;
/// How long a round may take; etcd is started again within it.
const ROUND: std::time::Duration = PATIENCE.saturating_mul(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_obeys_the_model_in_the_embedded_store() {
    play(Place::embedded(), Weather::Fair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_of_two_relays_on_one_etcd_obeys_the_model() {
    play(Place::etcd().await, Weather::Fair).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_obeys_the_model_while_a_relay_is_cut_off_and_etcd_forgets_its_history() {
    play(Place::etcd().await, Weather::Cuts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_obeys_the_model_while_etcd_is_killed_and_comes_back() {
    play(Place::etcd().await, Weather::Crashes).await;
}

/// What happens to etcd meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Weather {
    Fair,
    /// The second relay loses etcd, and etcd compacts before it is back.
    Cuts,
    /// etcd dies and comes back.
    Crashes,
}

/// What all writers and watchers share.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) steps: AtomicU64,
    /// Acknowledged increments of the shared object and of the shared record.
    pub(crate) objects: AtomicU64,
    pub(crate) records: AtomicU64,
    /// Increments of either whose fate was not told.
    pub(crate) unknown: AtomicU64,
    /// The revisions of acknowledged writes.
    pub(crate) acknowledged: Mutex<BTreeSet<u64>>,
    pub(crate) stop: AtomicBool,
}

async fn play(mut place: Place, weather: Weather) {
    let seed = seed();
    let rounds = number("UNDERPASS_ROUNDS", 3);
    let mut known: BTreeMap<u64, BTreeMap<String, Known>> = BTreeMap::new();
    let tally = Arc::new(Tally::default());
    let (mut seen, mut relists) = (0, 0);
    for round in 0..rounds {
        let stores = place.open().await;
        tally.stop.store(false, SeqCst);
        let mut watchers = JoinSet::new();
        for store in &stores {
            for pace in [1, 64] {
                watchers.spawn(watch(store.clone(), tally.clone(), pace));
            }
        }
        let players = (0..WRITERS).map(|writer| {
            let known = known.remove(&writer).unwrap_or_default();
            let random = random(seed, round * WRITERS + writer);
            Player { writer, stores: stores.clone(), known, tally: tally.clone(), random }.play().boxed_local()
        });
        let players = join_all(players);
        let mut weather_random = random(seed, 1_000_000 + round);
        let storm = storm(&mut place, weather, &tally, &mut weather_random).boxed_local();
        let (played, ()) = within(ROUND, "the round ends", async { tokio::join!(players, storm) }).await;
        known.extend(played);
        settle(&stores, &known, &tally).await;
        tally.stop.store(true, SeqCst);
        let logs = within(PATIENCE, "the watchers have seen all", watchers.join_all()).await;
        relists += logs.iter().map(|log| log.len() - 1).sum::<usize>();
        seen += agree(&logs.concat(), &tally);
        close(stores).await;
    }
    let [objects, records, unknown] = [&tally.objects, &tally.records, &tally.unknown].map(|count| count.load(SeqCst));
    println!(
        "{rounds} rounds, {weather:?}: {seen} changes watched, {relists} times listed again, {objects} and {records} increments, {unknown} of unknown fate"
    );
    assert!(seen > 100 && objects > 0 && records > 0, "something happened");
    assert!(weather == Weather::Crashes || weather == Weather::Cuts || (relists == 0 && unknown == 0));
}

/// Does to etcd what must be survived, at random points of the writers' work.
async fn storm(place: &mut Place, weather: Weather, tally: &Tally, random: &mut StdRng) {
    let Some((etcd, gate)) = place.server() else { return };
    let pause = async |random: &mut StdRng| {
        let until = tally.steps.load(SeqCst) + random.random_range(1..30);
        let reached = async || if tally.steps.load(SeqCst) >= until { Ok(()) } else { Err("not yet") };
        eventually("the writers go on", reached).await;
    };
    for _ in 0..2 {
        match weather {
            Weather::Fair => return,
            Weather::Cuts => {
                pause(random).await;
                gate.close();
                // Writers stop when they meet the relay that is cut off, sooner or later all of them.
                etcd.compact().await;
                gate.open();
            }
            Weather::Crashes => {
                pause(random).await;
                etcd.kill().await;
                etcd.start_again().await;
            }
        }
    }
}

/// All stores agree with each other and with everything that was acknowledged.
async fn settle(stores: &[Store], known: &BTreeMap<u64, BTreeMap<String, Known>>, tally: &Tally) {
    let mut snapshots = Vec::new();
    for store in stores {
        let fresh = async || store.fresh().await.map_err(|error| error.to_string());
        snapshots.push(eventually("the store answers", fresh).await);
    }
    for snapshot in &snapshots {
        assert_eq!(**snapshot, *snapshots[0], "all relays see the same");
        let owned: BTreeMap<&String, &Known> = known.values().flatten().collect();
        for (name, known) in &owned {
            let object = snapshot.get(&key(name)).unwrap_or_else(|| panic!("{name} is lost: {known:?}"));
            assert_eq!(Known::of(object), **known, "{name}");
        }
        let stored = snapshot.iter().filter(|object| object.key.name.starts_with('w')).count();
        assert_eq!(stored, owned.len(), "what was deleted is gone");
        let unknown = tally.unknown.load(SeqCst);
        let objects = tally.objects.load(SeqCst);
        let counted = snapshot.get(&key(SHARED)).map_or(0, value);
        assert!((objects..=objects + unknown).contains(&counted), "{counted} of {objects} (+{unknown})");
    }
    let records = tally.records.load(SeqCst);
    for store in stores {
        let counted: Result<_, TransactError<_>> = store.transact(|state, _| counter(state)).await;
        let counted = counted.unwrap();
        assert!((records..=records + tally.unknown.load(SeqCst)).contains(&counted), "{counted} of {records}");
    }
}

/// Every watcher saw the same change at a revision, and between two lists all that there were.
fn agree(segments: &[Segment], tally: &Tally) -> usize {
    let mut all = BTreeMap::new();
    for (revision, change) in segments.iter().flat_map(|segment| &segment.seen) {
        assert_eq!(all.entry(revision).or_insert(change), &change, "revision {revision}");
    }
    let acknowledged = tally.acknowledged.lock().unwrap();
    for Segment { listed, until, seen } in segments {
        let of_all = all.range((Excluded(*listed), Included(*until))).map(|(revision, _)| **revision);
        assert!(of_all.eq(seen.iter().map(|(revision, _)| *revision)), "all of {listed}..={until}");
        for revision in acknowledged.range((Excluded(*listed), Included(*until))) {
            assert!(all.contains_key(revision), "the acknowledged revision {revision} was seen");
        }
    }
    all.len()
}
