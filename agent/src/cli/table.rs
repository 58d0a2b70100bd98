//! The columns of each kind, read from objects as the API gives them.
//!
//! Pure, and total over arbitrary JSON: what is missing or of another type is shown as `-`.

use serde_json::Value;
use time::OffsetDateTime;
use underpass_shared::resource::kind::{Kind, KindInfo, Scope};

use super::{duration, print::columns};

const NOTHING: &str = "-";

/// What a table shows beside the kind's usual columns.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    pub(crate) is_wide: bool,
    pub(crate) has_namespaces: bool,
}

/// The table of `objects`, all of one kind.
pub(crate) fn table(info: &KindInfo, objects: &[Value], extent: Extent, now: OffsetDateTime) -> String {
    let (mut header, read) = columns_of(info.kind);
    let wide = if extent.is_wide { wide_columns_of(info.kind) } else { &[] };
    header.push("AGE");
    header.extend(wide.iter().map(|(title, _)| *title));
    let has_namespaces = extent.has_namespaces && info.scope == Scope::Namespaced;
    if has_namespaces {
        header.insert(0, "NAMESPACE");
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|object| {
            let mut row = read(object);
            row.push(duration::age(text(&object["metadata"]["creationTimestamp"]), now));
            row.extend(wide.iter().map(|(_, read)| read(object)));
            if has_namespaces {
                row.insert(0, text(&object["metadata"]["namespace"]).to_owned());
            }
            row
        })
        .collect();
    columns(&header, &rows)
}

type Cell = fn(&Value) -> String;
type Row = fn(&Value) -> Vec<String>;

fn columns_of(kind: Kind) -> (Vec<&'static str>, Row) {
    match kind {
        Kind::TunnelNode => (vec!["NAME", "PREFIX", "AGENTS", "ADDRESSES"], |object| {
            let status = &object["status"];
            let agents = status["agents"].as_array().map_or(0, Vec::len);
            vec![name(object), cell(&status["prefix"]), agents.to_string(), join(&status["addresses"], scalar)]
        }),
        Kind::Proxy => (vec!["NAME", "PROVIDER"], |object| vec![name(object), cell(&object["spec"]["provider"])]),
        Kind::GatewayClass => (vec!["NAME", "CONTROLLER", "ACCEPTED"], |object| {
            vec![
                name(object),
                cell(&object["spec"]["controllerName"]),
                condition(&object["status"]["conditions"], "Accepted"),
            ]
        }),
        Kind::Gateway => (vec!["NAME", "CLASS", "ADDRESS", "PROGRAMMED", "LISTENERS"], |object| {
            let (spec, status) = (&object["spec"], &object["status"]);
            vec![
                name(object),
                cell(&spec["gatewayClassName"]),
                join(&status["addresses"], |address| scalar(&address["value"])),
                condition(&status["conditions"], "Programmed"),
                join(&spec["listeners"], |listener| {
                    format!("{}:{}", scalar(&listener["name"]), scalar(&listener["port"]))
                }),
            ]
        }),
        Kind::Backend => (vec!["NAME", "ENDPOINTS", "PROTOCOL"], |object| {
            let spec = &object["spec"];
            vec![
                name(object),
                join(&spec["endpoints"], |endpoint| {
                    scalar(if endpoint["fqdn"].is_string() { &endpoint["fqdn"] } else { &endpoint["ip"] })
                }),
                match text(&spec["protocol"]) {
                    "" => "plain".to_owned(),
                    protocol => protocol.to_owned(),
                },
            ]
        }),
        Kind::HttpRoute => (vec!["NAME", "HOSTNAMES", "ACCEPTED", "RESOLVED"], |object| {
            vec![
                name(object),
                hostnames(object),
                over_parents(object, "Accepted"),
                over_parents(object, "ResolvedRefs"),
            ]
        }),
        _ => (vec!["NAME"], |object| vec![name(object)]),
    }
}

fn wide_columns_of(kind: Kind) -> &'static [(&'static str, Cell)] {
    match kind {
        Kind::TunnelNode => {
            &[("AGENT ADDRESSES", |object| join(&object["status"]["agents"], |agent| scalar(&agent["agentAddress"])))]
        }
        Kind::Gateway => &[("ROUTES", |object| {
            let listeners = object["status"]["listeners"].as_array().into_iter().flatten();
            listeners.filter_map(|listener| listener["attachedRoutes"].as_u64()).max().unwrap_or(0).to_string()
        })],
        Kind::HttpRoute => {
            &[("GATEWAYS", |object| join(&object["spec"]["parentRefs"], gateway_of)), ("BACKENDS", backends)]
        }
        Kind::Backend => &[("ACCEPTED", |object| condition(&object["status"]["conditions"], "Accepted"))],
        _ => &[],
    }
}

/// The text, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn name(object: &Value) -> String {
    cell(&object["metadata"]["name"])
}

pub(crate) fn hostnames(route: &Value) -> String {
    match route["spec"]["hostnames"].as_array() {
        Some(names) if !names.is_empty() => join(&route["spec"]["hostnames"], scalar),
        _ => "*".to_owned(),
    }
}

/// `name:port` of every backend of every rule, each once.
pub(crate) fn backends(route: &Value) -> String {
    let rules = route["spec"]["rules"].as_array().into_iter().flatten();
    let mut seen: Vec<String> = Vec::new();
    for backend in rules.flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten()) {
        let backend = backend_of(backend);
        if !seen.contains(&backend) {
            seen.push(backend);
        }
    }
    if seen.is_empty() { NOTHING.to_owned() } else { seen.join(",") }
}

/// `name:port`.
pub(crate) fn backend_of(reference: &Value) -> String {
    match &reference["port"] {
        Value::Null => scalar(&reference["name"]),
        port => format!("{}:{}", scalar(&reference["name"]), scalar(port)),
    }
}

