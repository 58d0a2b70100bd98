//! The page of `describe`: metadata, spec, conditions, and what is related.
//!
//! Pure, and total over arbitrary JSON.

use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{
    super::{
        duration,
        fields::{
            backend_of, backend_refs, cell, condition, is_backend, is_route, join, kind_of, list, name, name_from,
            namespace, nodes_of, over_parents, scalar,
        },
        pages,
        print::{clean, clean_line, columns, text},
    },
    Kind, Related,
};

/// How deep a spec is shown; deeper parts are left out with a mark.
const DEPTH_MAX: usize = 32;
/// What `kubectl apply` keeps for itself: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn page(object: &Value, related: &Related, now: OffsetDateTime) -> String {
    let mut page = head(object, now);
    let kind = Kind::of_manifest(text(&object["apiVersion"]), kind_of(object, ""));
    page += &match kind {
        Some(Kind::Secret) => secret(object),
        _ => body(object),
    };
    page += &status(object, kind);
    page += &conditions(&object["status"]["conditions"], now);
    page += &match kind {
        Some(Kind::Gateway) => {
            class(object, related)
                + &pages::listeners(object, &related.sets)
                + &pages::attached(object, &related.sets, &related.routes)
        }
        Some(Kind::Backend) => backend(object, related),
        Some(Kind::TunnelNode) => tunnel_node(object, related, now),
        Some(Kind::Project) => counts(related),
        Some(kind) if is_route(kind) => pages::rules(object) + &pages::parents_of(object) + &resolved(object, related),
        _ => String::new(),
    };
    clean(&page)
}

/// `KIND NAMESPACE/NAME`.
pub(super) fn full(kind: &str, namespace: &str, name: &str) -> String {
    format!("{kind} {namespace}/{name}")
}

fn head(object: &Value, now: OffsetDateTime) -> String {
    let metadata = &object["metadata"];
    let mut page = field("Name", &name(object));
    if !namespace(object).is_empty() {
        page += &field("Namespace", namespace(object));
    }
    page += &pairs("Labels", &metadata["labels"]);
    page += &pairs("Annotations", &metadata["annotations"]);
    page += &field("API Version", &cell(&object["apiVersion"]));
    page += &field("Kind", &cell(&object["kind"]));
    page += &field("Created", &moment(&metadata["creationTimestamp"], now));
    if !metadata["deletionTimestamp"].is_null() {
        page += &field("Being deleted", &format!("since {}", moment(&metadata["deletionTimestamp"], now)));
    }
    for (index, owner) in list(&metadata["ownerReferences"]).iter().enumerate() {
        let mark = if owner["controller"] == true { " (controller)" } else { "" };
        let title = if index == 0 { "Owned by" } else { "" };
        page += &field(title, &format!("{}/{}{mark}", scalar(&owner["kind"]), scalar(&owner["name"])));
    }
    if !list(&metadata["finalizers"]).is_empty() {
        page += &field("Finalizers", &join(&metadata["finalizers"], scalar));
    }
    if !metadata["generation"].is_null() {
        page += &field("Generation", &cell(&metadata["generation"]));
    }
    page
}

fn pairs(title: &str, of: &Value) -> String {
    let none = Map::new();
    let of = of.as_object().unwrap_or(&none);
    let mut lines =
        of.iter().filter(|(key, _)| *key != LAST_APPLIED).map(|(key, value)| format!("{key}={}", scalar(value)));
    let mut page = field(title, &lines.next().unwrap_or_else(|| "<none>".to_owned()));
    page.extend(lines.map(|line| field("", &line)));
    page
}

fn moment(at: &Value, now: OffsetDateTime) -> String {
    match text(at) {
        "" => "-".to_owned(),
        at => format!("{at} ({} ago)", duration::age(at, now)),
    }
}

/// Everything that is neither metadata nor status.
fn body(object: &Value) -> String {
    let none = Map::new();
    let fields = object.as_object().unwrap_or(&none).iter();
    let own = fields.filter(|(key, _)| !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    own.map(|(key, value)| entry(key, value, 0)).collect()
}

/// Of a secret only how much there is.
fn secret(object: &Value) -> String {
    let mut page = field("Type", &cell(&object["type"]));
    page += "\nData:\n";
    for (data, is_encoded) in [(&object["data"], true), (&object["stringData"], false)] {
        for (key, value) in data.as_object().into_iter().flatten() {
            let text = text(value);
            // Base64 has four characters for three bytes, and fills up with `=`.
            let bytes = if is_encoded {
                (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|byte| *byte == b'=').count())
            } else {
                text.len()
            };
            page += &format!("  {}: {bytes} bytes\n", clean_line(key));
        }
    }
    page
}

