//! BackendTrafficPolicies: which of them counts where, and what is said of each at each Gateway.

use super::{
    unserved::{json_of, whole, with},
    *,
};
use crate::route::traffic::{Balance, Traffic};

/// A route of `host` with two rules, of which the one for `/named` has a name.
fn to(name: &str, host: &str, parent: &Value) -> (Kind, Value) {
    let backend = json!([{"kind": "Backend", "name": "office", "port": 80}]);
    let named =
        json!({"name": "named", "matches": [{"path": {"type": "Exact", "value": "/named"}}], "backendRefs": backend});
    let rules = json!([named, {"backendRefs": backend}]);
    whole(Kind::HttpRoute, name, &json!({"parentRefs": [parent], "hostnames": [host], "rules": rules}))
}

fn target(kind: &str, name: &str) -> Value {
    let group = if kind == "Backend" { "core.apoxy.dev" } else { "gateway.networking.k8s.io" };
    json!({"group": group, "kind": kind, "name": name})
}

fn section(kind: &str, name: &str, section: &str) -> Value {
    let mut target = target(kind, name);
    target["sectionName"] = json!(section);
    target
}

/// A policy that is told from others by how long a request may take.
fn policy(name: &str, target: Value, seconds: u64) -> (Kind, Value) {
    with_spec(name, target, json!({"timeout": {"http": {"requestTimeout": format!("{seconds}s")}}}))
}

fn with_spec(name: &str, target: Value, mut spec: Value) -> (Kind, Value) {
    spec["targetRefs"] = Value::Array(vec![target]);
    whole(Kind::BackendTrafficPolicy, name, &spec)
}

fn default_parent() -> Value {
    json!({"name": "default"})
}

impl Translation {
    fn traffic(&self, host: &str, path: &str) -> Option<Traffic> {
        let headers = HeaderMap::new();
        let at = ListenAddress::shared(80);
        let head = Head { at, host, method: &Method::GET, path, query: None, headers: &headers };
        self.table.select(&head, None).unwrap().rule.backends[0].traffic().cloned()
    }

    fn seconds(&self, host: &str, path: &str) -> Option<u64> {
        Some(self.traffic(host, path)?.request_timeout?.as_secs())
    }

    /// Name of the Gateway, status and reason of each entry.
    fn accepted(&self, policy: &str) -> Vec<String> {
        let status = json_of(self, Kind::BackendTrafficPolicy, policy);
        let entries = status["ancestors"].as_array().unwrap().iter();
        let brief = |entry: &Value| {
            let conditions: Vec<Condition> = serde_json::from_value(entry["conditions"].clone()).unwrap();
            format!("{}: {}", entry["ancestorRef"]["name"].as_str().unwrap(), brief(&conditions).join(" "))
        };
        entries.map(brief).collect()
    }

    fn said(&self, policy: &str) -> String {
        let status = json_of(self, Kind::BackendTrafficPolicy, policy);
        status["ancestors"][0]["conditions"][0]["message"].as_str().unwrap().to_owned()
    }
}

const GOOD: [&str; 1] = ["default: Accepted=True/Accepted"];

#[test]
fn the_most_specific_policy_counts() {
    let all = [
        policy("rule", section("HTTPRoute", "r", "named"), 1),
        policy("route", target("HTTPRoute", "r"), 2),
        policy("backend", target("Backend", "office"), 3),
        policy("listener", section("Gateway", "default", "http"), 4),
        policy("gateway", target("Gateway", "default"), 5),
    ];
    for (first, want) in [(0, (1, 2)), (1, (2, 2)), (2, (3, 3)), (3, (4, 4)), (4, (5, 5))] {
        let mut objects = vec![to("r", "a.com", &default_parent())];
        objects.extend_from_slice(&all[first..]);
        let translation = with(objects);
        let got = (translation.seconds("a.com", "/named"), translation.seconds("a.com", "/"));
        assert_eq!(got, (Some(want.0), Some(want.1)), "from {first} on");
        for (_, policy) in &all[first..] {
            assert_eq!(translation.accepted(policy["metadata"]["name"].as_str().unwrap()), GOOD);
        }
    }
    assert_eq!(with(vec![to("r", "a.com", &default_parent())]).traffic("a.com", "/"), None);
}

