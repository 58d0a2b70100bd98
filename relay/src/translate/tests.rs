//! What whole snapshots become: conditions by object, and where requests go.

use http::{HeaderMap, Method};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};
use underpass_shared::resource::{
    backend::Backend,
    condition::ConditionStatus,
    gateway::Gateway,
    http_route::{HttpRoute, RouteParentStatus},
    tunnel_node::TunnelNode,
};

use super::*;
use crate::route::{
    matcher::Head,
    table::{Port, TlsListener},
    target::Endpoint,
};

mod backend_tls;
mod backend_traffic;
mod clients;
mod dynamic;
mod extensions;
mod incremental;
mod listeners;
mod proxies;
mod sessions;
mod tunnel_nodes;
mod unserved;

const GROUP: &str = "gateway.networking.k8s.io/v1";

fn object<T: serde::de::DeserializeOwned>(version: &str, kind: &str, name: &str, age: u8, spec: &Value) -> T {
    let created = format!("2030-01-01T00:00:{age:02}Z");
    let metadata = json!({"name": name, "namespace": "default", "generation": 3, "creationTimestamp": created});
    serde_json::from_value(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})).unwrap()
}

fn class(name: &str, controller: &str) -> GatewayClass {
    object(GROUP, "GatewayClass", name, 0, &json!({ "controllerName": controller }))
}

fn gateway(name: &str, age: u8, listeners: &Value) -> Gateway {
    object(GROUP, "Gateway", name, age, &json!({"gatewayClassName": "default", "listeners": listeners}))
}

fn default_gateway(age: u8) -> Gateway {
    let listeners = json!([
        {"name": "http", "protocol": "HTTP", "port": 80}, {"name": "https", "protocol": "HTTPS", "port": 443}
    ]);
    gateway("default", age, &listeners)
}

fn route(name: &str, age: u8, spec: &Value) -> HttpRoute {
    object(GROUP, "HTTPRoute", name, age, spec)
}

/// A route to `backend` for `hostname` on Gateway `default`, as the seeds write it.
fn simple_route(name: &str, age: u8, hostname: &str, backend: &str) -> HttpRoute {
    let rules = json!([{"backendRefs": [{"kind": "Backend", "name": backend, "port": 8080}]}]);
    route(name, age, &json!({"parentRefs": [{"name": "default"}], "hostnames": [hostname], "rules": rules}))
}

fn backend(name: &str, endpoints: &Value) -> Backend {
    object("core.apoxy.dev/v1alpha2", "Backend", name, 0, &json!({ "endpoints": endpoints }))
}

fn node(name: &str, egress: bool) -> TunnelNode {
    object("core.apoxy.dev/v1alpha", "TunnelNode", name, 0, &json!({"egressGateway": {"enabled": egress}}))
}

/// A project with the class, the Gateway and the Backend `office` behind TunnelNode `office`.
fn project() -> ProjectSnapshot {
    ProjectSnapshot {
        gateway_classes: vec![class("default", CONTROLLER_NAME)],
        gateways: vec![default_gateway(0)],
        backends: vec![backend("office", &json!([{"fqdn": "office.tun.internal"}]))],
        nodes: vec![node("office", false)],
        ..ProjectSnapshot::default()
    }
}

fn settings() -> Settings {
    Settings {
        tunnel_domains: vec!["tun.internal".into()],
        addresses: vec!["192.0.2.1".into(), "edge.example.com".into()],
        ..Settings::default()
    }
}

