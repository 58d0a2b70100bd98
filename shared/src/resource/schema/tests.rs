use proptest::{collection::btree_map, prelude::*, sample::select};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{super::kind::KINDS, *};
use crate::resource::{
    backend::Backend,
    gateway::{Gateway, GatewayClass},
    http_route::HttpRoute,
    project::Project,
    proxy::Proxy,
    tunnel_node::TunnelNode,
};

fn found(kind: Kind, object: &Value) -> Vec<String> {
    validate(kind, object).into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
}

fn deserialize(kind: Kind, object: &Value) -> Result<(), String> {
    match kind {
        Kind::Project => typed::<Project>(object),
        Kind::TunnelNode => typed::<TunnelNode>(object),
        Kind::Backend => typed::<Backend>(object),
        Kind::Proxy => typed::<Proxy>(object),
        Kind::GatewayClass => typed::<GatewayClass>(object),
        Kind::Gateway => typed::<Gateway>(object),
        Kind::HttpRoute => typed::<HttpRoute>(object),
        _ => Ok(()),
    }
}

/// What an apply does to a manifest before it is stored.
fn admit(kind: Kind, mut object: Value) -> Result<Value, Vec<String>> {
    strip_nulls(&mut object);
    default(kind, &mut object);
    let problems = found(kind, &object);
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

fn seeds() -> Vec<(Kind, Value)> {
    vec![
        (
            Kind::Backend,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "api-backend"},
                "spec": {"endpoints": [{"fqdn": "api.internal.example.com"}]},
            }),
        ),
        (
            Kind::HttpRoute,
            json!({
                "apiVersion": "gateway.apoxy.dev/v1", "kind": "HTTPRoute", "metadata": {"name": "api-route"},
                "spec": {
                    "parentRefs": [{"name": "default"}],
                    "hostnames": ["api.your-org.apoxy.app"],
                    "rules": [{"backendRefs": [{"kind": "Backend", "name": "api-backend", "port": 8080}]}],
                },
            }),
        ),
        (
            Kind::HttpRoute,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "task-api-canary", "namespace": "task-api", "creationTimestamp": null},
                "spec": {
                    "parentRefs": [{"kind": "Gateway", "name": "g", "sectionName": "http-listener"}],
                    "rules": [
                        {
                            "matches": [{
                                "path": {"type": "PathPrefix", "value": "/api/"},
                                "headers": [{"name": "x-api-key", "type": "RegularExpression", "value": "^premium-.*"}],
                                "queryParams": [{"name": "debug", "value": "true"}],
                                "method": "GET",
                            }],
                            "backendRefs": [
                                {"name": "a", "port": 80, "weight": 90},
                                {"name": "b", "namespace": "backend-ns", "port": 80, "weight": 10},
                            ],
                        },
                        {"matches": [{"path": {"type": "RegularExpression", "value": "/api/v[0-9]+/tasks"}}]},
                    ],
                },
                "status": {"parents": []},
            }),
        ),
        (
            Kind::TunnelNode,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": {"name": "office-link"},
                "spec": {"egressGateway": {"enabled": true}},
            }),
        ),
        (
            Kind::Gateway,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "example-gateway"},
                "spec": {
                    "gatewayClassName": "example-gateway-class",
                    "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}],
                },
            }),
        ),
        (
            Kind::GatewayClass,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "eg"},
                "spec": {"controllerName": "gateway.apoxy.dev/gatewayclass-controller"},
            }),
        ),
        (
            Kind::Proxy,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p"},
                "spec": {"provider": "unmanaged"},
            }),
        ),
        (Kind::Project, json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Project", "metadata": {"name": "p"}})),
    ]
}

#[test]
fn the_manifests_of_the_guides_are_accepted_and_deserialize() {
    for (kind, object) in seeds() {
        let stored = admit(kind, object).unwrap();
        deserialize(kind, &stored).unwrap();
    }
}

#[test]
fn every_kind_has_a_guide_manifest() {
    for info in KINDS {
        assert!(seeds().iter().any(|(kind, _)| *kind == info.kind), "{}", info.name);
    }
}

