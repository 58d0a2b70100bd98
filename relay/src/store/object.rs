//! A stored object, its key, and the immutable view of all of them. Pure.

mod shown;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use underpass_shared::{
    identity::ProjectName,
    resource::kind::{KINDS, Kind},
};

pub use self::shown::Shown;

/// Where an object lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    /// `None` for the kinds outside every project (`Project` itself).
    pub project: Option<ProjectName>,
    /// `None` for kinds without namespaces.
    pub namespace: Option<String>,
    pub name: String,
}

impl ObjectKey {
    /// The key of the project object named `project`.
    #[must_use]
    pub fn project(project: &ProjectName) -> Self {
        Self { kind: Kind::Project, project: None, namespace: None, name: project.to_string() }
    }

    /// The key of a project's object of a kind without namespaces.
    #[must_use]
    pub fn cluster(project: &ProjectName, kind: Kind, name: &str) -> Self {
        Self { kind, project: Some(project.clone()), namespace: None, name: name.to_owned() }
    }

    /// The key of a project's object in a namespace.
    #[must_use]
    pub fn namespaced(project: &ProjectName, kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, project: Some(project.clone()), namespace: Some(namespace.to_owned()), name: name.to_owned() }
    }
}

impl ObjectKey {
    /// A key before all others.
    fn first() -> Self {
        Self { kind: KINDS[0].kind, project: None, namespace: None, name: String::new() }
    }
}

impl fmt::Display for ObjectKey {
    /// As Kubernetes names objects in messages: `httproutes "web"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind.info().plural, self.name)?;
        match &self.project {
            Some(project) if *project != ProjectName::default() => write!(f, " of project {project}"),
            _ => Ok(()),
        }
    }
}

/// What is to be stored of an object: validated, defaulted, without what only the server sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub key: ObjectKey,
    pub meta: Meta,
    /// Every top-level field but `apiVersion`, `kind`, `metadata` and `status`.
    pub content: Map<String, Value>,
    pub status: Option<Value>,
}

/// The part of `ObjectMeta` that clients write, directly or through the API's bookkeeping.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Meta {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// `metav1.OwnerReference`s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<Value>,
    /// `metav1.ManagedFieldsEntry`s.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub managed_fields: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
}

impl Draft {
    /// A draft with nothing but a spec.
    #[must_use]
    pub fn of_spec(key: ObjectKey, spec: Value) -> Self {
        let content = Map::from_iter([("spec".to_owned(), spec)]);
        Self { key, meta: Meta::default(), content, status: None }
    }

    /// What `object`, a whole resource, says of itself; the server's own metadata is left out.
    ///
    /// Total: what has the wrong type counts as absent, because validation came before.
    #[must_use]
    pub fn of_value(key: ObjectKey, object: Value) -> Self {
        let Value::Object(mut content) = object else { return Self::of_spec(key, json!({})) };
        let mut metadata = match content.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        content.remove("apiVersion");
        content.remove("kind");
        let status = content.remove("status").filter(|status| !status.is_null());
        let list = |value: Option<Value>| match value {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let meta = Meta {
            labels: strings(metadata.get("labels")),
            annotations: strings(metadata.get("annotations")),
            finalizers: list(metadata.remove("finalizers"))
                .into_iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            owner_references: list(metadata.remove("ownerReferences")),
            managed_fields: list(metadata.remove("managedFields")),
            generate_name: metadata.get("generateName").and_then(Value::as_str).map(str::to_owned),
        };
        Self { key, meta, content, status }
    }
}

fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// A stored object. Its `apiVersion` is chosen when it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub key: Arc<ObjectKey>,
    pub body: Body,
    /// About how many bytes its JSON has, for the limits that bound memory.
    pub weight: usize,
}

/// Everything of an object but its key; what is written to the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Set once; a later object of the same name has another.
    pub uid: String,
    /// The store's revision of the last write: `metadata.resourceVersion`.
    pub revision: u64,
    /// Counts changes of `content`, from 1.
    pub generation: i64,
    /// RFC 3339, seconds, UTC.
    pub created: String,
    /// Set when it was deleted and its finalizers hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    pub meta: Meta,
    /// Every top-level field but `apiVersion`, `kind`, `metadata` and `status`.
    pub content: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// That an object is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// RFC 3339, seconds, UTC.
    pub timestamp: String,
    pub grace_seconds: i64,
}

impl Object {
    pub(super) fn new(key: Arc<ObjectKey>, body: Body) -> Self {
        let weight = WEIGHT_BASE
            + weight_of_map(&body.content)
            + body.status.as_ref().map_or(0, weight)
            + body.meta.managed_fields.iter().map(weight).sum::<usize>()
            + body.meta.annotations.iter().chain(&body.meta.labels).map(|(k, v)| k.len() + v.len()).sum::<usize>();
        Self { key, body, weight }
    }

    /// `spec`, or null.
    #[must_use]
    pub fn spec(&self) -> &Value {
        self.body.content.get("spec").unwrap_or(&Value::Null)
    }

    /// What a write would have to say to change nothing.
    #[must_use]
    pub fn draft(&self) -> Draft {
        let Body { meta, content, status, .. } = &self.body;
        Draft { key: (*self.key).clone(), meta: meta.clone(), content: content.clone(), status: status.clone() }
    }

