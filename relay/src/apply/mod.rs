//! Server-side apply: who owns which field, whose change is a conflict, and what goes when it is no longer applied.
//!
//! Pure. Semantics and wire form are Kubernetes' (`metadata.managedFields`, `FieldsV1`, structured merge and diff),
//! so that its clients find what they know. All served versions of a kind have one structure, and so the sets of
//! different versions are compared as they are.
//!
//! The caller takes care of what is no matter of ownership: it removes from `applied` what the endpoint does not write
//! (`status` on the object itself where the kind has that subresource, everything but `status` there) and, for
//! `update`, gives the new object with those parts as they are live. It also prunes unknown fields before, and
//! defaults and validates the result after.

mod compare;
mod fields;
mod last_applied;
mod managed;
mod merge;
mod path;
mod shape;

use std::fmt;

use serde_json::{Map, Value};

use self::{
    compare::{Difference, compare},
    managed::{Entry, Id, Managed, SERVER_METADATA, is_reset, unmanaged},
    shape::Shape,
};
pub use self::{
    fields::{Fields, FieldsError},
    managed::Operation,
    path::{Path, Plain, Step},
};
use crate::schema::Node;

/// The most conflicts that one error lists.
pub const CONFLICTS_MAX: usize = 500;
/// Owns what an object held when it was first applied to, if nobody was noted before.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// The field manager of `kubectl apply --server-side`, which takes over what `kubectl apply` left.
const KUBECTL: &str = "kubectl";

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// The field manager that the request names.
    pub name: &'a str,
    /// The version in which the object is written.
    pub api_version: &'a str,
    /// `status`, when that is what is written.
    pub subresource: Option<&'a str>,
    /// Now: RFC 3339 in UTC, whole seconds.
    pub time: &'a str,
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own what would change; at most [`CONFLICTS_MAX`] are listed.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// What is applied cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// A field that would change, and somebody else who owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// As in `.spec.ports[port=80,protocol="TCP"].name`.
    pub field: String,
    pub manager: String,
    pub operation: Operation,
    /// In which version a manager that updated wrote; empty for one that applied.
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

/// The other side of the conflict, as in `"kubectl-edit" using apps/v1`.
impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

/// The text of a status that reports `conflicts`, in Kubernetes' words.
fn message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {only}: {}", only.field);
    }
    let mut text = format!("Apply failed with {} conflicts: ", conflicts.len());
    let mut last = None;
    for conflict in conflicts {
        let who = conflict.to_string();
        if last.as_ref() != Some(&who) {
            let line = if last.is_some() { "\n" } else { "" };
            text.push_str(&format!("{line}conflicts with {who}:"));
        }
        text.push_str(&format!("\n- {}", conflict.field));
        last = Some(who);
    }
    text
}

/// Merges `applied` into `live` (`None`: the object is new) and notes in `metadata.managedFields` who owns what.
///
/// An apply that changes nothing, not even what is owned, gives `live` as it was.
///
/// # Errors
/// [`ApplyError::Conflicts`] when another manager owns a field that would change, unless `force` takes it;
/// [`ApplyError::Invalid`] when `applied` holds managed fields, or a list with an item that is there twice or has no key.
pub fn apply(
    schema: &Node,
    live: Option<&Value>,
    applied: &Value,
    manager: Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let shape = Shape::of(schema);
    check(shape, applied)?;
    let applied = &without_server_metadata(applied);
    let (bare, stored) = match live {
        Some(live) => (without_managed(live), Managed::of(live).unwrap_or_default()),
        None => (Value::Object(Map::new()), Managed::default()),
    };
    let mut managed = stored.clone();
    if managed.0.is_empty() && live.is_some() {
        let before = Manager { name: BEFORE_FIRST_APPLY, subresource: None, ..manager };
        managed.record(shape, (&Value::Object(Map::new()), &bare), before);
    }
    managed.fit(shape);

    let own = Id::of(manager, Operation::Apply);
    let fields = shape.fields(applied).difference(&unmanaged());
    let version = manager.api_version.to_owned();
    let before = managed.0.insert(own.clone(), Entry { version, time: None, fields });
    let last = before.as_ref().map(|entry| entry.fields.clone()).unwrap_or_default();
    let merged = merge::merge(shape, &bare, applied);
    let mut new = merge::prune(shape, &merged, &last, &managed.owned());
    let difference = compare(shape, &bare, &new);
    refuse_conflicts((shape, &bare), (&managed, &difference), (&own, manager.name), force)?;
    managed.yield_to(Some(&own), &difference);
    managed.0.retain(|_, entry| !entry.fields.is_empty());

    last_applied::refresh(&mut new, applied, manager.name);
    if let Some(entry) = managed.0.get_mut(&own) {
        let same =
            before.filter(|before| new == bare && before.fields == entry.fields && before.version == entry.version);
        entry.time = same.map_or_else(|| Some(manager.time.to_owned()), |before| before.time);
    }
    match live {
        Some(live) if new == bare && managed == stored => Ok(live.clone()),
        _ => {
            put_managed(&mut new, &managed);
            Ok(new)
        }
    }
}

