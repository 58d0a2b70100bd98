//! Keeps the Services that are made for Gateways as `translate` wants them.

use futures_util::future::join_all;
use serde_json::{Map, Value};
use underpass_shared::resource::kind::Kind;

use crate::{
    store::{
        Store,
        object::{Draft, Meta, Object, ObjectKey, Objects},
    },
    translate::{
        WantedService,
        infrastructure::{GATEWAY_NAME_LABEL, MANAGED_BY},
    },
};

/// Makes what is missing and mends what differs. A Service of the same name that was not made here stays as it is.
///
/// What goes away with its Gateway is the collector's part; what a living Gateway does not ask for any more goes here.
pub async fn apply(store: &Store, objects: &Objects, wanted: &[WantedService]) {
    let keys: Vec<ObjectKey> = wanted.iter().map(key).collect();
    let made = objects.of_kind(Kind::Service).filter(|object| is_made(object));
    let idle = made.filter(|object| !keys.contains(&object.key));
    let deletions: Vec<_> =
        idle.map(|object| store.delete((*object.key).clone(), Some(object.body.revision))).collect();
    let mut writes = Vec::new();
    for (wanted, key) in wanted.iter().zip(&keys) {
        match objects.get(key) {
            None => writes.push(write(store, draft(wanted, key, Meta::default(), Map::new()), None)),
            Some(object) if is_made(object) && !is_as_wanted(object, wanted) => {
                let draft = draft(wanted, key, object.body.meta.clone(), object.body.content.clone());
                writes.push(write(store, draft, Some(object.body.revision)));
            }
            Some(_) => {}
        }
    }
    // A conflict means that the object changed meanwhile: another round follows.
    for error in join_all(writes).await.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a Gateway's Service was not written");
    }
    for error in join_all(deletions).await.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "a Gateway's Service was not deleted");
    }
}

async fn write(store: &Store, draft: Draft, revision: Option<u64>) -> Result<(), crate::store::StoreError> {
    match revision {
        None => store.create(draft).await.map(drop),
        Some(revision) => store.replace(draft, Some(revision)).await.map(drop),
    }
}

fn key(wanted: &WantedService) -> ObjectKey {
    ObjectKey::namespaced(&wanted.project, Kind::Service, &wanted.namespace, &wanted.name)
}

fn is_made(object: &Object) -> bool {
    object.body.meta.labels.get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
        && object.body.meta.labels.contains_key(GATEWAY_NAME_LABEL)
}

fn is_as_wanted(object: &Object, wanted: &WantedService) -> bool {
    object.body.meta.labels == wanted.labels
        && object.body.meta.annotations == wanted.annotations
        && object.body.meta.owner_references.contains(&wanted.owner)
        && *object.spec() == wanted.spec
}

fn draft(wanted: &WantedService, key: &ObjectKey, meta: Meta, mut content: Map<String, Value>) -> Draft {
    let WantedService { labels, annotations, owner, spec, .. } = wanted.clone();
    content.insert("spec".to_owned(), spec);
    let meta = Meta { labels, annotations, owner_references: vec![owner], ..meta };
    Draft { key: key.clone(), meta, content, status: None }
}
