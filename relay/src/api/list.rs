//! Reading: one object, or a list of them in pages of one revision.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::Kind;

use super::{
    Api,
    exchange::{Call, Done},
    negotiate::Shape,
    options::{Options, VersionMatch},
    path::Place,
    status::Failure,
    synthetic, table,
};
use crate::{
    clock,
    store::object::{Object, ObjectKey, Objects},
};

/// How long a read waits for a revision that this relay has not seen yet (as Kubernetes does).
const CATCH_UP: Duration = Duration::from_secs(3);
/// How many earlier revisions are kept for lists that are read in pages.
const PAGED_MAX: usize = 16;
/// How long each is kept; the next page asked for after that is answered 410.
const PAGED_LIFE: Duration = Duration::from_secs(300);

/// `GET` of one object, or of its status.
pub(super) async fn get(call: &Call<'_>, name: &str) -> Result<Done, Failure> {
    if call.place.kind == Kind::CustomResourceDefinition {
        let found = synthetic::definitions().iter().find(|object| object["metadata"]["name"] == name);
        let object = found.cloned().ok_or_else(|| Failure::not_found(&call.place.key(name)))?;
        return Ok(Done::shown(StatusCode::OK, object));
    }
    let objects = current(call.api, call.options).await?;
    let key = call.place.key(name);
    let object = objects.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    Ok(Done::object(StatusCode::OK, call.place, object.clone(), object.body.revision))
}

/// The objects as of now, or as of the revision that the caller wants at least. While etcd is away, as they were last.
pub(super) async fn current(api: &Api, options: &Options) -> Result<Arc<Objects>, Failure> {
    let wanted = match options.resource_version {
        None => return Ok(api.store.fresh().await.unwrap_or_else(|_| api.store.snapshot())),
        Some(0) => return Ok(api.store.snapshot()),
        Some(wanted) => wanted,
    };
    let mut changes = api.store.changes();
    let caught_up = tokio::time::timeout(CATCH_UP, changes.wait_for(|revision| *revision >= wanted)).await;
    match caught_up {
        Ok(Ok(_)) => Ok(api.store.snapshot()),
        _ => Err(Failure::version_too_large(wanted, api.store.snapshot().revision())),
    }
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Continue {
    revision: u64,
    namespace: Option<String>,
    name: String,
    /// How many follow, where that is known: they are counted once, not for each page.
    remaining: Option<usize>,
}

impl Continue {
    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("numbers and texts have a JSON form"))
    }

    pub(super) fn decode(text: &str) -> Option<Self> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}

/// Earlier revisions, for the next pages of lists.
#[derive(Debug, Default)]
pub(super) struct Paged {
    kept: Mutex<VecDeque<(Instant, Arc<Objects>)>>,
}

impl Paged {
    fn keep(&self, objects: &Arc<Objects>, now: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(since, _)| now.duration_since(*since) < PAGED_LIFE);
        if kept.iter().any(|(_, known)| known.revision() == objects.revision()) {
            return;
        }
        if kept.len() >= PAGED_MAX {
            kept.pop_front();
        }
        kept.push_back((now, objects.clone()));
    }

    fn at(&self, revision: u64, now: Instant) -> Option<Arc<Objects>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(since, _)| now.duration_since(*since) < PAGED_LIFE);
        kept.iter().find(|(_, known)| known.revision() == revision).map(|(_, objects)| objects.clone())
    }
}

