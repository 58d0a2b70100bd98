//! What a schema says of merging: which values are one leaf, which are owned part by part, and by which steps.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{
    fields::{Fields, LEVELS_MAX},
    path::{Path, Plain, Step},
};
use crate::schema::{Form, ListKind, Node};

/// The schema of a value, and how deep the value lies.
///
/// What has no schema (a field that is not declared, the inside of `x-kubernetes-preserve-unknown-fields`) is treated
/// as upstream treats what it calls deduced: objects are owned field by field, lists are leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape<'a> {
    node: Option<&'a Node>,
    level: usize,
}

/// A value that is owned part by part.
pub(super) enum Parts<'v> {
    /// By field.
    Map(&'v Map<String, Value>),
    /// By keys or by value; every item has its step.
    List(Vec<(Step, &'v Value)>),
    /// As one: scalars, atomic lists and maps, and what does not fit its schema.
    Leaf,
}

impl<'a> Shape<'a> {
    pub(super) fn of(root: &'a Node) -> Self {
        Self { node: Some(root), level: 0 }
    }

    /// The shape of the part at `step`.
    pub(super) fn at(self, step: &Step) -> Self {
        let node = match (step, self.node.map(|node| &node.form)) {
            (Step::Field(name), Some(Form::Object { properties, additional, .. })) => {
                properties.get(name).or(additional.as_ref()).map(AsRef::as_ref)
            }
            (Step::Keys(_) | Step::Item(_) | Step::Index(_), Some(Form::List { items, .. })) => Some(items.as_ref()),
            _ => None,
        };
        Self { node, level: self.level + 1 }
    }

    /// Whether `name` is declared here: such fields exist by their schema, entries of maps by being set.
    pub(super) fn declares(self, name: &str) -> bool {
        matches!(self.node.map(|node| &node.form), Some(Form::Object { properties, .. }) if properties.contains_key(name))
    }

    /// Whether values here are owned as one, whatever they are.
    pub(super) fn is_atomic(self) -> bool {
        let by_schema = match self.node.map(|node| &node.form) {
            Some(Form::Object { atomic, .. }) => *atomic,
            Some(Form::List { kind, .. }) => matches!(kind, ListKind::Atomic),
            _ => false,
        };
        by_schema || self.level >= LEVELS_MAX
    }

    /// Whether this is an object or a list that is owned part by part: its `null` and its emptiness are no leaves.
    pub(super) fn is_granular(self) -> bool {
        let container = matches!(self.node.map(|node| &node.form), Some(Form::Object { .. } | Form::List { .. }));
        container && !self.is_atomic()
    }

    /// The parts of `value`.
    pub(super) fn parts(self, value: &Value) -> Parts<'_> {
        if self.is_atomic() {
            return Parts::Leaf;
        }
        match (value, self.node.map(|node| &node.form)) {
            (Value::Object(fields), None | Some(Form::Object { .. } | Form::Anything)) => Parts::Map(fields),
            (Value::Array(items), Some(Form::List { .. })) => {
                let steps = items.iter().map(|item| Some((self.step(item).ok()?, item)));
                steps.collect::<Option<_>>().map_or(Parts::Leaf, Parts::List)
            }
            _ => Parts::Leaf,
        }
    }

    /// The step to `item` of the list here.
    ///
    /// # Errors
    /// In words, when the item has none of its keys, or is no value that a set may hold.
    pub(super) fn step(self, item: &Value) -> Result<Step, String> {
        match self.node.map(|node| &node.form) {
            Some(Form::List { kind: ListKind::Map(keys), items, .. }) => keyed(keys, items, item),
            _ => match item {
                Value::Object(_) => Err("an item of a set may not be an object".to_owned()),
                Value::Array(_) => Err("an item of a set may not be a list".to_owned()),
                Value::Null => Err("an item of a set may not be null".to_owned()),
                scalar => Ok(Step::Item(Plain::of(scalar))),
            },
        }
    }

    /// Every part that `value` mentions: its leaves, the items of its lists, the entries of its maps.
    pub(super) fn fields(self, value: &Value) -> Fields {
        self.owned(value).1
    }

    /// Whether `value` is itself a leaf, and the fields below it.
    pub(super) fn owned(self, value: &Value) -> (bool, Fields) {
        let mut found = Fields::default();
        match self.parts(value) {
            Parts::Leaf => return (!(value.is_null() && self.is_granular()), found),
            Parts::Map(fields) => {
                for (name, value) in fields {
                    let step = Step::Field(name.clone());
                    let (leaf, below) = self.at(&step).owned(value);
                    let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                    found.put(step, leaf || empty || !self.declares(name), below);
                }
            }
            Parts::List(items) => {
                for (step, same) in by_step(items) {
                    // Items that are there twice are owned together.
                    let below = if let [item] = same[..] { self.at(&step).fields(item) } else { Fields::default() };
                    found.put(step, true, below);
                }
            }
        }
        (false, found)
    }

    /// Refuses a list in which an item has no step, or two have the same.
    ///
    /// # Errors
    /// The list's path, and what is wrong with it.
    pub(super) fn check(self, value: &Value, path: &mut Vec<Step>) -> Result<(), String> {
        if self.is_atomic() {
            return Ok(());
        }
        let mut parts: Vec<(Step, &Value)> = Vec::new();
        match (value, self.node.map(|node| &node.form)) {
            (Value::Array(items), Some(Form::List { .. })) => {
                let mut seen = BTreeSet::new();
                for (at, item) in items.iter().enumerate() {
                    let fail = |problem: String| format!("{}: {problem}", Path(path.clone()));
                    let step = self.step(item).map_err(|problem| fail(format!("element {at}: {problem}")))?;
                    if !seen.insert(step.clone()) {
                        return Err(fail(format!("duplicate entries for key {step}")));
                    }
                    parts.push((step, item));
                }
            }
            (Value::Object(fields), _) => {
                parts.extend(fields.iter().map(|(name, value)| (Step::Field(name.clone()), value)));
            }
            _ => {}
        }
        for (step, value) in parts {
            let part = self.at(&step);
            path.push(step);
            part.check(value, path)?;
            path.pop();
        }
        Ok(())
    }

    /// `fields` with every declared parent of a member made a member.
    pub(super) fn with_parents(self, fields: &Fields) -> Fields {
        fields.map(|step, member, below| {
            let named = matches!(step, Step::Field(name) if self.declares(name));
            (member || (named && !below.is_empty()), self.at(step).with_parents(below))
        })
    }

    /// `fields` as this schema owns them: what lies below a leaf is owned with it.
    ///
    /// Sets that were written under another schema, in which the field was no leaf, keep their meaning.
    pub(super) fn fit(self, fields: &Fields) -> Fields {
        fields.map(|step, member, below| {
            let part = self.at(step);
            if part.is_atomic() && !below.is_empty() {
                return (true, Fields::default());
            }
            (member, part.fit(below))
        })
    }
}

/// The items of each step; one, unless the list holds duplicates.
pub(super) fn by_step(items: Vec<(Step, &Value)>) -> BTreeMap<Step, Vec<&Value>> {
    let mut found: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for (step, item) in items {
        found.entry(step).or_default().push(item);
    }
    found
}

fn keyed(keys: &[String], items: &Node, item: &Value) -> Result<Step, String> {
    let fields = item.as_object().ok_or("an item of a list with keys must be an object")?;
    let default = |name: &String| match &items.form {
        Form::Object { properties, .. } => properties.get(name).and_then(|node| node.default.as_ref()),
        _ => None,
    };
    let mut found =
        keys.iter().filter_map(|name| Some((name.as_str(), fields.get(name).or_else(|| default(name))?))).peekable();
    if found.peek().is_none() {
        return Err(format!("an item must have one of its keys {}", keys.join(", ")));
    }
    Ok(Step::keys(found))
}
