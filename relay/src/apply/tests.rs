use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{sample, *};

static SERVICE: LazyLock<Node> = LazyLock::new(sample::service);
static DEPLOYMENT: LazyLock<Node> = LazyLock::new(sample::deployment);

const NOON: &str = "2026-11-21T12:00:00Z";
const LATER: &str = "2026-11-21T13:00:00Z";

fn manager(name: &str) -> Manager<'_> {
    Manager { name, api_version: "v1", subresource: None, time: NOON }
}

fn later(name: &str) -> Manager<'_> {
    Manager { time: LATER, ..manager(name) }
}

/// A Service with this `spec`, as a client writes it; without one, where it is empty.
fn service(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
    if spec != json!({}) {
        object["spec"] = spec;
    }
    object
}

fn applied(live: Option<&Value>, by: &str, spec: Value) -> Value {
    apply(&SERVICE, live, &service(spec), manager(by), false).unwrap()
}

fn conflicts(live: &Value, by: &str, spec: Value) -> String {
    match apply(&SERVICE, Some(live), &service(spec), manager(by), false) {
        Err(error @ ApplyError::Conflicts(_)) => error.to_string(),
        other => panic!("no conflict: {other:?}"),
    }
}

/// What `by` owns, or null.
fn owned(object: &Value, by: &str) -> Value {
    entry(object, by)["fieldsV1"].clone()
}

fn entry(object: &Value, by: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries.into_iter().find(|entry| entry["manager"] == by).unwrap_or_default()
}

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .iter()
        .map(|entry| format!("{} {}", entry["operation"].as_str().unwrap(), entry["manager"].as_str().unwrap()))
        .collect()
}

fn bare(object: &Value) -> Value {
    without_managed(object)
}

#[test]
fn fields_are_written_as_kubernetes_writes_them() {
    let spec = json!({
        "type": "ClusterIP",
        "ports": [{"port": 80, "name": "web"}],
        "selector": {"app": "x"},
        "externalIPs": ["1.1.1.1"],
        "zones": ["a", "b"],
        "extra": {"deep": {"er": 1}, "list": [1, {"a": 2}]},
    });
    let mut object = service(spec);
    object["metadata"]["labels"] = json!({"app": "x"});
    object["metadata"]["annotations"] = json!({});
    let object = apply(&SERVICE, None, &object, manager("me"), false).unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "me", "operation": "Apply", "apiVersion": "v1", "time": NOON, "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {"f:app": {}}, "f:annotations": {}},
                "f:spec": {
                    "f:type": {},
                    "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}}},
                    "f:selector": {},
                    "f:externalIPs": {},
                    "f:zones": {"v:\"a\"": {}, "v:\"b\"": {}},
                    "f:extra": {"f:deep": {".": {}, "f:er": {}}, "f:list": {}},
                },
            },
        }])
    );
}

