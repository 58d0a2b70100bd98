//! Laws of patches, and that nothing a client sends makes them panic.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{apply::sample, schema::Node};

static DEPLOYMENT: LazyLock<Node> = LazyLock::new(sample::deployment);

fn anything() -> impl Strategy<Value = Value> {
    let name = "(metadata|spec|template|containers|name|finalizers|\\$patch|\\$retainKeys|\\$setElementOrder/containers|\\$deleteFromPrimitiveList/finalizers|op|path|from|value|a)";
    let leaf = prop_oneof![
        Just(Value::Null),
        (0..3_i64).prop_map(Value::from),
        "(x|replace|delete|merge|add|copy|move|/a|/a/0|/a/-|)".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name, inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_merge_patch_done_twice_is_done_once(object in anything(), patch in anything()) {
        let once = merge(&object, &patch);
        prop_assert_eq!(merge(&once, &patch), once);
    }

    #[test]
    fn an_empty_patch_changes_nothing(object in anything()) {
        prop_assert_eq!(&json(&object, &serde_json::json!([])).unwrap(), &object);
        if object.is_object() {
            prop_assert_eq!(&merge(&object, &serde_json::json!({})), &object);
            prop_assert_eq!(strategic(&DEPLOYMENT, &object, &serde_json::json!({})).unwrap(), object);
        }
    }

    #[test]
    fn whatever_is_sent_is_patched_or_refused(object in anything(), patch in anything()) {
        let _ = json(&object, &patch);
        if let Ok(patched) = strategic(&DEPLOYMENT, &object, &patch) {
            prop_assert!(has_null(&object) || !has_null(&patched) || has_null(&patch));
        }
    }
}