fn snapshot(projects: impl IntoIterator<Item = (&'static str, ProjectSnapshot)>) -> Snapshot {
    let projects = projects.into_iter().map(|(name, objects)| (name.parse().unwrap(), objects)).collect();
    Snapshot { projects, owners: Owners::default() }
}

fn one(objects: ProjectSnapshot) -> Translation {
    translate(&snapshot([("default", objects)]), &settings())
}

impl Translation {
    fn status(&self, project: &str, kind: Kind, name: &str) -> &Status {
        let found = self
            .wanted
            .iter()
            .find(|wanted| wanted.project.as_str() == project && wanted.status.kind() == kind && wanted.name == name);
        &found.unwrap_or_else(|| panic!("no status wanted for {kind:?} {name}")).status
    }

    fn gateway(&self, name: &str) -> &GatewayStatus {
        let Status::Gateway(status) = self.status("default", Kind::Gateway, name) else { unreachable!() };
        status
    }

    fn parents(&self, project: &str, name: &str) -> &[RouteParentStatus] {
        let Status::Route(_, status) = self.status(project, Kind::HttpRoute, name) else { unreachable!() };
        &status.parents
    }

    /// The conditions of the route's only parent.
    fn route(&self, name: &str) -> Vec<String> {
        let [parent] = self.parents("default", name) else { panic!("not one parent") };
        brief(&parent.conditions)
    }

    /// What a handshake for `host` selects, where TLS is spoken.
    fn handshake(&self, port: u16, host: &str) -> Option<&TlsListener> {
        match self.table.port(ListenAddress::shared(port)) {
            Some(Port::Tls(tls)) => tls.listener(Some(host)).map(|listener| &**listener),
            _ => None,
        }
    }

    /// Where a GET goes: the endpoint, or the answer's status.
    fn goes(&self, port: u16, host: &str, path: &str) -> String {
        let headers = HeaderMap::new();
        let head =
            Head { at: ListenAddress::shared(port), host, method: &Method::GET, path, query: None, headers: &headers };
        match self.table.select(&head, self.handshake(port, host)) {
            Err(miss) => format!("{miss:?}"),
            Ok(selection) => match selection.rule.backend(0).map(|backend| backend.endpoint(0)) {
                Some(Ok(upstream)) => format!("{} {}", upstream.project, upstream.endpoint),
                Some(Err(answer)) => answer.status.to_string(),
                None => "500".to_owned(),
            },
        }
    }
}

/// `Type=Status/Reason` of each condition.
fn brief(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|one| format!("{}={:?}/{}", one.kind, one.status, one.reason)).collect()
}

fn message<'a>(conditions: &'a [Condition], kind: &str) -> &'a str {
    &conditions.iter().find(|one| one.kind == kind).unwrap().message
}

const SERVED: [&str; 2] = ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"];

#[test]
fn the_seeds_first_route_reaches_its_node() {
    let mut objects = project();
    objects.routes.push(simple_route("api", 1, "api.example.com", "office"));
    let translation = one(objects);
    assert_eq!(translation.goes(80, "api.example.com", "/x"), "default node office port 8080");
    assert_eq!(translation.goes(443, "api.example.com", "/x"), "default node office port 8080");
    assert_eq!(translation.goes(80, "other.example.com", "/x"), "Host");
    assert_eq!(translation.route("api"), SERVED);
}

