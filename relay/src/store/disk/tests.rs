use std::process;

use serde_json::{Value, json};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::*;
use crate::store::{
    Store,
    object::{Draft, ObjectKey},
    record::RecordKey,
    seal::{self, KEY_FILE},
};

/// A store as format 1 left it: the `default` project and a Backend in a namespace that is no object yet.
fn write_format_1(directory: &Path) {
    let key_file = directory.join(KEY_FILE);
    let codec = Codec::new(Sealer::load(&key_file, true).unwrap());
    let database = Database::create(directory.join(STORE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.insert(META_FORMAT, 1u64.to_be_bytes().as_slice()).unwrap();
        meta.insert(META_REVISION, 7u64.to_be_bytes().as_slice()).unwrap();
        meta.insert(META_PROOF, codec.proof().as_slice()).unwrap();
        let mut objects = transaction.open_table(OBJECTS).unwrap();
        let mut put = |name: &str, body: Value| {
            objects.insert(name, serde_json::to_vec(&body).unwrap().as_slice()).map(drop).unwrap();
        };
        put("projects///default", old_body(1, &json!({}), Some(json!({ "prefix": "fd00:1:2::/48" }))));
        put("backends/default/team/a", old_body(7, &json!({ "endpoints": [{ "ip": "192.0.2.1" }] }), None));
        let mut records = transaction.open_table(RECORDS).unwrap();
        let record = json!({ "prefix": "fd00:1:2::/48", "next_node": 3 }).to_string();
        records
            .insert("project/default", codec.encode_record("project/default", record.as_bytes()).as_slice())
            .unwrap();
    }
    transaction.commit().unwrap();
}

fn old_body(revision: u64, spec: &Value, status: Option<Value>) -> Value {
    let mut body = json!({
        "uid": format!("uid-{revision}"), "revision": revision, "generation": 2, "created": "2026-01-02T03:04:05Z",
        "labels": { "tier": "front" }, "annotations": { "note": "kept" }, "spec": spec,
    });
    if let Some(status) = status {
        body["status"] = status;
    }
    body
}

fn set_format(directory: &Path, format: u64) {
    let database = Database::create(directory.join(STORE_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert(META_FORMAT, format.to_be_bytes().as_slice()).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_store_of_format_1_is_brought_to_this_one_and_stays_so() {
    let directory = tempfile::tempdir().unwrap();
    write_format_1(directory.path());
    let project = ProjectName::default();
    let key = ObjectKey::namespaced(&project, Kind::Backend, "team", "a");
    for _ in 0..2 {
        let store = Store::open(directory.path()).unwrap();
        let object = store.get(&key).unwrap();
        assert_eq!(
            object.to_value(),
            json!({
                "apiVersion": Kind::Backend.info().api_versions[0], "kind": "Backend",
                "metadata": {
                    "name": "a", "namespace": "team", "uid": "uid-7", "resourceVersion": "7", "generation": 2,
                    "creationTimestamp": "2026-01-02T03:04:05Z",
                    "labels": { "tier": "front" }, "annotations": { "note": "kept" },
                },
                "spec": { "endpoints": [{ "ip": "192.0.2.1" }] },
            })
        );
        let namespaces: Vec<_> =
            store.snapshot().of(Some(&project), Kind::Namespace).map(|object| object.key.name.clone()).collect();
        assert_eq!(namespaces, ["default", "team"]);
        assert_eq!(
            store.get(&ObjectKey::project(&project)).unwrap().body.status,
            Some(json!({ "prefix": "fd00:1:2::/48" }))
        );
        assert_eq!(store.snapshot().revision(), 9, "two namespaces were made, once");
        let record = RecordKey::Project(project.clone());
        let record: Option<Value> = store.transact(move |state, _| state.record(&record)).await.unwrap();
        assert_eq!(record.unwrap()["next_node"], 3);
    }
}

#[test]
fn what_cannot_be_migrated_is_refused_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    write_format_1(directory.path());
    let own = fs::read(directory.path().join(KEY_FILE)).unwrap();

    seal::write_private(&directory.path().join(KEY_FILE), "ab".repeat(32).as_bytes()).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(OpenError::Key(KeyError::Foreign(_)))));
    seal::write_private(&directory.path().join(KEY_FILE), &own).unwrap();

    for unknown in [0, FORMAT + 1, u64::MAX] {
        set_format(directory.path(), unknown);
        let error = Store::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("has format {unknown}, and this program reads format {FORMAT}")), "{error}");
    }
    set_format(directory.path(), 1);
    drop(Store::open(directory.path()).unwrap());
}

