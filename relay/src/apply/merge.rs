//! Merging what was applied into what is there, and taking away what is no longer applied.

use std::collections::{BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::{
    fields::Fields,
    path::Step,
    shape::{Parts, Shape, by_step},
};

/// `live` with all that `applied` mentions set as it says; nothing is removed.
///
/// Items of keyed lists and sets stand in the order of `applied`, with the others between them where `live` has them.
pub(super) fn merge(shape: Shape<'_>, live: &Value, applied: &Value) -> Value {
    match (shape.parts(live), shape.parts(applied)) {
        (Parts::Map(_) | Parts::List(_), _) if applied.is_null() => live.clone(),
        (Parts::Map(live), Parts::Map(applied)) => {
            let old = live.iter().map(|(name, value)| {
                let step = Step::Field(name.clone());
                let applied = applied.get(name);
                (name.clone(), applied.map_or_else(|| value.clone(), |new| merge(shape.at(&step), value, new)))
            });
            let mut merged: Map<_, _> = old.collect();
            let new = applied.iter().filter(|(name, _)| !live.contains_key(*name));
            merged.extend(new.map(|(name, value)| (name.clone(), value.clone())));
            Value::Object(merged)
        }
        (Parts::List(live), Parts::List(applied)) => Value::Array(merge_lists(shape, live, &applied)),
        _ => applied.clone(),
    }
}

fn merge_lists(shape: Shape<'_>, live: Vec<(Step, &Value)>, applied: &[(Step, &Value)]) -> Vec<Value> {
    let known = by_step(live.clone());
    let wanted: BTreeSet<_> = applied.iter().map(|(step, _)| step).collect();
    let mut out = Vec::with_capacity(live.len() + applied.len());
    let mut shared: VecDeque<_> =
        applied.iter().map(|(step, _)| step).filter(|step| known.contains_key(step)).collect();
    let mut live = live.into_iter().peekable();
    for (step, value) in applied {
        // Up to the next item that both have, the live list's own items come first.
        while let Some((at, item)) = live.next_if(|(at, _)| shared.front() != Some(&at)) {
            if !wanted.contains(&at) {
                out.push(item.clone());
            }
        }
        if shared.front() == Some(&step) {
            shared.pop_front();
            live.next();
        }
        out.push(match known.get(step).map(Vec::as_slice) {
            Some([live]) => merge(shape.at(step), live, value),
            // Items that were there twice become the one that is applied.
            _ => (*value).clone(),
        });
    }
    out.extend(live.filter(|(step, _)| !wanted.contains(step)).map(|(_, item)| item.clone()));
    out
}

/// What becomes of a map or list of which nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptied {
    /// It stands as null: it is still there to be owned.
    Stands,
    Goes,
}

/// `value` without `fields`; what lies below a leaf is not looked at.
fn without(shape: Shape<'_>, value: &Value, fields: &Fields, emptied: Emptied) -> Option<Value> {
    let left = match shape.parts(value) {
        Parts::Leaf => return Some(value.clone()),
        Parts::Map(entries) => {
            let kept = entries.iter().filter_map(|(name, value)| {
                let step = Step::Field(name.clone());
                Some((name.clone(), part_without(shape, &step, value, fields, emptied)?))
            });
            Some(kept.collect::<Map<_, _>>()).filter(|kept| !kept.is_empty()).map(Value::Object)
        }
        Parts::List(items) => {
            // An item without its keys is none: it goes in any case.
            let kept = items.iter().filter_map(|(step, item)| part_without(shape, step, item, fields, Emptied::Goes));
            Some(kept.collect::<Vec<_>>()).filter(|kept| !kept.is_empty()).map(Value::Array)
        }
    };
    left.or((emptied == Emptied::Stands).then_some(Value::Null))
}

fn part_without(shape: Shape<'_>, step: &Step, value: &Value, fields: &Fields, emptied: Emptied) -> Option<Value> {
    if fields.has(step) {
        return None;
    }
    match fields.below(step) {
        Some(below) => without(shape.at(step), value, below, emptied),
        None => Some(value.clone()),
    }
}

/// `merged` without what a manager owned last time, does not apply now, and nobody owns.
///
/// `owned` is what all managers own now, this one's new set included. Items and fields that nobody ever owned stay.
pub(super) fn prune(shape: Shape<'_>, merged: &Value, last: &Fields, owned: &Fields) -> Value {
    if last.is_empty() {
        return merged.clone();
    }
    let all = |value: &Value| shape.with_parents(&shape.fields(value));
    let cut = |fields: &Fields| without(shape, merged, fields, Emptied::Stands).unwrap_or_default();
    let last = shape.with_parents(last);
    let before = all(merged);
    let pruned = cut(&last);
    // What went, but belongs to somebody, comes back.
    let pruned = cut(&before.difference(&all(&pruned).union(&shape.with_parents(owned))));
    // What went with an item, but was not this manager's, comes back.
    let gone = before.difference(&all(&pruned)).intersection(&last);
    without(shape, merged, &gone, Emptied::Goes).unwrap_or_else(|| Value::Object(Map::new()))
}
