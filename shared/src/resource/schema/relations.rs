//! The rules that span several fields of an object, which the tables cannot say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::Value;

use super::{
    Cause, Check, Kind,
    tables::{BACKEND_REFS_MAX, ENDPOINTS_MAX, LISTENERS_MAX, MATCHES_MAX, PARENT_REFS_MAX, RULES_MAX},
    text::match_path,
};

/// The most matches of all rules of a route together (upstream's rule on `HTTPRouteSpec.rules`).
const MATCHES_OF_ROUTE_MAX: usize = 128;

/// The most bytes of all annotations together (Kubernetes' limit).
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

pub(super) fn check(kind: Kind, object: &Value, check: &mut Check) {
    annotations(object, check);
    let Some(spec) = object.get("spec").filter(|spec| spec.is_object()) else { return };
    check.at_field("spec", |check| match kind {
        Kind::Backend => backend(spec, check),
        Kind::Gateway => gateway(spec, check),
        Kind::HttpRoute => http_route(spec, check),
        _ => {}
    });
}

fn annotations(object: &Value, check: &mut Check) {
    let Some(annotations) = object.pointer("/metadata/annotations").and_then(Value::as_object) else { return };
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        let message = format!("must be at most {ANNOTATIONS_BYTES_MAX} bytes together, not {bytes}");
        check.at_field("metadata", |check| {
            check.at_field("annotations", |check| check.report(Cause::Invalid, message));
        });
    }
}

fn is_set(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

fn backend(spec: &Value, check: &mut Check) {
    check.each(spec, "endpoints", ENDPOINTS_MAX, |check, endpoint| {
        if !endpoint.is_object() {
            return;
        }
        match (is_set(endpoint, "fqdn"), is_set(endpoint, "ip")) {
            (true, true) => check.report(Cause::Invalid, "`fqdn` and `ip` exclude each other: name one"),
            (false, false) => check.report(Cause::Required, "one of `fqdn` and `ip` is required"),
            _ => {}
        }
    });
}

fn gateway(spec: &Value, check: &mut Check) {
    let mut seen = BTreeSet::new();
    check.each(spec, "listeners", LISTENERS_MAX, |check, listener| {
        let Some(port) = listener.get("port").and_then(Value::as_i64) else { return };
        let protocol = listener.get("protocol").and_then(Value::as_str).unwrap_or_default();
        let hostname = listener.get("hostname").and_then(Value::as_str).unwrap_or_default();
        if !seen.insert((port, protocol.to_owned(), hostname.to_owned())) {
            check.report(Cause::Duplicate, "another listener has the same port, protocol and hostname");
        }
    });
}

fn http_route(spec: &Value, check: &mut Check) {
    parent_refs(spec, check);
    let mut names = BTreeSet::new();
    let mut matches = 0;
    check.each(spec, "rules", RULES_MAX, |check, rule| {
        if let Some(name) = rule.get("name").and_then(Value::as_str)
            && !names.insert(name.to_owned())
        {
            check.at_field("name", |check| check.report(Cause::Duplicate, "another rule has the same name"));
        }
        matches += rule.get("matches").and_then(Value::as_array).map_or(1, Vec::len);
        check.each(rule, "matches", MATCHES_MAX, |check, found| path_match(found, check));
        check.each(rule, "backendRefs", BACKEND_REFS_MAX, |check, backend| backend_ref(backend, check));
    });
    if matches > MATCHES_OF_ROUTE_MAX {
        let message = format!("must have at most {MATCHES_OF_ROUTE_MAX} matches together, not {matches}");
        check.at_field("rules", |check| check.report(Cause::Invalid, message));
    }
}

/// Parents are told apart by listener: two references to one Gateway must differ in `sectionName` or `port`.
fn parent_refs(spec: &Value, check: &mut Check) {
    let text = |parent: &Value, field: &str, absent: &str| {
        parent.get(field).and_then(Value::as_str).unwrap_or(absent).to_owned()
    };
    let mut sections: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    check.each(spec, "parentRefs", PARENT_REFS_MAX, |check, parent| {
        let gateway = (text(parent, "namespace", ""), text(parent, "name", ""));
        let section = (text(parent, "sectionName", ""), parent.get("port").and_then(Value::as_i64));
        let others = sections.entry(gateway).or_default();
        let whole = (String::new(), None);
        if others.contains(&section) {
            check.report(Cause::Duplicate, "the same parent is named twice");
        } else if !others.is_empty() && (section == whole || others.contains(&whole)) {
            let message = "`sectionName` or `port` is required where a parent is named more than once";
            check.report(Cause::Invalid, message);
        }
        others.insert(section);
    });
}

fn path_match(found: &Value, check: &mut Check) {
    let Some(path) = found.get("path") else { return };
    let Some(value) = path.get("value").and_then(Value::as_str) else { return };
    if path.get("type").and_then(Value::as_str) == Some("RegularExpression") {
        return;
    }
    if let Err(message) = match_path(value) {
        check.at_field("path", |check| check.at_field("value", |check| check.report(Cause::Invalid, message)));
    }
}

fn backend_ref(backend: &Value, check: &mut Check) {
    let kind = backend.get("kind").and_then(Value::as_str).unwrap_or("Service");
    if backend.is_object() && matches!(kind, "Service" | "Backend") && !is_set(backend, "port") {
        let message = format!("required: a reference to a {kind} says the port");
        check.at_field("port", |check| check.report(Cause::Required, message));
    }
    if let Some(name) = backend.get("name").and_then(Value::as_str)
        && name.parse::<IpAddr>().is_ok()
    {
        let message = "an IP address; write a Backend with this `ip` and name the Backend";
        check.at_field("name", |check| check.report(Cause::Invalid, message));
    }
}
