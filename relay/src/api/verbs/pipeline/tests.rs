use std::sync::Arc;

use proptest::prelude::*;
use underpass_shared::resource::kind::Scope;

use super::*;
use crate::store::{
    lifecycle,
    state::{Fresh, State},
};

const TIME: &str = "2026-01-02T03:04:05Z";
const WRITER: Writer<'static> =
    Writer { name: "tester", time: TIME, validation: FieldValidation::Strict, force: false };

fn place(kind: Kind, subresource: Option<Subresource>) -> Place {
    let info = kind.info();
    Place {
        kind,
        api_version: info.api_versions[0],
        project: (info.scope != Scope::Deployment).then(Default::default),
        namespace: (info.scope == Scope::Namespaced).then(|| "default".to_owned()),
        subresource,
    }
}

fn manifest(kind: Kind, rest: Value) -> Value {
    let mut object = json!({"metadata": {"name": "x"}});
    let Value::Object(rest) = rest else { panic!("a manifest is an object") };
    object.as_object_mut().unwrap().extend(rest);
    object["kind"] = json!(kind.info().name);
    object
}

/// One manifest of each sort; what is left out is filled in by the schema.
fn manifests() -> Vec<(Kind, Value)> {
    let containers = json!([{"name": "c", "image": "i"}]);
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}});
    [
        (Kind::Project, json!({})),
        (Kind::Namespace, json!({})),
        (Kind::ServiceAccount, json!({})),
        (Kind::Secret, json!({"stringData": {"a": "secret"}})),
        (Kind::ConfigMap, json!({"data": {"a": "1"}})),
        (Kind::Service, json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})),
        (Kind::Deployment, json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}})),
        (Kind::Pod, json!({"spec": {"containers": containers}})),
        (Kind::Lease, json!({"spec": {"holderIdentity": "me", "renewTime": "2026-01-02T03:04:05.000006Z"}})),
        (Kind::TunnelNode, json!({"spec": {}})),
        (Kind::Proxy, json!({"spec": {}})),
        (Kind::Backend, json!({"spec": {"endpoints": [{"ip": "192.0.2.1"}], "protocol": "H2C"}})),
        (
            Kind::Gateway,
            json!({"spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}}),
        ),
        (Kind::HttpRoute, json!({"spec": {"rules": [{"backendRefs": [{"name": "b", "port": 80}]}]}})),
    ]
    .map(|(kind, rest)| (kind, manifest(kind, rest)))
    .to_vec()
}

/// Stores a draft in an empty state.
fn stored(ready: Ready) -> Arc<Object> {
    let mut fresh = Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [1; 32]);
    let mut state = State::default();
    lifecycle::bootstrap(&mut state, &mut fresh).unwrap();
    lifecycle::create(&mut state, ready.draft, &mut fresh).unwrap()
}

fn made(kind: Kind, body: Value) -> Arc<Object> {
    stored(create(&place(kind, None), &WRITER, body).unwrap_or_else(|failure| panic!("{kind:?}: {failure:?}")))
}

fn sample() -> Arc<Object> {
    made(Kind::Backend, manifest(Kind::Backend, json!({"spec": {"endpoints": [{"ip": "192.0.2.1"}]}})))
}

#[test]
fn what_was_shown_and_is_put_back_changes_nothing() {
    for (kind, body) in manifests() {
        let object = made(kind, body);
        let shown = object.to_value();
        let ready = update(&place(kind, None), &WRITER, shown.clone(), &object).unwrap();
        assert_eq!(ready.draft, object.draft(), "{kind:?}");
        if kind.info().has_status {
            let ready = update(&place(kind, Some(Subresource::Status)), &WRITER, shown, &object).unwrap();
            assert_eq!(ready.draft, object.draft(), "the status of {kind:?}");
        }
    }
}

