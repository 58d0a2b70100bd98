//! What is done to a written object that no schema says.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

/// Brings what users write in several ways into the one that is stored. Runs before defaulting; total.
pub fn normalise(kind: Kind, object: &mut Value) {
    if kind == Kind::Backend
        && let Some(Value::String(protocol)) = object.pointer_mut("/spec/protocol")
    {
        protocol.make_ascii_lowercase();
    }
}