/// `GET` of a collection.
pub(super) async fn list(call: &Call<'_>) -> Result<Done, Failure> {
    if call.place.kind == Kind::CustomResourceDefinition {
        return definitions(call);
    }
    let options = call.options;
    let from = match &options.continue_token {
        Some(text) => Some(Continue::decode(text).ok_or_else(|| Failure::bad_request("continue key is not valid"))?),
        None => None,
    };
    let objects = match (&from, options.version_match, options.resource_version) {
        (Some(from), _, None | Some(0)) => at(call.api, from.revision)?,
        (Some(_), _, Some(_)) => {
            return Err(Failure::bad_request("resourceVersion cannot be given together with continue"));
        }
        (None, Some(VersionMatch::Exact), Some(revision)) if revision > 0 => at(call.api, revision)?,
        (None, Some(_), None) => {
            return Err(Failure::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        _ => current(call.api, options).await?,
    };
    let page = page(&objects, call.place, options, from.as_ref());
    if page.next.is_some() {
        call.api.paged.keep(&objects, clock::instant());
    }
    render(call, &objects, &page)
}

fn at(api: &Api, revision: u64) -> Result<Arc<Objects>, Failure> {
    let newest = api.store.snapshot();
    if newest.revision() == revision {
        return Ok(newest);
    }
    api.paged.at(revision, clock::instant()).ok_or_else(|| {
        Failure::expired("The provided continue parameter is too old to display a consistent list result: list again")
    })
}

/// Some of the objects that a list names.
struct Page<'a> {
    items: Vec<&'a Arc<Object>>,
    next: Option<Continue>,
    /// How many follow; not known when there is a selector.
    remaining: Option<usize>,
}

fn page<'a>(objects: &'a Objects, place: &'a Place, options: &Options, from: Option<&Continue>) -> Page<'a> {
    let is_selective = !options.label_selector.is_empty() || !options.field_selector.is_empty();
    let first = match from {
        // The least name after the last one shown.
        Some(from) => ObjectKey { namespace: from.namespace.clone(), ..place.key(&format!("{}\0", from.name)) },
        None => place.key(""),
    };
    let mut of_place = objects
        .from(first)
        .take_while(|object| object.key.kind == place.kind && object.key.project == place.project)
        .take_while(|object| place.namespace.is_none() || object.key.namespace == place.namespace)
        .filter(|object| {
            options.label_selector.matches(&object.body.meta.labels) && options.field_selector.matches(object)
        });
    let max = if options.limit == 0 { usize::MAX } else { options.limit };
    let items: Vec<&Arc<Object>> = of_place.by_ref().take(max).collect();
    if of_place.next().is_none() {
        return Page { items, next: None, remaining: None };
    }
    let remaining = match from.map(|from| from.remaining) {
        _ if is_selective => None,
        Some(known) => known.map(|known| known.saturating_sub(items.len())),
        None => Some(1 + of_place.count()),
    };
    let next = items.last().map(|last| Continue {
        revision: objects.revision(),
        namespace: last.key.namespace.clone(),
        name: last.key.name.clone(),
        remaining,
    });
    Page { items, next, remaining }
}

fn render(call: &Call<'_>, objects: &Objects, page: &Page<'_>) -> Result<Done, Failure> {
    let mut metadata = Map::from_iter([("resourceVersion".to_owned(), json!(objects.revision().to_string()))]);
    if let Some(next) = &page.next {
        metadata.insert("continue".to_owned(), json!(next.encode()));
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), json!(remaining));
    }
    let place = call.place;
    let whole = page.items.iter().map(|object| object.to_value_as(place.api_version));
    match call.shape {
        Shape::Full => Ok(Done::bytes("application/json", written(place, &metadata, &page.items)?)),
        Shape::Partial => {
            let items: Vec<Value> = whole.map(|object| table::partial(&object)).collect();
            let list = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            });
            Ok(Done::shown(StatusCode::OK, list))
        }
        Shape::Table => {
            Ok(Done::shown(StatusCode::OK, table::of(place.kind, whole, &metadata, call.options.include, clock::now())))
        }
    }
}

/// The list as JSON, written from what is stored.
fn written(place: &Place, metadata: &Map<String, Value>, items: &[&Arc<Object>]) -> Result<Vec<u8>, Failure> {
    let kind = format!("{}List", place.kind.info().name);
    let head = json!({ "apiVersion": place.api_version, "kind": kind, "metadata": metadata }).to_string();
    let mut bytes = Vec::with_capacity(head.len() + items.iter().map(|object| object.weight).sum::<usize>());
    bytes.extend_from_slice(head.as_bytes());
    bytes.pop();
    bytes.extend_from_slice(b",\"items\":[");
    for (index, object) in items.iter().enumerate() {
        if index > 0 {
            bytes.push(b',');
        }
        serde_json::to_writer(&mut bytes, &object.shown_as(place.api_version))
            .map_err(|error| Failure::internal(error.to_string()))?;
    }
    bytes.extend_from_slice(b"]}");
    Ok(bytes)
}

/// What takes the place of installed definitions: every kind that Kubernetes does not have itself.
fn definitions(call: &Call<'_>) -> Result<Done, Failure> {
    let metadata = json!({ "resourceVersion": call.api.store.snapshot().revision().to_string() });
    let items = synthetic::chosen(call.options);
    let place = call.place;
    Ok(Done::shown(
        StatusCode::OK,
        match call.shape {
            Shape::Table => {
                let metadata = metadata.as_object().cloned().unwrap_or_default();
                table::of(place.kind, items.cloned(), &metadata, call.options.include, clock::now())
            }
            Shape::Partial => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items.map(table::partial).collect::<Vec<_>>(),
            }),
            Shape::Full => json!({
                "kind": "CustomResourceDefinitionList",
                "apiVersion": place.api_version,
                "metadata": metadata,
                "items": items.collect::<Vec<_>>(),
            }),
        },
    ))
}