    /// The object under its stored `apiVersion`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.to_value_as(self.key.kind.info().api_versions[0])
    }

    /// The object as `api_version`, one of its kind's, shows it.
    #[must_use]
    pub fn to_value_as(&self, api_version: &str) -> Value {
        self.to_value_at(api_version, self.body.revision)
    }

    /// As [`Object::to_value_as`], with another `resourceVersion`: that of its deletion.
    #[must_use]
    pub fn to_value_at(&self, api_version: &str, revision: u64) -> Value {
        serde_json::to_value(self.shown_at(api_version, revision)).expect("what was JSON has a JSON form")
    }

    /// The object as `api_version`, one of its kind's, shows it: to be written out without making a [`Value`] of it.
    #[must_use]
    pub fn shown_as<'a>(&'a self, api_version: &'a str) -> Shown<'a> {
        self.shown_at(api_version, self.body.revision)
    }

    /// As [`Object::shown_as`], with another `resourceVersion`.
    #[must_use]
    pub fn shown_at<'a>(&'a self, api_version: &'a str, revision: u64) -> Shown<'a> {
        Shown { object: self, api_version, revision }
    }

    /// # Errors
    /// When the stored object does not have the form of `T`.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.to_value())
    }

    /// The uids of the objects that this one belongs to.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.body.meta.owner_references.iter().filter_map(|owner| owner.get("uid")?.as_str())
    }
}

/// What an object weighs without content: key, uid, times.
const WEIGHT_BASE: usize = 256;

fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 8,
        Value::Array(items) => 8 + items.iter().map(weight).sum::<usize>(),
        Value::Object(map) => weight_of_map(map),
    }
}

fn weight_of_map(map: &Map<String, Value>) -> usize {
    8 + map.iter().map(|(key, value)| key.len() + 8 + weight(value)).sum::<usize>()
}

/// All objects at one revision. Cloning is cheap and shares everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    revision: u64,
    weight: usize,
    by_key: RedBlackTreeMapSync<Arc<ObjectKey>, Arc<Object>>,
    /// Owner's uid and the key of what it owns.
    owned: RedBlackTreeSetSync<(Arc<str>, Arc<ObjectKey>)>,
}

impl Objects {
    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.size()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The sum of all objects' weights, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.by_key.get(key)
    }

    /// All objects, ordered by kind, project, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values()
    }

    pub fn projects(&self) -> impl Iterator<Item = ProjectName> {
        self.of(None, Kind::Project).filter_map(|object| object.key.name.parse().ok())
    }

    /// The objects of a kind in a project, ordered by namespace and name.
    pub fn of<'a>(&'a self, project: Option<&'a ProjectName>, kind: Kind) -> impl Iterator<Item = &'a Arc<Object>> {
        self.from(ObjectKey { kind, project: project.cloned(), namespace: None, name: String::new() })
            .take_while(move |object| object.key.kind == kind && object.key.project.as_ref() == project)
    }

    /// The objects of a kind in all projects.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.from(ObjectKey { kind, project: None, namespace: None, name: String::new() })
            .take_while(move |object| object.key.kind == kind)
    }

    /// The objects of a kind in a namespace, ordered by name.
    pub fn in_namespace<'a>(
        &'a self,
        project: Option<&'a ProjectName>,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let namespace = Some(namespace);
        let first =
            ObjectKey { kind, project: project.cloned(), namespace: namespace.map(str::to_owned), name: String::new() };
        self.from(first).take_while(move |object| {
            let key = &object.key;
            key.kind == kind && key.project.as_ref() == project && key.namespace.as_deref() == namespace
        })
    }

    /// The objects from `first` on, in key order.
    pub fn from(&self, first: ObjectKey) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.range::<ObjectKey, _>((Included(first), Unbounded)).map(|(_, object)| object)
    }

    /// The objects that name `uid` among their owners.
    pub fn owned_by<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        let first: (Arc<str>, Arc<ObjectKey>) = (uid.into(), Arc::new(ObjectKey::first()));
        self.owned
            .range((Included(first), Unbounded))
            .take_while(move |(owner, _)| **owner == *uid)
            .filter_map(|(_, key)| self.by_key.get(key))
    }

    /// Moves the revision on without a change.
    pub(super) fn advance(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// Sets what stands at `key`, and the revision.
    pub(super) fn set(&mut self, key: &Arc<ObjectKey>, object: Option<&Arc<Object>>, revision: u64) {
        self.revision = revision;
        for owner in object.into_iter().flat_map(|object| object.owners()) {
            self.owned.insert_mut((owner.into(), key.clone()));
        }
        self.weight += object.map_or(0, |object| object.weight);
        let before = self.by_key.get(key).cloned();
        match object {
            Some(new) => self.by_key.insert_mut(key.clone(), new.clone()),
            None => drop(self.by_key.remove_mut(key)),
        }
        let Some(before) = before else { return };
        self.weight -= before.weight;
        for owner in before.owners() {
            if !object.iter().any(|object| object.owners().any(|kept| kept == owner)) {
                self.owned.remove_mut(&(owner.into(), key.clone()));
            }
        }
    }
}