#[test]
fn an_update_owns_the_maps_and_lists_that_it_makes() {
    let mut object = service(json!({"ports": [{"port": 80}]}));
    object["metadata"]["labels"] = json!({"app": "x"});
    update(&SERVICE, None, &mut object, manager("editor"));
    assert_eq!(
        owned(&object, "editor"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {".": {}, "f:ports": {
                ".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
        })
    );
    assert_eq!(entry(&object, "editor")["operation"], "Update");
}

#[test]
fn what_others_own_conflicts_unless_it_is_the_same() {
    let live = applied(None, "a", json!({"type": "ClusterIP", "clusterIP": "10.0.0.1"}));
    assert_eq!(
        conflicts(&live, "b", json!({"type": "NodePort"})),
        "Apply failed with 1 conflict: conflict with \"a\": .spec.type"
    );
    assert_eq!(
        conflicts(&live, "b", json!({"type": "NodePort", "clusterIP": "10.0.0.2"})),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.clusterIP\n- .spec.type"
    );
    let shared = applied(Some(&live), "b", json!({"type": "ClusterIP"}));
    assert_eq!(owned(&shared, "b"), json!({"f:spec": {"f:type": {}}}));
    assert_eq!(owned(&shared, "a"), json!({"f:spec": {"f:type": {}, "f:clusterIP": {}}}), "both own it");
}

#[test]
fn conflicts_name_the_field_the_manager_and_its_version() {
    let mut live = service(json!({"ports": [{"port": 80, "protocol": "TCP", "name": "web"}], "zones": ["a"]}));
    live["metadata"]["labels"] = json!({"app": "x"});
    update(&SERVICE, None, &mut live, Manager { api_version: "core.apoxy.dev/v1alpha2", ..manager("kubectl-edit") });
    let refused = conflicts(&live, "b", json!({"ports": [{"port": 80, "name": "http"}]}));
    let field = ".spec.ports[port=80,protocol=\"TCP\"].name";
    assert_eq!(
        refused,
        format!("Apply failed with 1 conflict: conflict with \"kubectl-edit\" using core.apoxy.dev/v1alpha2: {field}")
    );
    let mut relabel = service(json!({}));
    relabel["metadata"]["labels"] = json!({"app": "y"});
    let Err(ApplyError::Conflicts(found)) = apply(&SERVICE, Some(&live), &relabel, manager("b"), false) else {
        panic!("no conflict")
    };
    assert_eq!(found[0].field, ".metadata.labels.app");
    assert_eq!(found[0].to_string(), "\"kubectl-edit\" using core.apoxy.dev/v1alpha2");
    let status = Conflict { subresource: "status".to_owned(), ..found[0].clone() };
    assert_eq!(status.to_string(), "\"kubectl-edit\" with subresource \"status\" using core.apoxy.dev/v1alpha2");
}

#[test]
fn force_takes_the_field_from_whoever_had_it() {
    let live = applied(None, "a", json!({"type": "ClusterIP", "clusterIP": "10.0.0.1"}));
    let object = apply(&SERVICE, Some(&live), &service(json!({"type": "NodePort"})), manager("b"), true).unwrap();
    assert_eq!(object["spec"], json!({"type": "NodePort", "clusterIP": "10.0.0.1"}));
    assert_eq!(owned(&object, "a"), json!({"f:spec": {"f:clusterIP": {}}}));
    assert_eq!(owned(&object, "b"), json!({"f:spec": {"f:type": {}}}));
    let object = apply(&SERVICE, Some(&live), &service(json!({"type": "X", "clusterIP": "y"})), manager("b"), true);
    assert_eq!(managers(&object.unwrap()), ["Apply b"], "who owns nothing is gone");
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_owns_it() {
    let live = applied(None, "a", json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "zones": ["x", "y"]}));
    let live = applied(Some(&live), "b", json!({"clusterIP": "10.0.0.1", "zones": ["y"]}));
    let object = applied(Some(&live), "a", json!({}));
    assert_eq!(object["spec"], json!({"clusterIP": "10.0.0.1", "zones": ["y"]}));
    assert_eq!(managers(&object), ["Apply b"]);
    let object = applied(Some(&object), "b", json!({}));
    assert_eq!(object.get("spec"), None, "an emptied parent goes too");
}