/// `name` or `namespace/name`, with the listener if one is named.
pub(crate) fn gateway_of(reference: &Value) -> String {
    let mut gateway = scalar(&reference["name"]);
    if let Some(namespace) = reference["namespace"].as_str() {
        gateway = format!("{namespace}/{gateway}");
    }
    match reference["sectionName"].as_str() {
        Some(section) => format!("{gateway}#{section}"),
        None => gateway,
    }
}

/// `True`, `False (Reason)`, `Unknown (Reason)`, or `-` when the condition is not there.
pub(crate) fn condition(conditions: &Value, kind: &str) -> String {
    let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
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
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let states: Vec<String> = parents.map(|parent| condition(&parent["conditions"], kind)).collect();
    let worst = states.iter().find(|state| *state != "True").or(states.first());
    worst.map_or(NOTHING, String::as_str).to_owned()
}

/// The messages of all conditions that are not true.
pub(crate) fn complaints(conditions: &Value) -> String {
    let conditions = conditions.as_array().into_iter().flatten();
    let messages: Vec<&str> = conditions
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

pub(crate) fn join(list: &Value, each: impl Fn(&Value) -> String) -> String {
    let items: Vec<String> = list.as_array().into_iter().flatten().map(each).collect();
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
    use proptest::prelude::*;
    use serde_json::json;
    use time::format_description::well_known::Rfc3339;
    use underpass_shared::resource::kind::KINDS;

    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::parse("2026-11-21T12:00:00Z", &Rfc3339).unwrap()
    }

    fn shown(kind: Kind, object: &Value, extent: Extent) -> String {
        table(kind.info(), std::slice::from_ref(object), extent, now())
    }

    const WIDE: Extent = Extent { is_wide: true, has_namespaces: true };

    #[test]
    fn a_tunnel_node_shows_prefix_agents_and_addresses() {
        let node = json!({
            "metadata": {"name": "office", "creationTimestamp": "2026-11-21T11:55:00Z"},
            "status": {"prefix": "fd00::/64", "addresses": ["relay:7443", "other:7443"],
                "agents": [{"name": "a-1", "agentAddress": "fd00::1"}]}});
        assert_eq!(
            shown(Kind::TunnelNode, &node, Extent::default()),
            "NAME     PREFIX      AGENTS   ADDRESSES               AGE\n\
             office   fd00::/64   1        relay:7443,other:7443   5m\n"
        );
        assert_eq!(
            shown(Kind::TunnelNode, &node, WIDE),
            "NAME     PREFIX      AGENTS   ADDRESSES               AGE   AGENT ADDRESSES\n\
             office   fd00::/64   1        relay:7443,other:7443   5m    fd00::1\n"
        );
    }

    #[test]
    fn a_route_shows_the_worst_of_its_parents() {
        let condition =
            |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason});
        let route = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "parentRefs": [{"name": "default"}, {"name": "eg", "namespace": "x", "sectionName": "http"}],
                "hostnames": ["a.example", "b.example"],
                "rules": [{"backendRefs": [{"name": "be", "port": 80}, {"name": "be", "port": 80}, {"name": "c"}]}]},
            "status": {"parents": [
                {"conditions": [condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", "True", "ResolvedRefs")]},
                {"conditions": [condition("Accepted", "False", "NoMatchingParent")]}]}});
        assert_eq!(
            shown(Kind::HttpRoute, &route, WIDE),
            "NAMESPACE   NAME   HOSTNAMES             ACCEPTED                   RESOLVED   AGE   GATEWAYS            BACKENDS\n\
             shop        web    a.example,b.example   False (NoMatchingParent)   -          -     default,x/eg#http   be:80,c\n"
        );
    }

    #[test]
    fn gateways_and_backends_show_what_people_look_for() {
        let gateway = json!({
            "metadata": {"name": "default"},
            "spec": {"gatewayClassName": "default", "listeners": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]},
            "status": {"addresses": [{"type": "IPAddress", "value": "192.0.2.1"}],
                "conditions": [{"type": "Programmed", "status": "True"}]}});
        assert_eq!(
            shown(Kind::Gateway, &gateway, Extent::default()),
            "NAME      CLASS     ADDRESS     PROGRAMMED   LISTENERS           AGE\n\
             default   default   192.0.2.1   True         http:80,https:443   -\n"
        );
        let backend =
            json!({"metadata": {"name": "b"}, "spec": {"endpoints": [{"fqdn": "office.tun.internal"}, {"ip": "::1"}]}});
        assert_eq!(
            shown(Kind::Backend, &backend, Extent::default()),
            "NAME   ENDPOINTS                 PROTOCOL   AGE\nb      office.tun.internal,::1   plain      -\n"
        );
    }

    proptest! {
        #[test]
        fn every_kind_has_a_row_for_arbitrary_objects(text in "[a-z]{0,4}", number in any::<i64>(), pick in 0..6) {
            let odd = [json!(text), json!(number), json!(null), json!([]), json!({}), json!([[{}], 1, {"name": []}])];
            let odd = &odd[usize::try_from(pick).unwrap()];
            let object = json!({
                "metadata": {"name": odd, "creationTimestamp": odd},
                "spec": {"listeners": odd, "endpoints": [odd], "parentRefs": [odd], "hostnames": odd, "rules": [odd]},
                "status": {"agents": [odd], "parents": [{"conditions": [odd]}], "conditions": odd, "listeners": [odd]}});
            for info in KINDS {
                for object in [&object, odd] {
                    prop_assert_eq!(table(info, std::slice::from_ref(object), WIDE, now()).lines().count(), 2);
                }
            }
        }
    }
}