#[test]
fn a_default_gateway_is_accepted_and_programmed() {
    let mut objects = project();
    objects.routes.push(simple_route("api", 1, "api.example.com", "office"));
    let translation = one(objects);
    let status = translation.gateway("default");
    assert_eq!(brief(&status.conditions), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let addresses: Vec<_> = status.addresses.iter().map(|one| format!("{} {}", one.kind, one.value)).collect();
    assert_eq!(addresses, ["IPAddress 192.0.2.1", "Hostname edge.example.com"]);
    assert_eq!(status.listeners.len(), 2);
    for listener in &status.listeners {
        assert_eq!(listener.attached_routes, 1);
        assert_eq!(listener.supported_kinds[0].kind, "HTTPRoute");
        let want = [
            "Accepted=True/Accepted",
            "Programmed=True/Programmed",
            "ResolvedRefs=True/ResolvedRefs",
            "Conflicted=False/NoConflicts",
        ];
        assert_eq!(brief(&listener.conditions), want);
        assert!(listener.conditions.iter().all(|one| one.observed_generation == 3));
    }
}

#[test]
fn only_classes_of_our_controller_are_spoken_of() {
    let mut objects = project();
    objects.gateway_classes.push(class("eg", CONTROLLER_NAME));
    objects.gateway_classes.push(class("theirs", "example.com/controller"));
    let translation = one(objects);
    assert!(matches!(translation.status("default", Kind::GatewayClass, "eg"), Status::GatewayClass(_)));
    assert!(translation.wanted.iter().all(|wanted| wanted.name != "theirs"));
}

#[test]
fn a_gateway_of_an_unknown_class_waits_and_one_of_another_controller_is_left_alone() {
    let mut objects = project();
    objects.gateway_classes.push(class("theirs", "example.com/controller"));
    let spec = |class: &str| json!({"gatewayClassName": class, "listeners": []});
    objects.gateways.push(object(GROUP, "Gateway", "waiting", 1, &spec("missing")));
    objects.gateways.push(object(GROUP, "Gateway", "foreign", 1, &spec("theirs")));
    objects.routes.push(route("r", 1, &json!({"parentRefs": [{"name": "foreign"}]})));
    let translation = one(objects);
    let conditions = &translation.gateway("waiting").conditions;
    assert_eq!(brief(conditions), ["Accepted=Unknown/Pending", "Programmed=Unknown/Pending"]);
    assert!(translation.wanted.iter().all(|wanted| wanted.name != "foreign"));
    assert!(translation.parents("default", "r").is_empty());
}

#[test]
fn listeners_that_cannot_be_told_apart_all_lose() {
    let mut objects = project();
    let listeners = json!([
        {"name": "a", "protocol": "HTTP", "port": 81},
        {"name": "b", "protocol": "HTTP", "port": 81},
        {"name": "c", "protocol": "HTTP", "port": 82},
        {"name": "d", "protocol": "HTTPS", "port": 82},
        {"name": "e", "protocol": "HTTP", "port": 83, "hostname": "e.com"},
        {"name": "f", "protocol": "HTTP", "port": 83},
    ]);
    objects.gateways.push(gateway("busy", 1, &listeners));
    let translation = one(objects);
    let status = translation.gateway("busy");
    assert_eq!(brief(&status.conditions), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    let reasons: Vec<_> = status.listeners.iter().map(|one| one.conditions[0].reason.as_str()).collect();
    let [hostname, protocol] = ["HostnameConflict", "ProtocolConflict"];
    assert_eq!(reasons, [hostname, hostname, protocol, protocol, "Accepted", "Accepted"]);
    assert_eq!(brief(&status.listeners[0].conditions)[3], "Conflicted=True/HostnameConflict");
    let ports: Vec<u16> = translation.table.listens().map(|(at, _)| at.port).collect();
    assert_eq!(ports, [80, 83, 443]);
}

#[test]
fn the_oldest_gateway_decides_what_a_port_speaks() {
    let mut objects = project();
    objects.gateways.push(gateway("late", 1, &json!([{"name": "x", "protocol": "HTTPS", "port": 80}])));
    let translation = one(objects);
    let status = translation.gateway("late");
    assert_eq!(brief(&status.conditions), ["Accepted=False/ListenersNotValid", "Programmed=False/Invalid"]);
    assert_eq!(brief(&status.listeners[0].conditions)[0], "Accepted=False/ProtocolConflict");
    assert_eq!(brief(&translation.gateway("default").conditions)[0], "Accepted=True/Accepted");
}

#[test]
fn a_port_that_could_not_be_bound_is_said_and_not_served() {
    let mut settings = settings();
    settings.ports_unavailable.insert(ListenAddress::shared(80), "address already in use".into());
    let translation = translate(&snapshot([("default", project())]), &settings);
    let listener = &translation.gateway("default").listeners[0];
    assert_eq!(brief(&listener.conditions)[..2], ["Accepted=False/PortUnavailable", "Programmed=False/Invalid"]);
    assert_eq!(message(&listener.conditions, "Accepted"), "address already in use");
    assert_eq!(translation.table.listens().count(), 1);
}

#[test]
fn parents_are_found_or_refused_for_upstreams_reasons() {
    let check = |parent: Value, hostnames: Value, want: &str| {
        let mut objects = project();
        let mut narrow = gateway(
            "narrow",
            1,
            &json!([
                {"name": "web", "protocol": "HTTP", "port": 8080, "hostname": "*.example.com"}
            ]),
        );
        objects.gateways.push(narrow.clone());
        narrow.metadata.namespace = Some("other".into());
        objects.gateways.push(narrow);
        objects.routes.push(route("r", 1, &json!({"parentRefs": [parent], "hostnames": hostnames})));
        assert_eq!(one(objects).route("r")[0], want, "{parent} {hostnames}");
    };
    let accepted = "Accepted=True/Accepted";
    check(json!({"name": "default"}), json!([]), accepted);
    check(json!({"name": "default", "kind": "Gateway", "group": "gateway.apoxy.dev"}), json!([]), accepted);
    check(json!({"name": "default", "sectionName": "https", "port": 443}), json!([]), accepted);
    check(json!({"name": "narrow"}), json!(["a.example.com", "b.org"]), accepted);
    let missing = "Accepted=False/NoMatchingParent";
    check(json!({"name": "nowhere"}), json!([]), missing);
    check(json!({"name": "default", "sectionName": "nope"}), json!([]), missing);
    check(json!({"name": "default", "sectionName": "http", "port": 443}), json!([]), missing);
    check(json!({"name": "default", "kind": "ListenerSet"}), json!([]), missing);
    check(json!({"name": "narrow", "namespace": "other"}), json!([]), "Accepted=False/NotAllowedByListeners");
    check(json!({"name": "narrow"}), json!(["b.org"]), "Accepted=False/NoMatchingListenerHostname");
    check(json!({"name": "narrow"}), json!(["example.com"]), "Accepted=False/NoMatchingListenerHostname");
}

#[test]
fn parents_of_other_groups_get_no_status_and_ours_are_written_out() {
    let mut objects = project();
    let parents = json!([{"name": "default"}, {"name": "svc", "group": "example.com", "kind": "Mesh"}]);
    objects.routes.push(route("r", 1, &json!({ "parentRefs": parents })));
    let translation = one(objects);
    let [parent] = translation.parents("default", "r") else { panic!() };
    assert_eq!(parent.parent_ref.group.as_deref(), Some("gateway.networking.k8s.io"));
    assert_eq!(parent.parent_ref.kind.as_deref(), Some("Gateway"));
    assert_eq!(parent.controller_name, CONTROLLER_NAME);
}

#[test]
fn only_hostnames_that_both_sides_name_are_served() {
    let mut objects = project();
    objects.gateways = vec![gateway(
        "default",
        0,
        &json!([
            {"name": "web", "protocol": "HTTP", "port": 80, "hostname": "*.example.com"}
        ]),
    )];
    let mut route = simple_route("r", 1, "very.specific.com", "office");
    route.spec.hostnames.push("*.example.com".into());
    objects.routes.push(route);
    let translation = one(objects);
    assert_eq!(translation.goes(80, "very.specific.com", "/"), "Host");
    assert_eq!(translation.goes(80, "a.example.com", "/"), "default node office port 8080");
}

#[test]
fn unresolved_backends_answer_500_and_say_why() {
    let check = |reference: Value, reason: &str, said: &str| {
        let mut objects = project();
        objects.backends.push(backend("bad", &json!([{"fqdn": "a1.office.tun.internal"}])));
        let rules = json!([{ "backendRefs": [reference] }]);
        objects.routes.push(route("r", 1, &json!({"parentRefs": [{"name": "default"}], "rules": rules})));
        let translation = one(objects);
        assert_eq!(translation.goes(80, "a.com", "/"), "500", "{reference}");
        let conditions = &translation.parents("default", "r")[0].conditions;
        assert_eq!(brief(conditions), ["Accepted=True/Accepted", &format!("ResolvedRefs=False/{reason}")]);
        assert!(message(conditions, "ResolvedRefs").contains(said), "{conditions:?}");
    };
    check(json!({"name": "office", "port": 80}), "BackendNotFound", "Service default/office does not exist");
    check(json!({"name": "office", "kind": "Pod", "port": 80}), "InvalidKind", "kind Pod");
    check(json!({"name": "x", "kind": "Backend", "group": "example.com"}), "InvalidKind", "example.com/Backend");
    check(json!({"name": "x", "kind": "Backend", "port": 80}), "BackendNotFound", "default/x");
    check(json!({"name": "x", "kind": "Backend", "namespace": "o", "port": 80}), "RefNotPermitted", "o/x");
    check(json!({"name": "office", "kind": "Backend"}), "UnsupportedValue", "no port");
    check(json!({"name": "bad", "kind": "Backend", "port": 80}), "UnsupportedValue", "default/bad");
}

#[test]
fn a_broken_rule_is_dropped_and_its_neighbours_serve() {
    let mut objects = project();
    let rule = |path: &str, kind: &str| {
        json!({
            "matches": [{"path": {"type": kind, "value": path}}],
            "backendRefs": [{"kind": "Backend", "group": "core.apoxy.dev", "name": "office", "port": 1}],
        })
    };
    let parents = json!([{"name": "default"}]);
    let rules = json!([rule("(", "RegularExpression"), rule("/ok", "Exact")]);
    objects.routes.push(route("half", 1, &json!({"parentRefs": parents, "rules": rules})));
    let rules = json!([rule("(", "RegularExpression")]);
    objects.routes.push(route("none", 1, &json!({"parentRefs": parents, "rules": rules})));
    let translation = one(objects);
    assert_eq!(translation.goes(80, "a.com", "/ok"), "default node office port 1");
    assert_eq!(translation.route("half")[2], "PartiallyInvalid=True/UnsupportedValue");
    let conditions = &translation.parents("default", "half")[0].conditions;
    assert!(message(conditions, "PartiallyInvalid").starts_with("Dropped Rule spec.rules[0]"));
    assert_eq!(translation.route("none")[0], "Accepted=False/UnsupportedValue");
}

#[test]
fn backends_say_what_is_wrong_with_every_endpoint() {
    let mut objects = project();
    let endpoints = json!([{"ip": "nonsense"}, {}, {"fqdn": "a1.office.tun.internal"}, {"ip": "1.1.1.1", "fqdn": "x"}]);
    objects.backends.push(backend("bad", &endpoints));
    objects.backends.push(backend("empty", &json!([])));
    objects.backends.push(backend("private", &json!([{"ip": "10.0.0.1"}])));
    objects.backends.push(backend("lost", &json!([{"fqdn": "nobody.tun.internal"}])));
    let translation = one(objects);
    let conditions = |name| {
        let Status::Backend(status) = translation.status("default", Kind::Backend, name) else { unreachable!() };
        &status.conditions
    };
    assert_eq!(brief(conditions("office")), ["Accepted=True/Accepted"]);
    assert_eq!(brief(conditions("bad")), ["Accepted=False/Invalid"]);
    for index in 0..4 {
        assert!(message(conditions("bad"), "Accepted").contains(&format!("spec.endpoints[{index}]")));
    }
    assert_eq!(brief(conditions("empty")), ["Accepted=False/Invalid"]);
    assert_eq!(brief(conditions("private")), ["Accepted=False/AddressNotAllowed"]);
    assert_eq!(brief(conditions("lost")), ["Accepted=True/Accepted", "ResolvedRefs=False/NodeNotFound"]);
}

#[test]
fn every_form_of_endpoint_becomes_its_own() {
    let mut objects = project();
    objects.backends.push(backend("host", &json!([{"fqdn": "API.example.com"}])));
    objects.backends.push(backend("ip", &json!([{"ip": "1.1.1.1"}])));
    objects.routes.push(simple_route("h", 1, "h.com", "host"));
    objects.routes.push(simple_route("i", 1, "i.com", "ip"));
    let translation = one(objects);
    assert_eq!(translation.goes(80, "h.com", "/"), "default api.example.com:8080");
    assert_eq!(translation.goes(80, "i.com", "/"), "default 1.1.1.1:8080");
    assert_eq!(Endpoint::Address("1.1.1.1:8080".parse().unwrap()).to_string(), "1.1.1.1:8080");
}

fn two_projects() -> Snapshot {
    let mut first = project();
    first.routes.push(simple_route("mine", 2, "shared.com", "office"));
    let mut second = project();
    second.routes.push(simple_route("late", 3, "shared.com", "office"));
    second.routes[0].spec.hostnames.push("own.com".into());
    second.routes.push(simple_route("lost", 3, "shared.com", "office"));
    snapshot([("one", first), ("two", second)])
}

#[test]
fn a_hostname_belongs_to_the_project_that_claimed_it_first() {
    let translation = translate(&two_projects(), &settings());
    assert_eq!(translation.goes(80, "shared.com", "/"), "one node office port 8080");
    assert_eq!(translation.goes(80, "own.com", "/"), "two node office port 8080");
    assert_eq!(brief(&translation.parents("two", "late")[0].conditions)[0], "Accepted=True/Accepted");
    let lost = &translation.parents("two", "lost")[0].conditions;
    assert_eq!(brief(lost)[0], "Accepted=False/HostnameConflict");
    assert!(message(lost, "Accepted").contains("shared.com"));
    assert!(!message(lost, "Accepted").contains("one"), "the other project is not named");
}

#[test]
fn an_owner_keeps_its_hostname_against_an_older_object() {
    let mut snapshot = two_projects();
    snapshot.owners = translate(&snapshot, &settings()).owners;
    let thief = snapshot.projects.get_mut(&"two".parse().unwrap()).unwrap();
    thief.routes[1].metadata.creation_timestamp = Some("2020-01-01T00:00:00Z".into());
    let again = translate(&snapshot, &settings());
    assert_eq!(again.goes(80, "shared.com", "/"), "one node office port 8080");
    snapshot.projects.get_mut(&"one".parse().unwrap()).unwrap().routes.clear();
    let gone = translate(&snapshot, &settings());
    assert_eq!(gone.goes(80, "shared.com", "/"), "two node office port 8080");
}

#[test]
fn a_listener_whose_hostname_another_project_owns_is_conflicted() {
    let listeners = json!([{"name": "web", "protocol": "HTTP", "port": 80, "hostname": "a.com"}]);
    let mut first = project();
    first.gateways = vec![gateway("default", 1, &listeners)];
    let mut second = project();
    second.gateways = vec![gateway("default", 2, &listeners)];
    second.routes.push(simple_route("r", 0, "a.com", "office"));
    let translation = translate(&snapshot([("default", second), ("other", first)]), &settings());
    let listener = &translation.gateway("default").listeners[0];
    // The route is older than the other project's Gateway and claims the name for its own.
    assert_eq!(brief(&listener.conditions)[0], "Accepted=True/Accepted");
    let Status::Gateway(other) = translation.status("other", Kind::Gateway, "default") else { unreachable!() };
    assert_eq!(brief(&other.listeners[0].conditions)[3], "Conflicted=True/HostnameConflict");
    assert_eq!(brief(&other.conditions)[0], "Accepted=False/ListenersNotValid");
}

fn arbitrary_listener() -> impl Strategy<Value = Value> {
    let hostname = prop_oneof![Just(Value::Null), Just(json!("a.com")), Just(json!("*.a.com")), Just(json!("??"))];
    (0..3_u16, any::<bool>(), hostname).prop_map(|(port, https, hostname)| {
        let protocol = if https { "HTTPS" } else { "HTTP" };
        json!({"name": format!("l{port}"), "protocol": protocol, "port": port * 40, "hostname": hostname})
    })
}

fn arbitrary_route() -> impl Strategy<Value = Value> {
    let hostname = prop_oneof![Just("a.com"), Just("x.a.com"), Just("*.a.com"), Just("b.org"), Just("a b")];
    let parent = prop_oneof![Just("g0"), Just("g1"), Just("g9")];
    let backend = prop_oneof![Just("b0"), Just("b1"), Just("b9")];
    let path = prop_oneof![Just("/"), Just("/x"), Just("("), Just("")];
    let kind = prop_oneof![Just("Exact"), Just("PathPrefix"), Just("RegularExpression")];
    let hostnames = prop::collection::vec(hostname, 0..3);
    (hostnames, prop::collection::vec(parent, 0..3), backend, path, kind).prop_map(
        |(hostnames, parents, backend, path, kind)| {
            let parents: Vec<Value> = parents.iter().map(|name| json!({ "name": name })).collect();
            json!({"parentRefs": parents, "hostnames": hostnames, "rules": [{
                "matches": [{"path": {"type": kind, "value": path}}],
                "backendRefs": [{"kind": "Backend", "name": backend, "port": 1}],
            }]})
        },
    )
}

type Raw = (Vec<(Vec<Value>, u8)>, Vec<(Value, u8)>);

fn arbitrary_project() -> impl Strategy<Value = Raw> {
    let gateways = prop::collection::vec((prop::collection::vec(arbitrary_listener(), 0..4), 0..3_u8), 0..3);
    (gateways, prop::collection::vec((arbitrary_route(), 0..3_u8), 0..5))
}

fn built((gateways, routes): &Raw, reversed: bool) -> ProjectSnapshot {
    let mut objects = ProjectSnapshot {
        gateway_classes: vec![class("default", CONTROLLER_NAME), class("other", "x")],
        gateways: (gateways.iter().enumerate())
            .map(|(index, (listeners, age))| gateway(&format!("g{index}"), *age, &json!(listeners)))
            .collect(),
        routes: (routes.iter().enumerate())
            .map(|(index, (spec, age))| route(&format!("r{index}"), *age, spec))
            .collect(),
        backends: vec![backend("b0", &json!([{"ip": "1.1.1.1"}])), backend("b1", &json!([]))],
        nodes: vec![node("n0", true), node("n1", false)],
        ..ProjectSnapshot::default()
    };
    if reversed {
        objects.gateway_classes.reverse();
        objects.gateways.reverse();
        objects.routes.reverse();
        objects.backends.reverse();
        objects.nodes.reverse();
    }
    objects
}

proptest! {
    #[test]
    fn the_order_of_input_never_matters(first in arbitrary_project(), second in arbitrary_project()) {
        let build = |reversed| snapshot([("one", built(&first, reversed)), ("two", built(&second, reversed))]);
        let (forward, backward) = (translate(&build(false), &settings()), translate(&build(true), &settings()));
        prop_assert_eq!(&forward.wanted, &backward.wanted);
        prop_assert_eq!(&forward.owners, &backward.owners);
        for port in [0, 40, 80] {
            for host in ["a.com", "x.a.com", "b.org", "z.a.com"] {
                for path in ["/", "/x"] {
                    prop_assert_eq!(forward.goes(port, host, path), backward.goes(port, host, path));
                }
            }
        }
    }

    #[test]
    fn owners_that_are_fed_back_change_nothing(first in arbitrary_project(), second in arbitrary_project()) {
        let mut input = snapshot([("one", built(&first, false)), ("two", built(&second, false))]);
        let before = translate(&input, &settings());
        input.owners = before.owners;
        let after = translate(&input, &settings());
        prop_assert_eq!(before.wanted, after.wanted);
        prop_assert_eq!(input.owners, after.owners);
    }

    #[test]
    fn whatever_is_not_served_says_so(objects in arbitrary_project()) {
        let translation = one(built(&objects, false));
        for wanted in &translation.wanted {
            let Status::Route(_, status) = &wanted.status else { continue };
            for parent in &status.parents {
                let conditions = &parent.conditions;
                let accepted = conditions.iter().find(|one| one.kind == "Accepted").unwrap();
                let resolved = conditions.iter().find(|one| one.kind == "ResolvedRefs").unwrap();
                if accepted.status == ConditionStatus::False || resolved.status == ConditionStatus::False {
                    prop_assert_eq!(conditions.iter().any(|one| !one.message.is_empty()), true);
                }
            }
        }
    }
}
