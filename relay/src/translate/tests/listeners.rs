//! Listeners beyond plain HTTP, ListenerSets, certificates, and the routes of streams and datagrams.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::*;
use crate::route::{
    host::HostPattern,
    table::{Speaks, TlsServes},
    tls::{Clients, ServerTls},
};

fn raw(kind: Kind, (namespace, name): (&str, &str), age: u8, spec: &Value) -> (Kind, Value) {
    let created = format!("2030-01-01T00:00:{age:02}Z");
    let metadata = json!({
        "name": name, "namespace": namespace, "generation": 3, "creationTimestamp": created, "uid": name,
    });
    let (version, name) = (kind.info().api_versions[0], kind.info().name);
    (kind, json!({"apiVersion": version, "kind": name, "metadata": metadata, "spec": spec}))
}

fn gateway_with(spec: &Value) -> (Kind, Value) {
    let mut spec = spec.clone();
    spec["gatewayClassName"] = json!("default");
    raw(Kind::Gateway, ("default", "g"), 0, &spec)
}

fn translated(objects: Vec<(Kind, Value)>) -> Translation {
    let class = raw(Kind::GatewayClass, ("", "default"), 0, &json!({ "controllerName": CONTROLLER_NAME }));
    let backend = raw(Kind::Backend, ("default", "b"), 0, &json!({"endpoints": [{"ip": "192.0.2.9"}]}));
    one(ProjectSnapshot::read([class, backend].into_iter().chain(objects)))
}

fn secret(namespace: &str, name: &str) -> (Kind, Value) {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["a.example".into()]).unwrap();
    let data = json!({
        "tls.crt": BASE64_STANDARD.encode(cert.pem()), "tls.key": BASE64_STANDARD.encode(signing_key.serialize_pem()),
    });
    let metadata = json!({"name": name, "namespace": namespace});
    (Kind::Secret, json!({"metadata": metadata, "type": "kubernetes.io/tls", "data": data}))
}

fn authorities(name: &str) -> (Kind, Value) {
    let pem = rcgen::generate_simple_self_signed(["ca".into()]).unwrap().cert.pem();
    (Kind::ConfigMap, json!({"metadata": {"name": name, "namespace": "default"}, "data": {"ca.crt": pem}}))
}

/// The conditions of the Gateway's listener.
fn listener(translation: &Translation, name: &str) -> Vec<String> {
    let listeners = &translation.gateway("g").listeners;
    brief(&listeners.iter().find(|one| one.name == name).unwrap().conditions)
}

fn set(translation: &Translation, name: &str) -> ListenerSetStatus {
    let Status::ListenerSet(status) = translation.status("default", Kind::ListenerSet, name) else { panic!() };
    status.clone()
}

fn tls_of(translation: &Translation, port: u16, host: &str) -> Option<ServerTls> {
    match &translation.handshake(port, host)?.serves {
        TlsServes::Http(tls) | TlsServes::Stream { tls: Some(tls), .. } => Some((**tls).clone()),
        TlsServes::Stream { tls: None, .. } => None,
    }
}

const GOOD: [&str; 4] = [
    "Accepted=True/Accepted",
    "Programmed=True/Programmed",
    "ResolvedRefs=True/ResolvedRefs",
    "Conflicted=False/NoConflicts",
];

