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
    object::{Body, Draft, Object, ObjectKey, Objects},
    record::RecordKey,
};

/// The most objects of all projects together; a create beyond is refused.
pub const OBJECTS_MAX: usize = 100_000;
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
    journal: Vec<Undo>,
}

/// What stood where a change was made.
#[derive(Debug, Clone)]
enum Undo {
    Object { key: Arc<ObjectKey>, before: Option<Arc<Object>>, revision: u64 },
    Record { key: RecordKey, before: Option<Vec<u8>> },
}

/// A place in the journal to roll back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(usize);

/// What the disk must take on: the last value at each key that was touched, `None` for removed.
#[derive(Debug, Default)]
pub struct Changes {
    pub revision: u64,
    pub objects: Vec<(Arc<ObjectKey>, Option<Arc<Object>>)>,
    pub records: Vec<(RecordKey, Option<Vec<u8>>)>,
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
            all.put(object, revision);
        }
        Self { objects: Arc::new(all), records, journal: Vec::new() }
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
            labels: draft.labels,
            annotations: draft.annotations,
            spec: draft.spec,
            status: None,
        };
        Ok(self.put(Arc::new(draft.key), body))
    }

    /// Replaces what users write; a draft that says what is there changes nothing, not even the revision.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Conflict`] when `expected` is not the object's revision.
    pub fn replace(&mut self, draft: Draft, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(&draft.key, expected)?.clone();
        let old = &object.body;
        if old.spec == draft.spec && old.labels == draft.labels && old.annotations == draft.annotations {
            return Ok(object);
        }
        let generation = if old.spec == draft.spec { old.generation } else { old.generation + 1 };
        let body =
            Body { generation, labels: draft.labels, annotations: draft.annotations, spec: draft.spec, ..old.clone() };
        Ok(self.put(object.key.clone(), body))
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
        Ok(self.put(object.key.clone(), body))
    }

    /// Removes the object and answers what it was.
    ///
    /// # Errors
    /// As [`State::replace`].
    pub fn delete(&mut self, key: &ObjectKey, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
        let object = self.expect(key, expected)?.clone();
        let revision = self.objects.revision();
        self.journal.push(Undo::Object { key: object.key.clone(), before: Some(object.clone()), revision });
        Arc::make_mut(&mut self.objects).restore(&object.key, None, revision + 1);
        Ok(object)
    }

    /// The private record at `key`, `None` when there is none.
    ///
    /// # Errors
    /// [`WriteError::Record`] when it has another form than `T`.
    pub fn record<T: DeserializeOwned>(&self, key: &RecordKey) -> Result<Option<T>, WriteError> {
        let Some(bytes) = self.records.get(key) else { return Ok(None) };
        serde_json::from_slice(bytes)
            .map(Some)
            .map_err(|error| WriteError::Record { key: key.to_string(), reason: error.to_string() })
    }

    /// # Errors
    /// [`WriteError::Full`].
    pub fn put_record<T: Serialize>(&mut self, key: RecordKey, value: &T) -> Result<(), WriteError> {
        if self.records.len() >= RECORDS_MAX && !self.records.contains_key(&key) {
            return Err(WriteError::Full { what: "records", max: RECORDS_MAX });
        }
        let bytes = serde_json::to_vec(value)
            .map_err(|error| WriteError::Record { key: key.to_string(), reason: error.to_string() })?;
        let before = self.records.insert(key.clone(), bytes);
        self.journal.push(Undo::Record { key, before });
        Ok(())
    }

    pub fn remove_record(&mut self, key: &RecordKey) {
        if let Some(before) = self.records.remove(key) {
            self.journal.push(Undo::Record { key: key.clone(), before: Some(before) });
        }
    }

    /// The keys of records from `first` on, in order.
    pub fn record_keys(&self, first: RecordKey) -> impl Iterator<Item = &RecordKey> {
        self.records.range(first..).map(|(key, _)| key)
    }

    /// Where the journal is now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Undoes everything since `mark`.
    pub fn roll_back(&mut self, mark: Mark) {
        while self.journal.len() > mark.0 {
            match self.journal.pop() {
                Some(Undo::Object { key, before, revision }) => {
                    Arc::make_mut(&mut self.objects).restore(&key, before, revision);
                }
                Some(Undo::Record { key, before: Some(before) }) => {
                    self.records.insert(key, before);
                }
                Some(Undo::Record { key, before: None }) => {
                    self.records.remove(&key);
                }
                None => break,
            }
        }
    }

    /// Undoes everything since the last commit.
    pub fn roll_back_all(&mut self) {
        self.roll_back(Mark(0));
    }

    /// Whether nothing changed since the last commit.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.journal.is_empty()
    }

    /// What changed since the last commit.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let mut objects = BTreeSet::new();
        let mut records = BTreeSet::new();
        for undo in &self.journal {
            match undo {
                Undo::Object { key, .. } => objects.insert(key),
                Undo::Record { key, .. } => records.insert(key),
            };
        }
        Changes {
            revision: self.objects.revision(),
            objects: objects.into_iter().map(|key| (key.clone(), self.objects.get(key).cloned())).collect(),
            records: records.into_iter().map(|key| (key.clone(), self.records.get(key).cloned())).collect(),
        }
    }

    /// Forgets how to undo: the changes are durable.
    pub fn commit(&mut self) {
        self.journal.clear();
    }

    fn expect(&self, key: &ObjectKey, expected: Option<u64>) -> Result<&Arc<Object>, WriteError> {
        let object = self.objects.get(key).ok_or_else(|| WriteError::NotFound(key.clone()))?;
        let current = object.body.revision;
        match expected {
            Some(expected) if expected != current => Err(WriteError::Conflict { key: key.clone(), current, expected }),
            _ => Ok(object),
        }
    }

    fn put(&mut self, key: Arc<ObjectKey>, mut body: Body) -> Arc<Object> {
        let revision = self.objects.revision();
        let before = self.objects.get(&key).cloned();
        self.journal.push(Undo::Object { key: key.clone(), before, revision });
        body.revision = revision + 1;
        Arc::make_mut(&mut self.objects).put(Object { key, body }, revision + 1)
    }
}

#[cfg(test)]
mod tests;