#[test]
fn what_was_shown_in_another_version_and_is_put_back_changes_nothing() {
    let body = manifest(Kind::HttpRoute, json!({"spec": {"rules": [{"backendRefs": [{"name": "b", "port": 80}]}]}}));
    let object = made(Kind::HttpRoute, body);
    for api_version in Kind::HttpRoute.info().api_versions {
        let place = Place { api_version, ..place(Kind::HttpRoute, None) };
        let ready = update(&place, &WRITER, object.to_value_as(api_version), &object).unwrap();
        assert_eq!(ready.draft.content, object.draft().content);
    }
}

#[test]
fn applying_the_same_again_changes_nothing() {
    for (kind, body) in manifests() {
        let place = place(kind, None);
        let object = stored(applied(&place, "x", &WRITER, body.clone(), None).unwrap());
        let again = applied(&place, "x", &WRITER, body, Some(&object)).unwrap().draft;
        assert_eq!((&again.content, &again.status), (&object.body.content, &object.body.status), "{kind:?}");
        // Who applies nothing owns nothing: then the rest is noted as having been there before the first apply.
        if !object.body.meta.managed_fields.is_empty() {
            assert_eq!(again, object.draft(), "{kind:?}");
        }
    }
}

#[test]
fn a_status_never_comes_in_with_the_object_nor_a_spec_with_the_status() {
    let evil = json!({"phase": "Evil"});
    for (kind, mut body) in manifests().into_iter().filter(|(kind, _)| kind.info().has_status) {
        body["status"] = json!({});
        let object = made(kind, body.clone());
        assert_ne!(object.body.status, Some(json!({})), "{kind:?}");

        let mut changed = object.to_value();
        changed["status"] = evil.clone();
        let writer = Writer { validation: FieldValidation::Ignore, ..WRITER };
        let ready = update(&place(kind, None), &writer, changed, &object).unwrap();
        assert_eq!(ready.draft.status, object.body.status, "{kind:?}");
        body["status"] = evil.clone();
        let ready =
            applied(&place(kind, None), "x", &Writer { name: "other", force: true, ..writer }, body, Some(&object))
                .unwrap();
        assert_eq!(ready.draft.status, object.body.status, "{kind:?}");
    }
    let object = sample();
    let mut changed = object.to_value();
    changed["spec"] = json!({"endpoints": []});
    changed["metadata"]["labels"] = json!({"a": "b"});
    changed["status"] = json!({"conditions": []});
    let ready = update(&place(Kind::Backend, Some(Subresource::Status)), &WRITER, changed, &object).unwrap();
    assert_eq!(ready.draft.content, object.body.content);
    assert_eq!(ready.draft.meta.labels, object.body.meta.labels);
    assert_eq!(ready.draft.status, Some(json!({"conditions": []})));
    let owners = ready.draft.meta.managed_fields;
    assert_eq!(owners.last().unwrap()["subresource"], "status", "{owners:?}");
}

#[test]
fn a_kind_without_status_has_all_of_it_written() {
    let mut body = manifest(Kind::ConfigMap, json!({}));
    body["status"] = json!({"a": 1});
    let refused = create(&place(Kind::ConfigMap, None), &WRITER, body).unwrap_err();
    assert!(refused.message.contains("unknown field \"status\""), "{}", refused.message);
}

