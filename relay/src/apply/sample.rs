//! Schemas for the tests of `apply` and `patch`, in the dialect of CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::schema::{Form, ListKind, Logic, Node, PatchStrategy};

/// The node that `schema` describes: types, lists, maps, defaults and patch strategies; bounds and rules it has none.
pub(crate) fn node(schema: &Value) -> Node {
    let child = |name: &str| schema.get(name).map(|schema| Arc::new(node(schema)));
    let text = |name: &str| schema.get(name).and_then(Value::as_str);
    let form = match text("type") {
        Some("object") => Form::Object {
            properties: schema["properties"]
                .as_object()
                .map(|fields| fields.iter().map(|(name, schema)| (name.clone(), Arc::new(node(schema)))).collect())
                .unwrap_or_default(),
            required: Vec::new(),
            additional: child("additionalProperties"),
            open: schema["x-kubernetes-preserve-unknown-fields"] == true,
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            embedded: false,
            min: 0,
            max: None,
        },
        Some("array") => Form::List {
            items: child("items").unwrap(),
            kind: match text("x-kubernetes-list-type") {
                Some("set") => ListKind::Set,
                Some("map") => {
                    ListKind::Map(serde_json::from_value(schema["x-kubernetes-list-map-keys"].clone()).unwrap())
                }
                _ => ListKind::Atomic,
            },
            min: 0,
            max: None,
        },
        Some("string") => Form::Text { min_length: 0, max_length: None, pattern: None, format: None },
        Some("integer") => Form::Integer { min: None, max: None, format: None },
        Some("boolean") => Form::Boolean,
        _ => Form::Anything,
    };
    let strategy = text("x-kubernetes-patch-strategy").map(|strategy| PatchStrategy {
        merge: strategy.split(',').any(|word| word == "merge"),
        retain_keys: strategy.split(',').any(|word| word == "retainKeys"),
        merge_key: text("x-kubernetes-patch-merge-key").map(str::to_owned),
    });
    Node {
        description: String::new(),
        form,
        nullable: false,
        default: schema.get("default").cloned(),
        enumeration: Vec::new(),
        rules: Vec::new(),
        patch: strategy,
        logic: Logic::default(),
    }
}

fn string() -> Value {
    json!({"type": "string"})
}

fn strings() -> Value {
    json!({"type": "object", "additionalProperties": {"type": "string"}})
}

/// `metadata` as every object has it.
fn metadata() -> Value {
    json!({"type": "object", "properties": {
        "name": string(), "namespace": string(), "uid": string(), "resourceVersion": string(),
        "generation": {"type": "integer"}, "creationTimestamp": string(), "labels": strings(), "annotations": strings(),
        "finalizers": {"type": "array", "items": string(), "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge"},
        "ownerReferences": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "uid",
            "items": {"type": "object", "x-kubernetes-map-type": "atomic",
                "properties": {"uid": string(), "name": string(), "kind": string()}}},
    }})
}

fn kind(spec: &Value) -> Node {
    let status = json!({"type": "object", "properties": {
        "ready": {"type": "boolean"},
        "conditions": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {"type": "object", "properties": {"type": string(), "status": string()}}},
    }});
    node(&json!({"type": "object", "properties": {
        "apiVersion": string(), "kind": string(), "metadata": metadata(), "spec": spec, "status": status}}))
}

/// Like the core kind: ports by two keys of which one has a default, an atomic selector, a set.
pub(crate) fn service() -> Node {
    let port = json!({"type": "object", "properties": {
        "name": string(), "port": {"type": "integer"}, "nodePort": {"type": "integer"}, "targetPort": {},
        "protocol": {"type": "string", "default": "TCP"}}});
    kind(&json!({"type": "object", "properties": {
        "type": string(),
        "clusterIP": string(),
        "ports": {"type": "array", "items": port, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port", "protocol"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "port"},
        "selector": {"type": "object", "additionalProperties": string(), "x-kubernetes-map-type": "atomic"},
        "externalIPs": {"type": "array", "items": string()},
        "zones": {"type": "array", "items": string(), "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge"},
        "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}))
}

/// Like the kind of `apps`: containers by name, their environment and ports inside, a strategy that retains keys.
pub(crate) fn deployment() -> Node {
    let named = |properties: Value| {
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
            "items": {"type": "object", "properties": properties}})
    };
    let containers = named(json!({"name": string(), "image": string(),
        "args": {"type": "array", "items": string()},
        "env": named(json!({"name": string(), "value": string()}))}));
    kind(&json!({"type": "object", "properties": {
        "replicas": {"type": "integer"},
        "strategy": {"type": "object", "x-kubernetes-patch-strategy": "retainKeys",
            "properties": {"type": string(), "rollingUpdate": {"type": "object", "properties": {"maxSurge": {}}}}},
        "template": {"type": "object", "properties": {
            "metadata": metadata(),
            "spec": {"type": "object", "properties": {"containers": containers,
                "volumes": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "x-kubernetes-patch-strategy": "merge,retainKeys", "x-kubernetes-patch-merge-key": "name",
                    "items": {"type": "object", "properties": {"name": string(), "emptyDir": {"type": "object"},
                        "hostPath": {"type": "object", "properties": {"path": string()}}}}}}},
        }},
    }}))
}
