//! What upstream writes where a manifest is silent, so that a stored object says all that it means.

use serde_json::{Map, Value, json};

use super::Kind;

/// Group of the Gateway API's own kinds.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Group of `Backend`.
const BACKEND_GROUP: &str = "core.apoxy.dev";

/// Removes every `null` field: Kubernetes reads them as absent.
///
/// Depth is bounded by the parser that made `value` (128 levels).
pub fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Fills in the defaults of `kind`. Total: what has the wrong type is left for [`super::validate`] to report.
///
/// Doing it twice changes nothing more.
pub fn default(kind: Kind, object: &mut Value) {
    let Some(object) = object.as_object_mut() else { return };
    if matches!(kind, Kind::Project | Kind::TunnelNode | Kind::Proxy) {
        fill(object, "spec", json!({}));
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    match kind {
        Kind::Proxy => fill(spec, "provider", json!("unmanaged")),
        Kind::Backend => {
            if let Some(Value::String(protocol)) = spec.get_mut("protocol") {
                protocol.make_ascii_lowercase();
            }
        }
        Kind::HttpRoute => http_route(spec),
        _ => {}
    }
}

fn http_route(spec: &mut Map<String, Value>) {
    for parent in objects(spec, "parentRefs") {
        fill(parent, "group", json!(GATEWAY_GROUP));
        fill(parent, "kind", json!("Gateway"));
    }
    fill(spec, "rules", json!([{}]));
    for rule in objects(spec, "rules") {
        fill(rule, "matches", json!([{ "path": {} }]));
        for found in objects(rule, "matches") {
            // A match of headers alone still says `PathPrefix /`, as upstream's schema has it.
            fill(found, "path", json!({}));
            if let Some(path) = found.get_mut("path").and_then(Value::as_object_mut) {
                fill(path, "type", json!("PathPrefix"));
                fill(path, "value", json!("/"));
            }
            for list in ["headers", "queryParams"] {
                objects(found, list).for_each(|value| fill(value, "type", json!("Exact")));
            }
        }
        for backend in objects(rule, "backendRefs") {
            fill(backend, "kind", json!("Service"));
            let ours = backend.get("kind").and_then(Value::as_str) == Some("Backend");
            fill(backend, "group", json!(if ours { BACKEND_GROUP } else { "" }));
            fill(backend, "weight", json!(1));
        }
    }
}

fn fill(object: &mut Map<String, Value>, field: &str, value: Value) {
    if object.get(field).is_none_or(Value::is_null) {
        object.insert(field.to_owned(), value);
    }
}

fn objects<'a>(object: &'a mut Map<String, Value>, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = object.get_mut(list).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}
