//! From what a client wrote to what is stored, or to why it is not. Pure.
//!
//! The order is Kubernetes': identity against the path, one form of what can be written in several, unknown fields,
//! what only the server says, defaults, validation, field owners. The current object is an argument, so that a verb
//! that lost a race runs it all again.

use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::Kind;

use super::{manager::Writer, special};
use crate::{
    access::role::group_of,
    api::{
        options::FieldValidation,
        path::{Place, Subresource},
        status::{Failure, unknown_field},
    },
    apply,
    schema::{self, Cause, Problem},
    store::object::{Draft, Object, ObjectKey},
    translate::unserved,
};

/// What only the server writes of `metadata`; what a client sends of it is dropped.
const SERVERS: &[&str] =
    &["creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "resourceVersion", "uid"];
/// Once upstream's, and never stored.
const SELF_LINK: &str = "selfLink";

/// What is to be stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ready {
    pub(super) draft: Draft,
    pub(super) warnings: Vec<String>,
}

/// What a client wrote, fit to be looked at field by field.
#[derive(Debug)]
struct Written {
    object: Value,
    /// Unknown fields that were dropped, said to the client.
    warnings: Vec<String>,
    /// Unknown fields that are refused.
    unknown: Vec<Problem>,
}

/// A new object; its name is in the body, or made by now.
///
/// # Errors
/// 400 when it is another's or has unknown fields, 422 when it is invalid.
pub(super) fn create(place: &Place, writer: &Writer<'_>, body: Value) -> Result<Ready, Failure> {
    let mut written = read(place, None, writer, body)?;
    if text(&written.object, "resourceVersion").is_some() {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in SERVERS {
        metadata(&mut written.object).remove(*field);
    }
    if place.kind.info().has_status {
        remove(&mut written.object, "status");
    }
    finish(place, None, writer, written)
}

/// An object in place of `current`, or its status alone.
///
/// # Errors
/// As [`create`]; 409 when the body is of another revision or of another object.
pub(super) fn update(place: &Place, writer: &Writer<'_>, body: Value, current: &Object) -> Result<Ready, Failure> {
    let mut written = read(place, Some(&current.key.name), writer, body)?;
    same_object(&written.object, current)?;
    require_revision(&written.object, current)?;
    let live = current.to_value_as(place.api_version);
    written.object = over(place, written.object, &live);
    finish(place, Some(&live), writer, written)
}

/// What server-side apply makes of `current` (`None`: nothing is there) and a client's configuration.
///
/// # Errors
/// As [`update`]; 409 with every field that another manager owns.
pub(super) fn applied(
    place: &Place,
    name: &str,
    writer: &Writer<'_>,
    body: Value,
    current: Option<&Object>,
) -> Result<Ready, Failure> {
    same_version(place, &body)?;
    let mut written = read(place, Some(name), writer, body)?;
    let key = place.key(name);
    let live = current.map(|current| current.to_value_as(place.api_version));
    match current {
        Some(current) => same_object(&written.object, current)?,
        None if place.subresource.is_some() => return Err(Failure::not_found(&key)),
        None => not_another(&key, &written.object)?,
    }
    match place.subresource {
        Some(Subresource::Status) => only_status(&mut written.object),
        _ if place.kind.info().has_status => drop(remove(&mut written.object, "status")),
        _ => {}
    }
    let node = schema::of(place.kind).root();
    let merged = apply::apply(node, live.as_ref(), &written.object, writer.manager(place), writer.force);
    if !written.unknown.is_empty() {
        // What else is wrong is said as well, as far as the rest of the configuration can be merged.
        let problems = merged.map_or_else(|_| Vec::new(), |mut merged| check(place, &mut merged, live.as_ref()));
        return Err(Failure::unknown_fields(place, name, &written.unknown, &problems));
    }
    let mut merged = merged.map_err(|error| Failure::apply(&key, error))?;
    if let Some(live) = &live {
        keep_servers(&mut merged, live);
    }
    let problems = check(place, &mut merged, live.as_ref());
    if !problems.is_empty() {
        return Err(Failure::invalid_object(place.kind, name, &problems));
    }
    Ok(ready(key, merged, written.warnings))
}

/// What every write has in common at its beginning.
fn read(place: &Place, name: Option<&str>, writer: &Writer<'_>, body: Value) -> Result<Written, Failure> {
    let mut object = body;
    identify(place, name, &mut object)?;
    schema::quirks::normalise(place.kind, &mut object);
    special::fold(place.kind, &mut object);
    metadata(&mut object).remove(SELF_LINK);
    let mut unknown = schema::of(place.kind).unknown(&object);
    let mut warnings = Vec::new();
    match writer.validation {
        FieldValidation::Strict => {}
        FieldValidation::Warn => warnings.extend(unknown.drain(..).map(|problem| unknown_field(&problem))),
        FieldValidation::Ignore => unknown.clear(),
    }
    schema::of(place.kind).prune(&mut object);
    Ok(Written { object, warnings, unknown })
}

/// What every write but apply has in common at its end.
fn finish(place: &Place, live: Option<&Value>, writer: &Writer<'_>, written: Written) -> Result<Ready, Failure> {
    let Written { mut object, warnings, unknown } = written;
    let problems = check(place, &mut object, live);
    let name = text(&object, "name").unwrap_or_default().to_owned();
    if !unknown.is_empty() {
        return Err(Failure::unknown_fields(place, &name, &unknown, &problems));
    }
    if !problems.is_empty() {
        return Err(Failure::invalid_object(place.kind, &name, &problems));
    }
    apply::update(schema::of(place.kind).root(), live, &mut object, writer.manager(place));
    Ok(ready(place.key(&name), object, warnings))
}

fn ready(key: ObjectKey, object: Value, mut warnings: Vec<String>) -> Ready {
    warnings.extend(unserved::warnings(key.kind, &object));
    Ready { draft: Draft::of_value(key, object), warnings }
}

fn check(place: &Place, object: &mut Value, live: Option<&Value>) -> Vec<Problem> {
    let schema = schema::of(place.kind);
    schema.default(object);
    schema.validate(object, live)
}

/// Fills in what the path says, and refuses what contradicts it.
fn identify(place: &Place, name: Option<&str>, object: &mut Value) -> Result<(), Failure> {
    let info = place.kind.info();
    let Some(fields) = object.as_object_mut() else {
        return Err(Failure::bad_request(format!("the body is no object: it must be a {}", info.name)));
    };
    let said = |field: &str| fields.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (api_version, kind) = (said("apiVersion"), said("kind"));
    if let Some(version) = api_version.filter(|version| !is_view(place, version)) {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            shown(version),
            place.api_version
        )));
    }
    if let Some(kind) = kind.filter(|kind| *kind != info.name) {
        let message =
            format!("the kind in the data ({}) does not match the expected kind ({})", shown(kind), info.name);
        return Err(Failure::bad_request(message));
    }
    fields.insert("apiVersion".to_owned(), json!(place.api_version));
    fields.insert("kind".to_owned(), json!(info.name));
    let metadata = fields.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(Failure::bad_request("metadata must be an object"));
    };
    locate(place, metadata)?;
    name.map_or(Ok(()), |name| check_name(name, metadata))
}

