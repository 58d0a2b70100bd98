use std::fs;

use serde_json::json;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::{
    disk::{STORE_FILE, faults},
    record::RecordKey,
    seal::{KEY_FILE, KeyError},
    *,
};

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), Kind::Backend, "default", name)
}

fn draft(name: &str, port: u16) -> Draft {
    let spec = json!({ "endpoints": [{ "ip": "192.0.2.1" }], "port": port });
    Draft::of_spec(key(name), spec)
}

#[tokio::test]
async fn everything_is_there_after_the_store_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let before = {
        let store = Store::open(directory.path()).unwrap();
        store.create(draft("a", 1)).await.unwrap();
        store.create(draft("b", 1)).await.unwrap();
        store.replace(draft("a", 2), None).await.unwrap();
        store.replace_status(key("a"), json!({ "conditions": [] }), None).await.unwrap();
        store.delete(key("b"), None).await.unwrap();
        let record = RecordKey::Token("x".to_owned());
        store.transact(move |state, _| state.put_record(record.clone(), &json!("secret"))).await.unwrap();
        store.snapshot()
    };
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(*store.snapshot(), *before);
    let record = RecordKey::Token("x".to_owned());
    assert_eq!(store.transact(move |state, _| state.record(&record)).await.unwrap(), Some(json!("secret")));
    let bytes = fs::read(directory.path().join(STORE_FILE)).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"), "records are sealed at rest");
}

#[tokio::test]
async fn a_second_process_is_told_that_the_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _store = Store::open(directory.path()).unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
}

#[test]
fn a_lost_foreign_or_damaged_part_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let key_path = directory.path().join(KEY_FILE);
    drop(Store::open(directory.path()).unwrap());
    let own = fs::read(&key_path).unwrap();

    fs::write(&key_path, "ab".repeat(32)).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(OpenError::Key(KeyError::Foreign(_)))));
    fs::remove_file(&key_path).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(OpenError::Key(KeyError::Missing(_)))));
    assert!(!key_path.exists(), "no new key is made over sealed records");

    seal::write_private(&key_path, &own).unwrap();
    drop(Store::open(directory.path()).unwrap());
    fs::write(directory.path().join(STORE_FILE), b"not a database, but long enough to be looked at").unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Store::open(file.path()), Err(OpenError::Directory { .. })));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let fault = faults::Fault::default();
    let (disk, state) = faults::open(directory.path(), &fault).unwrap();
    let codec = disk.codec().clone();
    let store = Store::start(Parts::embedded(Box::new(disk), state, codec)).unwrap();
    store.create(draft("a", 1)).await.unwrap();
    let before = store.snapshot();

    fault.set(true);
    for _ in 0..2 {
        let error = store.create(draft("b", 1)).await.unwrap_err();
        assert!(matches!(error, TransactError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains("free space"), "{error}");
    }
    assert_eq!(*store.snapshot(), *before);
    let record = RecordKey::Project(ProjectName::default());
    let read = store.transact(move |state, _| state.record::<Value>(&record)).await.unwrap();
    assert!(read.is_some(), "transactions that only read go on");

    fault.set(false);
    store.create(draft("b", 1)).await.unwrap();
    let after = store.snapshot();
    assert_eq!(after.len(), before.len() + 1);
    drop(store);
    assert_eq!(*Store::open(directory.path()).unwrap().snapshot(), *after);
}

#[tokio::test]
async fn a_refused_transaction_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let before = store.snapshot();
    let refused: Result<(), _> = store
        .transact(|state, fresh| {
            state.create(draft("a", 1), fresh).unwrap();
            state.put_record(RecordKey::Token("t".to_owned()), &1).unwrap();
            Err("no")
        })
        .await;
    assert!(matches!(refused, Err(TransactError::Refused("no"))));
    assert_eq!(*store.snapshot(), *before);
    let record = RecordKey::Token("t".to_owned());
    assert_eq!(store.transact(move |state, _| state.record::<u8>(&record)).await.unwrap(), None);
}

#[tokio::test]
async fn a_change_wakes_who_watches_after_it_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut changes = store.changes();
    let task = tokio::spawn({
        let store = store.clone();
        async move { store.create(draft("a", 1)).await.unwrap().body.revision }
    });
    changes.changed().await.unwrap();
    let seen = *changes.borrow_and_update();
    assert!(store.snapshot().revision() >= seen);
    assert!(store.get(&key("a")).is_some());
    assert_eq!(task.await.unwrap(), seen);

    store.replace(draft("a", 1), None).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "the same content is no change");
}

#[tokio::test]
async fn of_two_writers_at_the_same_revision_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let revision = store.create(draft("a", 1)).await.unwrap().body.revision;
    let (one, two) =
        tokio::join!(store.replace(draft("a", 2), Some(revision)), store.replace(draft("a", 3), Some(revision)));
    let refused = [&one, &two]
        .iter()
        .filter(|result| matches!(result, Err(TransactError::Refused(WriteError::Conflict { .. }))))
        .count();
    assert_eq!(refused, 1);
    assert!(one.is_ok() || two.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_at_once_all_get_their_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let before = store.snapshot().len();
    let writers: Vec<_> = (0..500)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.create(draft(&format!("o{n}"), 1)).await.unwrap().body.revision })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 500, "each write has a revision of its own");
    drop(store);
    assert_eq!(Store::open(directory.path()).unwrap().snapshot().len(), before + 500);
}

#[tokio::test]
async fn a_transaction_may_hold_the_last_clone_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let last = store.clone();
    let waiting = tokio::spawn(async move {
        let clone = last.clone();
        let held = std::sync::Mutex::new(held);
        let transaction = move |_: &mut State, _: &mut Fresh| {
            let _ = held.lock().unwrap().recv();
            let _ = &clone;
            Ok::<_, WriteError>(())
        };
        last.transact(transaction).await
    });
    tokio::task::yield_now().await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    tokio::task::spawn_blocking(move || {
        drop(hold);
        drop(store);
    })
    .await
    .unwrap();
}
