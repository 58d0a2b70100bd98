//! What pages about objects read from them: names, references, conditions.
//!
//! Pure, and total over arbitrary JSON: what is missing or of another type is shown as `-`.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use super::print::text;

const NOTHING: &str = "-";
/// Groups under which a reference may name a Gateway, a ListenerSet or a route; both are views of one object.
const GATEWAY_GROUPS: [&str; 2] = ["gateway.networking.k8s.io", "gateway.apoxy.dev"];
/// What comes between a node's name and the rest of the name under which its agents are reached.
const NODE_MARK: &str = ".tun.";

/// The kinds of routes, and the word that `gateway routes` has for each.
pub(crate) const ROUTES: [(Kind, &str); 5] = [
    (Kind::HttpRoute, "http"),
    (Kind::GrpcRoute, "grpc"),
    (Kind::TlsRoute, "tls"),
    (Kind::TcpRoute, "tcp"),
    (Kind::UdpRoute, "udp"),
];

pub(crate) fn is_route(kind: Kind) -> bool {
    ROUTES.iter().any(|(route, _)| *route == kind)
}

pub(crate) fn name(object: &Value) -> String {
    cell(&object["metadata"]["name"])
}

pub(crate) fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

/// `NAME`, or `NAMESPACE/NAME` when the object lives elsewhere than in `home`.
pub(crate) fn name_from(object: &Value, home: &str) -> String {
    match namespace(object) {
        own if own.is_empty() || own == home => name(object),
        own => format!("{own}/{}", name(object)),
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn hostnames(route: &Value) -> String {
    match list(&route["spec"]["hostnames"]) {
        [] => "*".to_owned(),
        _ => join(&route["spec"]["hostnames"], scalar),
    }
}

/// Every reference to a backend in every rule.
pub(crate) fn backend_refs(route: &Value) -> impl Iterator<Item = &Value> {
    list(&route["spec"]["rules"]).iter().flat_map(|rule| list(&rule["backendRefs"]))
}

/// `name:port` of every backend of every rule, each once.
pub(crate) fn backends(route: &Value) -> String {
    let mut seen: Vec<String> = Vec::new();
    for backend in backend_refs(route) {
        let backend = backend_of(backend);
        if !seen.contains(&backend) {
            seen.push(backend);
        }
    }
    if seen.is_empty() { NOTHING.to_owned() } else { seen.join(",") }
}

/// `name:port`.
pub(crate) fn backend_of(reference: &Value) -> String {
    let mut name = scalar(&reference["name"]);
    if let Some(namespace) = reference["namespace"].as_str() {
        name = format!("{namespace}/{name}");
    }
    match &reference["port"] {
        Value::Null => name,
        port => format!("{name}:{}", scalar(port)),
    }
}

/// `name` or `namespace/name`, with the kind if it is no Gateway, and the listener if one is named.
pub(crate) fn parent_of(reference: &Value) -> String {
    let mut parent = scalar(&reference["name"]);
    if let Some(namespace) = reference["namespace"].as_str() {
        parent = format!("{namespace}/{parent}");
    }
    if let Some(kind) = reference["kind"].as_str().filter(|kind| *kind != "Gateway") {
        parent = format!("{kind} {parent}");
    }
    match (reference["sectionName"].as_str(), reference["port"].as_u64()) {
        (Some(section), _) => format!("{parent}#{section}"),
        (None, Some(port)) => format!("{parent}:{port}"),
        (None, None) => parent,
    }
}

/// Every parent that the route names, with the conditions that its status has for it.
pub(crate) fn parents(route: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    const IDENTITY: [&str; 4] = ["name", "namespace", "sectionName", "port"];
    let home = &route["metadata"]["namespace"];
    let part = move |reference: &Value, field: &str| match &reference[field] {
        Value::Null if field == "namespace" => home.clone(),
        value => value.clone(),
    };
    let states = list(&route["status"]["parents"]);
    list(&route["spec"]["parentRefs"]).iter().map(move |reference| {
        let is_same = |state: &&Value| {
            IDENTITY.iter().all(|field| part(&state["parentRef"], field) == part(reference, field))
                && kind_of(&state["parentRef"], "Gateway") == kind_of(reference, "Gateway")
        };
        (reference, states.iter().find(is_same).map_or(&Value::Null, |state| &state["conditions"]))
    })
}

/// Whether the reference of an object in `home` names this Gateway or ListenerSet.
pub(crate) fn is_parent(reference: &Value, home: &str, kind: &str, parent: &Value) -> bool {
    let group = reference["group"].as_str().unwrap_or(GATEWAY_GROUPS[0]);
    GATEWAY_GROUPS.contains(&group)
        && kind_of(reference, "Gateway") == kind
        && reference["namespace"].as_str().unwrap_or(home) == namespace(parent)
        && reference["name"] == parent["metadata"]["name"]
        && !reference["name"].is_null()
}

/// Whether the reference of a route in `home` names this Backend.
pub(crate) fn is_backend(reference: &Value, home: &str, backend: &Value) -> bool {
    kind_of(reference, "Service") == "Backend"
        && reference["namespace"].as_str().unwrap_or(home) == namespace(backend)
        && reference["name"] == backend["metadata"]["name"]
        && !reference["name"].is_null()
}

/// The kind that a reference names, or the one it means when it names none.
pub(crate) fn kind_of<'a>(reference: &'a Value, default: &'a str) -> &'a str {
    reference["kind"].as_str().unwrap_or(default)
}

/// The nodes that a Backend's endpoints name, such as `office.tun.internal`, each once.
pub(crate) fn nodes_of(backend: &Value) -> Vec<&str> {
    let mut nodes = Vec::new();
    for endpoint in list(&backend["spec"]["endpoints"]) {
        let before = text(&endpoint["fqdn"]).split_once(NODE_MARK).map(|(before, _)| before);
        let node = before.and_then(|before| before.rsplit('.').next()).filter(|node| !node.is_empty());
        nodes.extend(node.filter(|node| !nodes.contains(node)));
    }
    nodes
}

/// `True`, `False (Reason)`, `Unknown (Reason)`, or `-` when the condition is not there.
pub(crate) fn condition(conditions: &Value, kind: &str) -> String {
    let found = list(conditions).iter().find(|condition| condition["type"] == kind);
    match found {
        None => NOTHING.to_owned(),
        Some(condition) if condition["status"] == "True" => "True".to_owned(),
        Some(condition) => match text(&condition["reason"]) {
            "" => scalar(&condition["status"]),
            reason => format!("{} ({reason})", scalar(&condition["status"])),
        },
    }
}

/// The condition over all parents: the first that is not true, else `True`.
pub(crate) fn over_parents(route: &Value, kind: &str) -> String {
    let parents = list(&route["status"]["parents"]).iter();
    let states: Vec<String> = parents.map(|parent| condition(&parent["conditions"], kind)).collect();
    let worst = states.iter().find(|state| *state != "True").or(states.first());
    worst.map_or(NOTHING, String::as_str).to_owned()
}

/// Accepted, resolved, and why not.
pub(crate) fn verdict(conditions: &Value) -> [String; 3] {
    [condition(conditions, "Accepted"), condition(conditions, "ResolvedRefs"), complaints(conditions)]
}

/// The messages of all conditions that are not true.
fn complaints(conditions: &Value) -> String {
    let messages: Vec<&str> = list(conditions)
        .iter()
        .filter(|condition| condition["status"] != "True")
        .map(|condition| text(&condition["message"]))
        .filter(|message| !message.is_empty())
        .collect();
    messages.join("; ")
}

pub(crate) fn cell(value: &Value) -> String {
    match scalar(value) {
        empty if empty.is_empty() => NOTHING.to_owned(),
        text => text,
    }
}

pub(crate) fn join(items: &Value, each: impl Fn(&Value) -> String) -> String {
    let items: Vec<String> = list(items).iter().map(each).collect();
    if items.is_empty() { NOTHING.to_owned() } else { items.join(",") }
}

pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_route_shows_the_worst_of_its_parents() {
        let condition = |status: &str, reason: &str| json!({"type": "Accepted", "status": status, "reason": reason});
        let route = json!({"status": {"parents": [
            {"conditions": [condition("True", "Accepted")]},
            {"conditions": [condition("False", "NoMatchingParent")]}]}});
        assert_eq!(over_parents(&route, "Accepted"), "False (NoMatchingParent)");
        assert_eq!(over_parents(&route, "ResolvedRefs"), "-");
    }

    #[test]
    fn the_nodes_of_a_backend_are_in_its_names() {
        let backend = json!({"spec": {"endpoints": [
            {"fqdn": "office.tun.internal"}, {"fqdn": "a1.office.tun.example.net"}, {"fqdn": "lab.tun.internal."},
            {"fqdn": ".tun.x"}, {"fqdn": "example.com"}, {"ip": "::1"}, 5]}});
        assert_eq!(nodes_of(&backend), ["office", "lab"]);
    }

    #[test]
    fn parents_are_told_apart_by_kind_group_and_namespace() {
        let gateway = json!({"metadata": {"name": "eg", "namespace": "a"}});
        let is = |reference: Value, home: &str| is_parent(&reference, home, "Gateway", &gateway);
        assert!(is(json!({"name": "eg"}), "a"));
        assert!(is(json!({"name": "eg", "namespace": "a", "group": "gateway.apoxy.dev", "kind": "Gateway"}), "b"));
        assert!(!is(json!({"name": "eg"}), "b"));
        assert!(!is(json!({"name": "eg", "kind": "ListenerSet"}), "a"));
        assert!(!is(json!({"name": "eg", "group": "x"}), "a"));
        assert!(!is_parent(&json!({}), "", "Gateway", &json!({})));
    }
}
