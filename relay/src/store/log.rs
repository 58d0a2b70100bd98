//! What happened lately, for watches: every change once, in the order of revisions. Pure.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::object::{Object, ObjectKey};

/// The most events kept; older ones are compacted away, and who asks for them is told to list again.
pub const EVENTS_MAX: usize = 20_000;
/// The most bytes of objects that the log alone keeps alive, by their weight.
pub const EVENTS_BYTES_MAX: usize = 64 << 20;

/// One object's change in one transaction; at least one of `before` and `after` is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The revision of the change: `after`'s own, or that of the deletion.
    pub revision: u64,
    pub before: Option<Arc<Object>>,
    pub after: Option<Arc<Object>>,
    /// The newer side as JSON in its stored form, once a watcher has made it: the others send the same bytes.
    pub shown: OnceLock<Bytes>,
}

impl Event {
    #[must_use]
    pub fn new(revision: u64, before: Option<Arc<Object>>, after: Option<Arc<Object>>) -> Self {
        Self { revision, before, after, shown: OnceLock::new() }
    }

    /// The key of what changed.
    ///
    /// # Panics
    /// Never: an event with neither side is not made.
    #[must_use]
    pub fn key(&self) -> &Arc<ObjectKey> {
        let object = self.after.as_ref().or(self.before.as_ref());
        &object.expect("an event has a side").key
    }

    fn weight(&self) -> usize {
        self.before.iter().chain(&self.after).map(|object| object.weight).sum()
    }
}

/// The revision asked for is older than the log: list, then watch from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: the changes after it are kept from {oldest} on")]
pub struct Compacted {
    /// The oldest revision that can be watched from.
    pub oldest: u64,
}

/// The last changes.
#[derive(Debug, Default)]
pub struct Log {
    /// Everything after this revision is in `events`.
    since: u64,
    weight: usize,
    events: VecDeque<Arc<Event>>,
}

impl Log {
    /// An empty log of a store that is at `revision`.
    #[must_use]
    pub fn starting_at(revision: u64) -> Self {
        Self { since: revision, ..Self::default() }
    }

    /// Adds `events`, whose revisions are above all before, and compacts.
    pub fn append(&mut self, events: impl IntoIterator<Item = Arc<Event>>) {
        for event in events {
            self.weight += event.weight();
            self.events.push_back(event);
        }
        while self.events.len() > EVENTS_MAX || self.weight > EVENTS_BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.weight -= oldest.weight();
            self.since = oldest.revision;
        }
    }

    /// The events after `revision`, oldest first; empty when there are none. After `max` of them it ends with the last
    /// of the same revision: who goes on from there misses none.
    ///
    /// # Errors
    /// [`Compacted`] when events after `revision` are gone.
    pub fn after(&self, revision: u64, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        if revision < self.since {
            return Err(Compacted { oldest: self.since });
        }
        let first = self.events.partition_point(|event| event.revision <= revision);
        let last = first.saturating_add(max).min(self.events.len());
        let split = last.checked_sub(1).and_then(|at| self.events.get(at)).map_or(0, |event| event.revision);
        let end = self.events.partition_point(|event| event.revision <= split).max(first);
        Ok(self.events.range(first..end).cloned().collect())
    }

    /// Forgets everything: the store is at `revision` now, and the steps to there are not known. Whoever watched from
    /// any other revision, even a later one, lists again.
    pub fn restart(&mut self, revision: u64) {
        *self = Self::starting_at(revision);
    }

    /// Forgets everything up to `revision`.
    pub fn compact(&mut self, revision: u64) {
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.weight -= oldest.weight();
        }
        self.since = self.since.max(revision);
    }
}

#[cfg(test)]
mod tests {
    use underpass_shared::{identity::ProjectName, resource::kind::Kind};

    use super::*;
    use crate::store::object::{Body, Meta};

    fn event(revision: u64, bytes: usize) -> Arc<Event> {
        let key = ObjectKey::namespaced(&ProjectName::default(), Kind::Backend, "default", "a");
        let content = serde_json::Map::from_iter([("x".to_owned(), serde_json::json!("x".repeat(bytes)))]);
        let body = Body {
            uid: String::new(),
            revision,
            generation: 1,
            created: String::new(),
            deletion: None,
            meta: Meta::default(),
            content,
            status: None,
        };
        Arc::new(Event::new(revision, None, Some(Arc::new(Object::new(Arc::new(key), body)))))
    }

    fn revisions(log: &Log, after: u64, max: usize) -> Result<Vec<u64>, Compacted> {
        log.after(after, max).map(|events| events.iter().map(|event| event.revision).collect())
    }

    #[test]
    fn every_change_is_seen_once_and_in_order() {
        let mut log = Log::starting_at(4);
        log.append([event(5, 0), event(7, 0), event(8, 0)]);
        assert_eq!(revisions(&log, 4, 10), Ok(vec![5, 7, 8]));
        assert_eq!(revisions(&log, 5, 1), Ok(vec![7]));
        assert_eq!(revisions(&log, 6, 10), Ok(vec![7, 8]));
        assert_eq!(revisions(&log, 8, 10), Ok(vec![]));
        assert_eq!(revisions(&log, 3, 10), Err(Compacted { oldest: 4 }));
    }

    #[test]
    fn changes_of_one_revision_are_told_together() {
        let mut log = Log::starting_at(0);
        log.append([event(1, 0), event(2, 0), event(2, 0), event(2, 0), event(3, 0)]);
        assert_eq!(revisions(&log, 0, 2), Ok(vec![1, 2, 2, 2]));
        assert_eq!(revisions(&log, 2, 2), Ok(vec![3]));
        assert_eq!(revisions(&log, 3, 2), Ok(vec![]));
    }

    #[test]
    fn count_and_bytes_are_bounded_and_the_past_is_refused() {
        let mut log = Log::starting_at(0);
        log.append((1..=EVENTS_MAX as u64 + 3).map(|revision| event(revision, 0)));
        assert_eq!(revisions(&log, 2, 1), Err(Compacted { oldest: 3 }));
        assert_eq!(revisions(&log, 3, 1), Ok(vec![4]));

        let mut log = Log::starting_at(0);
        log.append((1..=70).map(|revision| event(revision, 1 << 20)));
        assert!(revisions(&log, 0, 1).is_err());
        assert!(log.weight <= EVENTS_BYTES_MAX && log.events.len() > 60);
    }

    #[test]
    fn compaction_forgets_up_to_a_revision() {
        let mut log = Log::starting_at(0);
        log.append([event(1, 0), event(2, 0), event(3, 0)]);
        log.compact(2);
        assert_eq!(revisions(&log, 1, 9), Err(Compacted { oldest: 2 }));
        assert_eq!(revisions(&log, 2, 9), Ok(vec![3]));
        log.compact(9);
        assert_eq!(revisions(&log, 9, 9), Ok(vec![]));
        assert_eq!(revisions(&log, 3, 9), Err(Compacted { oldest: 9 }));
    }
}
