//! Pages about gateways and routes: listeners, attached routes, rules, and what each says of the other.
//!
//! Pure.

use serde_json::Value;
use time::OffsetDateTime;

use super::{
    duration,
    fields::{
        backend_of, backends, cell, condition, hostnames, is_parent, join, kind_of, list, name, name_from, namespace,
        parent_of, parents, scalar, verdict,
    },
    print::{clean, clean_line, columns, text},
};

#[cfg(test)]
pub(super) mod tests;

/// The gateway, its listeners and those of its ListenerSets, and a table of every attached route with its conditions.
pub(crate) fn gateway(gateway: &Value, sets: &[Value], routes: &[Value], now: OffsetDateTime) -> String {
    let (spec, status) = (&gateway["spec"], &gateway["status"]);
    let mut page = headline("Gateway", gateway, now);
    page += &field("Class", &cell(&spec["gatewayClassName"]));
    page += &field("Addresses", &join(&status["addresses"], |address| scalar(&address["value"])));
    page += &conditions_field(&status["conditions"]);
    page += &listeners(gateway, sets);
    clean(&(page + &attached(gateway, sets, routes)))
}

/// The route, its rules, and what each parent says of it.
pub(crate) fn route(route: &Value, now: OffsetDateTime) -> String {
    let mut page = headline(kind_of(route, "Route"), route, now);
    if has_hostnames(route) {
        page += &field("Hostnames", &hostnames(route));
    }
    page += &rules(route);
    clean(&(page + &parents_of(route)))
}

/// One line per route.
pub(crate) fn routes(
    routes: &[Value],
    has_namespaces: bool,
    now: OffsetDateTime,
) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let mut header = vec!["ROUTE", "HOSTNAMES", "PARENTS", "BACKENDS", "ACCEPTED", "RESOLVED", "AGE"];
    if has_namespaces {
        header.insert(0, "NAMESPACE");
    }
    let row = |route: &Value| {
        let word = super::fields::ROUTES.iter().find(|(kind, _)| kind.info().name == kind_of(route, ""));
        let mut row = vec![
            format!("{}/{}", word.map_or("?", |(_, word)| word), name(route)),
            if has_hostnames(route) { hostnames(route) } else { "-".to_owned() },
            join(&route["spec"]["parentRefs"], parent_of),
            backends(route),
            super::fields::over_parents(route, "Accepted"),
            super::fields::over_parents(route, "ResolvedRefs"),
            duration::age(text(&route["metadata"]["creationTimestamp"]), now),
        ];
        if has_namespaces {
            row.insert(0, namespace(route).to_owned());
        }
        row
    };
    (header, routes.iter().map(row).collect())
}

/// The gateway's listeners, and those that ListenerSets add to it.
pub(crate) fn listeners(gateway: &Value, sets: &[Value]) -> String {
    let mut rows = listener_rows(gateway, "");
    let home = namespace(gateway);
    let mine = || sets.iter().filter(|set| is_attached_set(set, gateway));
    for set in mine() {
        rows.extend(listener_rows(set, &name_from(set, home)));
    }
    let mut header = vec!["NAME", "PORT", "PROTOCOL", "HOSTNAME", "ROUTES", "PROGRAMMED"];
    if mine().next().is_some() {
        header.push("LISTENERSET");
    }
    format!("\nListeners:\n{}", columns(&header, &rows))
}