/// Notes in `new`, which became of `live` (`None`: created) by anything but an apply, who owns what has changed.
///
/// `metadata.managedFields` of `new` are what the client sent: they stand instead of the live ones, unless there are
/// none, or they cannot be read, or a subresource is written; an empty list (or one empty entry) forgets all owners.
/// An object that has no owners gets none before something is applied to it.
pub fn update(schema: &Node, live: Option<&Value>, new: &mut Value, manager: Manager<'_>) {
    let shape = Shape::of(schema);
    let mut managed = owners(live, new, manager.subresource.is_some());
    forget_managed(new);
    if live.is_none() || !managed.0.is_empty() {
        let old = live.map_or_else(|| Value::Object(Map::new()), without_managed);
        managed.record(shape, (&old, &*new), manager);
    }
    put_managed(new, &managed);
}

fn owners(live: Option<&Value>, new: &Value, subresource: bool) -> Managed {
    let stored = || live.and_then(Managed::of).unwrap_or_default();
    if subresource {
        return stored();
    }
    if is_reset(new) {
        return Managed::default();
    }
    Managed::of(new).filter(|managed| !managed.0.is_empty()).unwrap_or_else(stored)
}

/// Fails when somebody but `own` owns what `difference` sets.
fn refuse_conflicts(
    (shape, live): (Shape<'_>, &Value),
    (managed, difference): (&Managed, &Difference),
    (own, name): (&Id, &str),
    force: bool,
) -> Result<(), ApplyError> {
    if force {
        return Ok(());
    }
    let taken = managed.conflicts(Some(own), difference);
    let allowed =
        if name == KUBECTL && !taken.is_empty() { last_applied::fields(shape, live) } else { Fields::default() };
    let mut conflicts = Vec::new();
    for (id, fields) in taken {
        let paths = fields.difference(&allowed).paths(CONFLICTS_MAX - conflicts.len());
        conflicts.extend(paths.into_iter().map(|path| Conflict {
            field: path.to_string(),
            manager: id.manager.clone(),
            operation: id.operation,
            api_version: id.version.clone(),
            subresource: id.subresource.clone(),
        }));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

/// Refuses what cannot be applied.
fn check(shape: Shape<'_>, applied: &Value) -> Result<(), ApplyError> {
    if !applied.is_object() {
        return Err(ApplyError::Invalid("what is applied must be an object".to_owned()));
    }
    if applied.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    shape.check(applied, &mut Vec::new()).map_err(ApplyError::Invalid)
}

fn without_managed(object: &Value) -> Value {
    let mut bare = object.clone();
    forget_managed(&mut bare);
    bare
}

fn forget_managed(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// What is applied, without what only the server writes; `kubectl` sends `creationTimestamp: null`, for one.
fn without_server_metadata(applied: &Value) -> Value {
    let mut bare = applied.clone();
    if let Some(metadata) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !SERVER_METADATA.contains(&name.as_str()));
    }
    bare
}

fn put_managed(object: &mut Value, managed: &Managed) {
    let Some(object) = object.as_object_mut().filter(|_| !managed.0.is_empty()) else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("managedFields".to_owned(), Value::Array(managed.encode()));
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