#[test]
fn a_listener_without_its_certificate_keeps_its_place_and_lets_nobody_in() {
    let https = |name: &str, hostname: &str, reference: Value| {
        let tls = json!({"mode": "Terminate", "certificateRefs": [reference]});
        json!({"name": name, "protocol": "HTTPS", "port": 443, "hostname": hostname, "tls": tls})
    };
    let listeners = json!([
        {"name": "own", "protocol": "HTTPS", "port": 443},
        https("good", "good.com", json!({"name": "there"})),
        https("missing", "missing.com", json!({"name": "absent"})),
        https("kind", "kind.com", json!({"kind": "ConfigMap", "name": "there"})),
        https("elsewhere", "elsewhere.com", json!({"namespace": "other", "name": "theirs"})),
    ]);
    let objects =
        vec![gateway_with(&json!({ "listeners": listeners })), secret("default", "there"), secret("other", "theirs")];
    let translation = translated(objects);
    assert_eq!(listener(&translation, "good")[..4], GOOD);
    for (name, reason) in
        [("missing", "InvalidCertificateRef"), ("kind", "InvalidCertificateRef"), ("elsewhere", "RefNotPermitted")]
    {
        let conditions = listener(&translation, name);
        assert_eq!(conditions[0], "Accepted=True/Accepted");
        assert_eq!(conditions[1], "Programmed=False/Invalid");
        assert_eq!(conditions[2], format!("ResolvedRefs=False/{reason}"));
        assert_eq!(tls_of(&translation, 443, &format!("{name}.com")).unwrap().clients, Clients::Nobody, "{name}");
    }
    assert_eq!(tls_of(&translation, 443, "good.com").unwrap().certificates.len(), 1);
    assert_eq!(tls_of(&translation, 443, "else.com").unwrap(), ServerTls::default());
    let conditions = brief(&translation.gateway("g").conditions);
    assert_eq!(conditions, ["Accepted=True/Accepted", "Programmed=True/Programmed"], "it is the listeners' trouble");
}

#[test]
fn names_that_overlap_over_tls_are_said() {
    let https = |name: &str, hostname: Option<&str>| json!({"name": name, "protocol": "HTTPS", "port": 443, "hostname": hostname});
    let spec =
        json!({"listeners": [https("a", Some("a.com")), https("wild", Some("*.b.com")), https("x", Some("x.b.com"))]});
    let translation = translated(vec![gateway_with(&spec)]);
    assert_eq!(listener(&translation, "a")[..], GOOD);
    assert_eq!(listener(&translation, "wild")[4], "OverlappingTLSConfig=True/OverlappingHostnames");
    assert_eq!(listener(&translation, "x")[4], "OverlappingTLSConfig=True/OverlappingHostnames");
}

#[test]
fn whose_certificates_are_asked_for_is_said_for_every_port_or_for_one() {
    let https = |name: &str, port: u16| json!({"name": name, "protocol": "HTTPS", "port": port});
    let validation = |name: &str, mode: &str| json!({"validation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": name}], "mode": mode}});
    let frontend = json!({
        "default": validation("ca", "AllowValidOnly"),
        "perPort": [
            {"port": 8443, "tls": validation("ca", "AllowInsecureFallback")},
            {"port": 9443, "tls": validation("absent", "AllowValidOnly")},
        ],
    });
    let listeners = json!([
        https("default", 443), https("lax", 8443), https("broken", 9443), {"name": "plain", "protocol": "HTTP", "port": 80}
    ]);
    let spec = json!({"listeners": listeners, "tls": {"frontend": frontend}});
    let translation = translated(vec![gateway_with(&spec), authorities("ca")]);
    let clients = |port: u16| tls_of(&translation, port, "a.com").unwrap().clients;
    assert!(matches!(clients(443), Clients::Valid(_)));
    assert!(matches!(clients(8443), Clients::ValidOrNot(_)));
    assert_eq!(clients(9443), Clients::Nobody);
    assert_eq!(listener(&translation, "default")[..], GOOD);
    assert_eq!(listener(&translation, "plain")[..], GOOD);
    let want = [
        "Accepted=False/NoValidCACertificate",
        "Programmed=False/Invalid",
        "ResolvedRefs=False/InvalidCACertificateRef",
    ];
    assert_eq!(listener(&translation, "broken")[..3], want);
    let conditions = brief(&translation.gateway("g").conditions);
    assert!(conditions.contains(&"InsecureFrontendValidationMode=True/ConfigurationChanged".to_owned()));
}

#[test]
fn the_certificate_for_backends_is_the_gateway_s_own_matter() {
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80}]);
    let spec =
        |name: &str| json!({"listeners": listeners, "tls": {"backend": {"clientCertificateRef": {"name": name}}}});
    let conditions = |name: &str| {
        let translation = translated(vec![gateway_with(&spec(name)), secret("default", "there")]);
        brief(&translation.gateway("g").conditions)
    };
    assert_eq!(conditions("there")[2], "ResolvedRefs=True/ResolvedRefs");
    assert_eq!(conditions("absent")[0], "Accepted=True/Accepted");
    assert_eq!(conditions("absent")[2], "ResolvedRefs=False/InvalidClientCertificateRef");
}

