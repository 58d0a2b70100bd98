//! A node as the schema that OpenAPI documents show, for `kubectl explain` and clients that check before they send.

use serde_json::{Map, Value, json};

use super::node::{Form, ListKind, Logic, Node, PatchStrategy, Pattern, Rule};

impl Node {
    /// The structural schema below this node, as in a CustomResourceDefinition; nothing in it is a reference.
    #[must_use]
    pub fn to_openapi(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| drop(value.map(|value| fields.insert(name.to_owned(), value)));
        put("description", given(self.description.is_empty(), || json!(self.description)));
        put("nullable", given(!self.nullable, || json!(true)));
        put("default", self.default.clone());
        put("enum", given(self.enumeration.is_empty(), || json!(self.enumeration)));
        put("x-kubernetes-validations", given(self.rules.is_empty(), || self.rules.iter().map(rule).collect()));
        self.form.describe(&mut put);
        describe_logic(&self.logic, &mut put);
        if let Some(patch) = &self.patch {
            put("x-kubernetes-patch-strategy", Some(json!(strategy(patch))));
            put("x-kubernetes-patch-merge-key", patch.merge_key.as_ref().map(|key| json!(key)));
        }
        Value::Object(fields)
    }
}

impl Form {
    fn describe(&self, put: &mut impl FnMut(&str, Option<Value>)) {
        match self {
            Self::Object { properties, required, additional, open, atomic, embedded, min, max } => {
                put("type", Some(json!("object")));
                let all = || properties.iter().map(|(name, node)| (name.clone(), node.to_openapi())).collect();
                put("properties", given(properties.is_empty(), || Value::Object(all())));
                put("required", given(required.is_empty(), || json!(required)));
                put("additionalProperties", additional.as_ref().map(|node| node.to_openapi()));
                put("x-kubernetes-preserve-unknown-fields", given(!open, || json!(true)));
                put("x-kubernetes-map-type", given(!atomic, || json!("atomic")));
                put("x-kubernetes-embedded-resource", given(!embedded, || json!(true)));
                put("minProperties", given(*min == 0, || json!(min)));
                put("maxProperties", max.map(|max| json!(max)));
            }
            Self::List { items, kind, min, max } => {
                put("type", Some(json!("array")));
                put("items", Some(items.to_openapi()));
                put("minItems", given(*min == 0, || json!(min)));
                put("maxItems", max.map(|max| json!(max)));
                let (name, keys) = match kind {
                    ListKind::Atomic => ("atomic", None),
                    ListKind::Set => ("set", None),
                    ListKind::Map(keys) => ("map", Some(json!(keys))),
                };
                put("x-kubernetes-list-type", Some(json!(name)));
                put("x-kubernetes-list-map-keys", keys);
            }
            Self::Text { min_length, max_length, pattern, format } => {
                put("type", Some(json!("string")));
                put("minLength", given(*min_length == 0, || json!(min_length)));
                put("maxLength", max_length.map(|max| json!(max)));
                put("pattern", pattern.as_ref().map(source));
                put("format", format.map(|format| json!(format.name())));
            }
            Self::Integer { min, max, format } => {
                put("type", Some(json!("integer")));
                put("minimum", min.map(|min| json!(min)));
                put("maximum", max.map(|max| json!(max)));
                put("format", format.map(|format| json!(format.name())));
            }
            Self::Number { min, max } => {
                put("type", Some(json!("number")));
                put("minimum", min.map(|min| json!(min)));
                put("maximum", max.map(|max| json!(max)));
            }
            Self::Boolean => put("type", Some(json!("boolean"))),
            Self::IntOrString { pattern } => {
                put("x-kubernetes-int-or-string", Some(json!(true)));
                put("pattern", pattern.as_ref().map(source));
            }
            Self::Anything => put("x-kubernetes-preserve-unknown-fields", Some(json!(true))),
        }
    }
}

fn describe_logic(logic: &Logic, put: &mut impl FnMut(&str, Option<Value>)) {
    for (name, branches) in [("allOf", &logic.all_of), ("anyOf", &logic.any_of), ("oneOf", &logic.one_of)] {
        put(name, given(branches.is_empty(), || branches.iter().map(|branch| branch.to_openapi()).collect()));
    }
    put("not", logic.not.as_ref().map(|branch| branch.to_openapi()));
}

fn given(empty: bool, value: impl FnOnce() -> Value) -> Option<Value> {
    (!empty).then(value)
}

fn source(pattern: &Pattern) -> Value {
    json!(pattern.as_str())
}

fn rule(rule: &Rule) -> Value {
    let mut fields = Map::from_iter([("rule".to_owned(), json!(rule.rule))]);
    for (name, value) in [
        ("message", &rule.message),
        ("messageExpression", &rule.message_expression),
        ("fieldPath", &rule.field_path),
        ("reason", &rule.reason),
    ] {
        if let Some(value) = value {
            fields.insert(name.to_owned(), json!(value));
        }
    }
    if rule.optional_old_self {
        fields.insert("optionalOldSelf".to_owned(), json!(true));
    }
    Value::Object(fields)
}

fn strategy(patch: &PatchStrategy) -> String {
    let words = [(patch.merge, "merge"), (patch.retain_keys, "retainKeys")];
    let words: Vec<_> = words.into_iter().filter(|(set, _)| *set).map(|(_, word)| word).collect();
    if words.is_empty() { "replace".to_owned() } else { words.join(",") }
}
