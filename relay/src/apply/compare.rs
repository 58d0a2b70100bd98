//! What differs between two objects, as sets of fields.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    fields::Fields,
    path::{Plain, Step},
    shape::{Parts, Shape, by_step},
};

/// The fields by which a new object differs from an old one; no field is in two of the sets.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: Fields,
    pub(super) modified: Fields,
    pub(super) removed: Fields,
}

/// What became of a value as a whole, whatever became of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Same,
    Added,
    Modified,
    Removed,
}

/// What `new` changes in `old`.
pub(super) fn compare(shape: Shape<'_>, old: &Value, new: &Value) -> Difference {
    compare_part(shape, Some(old), Some(new)).1
}

fn compare_part(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> (Change, Difference) {
    let mut found = Difference::default();
    match (parts_of(shape, old), parts_of(shape, new)) {
        // Absent, null and empty differ, as leaves do.
        (None | Some(Parts::Leaf), None | Some(Parts::Leaf)) => return (compare_leaf(old, new), found),
        (Some(Parts::Map(old)), Some(Parts::Map(new))) => found.maps(shape, old, new),
        (Some(Parts::Map(old)), None) => found.maps(shape, old, &Map::new()),
        (None, Some(Parts::Map(new))) => found.maps(shape, &Map::new(), new),
        (Some(Parts::List(old)), Some(Parts::List(new))) => found.lists(shape, by_step(old), by_step(new)),
        (Some(Parts::List(old)), None) => found.lists(shape, by_step(old), BTreeMap::new()),
        (None, Some(Parts::List(new))) => found.lists(shape, BTreeMap::new(), by_step(new)),
        _ => {
            found.removed = old.map(|old| shape.fields(old)).unwrap_or_default();
            found.added = new.map(|new| shape.fields(new)).unwrap_or_default();
            return (Change::Modified, found);
        }
    }
    let change = match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ => Change::Same,
    };
    (change, found)
}

/// The parts of `value`, if it is there and not empty.
fn parts_of<'v>(shape: Shape<'_>, value: Option<&'v Value>) -> Option<Parts<'v>> {
    value.filter(|value| !is_empty(value)).map(|value| shape.parts(value))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn compare_leaf(old: Option<&Value>, new: Option<&Value>) -> Change {
    match (old, new) {
        (None, None) => Change::Same,
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        (Some(old), Some(new)) if Plain::of(old) == Plain::of(new) => Change::Same,
        _ => Change::Modified,
    }
}

impl Difference {
    fn put(&mut self, step: Step, change: Change, below: Self) {
        self.added.put(step.clone(), change == Change::Added, below.added);
        self.modified.put(step.clone(), change == Change::Modified, below.modified);
        self.removed.put(step, change == Change::Removed, below.removed);
    }

    fn maps(&mut self, shape: Shape<'_>, old: &Map<String, Value>, new: &Map<String, Value>) {
        for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
            let step = Step::Field(name.clone());
            let (change, below) = compare_part(shape.at(&step), old.get(name), new.get(name));
            self.put(step, change, below);
        }
    }

    /// Items that are there twice are compared together, and owned together.
    fn lists(&mut self, shape: Shape<'_>, old: BTreeMap<Step, Vec<&Value>>, mut new: BTreeMap<Step, Vec<&Value>>) {
        for (step, old) in old {
            let new = new.remove(&step).unwrap_or_default();
            let at = shape.at(&step);
            let (change, below) = match (&old[..], &new[..]) {
                ([old], [new]) => compare_part(at, Some(old), Some(new)),
                ([old], []) => compare_part(at, Some(old), None),
                ([_, _, ..], [_, _, ..]) => (if old == new { Change::Same } else { Change::Modified }, Self::default()),
                ([_, _, ..], [new]) => (Change::Removed, compare_part(at, None, Some(new)).1),
                ([old], _) => (Change::Added, compare_part(at, Some(old), None).1),
                (_, _) => (Change::Removed, Self::default()),
            };
            self.put(step, change, below);
        }
        for (step, new) in new {
            let (change, below) = match &new[..] {
                [new] => compare_part(shape.at(&step), None, Some(new)),
                _ => (Change::Added, Self::default()),
            };
            self.put(step, change, below);
        }
    }
}
