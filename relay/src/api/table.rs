//! Objects as `kubectl get` prints them (`meta.k8s.io/v1` `Table`), and their metadata alone. Pure.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use underpass_shared::resource::kind::Kind;

use super::options::Include;

/// A column: its name, whether only `-o wide` shows it, and its cell.
struct Column(&'static str, Width, fn(&Value) -> Value);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Always,
    Wide,
}

use Width::{Always, Wide};

/// Metadata alone, as `PartialObjectMetadata`.
#[must_use]
pub(super) fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// The table of one object.
#[must_use]
pub(super) fn of_one(kind: Kind, object: &Value, include: Include, now: OffsetDateTime) -> Value {
    let revision = object["metadata"]["resourceVersion"].clone();
    let metadata = Map::from_iter([("resourceVersion".to_owned(), revision)]);
    of(kind, std::iter::once(object.clone()), &metadata, include, now)
}

/// The table of `objects`, all of `kind`, under the list's `metadata`.
#[must_use]
pub(super) fn of(
    kind: Kind,
    objects: impl Iterator<Item = Value>,
    metadata: &Map<String, Value>,
    include: Include,
    now: OffsetDateTime,
) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects
        .map(|object| {
            let mut cells = vec![object["metadata"]["name"].clone()];
            cells.extend(columns.iter().filter(|column| column.1 == Always).map(|column| (column.2)(&object)));
            cells.push(age(&object, now));
            cells.extend(columns.iter().filter(|column| column.1 == Wide).map(|column| (column.2)(&object)));
            match include {
                Include::None => json!({ "cells": cells, "object": null }),
                Include::Metadata => json!({ "cells": cells, "object": partial(&object) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(columns),
        "rows": rows,
    })
}

fn definitions(columns: &[Column]) -> Vec<Value> {
    let define = |name: &str, format: &str, priority: u8| json!({ "name": name, "type": "string", "format": format, "description": name, "priority": priority });
    let mut definitions = vec![define("Name", "name", 0)];
    definitions.extend(columns.iter().filter(|column| column.1 == Always).map(|column| define(column.0, "", 0)));
    definitions.push(define("Age", "", 0));
    definitions.extend(columns.iter().filter(|column| column.1 == Wide).map(|column| define(column.0, "", 1)));
    definitions
}

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Project => &[
            Column("Prefix", Always, |o| text(&o["status"]["prefix"])),
            Column("Suffix", Wide, |o| text(&o["spec"]["hostnameSuffix"])),
        ],
        Kind::Namespace => &[Column("Status", Always, |o| text(&o["status"]["phase"]))],
        Kind::CustomResourceDefinition => &[],
        Kind::ServiceAccount => &[Column("Secrets", Always, |o| count(&o["secrets"]))],
        Kind::ClusterRoleBinding => &[
            Column("Role", Always, |o| joined(&[&o["roleRef"]["kind"], &o["roleRef"]["name"]], "/")),
            Column("Subjects", Wide, |o| each(&o["subjects"], |s| s["name"].clone())),
        ],
        Kind::Secret => &[Column("Type", Always, |o| text(&o["type"])), Column("Data", Always, |o| count(&o["data"]))],
        Kind::ConfigMap => &[Column("Data", Always, |o| count(&o["data"]))],
        Kind::Service => &[
            Column("Type", Always, |o| text(&o["spec"]["type"])),
            Column("Cluster-IP", Always, |o| text(&o["spec"]["clusterIP"])),
            Column("Port(s)", Always, |o| each(&o["spec"]["ports"], |p| joined(&[&p["port"], &p["protocol"]], "/"))),
            Column("Selector", Wide, |o| pairs(&o["spec"]["selector"])),
        ],
        Kind::EndpointSlice => &[
            Column("AddressType", Always, |o| text(&o["addressType"])),
            Column("Ports", Always, |o| each(&o["ports"], |p| p["port"].clone())),
            Column("Endpoints", Always, |o| each(&o["endpoints"], |e| e["addresses"][0].clone())),
        ],
        Kind::Deployment => &[
            Column("Ready", Always, |o| {
                joined(&[&or_zero(&o["status"]["readyReplicas"]), &o["spec"]["replicas"]], "/")
            }),
            Column("Up-to-date", Always, |o| text(&or_zero(&o["status"]["updatedReplicas"]))),
            Column("Available", Always, |o| text(&or_zero(&o["status"]["availableReplicas"]))),
        ],
        Kind::Pod => &[
            Column("Ready", Always, pod_ready),
            Column("Status", Always, |o| text(&o["status"]["phase"])),
            Column("Restarts", Always, |o| {
                let of = |status: &Value| status["restartCount"].as_u64().unwrap_or(0);
                json!(list(&o["status"]["containerStatuses"]).map(of).sum::<u64>().to_string())
            }),
            Column("IP", Wide, |o| text(&o["status"]["podIP"])),
            Column("Node", Wide, |o| text(&o["spec"]["nodeName"])),
        ],
        Kind::Lease => &[Column("Holder", Always, |o| text(&o["spec"]["holderIdentity"]))],
        _ => columns_of_gateways(kind),
    }
}

