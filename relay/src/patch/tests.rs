use std::sync::LazyLock;

use serde_json::{Value, json as value};

use super::*;
use crate::{apply::sample, schema::Node};

static SERVICE: LazyLock<Node> = LazyLock::new(sample::service);
static DEPLOYMENT: LazyLock<Node> = LazyLock::new(sample::deployment);

#[test]
fn operations_do_what_rfc_6902_says() {
    let object = value!({"a": {"b": [1, 2]}, "c~/d": 1});
    let check = |patch: Value, want: Value| assert_eq!(json(&object, &patch).unwrap(), want, "{patch}");
    check(value!([{"op": "add", "path": "/a/b/-", "value": 3}]), value!({"a": {"b": [1, 2, 3]}, "c~/d": 1}));
    check(value!([{"op": "add", "path": "/a/b/0", "value": 3}]), value!({"a": {"b": [3, 1, 2]}, "c~/d": 1}));
    check(value!([{"op": "remove", "path": "/c~0~1d"}]), value!({"a": {"b": [1, 2]}}));
    check(value!([{"op": "replace", "path": "/a", "value": 1}]), value!({"a": 1, "c~/d": 1}));
    check(value!([{"op": "move", "from": "/a/b", "path": "/e"}]), value!({"a": {}, "e": [1, 2], "c~/d": 1}));
    check(value!([{"op": "copy", "from": "/a/b/0", "path": "/e"}]), value!({"a": {"b": [1, 2]}, "e": 1, "c~/d": 1}));
    check(value!([{"op": "test", "path": "/a/b/1", "value": 2}]), object.clone());
    check(value!([{"op": "add", "path": "", "value": {}}]), value!({}));
}

#[test]
fn a_test_for_null_finds_a_field_that_is_not_there_as_in_kubernetes() {
    let object = value!({"metadata": {"name": "a"}, "list": [1]});
    let tested = |path: &str, wanted: Value| {
        let patch = value!([{"op": "test", "path": path, "value": wanted}, {"op": "add", "path": "/x", "value": 1}]);
        json(&object, &patch).is_ok()
    };
    assert!(tested("/metadata/finalizers", value!(null)));
    assert!(!tested("/metadata/finalizers", value!([])));
    assert!(!tested("/metadata/name", value!(null)), "what is there is not null");
    assert!(!tested("/spec/nothing", value!(null)), "what it would be in is not there either");
    assert!(!tested("/list/1", value!(null)), "an item of a list is no field");
    assert!(!tested("", value!(null)));
}

#[test]
fn what_cannot_be_done_is_refused_with_its_place() {
    let object = value!({"a": {"b": [1, 2]}});
    let check = |operation: Value, want: &str| {
        let patch = value!([{"op": "test", "path": "/a/b/0", "value": 1}, operation]);
        assert_eq!(json(&object, &patch).unwrap_err(), PatchError::Inapplicable(want.to_owned()));
    };
    check(
        value!({"op": "test", "path": "/a/b/0", "value": 2}),
        "operation 1 of the patch, `test` of `/a/b/0`: value did not match",
    );
    check(value!({"op": "remove", "path": "/x"}), "operation 1 of the patch, `remove` of `/x`: path is invalid");
    check(
        value!({"op": "replace", "path": "/a/x", "value": 1}),
        "operation 1 of the patch, `replace` of `/a/x`: path is invalid",
    );
    check(
        value!({"op": "add", "path": "/a/b/3", "value": 1}),
        "operation 1 of the patch, `add` of `/a/b/3`: path is invalid",
    );
    check(
        value!({"op": "add", "path": "/a/b/01", "value": 1}),
        "operation 1 of the patch, `add` of `/a/b/01`: path is invalid",
    );
    check(
        value!({"op": "move", "from": "/a", "path": "/a/c"}),
        "operation 1 of the patch, `move` of `/a/c`: cannot move the value inside itself",
    );
    for bad in [
        value!({}),
        value!([{"op": "add", "path": "/a"}]),
        value!([{"op": "steal", "path": "/a"}]),
        value!([{"op": "add", "path": "a", "value": 1}]),
    ] {
        assert!(matches!(json(&object, &bad), Err(PatchError::Malformed(_))), "{bad}");
    }
    let long = value!([{"op": "x".repeat(1_000_000), "path": ""}]);
    assert!(json(&object, &long).unwrap_err().to_string().len() < 1_000);
}

