use serde_json::json;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::*;
use crate::store::object::{Draft, ObjectKey};

fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), Kind::ConfigMap, "default", name)
}

fn owned_by_nobody(name: &str) -> Draft {
    let mut draft = Draft::of_spec(key(name), json!({}));
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "x"});
    draft.meta.owner_references = vec![owner];
    draft
}

async fn until_gone(store: &Store, key: &ObjectKey) {
    let mut changes = store.changes();
    while store.get(key).is_some() {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn what_was_left_at_the_start_and_what_comes_later_is_collected() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.create(owned_by_nobody("before")).await.unwrap();
    let shutdown = CancellationToken::new();
    let collecting = spawn(store.clone(), shutdown.clone());
    until_gone(&store, &key("before")).await;
    store.create(owned_by_nobody("after")).await.unwrap();
    until_gone(&store, &key("after")).await;
    shutdown.cancel();
    collecting.await.unwrap();
}

#[tokio::test]
async fn a_collector_that_fell_behind_looks_at_everything() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let mut collector = Collector::new(store.clone());
    // As if its place in the log had been compacted away: the log of an opened store starts at its revision.
    collector.seen = 0;
    store.create(owned_by_nobody("missed")).await.unwrap();
    assert_eq!(collector.round().await, Round::More);
    assert_eq!(store.get(&key("missed")), None);
    while collector.round().await != Round::Idle {}
}
