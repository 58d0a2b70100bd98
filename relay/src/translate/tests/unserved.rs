//! What is stored and not served says so: conditions by object, and nothing in the table.

use proptest::prelude::prop_assert;
use underpass_shared::resource::kind::KINDS;

use super::*;
use crate::translate::unserved as found;

pub(super) fn whole(kind: Kind, name: &str, spec: &Value) -> (Kind, Value) {
    let created = "2030-01-01T00:00:00Z";
    let metadata = json!({"name": name, "namespace": "default", "generation": 3, "creationTimestamp": created});
    let (version, name) = (kind.info().api_versions[0], kind.info().name);
    (kind, json!({"apiVersion": version, "kind": name, "metadata": metadata, "spec": spec}))
}

/// A class, a Gateway and a Backend as every project has them, and `more`.
fn snapshot_with(more: Vec<(Kind, Value)>) -> ProjectSnapshot {
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80}]);
    let mut objects = vec![
        whole(Kind::GatewayClass, "default", &json!({ "controllerName": CONTROLLER_NAME })),
        whole(Kind::Gateway, "default", &json!({"gatewayClassName": "default", "listeners": listeners})),
        whole(Kind::Backend, "office", &json!({"endpoints": [{"ip": "1.1.1.1"}]})),
    ];
    objects.extend(more);
    ProjectSnapshot::read(objects)
}

pub(super) fn with(more: Vec<(Kind, Value)>) -> Translation {
    one(snapshot_with(more))
}

pub(super) fn rule() -> Value {
    json!({"backendRefs": [{"kind": "Backend", "name": "office", "port": 80}]})
}

/// The status, its times filled in.
pub(super) fn json_of(translation: &Translation, kind: Kind, name: &str) -> Value {
    let Status::Other(_, status) = translation.status("default", kind, name) else { panic!("not a raw status") };
    status.clone()
}

#[test]
fn a_route_that_says_more_than_is_served_is_refused_at_each_parent_and_serves_nothing() {
    let mut strict = rule();
    strict["filters"] = json!([{"type": "ExternalAuth"}]);
    let parents = json!([{"name": "default"}, {"name": "default", "sectionName": "http"}, {"name": "nowhere"}]);
    let spec = json!({"parentRefs": parents, "hostnames": ["a.com"], "rules": [rule(), strict]});
    let translation = with(vec![whole(Kind::HttpRoute, "r", &spec)]);
    assert_eq!(translation.goes(80, "a.com", "/"), "Host", "not even the rule that could be served");
    let parents = translation.parents("default", "r");
    let accepted: Vec<_> = parents.iter().map(|parent| brief(&parent.conditions)[0].clone()).collect();
    let [refused, nowhere] = ["Accepted=False/UnsupportedValue", "Accepted=False/NoMatchingParent"];
    assert_eq!(accepted, [refused, refused, nowhere]);
    let said = message(&parents[0].conditions, "Accepted");
    assert!(said.starts_with("not served yet: spec.rules[1].filters[0].type (ExternalAuth)"), "{said}");
    assert_eq!(translation.gateway("default").listeners[0].attached_routes, 0);
}

