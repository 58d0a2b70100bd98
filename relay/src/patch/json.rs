//! JSON Patch: a list of operations, applied one after the other, all or none (RFC 6902).

use json_patch::{Patch, PatchOperation, jsonptr::Pointer, patch_unsafe};
use serde_json::Value;

use super::{LEVELS_MAX, PatchError, quoted};

/// The most operations of one patch, as in Kubernetes.
pub const OPERATIONS_MAX: usize = 10_000;
/// How many bytes all `copy` operations of a patch may add together, as in Kubernetes: what a body may hold.
pub const COPIED_BYTES_MAX: usize = 3 << 20;
/// How many values all operations of a patch may look at or move together: half a second of one core.
const WORK_MAX: usize = 50_000_000;

/// `object` with the operations of `patch` applied.
///
/// # Errors
/// [`PatchError::Malformed`] when `patch` is no list of operations, [`PatchError::Inapplicable`] when a `test` fails or
/// a path is not there, [`PatchError::TooLarge`] beyond [`OPERATIONS_MAX`], [`COPIED_BYTES_MAX`] or 128 levels.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed("a JSON patch is a list of operations".to_owned()));
    };
    if operations.len() > OPERATIONS_MAX {
        let message = format!("the patch has {} operations, and may have {OPERATIONS_MAX}", operations.len());
        return Err(PatchError::TooLarge(message));
    }
    let operations: Patch = serde_json::from_value(patch.clone()).map_err(|error| {
        PatchError::Malformed(format!("no JSON patch: {}", quoted(&error.to_string()).replace("\\'", "'")))
    })?;
    let mut patched = object.clone();
    let mut room = Room { copied_bytes: COPIED_BYTES_MAX, work: WORK_MAX };
    for (at, operation) in operations.iter().enumerate() {
        room.charge(&patched, operation)
            .map_err(|what| PatchError::TooLarge(format!("operation {at} of the patch: {what}")))?;
        if finds_nothing(&patched, operation) {
            continue;
        }
        patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Inapplicable(describe(at, operation, &error)))?;
    }
    Ok(patched)
}

/// Whether `operation` is a `test` for null of a field that its object does not have. Kubernetes takes one for the other,
/// and controllers rely on it to say "there are no finalizers yet"; by RFC 6902 §4.6 the field would have to be there.
fn finds_nothing(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let is_absent = || {
        let parent = test.path.parent().and_then(|parent| object.pointer(parent.as_str()));
        parent.is_some_and(Value::is_object) && object.pointer(test.path.as_str()).is_none()
    };
    test.value.is_null() && is_absent()
}

fn describe(at: usize, operation: &PatchOperation, error: &json_patch::PatchError) -> String {
    let name = match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    };
    format!("operation {at} of the patch, `{name}` of `{}`: {}", quoted(operation.path().as_str()), error.kind)
}

/// What the rest of a patch may still cost.
struct Room {
    copied_bytes: usize,
    work: usize,
}

impl Room {
    /// Takes the cost of `operation`, before it is done.
    fn charge(&mut self, object: &Value, operation: &PatchOperation) -> Result<(), &'static str> {
        let path = operation.path();
        let place = path.tokens().count();
        self.spend(place + around(object, path))?;
        let mut size = Size::default();
        match operation {
            PatchOperation::Add(add) => size = self.measure(&add.value)?,
            PatchOperation::Replace(replace) => size = self.measure(&replace.value)?,
            PatchOperation::Test(test) => size = self.measure(&test.value)?,
            PatchOperation::Copy(copy) => {
                if let Some(value) = object.pointer(copy.from.as_str()) {
                    size = self.measure(value)?;
                    self.copied_bytes = self.copied_bytes.checked_sub(size.bytes).ok_or("copies too much")?;
                }
            }
            PatchOperation::Move(from) => {
                self.spend(around(object, &from.from))?;
                if let Some(value) = object.pointer(from.from.as_str()) {
                    size = self.measure(value)?;
                }
            }
            PatchOperation::Remove(_) => {}
        }
        if place + size.levels > LEVELS_MAX { Err("nests too deep") } else { Ok(()) }
    }

    fn spend(&mut self, work: usize) -> Result<(), &'static str> {
        self.work = self.work.checked_sub(work).ok_or("the patch is too much work")?;
        Ok(())
    }

    /// The size of `value`, paid for as it is looked at.
    fn measure(&mut self, value: &Value) -> Result<Size, &'static str> {
        self.spend(1)?;
        let mut size = Size { bytes: 4, levels: 1 };
        let mut below = 0;
        match value {
            Value::String(text) => size.bytes += text.len(),
            Value::Array(items) => {
                for item in items {
                    let item = self.measure(item)?;
                    size.bytes += item.bytes + 1;
                    below = below.max(item.levels);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let value = self.measure(value)?;
                    size.bytes += name.len() + value.bytes + 4;
                    below = below.max(value.levels);
                }
            }
            Value::Number(_) => size.bytes += 16,
            Value::Null | Value::Bool(_) => {}
        }
        size.levels += below;
        Ok(size)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// About what it takes as JSON, rather more.
    bytes: usize,
    levels: usize,
}

/// How many items may have to move when one is put at `path`, or taken from it.
fn around(object: &Value, path: &Pointer) -> usize {
    let parent = path.parent().and_then(|parent| object.pointer(parent.as_str()));
    parent.and_then(Value::as_array).map_or(1, Vec::len)
}