#[test]
fn a_patch_is_bounded_in_length_growth_depth_and_work() {
    let refused = |object: &Value, patch: &[Value]| match json(object, &Value::from(patch)) {
        Err(PatchError::TooLarge(message)) => message,
        other => panic!("not refused: {:?}", other.map(|_| ())),
    };
    let test = value!({"op": "test", "path": "", "value": {}});
    assert!(json(&value!({}), &Value::from(vec![test.clone(); OPERATIONS_MAX])).is_ok());
    assert!(refused(&value!({}), &vec![test; OPERATIONS_MAX + 1]).starts_with("the patch has 10001 operations"));

    let double = value!({"op": "copy", "from": "/a", "path": "/a/-"});
    let doubled = refused(&value!({"a": ["x".repeat(1000)]}), &vec![double; 60]);
    assert!(doubled.ends_with("copies too much"), "{doubled}");

    let deepen = [
        value!({"op": "add", "path": "/m", "value": {}}),
        value!({"op": "move", "from": "/n", "path": "/m/n"}),
        value!({"op": "move", "from": "/m", "path": "/n"}),
    ];
    let deepened = refused(&value!({"n": {}}), &deepen.iter().cycle().take(9_000).cloned().collect::<Vec<_>>());
    assert!(deepened.ends_with("nests too deep"), "{deepened}");

    let shift = value!({"op": "add", "path": "/a/0", "value": 0});
    let shifted = refused(&value!({"a": vec![0; 100_000]}), &vec![shift; 10_000]);
    assert!(shifted.ends_with("too much work"), "{shifted}");
}

#[test]
fn merge_patches_do_what_rfc_7386_says() {
    for (object, patch, want) in [
        (value!({"a": "b"}), value!({"a": "c"}), value!({"a": "c"})),
        (value!({"a": "b"}), value!({"b": "c"}), value!({"a": "b", "b": "c"})),
        (value!({"a": "b", "b": "c"}), value!({"a": null}), value!({"b": "c"})),
        (value!({"a": ["b"]}), value!({"a": "c"}), value!({"a": "c"})),
        (value!({"a": "c"}), value!({"a": ["b"]}), value!({"a": ["b"]})),
        (value!({"a": {"b": "c"}}), value!({"a": {"b": "d", "c": null}}), value!({"a": {"b": "d"}})),
        (value!({"a": [{"b": "c"}]}), value!({"a": [1]}), value!({"a": [1]})),
        (value!({"e": null}), value!({"a": 1}), value!({"e": null, "a": 1})),
        (value!([1, 2]), value!({"a": "b", "c": null}), value!({"a": "b"})),
        (value!({}), value!({"a": {"bb": {"ccc": null}}}), value!({"a": {"bb": {}}})),
        (value!({"a": 1}), value!([null]), value!([null])),
    ] {
        assert_eq!(merge(&object, &patch), want, "{object} with {patch}");
    }
}

fn pod(containers: &Value) -> Value {
    value!({"spec": {"template": {"spec": {"containers": containers}}}})
}