#[tokio::test]
async fn neither_a_secret_nor_a_record_can_be_found_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let project = ProjectName::default();
    for (kind, word) in [(Kind::Secret, "c2VhbGVk-whole"), (Kind::ConfigMap, "plain-as-written")] {
        let key = ObjectKey::namespaced(&project, kind, "default", "a");
        let value = json!({ "metadata": { "annotations": { "note": word } }, "data": { "word": word } });
        store.create(Draft::of_value(key, value)).await.unwrap();
    }
    let authority = json!({ "key": "BEGIN PRIVATE KEY" });
    store.transact(move |state, _| state.put_record(RecordKey::Authority, &authority)).await.unwrap();
    drop(store);
    let file = fs::read(directory.path().join(STORE_FILE)).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("plain-as-written"), "the test looks where objects are");
    assert!(!holds("c2VhbGVk") && !holds("PRIVATE KEY"));
    let store = Store::open(directory.path()).unwrap();
    let secret = store.get(&ObjectKey::namespaced(&project, Kind::Secret, "default", "a")).unwrap();
    assert_eq!(secret.body.content["data"]["word"], "c2VhbGVk-whole");
}

#[tokio::test]
async fn leased_records_end_with_the_process_and_outlive_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let fault = faults::Fault::default();
    let (mut disk, _) = faults::open(directory.path(), &fault).unwrap();
    let lead = |value: &str| Changes {
        records: vec![(RecordKey::Leader, Some(value.as_bytes().to_vec()))],
        ..Changes::default()
    };
    disk.write(&lead("1")).unwrap();
    fault.set(true);
    disk.write(&lead("2")).expect("what is leased needs no disk");
    let token = vec![(RecordKey::Token("t".to_owned()), Some(Vec::new()))];
    assert!(disk.write(&Changes { records: token, ..Changes::default() }).is_err());
    fault.set(false);
    let (news, None) = disk.refresh() else { panic!("the disk has healed") };
    let [News::Whole(state)] = news.as_slice() else { panic!("it was read again: {news:?}") };
    assert_eq!(state.leased().raw(&RecordKey::Leader), Some(&b"2".to_vec()));
    drop(disk);
    let (_, state) = faults::open(directory.path(), &fault).unwrap();
    assert_eq!(state.leased().raw(&RecordKey::Leader), None);
}

#[tokio::test]
async fn a_file_that_is_mostly_free_is_compacted_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(STORE_FILE);
    let store = Store::open(directory.path()).unwrap();
    let keys: Vec<_> = (0..64)
        .map(|at| ObjectKey::namespaced(&ProjectName::default(), Kind::ConfigMap, "default", &format!("a{at}")))
        .collect();
    for key in &keys {
        let value = json!({ "data": { "x": "x".repeat(1 << 20) } });
        store.create(Draft::of_value(key.clone(), value)).await.unwrap();
    }
    for key in &keys[..62] {
        store.delete(key.clone(), None).await.unwrap();
    }
    let after = store.snapshot();
    drop(store);
    let before = fs::metadata(&path).unwrap().len();
    assert!(before > COMPACT_BYTES_MIN, "{before}");
    assert_eq!(*Store::open(directory.path()).unwrap().snapshot(), *after);
    let compacted = fs::metadata(&path).unwrap().len();
    assert!(compacted < before / 4, "{compacted} of {before}");
}

/// Root may write anywhere: a directory that nobody can be in serves as well as one that forbids it.
#[test]
fn a_directory_that_takes_no_files_is_refused_by_name() {
    let directory = Path::new("/proc").join(process::id().to_string());
    let error = Store::open(&directory).unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. } | OpenError::Key(KeyError::Io { .. })), "{error:?}");
    assert!(error.to_string().contains(&directory.display().to_string()), "{error}");
}
