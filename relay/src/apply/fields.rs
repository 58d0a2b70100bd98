//! Sets of fields, and their wire form `FieldsV1`: who owns what is written as such a set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::path::{Path, Step};

/// How many levels of an object are owned field by field; what lies deeper is owned and merged as one value.
///
/// Managed fields lie five levels deep in the object themselves, and JSON is read to 128 levels: every set must
/// remain readable.
pub(super) const LEVELS_MAX: usize = 64;
/// The most steps of one set that is read: a body of 3 MiB holds fewer than this.
const STEPS_MAX: usize = 500_000;

/// A set of fields, as a tree of steps. A parent's membership says nothing of its children's, nor theirs of its.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    steps: BTreeMap<Step, Entry>,
}

/// What is known of one step; never neither a member nor a parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    member: bool,
    below: Fields,
}

/// Why something is no `FieldsV1`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fieldsV1: {0}")]
pub struct FieldsError(String);

impl Fields {
    /// Reads `FieldsV1`. A sort of step that is not known is left out, as Kubernetes does.
    ///
    /// # Errors
    /// When it is no object of objects, a name in it is no path element, it is deeper than 64 levels or longer than
    /// 500,000 steps.
    pub fn parse(value: &Value) -> Result<Self, FieldsError> {
        let mut room = STEPS_MAX;
        Ok(Self::read(value, 0, &mut room)?.below)
    }

    fn read(value: &Value, level: usize, room: &mut usize) -> Result<Entry, FieldsError> {
        let fail = |text: &str| FieldsError(text.to_owned());
        let names = value.as_object().ok_or_else(|| fail("each path element holds an object"))?;
        if level > LEVELS_MAX {
            return Err(fail("nested too deep"));
        }
        let mut entry = Entry { member: names.is_empty(), ..Entry::default() };
        for (name, value) in names {
            *room = room.checked_sub(1).ok_or_else(|| fail("too many fields"))?;
            if name == "." {
                entry.member = true;
                continue;
            }
            let Some(step) = Step::parse(name).map_err(FieldsError)? else { continue };
            let read = Self::read(value, level + 1, room)?;
            entry.below.put(step, read.member, read.below);
        }
        Ok(entry)
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Value {
        Value::Object(self.encode_entries())
    }

    fn encode_entries(&self) -> Map<String, Value> {
        let entries = self.steps.iter().map(|(step, entry)| {
            let mut below = entry.below.encode_entries();
            if entry.member && !below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (step.encode(), Value::Object(below))
        });
        entries.collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Adds `step` with what lies below it; what is there already, such as `v:1` beside `v:1.0`, stays.
    pub(super) fn put(&mut self, step: Step, member: bool, below: Self) {
        if !member && below.is_empty() {
            return;
        }
        let known = self.steps.entry(step).or_default();
        known.member |= member;
        if known.below.is_empty() {
            known.below = below;
        } else {
            known.below.extend(&below);
        }
    }

    #[must_use]
    pub fn contains(&self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut at = self;
        for step in parents {
            match at.steps.get(step) {
                Some(entry) => at = &entry.below,
                None => return false,
            }
        }
        at.has(last)
    }

    /// Whether `step`, from here, is a member.
    pub(super) fn has(&self, step: &Step) -> bool {
        self.steps.get(step).is_some_and(|entry| entry.member)
    }

    /// The members below `step`; `None` when there are none.
    pub(super) fn below(&self, step: &Step) -> Option<&Self> {
        self.steps.get(step).map(|entry| &entry.below).filter(|below| !below.is_empty())
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.extend(other);
        both
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (step, entry) in &other.steps {
            match self.steps.get_mut(step) {
                Some(known) => {
                    known.member |= entry.member;
                    known.below.extend(&entry.below);
                }
                None => {
                    self.steps.insert(step.clone(), entry.clone());
                }
            }
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs, |_| Self::default())
    }

    /// What is in this one only; a member's children are looked at one by one.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs, Self::clone)
    }

    fn combine(&self, other: &Self, member: fn(bool, bool) -> bool, alone: fn(&Self) -> Self) -> Self {
        let mut steps = BTreeMap::new();
        for (step, entry) in &self.steps {
            let combined = match other.steps.get(step) {
                Some(theirs) => Entry {
                    member: member(entry.member, theirs.member),
                    below: entry.below.combine(&theirs.below, member, alone),
                },
                None => Entry { member: member(entry.member, false), below: alone(&entry.below) },
            };
            if combined.member || !combined.below.is_empty() {
                steps.insert(step.clone(), combined);
            }
        }
        Self { steps }
    }

    /// The set with each step changed by `change`: its membership and what lies below it.
    pub(super) fn map(&self, mut change: impl FnMut(&Step, bool, &Self) -> (bool, Self)) -> Self {
        let mut changed = Self::default();
        for (step, entry) in &self.steps {
            let (member, below) = change(step, entry.member, &entry.below);
            changed.put(step.clone(), member, below);
        }
        changed
    }

    /// The first `most` members, in order.
    #[must_use]
    pub fn paths(&self, most: usize) -> Vec<Path> {
        let mut found = Vec::new();
        self.gather(&mut Vec::new(), most, &mut found);
        found
    }

    fn gather(&self, path: &mut Vec<Step>, most: usize, found: &mut Vec<Path>) {
        for (step, entry) in &self.steps {
            path.push(step.clone());
            if entry.member && found.len() < most {
                found.push(Path(path.clone()));
            }
            if found.len() < most {
                entry.below.gather(path, most, found);
            }
            path.pop();
        }
    }
}
