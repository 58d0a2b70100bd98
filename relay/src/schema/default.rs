//! Defaults, as Kubernetes fills them in for a CustomResourceDefinition.

use serde_json::Value;

use super::node::{Form, Node};

/// Fills `value` by `node`: a default stands in for a field that is absent, where its parent is there.
///
/// A `null` where none may stand counts as absent. What a default brings is itself filled in. The depth of the walk is
/// bounded by the definition, which is a finite tree.
pub(super) fn fill(node: &Node, value: &mut Value) {
    match (&node.form, value) {
        (Form::Object { properties, additional, .. }, Value::Object(object)) => {
            object.retain(|name, value| {
                let known = properties.get(name).or(additional.as_ref());
                !value.is_null() || known.is_none_or(|node| node.nullable)
            });
            for (name, node) in properties {
                if let Some(default) = &node.default
                    && !object.contains_key(name)
                {
                    object.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in object {
                if let Some(node) = properties.get(name).or(additional.as_ref()) {
                    fill(node, value);
                }
            }
        }
        (Form::List { items, .. }, Value::Array(list)) => {
            for item in list {
                // An item is there or not; only a default can stand for its `null`.
                if let (Value::Null, false, Some(default)) = (&*item, items.nullable, &items.default) {
                    *item = default.clone();
                }
                fill(items, item);
            }
        }
        _ => {}
    }
}
