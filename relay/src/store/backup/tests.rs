use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::*;
use crate::store::{
    Store,
    object::{Draft, ObjectKey},
    record::RecordKey,
};

fn key(kind: Kind) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), kind, "default", "a")
}

/// A store with a Secret, a ConfigMap and a record, and its directory.
async fn filled() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    for kind in [Kind::Secret, Kind::ConfigMap] {
        store.create(Draft::of_value(key(kind), json!({ "data": { "word": "hunter2" } }))).await.unwrap();
    }
    store.transact(|state, _| state.put_record(RecordKey::Token("t".to_owned()), &"secret")).await.unwrap();
    (directory, store)
}

async fn backup(store: &Store, path: &Path) -> Summary {
    store.backup().await.unwrap().write(File::create(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_running_store_is_backed_up_and_restored_with_later_revisions() {
    let (directory, store) = filled().await;
    let file = directory.path().join("backup");
    let summary = backup(&store, &file).await;
    assert_eq!(verify(&file).unwrap(), summary);
    store.delete(key(Kind::Secret), None).await.unwrap();
    let seen = store.snapshot();

    let new = tempfile::tempdir().unwrap();
    fs::copy(directory.path().join(KEY_FILE), new.path().join(KEY_FILE)).unwrap();
    let restored = restore(&file, new.path()).unwrap();
    assert_eq!(restored, Summary { revision: summary.revision + RESTORE_STEP, ..summary });
    let again = Store::open(new.path()).unwrap();
    assert_eq!(again.get(&key(Kind::Secret)).unwrap().body.content["data"]["word"], "hunter2");
    let record: Option<String> = again.inspect(|state| state.record(&RecordKey::Token("t".to_owned()))).await.unwrap();
    assert_eq!(record.as_deref(), Some("secret"));
    assert!(again.snapshot().revision() > seen.revision());
    assert!(again.events_after(seen.revision(), 1).is_err(), "who watched the old store lists again");
}

#[tokio::test]
async fn a_stopped_store_gives_the_same_backup_and_the_key_comes_along_only_when_asked_for() {
    let (directory, store) = filled().await;
    let [running, stopped, keyed] = ["1", "2", "3"].map(|name| directory.path().join(name));
    let summary = backup(&store, &running).await;
    assert!(matches!(of_directory(directory.path(), io::sink()), Err(BackupError::Store(OpenError::InUse(_)))));
    drop(store);
    assert_eq!(of_directory(directory.path(), File::create(&stopped).unwrap()).unwrap(), summary);
    let key_file = directory.path().join(KEY_FILE);
    assert_eq!(with_key(&stopped, &key_file, File::create(&keyed).unwrap()).unwrap(), summary);

    let own = fs::read_to_string(&key_file).unwrap();
    for (file, holds_key) in [(&running, false), (&stopped, false), (&keyed, true)] {
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text.contains(own.trim()), holds_key);
        let values = text.lines().filter_map(|line| Some(line.split_once("\"value\":\"")?.1.trim_end_matches("\"}")));
        let plain: Vec<u8> = values.flat_map(|value| STANDARD.decode(value).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&plain).matches("hunter2").count(), 1, "the ConfigMap's, not the Secret's");
    }
    let new = tempfile::tempdir().unwrap();
    assert!(matches!(restore(&stopped, new.path()), Err(BackupError::NoKey(_))));
    restore(&keyed, new.path()).unwrap();
    assert_eq!(fs::read_to_string(new.path().join(KEY_FILE)).unwrap(), own);
    assert!(Store::open(new.path()).unwrap().get(&key(Kind::Secret)).is_some());
}

#[tokio::test]
async fn what_is_in_the_way_or_does_not_fit_is_refused_and_nothing_is_left() {
    let (directory, store) = filled().await;
    let file = directory.path().join("backup");
    backup(&store, &file).await;
    assert!(matches!(restore(&file, directory.path()), Err(BackupError::NotEmpty(_))));

    let new = tempfile::tempdir().unwrap();
    write_private(&new.path().join(KEY_FILE), "ab".repeat(32).as_bytes()).unwrap();
    assert!(matches!(restore(&file, new.path()), Err(BackupError::Key(KeyError::Foreign(_)))));
    fs::copy(directory.path().join(KEY_FILE), new.path().join(KEY_FILE)).unwrap();

    let whole = fs::read_to_string(&file).unwrap();
    let newer = whole.replacen("\"format\":2", "\"format\":99", 1);
    let bad = directory.path().join("bad");
    fs::write(&bad, newer).unwrap();
    assert!(matches!(restore(&bad, new.path()), Err(BackupError::Format(99))));
    let lines: Vec<&str> = whole.lines().collect();
    let without = |at: usize| {
        lines.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let mut broken: Vec<String> = (0..lines.len()).map(without).collect();
    broken.extend([whole[..whole.len() / 2].to_owned(), format!("{whole}more\n"), String::new(), "{}".to_owned()]);
    broken.push(whole.replacen("\"value\":\"A", "\"value\":\"B", 1));
    for (at, text) in broken.iter().enumerate().filter(|(_, text)| **text != whole) {
        fs::write(&bad, text).unwrap();
        assert!(matches!(verify(&bad), Err(BackupError::Damaged(_))), "{at}");
        assert!(matches!(restore(&bad, new.path()), Err(BackupError::Damaged(_))), "{at}");
        assert!(!new.path().join(STORE_FILE).exists(), "{at}");
    }
    restore(&file, new.path()).unwrap();
}

#[tokio::test]
async fn a_damaged_backup_leaves_not_even_its_key() {
    let (directory, store) = filled().await;
    let [whole, keyed, bad] = ["1", "2", "3"].map(|name| directory.path().join(name));
    backup(&store, &whole).await;
    with_key(&whole, &directory.path().join(KEY_FILE), File::create(&keyed).unwrap()).unwrap();
    let text = fs::read_to_string(&keyed).unwrap();
    let new = tempfile::tempdir().unwrap();
    for cut in [text.len() / 2, text.len() - 2] {
        fs::write(&bad, &text[..cut]).unwrap();
        assert!(matches!(restore(&bad, new.path()), Err(BackupError::Damaged(_))));
        assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);
    }

    // A revision that leaves no room for the step, and a key that is none.
    let proof = store.inner.codec.proof();
    for (revision, key) in [(u64::MAX, "ab".repeat(32)), (7, "no key".to_owned())] {
        let mut lines = Lines::new(File::create(&bad).unwrap());
        lines.header(&Header::new(FORMAT, revision, proof.clone())).unwrap();
        lines.line(&KeyLine { key }).unwrap();
        lines.end().unwrap();
        assert!(matches!(restore(&bad, new.path()), Err(BackupError::Damaged(_))), "{revision}");
        assert_eq!(fs::read_dir(new.path()).unwrap().count(), 0);
    }
    restore(&keyed, new.path()).unwrap();
}
