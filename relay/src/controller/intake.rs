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
                Some(_) => drop(projects.entry(project).or_default()),
                None => drop(projects.remove(&project)),
            }
            return true;
        }
        if !translate::KINDS_READ.contains(&key.kind) || is_same(before, after) {
            return false;
        }
        let Some(project) = &key.project else { return false };
        // What a project begins with is there in the same revision, and may come before it.
        let project = match after {
            Some(_) => projects.entry(project.clone()).or_default(),
            None => match projects.get_mut(project) {
                Some(project) => project,
                None => return false,
            },
        };
        if before.is_some() {
            project.remove(key.kind, key.namespace.as_deref(), &key.name);
        }
        if let Some(object) = after {
            project.put(key.kind, object.to_value());
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use underpass_shared::identity::ProjectName;

    use super::*;
    use crate::{
        store::object::{Draft, ObjectKey},
        translate::{Settings, translate},
    };

    fn key(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey::namespaced(&ProjectName::default(), kind, "default", name)
    }

    fn route(backend: &str) -> Value {
        let rules = json!([{"backendRefs": [{"kind": "Backend", "name": backend, "port": 80}]}]);
        json!({"parentRefs": [{"name": "default"}], "hostnames": ["a.com"], "rules": rules})
    }

    /// What the snapshot stands for, beside what one that was read whole stands for.
    fn both(intake: &Intake, store: &Store) -> [Vec<Arc<translate::WantedStatus>>; 2] {
        let mut whole = Intake::default();
        whole.take(store);
        [intake, &whole].map(|intake| translate(&intake.snapshot, &Settings::default()).wanted)
    }

    #[tokio::test]
    async fn what_is_taken_in_change_by_change_is_what_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let project = ObjectKey::project(&ProjectName::default());
        if store.get(&project).is_none() {
            store.create(Draft::of_spec(project, json!({}))).await.unwrap();
        }
        let mut intake = Intake::default();
        assert!(intake.take(&store).1 && !intake.take(&store).1);
        store.create(Draft::of_spec(key(Kind::HttpRoute, "r"), route("b"))).await.unwrap();
        assert!(intake.take(&store).1);
        store.replace(Draft::of_spec(key(Kind::HttpRoute, "r"), route("other")), None).await.unwrap();
        let backend = Draft::of_spec(key(Kind::Backend, "b"), json!({"endpoints": [{"ip": "192.0.2.1"}]}));
        store.create(backend).await.unwrap();
        assert!(intake.take(&store).1);
        let [kept, whole] = both(&intake, &store);
        assert_eq!(kept, whole);
        let of_project = &intake.snapshot.projects[&ProjectName::default()];
        assert_eq!(
            (of_project.routes.len(), of_project.backends.len()),
            (1, 1),
            "a new version takes the old one's place"
        );

        let red: ProjectName = "red".parse().unwrap();
        store.create(Draft::of_spec(ObjectKey::project(&red), json!({}))).await.unwrap();
        assert!(intake.take(&store).1);
        let [kept, whole] = both(&intake, &store);
        assert_eq!(kept, whole, "what a project begins with is taken in with it");
        assert!(!intake.snapshot.projects[&red].gateways.is_empty());
        store.delete(ObjectKey::project(&red), None).await.unwrap();
        assert!(intake.take(&store).1);

        let (status, name) = (json!({"conditions": []}), key(Kind::Backend, "b"));
        store.replace_status(name.clone(), status, None).await.unwrap();
        assert!(!intake.take(&store).1, "a status is of no concern");
        store.delete(name, None).await.unwrap();
        assert!(intake.take(&store).1);
        let [kept, whole] = both(&intake, &store);
        assert_eq!(kept, whole);
    }
}