/// The status, without the parts that have tables of their own.
fn status(object: &Value, kind: Option<Kind>) -> String {
    let own: &[&str] = match kind {
        Some(Kind::Gateway) => &["listeners"],
        Some(Kind::TunnelNode) => &["agents"],
        Some(kind) if is_route(kind) => &["parents"],
        _ => &[],
    };
    let fields = object["status"].as_object().into_iter().flatten();
    let shown = fields.filter(|(key, _)| *key != "conditions" && !own.contains(&key.as_str()));
    let shown: String = shown.map(|(key, value)| entry(key, value, 1)).collect();
    if shown.is_empty() { String::new() } else { format!("Status:\n{shown}") }
}

fn conditions(conditions: &Value, now: OffsetDateTime) -> String {
    let rows: Vec<Vec<String>> = list(conditions)
        .iter()
        .map(|found| {
            let age = duration::age(text(&found["lastTransitionTime"]), now);
            vec![cell(&found["type"]), cell(&found["status"]), cell(&found["reason"]), age, scalar(&found["message"])]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\nConditions:\n{}", columns(&["TYPE", "STATUS", "REASON", "AGE", "MESSAGE"], &rows))
}

fn class(gateway: &Value, related: &Related) -> String {
    let name = cell(&gateway["spec"]["gatewayClassName"]);
    let text = match &related.class {
        None => format!("{name}: not found"),
        Some(class) => format!(
            "{name}: controller {}, accepted: {}",
            cell(&class["spec"]["controllerName"]),
            condition(&class["status"]["conditions"], "Accepted")
        ),
    };
    format!("\nGateway class:\n  {}\n", clean_line(&text))
}

fn resolved(route: &Value, related: &Related) -> String {
    let home = namespace(route);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for reference in backend_refs(route) {
        let kind = kind_of(reference, "Service");
        let place = reference["namespace"].as_str().unwrap_or(home);
        let found = related.backends.iter().find(|backend| is_backend(reference, home, backend));
        let is_missing = related.missing.contains(&full(kind, place, text(&reference["name"])));
        let (exists, endpoints, nodes) = match found {
            Some(backend) => ("yes", endpoints(backend), connected(backend, related)),
            None => (if is_missing { "no" } else { "yes" }, "-".to_owned(), "-".to_owned()),
        };
        let row = vec![format!("{kind} {}", backend_of(reference)), exists.to_owned(), endpoints, nodes];
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    format!("\nBackends:\n{}", columns(&["BACKEND", "EXISTS", "ENDPOINTS", "NODES"], &rows))
}

fn endpoints(backend: &Value) -> String {
    join(&backend["spec"]["endpoints"], |endpoint| {
        scalar(if endpoint["fqdn"].is_string() { &endpoint["fqdn"] } else { &endpoint["ip"] })
    })
}

/// `office (2 agents)`, `lab (not connected)`, `x (no such node)`.
fn connected(backend: &Value, related: &Related) -> String {
    let nodes: Vec<String> = nodes_of(backend)
        .into_iter()
        .map(|node| {
            let found = related.nodes.iter().find(|found| name(found) == node);
            match found.map(|found| list(&found["status"]["agents"]).len()) {
                None => format!("{node} (no such node)"),
                Some(0) => format!("{node} (not connected)"),
                Some(1) => format!("{node} (1 agent)"),
                Some(count) => format!("{node} ({count} agents)"),
            }
        })
        .collect();
    if nodes.is_empty() { "-".to_owned() } else { nodes.join(",") }
}

fn backend(object: &Value, related: &Related) -> String {
    let home = namespace(object);
    let rows: Vec<Vec<String>> = related
        .routes
        .iter()
        .map(|route| {
            vec![
                format!("{} {}", kind_of(route, "Route"), name_from(route, home)),
                if pages::has_hostnames(route) { super::super::fields::hostnames(route) } else { "-".to_owned() },
                over_parents(route, "Accepted"),
                over_parents(route, "ResolvedRefs"),
            ]
        })
        .collect();
    let nodes = connected(object, related);
    let nodes = if nodes == "-" { "none: no endpoint names one".to_owned() } else { nodes };
    format!("\nNodes:\n  {}\n", clean_line(&nodes))
        + &section("Used by", &["ROUTE", "HOSTNAMES", "ACCEPTED", "RESOLVED"], &rows, "no route")
}

fn tunnel_node(object: &Value, related: &Related, now: OffsetDateTime) -> String {
    let agents: Vec<Vec<String>> = list(&object["status"]["agents"])
        .iter()
        .map(|agent| {
            let since = duration::age(text(&agent["connectedAt"]), now);
            vec![cell(&agent["name"]), cell(&agent["agentAddress"]), cell(&agent["privateAddress"]), since]
        })
        .collect();
    let backends: Vec<Vec<String>> = related
        .backends
        .iter()
        .map(|backend| {
            let accepted = condition(&backend["status"]["conditions"], "Accepted");
            vec![format!("{}/{}", namespace(backend), name(backend)), endpoints(backend), accepted]
        })
        .collect();
    section("Agents", &["NAME", "ADDRESS", "PRIVATE ADDRESS", "CONNECTED"], &agents, "none is connected")
        + &section("Named by", &["BACKEND", "ENDPOINTS", "ACCEPTED"], &backends, "no Backend")
}

fn counts(related: &Related) -> String {
    let rows: Vec<Vec<String>> =
        related.counts.iter().map(|(kind, count)| vec![(*kind).to_owned(), count.to_string()]).collect();
    section("Resources", &["KIND", "COUNT"], &rows, "unknown")
}

fn section(title: &str, header: &[&str], rows: &[Vec<String>], nothing: &str) -> String {
    if rows.is_empty() { format!("\n{title}: {nothing}\n") } else { format!("\n{title}:\n{}", columns(header, rows)) }
}

fn field(title: &str, value: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("{title}:") };
    format!("{title:15}{}\n", clean_line(value))
}

/// A field and what is below it, with its name as words: `parentRefs` is `Parent Refs`.
fn entry(key: &str, value: &Value, depth: usize) -> String {
    let (indent, key) = ("  ".repeat(depth), words(key));
    match value {
        _ if depth >= DEPTH_MAX => format!("{indent}{key}: ...\n"),
        Value::Object(fields) if !fields.is_empty() => {
            format!("{indent}{key}:\n")
                + &fields.iter().map(|(key, value)| entry(key, value, depth + 1)).collect::<String>()
        }
        Value::Array(items) if !items.is_empty() => {
            format!("{indent}{key}:\n") + &items.iter().map(|item| item_lines(item, depth + 1)).collect::<String>()
        }
        Value::String(text) if text.contains('\n') => {
            let lines: String = text.lines().map(|line| format!("{indent}  {line}\n")).collect();
            format!("{indent}{key}:\n{lines}")
        }
        Value::Object(_) | Value::Array(_) | Value::Null => format!("{indent}{key}: <none>\n"),
        value => format!("{indent}{key}: {}\n", clean_line(&scalar(value))),
    }
}

/// An item of a list; its first field stands behind a dash.
fn item_lines(item: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let Value::Object(fields) = item else {
        let text = if item.is_array() { item.to_string() } else { scalar(item) };
        return format!("{indent}{}\n", clean_line(&text));
    };
    let lines: String = fields.iter().map(|(key, value)| entry(key, value, depth + 1)).collect();
    match lines.strip_prefix(&format!("{indent}  ")) {
        Some(rest) => format!("{indent}- {rest}"),
        None => format!("{indent}- {{}}\n"),
    }
}

/// `parentRefs` → `Parent Refs`. Keys that are no field names, such as file names, stay as they are.
fn words(key: &str) -> String {
    if !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return clean_line(key);
    }
    let mut words = String::new();
    for (index, character) in key.chars().enumerate() {
        if index == 0 {
            words.push(character.to_ascii_uppercase());
            continue;
        }
        let was_small = words.ends_with(|last: char| last.is_ascii_lowercase() || last.is_ascii_digit());
        if character.is_ascii_uppercase() && was_small {
            words.push(' ');
        }
        words.push(character);
    }
    words
}