#[test]
fn a_listener_that_asks_for_too_much_serves_nothing_and_its_neighbours_do() {
    let listeners = json!([
        {"name": "odd", "protocol": "example.com/odd", "port": 8443},
        {"name": "opt", "protocol": "HTTPS", "port": 443, "tls": {"mode": "Terminate", "options": {"a/b": "c"}}},
        {"name": "all", "protocol": "HTTP", "port": 81, "allowedRoutes": {"namespaces": {"from": "All"}}},
        {"name": "fine", "protocol": "HTTP", "port": 82, "allowedRoutes": {"namespaces": {"from": "Same"}}},
    ]);
    let gateway = whole(Kind::Gateway, "mixed", &json!({"gatewayClassName": "default", "listeners": listeners}));
    let translation = with(vec![gateway]);
    let status = translation.gateway("mixed");
    assert_eq!(brief(&status.conditions), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    let accepted: Vec<_> = status.listeners.iter().map(|one| brief(&one.conditions)[0].clone()).collect();
    let want = ["False/UnsupportedProtocol", "False/UnsupportedValue", "True/Accepted", "True/Accepted"];
    assert_eq!(accepted, want.map(|want| format!("Accepted={want}")));
    let said = message(&status.listeners[1].conditions, "Accepted");
    assert_eq!(said, "not served yet: spec.listeners[1].tls.options");
    assert!(status.listeners[0].supported_kinds.is_empty());
    let ports: Vec<u16> = translation.table.listens().map(|(at, _)| at.port).collect();
    assert_eq!(ports, [80, 81, 82]);
}

#[test]
fn no_number_of_harmless_fields_hides_one_that_matters() {
    let listener = |at: usize| {
        let tls = json!({"mode": "Terminate", "options": {"a/b": "c"}});
        let routes = json!({"namespaces": {"from": "All"}});
        json!({"name": format!("l{at}"), "protocol": "HTTPS", "port": 1000 + at, "tls": tls, "allowedRoutes": routes})
    };
    let listeners: Vec<Value> = (0..64).map(listener).collect();
    let spec = json!({"gatewayClassName": "default", "listeners": listeners, "backendTLS": {"a": 1}});
    let translation = with(vec![whole(Kind::Gateway, "g", &spec)]);
    assert_eq!(brief(&translation.gateway("g").conditions)[0], "Accepted=False/Invalid");
    assert!(translation.table.listens().all(|(at, _)| at.port == 80));
}

#[test]
fn a_gateway_stops_for_what_matters_and_mentions_what_does_not() {
    let check = |field: &str, value: Value, accepted: &str, said: &str| {
        let listeners = json!([{"name": "a", "protocol": "HTTP", "port": 81}]);
        let mut spec = json!({"gatewayClassName": "default", "listeners": listeners});
        spec[field] = value;
        let translation = with(vec![whole(Kind::Gateway, "g", &spec)]);
        let conditions = &translation.gateway("g").conditions;
        assert_eq!(brief(conditions)[0], format!("Accepted={accepted}"), "{field}");
        assert_eq!(message(conditions, "Accepted"), said, "{field}");
        let serves = translation.table.listens().any(|(at, _)| at.port == 81);
        assert_eq!(serves, accepted.starts_with("True"), "{field}");
    };
    let addresses = json!([{"type": "example.com/fake", "value": "192.0.2.1"}]);
    let said = "addresses of type example.com/fake are not supported: use IPAddress";
    check("addresses", addresses, "False/UnsupportedAddress", said);
    check("tls", json!({"frontend": {"default": {}}}), "True/Accepted", "the Gateway is served");
    check("backendTLS", json!({"a": 1}), "False/Invalid", "not served yet: spec.backendTLS");
    let config = json!({"parametersRef": {"group": "core.apoxy.dev", "kind": "Config", "name": "c"}});
    let said = "not served yet: spec.infrastructure.parametersRef.kind (Config)";
    check("infrastructure", config, "False/InvalidParameters", said);
    check("allowedListeners", json!({"namespaces": {"from": "None"}}), "True/Accepted", "the Gateway is served");
}

#[test]
fn a_class_with_parameters_that_nobody_reads_is_not_accepted_nor_are_its_gateways() {
    let parameters = json!({"group": "example.com", "kind": "Config", "name": "c"});
    let class = json!({"controllerName": CONTROLLER_NAME, "parametersRef": parameters});
    let listeners = json!([{"name": "a", "protocol": "HTTP", "port": 81}]);
    let gateway = json!({"gatewayClassName": "odd", "listeners": listeners});
    let objects = vec![whole(Kind::GatewayClass, "odd", &class), whole(Kind::Gateway, "g", &gateway)];
    let translation = with(objects);
    let Status::GatewayClass(status) = translation.status("default", Kind::GatewayClass, "odd") else { panic!() };
    assert_eq!(brief(&status.conditions)[0], "Accepted=False/InvalidParameters");
    let conditions = &translation.gateway("g").conditions;
    assert_eq!(brief(conditions), ["Accepted=False/InvalidParameters", "Programmed=False/Invalid"]);
    assert!(message(conditions, "Accepted").starts_with("GatewayClass odd is not accepted"));
    assert!(translation.table.listens().all(|(at, _)| at.port != 81));
}

#[test]
fn a_backend_that_speaks_what_the_relay_does_not_is_refused_and_gets_no_requests() {
    let spec = json!({"protocol": "udp", "endpoints": [{"ip": "1.1.1.1"}]});
    let rules = json!([{"backendRefs": [{"kind": "Backend", "name": "b", "port": 443}]}]);
    let route = json!({"parentRefs": [{"name": "default"}], "rules": rules});
    let translation = with(vec![whole(Kind::Backend, "b", &spec), whole(Kind::HttpRoute, "r", &route)]);
    let Status::Backend(status) = translation.status("default", Kind::Backend, "b") else { panic!() };
    assert_eq!(brief(&status.conditions), ["Accepted=False/UnsupportedValue"]);
    assert_eq!(translation.route("r")[1], "ResolvedRefs=False/UnsupportedValue");
    assert_eq!(translation.goes(80, "a.com", "/"), "500");
}

#[test]
fn a_node_says_which_of_its_wishes_are_served() {
    let spec = json!({"egressGateway": {"enabled": true}, "routes": ["10.0.0.0/8"], "allowFrom": [{"node": "a"}]});
    let translation = with(vec![whole(Kind::TunnelNode, "n", &spec), whole(Kind::TunnelNode, "plain", &json!({}))]);
    let conditions = |name| match translation.status("default", Kind::TunnelNode, name) {
        Status::TunnelNode(conditions) => brief(conditions),
        other => panic!("{other:?}"),
    };
    let want = ["EgressGateway=True/Enabled", "AllowFrom=True/Admitted", "Routes=False/NotSupported"];
    assert_eq!(conditions("n"), want);
    assert!(conditions("plain").is_empty());
}

#[test]
fn a_proxy_is_accepted_only_when_the_operator_runs_it() {
    let proxies = [json!({"provider": "unmanaged"}), json!({"provider": "cloud"}), json!({"telemetry": {}})];
    let objects = proxies.iter().enumerate().map(|(at, spec)| whole(Kind::Proxy, &format!("p{at}"), spec)).collect();
    let translation = with(objects);
    let accepted = |name| json_of(&translation, Kind::Proxy, name)["conditions"][0].clone();
    assert_eq!(accepted("p0")["status"], "True");
    assert_eq!(accepted("p1")["reason"], "UnsupportedValue");
    assert_eq!(accepted("p1")["message"], "not served yet: spec.provider (cloud)");
    assert_eq!(accepted("p2")["message"], "not served yet: spec.telemetry");
}

#[test]
fn policies_that_are_not_built_say_so_of_each_target() {
    let target = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r", "sectionName": "x"});
    let spec = json!({ "targetRefs": [target, {"group": "", "kind": "Gateway", "name": "g"}] });
    for kind in [Kind::SecurityPolicy, Kind::RateLimit] {
        let status = json_of(&with(vec![whole(kind, "p", &spec)]), kind, "p");
        assert_eq!(status["ancestors"][0]["ancestorRef"], target, "{kind:?}");
        assert_eq!(status["ancestors"][1]["controllerName"], CONTROLLER_NAME, "{kind:?}");
        let accepted = &status["ancestors"][1]["conditions"][0];
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("NotImplemented")), "{kind:?}");
        assert_eq!(status.get("conditions").is_some(), kind == Kind::RateLimit, "{kind:?}");
    }
}