/// Every route that names the gateway or one of its ListenerSets, a line per parent.
pub(crate) fn attached(gateway: &Value, sets: &[Value], routes: &[Value]) -> String {
    let home = namespace(gateway);
    let mut rows = Vec::new();
    for route in routes {
        for (reference, conditions) in parents(route) {
            let set = sets.iter().find(|set| {
                is_attached_set(set, gateway) && is_parent(reference, namespace(route), "ListenerSet", set)
            });
            if set.is_none() && !is_parent(reference, namespace(route), "Gateway", gateway) {
                continue;
            }
            let listener = listener_of(reference);
            let mut row = vec![
                format!("{} {}", kind_of(route, "Route"), name_from(route, home)),
                if has_hostnames(route) { hostnames(route) } else { "-".to_owned() },
                set.map_or(listener.clone(), |set| format!("{}#{listener}", name_from(set, home))),
                backends(route),
            ];
            row.extend(verdict(conditions));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return format!(
            "\nAttached routes: none (a route attaches with parentRefs: [{{name: {}}}])\n",
            clean_line(&name(gateway))
        );
    }
    let header = ["ROUTE", "HOSTNAMES", "LISTENER", "BACKENDS", "ACCEPTED", "RESOLVED", "MESSAGE"];
    format!("\nAttached routes:\n{}", columns(&header, &rows))
}

/// What is sent where.
pub(crate) fn rules(route: &Value) -> String {
    let mut rows = Vec::new();
    for (index, rule) in list(&route["spec"]["rules"]).iter().enumerate() {
        let matches: Vec<String> = match (list(&rule["matches"]), kind_of(route, "")) {
            ([], "HTTPRoute") => vec!["PathPrefix /".to_owned()],
            ([], _) => vec!["everything".to_owned()],
            (matches, "GRPCRoute") => matches.iter().map(call_text).collect(),
            (matches, _) => matches.iter().map(match_text).collect(),
        };
        let backends = join(&rule["backendRefs"], |reference| {
            let weight = reference["weight"].as_u64().filter(|weight| *weight != 1);
            let weight = weight.map(|weight| format!(" (weight {weight})")).unwrap_or_default();
            format!("{} {}{weight}", kind_of(reference, "Service"), backend_of(reference))
        });
        for (position, line) in matches.into_iter().enumerate() {
            let number = if position == 0 { (index + 1).to_string() } else { "or".to_owned() };
            rows.push(vec![number, line, if position == 0 { backends.clone() } else { String::new() }]);
        }
    }
    format!("\nRules:\n{}", columns(&["RULE", "MATCH", "BACKENDS"], &rows))
}

/// What each parent says of the route.
pub(crate) fn parents_of(route: &Value) -> String {
    let rows: Vec<Vec<String>> = parents(route)
        .map(|(reference, conditions)| {
            let mut row = vec![parent_of(reference)];
            row.extend(verdict(conditions));
            row
        })
        .collect();
    format!("\nParents:\n{}", columns(&["PARENT", "ACCEPTED", "RESOLVED", "MESSAGE"], &rows))
}

/// TCP and UDP have no names.
pub(crate) fn has_hostnames(route: &Value) -> bool {
    !matches!(kind_of(route, ""), "TCPRoute" | "UDPRoute")
}

fn is_attached_set(set: &Value, gateway: &Value) -> bool {
    is_parent(&set["spec"]["parentRef"], namespace(set), "Gateway", gateway)
}

fn listener_rows(owner: &Value, set: &str) -> Vec<Vec<String>> {
    let states = list(&owner["status"]["listeners"]);
    let row = |listener: &Value| {
        let none = Value::Null;
        let state = states.iter().find(|state| state["name"] == listener["name"]).unwrap_or(&none);
        let mut row = vec![
            scalar(&listener["name"]),
            cell(&listener["port"]),
            cell(&listener["protocol"]),
            listener["hostname"].as_str().unwrap_or("*").to_owned(),
            cell(&state["attachedRoutes"]),
            condition(&state["conditions"], "Programmed"),
        ];
        if !set.is_empty() {
            row.push(set.to_owned());
        }
        row
    };
    list(&owner["spec"]["listeners"]).iter().map(row).collect()
}

fn listener_of(reference: &Value) -> String {
    match (reference["sectionName"].as_str(), reference["port"].as_u64()) {
        (Some(section), _) => section.to_owned(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "all".to_owned(),
    }
}

fn match_text(of: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(method) = of["method"].as_str() {
        parts.push(method.to_owned());
    }
    let path = &of["path"];
    let kind = path["type"].as_str().unwrap_or("PathPrefix");
    parts.push(format!("{kind} {}", path["value"].as_str().unwrap_or("/")));
    parts.extend(values(&of["headers"], "header"));
    parts.extend(values(&of["queryParams"], "query"));
    parts.join(", ")
}

/// A match of a gRPC route.
fn call_text(of: &Value) -> String {
    let method = &of["method"];
    let any = |value: &Value| value.as_str().unwrap_or("*").to_owned();
    let mark = if method["type"] == "RegularExpression" { "~" } else { "" };
    let mut parts = vec![format!("{mark}{}/{}", any(&method["service"]), any(&method["method"]))];
    parts.extend(values(&of["headers"], "header"));
    parts.join(", ")
}

fn values<'a>(of: &'a Value, word: &'a str) -> impl Iterator<Item = String> + 'a {
    list(of).iter().map(move |value| {
        let operator = if value["type"] == "RegularExpression" { "~" } else { "=" };
        format!("{word} {}{operator}{}", scalar(&value["name"]), scalar(&value["value"]))
    })
}

fn headline(kind: &str, object: &Value, now: OffsetDateTime) -> String {
    let metadata = &object["metadata"];
    let mut page = field(kind, &name(object));
    page += &field("Namespace", &cell(&metadata["namespace"]));
    page + &field("Age", &duration::age(text(&metadata["creationTimestamp"]), now))
}

fn conditions_field(conditions: &Value) -> String {
    let mut page = String::new();
    for (index, found) in list(conditions).iter().enumerate() {
        let kind = text(&found["type"]);
        let message = if found["status"] == "True" { "" } else { text(&found["message"]) };
        let title = if index == 0 { "Conditions" } else { "" };
        page += &field(title, format!("{kind}={} {message}", condition(conditions, kind)).trim_end());
    }
    page
}

fn field(title: &str, value: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("{title}:") };
    format!("{title:12}{}\n", clean_line(value))
}