#[test]
fn every_problem_is_reported_at_once_with_its_path() {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "Bad_Name", "labels": {"a b": "c", "d": 1}},
        "spec": {
            "hostnames": ["*.example.com", "10.0.0.1"],
            "hostnmes": ["example.com"],
            "rules": [{
                "filters": [],
                "matches": [{"path": {"type": "Prefix", "value": "api"}, "method": "get"}],
                "backendRefs": [{"name": "a", "port": 80}, {"name": "b", "port": 70000, "weight": "2"}],
            }],
        },
    });
    assert_eq!(
        found(Kind::HttpRoute, &object),
        [
            "metadata.name: `Bad_Name` is not a DNS name: lower-case letters, digits and `-`, in parts joined by `.`",
            "metadata.labels[a b]: `a b` is not a key: `name` or `dns.name/name`",
            "metadata.labels[d]: must be a string, not a number",
            "spec.hostnames[1]: `10.0.0.1` is an IP address; hostnames are DNS names",
            "spec.rules[0].matches[0].path.type: `Prefix`: unknown value; may be `Exact`, `PathPrefix`, `RegularExpression`",
            "spec.rules[0].matches[0].method: `get`: unknown value; may be `GET`, `HEAD`, `POST`, `PUT`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE`, `PATCH`",
            "spec.rules[0].backendRefs[1].port: must be a whole number from 1 to 65535, not 70000",
            "spec.rules[0].backendRefs[1].weight: must be a whole number, not a string",
            "spec.rules[0].filters: not supported yet",
            "spec.hostnmes: unknown field",
            "spec.rules[0].matches[0].path.value: `api` must begin with `/`",
        ]
    );
}

#[test]
fn what_upstream_has_and_we_do_not_serve_says_not_supported_yet() {
    let backend = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "b"},
        "spec": {"endpoints": [{"fqdn": "a.example.com"}], "protocol": "h2", "dynamicProxy": {}},
    });
    assert_eq!(
        found(Kind::Backend, &backend),
        ["spec.protocol: `h2`: not supported yet; may be ``, `plain`, `h2c`", "spec.dynamicProxy: not supported yet"]
    );
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {
            "gatewayClassName": "eg", "infrastructure": {},
            "listeners": [
                {"name": "a", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "Same"}}},
                {"name": "b", "protocol": "HTTPS", "port": 443, "tls": {"mode": "Terminate"}},
                {"name": "c", "protocol": "TCP", "port": 9, "allowedRoutes": {"namespaces": {"from": "All"}}},
            ],
        },
    });
    assert_eq!(
        found(Kind::Gateway, &gateway),
        [
            "spec.listeners[1].tls: not supported yet",
            "spec.listeners[2].protocol: `TCP`: not supported yet; may be `HTTP`, `HTTPS`",
            "spec.listeners[2].allowedRoutes.namespaces.from: `All`: not supported yet; may be `Same`",
            "spec.infrastructure: not supported yet",
        ]
    );
}

#[test]
fn endpoints_name_exactly_one_of_fqdn_and_ip() {
    let object = json!({
        "apiVersion": "core.apoxy.dev/v1alpha", "kind": "Backend", "metadata": {"name": "b"},
        "spec": {"endpoints": [
            {"fqdn": "office.tun.internal"}, {"ip": "fd00::1"}, {}, {"fqdn": "a.example", "ip": "192.0.2.1"},
            {"fqdn": "office"}, {"fqdn": "192.0.2.1"}, {"fqdn": "a.example:80"}, {"ip": "192.0.2.300"},
            {"fqdn": "192.0.2.300"}, {"FQDN": "a.example"},
        ]},
    });
    assert_eq!(
        found(Kind::Backend, &object),
        [
            "spec.endpoints[4].fqdn: `office` is not fully qualified; the agents of a node are `office.tun.internal`",
            "spec.endpoints[5].fqdn: `192.0.2.1` is an IP address: write it as `ip`",
            "spec.endpoints[6].fqdn: `a.example:80` is not a DNS name: a port belongs to the route's backendRef",
            "spec.endpoints[7].ip: `192.0.2.300` is not an IP address",
            "spec.endpoints[8].fqdn: `192.0.2.300` is neither an IP address nor a DNS name",
            "spec.endpoints[9].FQDN: unknown field; is `fqdn` meant?",
            "spec.endpoints[2]: one of `fqdn` and `ip` is required",
            "spec.endpoints[3]: `fqdn` and `ip` exclude each other: name one",
            "spec.endpoints[9]: one of `fqdn` and `ip` is required",
        ]
    );
}

#[test]
fn parents_and_listeners_are_told_apart() {
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"parentRefs": [
            {"name": "a"}, {"name": "a"}, {"name": "a", "sectionName": "s"},
            {"name": "b", "port": 80}, {"name": "b", "port": 81}, {"name": "c", "kind": "Service"},
        ]},
    });
    assert_eq!(
        found(Kind::HttpRoute, &route),
        [
            "spec.parentRefs[5].kind: `Service`: not supported yet; may be `Gateway`",
            "spec.parentRefs[1]: the same parent is named twice",
            "spec.parentRefs[2]: `sectionName` or `port` is required where a parent is named more than once",
        ]
    );
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {"gatewayClassName": "eg", "listeners": [
            {"name": "a", "protocol": "HTTP", "port": 80}, {"name": "a", "protocol": "HTTP", "port": 80},
        ]},
    });
    assert_eq!(
        found(Kind::Gateway, &gateway),
        [
            "spec.listeners[1].name: `a` is already used by item 0",
            "spec.listeners[1]: another listener has the same port, protocol and hostname",
        ]
    );
}

