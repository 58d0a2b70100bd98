//! What is done to a written object that no schema says.

use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::Kind;

/// Group of `Backend`.
const BACKEND_GROUP: &str = "core.apoxy.dev";

/// Brings what users write in several ways into the one that is stored. Runs before defaulting; total.
///
/// A reference to a `Backend` need not say the group, which upstream's default would make the core group's.
pub fn normalise(kind: Kind, object: &mut Value) {
    match kind {
        Kind::Backend => {
            if let Some(Value::String(protocol)) = object.pointer_mut("/spec/protocol") {
                protocol.make_ascii_lowercase();
            }
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
            for rule in items(object.pointer_mut("/spec/rules")) {
                for reference in items(rule.get_mut("backendRefs")) {
                    group(reference);
                    mirrors(reference);
                }
                mirrors(rule);
            }
        }
        _ => {}
    }
}

/// The backends that the filters of a rule or of a reference copy requests to.
fn mirrors(holder: &mut Value) {
    for filter in items(holder.get_mut("filters")) {
        if let Some(reference) = filter.pointer_mut("/requestMirror/backendRef") {
            group(reference);
        }
    }
}

fn group(reference: &mut Value) {
    let Some(reference) = reference.as_object_mut() else { return };
    let is_silent = |fields: &Map<String, Value>| fields.get("group").is_none_or(Value::is_null);
    if reference.get("kind") == Some(&json!("Backend")) && is_silent(reference) {
        reference.insert("group".to_owned(), json!(BACKEND_GROUP));
    }
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}
