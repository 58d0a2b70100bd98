//! Objects that nobody stores: the definitions of the kinds that are served.

use std::{collections::BTreeMap, sync::OnceLock};

use serde_json::{Value, json};
use underpass_shared::resource::kind::KINDS;
use uuid::Uuid;

use super::{discovery::categories, options::Options};
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
            let kind = definition["spec"]["names"]["kind"].as_str();
            if let Some(categories) = KINDS.iter().find(|info| Some(info.name) == kind).and_then(|i| categories(i.kind))
            {
                definition["spec"]["names"]["categories"] = json!(categories);
                definition["status"]["acceptedNames"]["categories"] = json!(categories);
            }
            for condition in definition["status"]["conditions"].as_array_mut().into_iter().flatten() {
                condition["lastTransitionTime"] = json!(CREATED);
            }
        }
        definitions
    })
}

/// Those that the selectors choose; they have names and no labels.
pub(super) fn chosen(options: &Options) -> impl Iterator<Item = &'static Value> {
    let unlabelled = options.label_selector.matches(&BTreeMap::new());
    definitions().iter().filter(move |definition| {
        unlabelled && options.field_selector.matches_name(definition["metadata"]["name"].as_str().unwrap_or_default())
    })
}

/// The same for the same name, on every relay.
fn uid(name: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    Uuid::from_bytes(bytes).to_string()
}
