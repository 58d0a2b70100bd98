//! What the garbage collector does with one object, and which objects a change makes worth a look. Pure.
//!
//! The rules are those of the Kubernetes documentation ("Garbage Collection", "Owners and Dependents", "Finalizers").
//! Each is local: it looks at an object, its owners and its dependents, and names one [`Step`]. Done again after every
//! change until nothing is left to do, they come to the same end in any order.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;
use underpass_shared::resource::kind::{KINDS, Kind, Scope};

use crate::store::{
    lifecycle,
    log::Event,
    object::{Object, ObjectKey, Objects},
    state::{Fresh, State, WriteError},
};

/// Holds an object until its dependents that block its deletion are gone (`metav1.FinalizerDeleteDependents`).
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until nothing names it as an owner any more (`metav1.FinalizerOrphanDependents`).
pub const ORPHAN: &str = "orphan";

/// What is to be done with an object next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Delete it; in the foreground when it has dependents that its owner waits for, too.
    Delete { foreground: bool },
    /// Let it stand, with these owners and finalizers.
    Keep { owner_references: Vec<Value>, finalizers: Vec<String> },
}

/// The owner that a reference names.
enum Owner<'a> {
    /// It does not exist, or another object has its name now.
    Absent,
    /// Of a kind that is not stored here, or that `dependent` cannot be owned by: it counts as being there.
    Unknown,
    There(&'a Arc<Object>),
}

/// What the owners of an object say of it.
#[derive(Default)]
struct Owners {
    /// References to owners that are there and stay.
    solid: Vec<Value>,
    /// References to owners that wait for their dependents to go.
    waiting: Vec<Value>,
    /// Whether an owner lets its dependents go free.
    freed: bool,
}

/// The next thing to do with `object`, `None` when it may stand as it is.
#[must_use]
pub fn decide(objects: &Objects, object: &Object) -> Option<Step> {
    if object.body.deletion.is_none() && is_in_terminating_namespace(objects, &object.key) {
        return Some(Step::Delete { foreground: false });
    }
    let lets_go = object.body.deletion.is_some() && has(object, ORPHAN);
    if lets_go && dependents(objects, object).next().is_none() {
        return Some(without_finalizer(object, ORPHAN));
    }
    if is_waiting(object) && !dependents(objects, object).any(|(_, reference)| blocks(reference)) {
        return Some(without_finalizer(object, FOREGROUND));
    }
    by_owners(objects, object)
}

fn by_owners(objects: &Objects, object: &Object) -> Option<Step> {
    let references = &object.body.meta.owner_references;
    if references.is_empty() {
        return None;
    }
    let owners = classify(objects, object);
    let keep =
        |owner_references| Some(Step::Keep { owner_references, finalizers: object.body.meta.finalizers.clone() });
    if owners.freed || !owners.solid.is_empty() {
        let as_it_is = owners.solid.len() == references.len();
        return if as_it_is { None } else { keep(owners.solid) };
    }
    let has_dependents = dependents(objects, object).next().is_some();
    let foreground = !owners.waiting.is_empty() && has_dependents;
    // An owner that waits for this object while this object waits for it: one of the two must let go.
    let circle = foreground && dependents(objects, object).any(|(dependent, _)| is_waiting(dependent));
    if circle && owners.waiting.iter().any(blocks) {
        let mut released = references.clone();
        released.iter_mut().for_each(unblock);
        return keep(released);
    }
    match object.body.deletion {
        Some(_) => None,
        None => Some(Step::Delete { foreground }),
    }
}

fn classify(objects: &Objects, object: &Object) -> Owners {
    let mut owners = Owners::default();
    for reference in &object.body.meta.owner_references {
        match owner(objects, &object.key, reference) {
            Owner::Absent => {}
            Owner::There(owner) if owner.body.deletion.is_some() && has(owner, ORPHAN) => owners.freed = true,
            Owner::There(owner) if is_waiting(owner) => owners.waiting.push(reference.clone()),
            Owner::There(_) | Owner::Unknown => owners.solid.push(reference.clone()),
        }
    }
    owners
}

/// Who `reference`, held by the object at `dependent`, means.
///
/// An owner stands in the dependent's own namespace, or in none; elsewhere it counts as absent.
fn owner<'a>(objects: &'a Objects, dependent: &ObjectKey, reference: &Value) -> Owner<'a> {
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let group = |api_version: &str| api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let wanted = group(text("apiVersion"));
    let info = KINDS
        .iter()
        .find(|info| info.name == text("kind") && info.api_versions.iter().any(|version| group(version) == wanted));
    // Definitions are made up when they are read: there is nothing to own with.
    let Some(info) = info.filter(|info| info.kind != Kind::CustomResourceDefinition) else { return Owner::Unknown };
    let namespace = match (info.scope, &dependent.namespace) {
        (Scope::Namespaced, None) => return Owner::Unknown,
        (Scope::Namespaced, namespace) => namespace.clone(),
        (Scope::Cluster | Scope::Deployment, _) => None,
    };
    let project = match (info.scope, &dependent.project) {
        (Scope::Deployment, _) => None,
        (_, None) => return Owner::Unknown,
        (_, project) => project.clone(),
    };
    let key = ObjectKey { kind: info.kind, project, namespace, name: text("name").to_owned() };
    match objects.get(&key).filter(|owner| owner.body.uid == text("uid")) {
        Some(owner) => Owner::There(owner),
        None => Owner::Absent,
    }
}

