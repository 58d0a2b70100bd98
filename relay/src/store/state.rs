//! What the store holds and how it changes: revisions, conflicts, generations. Pure.
//!
//! Every change is journalled until [`State::commit`], so that a refused transaction, or a batch that the disk did
//! not take, is undone exactly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    log::Event,
    object::{Body, Deletion, Draft, Object, ObjectKey, Objects},
    record::{Leased, RecordKey},
};

/// The most objects of all projects together; a create beyond is refused.
pub const OBJECTS_MAX: usize = 250_000;
/// The most bytes of all objects together, by their weight: they are held in memory. A write beyond is refused.
pub const OBJECTS_BYTES_MAX: usize = 2 << 30;
/// The most private records; a new one beyond is refused.
pub const RECORDS_MAX: usize = 1_000_000;

/// Why a write was refused. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("{0} already exists")]
    AlreadyExists(ObjectKey),
    #[error("{0} not found")]
    NotFound(ObjectKey),
    #[error(
        "{key} was changed by somebody else (it is at {current}, not {expected}): read it again and redo the change"
    )]
    Conflict { key: ObjectKey, current: u64, expected: u64 },
    #[error("{0} belongs to every project and cannot be deleted; change it instead")]
    Permanent(ObjectKey),
    #[error("{0} is being deleted: finalizers can only be removed from it")]
    Deleting(ObjectKey),
    #[error("nothing can be made in namespace {namespace}, because it is being deleted: wait until it is gone")]
    Terminating { namespace: String },
    #[error("project {project} still holds {count} object(s), {first} among them: delete them first")]
    NotEmpty { project: String, count: usize, first: ObjectKey },
    #[error("{name} cannot be a name: {reason}")]
    Name { name: String, reason: String },
    #[error("no room for more {what}: the limit is {max}")]
    Full { what: &'static str, max: usize },
    #[error("the store's record {key} cannot be read: {reason}; it was written by another version")]
    Record { key: String, reason: String },
}

/// What a transaction may need from outside: the time, and chance from a seed.
#[derive(Debug)]
pub struct Fresh {
    pub now: OffsetDateTime,
    random: StdRng,
}

impl Fresh {
    #[must_use]
    pub fn new(now: OffsetDateTime, seed: [u8; 32]) -> Self {
        Self { now, random: StdRng::from_seed(seed) }
    }

    /// Random bytes, fit for secrets when the seed was.
    #[must_use]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill_bytes(&mut bytes);
        bytes
    }

    /// A random UUID (RFC 9562 §5.4).
    #[must_use]
    pub fn uid(&mut self) -> String {
        uuid::Builder::from_random_bytes(self.bytes()).into_uuid().to_string()
    }

    /// The time as `metadata` shows it.
    #[must_use]
    pub fn timestamp(&self) -> String {
        timestamp(self.now)
    }
}

/// `at` as RFC 3339 in UTC, whole seconds.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).expect("0 is a valid nanosecond");
    at.format(&Rfc3339).expect("the years 0 to 9999 have an RFC 3339 form")
}

/// The store's whole content.
#[derive(Debug, Clone, Default)]
pub struct State {
    objects: Arc<Objects>,
    records: BTreeMap<RecordKey, Vec<u8>>,
    leased: Leased,
    journal: Vec<Undo>,
    /// What the transactions since the last commit did, oldest first.
    events: Vec<Arc<Event>>,
}

/// What stood where a change was made.
#[derive(Debug, Clone)]
enum Undo {
    Object { key: Arc<ObjectKey>, before: Option<Arc<Object>>, revision: u64 },
    Record { key: RecordKey, before: Option<Vec<u8>> },
}

impl Undo {
    fn record(&self) -> Option<&RecordKey> {
        match self {
            Self::Record { key, .. } => Some(key),
            Self::Object { .. } => None,
        }
    }
}

/// A place in the journal to roll back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    journal: usize,
    events: usize,
}

