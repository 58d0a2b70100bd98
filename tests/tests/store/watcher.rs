//! A watcher as the API has them: lists, then follows, and lists again when it is told to.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use underpass_relay::store::{
    Store,
    log::Compacted,
    object::{Object, ObjectKey, Objects},
};

use crate::model::Tally;

/// What a watcher saw between a list and the next.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// The list's revision.
    pub(crate) listed: u64,
    /// The last revision of which it can be said that everything until there was seen.
    pub(crate) until: u64,
    /// Revisions, with what stood at which key afterwards.
    pub(crate) seen: Vec<(u64, (ObjectKey, Option<Object>))>,
}

/// Follows `store`, `pace` events at a time, until `tally` says stop and everything was seen.
pub(crate) async fn watch(store: Store, tally: Arc<Tally>, pace: usize) -> Vec<Segment> {
    let mut segments = Vec::new();
    loop {
        let snapshot = store.snapshot();
        let mut follower = Follower::new(&snapshot);
        let ended = follower.follow(&store, &tally, pace).await;
        segments.push(follower.segment);
        if ended.is_ok() {
            return segments;
        }
    }
}

struct Follower {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    segment: Segment,
}

impl Follower {
    fn new(snapshot: &Objects) -> Self {
        let objects = snapshot.iter().map(|object| ((*object.key).clone(), object.clone())).collect();
        let listed = snapshot.revision();
        Self { objects, segment: Segment { listed, until: listed, seen: Vec::new() } }
    }

    async fn follow(&mut self, store: &Store, tally: &Tally, pace: usize) -> Result<(), Compacted> {
        let mut changes = store.changes();
        loop {
            // In this order: what is committed before the stop is seen after it.
            let stopped = tally.stop.load(SeqCst);
            let snapshot = store.snapshot();
            let events = store.events_after(self.segment.until, pace)?;
            for event in &events {
                let key = (**event.key()).clone();
                assert!(event.revision > self.segment.until, "revisions only grow");
                let before = self.objects.get(&key).map(|object| object.body.revision);
                assert_eq!(
                    event.before.as_ref().map(|object| object.body.revision),
                    before,
                    "{key}: nothing was left out"
                );
                match &event.after {
                    Some(object) => {
                        assert_eq!(object.body.revision, event.revision);
                        self.objects.insert(key.clone(), object.clone());
                    }
                    None => drop(self.objects.remove(&key)),
                }
                self.segment.until = event.revision;
                self.segment.seen.push((event.revision, (key, event.after.as_deref().cloned())));
            }
            if !events.is_empty() {
                continue;
            }
            if stopped {
                let followed: Vec<_> = self.objects.values().cloned().collect();
                let listed: Vec<_> = snapshot.iter().cloned().collect();
                assert_eq!(followed, listed, "who follows knows what who lists knows");
                return Ok(());
            }
            // The stop is noticed with the next change, or by looking again.
            let _ = tokio::time::timeout(LOOK_AGAIN, changes.changed()).await;
        }
    }
}

/// How long a watcher waits for a change before it looks whether the round is over.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(50);