/// What belongs to `owner`, each with the reference that says so.
fn dependents<'a>(objects: &'a Objects, owner: &'a Object) -> impl Iterator<Item = (&'a Arc<Object>, &'a Value)> {
    objects.owned_by(&owner.body.uid).filter_map(|dependent| {
        let mut references = dependent.body.meta.owner_references.iter();
        let own = references.find(|reference| {
            matches!(self::owner(objects, &dependent.key, reference), Owner::There(named) if named.key == owner.key)
        });
        Some((dependent, own?))
    })
}

fn is_in_terminating_namespace(objects: &Objects, key: &ObjectKey) -> bool {
    let (Some(project), Some(namespace)) = (&key.project, &key.namespace) else { return false };
    let namespace = objects.get(&ObjectKey::cluster(project, Kind::Namespace, namespace));
    namespace.is_some_and(|namespace| namespace.body.deletion.is_some())
}

fn has(object: &Object, finalizer: &str) -> bool {
    object.body.meta.finalizers.iter().any(|held| held == finalizer)
}

/// Whether it is being deleted and waits for its dependents.
fn is_waiting(object: &Object) -> bool {
    object.body.deletion.is_some() && has(object, FOREGROUND)
}

fn blocks(reference: &Value) -> bool {
    reference.get("blockOwnerDeletion") == Some(&Value::Bool(true))
}

fn unblock(reference: &mut Value) {
    if let Some(reference) = reference.as_object_mut() {
        reference.insert("blockOwnerDeletion".to_owned(), Value::Bool(false));
    }
}

fn without_finalizer(object: &Object, finalizer: &str) -> Step {
    let meta = &object.body.meta;
    let finalizers = meta.finalizers.iter().filter(|held| *held != finalizer).cloned().collect();
    Step::Keep { owner_references: meta.owner_references.clone(), finalizers }
}

/// Does what is to be done with the objects at `keys`, as they are now; how many were changed.
///
/// What cannot be done, such as deleting what every project keeps, is left out.
pub fn collect(state: &mut State, fresh: &mut Fresh, keys: &[Arc<ObjectKey>]) -> usize {
    let mut done = 0;
    for key in keys {
        let Some(object) = state.objects().get(key).cloned() else { continue };
        let Some(step) = decide(state.objects(), &object) else { continue };
        let mark = state.mark();
        match take(state, fresh, &object, step) {
            Ok(()) => done += 1,
            Err(error) => {
                state.roll_back(mark);
                tracing::debug!(%error, "an object was not collected");
            }
        }
    }
    done
}

fn take(state: &mut State, fresh: &mut Fresh, object: &Object, step: Step) -> Result<(), WriteError> {
    let expected = Some(object.body.revision);
    match step {
        Step::Delete { foreground } => {
            let finalizers: &[&str] = if foreground { &[FOREGROUND] } else { &[] };
            lifecycle::delete(state, &object.key, expected, finalizers, fresh).map(drop)
        }
        Step::Keep { owner_references, finalizers } => {
            let mut draft = object.draft();
            draft.meta.owner_references = owner_references;
            draft.meta.finalizers = finalizers;
            lifecycle::replace(state, draft, expected).map(drop)
        }
    }
}

/// The objects that have something to be done with them.
#[derive(Debug, Default)]
pub struct Pending {
    keys: BTreeSet<Arc<ObjectKey>>,
}

impl Pending {
    /// Everything of `objects` that has something to be done with it.
    #[must_use]
    pub fn of_all(objects: &Objects) -> Self {
        let wanted = objects.iter().filter(|object| decide(objects, object).is_some());
        Self { keys: wanted.map(|object| object.key.clone()).collect() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Notes what `events` gave the collector to do; `objects` are at least as new as they.
    pub fn observe<'a>(&mut self, objects: &Objects, events: impl IntoIterator<Item = &'a Event>) {
        let mut touched = BTreeSet::new();
        for event in events {
            touch(objects, event, &mut touched);
        }
        touched.retain(|key| objects.get(key).is_some_and(|object| decide(objects, object).is_some()));
        self.keys.append(&mut touched);
    }

    /// Takes at most `max` keys.
    pub fn take(&mut self, max: usize) -> Vec<Arc<ObjectKey>> {
        std::iter::from_fn(|| self.keys.pop_first()).take(max).collect()
    }

    /// Gives back what could not be done.
    pub fn put_back(&mut self, keys: Vec<Arc<ObjectKey>>) {
        self.keys.extend(keys);
    }
}

/// Notes the objects for which `event` may matter.
fn touch(objects: &Objects, event: &Event, touched: &mut BTreeSet<Arc<ObjectKey>>) {
    let (before, after) = (event.before.as_deref(), event.after.as_deref());
    touched.insert(event.key().clone());
    for object in before.into_iter().chain(after) {
        // An owner that waits may have waited for this.
        for reference in &object.body.meta.owner_references {
            if let Owner::There(owner) = owner(objects, &object.key, reference) {
                touched.insert(owner.key.clone());
            }
        }
    }
    if before.map(going) == after.map(going) {
        return;
    }
    for object in before.into_iter().chain(after) {
        touched.extend(objects.owned_by(&object.body.uid).map(|dependent| dependent.key.clone()));
    }
    if let (Kind::Namespace, Some(project), Some(_)) = (event.key().kind, &event.key().project, after) {
        let contents = lifecycle::contents(objects, project, &event.key().name);
        touched.extend(contents.map(|object| object.key.clone()));
    }
}

/// What of an object matters to those that belong to it.
fn going(object: &Object) -> (&str, bool, bool, bool) {
    (&object.body.uid, object.body.deletion.is_some(), has(object, FOREGROUND), has(object, ORPHAN))
}

#[cfg(test)]
mod tests;
