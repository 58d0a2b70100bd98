//! `metadata.managedFields`: which manager owns which fields, and since when.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    compare::{Difference, compare},
    fields::Fields,
    path::Step,
    shape::Shape,
};

/// How many entries of updates are kept; beyond it the oldest become one (as in Kubernetes).
const UPDATERS_MAX: usize = 10;
/// The most entries that are read from an object. Each apply with a new name adds one.
const ENTRIES_MAX: usize = 1_000;
/// The name under which the oldest updates are kept together.
const ANCIENT: &str = "ancient-changes";
/// The name of a manager that gave none.
const UNKNOWN: &str = "unknown";
/// Fields of `metadata` that belong to the server, or name the object, and so to no manager.
pub(super) const SERVER_METADATA: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What a manager did to own fields. The order is that of the list on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Which entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) operation: Operation,
    pub(super) manager: String,
    /// Empty for [`Operation::Apply`]: whoever applies has one entry, whatever the version.
    pub(super) version: String,
    /// Empty for the object itself.
    pub(super) subresource: String,
}

impl Id {
    pub(super) fn of(manager: super::Manager<'_>, operation: Operation) -> Self {
        Self {
            operation,
            manager: if manager.name.is_empty() { UNKNOWN } else { manager.name }.to_owned(),
            version: if operation == Operation::Update { manager.api_version.to_owned() } else { String::new() },
            subresource: manager.subresource.unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The version in which the fields were written.
    pub(super) version: String,
    /// RFC 3339, as the server wrote it.
    pub(super) time: Option<String>,
    pub(super) fields: Fields,
}

impl Entry {
    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(seconds_of).unwrap_or_default()
    }
}

fn seconds_of(time: &str) -> Option<i64> {
    OffsetDateTime::parse(time, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// The managers of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managed(pub(super) BTreeMap<Id, Entry>);

impl Managed {
    /// The managers that own something of `object`, or `None` when its list cannot be read.
    pub(super) fn of(object: &Value) -> Option<Self> {
        match object.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => Some(Self::default()),
            Some(Value::Array(entries)) if entries.len() <= ENTRIES_MAX => {
                let mut managers: BTreeMap<_, _> = entries.iter().map(read).collect::<Option<_>>()?;
                managers.retain(|_, entry: &mut Entry| !entry.fields.is_empty());
                Some(Self(managers))
            }
            Some(_) => None,
        }
    }

    /// The wire form, in Kubernetes' order: operation, time, manager, version, subresource.
    pub(super) fn encode(&self) -> Vec<Value> {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries
            .sort_by_key(|(id, entry)| (id.operation, entry.seconds(), &id.manager, &entry.version, &id.subresource));
        entries.into_iter().map(|(id, entry)| write(id, entry)).collect()
    }

    /// Every field that somebody owns.
    pub(super) fn owned(&self) -> Fields {
        let mut all = Fields::default();
        self.0.values().for_each(|entry| all.extend(&entry.fields));
        all
    }

    /// The entries with their fields as `shape` has them now.
    pub(super) fn fit(&mut self, shape: Shape<'_>) {
        self.0.values_mut().for_each(|entry| entry.fields = shape.fit(&entry.fields));
    }

    /// What others than `own` own of what `difference` sets, by manager.
    pub(super) fn conflicts(&self, own: Option<&Id>, difference: &Difference) -> Vec<(&Id, Fields)> {
        let set = difference.modified.union(&difference.added);
        let others = self.0.iter().filter(|(id, _)| Some(*id) != own);
        let taken = others.map(|(id, entry)| (id, entry.fields.intersection(&set)));
        taken.filter(|(_, fields)| !fields.is_empty()).collect()
    }

    /// Takes from all but `own` what `difference` sets or removes, and drops whoever owns nothing then.
    pub(super) fn yield_to(&mut self, own: Option<&Id>, difference: &Difference) {
        let lost = difference.modified.union(&difference.added).union(&difference.removed);
        for (id, entry) in &mut self.0 {
            if Some(id) != own {
                entry.fields = entry.fields.difference(&lost);
            }
        }
        self.0.retain(|_, entry| !entry.fields.is_empty());
    }

    /// Notes that `manager` made `new` of `old`, by anything but an apply.
    pub(super) fn record(&mut self, shape: Shape<'_>, (old, new): (&Value, &Value), manager: super::Manager<'_>) {
        let difference = compare(shape, old, new);
        self.fit(shape);
        self.yield_to(None, &difference);
        let set = difference.modified.union(&difference.added).difference(&unmanaged());
        if !set.is_empty() {
            let version = manager.api_version.to_owned();
            let id = Id::of(manager, Operation::Update);
            let entry = self.0.entry(id).or_insert(Entry { version, time: None, fields: Fields::default() });
            entry.fields.extend(&set);
            entry.time = Some(manager.time.to_owned());
        }
        self.cap();
    }

    /// Merges the oldest updates until there are few enough; those of different versions stay apart.
    fn cap(&mut self) {
        let mut updaters: Vec<_> =
            self.0.iter().filter(|(id, _)| id.operation == Operation::Update).map(|(id, _)| id.clone()).collect();
        updaters.sort_by_cached_key(|id| (self.0.get(id).map_or(0, Entry::seconds), id.clone()));
        let mut surplus = updaters.len().saturating_sub(UPDATERS_MAX);
        let mut oldest: BTreeMap<String, Id> = BTreeMap::new();
        for id in updaters {
            let version = id.version.clone();
            let Some(first) = oldest.get(&version).cloned().filter(|_| surplus > 0) else {
                oldest.entry(version).or_insert(id);
                continue;
            };
            let bucket = Id { manager: ANCIENT.to_owned(), subresource: String::new(), ..first.clone() };
            let mut merged = Fields::default();
            let mut time = None;
            for part in [&bucket, &first, &id] {
                if let Some(entry) = self.0.remove(part) {
                    merged.extend(&entry.fields);
                    time = entry.time;
                }
            }
            self.0.insert(bucket.clone(), Entry { version: version.clone(), time, fields: merged });
            oldest.insert(version, bucket);
            surplus = self.updaters().saturating_sub(UPDATERS_MAX);
        }
    }

    fn updaters(&self) -> usize {
        self.0.keys().filter(|id| id.operation == Operation::Update).count()
    }
}

/// The fields that no manager owns.
pub(super) fn unmanaged() -> Fields {
    let mut fields = Fields::default();
    let mut metadata = Fields::default();
    for name in SERVER_METADATA.into_iter().chain(["name", "namespace"]) {
        metadata.put(Step::Field(name.to_owned()), true, Fields::default());
    }
    for name in ["apiVersion", "kind"] {
        fields.put(Step::Field(name.to_owned()), true, Fields::default());
    }
    fields.put(Step::Field("metadata".to_owned()), true, metadata);
    fields
}

/// Whether a written object asks for its managed fields to be forgotten: an empty list, or one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    match object.pointer("/metadata/managedFields").and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(only)]) => only.values().all(Value::is_null),
        _ => false,
    }
}