#[test]
fn listener_sets_add_what_the_gateway_lets_them_and_what_is_not_taken() {
    let http = |name: &str, hostname: &str| json!({"name": name, "protocol": "HTTP", "port": 80, "hostname": hostname});
    let own = json!([http("own", "own.com")]);
    let spec = json!({"listeners": own, "allowedListeners": {"namespaces": {"from": "Same"}}});
    let of = |name: (&str, &str), age: u8, listeners: Value| {
        let parent = json!({"name": "g", "namespace": "default", "kind": "Gateway"});
        raw(Kind::ListenerSet, name, age, &json!({"parentRef": parent, "listeners": listeners}))
    };
    let objects = vec![
        of(("default", "younger"), 2, json!([http("a", "own.com"), http("b", "first.com")])),
        of(
            ("default", "older"),
            1,
            json!([http("a", "own.com"), http("b", "first.com"), {"name": "t", "protocol": "TCP", "port": 80}]),
        ),
        of(("other", "foreign"), 1, json!([http("c", "foreign.com")])),
        gateway_with(&spec),
    ];
    let translation = translated(objects);
    assert_eq!(listener(&translation, "own")[..], GOOD);
    assert_eq!(translation.gateway("g").listeners.len(), 1);
    assert_eq!(translation.gateway("g").attached_listener_sets, 1);
    let older = set(&translation, "older");
    assert_eq!(brief(&older.conditions), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    let conflict = ["Accepted=False/HostnameConflict", "Programmed=False/HostnameConflict"];
    assert_eq!(brief(&older.listeners[0].conditions)[..2], conflict);
    assert_eq!(brief(&older.listeners[1].conditions)[..], GOOD);
    assert_eq!(brief(&older.listeners[2].conditions)[3], "Conflicted=True/ProtocolConflict");
    let younger = set(&translation, "younger");
    assert_eq!(brief(&younger.conditions), ["Accepted=False/ListenersNotValid", "Programmed=False/ListenersNotValid"]);
    let foreign = set(&translation, "foreign");
    assert_eq!(brief(&foreign.conditions), ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"]);
    assert!(foreign.listeners.is_empty());
}

#[test]
fn routes_attach_to_the_gateway_s_own_listeners_or_to_those_of_a_set() {
    let http = |name: &str, hostname: &str| json!({"name": name, "protocol": "HTTP", "port": 80, "hostname": hostname});
    let allowed = json!({"namespaces": {"from": "All"}});
    let gateway = gateway_with(&json!({"listeners": [http("own", "own.com")], "allowedListeners": allowed}));
    let parent = json!({"name": "g", "namespace": "default"});
    let added = json!({"parentRef": parent, "listeners": [http("added", "added.com")]});
    let added = raw(Kind::ListenerSet, ("other", "s"), 1, &added);
    let route = |name: (&str, &str), parent: Value| {
        let rules = json!([{"backendRefs": [{"kind": "Backend", "name": "b", "namespace": "default", "port": 1}]}]);
        raw(Kind::HttpRoute, name, 1, &json!({"parentRefs": [parent], "rules": rules}))
    };
    let to_set = json!({"kind": "ListenerSet", "name": "s", "namespace": "other"});
    let objects = vec![
        gateway,
        added,
        route(("default", "to-gateway"), json!({"name": "g"})),
        route(("default", "by-section"), json!({"name": "g", "sectionName": "added"})),
        route(("default", "far"), to_set.clone()),
        route(("other", "near"), to_set),
    ];
    let translation = translated(objects);
    assert_eq!(translation.goes(80, "own.com", "/"), "default 192.0.2.9:1");
    assert_eq!(translation.goes(80, "added.com", "/"), "500", "the set's route, without a ReferenceGrant");
    assert_eq!(translation.route("to-gateway")[0], "Accepted=True/Accepted");
    assert_eq!(translation.route("by-section")[0], "Accepted=False/NoMatchingParent");
    assert_eq!(translation.route("far")[0], "Accepted=False/NotAllowedByListeners", "Same means the set's namespace");
    assert_eq!(translation.route("near")[0], "Accepted=True/Accepted");
    assert_eq!(translation.gateway("g").listeners[0].attached_routes, 1);
    assert_eq!(set(&translation, "s").listeners[0].attached_routes, 1);
}

fn stream(kind: Kind, name: &str, age: u8, parent: &Value, hostnames: &Value) -> (Kind, Value) {
    let rules = json!([{"backendRefs": [{"kind": "Backend", "name": "b", "port": 1}]}]);
    let mut spec = json!({"parentRefs": [parent], "rules": rules});
    if !hostnames.is_null() {
        spec["hostnames"] = hostnames.clone();
    }
    raw(kind, ("default", name), age, &spec)
}

fn accepted(translation: &Translation, kind: Kind, name: &str) -> String {
    let Status::Route(_, status) = translation.status("default", kind, name) else { panic!() };
    brief(&status.parents[0].conditions)[0].clone()
}

#[test]
fn tcp_and_udp_share_a_port_and_the_oldest_route_has_each() {
    let listeners = json!([
        {"name": "tcp", "protocol": "TCP", "port": 53}, {"name": "udp", "protocol": "UDP", "port": 53},
        {"name": "http", "protocol": "HTTP", "port": 80},
    ]);
    let parent = json!({"name": "g"});
    let objects = vec![
        gateway_with(&json!({ "listeners": listeners })),
        stream(Kind::TcpRoute, "t2", 2, &parent, &Value::Null),
        stream(Kind::TcpRoute, "t1", 1, &parent, &Value::Null),
        stream(Kind::UdpRoute, "u", 1, &parent, &Value::Null),
        stream(Kind::TcpRoute, "wrong", 1, &json!({"name": "g", "sectionName": "http"}), &Value::Null),
    ];
    let translation = translated(objects);
    let at = ListenAddress::shared(53);
    let Some(Port::Stream(Some(rule))) = translation.table.port(at) else { panic!() };
    assert_eq!(&*rule.route, "default/t1");
    assert_eq!(&*translation.table.datagrams(at).unwrap().route, "default/u");
    assert_eq!(translation.gateway("g").listeners[0].attached_routes, 2, "both count");
    assert_eq!(accepted(&translation, Kind::TcpRoute, "t2"), "Accepted=True/Accepted");
    assert_eq!(accepted(&translation, Kind::TcpRoute, "wrong"), "Accepted=False/NotAllowedByListeners");
    let speaks: Vec<Speaks> = translation.table.listens().map(|(_, speaks)| speaks).collect();
    assert_eq!(speaks, [Speaks::Tcp, Speaks::Http, Speaks::Udp]);
}

#[test]
fn a_port_without_hostnames_belongs_to_one_gateway() {
    let spec = |port: u16| json!({"gatewayClassName": "default", "listeners": [{"name": "tcp", "protocol": "TCP", "port": port}]});
    let objects = vec![
        raw(Kind::Gateway, ("default", "g"), 2, &spec(53)),
        raw(Kind::Gateway, ("default", "older"), 1, &spec(53)),
    ];
    let translation = translated(objects);
    assert_eq!(listener(&translation, "tcp")[0], "Accepted=False/HostnameConflict");
    assert_eq!(brief(&translation.gateway("older").listeners[0].conditions)[..], GOOD);
}

#[test]
fn tls_routes_are_chosen_by_name_on_listeners_that_end_tls_and_on_those_that_do_not() {
    let tls = |name: &str, hostname: &str, mode: &str| {
        let refs = if mode == "Terminate" { json!([{"name": "c"}]) } else { json!([]) };
        json!({"name": name, "protocol": "TLS", "port": 443, "hostname": hostname, "tls": {"mode": mode, "certificateRefs": refs}})
    };
    let listeners = json!([
        tls("ends", "*.ends.com", "Terminate"), tls("passes", "*.passes.com", "Passthrough"),
        {"name": "https", "protocol": "HTTPS", "port": 443, "hostname": "web.com"},
    ]);
    let parent = json!({"name": "g"});
    let objects = vec![
        gateway_with(&json!({ "listeners": listeners })),
        secret("default", "c"),
        stream(Kind::TlsRoute, "r", 1, &parent, &json!(["a.ends.com", "a.passes.com"])),
        stream(Kind::TlsRoute, "nowhere", 1, &parent, &json!(["web.com"])),
    ];
    let translation = translated(objects);
    let serves = |host: &str| match &translation.handshake(443, host).unwrap().serves {
        TlsServes::Http(_) => "http".to_owned(),
        TlsServes::Stream { tls, rules } => {
            let rule = rules.covering(host).next().map(|rule| rule.route.to_string());
            format!("{} {rule:?}", if tls.is_some() { "ends" } else { "passes" })
        }
    };
    assert_eq!(serves("a.ends.com"), "ends Some(\"default/r\")");
    assert_eq!(serves("b.ends.com"), "ends None");
    assert_eq!(serves("a.passes.com"), "passes Some(\"default/r\")");
    assert_eq!(serves("web.com"), "http");
    assert_eq!(accepted(&translation, Kind::TlsRoute, "nowhere"), "Accepted=False/NoMatchingListenerHostname");
}

#[test]
fn of_http_and_grpc_routes_the_older_has_a_hostname() {
    let gateway = gateway_with(&json!({"listeners": [{"name": "http", "protocol": "HTTP", "port": 80}]}));
    let route =
        |kind: Kind, name: &str, age: u8, hostnames: Value| stream(kind, name, age, &json!({"name": "g"}), &hostnames);
    let objects = vec![
        gateway,
        route(Kind::GrpcRoute, "grpc", 1, json!(["a.com"])),
        route(Kind::HttpRoute, "same", 2, json!(["a.com"])),
        route(Kind::HttpRoute, "any", 3, Value::Null),
        route(Kind::HttpRoute, "both", 3, json!(["a.com", "b.com"])),
        route(Kind::HttpRoute, "other", 3, json!(["b.com"])),
    ];
    let translation = translated(objects);
    assert_eq!(accepted(&translation, Kind::GrpcRoute, "grpc"), "Accepted=True/Accepted");
    assert_eq!(accepted(&translation, Kind::HttpRoute, "same"), "Accepted=False/HostnameConflict");
    assert_eq!(accepted(&translation, Kind::HttpRoute, "any"), "Accepted=False/HostnameConflict");
    assert_eq!(accepted(&translation, Kind::HttpRoute, "both"), "Accepted=False/HostnameConflict");
    assert_eq!(accepted(&translation, Kind::HttpRoute, "other"), "Accepted=True/Accepted");
    assert_eq!(translation.goes(80, "b.com", "/"), "default 192.0.2.9:1");
}

#[test]
fn a_gateway_that_asks_for_labels_has_a_service_that_carries_them() {
    let listeners =
        json!([{"name": "http", "protocol": "HTTP", "port": 80}, {"name": "udp", "protocol": "UDP", "port": 53}]);
    let infrastructure = json!({"labels": {"a": "1"}, "annotations": {"b": "2"}});
    let translation =
        translated(vec![gateway_with(&json!({"listeners": listeners, "infrastructure": infrastructure}))]);
    let [service] = &translation.services[..] else { panic!("one Service") };
    assert_eq!((service.name.as_str(), service.namespace.as_str()), ("gateway-g", "default"));
    assert_eq!(service.labels["a"], "1");
    assert_eq!(service.labels["gateway.networking.k8s.io/gateway-name"], "g");
    assert_eq!(service.annotations["b"], "2");
    assert_eq!(service.spec["ports"][0]["protocol"], "UDP");
    assert_eq!(service.owner["uid"], "g");
    assert!(one(project()).services.is_empty());
}

#[test]
fn hostnames_mean_nothing_to_listeners_without_names() {
    let listeners = json!([{"name": "tcp", "protocol": "TCP", "port": 53, "hostname": "*.*"}]);
    let translation = translated(vec![gateway_with(&json!({ "listeners": listeners }))]);
    assert_eq!(listener(&translation, "tcp")[..], GOOD);
    assert!(HostPattern::parse("*.*").is_err());
}