#[test]
fn what_only_the_server_says_is_kept_whatever_is_written() {
    let object = sample();
    let mut changed = object.to_value();
    let metadata = &mut changed["metadata"];
    metadata["generation"] = json!(77);
    metadata["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    metadata["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    metadata["selfLink"] = json!("/x");
    let ready = update(&place(Kind::Backend, None), &WRITER, changed.clone(), &object).unwrap();
    assert_eq!(ready.draft, object.draft());
    changed["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    changed["metadata"]["uid"] = json!("");
    let created = create(&place(Kind::Backend, None), &WRITER, changed).unwrap();
    assert_eq!(created.draft.content, object.body.content);
}

#[test]
fn contradictions_of_path_and_body_are_refused_with_upstreams_words() {
    let object = sample();
    let check = |pointer: &str, value: Value, want: &str| {
        let mut body = object.to_value();
        *body.pointer_mut(pointer).unwrap() = value;
        let failure = update(&place(Kind::Backend, None), &WRITER, body, &object).unwrap_err();
        assert!(failure.message.contains(want), "{}", failure.message);
        failure.code.as_u16()
    };
    let version = "the API version in the data (v1) does not match the expected API version (core.apoxy.dev/v1alpha2)";
    assert_eq!(check("/apiVersion", json!("v1"), version), 400);
    assert_eq!(check("/kind", json!("Proxy"), "the kind in the data (Proxy) does not match"), 400);
    let name = "the name of the object (y) does not match the name on the URL (x)";
    assert_eq!(check("/metadata/name", json!("y"), name), 400);
    assert_eq!(check("/metadata/name", json!(""), "name must be provided"), 400);
    let namespace = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(check("/metadata/namespace", json!("other"), namespace), 400);
    assert_eq!(check("/metadata", json!(7), "metadata must be an object"), 400);
    assert_eq!(check("/metadata/uid", json!("u"), "Precondition failed: UID in precondition: u"), 409);
    let modified = "Operation cannot be fulfilled on backends.core.apoxy.dev \"x\": the object has been modified; \
                    please apply your changes to the latest version and try again";
    assert_eq!(check("/metadata/resourceVersion", json!("1"), modified), 409);
    assert_eq!(check("/metadata/resourceVersion", json!("z"), "is not one that this server gave"), 400);
}

#[test]
fn what_the_path_says_need_not_be_said_again() {
    let body = json!({"metadata": {"name": "x"}, "spec": {"endpoints": [{"ip": "192.0.2.1"}]}});
    let ready = create(&place(Kind::Backend, None), &WRITER, body).unwrap();
    assert_eq!(ready.draft.key, *sample().key);
    let node = json!({"metadata": {"name": "x", "namespace": "default"}});
    assert!(create(&place(Kind::TunnelNode, None), &WRITER, node).is_ok(), "a namespace that is none is dropped");
}

#[test]
fn unknown_fields_are_refused_or_warned_of_or_dropped() {
    let body = || {
        let spec = json!({"endpoints": [{"ip": "192.0.2.1", "prot": 1}], "protocl": "h2c"});
        manifest(Kind::Backend, json!({"spec": spec, "extra": 1}))
    };
    let written = |validation| create(&place(Kind::Backend, None), &Writer { validation, ..WRITER }, body());
    let refused = written(FieldValidation::Strict).unwrap_err();
    let message = &refused.message;
    assert_eq!((refused.code.as_u16(), refused.reason), (400, "BadRequest"));
    assert!(message.starts_with("Backend in version \"v1alpha2\" cannot be handled as a Backend: "), "{message}");
    let list = message.split("strict decoding error: ").nth(1).unwrap();
    for field in ["extra", "spec.endpoints[0].prot", "spec.protocl"] {
        assert!(list.contains(&format!("unknown field \"{field}\"")), "{message}");
    }
    let warned = written(FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings.len(), 3);
    assert!(warned.warnings.contains(&"unknown field \"spec.protocl\"".to_owned()));
    let ignored = written(FieldValidation::Ignore).unwrap();
    assert_eq!(ignored.warnings, [""; 0]);
    assert_eq!((&warned.draft, &ignored.draft.content), (&ignored.draft, &sample().body.content));
}

#[test]
fn unknown_fields_do_not_hide_what_else_is_wrong() {
    let body = manifest(Kind::Backend, json!({"spec": {"endpoints": [{"ip": "nonsense"}], "protocl": "h2c"}}));
    let refused = create(&place(Kind::Backend, None), &WRITER, body).unwrap_err().to_value();
    let causes = refused["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["spec.protocl", "spec.endpoints[0].ip"]);
}

#[test]
fn owners_of_fields_are_noted() {
    let object = sample();
    let owners = &object.body.meta.managed_fields;
    assert_eq!((&owners[0]["manager"], &owners[0]["operation"]), (&json!("tester"), &json!("Update")));
    assert_eq!(owners[0]["time"], TIME);
    let body = manifest(Kind::Backend, json!({"spec": {"endpoints": [{"ip": "192.0.2.9"}]}}));
    let other = Writer { name: "other", ..WRITER };
    let place = place(Kind::Backend, None);
    let conflict = applied(&place, "x", &other, body.clone(), Some(&object)).unwrap_err().to_value();
    assert_eq!((&conflict["code"], &conflict["reason"]), (&json!(409), &json!("Conflict")));
    let cause = &conflict["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert!(cause["message"].as_str().unwrap().starts_with("conflict with \"tester\" using core.apoxy.dev/v1alpha2"));
    assert!(cause["field"].as_str().unwrap().starts_with(".spec.endpoints"), "{cause}");
    let forced = applied(&place, "x", &Writer { force: true, ..other }, body, Some(&object)).unwrap();
    assert_eq!(forced.draft.content["spec"]["endpoints"][0]["ip"], "192.0.2.9");
    assert_eq!(forced.draft.meta.managed_fields[0]["operation"], "Apply");
}

#[test]
fn an_apply_that_means_another_object_creates_none() {
    let place = place(Kind::Backend, None);
    let body = |field: &str, value: &str| {
        let mut body = manifest(Kind::Backend, json!({"spec": {"endpoints": [{"ip": "192.0.2.1"}]}}));
        body["metadata"][field] = json!(value);
        body
    };
    let code = |body, current: Option<&Object>| applied(&place, "x", &WRITER, body, current).unwrap_err().code.as_u16();
    let object = sample();
    assert_eq!(code(body("uid", "u"), None), 409);
    assert_eq!(code(body("resourceVersion", "7"), None), 404);
    assert_eq!(code(body("uid", "u"), Some(&object)), 409);
    assert_eq!(code(body("resourceVersion", "1"), Some(&object)), 409);
    assert_eq!(code(body("name", "y"), None), 400);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z.:/-]{0,6}|\\PC{0,3}".prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("metadata"),
        Just("name"),
        Just("namespace"),
        Just("uid"),
        Just("resourceVersion"),
        Just("spec"),
        Just("status"),
        Just("managedFields"),
        Just("finalizers"),
        Just("ownerReferences"),
        Just("labels"),
        Just("stringData"),
        Just("data"),
        Just("endpoints"),
        Just("kind"),
        Just("apiVersion"),
        Just("x"),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(names.clone(), inner, 0..5).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_is_taken_or_refused_without_panic(
        body in any_json(),
        kind in prop_oneof![Just(Kind::Secret), Just(Kind::Backend), Just(Kind::ConfigMap)],
        status in any::<bool>(),
        validation in prop_oneof![
            Just(FieldValidation::Strict), Just(FieldValidation::Warn), Just(FieldValidation::Ignore),
        ],
    ) {
        let subresource = (status && kind.info().has_status).then_some(Subresource::Status);
        let (place, writer) = (place(kind, subresource), Writer { validation, ..WRITER });
        let manifest = manifest(kind, match kind {
            Kind::Backend => json!({"spec": {"endpoints": [{"ip": "192.0.2.1"}]}}),
            _ => json!({}),
        });
        let object = made(kind, manifest);
        let mut whole = body.clone();
        if let Some(metadata) = whole.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("name".to_owned(), json!("x"));
        }
        for body in [body, whole] {
            let _ = create(&place, &writer, body.clone());
            if let Ok(ready) = update(&place, &writer, body.clone(), &object) {
                prop_assert_eq!(&ready.draft.key, &*object.key);
                if kind.info().has_status && subresource.is_none() {
                    prop_assert_eq!(&ready.draft.status, &object.body.status);
                }
                if subresource.is_some() {
                    prop_assert_eq!(&ready.draft.content, &object.body.content);
                }
            }
            let _ = applied(&place, "x", &writer, body.clone(), None);
            let _ = applied(&place, "x", &writer, body, Some(&object));
        }
    }
}
