//! What only a store in etcd does: several relays, outages, leases, keys, TLS, limits.

use std::{fs, time::Duration};

use serde_json::json;
use underpass_relay::store::{
    Store, TransactError, Unavailable,
    backup::{BackupError, RESTORE_STEP},
    disk::OpenError,
    etcd::{self, Settings},
    lifecycle,
    log::Compacted,
    object::{Draft, ObjectKey},
    record::{LeaderRecord, Leased, RecordKey, RelayRecord},
    seal::KeyError,
    state::{Fresh, State, WriteError},
};
use underpass_shared::{
    identity::{AgentIdentity, ProjectName},
    resource::kind::Kind,
};
use underpass_tests::{
    etcd::Etcd,
    eventually::{PATIENCE, eventually, within},
    gate::Gate,
};

use crate::fixture::{blocking, close, draft, key, open, settings, value, with_tls};

/// An etcd, and two relays of which the second reaches it through a gate.
struct Pair {
    etcd: Etcd,
    gate: Gate,
    folder: tempfile::TempDir,
    one: Store,
    two: Store,
}

impl Pair {
    async fn open() -> Self {
        let etcd = Etcd::start().await;
        let gate = Gate::to(etcd.address()).await;
        let folder = tempfile::tempdir().unwrap();
        let first = settings(&etcd, folder.path());
        let second = Settings { endpoints: vec![format!("http://{}", gate.address())], ..first.clone() };
        let (one, two) = tokio::join!(open(first), open(second));
        Self { etcd, gate, folder, one, two }
    }

    async fn close(self) {
        close(vec![self.one, self.two]).await;
    }
}