#[test]
fn a_listener_set_counts_before_its_gateway_and_only_for_its_own_listeners() {
    let listeners = json!([{"name": "more", "protocol": "HTTP", "port": 81}]);
    let set = whole(Kind::ListenerSet, "set", &json!({"parentRef": {"name": "own"}, "listeners": listeners}));
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80}]);
    let allowed = json!({"namespaces": {"from": "Same"}});
    let gateway = json!({"gatewayClassName": "default", "listeners": listeners, "allowedListeners": allowed});
    let translation = with(vec![
        whole(Kind::Gateway, "own", &gateway),
        set,
        to("r", "a.com", &json!({"kind": "ListenerSet", "name": "set"})),
        to("q", "b.com", &json!({"name": "own"})),
        policy("set", target("ListenerSet", "set"), 1),
        policy("gateway", target("Gateway", "own"), 2),
    ]);
    let headers = HeaderMap::new();
    let at = ListenAddress::shared(81);
    let head = Head { at, host: "a.com", method: &Method::GET, path: "/", query: None, headers: &headers };
    let of_set = translation.table.select(&head, None).unwrap().rule.backends[0].traffic().unwrap().request_timeout;
    assert_eq!(of_set.map(|limit| limit.as_secs()), Some(1));
    assert_eq!(translation.seconds("b.com", "/"), Some(2));
    assert_eq!(translation.accepted("set"), ["own: Accepted=True/Accepted"]);
}

#[test]
fn a_backends_policy_fills_in_what_the_routes_leaves_open_and_goes_before_the_gateways() {
    let balanced = |kind: &str| json!({"loadBalancer": {"type": kind}});
    let backend = with_spec("backend", target("Backend", "office"), balanced("Random"));
    let translation =
        with(vec![to("r", "a.com", &default_parent()), backend.clone(), policy("route", target("HTTPRoute", "r"), 1)]);
    let traffic = translation.traffic("a.com", "/").unwrap();
    assert_eq!((traffic.balance, translation.seconds("a.com", "/")), (Some(Balance::Random), Some(1)));
    let round = with_spec("route", target("HTTPRoute", "r"), balanced("RoundRobin"));
    let traffic =
        with(vec![to("r", "a.com", &default_parent()), backend.clone(), round]).traffic("a.com", "/").unwrap();
    assert_eq!(traffic.balance, Some(Balance::RoundRobin { slow_start: None }));
    let round = with_spec("gateway", target("Gateway", "default"), balanced("RoundRobin"));
    let traffic = with(vec![to("r", "a.com", &default_parent()), backend, round]).traffic("a.com", "/").unwrap();
    assert_eq!(traffic.balance, Some(Balance::Random));
}

#[test]
fn a_routes_policy_joins_the_gateways_only_where_it_says_so() {
    let check = |of_route: Value, want: (u32, u32, Option<Balance>)| {
        let above = json!({"circuitBreaker": {"maxConnections": 7, "maxParallelRequests": 8},
            "loadBalancer": {"type": "Random"}});
        let objects = vec![
            to("r", "a.com", &default_parent()),
            with_spec("gateway", target("Gateway", "default"), above),
            with_spec("route", target("HTTPRoute", "r"), of_route.clone()),
        ];
        let traffic = with(objects).traffic("a.com", "/").unwrap();
        let limits = traffic.limits.unwrap();
        assert_eq!((limits.connections, limits.requests, traffic.balance), want, "{of_route}");
    };
    let own = json!({"circuitBreaker": {"maxParallelRequests": 2}});
    check(own.clone(), (1024, 2, None));
    for kind in ["StrategicMerge", "JSONMerge"] {
        let mut joined = own.clone();
        joined["mergeType"] = json!(kind);
        check(joined, (7, 2, Some(Balance::Random)));
    }
}

#[test]
fn of_two_policies_for_one_target_the_older_counts_and_then_the_first_by_name() {
    let objects = |first_age: &str| {
        let (kind, mut a) = policy("a", target("HTTPRoute", "r"), 1);
        a["metadata"]["creationTimestamp"] = json!(first_age);
        with(vec![policy("b", target("HTTPRoute", "r"), 2), (kind, a), to("r", "a.com", &default_parent())])
    };
    let lost = ["default: Accepted=False/Conflicted"];
    let same_age = objects("2030-01-01T00:00:00Z");
    assert_eq!(same_age.seconds("a.com", "/"), Some(1));
    assert_eq!(
        (same_age.accepted("a"), same_age.accepted("b")),
        (GOOD.map(str::to_owned).to_vec(), lost.map(str::to_owned).to_vec())
    );
    let younger = objects("2030-01-01T00:00:01Z");
    assert_eq!(younger.seconds("a.com", "/"), Some(2));
    assert_eq!(younger.accepted("a"), lost);
}