fn locate(place: &Place, metadata: &mut Map<String, Value>) -> Result<(), Failure> {
    let said = metadata.get("namespace").and_then(Value::as_str).filter(|text| !text.is_empty());
    match (&place.namespace, said) {
        (None, _) => drop(metadata.remove("namespace")),
        (Some(path), Some(said)) if path != said => {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request: the object is \
                 in namespace `{}`, the path says `{path}`",
                shown(said)
            )));
        }
        (Some(path), _) => drop(metadata.insert("namespace".to_owned(), json!(path))),
    }
    Ok(())
}

fn check_name(name: &str, metadata: &Map<String, Value>) -> Result<(), Failure> {
    match metadata.get("name").and_then(Value::as_str).unwrap_or_default() {
        "" => {
            let message =
                format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
            Err(Failure::bad_request(message))
        }
        said if said != name => Err(Failure::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            shown(said)
        ))),
        _ => Ok(()),
    }
}

/// `written` as it stands in place of what is shown as `live`: what it may not say is as it was.
fn over(place: &Place, written: Value, live: &Value) -> Value {
    if place.subresource == Some(Subresource::Status) {
        let mut object = live.clone();
        put(&mut object, "status", written.get("status").filter(|status| !status.is_null()).cloned());
        if let Some(managed) = written.pointer("/metadata/managedFields") {
            metadata(&mut object).insert("managedFields".to_owned(), managed.clone());
        }
        return object;
    }
    let mut object = written;
    keep_servers(&mut object, live);
    if place.kind.info().has_status {
        put(&mut object, "status", live.get("status").cloned());
    }
    object
}