fn columns_of_gateways(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::GatewayClass => &[
            Column("Controller", Always, |o| text(&o["spec"]["controllerName"])),
            ACCEPTED,
            Column("Description", Wide, |o| text(&o["spec"]["description"])),
        ],
        Kind::Gateway => &[
            Column("Class", Always, |o| text(&o["spec"]["gatewayClassName"])),
            Column("Address", Always, |o| each(&o["status"]["addresses"], |a| a["value"].clone())),
            Column("Programmed", Always, |o| condition(&o["status"]["conditions"], "Programmed")),
            Column("Listeners", Wide, |o| {
                each(&o["spec"]["listeners"], |listener| joined(&[&listener["name"], &listener["port"]], ":"))
            }),
            Column("Routes", Wide, |o| {
                let of = |listener: &Value| listener["attachedRoutes"].as_u64();
                json!(list(&o["status"]["listeners"]).filter_map(of).max().unwrap_or(0).to_string())
            }),
        ],
        Kind::ListenerSet => &[
            ACCEPTED,
            Column("Programmed", Always, |o| condition(&o["status"]["conditions"], "Programmed")),
            Column("Gateway", Wide, |o| text(&o["spec"]["parentRef"]["name"])),
        ],
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute => &[
            Column("Hostnames", Always, |o| each(&o["spec"]["hostnames"], Value::clone)),
            ACCEPTED_BY_PARENTS,
            RESOLVED_BY_PARENTS,
            PARENTS,
            BACKENDS,
        ],
        Kind::TcpRoute | Kind::UdpRoute => &[ACCEPTED_BY_PARENTS, RESOLVED_BY_PARENTS, PARENTS, BACKENDS],
        Kind::BackendTlsPolicy => &[
            Column("Hostname", Always, |o| text(&o["spec"]["validation"]["hostname"])),
            Column("Targets", Always, targets),
            ACCEPTED_BY_ANCESTORS,
        ],
        _ => columns_of_ours(kind),
    }
}

