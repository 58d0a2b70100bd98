//! Kinds that are stored and whose behaviour is not built yet: the status that says so.
//!
//! Never a silent success: each gets `Accepted: False`, where its kind has its conditions.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use underpass_shared::resource::{condition::Condition, gateway::CONTROLLER_NAME, kind::Kind};

use super::{conditions, is_gateway_group, unserved};

/// The most parents of a route (Gateway API, `parentRefs`).
const PARENTS_MAX: usize = 32;
/// The most targets of a policy (Gateway API, `targetRefs`).
const TARGETS_MAX: usize = 16;

/// The reason where no standard one fits.
const NOT_IMPLEMENTED: &str = "NotImplemented";

/// Where an object of a kind says what is true of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `status.ancestors`, by `spec.targetRefs`.
    Policy,
    /// The same, and `status.conditions`.
    PolicyWithConditions,
    /// `status.conditions`.
    Conditions,
}

fn form(kind: Kind) -> Option<Form> {
    match kind {
        Kind::SecurityPolicy => Some(Form::Policy),
        Kind::RateLimit => Some(Form::PolicyWithConditions),
        Kind::EdgeFunction
        | Kind::EdgeFunctionRevision
        | Kind::DomainZone
        | Kind::DomainRecord
        | Kind::CloudMonitoringIntegration => Some(Form::Conditions),
        _ => None,
    }
}

/// Whether objects of `kind` are stored, and nothing acts on them yet.
#[must_use]
pub fn is_unbuilt(kind: Kind) -> bool {
    form(kind).is_some()
}

/// What is said of such an object.
pub(super) fn message(kind: Kind) -> String {
    let name = kind.info().name;
    let article = if name.starts_with(['E', 'H']) { "an" } else { "a" };
    format!("{article} {name} is stored and not served yet")
}

/// A Gateway by namespace and name.
pub(super) type GatewayPlace<'a> = (&'a str, &'a str);

/// What the status of `object` must say, or `None` when nothing of it is ours to speak of.
pub(super) fn status(kind: Kind, object: &Value) -> Option<Value> {
    let form = form(kind)?;
    let no = |reason| vec![conditions::no(generation(object), "Accepted", reason, message(kind))];
    match form {
        Form::Policy => Some(json!({ "ancestors": ancestors(object, &no(NOT_IMPLEMENTED)) })),
        Form::PolicyWithConditions => {
            let (ancestors, conditions) = (ancestors(object, &no(NOT_IMPLEMENTED)), no(NOT_IMPLEMENTED));
            Some(json!({ "ancestors": ancestors, "conditions": conditions }))
        }
        Form::Conditions => Some(json!({ "conditions": no(NOT_IMPLEMENTED) })),
    }
}

/// What the status of a Proxy must say: which of its wishes nothing acts on.
pub(super) fn proxy(object: &Value) -> Value {
    let found = unserved::find(Kind::Proxy, object);
    let at = generation(object);
    let accepted = if found.is_empty() {
        conditions::yes(at, "Accepted", "Accepted", "relays are started by the operator")
    } else {
        conditions::no(at, "Accepted", "UnsupportedValue", unserved::sentence(&found))
    };
    json!({ "conditions": [accepted] })
}

/// What the status of an object that could not be read must say; `why` is for people.
pub(super) fn unreadable(kind: Kind, object: &Value, why: &str, foreign: &BTreeSet<GatewayPlace<'_>>) -> Value {
    let at = generation(object);
    let message = format!("the object is stored and not understood, so it is not served: {why}");
    let no = |kind, reason| conditions::no(at, kind, reason, message.clone());
    match kind {
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
            json!({ "parents": parents(object, foreign, &[no("Accepted", "UnsupportedValue")]) })
        }
        Kind::Gateway | Kind::ListenerSet => {
            json!({ "conditions": [no("Accepted", "Invalid"), no("Programmed", "Invalid")], "listeners": [] })
        }
        Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy | Kind::ClientTrafficPolicy => {
            json!({ "ancestors": ancestors(object, &[no("Accepted", "Invalid")]) })
        }
        _ => json!({ "conditions": [no("Accepted", "Invalid")] }),
    }
}

/// `status.parents`: `conditions` for each parent that is ours.
fn parents(object: &Value, foreign: &BTreeSet<GatewayPlace<'_>>, conditions: &[Condition]) -> Vec<Value> {
    let ours = references(object, "parentRefs", PARENTS_MAX).filter(|one| is_ours(one, namespace(object), foreign));
    ours.map(|parent| entry("parentRef", parent, &["Gateway"], conditions)).collect()
}

/// `status.ancestors`: `conditions` for each target.
fn ancestors(object: &Value, conditions: &[Condition]) -> Vec<Value> {
    let targets = references(object, "targetRefs", TARGETS_MAX);
    targets.map(|target| entry("ancestorRef", target, &[], conditions)).collect()
}

/// The named references of a list; what has no name refers to nothing.
fn references<'a>(object: &'a Value, field: &str, max: usize) -> impl Iterator<Item = &'a Value> {
    let list = object.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_array);
    list.into_iter().flatten().take(max).filter(|one| text(one, "name").is_some())
}

/// `kinds` holds the kind of a reference that names none, which then is of the Gateway API.
fn entry(field: &str, written: &Value, kinds: &[&str], conditions: &[Condition]) -> Value {
    let mut reference = Map::new();
    for name in ["group", "kind", "namespace", "name", "sectionName"] {
        if let Some(text) = text(written, name) {
            reference.insert(name.to_owned(), json!(text));
        }
    }
    if let Some(port) = written.get("port").and_then(Value::as_i64) {
        reference.insert("port".to_owned(), json!(port));
    }
    if let [kind] = kinds {
        reference.entry("group").or_insert_with(|| json!("gateway.networking.k8s.io"));
        reference.entry("kind").or_insert_with(|| json!(kind));
    }
    json!({ field: reference, "controllerName": CONTROLLER_NAME, "conditions": conditions })
}

fn is_ours(parent: &Value, namespace: &str, foreign: &BTreeSet<GatewayPlace<'_>>) -> bool {
    let place = (text(parent, "namespace").unwrap_or(namespace), text(parent, "name").unwrap_or_default());
    is_gateway_group(text(parent, "group")) && !foreign.contains(&place)
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

pub(super) fn namespace(object: &Value) -> &str {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default")
}

fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default()
}