#[test]
fn a_manifest_of_another_kind_version_or_scope_is_refused() {
    let object = json!({
        "apiVersion": "core.apoxy.dev/v9", "kind": "TunnelNodes",
        "metadata": {"name": "a.b", "namespace": "default"},
    });
    assert_eq!(
        found(Kind::TunnelNode, &object),
        [
            "apiVersion: `core.apoxy.dev/v9` has no TunnelNode; may be core.apoxy.dev/v1alpha",
            "kind: `TunnelNodes` is not TunnelNode",
            "metadata.name: `a.b` is not a DNS label: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
            "metadata.namespace: a TunnelNode belongs to no namespace: remove the field",
        ]
    );
    assert_eq!(found(Kind::Backend, &json!([])), [": must be an object, not a list"]);
}

#[test]
fn defaults_are_those_of_upstream() {
    let (kind, object) = seeds().remove(1);
    let stored = admit(kind, object).unwrap();
    assert_eq!(
        stored["spec"],
        json!({
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default"}],
            "hostnames": ["api.your-org.apoxy.app"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [
                    {"group": "core.apoxy.dev", "kind": "Backend", "name": "api-backend", "port": 8080, "weight": 1},
                ],
            }],
        })
    );
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let spec: Map<String, Value> = (0..PROBLEMS_MAX + 7).map(|n| (format!("f{n}"), json!(0))).collect();
    let object = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p"}, "spec": spec,
    });
    let problems = validate(Kind::Proxy, &object);
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(problems[PROBLEMS_MAX].message, "and 7 more problems, which are not listed");
}

#[test]
fn hostile_names_are_shown_short_and_escaped() {
    let object = json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p"},
        "\u{1b}[31m\n": 0, "x".repeat(5000): 0});
    let problems = found(Kind::Proxy, &object);
    assert_eq!(problems[0], "[\\u{1b}[31m\\n]: unknown field");
    assert!(problems[1].len() < 120, "{}", problems[1]);
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..100).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(vec!["default", "Exact", "PathPrefix", "/", "Backend", "HTTP", "a.example", "192.0.2.1", "h2c", ""])
            .prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ]
}

/// JSON that often uses the names the schema knows.
fn anything() -> impl Strategy<Value = Value> {
    let names = select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "namespace",
        "labels",
        "spec",
        "status",
        "parentRefs",
        "rules",
        "matches",
        "path",
        "type",
        "value",
        "headers",
        "backendRefs",
        "port",
        "weight",
        "listeners",
        "protocol",
        "endpoints",
        "fqdn",
        "ip",
        "hostnames",
        "gatewayClassName",
        "egressGateway",
        "enabled",
        "x",
    ])
    .prop_map(str::to_owned);
    leaf().prop_recursive(7, 96, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(names.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Replaces the `at`-th value of `object`, counted depth first, by `by`.
fn replace_nth(object: &mut Value, at: &mut usize, by: &Value) {
    if *at == 0 {
        *object = by.clone();
        *at = usize::MAX;
        return;
    }
    *at = at.saturating_sub(1);
    match object {
        Value::Array(items) => items.iter_mut().for_each(|item| replace_nth(item, at, by)),
        Value::Object(map) => map.values_mut().for_each(|value| replace_nth(value, at, by)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn validate_is_total_and_what_it_accepts_deserializes(object in anything()) {
        for info in KINDS {
            if let Ok(stored) = admit(info.kind, object.clone()) {
                prop_assert_eq!(deserialize(info.kind, &stored), Ok(()));
            }
        }
    }

    #[test]
    fn a_damaged_manifest_is_refused_or_deserializes(seed in 0usize..8, at in 0usize..60, by in anything()) {
        let (kind, mut object) = seeds().remove(seed);
        replace_nth(&mut object, &mut { at }, &by);
        if let Ok(stored) = admit(kind, object) {
            // The status is the server's: whatever was sent there is dropped before storing.
            let mut stored = stored;
            stored.as_object_mut().unwrap().remove("status");
            let server = ["uid", "generation", "creationTimestamp", "managedFields", "selfLink"];
            stored["metadata"].as_object_mut().unwrap().retain(|name, _| !server.contains(&name.as_str()));
            prop_assert_eq!(deserialize(kind, &stored), Ok(()));
            let mut again = stored.clone();
            default(kind, &mut again);
            prop_assert_eq!(&again, &stored);
        }
    }
}
