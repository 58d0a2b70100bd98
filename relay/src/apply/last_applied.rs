//! The annotation in which `kubectl apply` keeps what it applied, for its users who move to server-side apply.
//!
//! What it left may be taken over without a conflict, and the annotation follows what is applied from then on, so that
//! they may also move back.

use serde_json::Value;

use super::{KUBECTL, compare::compare, fields::Fields, shape::Shape};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most bytes of all annotations of an object, as in Kubernetes; where more would come about, this one goes.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

/// What `kubectl apply` applied and still stands in `live`; nothing when it was in another version.
pub(super) fn fields(shape: Shape<'_>, live: &Value) -> Fields {
    let Some(applied) = annotation(live).and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
        return Fields::default();
    };
    if applied.get("apiVersion") != live.get("apiVersion") {
        return Fields::default();
    }
    let changed = compare(shape, &applied, live);
    let gone = changed.modified.union(&changed.added).union(&changed.removed);
    shape.fields(&applied).difference(&gone)
}

/// Writes `applied` to the annotation of `new`, if it has one and `manager` is `kubectl`.
pub(super) fn refresh(new: &mut Value, applied: &Value, manager: &str) {
    if manager != KUBECTL || annotation(new).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let Some(annotations) = new.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else { return };
    annotations.insert(ANNOTATION.to_owned(), Value::String(format!("{applied}\n")));
    let bytes: usize = annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        annotations.remove(ANNOTATION);
    }
}

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}
