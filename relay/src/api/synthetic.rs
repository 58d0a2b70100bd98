//! Objects that nobody stores: the definitions of the kinds that are served.

use std::sync::OnceLock;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::schema;

/// When the definitions came to be: with the first version that had them.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The `CustomResourceDefinition`s, made on first use: they are large, and few ask for them.
pub(super) fn definitions() -> &'static [Value] {
    static DEFINITIONS: OnceLock<Vec<Value>> = OnceLock::new();
    DEFINITIONS.get_or_init(|| {
        let mut definitions = schema::crds::all(|kind| schema::of(kind).root().to_openapi());
        for definition in &mut definitions {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let metadata = &mut definition["metadata"];
            metadata["uid"] = json!(uid(&name));
            metadata["resourceVersion"] = json!("1");
            metadata["generation"] = json!(1);
            metadata["creationTimestamp"] = json!(CREATED);
        }
        definitions
    })
}

/// The same for the same name, on every relay.
fn uid(name: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    Uuid::from_bytes(bytes).to_string()
}