#[test]
fn every_other_kind_that_is_not_built_says_so() {
    for kind in [
        Kind::EdgeFunction,
        Kind::EdgeFunctionRevision,
        Kind::DomainZone,
        Kind::DomainRecord,
        Kind::CloudMonitoringIntegration,
    ] {
        let translation = with(vec![whole(kind, "x", &json!({}))]);
        let accepted = &json_of(&translation, kind, "x")["conditions"][0];
        assert_eq!(
            (&accepted["type"], &accepted["reason"]),
            (&json!("Accepted"), &json!("NotImplemented")),
            "{kind:?}"
        );
        assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&json!("False"), &json!(3)), "{kind:?}");
        assert!(accepted["message"].as_str().unwrap().contains(kind.info().name), "{accepted}");
        assert!(kind.info().has_status && KINDS_READ.contains(&kind), "{kind:?}");
    }
}

#[test]
fn an_object_that_cannot_be_read_says_so() {
    let check = |kind: Kind, mut spec: Value, place: &str, reason: &str| {
        spec["hostnames"] = json!(7);
        spec["listeners"] = json!(7);
        spec["endpoints"] = json!(7);
        spec["egressGateway"] = json!(7);
        let translation = with(vec![whole(kind, "odd", &spec)]);
        let status = json_of(&translation, kind, "odd");
        let accepted = status.pointer(place).unwrap_or_else(|| panic!("{status}"));
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!(reason)), "{kind:?}");
        assert!(accepted["message"].as_str().unwrap().contains("not understood"), "{accepted}");
    };
    check(Kind::HttpRoute, json!({"parentRefs": [{"name": "g"}]}), "/parents/0/conditions/0", "UnsupportedValue");
    check(Kind::Gateway, json!({"gatewayClassName": "default"}), "/conditions/0", "Invalid");
    check(Kind::Backend, json!({}), "/conditions/0", "Invalid");
    check(Kind::TunnelNode, json!({}), "/conditions/0", "Invalid");
    let class = json!({"controllerName": "example.com/x", "listeners": 7});
    let gateway = json!({"gatewayClassName": "theirs", "listeners": 7});
    let objects = vec![whole(Kind::GatewayClass, "theirs", &class), whole(Kind::Gateway, "odd", &gateway)];
    assert!(with(objects).wanted.iter().all(|wanted| wanted.name != "odd"), "another controller's");
}