#[test]
fn items_of_keyed_lists_are_owned_apart() {
    let live = applied(None, "a", json!({"ports": [{"port": 80, "name": "web"}, {"port": 53, "protocol": "UDP"}]}));
    let live = applied(Some(&live), "b", json!({"ports": [{"port": 443}]}));
    let ports = |object: &Value| {
        object["spec"]["ports"].as_array().unwrap().iter().map(|port| port["port"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ports(&live), [80, 53, 443]);
    let object = applied(Some(&live), "a", json!({"ports": [{"port": 80}]}));
    assert_eq!(ports(&object), [80, 443]);
    assert_eq!(object["spec"]["ports"][0], json!({"port": 80}), "its name went");
    // 53/TCP is another port than 53/UDP.
    let object = applied(Some(&live), "b", json!({"ports": [{"port": 53}]}));
    assert_eq!(ports(&object), [80, 53, 53]);
}

#[test]
fn a_missing_key_takes_its_default() {
    let live = applied(None, "a", json!({"ports": [{"port": 80, "protocol": "TCP", "name": "web"}]}));
    let object = applied(Some(&live), "b", json!({"ports": [{"port": 80, "nodePort": 30_080}]}));
    assert_eq!(object["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "web", "nodePort": 30_080}]));
}

#[test]
fn lists_take_the_order_that_is_applied_and_keep_the_rest_between() {
    let check = |live: &[&str], apply: &[&str], want: &[&str]| {
        let shape = Shape::of(&SERVICE);
        let object = |zones: &[&str]| json!({"spec": {"zones": zones}});
        let merged = merge::merge(shape, &object(live), &object(apply));
        assert_eq!(merged["spec"]["zones"], json!(want), "{live:?} with {apply:?}");
    };
    check(&["a", "b", "c"], &["b"], &["a", "b", "c"]);
    check(&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]);
    check(&["a", "b"], &["c"], &["a", "b", "c"]);
    check(&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]);
    check(&["a", "b"], &["n", "a", "m", "b", "o"], &["n", "a", "m", "b", "o"]);
    check(&["x", "a", "y", "b", "z"], &["a", "n", "b"], &["x", "a", "y", "n", "b", "z"]);
    check(&["a", "b"], &[], &["a", "b"]);
    check(&[], &["a", "b"], &["a", "b"]);
}

#[test]
fn atomic_values_are_replaced_as_one() {
    let live = applied(None, "a", json!({"selector": {"app": "x"}, "externalIPs": ["1.1.1.1"]}));
    assert!(conflicts(&live, "b", json!({"selector": {"tier": "y"}})).ends_with(": .spec.selector"));
    let object = applied(Some(&live), "a", json!({"selector": {"tier": "y"}, "externalIPs": ["2.2.2.2"]}));
    assert_eq!(object["spec"], json!({"selector": {"tier": "y"}, "externalIPs": ["2.2.2.2"]}));
}

#[test]
fn nested_lists_merge_at_every_level() {
    let deployment = |containers: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"template": {"spec": {"containers": containers}}}})
    };
    let first = deployment(json!([{"name": "app", "image": "app:1", "env": [{"name": "A", "value": "1"}]}]));
    let live = apply(&DEPLOYMENT, None, &first, manager("a"), false).unwrap();
    let second =
        deployment(json!([{"name": "app", "env": [{"name": "B", "value": "2"}]}, {"name": "side", "image": "s"}]));
    let live = apply(&DEPLOYMENT, Some(&live), &second, manager("b"), false).unwrap();
    let containers = |object: &Value| object["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(
        containers(&live),
        json!([
            {"name": "app", "image": "app:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "side", "image": "s"},
        ])
    );
    let live =
        apply(&DEPLOYMENT, Some(&live), &deployment(json!([{"name": "app", "image": "app:2"}])), manager("a"), false);
    assert_eq!(
        containers(&live.unwrap()),
        json!([{"name": "app", "image": "app:2", "env": [{"name": "B", "value": "2"}]}, {"name": "side", "image": "s"}])
    );
}