fn read(entry: &Value) -> Option<(Id, Entry)> {
    let text = |name: &str| match entry.get(name) {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => None,
    };
    let operation = match text("operation")?.as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    let version = text("apiVersion").filter(|version| !version.is_empty())?;
    text("fieldsType").filter(|sort| sort == "FieldsV1")?;
    let time = text("time").filter(|time| time.is_empty() || seconds_of(time).is_some())?;
    let fields = match entry.get("fieldsV1") {
        None | Some(Value::Null) => Fields::default(),
        Some(fields) => Fields::parse(fields).ok()?,
    };
    let id = Id {
        operation,
        manager: text("manager")?,
        version: if operation == Operation::Update { version.clone() } else { String::new() },
        subresource: text("subresource")?,
    };
    Some((id, Entry { version, time: Some(time).filter(|time| !time.is_empty()), fields }))
}

fn write(id: &Id, entry: &Entry) -> Value {
    let mut written = Map::new();
    for (name, text) in [("manager", &id.manager), ("apiVersion", &entry.version), ("subresource", &id.subresource)] {
        if !text.is_empty() {
            written.insert(name.to_owned(), json!(text));
        }
    }
    if let Some(time) = &entry.time {
        written.insert("time".to_owned(), json!(time));
    }
    written.insert("operation".to_owned(), json!(id.operation.as_str()));
    written.insert("fieldsType".to_owned(), json!("FieldsV1"));
    written.insert("fieldsV1".to_owned(), entry.fields.encode());
    Value::Object(written)
}