#[test]
fn a_status_that_others_wrote_oddly_does_not_hide_an_object() {
    let (kind, mut route) =
        whole(Kind::HttpRoute, "r", &json!({"parentRefs": [{"name": "default"}], "rules": [rule()]}));
    route["status"] = json!({"parents": 7});
    let translation = with(vec![(kind, route)]);
    assert_eq!(translation.route("r"), SERVED);
}

#[test]
fn what_others_wrote_stays_and_times_are_kept() {
    let condition =
        |kind: &str, status: &str, time: &str| json!({"type": kind, "status": status, "lastTransitionTime": time});
    let entry = |controller: &str, time: &str| {
        let conditions = json!([condition("Accepted", "False", time)]);
        json!({"parentRef": {"name": "g"}, "controllerName": controller, "conditions": conditions})
    };
    let current = Status::Other(
        Kind::TcpRoute,
        json!({
            "parents": [entry("example.com/x", "t0"), entry(CONTROLLER_NAME, "t1")],
            "conditions": [condition("Theirs", "True", "t0"), condition("Accepted", "True", "t1")],
            "prefix": "fd00::/64",
        }),
    );
    let ours = json!({
        "parents": [entry(CONTROLLER_NAME, "")], "conditions": [condition("Accepted", "False", "")],
    });
    let mut wanted = Status::Other(Kind::TcpRoute, ours.clone());
    wanted.keep_times(Some(&current), "t2");
    let want = Status::Other(
        Kind::TcpRoute,
        json!({
            "parents": [entry(CONTROLLER_NAME, "t1"), entry("example.com/x", "t0")],
            "conditions": [condition("Accepted", "False", "t2"), condition("Theirs", "True", "t0")],
            "prefix": "fd00::/64",
        }),
    );
    assert_eq!(wanted, want);
    let mut again = Status::Other(Kind::TcpRoute, ours);
    again.keep_times(Some(&want), "t3");
    assert_eq!(again, want, "what is right is not written again");
}