/// What a journal must take on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    pub revision: u64,
    /// In the order of their revisions; each transaction changes a key once.
    pub events: Vec<Arc<Event>>,
    /// The last value at each key that was touched, `None` for removed.
    pub records: Vec<(RecordKey, Option<Vec<u8>>)>,
}

/// What another relay's commit did, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Foreign {
    /// The revision after it; `None` when nothing but leases ended.
    pub revision: Option<u64>,
    pub written: Vec<(ObjectKey, Body)>,
    /// With the revision of each deletion.
    pub deleted: Vec<(ObjectKey, u64)>,
    /// `None` for removed.
    pub records: Vec<(RecordKey, Option<Vec<u8>>)>,
}

impl Changes {
    /// Whether a key of an object was changed by more than one transaction: a reader of the outcome alone would miss
    /// a change.
    #[must_use]
    pub fn is_layered(&self) -> bool {
        self.objects().len() < self.events.len()
    }

    /// The last value at each object's key that was touched, `None` for removed.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<&Arc<ObjectKey>, Option<&Arc<Object>>> {
        self.events.iter().map(|event| (event.key(), event.after.as_ref())).collect()
    }
}

impl State {
    /// The content that the disk held.
    #[must_use]
    pub fn loaded(
        revision: u64,
        objects: impl IntoIterator<Item = Object>,
        records: BTreeMap<RecordKey, Vec<u8>>,
    ) -> Self {
        let mut all = Objects::default();
        for object in objects {
            let object = Arc::new(object);
            all.set(&object.key, Some(&object), revision);
        }
        all.advance(revision);
        let mut state = Self { objects: Arc::new(all), ..Self::default() };
        for (key, value) in records {
            state.set_record(&key, Some(value));
        }
        state
    }

    /// All objects, as they are now.
    #[must_use]
    pub fn objects(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// # Errors
    /// [`WriteError::AlreadyExists`], [`WriteError::Full`].
    pub fn create(&mut self, draft: Draft, fresh: &mut Fresh) -> Result<Arc<Object>, WriteError> {
        if self.objects.get(&draft.key).is_some() {
            return Err(WriteError::AlreadyExists(draft.key));
        }
        if self.objects.len() >= OBJECTS_MAX {
            return Err(WriteError::Full { what: "objects", max: OBJECTS_MAX });
        }
        let body = Body {
            uid: fresh.uid(),
            revision: 0,
            generation: 1,
            created: fresh.timestamp(),
            deletion: None,
            meta: draft.meta,
            content: draft.content,
            status: draft.status,
        };
        self.put(Arc::new(draft.key), body)
    }

    /// Replaces everything that clients write; a draft that says what is there changes nothing, not even the revision.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Conflict`] when `expected` is not the object's revision.
    pub fn replace(&mut self, draft: Draft, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(&draft.key, expected)?.clone();
        let old = &object.body;
        if old.content == draft.content && old.meta == draft.meta && old.status == draft.status {
            return Ok(object);
        }
        let generation = if old.content == draft.content { old.generation } else { old.generation + 1 };
        let body = Body { generation, meta: draft.meta, content: draft.content, status: draft.status, ..old.clone() };
        self.put(object.key.clone(), body)
    }

    /// Notes that the object is to go once its finalizers are gone; a second time changes nothing.
    ///
    /// # Errors
    /// As [`State::replace`].
    pub fn mark_deleted(
        &mut self,
        key: &ObjectKey,
        expected: Option<u64>,
        fresh: &Fresh,
    ) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(key, expected)?.clone();
        if object.body.deletion.is_some() {
            return Ok(object);
        }
        let deletion = Some(Deletion { timestamp: fresh.timestamp(), grace_seconds: 0 });
        let body = Body { deletion, generation: object.body.generation + 1, ..object.body.clone() };
        self.put(object.key.clone(), body)
    }

    /// Replaces the status alone; the same status changes nothing.
    ///
    /// # Errors
    /// As [`State::replace`].
    pub fn replace_status(
        &mut self,
        key: &ObjectKey,
        status: Value,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(key, expected)?.clone();
        if object.body.status.as_ref() == Some(&status) {
            return Ok(object);
        }
        let body = Body { status: Some(status), ..object.body.clone() };
        self.put(object.key.clone(), body)
    }

