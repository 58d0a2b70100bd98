//! Every decoder that faces the network, one function each: what `fuzz/` feeds and `tests/corpus.rs` replays.
//!
//! Each takes any bytes, must never panic or run away, and asserts what must hold of whatever it accepts. A text of two
//! values has the object on its first line and the client's text after it; where there is no such object, a fixed one
//! stands in, so that a mutated text still reaches the code behind.

mod gateway;
mod packets;
mod programs;
mod requests;

pub use self::gateway::{http1_answer, proxy_protocol, translation};
pub use self::packets::offload;
pub use self::programs::{http_connect, socks5};
pub use self::requests::{accept, bearer_token, continue_token, field_selector, label_selector, path, protobuf, query};

use std::sync::LazyLock;

use serde_json::{Value, json};
use underpass_relay::{
    api, apply, patch,
    schema::{self, Schema},
};
use underpass_shared::resource::kind::{KINDS, Kind};

/// What stands in for an object that cannot be read.
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {"app": "x"}, "finalizers": ["a/b", "c/d"]},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [
            {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]}, {"name": "b"}]}}},
    })
});
const TIME: &str = "2026-11-21T12:00:00Z";

/// A function of [`ALL`].
pub type Decoder = fn(&[u8]);

/// Each decoder under its name, which is also that of its corpus folder and its fuzz target.
pub const ALL: &[(&str, Decoder)] = &[
    ("json", json),
    ("yaml", yaml),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_patch", strategic_patch),
    ("server_side_apply", server_side_apply),
    ("fields_v1", fields_v1),
    ("document", document),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("path", path),
    ("query", query),
    ("continue_token", continue_token),
    ("protobuf", protobuf),
    ("accept", accept),
    ("bearer_token", bearer_token),
    ("proxy_protocol", proxy_protocol),
    ("http1_answer", http1_answer),
    ("translation", translation),
    ("socks5", socks5),
    ("http_connect", http_connect),
    ("offload", offload),
];

/// JSON bodies.
pub fn json(bytes: &[u8]) {
    if let Ok(value) = api::json::parse(bytes) {
        assert_readable(&value);
    }
}

/// YAML bodies.
pub fn yaml(bytes: &[u8]) {
    if let Ok(value) = api::yaml::parse(bytes) {
        assert_readable(&value);
    }
}

/// RFC 6902.
pub fn json_patch(bytes: &[u8]) {
    let (object, Some(patch)) = two(bytes) else { return };
    if let Ok(patched) = patch::json(&object, &patch) {
        assert_readable(&patched);
    }
}

/// RFC 7386.
pub fn merge_patch(bytes: &[u8]) {
    let (object, Some(patch)) = two(bytes) else { return };
    let patched = patch::merge(&object, &patch);
    assert_readable(&patched);
    assert_eq!(patch::merge(&patched, &patch), patched, "done twice is done once");
}

/// Kubernetes' strategic merge patch.
pub fn strategic_patch(bytes: &[u8]) {
    let (object, Some(patch)) = two(bytes) else { return };
    if let Ok(patched) = patch::strategic(schema_of(&object).root(), &object, &patch) {
        assert_readable(&patched);
    }
}

/// Server-side apply, and what an update makes of the same object.
pub fn server_side_apply(bytes: &[u8]) {
    let (live, Some(applied)) = two(bytes) else { return };
    let root = schema_of(&live).root();
    let manager = |name| apply::Manager { name, api_version: "v1", subresource: None, time: TIME };
    let _ = apply::apply(root, Some(&live), &applied, manager("a"), false);
    if let Ok(object) = apply::apply(root, Some(&live), &applied, manager("a"), true) {
        assert_readable(&object);
        let again = apply::apply(root, Some(&object), &applied, manager("a"), false);
        // Where nobody owned anything before, the second apply notes what the object already held.
        let owned = object.pointer("/metadata/managedFields").is_some();
        assert!(!owned || again.as_ref() == Ok(&object), "applied twice is applied once: {again:?}");
        let mut new = applied.clone();
        apply::update(root, Some(&object), &mut new, manager("b"));
        assert_readable(&new);
    }
    let mut new = applied;
    apply::update(root, Some(&live), &mut new, manager("b"));
    assert_readable(&new);
}

/// One set of managed fields.
pub fn fields_v1(bytes: &[u8]) {
    let Ok(value) = api::json::parse(bytes) else { return };
    if let Ok(fields) = apply::Fields::parse(&value) {
        let written = fields.encode();
        assert_eq!(apply::Fields::parse(&written).as_ref(), Ok(&fields), "read as it was written");
        assert!(fields.difference(&fields).is_empty() && fields.union(&fields) == fields);
    }
}

/// A resource, as YAML or JSON: defaults, rules and unknown fields of its kind.
pub fn document(bytes: &[u8]) {
    let Ok(mut object) = api::yaml::parse(bytes) else { return };
    let schema = schema_of(&object);
    let _ = schema.validate(&object, None);
    schema.prune(&mut object);
    assert!(schema.unknown_fields(&object).is_empty(), "pruned of all that is unknown");
    schema.default(&mut object);
    let mut again = object.clone();
    schema.default(&mut again);
    assert_eq!(again, object, "defaulted twice is defaulted once");
    let _ = schema.validate(&object, Some(&again));
}

/// The schema of the kind that `object` names, or of a route.
fn schema_of(object: &Value) -> &'static Schema {
    let name = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    schema::of(KINDS.iter().find(|info| info.name == name).map_or(Kind::HttpRoute, |info| info.kind))
}

fn two(bytes: &[u8]) -> (Value, Option<Value>) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (first, rest) = bytes.split_at(end);
    let object = api::json::parse(first).ok().filter(Value::is_object).unwrap_or_else(|| OBJECT.clone());
    (object, api::json::parse(rest).ok())
}

/// What was accepted must be readable when it comes back.
fn assert_readable(value: &Value) {
    let text = value.to_string();
    let read = api::json::parse(text.as_bytes());
    assert!(read.is_ok(), "{read:?}");
}
