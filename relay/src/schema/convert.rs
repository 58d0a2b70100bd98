//! From one served version of a kind to another.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

/// Makes `object` what `api_version`, a version of `kind`, says of it.
///
/// All versions of our kinds share one schema, so far: only `apiVersion` changes, and nothing is lost either way. A
/// version whose fields truly differ gets its arm here.
pub fn convert(_kind: Kind, object: &mut Value, api_version: &str) {
    if let Value::Object(object) = object {
        object.insert("apiVersion".to_owned(), Value::from(api_version));
    }
}