/// Sets what only the server says, as `live` has it.
fn keep_servers(object: &mut Value, live: &Value) {
    let metadata = metadata(object);
    for field in SERVERS {
        match live["metadata"].get(*field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.remove(*field)),
        }
    }
}

/// Refuses what was written of no revision, where Kubernetes takes none either: of all kinds but its own, and of leases.
fn require_revision(written: &Value, current: &Object) -> Result<(), Failure> {
    let key = &current.key;
    let says = text(written, "resourceVersion").is_some_and(|version| version.parse() != Ok(0_u64));
    if says || (is_built_in(key.kind) && key.kind != Kind::Lease) {
        return Ok(());
    }
    let message = "Invalid value: 0: must be specified for an update".to_owned();
    let problem = Problem { path: "metadata.resourceVersion".to_owned(), message, cause: Cause::Invalid };
    Err(Failure::invalid_object(key.kind, &key.name, &[problem]))
}

/// Whether what is written as `api_version` may come to `place`: as its own, or as the same version of the other of two
/// groups that are views of the same objects.
fn is_view(place: &Place, api_version: &str) -> bool {
    let version = |of: &str| of.rsplit_once('/').map(|(_, version)| version.to_owned());
    let is_served = place.kind.info().api_versions.contains(&api_version);
    api_version == place.api_version || (is_served && version(api_version) == version(place.api_version))
}

/// Refuses to apply a configuration of another version than that of the path: its fields would be owned in the wrong one.
fn same_version(place: &Place, body: &Value) -> Result<(), Failure> {
    match body.get("apiVersion").and_then(Value::as_str).filter(|version| !version.is_empty()) {
        Some(version) if !is_view(place, version) => Err(Failure::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            shown(version),
            place.api_version
        ))),
        _ => Ok(()),
    }
}

/// Refuses what was written of another revision, or of another object of this name.
fn same_object(written: &Value, current: &Object) -> Result<(), Failure> {
    let key = &current.key;
    if let Some(uid) = text(written, "uid").filter(|uid| *uid != current.body.uid) {
        return Err(Failure::other_uid(key, uid, &current.body.uid));
    }
    let Some(version) = text(written, "resourceVersion") else { return Ok(()) };
    let revision: u64 = version.parse().map_err(|_| not_a_version(version))?;
    if revision != current.body.revision && revision != 0 {
        return Err(Failure::modified(key, current.body.revision, revision));
    }
    Ok(())
}

/// Refuses to make anew what was written of an object that is not there.
fn not_another(key: &ObjectKey, written: &Value) -> Result<(), Failure> {
    if let Some(uid) = text(written, "uid") {
        let message =
            format!("uid mismatch: the provided object specified uid {}, and no existing object was found", shown(uid));
        return Err(Failure::conflict(key, &message));
    }
    match text(written, "resourceVersion") {
        Some(_) => Err(Failure::not_found(key)),
        None => Ok(()),
    }
}

/// A `resourceVersion` that is none.
pub(super) fn not_a_version(text: &str) -> Failure {
    Failure::bad_request(format!("metadata.resourceVersion `{}` is not one that this server gave", shown(text)))
}

/// Leaves of a configuration what the `status` subresource takes.
fn only_status(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    fields.retain(|field, _| ["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()));
    metadata(object).retain(|field, _| ["name", "namespace"].contains(&field.as_str()));
}

/// A text of `metadata` that says something.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// `metadata`; [`identify`] has seen to it that there is one.
fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        *object = match std::mem::take(object) {
            Value::Object(mut fields) => {
                fields.insert("metadata".to_owned(), json!({}));
                Value::Object(fields)
            }
            _ => json!({ "metadata": {} }),
        };
    }
    object.get_mut("metadata").and_then(Value::as_object_mut).expect("it was made an object above")
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value)),
        None => drop(fields.remove(field)),
    }
}

fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field)
}

/// A client's text, short and without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Whether strategic merge patches are understood: for Kubernetes' own kinds, as upstream.
pub(in crate::api) fn is_built_in(kind: Kind) -> bool {
    let group = group_of(kind);
    !group.contains("apoxy.dev") && !matches!(group, "gateway.networking.k8s.io" | "apiextensions.k8s.io")
}

#[cfg(test)]
mod tests;