fn columns_of_ours(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::TunnelNode => &[
            Column("Prefix", Always, |o| text(&o["status"]["prefix"])),
            Column("Agents", Always, |o| count(&o["status"]["agents"])),
            Column("Ready", Always, |o| condition(&o["status"]["conditions"], "Ready")),
            Column("Addresses", Wide, |o| each(&o["status"]["addresses"], Value::clone)),
            Column("Agent Addresses", Wide, |o| each(&o["status"]["agents"], |a| a["agentAddress"].clone())),
        ],
        Kind::Proxy => &[Column("Provider", Always, |o| text(&o["spec"]["provider"])), ACCEPTED_WIDE],
        Kind::DomainZone => &[Column("Status", Always, |o| text(&o["status"]["phase"])), ACCEPTED],
        Kind::DomainRecord => &[
            Column("Zone", Always, |o| text(&o["spec"]["zone"])),
            Column("FQDN", Always, |o| text(&o["spec"]["name"])),
            Column("TTL", Always, |o| text(&o["spec"]["ttl"])),
            Column("Status", Always, |o| text(&o["status"]["phase"])),
            ACCEPTED_WIDE,
        ],
        Kind::Backend => &[
            Column("Endpoints", Always, |o| {
                each(
                    &o["spec"]["endpoints"],
                    |e| if e["fqdn"].is_string() { e["fqdn"].clone() } else { e["ip"].clone() },
                )
            }),
            Column("Protocol", Always, |o| text(&o["spec"]["protocol"])),
            ACCEPTED_WIDE,
        ],
        Kind::RateLimit | Kind::BackendTrafficPolicy | Kind::ClientTrafficPolicy | Kind::SecurityPolicy => {
            &[Column("Targets", Always, targets), ACCEPTED_BY_ANCESTORS]
        }
        Kind::EdgeFunction => &[
            Column("Mode", Always, |o| text(&o["spec"]["template"]["mode"])),
            Column("Live Revision", Always, |o| text(&o["status"]["liveRevision"])),
            ACCEPTED,
        ],
        Kind::DirectResponse => &[Column("Status Code", Always, |o| text(&o["spec"]["statusCode"])), ACCEPTED],
        Kind::EdgeFunctionRevision | Kind::HttpRouteFilter | Kind::CloudMonitoringIntegration => &[ACCEPTED],
        _ => &[],
    }
}

const ACCEPTED: Column = Column("Accepted", Always, |o| condition(&o["status"]["conditions"], "Accepted"));
const ACCEPTED_WIDE: Column = Column("Accepted", Wide, |o| condition(&o["status"]["conditions"], "Accepted"));
const ACCEPTED_BY_PARENTS: Column = Column("Accepted", Always, |o| over(&o["status"]["parents"], "Accepted"));
const RESOLVED_BY_PARENTS: Column = Column("Resolved", Always, |o| over(&o["status"]["parents"], "ResolvedRefs"));
const ACCEPTED_BY_ANCESTORS: Column = Column("Accepted", Always, |o| over(&o["status"]["ancestors"], "Accepted"));
const PARENTS: Column = Column("Parents", Wide, |o| each(&o["spec"]["parentRefs"], |parent| parent["name"].clone()));
const BACKENDS: Column = Column("Backends", Wide, |o| {
    let refs = list(&o["spec"]["rules"]).flat_map(|rule| list(&rule["backendRefs"]));
    let mut names: Vec<String> =
        refs.map(|backend| plain(&joined(&[&backend["name"], &backend["port"]], ":"))).collect();
    names.sort_unstable();
    names.dedup();
    json!(names.join(","))
});

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A scalar as text; nothing for what is not there.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn text(value: &Value) -> Value {
    json!(plain(value))
}

fn or_zero(value: &Value) -> Value {
    if value.is_null() { json!(0) } else { value.clone() }
}

fn count(value: &Value) -> Value {
    let count = value.as_array().map(Vec::len).or_else(|| value.as_object().map(Map::len));
    json!(count.unwrap_or(0).to_string())
}

fn joined(parts: &[&Value], by: &str) -> Value {
    let parts: Vec<String> = parts.iter().map(|part| plain(part)).filter(|part| !part.is_empty()).collect();
    json!(parts.join(by))
}

fn each(values: &Value, of: fn(&Value) -> Value) -> Value {
    let texts: Vec<String> = list(values).map(|value| plain(&of(value))).filter(|text| !text.is_empty()).collect();
    json!(texts.join(","))
}

fn pairs(map: &Value) -> Value {
    let pairs = map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value)));
    json!(pairs.collect::<Vec<_>>().join(","))
}

fn targets(object: &Value) -> Value {
    each(&object["spec"]["targetRefs"], |target| joined(&[&target["kind"], &target["name"]], "/"))
}

