//! JSON Merge Patch: what is named is set, what is null goes (RFC 7386).

use serde_json::{Map, Value};

use super::LEVELS_MAX;

/// `object` with `patch` merged into it.
///
/// What `patch` says below 128 levels, more than JSON is read to, is left out.
#[must_use]
pub fn merge(object: &Value, patch: &Value) -> Value {
    let mut merged = object.clone();
    merge_into(&mut merged, patch, 0);
    merged
}

fn merge_into(target: &mut Value, patch: &Value, level: usize) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut().filter(|_| level < LEVELS_MAX) else { return };
    for (name, value) in fields {
        if value.is_null() {
            object.remove(name);
        } else {
            merge_into(object.entry(name.as_str()).or_insert(Value::Null), value, level + 1);
        }
    }
}
