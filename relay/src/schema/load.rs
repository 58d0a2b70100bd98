//! Reads the definitions: YAML → one tree of nodes for each, with `$ref` resolved and shared.
//!
//! What a node may say is in `parse`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};
use thiserror::Error;
use underpass_shared::resource::kind::{KINDS, Kind};

use super::{Schema, node::Node};

/// Every file of definitions.
pub(super) const FILES: &[(&str, &str)] = &[
    ("apoxy-domain.yaml", include_str!("definitions/apoxy-domain.yaml")),
    ("apoxy.yaml", include_str!("definitions/apoxy.yaml")),
    ("core-pod.yaml", include_str!("definitions/core-pod.yaml")),
    ("core-service.yaml", include_str!("definitions/core-service.yaml")),
    ("core.yaml", include_str!("definitions/core.yaml")),
    ("extensions.yaml", include_str!("definitions/extensions.yaml")),
    ("gateway-names.yaml", include_str!("definitions/gateway-names.yaml")),
    ("gateway.yaml", include_str!("definitions/gateway.yaml")),
    ("grpc.yaml", include_str!("definitions/grpc.yaml")),
    ("l4.yaml", include_str!("definitions/l4.yaml")),
    ("listenerset.yaml", include_str!("definitions/listenerset.yaml")),
    ("meta.yaml", include_str!("definitions/meta.yaml")),
    ("policy-attachment.yaml", include_str!("definitions/policy-attachment.yaml")),
    ("policy-backend.yaml", include_str!("definitions/policy-backend.yaml")),
    ("policy-client.yaml", include_str!("definitions/policy-client.yaml")),
    ("policy-security.yaml", include_str!("definitions/policy-security.yaml")),
    ("policy.yaml", include_str!("definitions/policy.yaml")),
    ("requests.yaml", include_str!("definitions/requests.yaml")),
    ("route-common.yaml", include_str!("definitions/route-common.yaml")),
    ("route-filter.yaml", include_str!("definitions/route-filter.yaml")),
    ("route.yaml", include_str!("definitions/route.yaml")),
];

/// The deepest nesting of a definition, its references followed: objects are parsed to 128 levels.
const DEPTH_MAX: usize = 64;

/// The definition that every kind's `metadata` is.
const METADATA: &str = "ObjectMeta";

/// What is wrong with a definition: a fault of the program.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{place}: {message}")]
pub struct LoadError {
    /// The definition, and the place in it.
    pub place: String,
    pub message: String,
}

/// All definitions.
#[derive(Debug)]
pub(super) struct Library {
    definitions: BTreeMap<String, Arc<Node>>,
    schemas: BTreeMap<Kind, Schema>,
}

impl Library {
    /// Reads `files`, each a name and its YAML.
    pub(super) fn load(files: &[(&str, &str)]) -> Result<Self, LoadError> {
        let mut sources = BTreeMap::new();
        for (file, text) in files {
            for (name, source) in read(file, text)? {
                if sources.insert(name.clone(), source).is_some() {
                    return Err(LoadError { place: name, message: format!("defined twice, again in {file}") });
                }
            }
        }
        let mut loader =
            Loader { sources: &sources, named: BTreeMap::new(), open: Vec::new(), place: Vec::new(), in_logic: false };
        for name in sources.keys() {
            loader.definition(name)?;
        }
        let mut schemas = BTreeMap::new();
        for info in KINDS {
            let root = loader.root(info.name)?;
            schemas.insert(info.kind, Schema { kind: info.kind, root });
        }
        Ok(Self { definitions: loader.named, schemas })
    }

    pub(super) fn schema(&self, kind: Kind) -> &Schema {
        self.schemas.get(&kind).expect("every kind of the table was given a schema")
    }

    pub(super) fn definition(&self, name: &str) -> Option<&Arc<Node>> {
        self.definitions.get(name)
    }
}

fn read(file: &str, text: &str) -> Result<Map<String, Value>, LoadError> {
    // The files are our own: no limit protects us from them, and they may outgrow one.
    let options = serde_saphyr::options! { budget: None, strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| LoadError { place: file.to_owned(), message: error.to_string() })
}

pub(super) struct Loader<'a> {
    sources: &'a BTreeMap<String, Value>,
    named: BTreeMap<String, Arc<Node>>,
    /// The definitions being read, each referred to by the one before it.
    open: Vec<String>,
    /// Where in the last of them.
    place: Vec<String>,
    /// Whether that place is below `allOf`, `anyOf`, `oneOf` or `not`, where a node need not say its type.
    pub(super) in_logic: bool,
}

pub(super) type Loaded<T> = Result<T, LoadError>;