fn condition(conditions: &Value, kind: &str) -> Value {
    let found = list(conditions).find(|condition| condition["type"] == kind);
    json!(found.map_or_else(|| "Unknown".to_owned(), |condition| plain(&condition["status"])))
}

/// A condition over all parents: `False` when one says so.
fn over(parents: &Value, kind: &str) -> Value {
    let mut verdict = "Unknown";
    for parent in list(parents) {
        match condition(&parent["conditions"], kind).as_str() {
            Some("False") => return json!("False"),
            Some("True") => verdict = "True",
            _ => {}
        }
    }
    json!(verdict)
}

fn pod_ready(pod: &Value) -> Value {
    let all = list(&pod["spec"]["containers"]).count();
    let reported = list(&pod["status"]["containerStatuses"]);
    let ready = match pod["status"]["containerStatuses"].is_array() {
        true => reported.filter(|status| status["ready"] == true).count(),
        false if condition(&pod["status"]["conditions"], "Ready") == "True" => all,
        false => 0,
    };
    json!(format!("{ready}/{all}"))
}

/// How long ago the object was made, as kubectl says it.
fn age(object: &Value, now: OffsetDateTime) -> Value {
    let created =
        object["metadata"]["creationTimestamp"].as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    json!(created.map_or_else(|| "<unknown>".to_owned(), |created| human((now - created).whole_seconds())))
}

/// Seconds as people say them: two units while that tells something (`duration.HumanDuration`).
fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |whole: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{small}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use underpass_shared::resource::kind::KINDS;

    use super::*;

    fn cells(kind: Kind, object: &Value) -> Vec<(String, String)> {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
        let table = of_one(kind, object, Include::None, now);
        let names = list(&table["columnDefinitions"]).map(|column| plain(&column["name"]));
        names.zip(list(&table["rows"][0]["cells"]).map(plain)).collect()
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns_even_of_an_empty_object() {
        for info in KINDS {
            let table = of_one(info.kind, &json!({}), Include::Object, OffsetDateTime::UNIX_EPOCH);
            let columns = table["columnDefinitions"].as_array().unwrap();
            assert_eq!(columns.len(), table["rows"][0]["cells"].as_array().unwrap().len(), "{}", info.name);
            assert_eq!((&columns[0]["name"], &columns[0]["format"]), (&json!("Name"), &json!("name")));
        }
    }

    #[test]
    fn a_route_shows_its_verdicts_over_all_parents() {
        let parent = |status: &str| json!({ "conditions": [{ "type": "Accepted", "status": status }] });
        let route = json!({
            "metadata": { "name": "web", "creationTimestamp": "1970-01-12T13:46:35Z" },
            "spec": {
                "hostnames": ["a.example", "b.example"],
                "parentRefs": [{ "name": "default" }],
                "rules": [{ "backendRefs": [{ "name": "b", "port": 80 }, { "name": "a" }, { "name": "b", "port": 80 }] }],
            },
            "status": { "parents": [parent("True"), parent("False")] },
        });
        let want = [
            ("Name", "web"),
            ("Hostnames", "a.example,b.example"),
            ("Accepted", "False"),
            ("Resolved", "Unknown"),
            ("Age", "5s"),
            ("Parents", "default"),
            ("Backends", "a,b:80"),
        ];
        assert_eq!(cells(Kind::HttpRoute, &route), want.map(|(name, cell)| (name.to_owned(), cell.to_owned())));
    }

    #[test]
    fn ages_are_said_as_kubectl_says_them() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (601, "10m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (30_000, "8h"),
            (180_000, "2d2h"),
            (700_000, "8d"),
            (64_000_000, "2y10d"),
            (300_000_000, "9y"),
        ] {
            assert_eq!(human(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn metadata_alone_is_metadata_alone() {
        let object = json!({ "kind": "Backend", "metadata": { "name": "a" }, "spec": {} });
        assert_eq!(
            partial(&object),
            json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": { "name": "a" } })
        );
    }
}
