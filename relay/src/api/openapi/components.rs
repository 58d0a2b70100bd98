//! The schemas that documents name, in the form of OpenAPI v3, and their names. Pure.

use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::KindInfo;

use super::{super::path::REVIEWS, Breadth, group_version_kind, split};
use crate::schema::{self, Node};

/// Where schemas are in a document of OpenAPI v3.
pub(super) const REFERENCE: &str = "#/components/schemas/";

/// The schemas of no kind that operations refer to.
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
pub(super) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// What a ServiceAccount's `token` takes; its group has no collection here.
pub(super) const TOKEN_REQUEST: (&str, &str) = ("authentication.k8s.io/v1", "TokenRequest");
/// What a `TunnelNode`'s `token` takes.
pub(super) const NODE_TOKEN: (&str, &str) = ("core.apoxy.dev/v1alpha", "TunnelNodeToken");

/// The schema's name: the group in reverse, version and kind. Kubernetes' own groups are named as in its documents.
#[must_use]
pub(super) fn name(api_version: &str, kind: &str) -> String {
    let (group, version) = split(api_version);
    let package = match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned(),
        "apps"
        | "authentication.k8s.io"
        | "authorization.k8s.io"
        | "coordination.k8s.io"
        | "discovery.k8s.io"
        | "rbac.authorization.k8s.io" => format!("io.k8s.api.{}", group.split('.').next().unwrap_or_default()),
        other => other.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{package}.{version}.{kind}")
}

/// A schema that is no more than a reference.
#[must_use]
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{REFERENCE}{name}") })
}

/// The schemas of all that `api_version` serves, and those that they and its operations refer to.
#[must_use]
pub(super) fn of_version(breadth: Breadth, api_version: &str) -> Map<String, Value> {
    let mut schemas = common();
    for info in breadth.kinds().filter(|info| info.api_versions.contains(&api_version)) {
        let object = object(schema::of(info.kind).root(), api_version, info.name);
        schemas.insert(name(api_version, info.name), object);
        schemas.insert(list_name(api_version, info), list(api_version, info));
    }
    let reviews = REVIEWS.iter().map(|(version, _, kind, _)| (*version, *kind));
    for (version, kind) in reviews.chain([NODE_TOKEN]).filter(|(version, _)| *version == api_version) {
        put_request(&mut schemas, version, kind);
    }
    if TOKEN_REQUEST.0 == api_version || api_version == super::CORE {
        put_request(&mut schemas, TOKEN_REQUEST.0, TOKEN_REQUEST.1);
    }
    schemas
}

/// The name of the schema of a list of the kind's objects.
#[must_use]
pub(super) fn list_name(api_version: &str, info: &KindInfo) -> String {
    format!("{}List", name(api_version, info.name))
}

fn put_request(schemas: &mut Map<String, Value>, api_version: &str, kind: &str) {
    if let Some(node) = schema::definition(kind) {
        schemas.insert(name(api_version, kind), object(node, api_version, kind));
    }
}

fn common() -> Map<String, Value> {
    let mut schemas = Map::new();
    for (name, definition) in [(OBJECT_META, "ObjectMeta"), (LIST_META, "ListMeta")] {
        schemas
            .insert(name.to_owned(), schema::definition(definition).map(|node| node.to_openapi()).unwrap_or_default());
    }
    for (name, kind) in [(DELETE_OPTIONS, "DeleteOptions"), (STATUS, "Status")] {
        let node = schema::definition(kind);
        schemas.insert(name.to_owned(), node.map(|node| object(node, super::CORE, kind)).unwrap_or_default());
    }
    // In JSON Patch it is a list.
    let patch = json!({ "description": "What is to change, in the form that the media type of the request says." });
    schemas.insert(PATCH.to_owned(), patch);
    schemas
}

/// A whole object's schema: with its own name in it, and a reference for what all objects have in common.
fn object(node: &Node, api_version: &str, kind: &str) -> Value {
    let mut schema = node.to_openapi();
    if let Some(metadata) = schema.pointer_mut("/properties/metadata") {
        let target = if kind == "Status" { LIST_META } else { OBJECT_META };
        *metadata = described(&metadata["description"], target);
    }
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(api_version, kind)]);
    schema
}

/// A reference with words of its own; what stands beside a bare one does not count in OpenAPI v3.0.
fn described(description: &Value, target: &str) -> Value {
    json!({ "description": description, "allOf": [reference(target)] })
}

fn list(api_version: &str, info: &KindInfo) -> Value {
    let kind = format!("{}List", info.name);
    json!({
        "description": format!("Objects of kind {}.", info.name),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "type": "string", "description": "Group and version of this form of the objects." },
            "kind": { "type": "string", "description": format!("`{kind}`.") },
            "metadata": described(&json!("What is known of the list as a whole."), LIST_META),
            "items": {
                "type": "array",
                "description": "The objects.",
                "items": reference(&name(api_version, info.name)),
            },
        },
        "x-kubernetes-group-version-kind": [group_version_kind(api_version, &kind)],
    })
}
