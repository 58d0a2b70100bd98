//! Watching: the changes after a revision as they come, from the store's log.
//!
//! A watcher has a place in the log and no queue of its own. One that is too slow finds its place compacted away and is
//! told to list again (410), as Kubernetes does.

use std::{collections::VecDeque, convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use underpass_shared::resource::kind::Kind;

use super::{
    exchange::{AnswerBody, Call, Done},
    list::current,
    negotiate::Shape,
    options::{Include, Options, VersionMatch},
    path::Place,
    status::Failure,
    synthetic, table,
};
use crate::{
    clock,
    store::{
        Store,
        log::{Compacted, Event},
        object::{Object, ObjectKey, Objects},
    },
};

/// How long a watch lasts when its caller does not say, in seconds: drawn from here, so that not all end at once.
const LIFE_SECONDS: std::ops::Range<u64> = 1800..3600;
/// The longest life that a caller may ask for, in seconds.
const LIFE_SECONDS_MAX: u64 = 24 * 3600;
/// How often a watch that saw nothing is told how far it is.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(45);
/// The most events looked at before a watcher's turn is over.
const BATCH_MAX: usize = 256;
/// The most bytes written in one piece.
const CHUNK_BYTES_MAX: usize = 256 << 10;

/// `GET` of a collection with `watch`.
pub(super) async fn watch(call: &Call<'_>) -> Result<Done, Failure> {
    open(call, None).await
}

/// `GET` of an object with `watch`, which is a watch of the collection for that name.
pub(super) async fn watch_one(call: &Call<'_>, name: &str) -> Result<Done, Failure> {
    open(call, Some(name.to_owned())).await
}

async fn open(call: &Call<'_>, name: Option<String>) -> Result<Done, Failure> {
    let options = call.options;
    if options.send_initial_events == Some(true) && options.version_match != Some(VersionMatch::NotOlderThan) {
        return Err(Failure::bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan"));
    }
    let room = call.api.watches.clone().try_acquire_owned().map_err(|_| Failure::too_many())?;
    let objects = current(call.api, options).await?;
    // Without a revision, or from "any", the watch begins with what is there.
    let from_scratch = options.resource_version.is_none_or(|revision| revision == 0);
    let initial = options.send_initial_events.unwrap_or(from_scratch);
    let cursor = match options.resource_version {
        Some(revision) if !initial && !from_scratch => revision,
        _ => objects.revision(),
    };
    let view = View {
        place: call.place.clone(),
        name,
        labels: options.label_selector.clone(),
        fields: options.field_selector.clone(),
        shape: call.shape,
        include: options.include,
    };
    let mut pending = VecDeque::new();
    if initial {
        pending.extend(objects_of(&objects, &view).map(|object| Pending::Initial(object.clone())));
        if call.place.kind == Kind::CustomResourceDefinition {
            let is_meant = |name: &Value| view.name.as_ref().is_none_or(|meant| name == meant);
            let chosen = synthetic::chosen(options).filter(|object| is_meant(&object["metadata"]["name"]));
            pending.extend(chosen.map(Pending::Definition));
        }
        if options.send_initial_events == Some(true) && options.allow_bookmarks {
            pending.push_back(Pending::InitialEnd);
        }
    }
    let watcher = Watcher {
        store: call.api.store.clone(),
        changes: call.api.store.changes(),
        view,
        cursor,
        told: if options.allow_bookmarks { Some(cursor) } else { None },
        pending,
        deadline: Box::pin(sleep(life(options))),
        bookmark_due: Box::pin(sleep(BOOKMARK_INTERVAL)),
        shutdown: call.api.shutdown.clone(),
        ended: call.place.kind == Kind::CustomResourceDefinition && options.timeout == Some(0),
        _room: room,
    };
    Ok(Done::stream(body(watcher)))
}

fn life(options: &Options) -> Duration {
    let seconds = options.timeout.filter(|seconds| *seconds > 0);
    Duration::from_secs(seconds.unwrap_or_else(|| rand::rng().random_range(LIFE_SECONDS)).min(LIFE_SECONDS_MAX))
}

fn body(watcher: Watcher) -> AnswerBody {
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watcher))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Which objects a watcher sees, and in what form.
struct View {
    place: Place,
    name: Option<String>,
    labels: super::selector::Labels,
    fields: super::selector::Fields,
    shape: Shape,
    include: Include,
}

impl View {
    fn is_of_place(&self, key: &ObjectKey) -> bool {
        key.kind == self.place.kind
            && key.project == self.place.project
            && (self.place.namespace.is_none() || key.namespace == self.place.namespace)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn sees(&self, object: &Object) -> bool {
        self.labels.matches(&object.body.meta.labels) && self.fields.matches(object)
    }

    /// What the watcher is told of a change: the event's type, the object, and the revision that it is shown at.
    fn told<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a Arc<Object>)> {
        if !self.is_of_place(event.key()) {
            return None;
        }
        let before = event.before.as_ref().filter(|object| self.sees(object));
        let after = event.after.as_ref().filter(|object| self.sees(object));
        match (before, after) {
            (None, Some(after)) => Some(("ADDED", after)),
            (Some(_), Some(after)) => Some(("MODIFIED", after)),
            (Some(before), None) => Some(("DELETED", before)),
            (None, None) => None,
        }
    }

    fn shown(&self, object: &Object, revision: u64) -> Value {
        self.in_shape(object.to_value_at(self.place.api_version, revision))
    }

    fn in_shape(&self, value: Value) -> Value {
        match self.shape {
            Shape::Full => value,
            Shape::Partial => table::partial(&value),
            Shape::Table => table::of_one(self.place.kind, &value, self.include, clock::now()),
        }
    }

    /// One event as its line. The form that most watchers ask for is made once for all of them.
    fn line(&self, kind: &str, event: &Event, object: &Arc<Object>, chunk: &mut BytesMut) {
        chunk.extend_from_slice(b"{\"type\":\"");
        chunk.extend_from_slice(kind.as_bytes());
        chunk.extend_from_slice(b"\",\"object\":");
        let is_stored_form = self.place.api_version == self.place.kind.info().api_versions[0];
        let is_newest = event.after.as_ref().or(event.before.as_ref()).is_some_and(|shown| Arc::ptr_eq(shown, object));
        if self.shape == Shape::Full && is_stored_form && is_newest {
            let make = || Bytes::from(self.shown(object, event.revision).to_string());
            chunk.extend_from_slice(event.shown.get_or_init(make));
        } else {
            chunk.extend_from_slice(self.shown(object, event.revision).to_string().as_bytes());
        }
        chunk.extend_from_slice(b"}\n");
    }
}

fn objects_of<'a>(objects: &'a Objects, view: &'a View) -> impl Iterator<Item = &'a Arc<Object>> {
    objects
        .of(view.place.project.as_ref(), view.place.kind)
        .filter(|object| view.is_of_place(&object.key) && view.sees(object))
}

enum Pending {
    /// An object that was there when the watch began.
    Initial(Arc<Object>),
    /// A definition, which is not in the store and never changes.
    Definition(&'static Value),
    InitialEnd,
}

struct Watcher {
    store: Store,
    changes: watch::Receiver<u64>,
    view: View,
    /// Everything up to this revision was told, or was not for this watcher.
    cursor: u64,
    /// The revision of the last bookmark; `None` when the caller wants none.
    told: Option<u64>,
    pending: VecDeque<Pending>,
    deadline: Pin<Box<Sleep>>,
    bookmark_due: Pin<Box<Sleep>>,
    shutdown: CancellationToken,
    ended: bool,
    _room: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next piece of the body; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let chunk = self.chunk();
            if !chunk.is_empty() {
                return Some(chunk);
            }
            tokio::select! {
                changed = self.changes.changed() => self.ended = changed.is_err(),
                () = &mut self.bookmark_due => {
                    self.bookmark_due = Box::pin(sleep(BOOKMARK_INTERVAL));
                    if let Some(bookmark) = self.bookmark() {
                        return Some(bookmark);
                    }
                }
                () = &mut self.deadline => {
                    self.ended = true;
                    return self.bookmark();
                }
                () = self.shutdown.cancelled() => self.ended = true,
            }
        }
        None
    }

    /// What there is to tell now.
    fn chunk(&mut self) -> Bytes {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES_MAX
            && let Some(pending) = self.pending.pop_front()
        {
            match pending {
                Pending::Initial(object) => {
                    let value = self.view.shown(&object, object.body.revision);
                    push(&mut chunk, &json!({ "type": "ADDED", "object": value }));
                }
                Pending::Definition(definition) => {
                    let value = self.view.in_shape(definition.clone());
                    push(&mut chunk, &json!({ "type": "ADDED", "object": value }));
                }
                Pending::InitialEnd => push(&mut chunk, &self.bookmark_at(self.cursor, true)),
            }
        }
        while self.pending.is_empty() && chunk.len() < CHUNK_BYTES_MAX && !self.ended {
            self.changes.mark_unchanged();
            match self.store.events_after(self.cursor, BATCH_MAX) {
                Ok(events) if events.is_empty() => break,
                Ok(events) => self.tell(&events, &mut chunk),
                Err(Compacted { oldest }) => {
                    let message = format!("too old resource version: {} ({oldest})", self.cursor);
                    push(&mut chunk, &json!({ "type": "ERROR", "object": Failure::expired(message).to_value() }));
                    self.ended = true;
                }
            }
        }
        chunk.freeze()
    }

    fn tell(&mut self, events: &[Arc<Event>], chunk: &mut BytesMut) {
        for event in events {
            // One transaction may have changed many objects: to stop within it would lose the rest.
            if chunk.len() >= CHUNK_BYTES_MAX && event.revision > self.cursor {
                return;
            }
            if let Some((kind, object)) = self.view.told(event) {
                self.view.line(kind, event, object, chunk);
            }
            self.cursor = event.revision;
        }
    }

    fn bookmark(&mut self) -> Option<Bytes> {
        let told = self.told.as_mut().filter(|told| **told < self.cursor)?;
        *told = self.cursor;
        let mut chunk = BytesMut::new();
        push(&mut chunk, &self.bookmark_at(self.cursor, false));
        Some(chunk.freeze())
    }

    fn bookmark_at(&self, revision: u64, is_initial_end: bool) -> Value {
        let place = &self.view.place;
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if is_initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.view.shape {
            Shape::Full => {
                json!({ "kind": place.kind.info().name, "apiVersion": place.api_version, "metadata": metadata })
            }
            Shape::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Shape::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": [],
            }),
        };
        json!({ "type": "BOOKMARK", "object": object })
    }
}

fn push(chunk: &mut BytesMut, value: &Value) {
    chunk.extend_from_slice(value.to_string().as_bytes());
    chunk.extend_from_slice(b"\n");
}