impl Loader<'_> {
    pub(super) fn error<T>(&self, message: impl Into<String>) -> Loaded<T> {
        let definition = self.open.last().map_or("", String::as_str);
        let place = std::iter::once(definition).chain(self.place.iter().map(String::as_str));
        Err(LoadError { place: place.collect::<Vec<_>>().join("."), message: message.into() })
    }

    fn definition(&mut self, name: &str) -> Loaded<Arc<Node>> {
        if let Some(node) = self.named.get(name) {
            return Ok(Arc::clone(node));
        }
        let Some(source) = self.sources.get(name) else {
            return self.error(format!("`{name}` is not defined"));
        };
        let node = self.within(name, |loader| {
            let source = loader.expanded(source)?;
            loader.node(&source)
        })?;
        let node = Arc::new(node);
        self.named.insert(name.to_owned(), Arc::clone(&node));
        Ok(node)
    }

    fn within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> Loaded<T>) -> Loaded<T> {
        if self.open.iter().any(|open| open == name) {
            return self.error(format!("`{name}` is part of itself"));
        }
        self.open.push(name.to_owned());
        let outer = (std::mem::take(&mut self.place), std::mem::take(&mut self.in_logic));
        let found = read(self)?;
        (self.place, self.in_logic) = outer;
        self.open.pop();
        Ok(found)
    }

    pub(super) fn at<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> Loaded<T>) -> Loaded<T> {
        self.place.push(step.to_owned());
        let found = read(self)?;
        self.place.pop();
        Ok(found)
    }

    /// The object of a kind: its definition, and what every object has.
    fn root(&mut self, kind: &str) -> Loaded<Arc<Node>> {
        let undefined = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let mut source = match self.sources.get(kind) {
            Some(source) => self.expanded(source)?,
            None => undefined,
        };
        let Some(source) = source.as_object_mut() else { return self.error(format!("`{kind}` is not an object")) };
        let properties = source.entry("properties").or_insert_with(|| json!({}));
        let Some(properties) = properties.as_object_mut() else {
            return self.error(format!("`{kind}` has no properties"));
        };
        for (name, node) in [
            ("apiVersion", json!({"type": "string", "description": "Group and version of this form of the object."})),
            ("kind", json!({"type": "string", "description": "What sort of object it is."})),
            ("metadata", json!({"$ref": METADATA})),
        ] {
            properties.entry(name).or_insert(node);
        }
        let required = source.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            for name in ["apiVersion", "kind", "metadata"] {
                if !required.iter().any(|known| known == name) {
                    required.push(json!(name));
                }
            }
        }
        let source = Value::Object(std::mem::take(source));
        self.within(&format!("{kind} (object)"), |loader| loader.node(&source)).map(Arc::new)
    }

    /// A `$ref` as it stands, or a node of its own.
    pub(super) fn child(&mut self, source: &Value) -> Loaded<Arc<Node>> {
        match source.as_object() {
            Some(fields) if fields.len() == 1 && fields.contains_key("$ref") => match fields["$ref"].as_str() {
                Some(name) => self.definition(name),
                None => self.error("`$ref` is not a name"),
            },
            _ => {
                if self.open.len() + self.place.len() > DEPTH_MAX {
                    return self.error("nested too deeply");
                }
                let source = self.expanded(source)?;
                self.node(&source).map(Arc::new)
            }
        }
    }

    /// Resolves a `$ref` that has siblings: they are laid over what it refers to, rules and `required` beside it.
    pub(super) fn expanded(&mut self, source: &Value) -> Loaded<Value> {
        let Some(fields) = source.as_object() else { return self.error("a definition is an object") };
        let Some(name) = fields.get("$ref") else { return Ok(source.clone()) };
        let Some(name) = name.as_str() else { return self.error("`$ref` is not a name") };
        let Some(base) = self.sources.get(name) else { return self.error(format!("`{name}` is not defined")) };
        if base.get("$ref").and_then(Value::as_str) == Some(name) {
            return self.error(format!("`{name}` is part of itself"));
        }
        // A cycle of bare references ends in `definition`, which every definition passes.
        self.definition(name)?;
        let mut whole = self.expanded(base)?;
        let Some(merged) = whole.as_object_mut() else { return self.error("a definition is an object") };
        for (key, value) in fields.iter().filter(|(key, _)| *key != "$ref") {
            match (key.as_str(), merged.get_mut(key), value) {
                ("properties", Some(Value::Object(base)), Value::Object(own)) => base.extend(own.clone()),
                ("required" | "x-kubernetes-validations", Some(Value::Array(base)), Value::Array(own)) => {
                    base.extend(own.iter().cloned());
                }
                _ => drop(merged.insert(key.clone(), value.clone())),
            }
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests;