#[test]
fn lists_merge_by_their_key_and_keep_their_order() {
    let live = pod(&value!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]));
    let check = |patch: Value, want: Value| {
        assert_eq!(strategic(&DEPLOYMENT, &live, &pod(&patch)).unwrap(), pod(&want), "{patch}");
    };
    check(
        value!([{"name": "b", "image": "2"}]),
        value!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}]),
    );
    check(value!([{"name": "a", "args": ["y"]}]), value!([{"name": "a", "image": "1", "args": ["y"]}, {"name": "b"}]));
    check(value!([{"name": "a", "image": null}]), value!([{"name": "a", "args": ["x"]}, {"name": "b"}]));
    check(value!([{"name": "c"}]), value!([{"name": "c"}, {"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]));
    check(value!([{"name": "a", "$patch": "delete"}]), value!([{"name": "b"}]));
    check(value!([{"name": "a", "$patch": "delete"}, {"name": "z", "$patch": "delete"}]), value!([{"name": "b"}]));
    check(value!([{"$patch": "replace"}, {"name": "c", "image": null}]), value!([{"name": "c"}]));
    check(value!([{"name": "a", "$patch": "replace"}]), value!([]));
    check(value!([]), value!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]));
}

#[test]
fn an_order_arranges_what_is_there() {
    let live = value!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let check = |patch: Value, want: Value| {
        let patched = strategic(&DEPLOYMENT, &live, &value!({"metadata": patch})).unwrap();
        assert_eq!(patched["metadata"]["finalizers"], want, "{patch}");
    };
    check(value!({"finalizers": ["d"]}), value!(["d", "a", "b", "c"]));
    check(value!({"$setElementOrder/finalizers": ["c", "a"]}), value!(["b", "c", "a"]));
    check(
        value!({"$setElementOrder/finalizers": ["a", "d", "c"], "finalizers": ["d"], "$deleteFromPrimitiveList/finalizers": ["b"]}),
        value!(["a", "d", "c"]),
    );
    check(value!({"$deleteFromPrimitiveList/finalizers": ["a", "zz"]}), value!(["b", "c"]));
    let live = pod(&value!([{"name": "a"}, {"name": "b"}]));
    let patch = value!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "n"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "n"}, {"name": "b", "image": "x"}]}}}});
    let patched = strategic(&DEPLOYMENT, &live, &patch).unwrap();
    assert_eq!(patched, pod(&value!([{"name": "n"}, {"name": "b", "image": "x"}, {"name": "a"}])));
}

#[test]
fn directives_replace_delete_and_retain() {
    let live =
        value!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "replicas": 1}});
    let check = |patch: Value, want: Value| {
        assert_eq!(strategic(&DEPLOYMENT, &live, &value!({"spec": patch})).unwrap()["spec"], want, "{patch}");
    };
    check(value!({"$patch": "replace", "replicas": 2, "strategy": null}), value!({"replicas": 2}));
    check(value!({"$patch": "delete"}), value!({}));
    check(value!({"strategy": {"$patch": "delete"}}), value!({"strategy": {}, "replicas": 1}));
    check(value!({"$patch": "merge", "strategy": null}), value!({"replicas": 1}));
    check(
        value!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        value!({"strategy": {"type": "Recreate"}, "replicas": 1}),
    );
    check(
        value!({"template": {"metadata": {"labels": {"a": "b", "c": null}}}}),
        value!({
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "replicas": 1,
        "template": {"metadata": {"labels": {"a": "b"}}}}),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    let live = value!({"spec": {"externalIPs": ["1.1.1.1"], "ports": [{"port": 1}], "extra": {"list": [1], "x": 1}}});
    let patch = value!({"spec": {"externalIPs": ["2.2.2.2"], "extra": {"list": [2]}}});
    assert_eq!(
        strategic(&SERVICE, &live, &patch).unwrap(),
        value!({"spec": {"externalIPs": ["2.2.2.2"], "ports": [{"port": 1}], "extra": {"list": [2], "x": 1}}})
    );
}

#[test]
fn a_strategic_patch_that_makes_no_sense_is_refused() {
    let mut live = pod(&value!([{"name": "a"}]));
    live["spec"]["strategy"] = value!({"type": "Recreate"});
    live["metadata"] = value!({"finalizers": ["a"]});
    for bad in [
        value!([]),
        value!({"$patch": "explode"}),
        value!({"$patch": 1}),
        pod(&value!([{"image": "x"}])),
        pod(&value!([{"$patch": "delete"}])),
        pod(&value!([{"name": "a", "$patch": "explode"}])),
        pod(&value!(["a"])),
        pod(&value!([["a"]])),
        value!({"spec": {"strategy": {"$retainKeys": "type"}}}),
        value!({"spec": {"strategy": {"$retainKeys": ["x"], "type": "y"}}}),
        value!({"metadata": {"$deleteFromPrimitiveList/finalizers": 1}}),
        value!({"spec": {"template": {"spec": {"$setElementOrder/containers": 1}}}}),
        value!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}}}}),
    ] {
        assert!(matches!(strategic(&DEPLOYMENT, &live, &bad), Err(PatchError::Malformed(_))), "{bad}");
    }
}