/// Objects that are nearly right: known field names over arbitrary values.
fn arbitrary_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("name"),
        Just("namespace"),
        Just("rules"),
        Just("filters"),
        Just("backendRefs"),
        Just("listeners"),
        Just("protocol"),
        Just("tls"),
        Just("parentRefs"),
        Just("targetRefs"),
        Just("parametersRef"),
        Just("controllerName"),
        Just("gatewayClassName"),
        Just("endpoints"),
        Just("routes"),
        Just("provider"),
        Just("allowedRoutes"),
        Just("kinds"),
        Just("port"),
        Just("status"),
        Just("egressGateway"),
    ];
    let text = prop_oneof![Just("default"), Just("HTTP"), Just("TLS"), Just(CONTROLLER_NAME), Just("")];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_objects_give_a_translation(objects in prop::collection::vec((0..KINDS.len(), arbitrary_json()), 0..12)) {
        let named = objects.into_iter().enumerate().map(|(at, (kind, object))| {
            let kind = KINDS[kind].kind;
            let mut whole = whole(kind, &format!("n{at}"), &object).1;
            if at % 3 == 0 {
                whole = object;
            }
            (kind, whole)
        });
        let named: Vec<_> = named.collect();
        let translation = with(named.clone());
        for (kind, object) in &named {
            prop_assert!(found::unserved(*kind, object).len() <= found::PATHS_MAX);
            let _ = found::warnings(*kind, object);
        }
        for wanted in translation.wanted {
            let mut status = wanted.status.clone();
            let current = Status::Other(status.kind(), named.first().map_or(Value::Null, |(_, object)| object.clone()));
            status.keep_times(Some(&current), "now");
        }
    }

    #[test]
    fn what_asks_for_too_much_is_never_accepted(
        at in 0..FIELDS.len(), value in arbitrary_json(), more in 0..FIELDS.len(), other in arbitrary_json(),
    ) {
        let (kind, field) = FIELDS[at];
        let mut spec = served_spec(kind);
        spec[field] = value;
        if FIELDS[more].0 == kind {
            spec[FIELDS[more].1] = other;
        }
        let (_, object) = whole(kind, "it", &spec);
        let stops = found::find(kind, &object).iter().any(|field| matches!(field.effect, Effect::Stops(_)));
        let translation = with(vec![(kind, object)]);
        let status = format!("{:?}", translation.status("default", kind, "it"));
        let accepted = ["\"Accepted\", status: True", "\"status\": String(\"True\")"].iter().any(|yes| status.contains(yes));
        prop_assert!(!(stops && accepted), "{spec}: {status}");
    }
}

/// Fields that a table names, at the top of a spec.
const FIELDS: &[(Kind, &str)] = &[
    (Kind::GatewayClass, "parametersRef"),
    (Kind::Gateway, "addresses"),
    (Kind::Gateway, "tls"),
    (Kind::Gateway, "backendTLS"),
    (Kind::Gateway, "infrastructure"),
    (Kind::HttpRoute, "useDefaultGateways"),
    (Kind::Backend, "protocol"),
    (Kind::Proxy, "provider"),
    (Kind::Proxy, "telemetry"),
];

fn served_spec(kind: Kind) -> Value {
    match kind {
        Kind::GatewayClass => json!({ "controllerName": CONTROLLER_NAME }),
        Kind::Gateway => {
            json!({"gatewayClassName": "default", "listeners": [{"name": "a", "protocol": "HTTP", "port": 81}]})
        }
        Kind::HttpRoute => json!({"parentRefs": [{"name": "default"}], "rules": [rule()]}),
        Kind::Backend => json!({"endpoints": [{"ip": "1.1.1.1"}]}),
        _ => json!({}),
    }
}
