//! Laws of apply, on small generated objects.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{sample, *};

static SERVICE: LazyLock<Node> = LazyLock::new(sample::service);

fn manager(name: &str) -> Manager<'_> {
    Manager { name, api_version: "v1", subresource: None, time: "2026-11-21T12:00:00Z" }
}

/// A Service of few names and values, so that two of them have much in common.
fn object() -> impl Strategy<Value = Value> {
    let ports = proptest::collection::btree_map(1..4_u8, proptest::option::of("[ab]"), 0..3);
    let zones = proptest::collection::btree_set("[xyz]", 0..3);
    let labels = proptest::collection::btree_map("[pqr]", "[01]", 0..3);
    (ports, zones, labels, proptest::option::of("[01]"), proptest::option::of("[01]")).prop_map(
        |(ports, zones, labels, kind, app)| {
            let ports = ports.into_iter().map(|(port, name)| match name {
                Some(name) => json!({"port": port, "name": name}),
                None => json!({"port": port}),
            });
            let mut spec = Map::new();
            spec.insert("ports".to_owned(), ports.collect());
            spec.insert("zones".to_owned(), json!(zones));
            spec.extend(kind.map(|kind| ("type".to_owned(), json!(kind))));
            spec.extend(app.map(|app| ("selector".to_owned(), json!({"app": app}))));
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": labels}, "spec": spec})
        },
    )
}

/// Any JSON, with names that mean something among them.
fn anything() -> impl Strategy<Value = Value> {
    let name = "(metadata|spec|ports|zones|port|protocol|labels|managedFields|fieldsV1|f:spec|f:ports|k:\\{\"port\":1\\}|v:1|\\.|extra|a)";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3_i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(x|Apply|Update|FieldsV1|v1)".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name, inner, 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn sorted(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => {
            items.iter_mut().for_each(|item| *item = sorted(item.take()));
            items.sort_by_key(Value::to_string);
        }
        Value::Object(fields) => fields.values_mut().for_each(|value| *value = sorted(value.take())),
        _ => {}
    }
    value
}

/// Splits the top of `metadata.labels` and `spec` between two objects.
fn split(object: &Value, left: impl Fn(&str) -> bool) -> (Value, Value) {
    let part = |side: bool| {
        let mut part = object.clone();
        for place in ["/metadata/labels", "/spec"] {
            if let Some(fields) = part.pointer_mut(place).and_then(Value::as_object_mut) {
                fields.retain(|name, _| left(name) == side);
            }
        }
        part
    };
    (part(true), part(false))
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in object(), applied in object()) {
        let live = apply(&SERVICE, None, &live, manager("a"), false).unwrap();
        let once = apply(&SERVICE, Some(&live), &applied, manager("b"), true).unwrap();
        let later = Manager { time: "2026-11-21T13:00:00Z", ..manager("b") };
        prop_assert_eq!(apply(&SERVICE, Some(&once), &applied, later, false).unwrap(), once);
    }

    #[test]
    fn managers_of_different_fields_may_apply_in_any_order(whole in object(), sides in any::<u8>()) {
        let (left, right) = split(&whole, |name| (u8::from(name.len() % 2 == 0) ^ name.as_bytes()[0] ^ sides) & 1 == 0);
        let both = |first: (&Value, &str), second: (&Value, &str)| {
            let live = apply(&SERVICE, None, first.0, manager(first.1), false).unwrap();
            apply(&SERVICE, Some(&live), second.0, manager(second.1), false).unwrap()
        };
        prop_assert_eq!(sorted(both((&left, "l"), (&right, "r"))), sorted(both((&right, "r"), (&left, "l"))));
    }

    #[test]
    fn a_field_goes_with_its_last_owner(label in "[pqr]", other in object(), shared in any::<bool>()) {
        let labelled = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {&label: "0"}}});
        let unlabelled = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
        let mut other = other;
        if let Some(labels) = other["metadata"]["labels"].as_object_mut() {
            labels.remove(&label);
            if shared {
                labels.insert(label.clone(), json!("0"));
            }
        }
        let live = apply(&SERVICE, None, &labelled, manager("a"), false).unwrap();
        let live = apply(&SERVICE, Some(&live), &other, manager("b"), false).unwrap();
        let after = apply(&SERVICE, Some(&live), &unlabelled, manager("a"), false).unwrap();
        prop_assert_eq!(after["metadata"]["labels"].get(&label).is_some(), shared);
        prop_assert_eq!(&after["spec"], &live["spec"], "and nothing else goes");
    }

    #[test]
    fn every_field_of_an_applied_object_stands_in_the_result(live in object(), applied in object()) {
        let live = apply(&SERVICE, None, &live, manager("a"), false).unwrap();
        let after = apply(&SERVICE, Some(&live), &applied, manager("b"), true).unwrap();
        let shape = Shape::of(&SERVICE);
        let changed = compare(shape, &applied, &after);
        prop_assert!(changed.modified.is_empty() && changed.removed.is_empty(), "{changed:?}");
    }

    #[test]
    fn fields_are_read_as_they_were_written(object in object(), other in anything()) {
        for value in [&object, &other] {
            let fields = Shape::of(&SERVICE).fields(value);
            prop_assert_eq!(Fields::parse(&fields.encode()).unwrap(), fields.clone());
            prop_assert!(fields.paths(usize::MAX).iter().all(|path| fields.contains(&path.0)));
        }
    }

    #[test]
    fn sets_obey_the_laws_of_sets(left in object(), right in object()) {
        let [left, right] = [&left, &right].map(|object| Shape::of(&SERVICE).fields(object));
        let only = left.difference(&right);
        prop_assert!(only.intersection(&right).is_empty());
        prop_assert_eq!(&only.union(&left.intersection(&right)), &left);
        prop_assert_eq!(left.union(&right), right.union(&left));
        prop_assert!(left.difference(&left).is_empty());
    }

    #[test]
    fn nothing_that_is_sent_panics(live in anything(), sent in anything(), force in any::<bool>()) {
        if let Ok(object) = apply(&SERVICE, Some(&live), &sent, manager("a"), force) {
            let mut new = sent.clone();
            update(&SERVICE, Some(&object), &mut new, manager("b"));
        }
        if let Ok(fields) = Fields::parse(&sent) {
            prop_assert_eq!(Fields::parse(&fields.encode()).unwrap(), fields);
        }
        let mut new = sent.clone();
        update(&SERVICE, Some(&live), &mut new, manager("b"));
        prop_assert_eq!(without_managed(&new), without_managed(&sent));
    }
}
