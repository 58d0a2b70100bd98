//! What the controller knows of the store: read whole once, then kept up to date from the log of changes.

use std::{collections::BTreeMap, sync::Arc};

use underpass_shared::resource::kind::Kind;

use crate::{
    store::{
        Store,
        object::{Object, Objects},
    },
    translate::{self, ProjectSnapshot, Snapshot},
};

/// The resources that routing is decided from, as of one revision.
#[derive(Debug, Default)]
pub(super) struct Intake {
    pub(super) snapshot: Snapshot,
    /// The store's revision that everything was taken in up to; `None` before the first time.
    seen: Option<u64>,
}

impl Intake {
    /// Brings the snapshot to the store's present state, which is returned, and says whether anything is different.
    pub(super) fn take(&mut self, store: &Store) -> (Arc<Objects>, bool) {
        // A change is in the log before it is in the objects, so that none up to their revision is missing there.
        let objects = store.snapshot();
        let revision = objects.revision();
        let events = self.seen.filter(|&seen| seen <= revision).map(|seen| store.events_after(seen, usize::MAX));
        let changed = match events {
            Some(Ok(events)) => {
                let events = events.iter().filter(|event| event.revision <= revision);
                events
                    .fold(false, |changed, event| self.apply(event.before.as_deref(), event.after.as_deref()) | changed)
            }
            None | Some(Err(_)) => {
                self.read_all(&objects);
                true
            }
        };
        self.seen = Some(revision);
        (objects, changed)
    }

    fn read_all(&mut self, objects: &Objects) {
        let mut projects = BTreeMap::new();
        for project in objects.projects() {
            let mut read = ProjectSnapshot::default();
            for &kind in translate::KINDS_READ {
                for object in objects.of(Some(&project), kind) {
                    read.put(kind, object.to_value());
                }
            }
            projects.insert(project, read);
        }
        self.snapshot.projects = projects;
    }

    /// Takes in one change, and says whether routing could depend on it.
    fn apply(&mut self, before: Option<&Object>, after: Option<&Object>) -> bool {
        let Some(key) = after.or(before).map(|object| &object.key) else { return false };
        let projects = &mut self.snapshot.projects;
        if key.kind == Kind::Project {
            let Ok(project) = key.name.parse() else { return false };
            match after {
                Some(_) if projects.contains_key(&project) => {}
                Some(_) => drop(projects.insert(project, ProjectSnapshot::default())),
                None => drop(projects.remove(&project)),
            }
            return true;
        }
        if !translate::KINDS_READ.contains(&key.kind) || is_same(before, after) {
            return false;
        }
        let Some(project) = key.project.as_ref().and_then(|project| projects.get_mut(project)) else { return false };
        match after {
            Some(object) => project.put(key.kind, object.to_value()),
            None => project.remove(key.kind, key.namespace.as_deref(), &key.name),
        }
        true
    }
}

/// Whether only the status, or nothing that is read, is different.
fn is_same(before: Option<&Object>, after: Option<&Object>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    let (was, is) = (&before.body, &after.body);
    was.uid == is.uid
        && was.generation == is.generation
        && was.meta.labels == is.meta.labels
        && was.meta.annotations == is.meta.annotations
}