#[test]
fn what_protects_and_is_not_served_stops_the_policy_and_what_does_not_is_mentioned() {
    let times = json!({"http": {"requestTimeout": "1s", "maxStreamDuration": "1m"}});
    let fault = json!({"delay": {"fixedDelay": "1s"}});
    let mild = json!({"timeout": times, "faultInjection": fault});
    let translation =
        with(vec![to("r", "a.com", &default_parent()), with_spec("p", target("HTTPRoute", "r"), mild.clone())]);
    assert_eq!(
        (translation.accepted("p"), translation.seconds("a.com", "/")),
        (GOOD.map(str::to_owned).to_vec(), Some(1))
    );
    let said = translation.said("p");
    assert!(said.contains("spec.faultInjection") && said.contains("spec.timeout.http.maxStreamDuration"), "{said}");
    for (field, value) in [
        ("rateLimit", json!({"local": {"rules": [{"limit": {"requests": 1, "unit": "Second"}}]}})),
        ("circuitBreaker", json!({"maxRequestsPerConnection": 7})),
    ] {
        let mut strict = mild.clone();
        strict[field] = value;
        let translation =
            with(vec![to("r", "a.com", &default_parent()), with_spec("p", target("HTTPRoute", "r"), strict)]);
        assert_eq!(translation.accepted("p"), ["default: Accepted=False/UnsupportedValue"], "{field}");
        assert_eq!(translation.traffic("a.com", "/"), None, "{field}");
        assert_eq!(translation.goes(80, "a.com", "/"), "default 1.1.1.1:80", "{field}: as without the policy");
    }
}

#[test]
fn a_policy_says_what_is_wrong_with_it_and_speaks_only_of_gateways_that_it_reaches() {
    let hash = json!({"type": "ConsistentHash", "consistentHash": {"type": "SourceIP", "tableSize": 4}});
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80}]);
    let translation = with(vec![
        whole(Kind::Gateway, "other", &json!({"gatewayClassName": "default", "listeners": listeners})),
        to("r", "a.com", &default_parent()),
        to("away", "b.com", &json!({"name": "nowhere"})),
        with_spec("bad", target("HTTPRoute", "r"), json!({ "loadBalancer": hash })),
        policy("unnamed", section("HTTPRoute", "r", "absent"), 1),
        policy("absent", target("HTTPRoute", "absent"), 1),
        policy("away", target("HTTPRoute", "away"), 1),
        policy("other", target("Gateway", "other"), 1),
    ]);
    assert_eq!(translation.accepted("bad"), ["default: Accepted=False/Invalid"]);
    assert!(translation.said("bad").contains("tableSize"));
    assert_eq!(translation.accepted("unnamed"), ["default: Accepted=False/TargetNotFound"]);
    assert_eq!((translation.accepted("absent"), translation.accepted("away")), (vec![], vec![]));
    assert_eq!(translation.accepted("other"), ["other: Accepted=True/Accepted"]);
    assert_eq!(translation.traffic("a.com", "/"), None);
}

#[test]
fn backends_are_told_of_clients_where_the_policy_says_so() {
    let spec = json!({"proxyProtocol": {"version": "V1"}});
    let translation =
        with(vec![to("r", "a.com", &default_parent()), with_spec("p", target("Backend", "office"), spec)]);
    assert_eq!(translation.accepted("p"), GOOD);
    let announces = translation.upstream("a.com").announces.unwrap();
    assert_eq!((announces.version, announces.of), (crate::proxy_protocol::Version::V1, None));
}

#[test]
fn every_fleet_is_in_the_table_once() {
    let translation = with(vec![to("r", "a.com", &default_parent()), policy("p", target("Gateway", "default"), 1)]);
    assert_eq!(translation.table.fleets().len(), 2, "one for each rule");
}
