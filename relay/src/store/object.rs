//! A stored object, its key, and the immutable view of all of them. Pure.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound::{Included, Unbounded},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

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

/// What a user wrote of an object: validated, defaulted, without the server's fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub key: ObjectKey,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub spec: Value,
}

/// One object at one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    pub key: Arc<ObjectKey>,
    pub body: Body,
}

/// Everything of an object but its key; the form on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub uid: String,
    /// The store's revision of the last write: `metadata.resourceVersion`.
    pub revision: u64,
    /// Counts changes of `spec`, from 1.
    pub generation: i64,
    /// RFC 3339, UTC, whole seconds.
    pub created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub spec: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

impl Object {
    /// The manifest, in the stored form's `apiVersion`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        self.to_value_as(self.key.kind.info().api_versions[0])
    }

    /// The manifest under `api_version`, one of the kind's.
    #[must_use]
    pub fn to_value_as(&self, api_version: &str) -> Value {
        let body = &self.body;
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(self.key.name));
        if let Some(namespace) = &self.key.namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        metadata.insert("uid".to_owned(), json!(body.uid));
        metadata.insert("resourceVersion".to_owned(), json!(body.revision.to_string()));
        metadata.insert("generation".to_owned(), json!(body.generation));
        metadata.insert("creationTimestamp".to_owned(), json!(body.created));
        for (field, map) in [("labels", &body.labels), ("annotations", &body.annotations)] {
            if !map.is_empty() {
                metadata.insert(field.to_owned(), json!(map));
            }
        }
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), json!(api_version));
        object.insert("kind".to_owned(), json!(self.key.kind.info().name));
        object.insert("metadata".to_owned(), Value::Object(metadata));
        object.insert("spec".to_owned(), body.spec.clone());
        if let Some(status) = &body.status {
            object.insert("status".to_owned(), status.clone());
        }
        Value::Object(object)
    }

    /// The manifest as one of `underpass_shared::resource`'s types.
    ///
    /// # Errors
    /// Only where another version of this program wrote what this one's type does not know.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.to_value())
    }
}

/// All objects at one revision. Cloning costs one reference count per object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects {
    revision: u64,
    by_key: BTreeMap<Arc<ObjectKey>, Arc<Object>>,
}

impl Objects {
    /// The revision of the last write of any object.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.by_key.get(key)
    }

    /// Everything, by kind, project, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values()
    }

    /// The names of all projects, in order.
    pub fn projects(&self) -> impl Iterator<Item = ProjectName> {
        self.of(None, Kind::Project).filter_map(|object| object.key.name.parse().ok())
    }

    /// One project's objects of a kind, by namespace and name; `None` for the kinds outside projects.
    pub fn of<'a>(&'a self, project: Option<&'a ProjectName>, kind: Kind) -> impl Iterator<Item = &'a Arc<Object>> {
        let first = ObjectKey { kind, project: project.cloned(), namespace: None, name: String::new() };
        self.by_key
            .range::<ObjectKey, _>((Included(&first), Unbounded))
            .map(|(_, object)| object)
            .take_while(move |object| object.key.kind == kind && object.key.project.as_ref() == project)
    }

    /// The same within one namespace.
    pub fn in_namespace<'a>(
        &'a self,
        project: Option<&'a ProjectName>,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        self.of(project, kind).filter(move |object| object.key.namespace.as_deref() == Some(namespace))
    }

    pub(super) fn put(&mut self, object: Object, revision: u64) -> Arc<Object> {
        self.revision = revision;
        let object = Arc::new(object);
        self.by_key.insert(object.key.clone(), object.clone());
        object
    }

    pub(super) fn restore(&mut self, key: &Arc<ObjectKey>, object: Option<Arc<Object>>, revision: u64) {
        self.revision = revision;
        match object {
            Some(object) => self.by_key.insert(key.clone(), object),
            None => self.by_key.remove(key),
        };
    }
}