    /// Removes the object and answers what it was.
    ///
    /// # Errors
    /// As [`State::replace`].
    pub fn delete(&mut self, key: &ObjectKey, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(key, expected)?.clone();
        let revision = self.objects.revision();
        self.set(&object.key, None, revision + 1);
        Ok(object)
    }

    /// The private record at `key`, `None` when there is none.
    ///
    /// # Errors
    /// [`WriteError::Record`] when it has another form than `T`.
    pub fn record<T: DeserializeOwned>(&self, key: &RecordKey) -> Result<Option<T>, WriteError> {
        let Some(bytes) = self.raw(key) else { return Ok(None) };
        serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|error| WriteError::Record { key: key.to_string(), reason: error.to_string() })
    }

    /// # Errors
    /// [`WriteError::Full`].
    pub fn put_record<T: Serialize>(&mut self, key: RecordKey, value: &T) -> Result<(), WriteError> {
        if self.records.len() >= RECORDS_MAX && self.raw(&key).is_none() {
            return Err(WriteError::Full { what: "records", max: RECORDS_MAX });
        }
        let bytes = serde_json::to_vec(value)
            .map_err(|error| WriteError::Record { key: key.to_string(), reason: error.to_string() })?;
        let before = self.set_record(&key, Some(bytes));
        self.journal.push(Undo::Record { key, before });
        Ok(())
    }

    pub fn remove_record(&mut self, key: &RecordKey) {
        if let Some(before) = self.set_record(key, None) {
            self.journal.push(Undo::Record { key: key.clone(), before: Some(before) });
        }
    }

    /// The records that live as long as a relay.
    #[must_use]
    pub fn leased(&self) -> &Leased {
        &self.leased
    }

    /// All records that are kept, as they are.
    #[must_use]
    pub fn records(&self) -> &BTreeMap<RecordKey, Vec<u8>> {
        &self.records
    }

    /// The keys of kept records from `first` on, in order.
    pub fn record_keys(&self, first: RecordKey) -> impl Iterator<Item = &RecordKey> {
        self.records.range(first..).map(|(key, _)| key)
    }

    /// Where the journal is now: the beginning of a transaction.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { journal: self.journal.len(), events: self.events.len() }
    }

    /// Whether anything changed since `mark`.
    #[must_use]
    pub fn changed_since(&self, mark: Mark) -> bool {
        self.journal.len() > mark.journal
    }

    /// Ends the transaction that began at `mark`: of several changes of one key the last stands for all.
    pub fn end(&mut self, mark: Mark) {
        let mut of_key: BTreeMap<Arc<ObjectKey>, Event> = BTreeMap::new();
        for event in self.events.drain(mark.events..) {
            let event = Arc::unwrap_or_clone(event);
            match of_key.get_mut(event.key()) {
                Some(first) => *first = Event { before: first.before.take(), ..event },
                None => drop(of_key.insert(event.key().clone(), event)),
            }
        }
        let mut events: Vec<Event> =
            of_key.into_values().filter(|event| event.before.is_some() || event.after.is_some()).collect();
        events.sort_by_key(|event| event.revision);
        self.events.extend(events.into_iter().map(Arc::new));
    }

    /// Undoes everything since `mark`.
    pub fn roll_back(&mut self, mark: Mark) {
        self.events.truncate(mark.events);
        while self.journal.len() > mark.journal {
            match self.journal.pop() {
                Some(Undo::Object { key, before, revision }) => {
                    Arc::make_mut(&mut self.objects).set(&key, before.as_ref(), revision);
                }
                Some(Undo::Record { key, before }) => drop(self.set_record(&key, before)),
                None => break,
            }
        }
    }

    /// Undoes everything since the last commit.
    pub fn roll_back_all(&mut self) {
        self.roll_back(Mark { journal: 0, events: 0 });
    }

    /// Whether nothing changed since the last commit.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.journal.is_empty()
    }

    /// What changed since the last commit.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let records: BTreeSet<_> = self.journal.iter().filter_map(Undo::record).collect();
        Changes {
            revision: self.objects.revision(),
            events: self.events.clone(),
            records: records.into_iter().map(|key| (key.clone(), self.raw(key).cloned())).collect(),
        }
    }

    /// Forgets how to undo: the changes are durable.
    pub fn commit(&mut self) {
        self.journal.clear();
        self.events.clear();
    }

    /// Takes in what another relay committed, and answers what it changed. Nothing of our own may wait for a commit.
    ///
    /// What is known already changes nothing.
    pub fn absorb(&mut self, foreign: Foreign) -> Vec<Arc<Event>> {
        debug_assert!(self.is_committed(), "what another relay did comes between transactions");
        let known = self.objects.revision();
        let mut after: Vec<(Arc<ObjectKey>, u64, Option<Arc<Object>>)> = Vec::new();
        for (key, body) in foreign.written {
            let (key, revision) = (Arc::new(key), body.revision);
            after.push((key.clone(), revision, Some(Arc::new(Object::new(key, body)))));
        }
        after.extend(foreign.deleted.into_iter().map(|(key, revision)| (Arc::new(key), revision, None)));
        after.retain(|(_, revision, _)| *revision > known);
        after.sort_by_key(|(_, revision, _)| *revision);
        let mut events = Vec::new();
        for (key, revision, after) in after {
            let before = self.objects.get(&key).cloned();
            if before.is_none() && after.is_none() {
                continue;
            }
            Arc::make_mut(&mut self.objects).set(&key, after.as_ref(), revision);
            events.push(Arc::new(Event::new(revision, before, after)));
        }
        if let Some(revision) = foreign.revision.filter(|revision| *revision > self.objects.revision()) {
            Arc::make_mut(&mut self.objects).advance(revision);
        }
        for (key, value) in foreign.records {
            self.set_record(&key, value);
        }
        events
    }

    fn raw(&self, key: &RecordKey) -> Option<&Vec<u8>> {
        if key.is_leased() { self.leased.raw(key) } else { self.records.get(key) }
    }

    /// Sets what stands at `key`, and answers what stood there.
    fn set_record(&mut self, key: &RecordKey, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        match value {
            _ if key.is_leased() => self.leased.set(key, value),
            Some(value) => self.records.insert(key.clone(), value),
            None => self.records.remove(key),
        }
    }

    fn expect(&self, key: &ObjectKey, expected: Option<u64>) -> Result<&Arc<Object>, WriteError> {
        let object = self.objects.get(key).ok_or_else(|| WriteError::NotFound(key.clone()))?;
        let current = object.body.revision;
        match expected {
            Some(expected) if expected != current => Err(WriteError::Conflict { key: key.clone(), current, expected }),
            _ => Ok(object),
        }
    }

    fn put(&mut self, key: Arc<ObjectKey>, mut body: Body) -> Result<Arc<Object>, WriteError> {
        let revision = self.objects.revision() + 1;
        body.revision = revision;
        let object = Arc::new(Object::new(key, body));
        let before = self.objects.get(&object.key).map_or(0, |before| before.weight);
        if object.weight > before && self.objects.weight() - before + object.weight > OBJECTS_BYTES_MAX {
            return Err(WriteError::Full { what: "bytes of objects", max: OBJECTS_BYTES_MAX });
        }
        self.set(&object.key, Some(&object), revision);
        Ok(object)
    }

    fn set(&mut self, key: &Arc<ObjectKey>, after: Option<&Arc<Object>>, revision: u64) {
        let before = self.objects.get(key).cloned();
        let undo = Undo::Object { key: key.clone(), before: before.clone(), revision: self.objects.revision() };
        self.journal.push(undo);
        self.events.push(Arc::new(Event::new(revision, before, after.cloned())));
        Arc::make_mut(&mut self.objects).set(key, after, revision);
    }
}

#[cfg(test)]
mod tests;