/// Writes something until the store takes it again.
async fn heals(store: &Store, name: &str) {
    eventually("the store can be written again", async || match store.create(draft(name, 0)).await {
        Ok(_) | Err(TransactError::Refused(WriteError::AlreadyExists(_))) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
}

fn relay_at(addresses: &[String]) -> RelayRecord {
    RelayRecord { addresses: addresses.to_vec(), instance: String::new() }
}

fn lead(relay: &str) -> impl Fn(&mut State, &mut Fresh) -> Result<(), WriteError> {
    let record = LeaderRecord { relay: relay.parse().unwrap() };
    move |state, _| state.put_record(RecordKey::Leader, &record)
}

async fn leader(store: &Store, wanted: Option<&str>) {
    let mut leased = store.leased();
    let is_wanted = |leased: &Leased| leased.leader().as_ref().map(|relay| relay.as_str()) == wanted;
    within(PATIENCE, "the leader is known", leased.wait_for(is_wanted)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_that_start_at_once_make_one_deployment_and_see_each_others_writes() {
    let pair = Pair::open().await;
    let made = pair.one.create(draft("a", 1)).await.unwrap();
    let seen = pair.two.fresh().await.unwrap();
    assert_eq!(seen.get(&key("a")), Some(&made));
    // Without having read anything: the transaction that came second is run on what came first.
    let changed = pair.two.replace(draft("a", 2), Some(made.body.revision)).await.unwrap();
    let stale = pair.one.replace(draft("a", 3), Some(made.body.revision)).await.unwrap_err();
    assert!(matches!(stale, TransactError::Refused(WriteError::Conflict { .. })), "{stale}");
    pair.two.delete(key("a"), None).await.unwrap();
    let again = pair.one.create(draft("a", 4)).await.unwrap();
    assert!(again.body.revision > changed.body.revision && again.body.uid != made.body.uid);
    assert_eq!(*pair.two.fresh().await.unwrap(), *pair.one.fresh().await.unwrap());
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_etcd_serves_reads_refuses_writes_and_catches_up_in_order() {
    let pair = Pair::open().await;
    let before = pair.one.create(draft("a", 1)).await.unwrap();
    let known = pair.two.fresh().await.unwrap();
    pair.gate.close();
    let error = pair.two.create(draft("b", 1)).await.unwrap_err();
    assert!(matches!(error, TransactError::Unavailable(Unavailable::Away(_))), "{error}");
    assert!(error.to_string().contains("the store cannot be written (etcd"), "{error}");
    assert!(pair.two.fresh().await.is_err(), "nobody knows what is newest");
    assert_eq!(pair.two.get(&key("a")), Some(before), "reading goes on");
    let read: Result<_, TransactError<WriteError>> = pair.two.inspect(|state| Ok(state.objects().len())).await;
    assert_eq!(read.unwrap(), known.len(), "in one piece, too");
    let unsure: Result<(), _> = pair.two.inspect(|_| Err("not here")).await;
    assert!(matches!(unsure, Err(TransactError::Unavailable(_))), "what is not here may be elsewhere: {unsure:?}");
    let same = pair.two.replace(draft("a", 1), None).await;
    assert!(matches!(same, Err(TransactError::Unavailable(_))), "it may not be the same any more: {same:?}");

    for value in 2..5 {
        pair.one.replace(draft("a", value), None).await.unwrap();
    }
    pair.gate.open();
    heals(&pair.two, "healed").await;
    let events = pair.two.events_after(known.revision(), 100).unwrap();
    let values: Vec<u64> =
        events.iter().filter(|event| event.key().name == "a").map(|e| value(e.after.as_ref().unwrap())).collect();
    assert_eq!(values, [2, 3, 4], "nothing was skipped, and nothing came twice");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_missed_what_etcd_forgot_reads_everything_again_and_says_so() {
    let pair = Pair::open().await;
    pair.one.create(draft("kept", 1)).await.unwrap();
    pair.one.create(draft("gone", 1)).await.unwrap();
    let listed = pair.two.fresh().await.unwrap().revision();
    pair.gate.close();
    pair.one.replace(draft("kept", 2), None).await.unwrap();
    pair.one.delete(key("gone"), None).await.unwrap();
    pair.etcd.compact().await;
    pair.gate.open();
    heals(&pair.two, "healed").await;
    let events = pair.two.events_after(listed, 100);
    assert!(matches!(events, Err(Compacted { oldest }) if oldest > listed), "{events:?}");
    assert_eq!(*pair.two.fresh().await.unwrap(), *pair.one.fresh().await.unwrap());
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_leased_ends_with_its_relay_and_only_then() {
    let Pair { etcd, gate, folder, one, two } = Pair::open().await;
    let relay = RecordKey::Relay("two".parse().unwrap());
    let addresses = vec!["192.0.2.1:7443".to_owned()];
    two.transact(move |state, _| state.put_record(relay.clone(), &relay_at(&addresses))).await.unwrap();
    two.transact(lead("two")).await.unwrap();
    leader(&one, Some("two")).await;

    // Cut off for longer than the lease: gone for the others, and the relay is told when it is back.
    gate.close();
    leader(&one, None).await;
    one.transact(lead("one")).await.unwrap();
    gate.open();
    leader(&two, Some("one")).await;
    assert_eq!(two.leased().borrow().relays().count(), 0, "all of it has ended");
    eventually("the relay leases again", async || two.transact(lead("two")).await.map_err(|e| e.to_string())).await;
    leader(&one, Some("two")).await;

    // A relay that stops takes its records along at once.
    blocking(move || drop(two)).await;
    leader(&one, None).await;
    one.transact(lead("one")).await.unwrap();
    let third = open(settings(&etcd, folder.path())).await;
    leader(&third, Some("one")).await;
    close(vec![one, third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_relays_must_share_the_key_and_nothing_secret_is_in_etcd() {
    let etcd = Etcd::start().await;
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(settings(&etcd, own.path())).await;
    for (kind, word) in [(Kind::Secret, "c2VhbGVk-whole"), (Kind::ConfigMap, "plain-as-written")] {
        let key = ObjectKey { kind, ..key("a") };
        store.create(Draft::of_value(key, json!({ "data": { "word": word } }))).await.unwrap();
    }
    let authority = json!({ "key": "BEGIN PRIVATE KEY" });
    store.transact(move |state, _| state.put_record(RecordKey::Authority, &authority)).await.unwrap();
    let dump = etcd.dump().await;
    let holds = |text: &str| dump.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("plain-as-written") && holds("/underpass/test/objects/secrets/default/default/a"));
    assert!(!holds("c2VhbGVk") && !holds("PRIVATE KEY"));

    let refuse = async |settings: Settings| blocking(move || Store::open_etcd(&settings).unwrap_err()).await;
    let missing = refuse(settings(&etcd, other.path())).await;
    assert!(matches!(missing, OpenError::Key(KeyError::Missing(_))), "{missing}");
    assert!(missing.to_string().contains("copy it from another relay"), "{missing}");
    let file = other.path().join("store.key");
    underpass_relay::store::seal::write_private(&file, "ab".repeat(32).as_bytes()).unwrap();
    let foreign = refuse(settings(&etcd, other.path())).await;
    assert!(matches!(foreign, OpenError::Key(KeyError::Foreign(_))), "{foreign}");
    fs::copy(own.path().join("store.key"), &file).unwrap();
    let second = open(settings(&etcd, other.path())).await;
    assert_eq!(*second.snapshot(), *store.snapshot());
    close(vec![store, second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_and_the_relay_know_each_other_by_their_certificates() {
    let etcd = Etcd::start_with_mutual_tls().await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(with_tls(&etcd, folder.path(), true)).await;
    store.create(draft("a", 1)).await.unwrap();
    let settings = with_tls(&etcd, folder.path(), false);
    let error = blocking(move || Store::open_etcd(&settings).unwrap_err()).await.to_string();
    assert!(error.starts_with("the store in etcd at https://127.0.0.1:"), "{error}");
    assert!(error.ends_with("check --etcd-endpoint, the TLS flags, and that etcd runs"), "{error}");
    close(vec![store]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_etcd_does_not_take_is_refused_by_name_and_harms_nobody() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(settings(&etcd, folder.path())).await;
    let before = store.snapshot();
    let many = |state: &mut State, fresh: &mut Fresh| {
        (0..200).try_for_each(|at| state.create(draft(&format!("many-{at}"), 1), fresh).map(drop))
    };
    let large = |state: &mut State, fresh: &mut Fresh| {
        let data = json!({ "data": { "x": "x".repeat(3 << 20) } });
        state.create(Draft::of_value(key("large"), data), fresh).map(drop)
    };
    for refused in [store.transact(many).await, store.transact(large).await] {
        let error = refused.unwrap_err();
        assert!(matches!(error, TransactError::Unavailable(Unavailable::TooLarge(_))), "{error}");
        assert!(error.to_string().contains("too large for one etcd transaction"), "{error}");
    }
    assert_eq!(*store.snapshot(), *before);
    store.create(draft("a", 1)).await.unwrap();
    close(vec![store]).await;

    let generous = Etcd::start_with(&["--max-txn-ops=1000", "--max-request-bytes=8000000"]).await;
    let store = open(settings(&generous, folder.path())).await;
    store.transact(many).await.unwrap();
    store.transact(large).await.unwrap();
    close(vec![store]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_more_agents_than_one_transaction_may_name_can_be_deleted() {
    let pair = Pair::open().await;
    let project = ProjectName::default();
    let node = ObjectKey::cluster(&project, Kind::TunnelNode, "big");
    pair.one.create(Draft::of_spec(node.clone(), json!({}))).await.unwrap();
    for some in 0..4 {
        let enrol = move |state: &mut State, _: &mut Fresh| {
            (0..50).try_for_each(|at| {
                let (node, agent) = ("big".parse().unwrap(), format!("agent-{some}-{at}").parse().unwrap());
                let agent = AgentIdentity { project: ProjectName::default(), node, agent };
                lifecycle::number_agent(state, &agent).map(drop)
            })
        };
        pair.one.transact(enrol).await.unwrap();
    }
    let agents = |state: &State| {
        Ok::<_, WriteError>(state.records().keys().filter(|key| matches!(key, RecordKey::Agent(..))).count())
    };
    assert_eq!(pair.two.inspect(agents).await.unwrap(), 200);
    pair.one.delete(node, None).await.unwrap();
    for store in [&pair.one, &pair.two] {
        assert_eq!(store.inspect(agents).await.unwrap(), 0);
    }
    let again = open(settings(&pair.etcd, pair.folder.path())).await;
    assert_eq!(again.inspect(agents).await.unwrap(), 0, "nor does etcd hold them");
    close(vec![again]).await;
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_writers_than_fit_into_one_transaction_all_get_their_write_and_every_change_is_seen() {
    let pair = Pair::open().await;
    let listed = pair.two.fresh().await.unwrap().revision();
    let writers: Vec<_> = (0..300)
        .map(|at| {
            let store = pair.one.clone();
            tokio::spawn(async move { store.create(draft(&format!("o{}", at % 150), at)).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for writer in writers {
        made += usize::from(writer.await.unwrap());
    }
    assert_eq!(made, 150, "of two who make the same, one does");
    // One object, many times in a row from one relay: each of the changes reaches the other.
    let changes: Vec<_> = (1000..1100)
        .map(|value| {
            let store = pair.one.clone();
            tokio::spawn(async move { store.replace(draft("o0", value), None).await.unwrap().body.revision })
        })
        .collect();
    let mut revisions = Vec::new();
    for change in changes {
        revisions.push(change.await.unwrap());
    }
    revisions.sort_unstable();
    pair.two.fresh().await.unwrap();
    let events = pair.two.events_after(listed, 10_000).unwrap();
    let seen: Vec<u64> = events.iter().filter(|e| revisions.contains(&e.revision)).map(|e| e.revision).collect();
    assert_eq!(seen, revisions);
    assert_eq!(events, pair.one.events_after(listed, 10_000).unwrap(), "both tell the same story");
    pair.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_made_to_forget_what_was_overwritten_long_ago() {
    let etcd = Etcd::start().await;
    let folder = tempfile::tempdir().unwrap();
    let every = Some(Duration::from_millis(50));
    let store = open(Settings { compaction: every, ..settings(&etcd, folder.path()) }).await;
    store.create(draft("a", 1)).await.unwrap();
    let revision = etcd.revision().await;
    // Something has to be newer, or there is nothing to forget.
    store.replace(draft("a", 2), None).await.unwrap();
    eventually("the past is gone", async || etcd.has_forgotten(revision - 1).await).await;
    store.replace(draft("a", 3), None).await.unwrap();
    assert_eq!(value(store.fresh().await.unwrap().get(&key("a")).unwrap()), 3);
    close(vec![store]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_by_name_and_reading_goes_on() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=16777216"]).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(settings(&etcd, folder.path())).await;
    store.create(draft("a", 1)).await.unwrap();
    let mut made = 0;
    let refusal = loop {
        let padding = json!({ "data": { "value": 1, "padding": "x".repeat(400_000) } });
        match store.create(Draft::of_value(key(&format!("large-{made}")), padding)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "the quota is smaller");
    };
    assert!(matches!(refusal, TransactError::Unavailable(Unavailable::Away(_))), "{refusal}");
    assert!(refusal.to_string().contains("database space exceeded"), "{refusal}");
    assert_eq!(value(&store.get(&key("a")).unwrap()), 1);
    assert_eq!(store.fresh().await.map_or(made, |objects| objects.get(&key("a")).map_or(0, |_| made)), made);
    close(vec![store]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_an_empty_prefix_and_half_of_one_is_opened_by_nobody() {
    let etcd = Etcd::start().await;
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = old.path().to_owned();
    let source = blocking(move || Store::open(&path).unwrap()).await;
    for at in 0..300 {
        source.create(draft(&format!("o{at}"), at)).await.unwrap();
    }
    let secret = ObjectKey { kind: Kind::Secret, ..key("s") };
    source.create(Draft::of_value(secret.clone(), json!({ "data": { "word": "aHVudGVyMg==" } }))).await.unwrap();
    source.transact(|state, _| state.put_record(RecordKey::Token("t".to_owned()), &"kept")).await.unwrap();
    source.transact(lead("gone")).await.unwrap();
    let file = old.path().join("backup");
    let summary = source.backup().await.unwrap().write(fs::File::create(&file).unwrap()).unwrap();
    let target = settings(&etcd, new.path());
    let restore = async |target: &Settings| {
        let (from, target) = (file.clone(), target.clone());
        blocking(move || etcd::restore(&from, &target)).await
    };

    assert!(matches!(restore(&target).await, Err(BackupError::NoKey(_))));
    assert_eq!(etcd.dump().await, b"", "what cannot be restored is not begun");
    // One that came to no end: whoever opens a relay there is told.
    for half in ["restoring", "objects/configmaps/default/default/o1000"] {
        etcd.touch(&format!("{}/{half}", target.prefix)).await;
    }
    let unfinished = target.clone();
    let error = blocking(move || Store::open_etcd(&unfinished).unwrap_err()).await.to_string();
    assert!(error.contains("a backup is being restored there"), "{error}");
    assert!(!target.key_file.exists(), "and no key was made");
    fs::copy(old.path().join("store.key"), &target.key_file).unwrap();
    let restored = restore(&target).await.unwrap();
    assert_eq!((restored.entries, restored.revision), (summary.entries, summary.revision + RESTORE_STEP));
    assert!(matches!(restore(&target).await, Err(BackupError::PrefixInUse(_))));

    let store = open(target).await;
    assert_eq!(value(&store.get(&key("o299")).unwrap()), 299);
    assert_eq!(store.snapshot().len(), source.snapshot().len());
    assert_eq!(store.get(&secret).unwrap().body.content["data"]["word"], "aHVudGVyMg==");
    let record: Option<String> = store.inspect(|state| state.record(&RecordKey::Token("t".to_owned()))).await.unwrap();
    assert_eq!(record.as_deref(), Some("kept"));
    assert_eq!(store.leased().borrow().leader(), None, "what was leased has ended");
    assert!(store.create(draft("more", 1)).await.unwrap().body.revision > restored.revision);
    close(vec![store, source]).await;
}