#[test]
fn an_apply_that_changes_nothing_leaves_every_byte() {
    let mut live = applied(None, "a", json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
    live["metadata"]["uid"] = json!("1-2");
    live["metadata"]["creationTimestamp"] = json!(NOON);
    let mut again = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
    again["metadata"]["creationTimestamp"] = Value::Null;
    let object = apply(&SERVICE, Some(&live), &again, later("a"), false).unwrap();
    assert_eq!(object.to_string(), live.to_string());
    let object = apply(&SERVICE, Some(&live), &service(json!({"type": "ClusterIP"})), later("b"), false).unwrap();
    assert_eq!(bare(&object), bare(&live));
    assert_eq!((&entry(&object, "a")["time"], &entry(&object, "b")["time"]), (&json!(NOON), &json!(LATER)));
}

#[test]
fn an_apply_that_changes_nothing_keeps_how_others_wrote_their_fields() {
    let mut live = applied(None, "a", json!({"type": "ClusterIP"}));
    live["metadata"]["managedFields"][0]["fieldsV1"]["x:later"] = json!({});
    let object = apply(&SERVICE, Some(&live), &service(json!({"type": "ClusterIP"})), later("a"), false).unwrap();
    assert_eq!(object.to_string(), live.to_string());
}

#[test]
fn a_map_that_is_applied_as_null_keeps_what_others_put_there() {
    let mut live = applied(None, "other", json!({"type": "ClusterIP"}));
    live["metadata"]["labels"] = json!({"app": "x"});
    let mut nulls = service(json!({"ports": null}));
    nulls["metadata"]["labels"] = Value::Null;
    let once = apply(&SERVICE, Some(&live), &nulls, manager("a"), true).unwrap();
    assert_eq!(once["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(apply(&SERVICE, Some(&once), &nulls, later("a"), false).unwrap(), once);
}

#[test]
fn versions_of_one_kind_share_their_fields() {
    let old = Manager { api_version: "v1beta1", ..manager("a") };
    let live = apply(&SERVICE, None, &service(json!({"type": "ClusterIP", "clusterIP": "x"})), old, false).unwrap();
    assert!(conflicts(&live, "b", json!({"type": "NodePort"})).ends_with("with \"a\": .spec.type"));
    let object = applied(Some(&live), "a", json!({"type": "NodePort"}));
    assert_eq!(object["spec"], json!({"type": "NodePort"}), "what it applied as v1beta1 is still its own");
    assert_eq!(managers(&object), ["Apply a"]);
    assert_eq!(entry(&object, "a")["apiVersion"], "v1");
}

#[test]
fn what_cannot_be_applied_is_refused() {
    let check = |spec: Value, want: &str| {
        let refused = apply(&SERVICE, None, &service(spec), manager("a"), true).unwrap_err();
        assert_eq!(refused, ApplyError::Invalid(want.to_owned()));
    };
    check(
        json!({"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]}),
        ".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]",
    );
    check(json!({"zones": ["a", "b", "a"]}), ".spec.zones: duplicate entries for key [=\"a\"]");
    check(json!({"zones": [{}]}), ".spec.zones: element 0: an item of a set may not be an object");
    check(json!({"ports": [7]}), ".spec.ports: element 0: an item of a list with keys must be an object");
    let mut object = service(json!({}));
    object["metadata"]["finalizers"] = json!(["x", "x"]);
    assert!(apply(&SERVICE, None, &object, manager("a"), false).is_err());
    object["metadata"] = json!({"name": "s", "managedFields": []});
    let refused = apply(&SERVICE, None, &object, manager("a"), false).unwrap_err();
    assert_eq!(refused.to_string(), "metadata.managedFields must be nil");
    assert!(apply(&SERVICE, None, &json!([]), manager("a"), false).is_err());
    object["metadata"] = json!({"ownerReferences": [{"name": "x"}]});
    let refused = apply(&SERVICE, None, &object, manager("a"), false).unwrap_err();
    assert_eq!(refused.to_string(), ".metadata.ownerReferences: element 0: an item must have one of its keys uid");
}

#[test]
fn an_update_takes_what_it_changes_and_loses_what_it_removes() {
    let live = applied(None, "a", json!({"type": "ClusterIP", "clusterIP": "x", "zones": ["y"]}));
    let mut new = live.clone();
    new["spec"] = json!({"type": "NodePort", "clusterIP": "x"});
    update(&SERVICE, Some(&live), &mut new, later("kubectl-edit"));
    assert_eq!(owned(&new, "a"), json!({"f:spec": {"f:clusterIP": {}}}));
    assert_eq!(owned(&new, "kubectl-edit"), json!({"f:spec": {"f:type": {}}}));
    assert_eq!(entry(&new, "kubectl-edit")["time"], LATER);
    // The same manager again, with another version and another field.
    let mut newer = new.clone();
    newer["spec"]["clusterIP"] = json!("z");
    update(&SERVICE, Some(&new), &mut newer, manager("kubectl-edit"));
    assert_eq!(managers(&newer), ["Update kubectl-edit"]);
    assert_eq!(owned(&newer, "kubectl-edit"), json!({"f:spec": {"f:type": {}, "f:clusterIP": {}}}));
    let mut other = newer.clone();
    other["spec"]["type"] = json!("X");
    update(&SERVICE, Some(&newer), &mut other, Manager { api_version: "v2", ..manager("kubectl-edit") });
    assert_eq!(managers(&other).len(), 2, "another version is another entry");
}

#[test]
fn a_write_that_changes_nothing_moves_no_time() {
    let live = applied(None, "a", json!({"type": "ClusterIP"}));
    let mut new = live.clone();
    new["metadata"]["resourceVersion"] = json!("7");
    update(&SERVICE, Some(&live), &mut new, later("b"));
    assert_eq!(new["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn managed_fields_survive_a_client_that_knows_none_and_go_when_it_says_so() {
    let live = applied(None, "a", json!({"type": "ClusterIP"}));
    for kept in [None, Some(json!(null)), Some(json!([{"manager": "x"}])), Some(json!("nonsense"))] {
        let mut new = bare(&live);
        if let Some(kept) = kept {
            new["metadata"]["managedFields"] = kept;
        }
        update(&SERVICE, Some(&live), &mut new, manager("b"));
        assert_eq!(new, live);
    }
    for reset in [json!([]), json!([{}])] {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = reset.clone();
        new["spec"]["type"] = json!("NodePort");
        update(&SERVICE, Some(&live), &mut new, manager("b"));
        assert_eq!(new["metadata"].get("managedFields"), None);
        // A status write says nothing of them.
        let mut status = live.clone();
        status["metadata"]["managedFields"] = reset;
        update(&SERVICE, Some(&live), &mut status, Manager { subresource: Some("status"), ..manager("b") });
        assert_eq!(status, live);
    }
}

#[test]
fn a_client_may_write_the_managed_fields_themselves() {
    let live = applied(None, "a", json!({"type": "ClusterIP", "clusterIP": "x"}));
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:spec": {"f:type": {}}});
    update(&SERVICE, Some(&live), &mut new, manager("b"));
    assert_eq!(owned(&new, "a"), json!({"f:spec": {"f:type": {}}}));
}

#[test]
fn the_first_apply_notes_what_was_there_before() {
    let live = service(json!({"type": "ClusterIP", "clusterIP": "x"}));
    assert_eq!(
        conflicts(&live, "a", json!({"type": "NodePort"})),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .spec.type"
    );
    let object = applied(Some(&live), "a", json!({"type": "ClusterIP"}));
    assert_eq!(managers(&object), ["Apply a", "Update before-first-apply"]);
    assert_eq!(owned(&object, "before-first-apply"), json!({"f:spec": {".": {}, "f:type": {}, "f:clusterIP": {}}}));
}

#[test]
fn an_entry_that_owns_nothing_is_none() {
    let mut live = service(json!({"type": "ClusterIP"}));
    live["metadata"]["managedFields"] =
        json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1"}]);
    assert_eq!(managers(&applied(Some(&live), "a", json!({}))), ["Update before-first-apply"]);
}

#[test]
fn status_is_owned_apart() {
    let live = applied(None, "a", json!({"type": "ClusterIP"}));
    let status = Manager { subresource: Some("status"), ..manager("a") };
    let written = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "status": {"ready": true}});
    let object = apply(&SERVICE, Some(&live), &written, status, false).unwrap();
    assert_eq!((&object["spec"], &object["status"]), (&json!({"type": "ClusterIP"}), &json!({"ready": true})));
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {"f:ready": {}}}));
    let object = applied(Some(&object), "a", json!({"type": "NodePort"}));
    assert_eq!(object["status"], json!({"ready": true}), "the object's apply takes no status away");
}

#[test]
fn the_oldest_updates_become_one() {
    let mut live = service(json!({}));
    live["metadata"]["labels"] = json!({"first": "x"});
    update(&SERVICE, None, &mut live, manager("m00"));
    for at in 1..=12 {
        let (name, time) = (format!("m{at:02}"), format!("2026-11-21T12:{at:02}:00Z"));
        let mut new = live.clone();
        new["metadata"]["labels"][&name] = json!("x");
        update(&SERVICE, Some(&live), &mut new, Manager { time: &time, ..manager(&name) });
        live = new;
    }
    let names = managers(&live);
    assert_eq!(names.len(), 10);
    assert_eq!(names[0], "Update ancient-changes");
    assert_eq!(
        owned(&live, "ancient-changes"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:first": {}, "f:m01": {}, "f:m02": {}, "f:m03": {}}}})
    );
    assert_eq!(entry(&live, "ancient-changes")["time"], "2026-11-21T12:03:00Z");
}

#[test]
fn what_kubectl_applied_on_its_side_is_taken_over_without_conflict() {
    let mut live = service(json!({"type": "ClusterIP", "clusterIP": "x"}));
    let kept = service(json!({"type": "ClusterIP"})).to_string();
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": kept});
    update(&SERVICE, None, &mut live, manager("kubectl-client-side-apply"));
    let change = service(json!({"type": "NodePort"}));
    assert!(apply(&SERVICE, Some(&live), &change, manager("other"), false).is_err());
    let object = apply(&SERVICE, Some(&live), &change, manager("kubectl"), false).unwrap();
    assert_eq!(object["spec"]["type"], "NodePort");
    let annotation = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(annotation, &json!(format!("{change}\n")), "it follows");
    let other = service(json!({"clusterIP": "y"}));
    assert!(apply(&SERVICE, Some(&live), &other, manager("kubectl"), false).is_err(), "not what others wrote");
}

#[test]
fn sets_written_for_another_schema_keep_their_meaning() {
    let mut live = applied(None, "a", json!({"selector": {"app": "x"}}));
    live["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:spec": {"f:selector": {"f:app": {}}}});
    assert!(conflicts(&live, "b", json!({"selector": {"app": "y"}})).ends_with(": .spec.selector"));
    let object = applied(Some(&live), "a", json!({"type": "X"}));
    assert_eq!(object["spec"], json!({"type": "X"}));
}

#[test]
fn duplicates_that_are_there_already_do_not_stand_in_the_way() {
    let mut live = service(json!({"zones": ["a", "a"], "ports": [{"port": 1, "name": "x"}, {"port": 1, "name": "y"}]}));
    update(&SERVICE, None, &mut live, manager("old"));
    let object =
        apply(&SERVICE, Some(&live), &service(json!({"zones": ["a"], "ports": [{"port": 1}]})), manager("b"), true);
    let object = object.unwrap();
    assert_eq!(object["spec"], json!({"zones": ["a"], "ports": [{"port": 1}]}));
}

#[test]
fn steps_are_parsed_as_they_are_written() {
    for text in ["f:a:b", "f:", "k:{\"a\":1,\"b\":\"x\"}", "v:\"x\"", "v:1", "v:true", "i:3"] {
        assert_eq!(Step::parse(text).unwrap().unwrap().encode(), text);
    }
    assert_eq!(Step::parse("x:what"), Ok(None));
    for bad in ["", "f", "name", "k:[]", "k:{", "v:", "i:x", "ff:x"] {
        assert!(Step::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(Step::parse("v:1").unwrap(), Step::parse("v:1.0").unwrap());
    assert_ne!(Step::parse("v:1").unwrap(), Step::parse("v:\"1\"").unwrap());
}

#[test]
fn fields_that_are_too_deep_are_refused_and_never_written() {
    let mut fields = json!({});
    let mut value = json!(1);
    for _ in 0..100 {
        fields = json!({"f:a": fields});
        value = json!({"a": value});
    }
    assert!(Fields::parse(&fields).is_err());
    let object = apply(&SERVICE, None, &service(json!({"extra": value})), manager("a"), false).unwrap();
    let written = owned(&object, "a");
    assert!(Fields::parse(&written).is_ok_and(|fields| !fields.is_empty()));
    for bad in [json!(1), json!([]), json!({"f:a": 1}), json!({"f:a": {"oops": {}}})] {
        assert!(Fields::parse(&bad).is_err(), "{bad}");
    }
}
