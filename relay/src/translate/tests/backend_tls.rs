//! BackendTLSPolicies: which backends get TLS, what stops them, and what is said of each policy at each Gateway.

use super::{
    unserved::{json_of, whole, with},
    *,
};
use crate::route::{
    target::{Protocol, Target, Upstream},
    tls::{Roots, SubjectName},
};

fn service(name: &str) -> Vec<(Kind, Value)> {
    let ports = json!([{"name": "web", "port": 443}, {"name": "admin", "port": 8443}]);
    let slice_ports = json!([{"name": "web", "port": 3000}, {"name": "admin", "port": 3001}]);
    let mut slice = json!({"addressType": "IPv4", "ports": slice_ports, "endpoints": [{"addresses": ["192.0.2.7"]}]});
    let labels = json!({"kubernetes.io/service-name": name});
    slice["metadata"] = json!({"name": format!("{name}-1"), "namespace": "default", "labels": labels});
    vec![whole(Kind::Service, name, &json!({ "ports": ports })), (Kind::EndpointSlice, slice)]
}

/// A route of `host` to a port of a Service.
fn to(name: &str, host: &str, service: &str, port: u16) -> (Kind, Value) {
    let rules = json!([{"backendRefs": [{"name": service, "port": port}]}]);
    let spec = json!({"parentRefs": [{"name": "default"}], "hostnames": [host], "rules": rules});
    whole(Kind::HttpRoute, name, &spec)
}

fn ca() -> (Kind, Value) {
    let issued = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
    config_map("ca", &issued.cert.pem())
}

fn config_map(name: &str, text: &str) -> (Kind, Value) {
    let mut object = whole(Kind::ConfigMap, name, &json!(null)).1;
    object["data"] = json!({ "ca.crt": text });
    (Kind::ConfigMap, object)
}

fn policy(name: &str, target: &Value, validation: &Value) -> (Kind, Value) {
    whole(Kind::BackendTlsPolicy, name, &json!({"targetRefs": [target], "validation": validation}))
}

/// Trust in the ConfigMap `ca` and in `hostname`.
fn trust(hostname: &str) -> Value {
    json!({"hostname": hostname, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]})
}

fn the_service() -> Value {
    json!({"group": "", "kind": "Service", "name": "s"})
}

impl Translation {
    /// How the only endpoint that serves `host` is spoken to.
    fn upstream(&self, host: &str) -> Upstream {
        let headers = HeaderMap::new();
        let at = ListenAddress::shared(80);
        let head = Head { at, host, method: &Method::GET, path: "/", query: None, headers: &headers };
        let selection = self.table.select(&head, None).unwrap();
        let Target::Upstreams(upstreams) = &selection.rule.backends[0].target else { panic!("{selection:?}") };
        Upstream::clone(&upstreams[0])
    }

    fn server_name(&self, host: &str) -> String {
        self.upstream(host).tls.map_or("none".to_owned(), |tls| tls.server_name.to_string())
    }

    /// `Type=Status/Reason` of what is said of a policy at each Gateway, its name first.
    fn ancestors(&self, policy: &str) -> Vec<String> {
        let status = json_of(self, Kind::BackendTlsPolicy, policy);
        let entries = status["ancestors"].as_array().unwrap().iter();
        entries
            .map(|entry| {
                assert_eq!(entry["controllerName"], CONTROLLER_NAME);
                assert_eq!(entry["ancestorRef"]["kind"], "Gateway");
                let conditions: Vec<Condition> = serde_json::from_value(entry["conditions"].clone()).unwrap();
                assert!(conditions.iter().all(|one| one.observed_generation == 3));
                format!("{}: {}", entry["ancestorRef"]["name"].as_str().unwrap(), brief(&conditions).join(" "))
            })
            .collect()
    }
}

fn good() -> Vec<String> {
    vec![format!("default: {}", SERVED.join(" "))]
}

fn translated(parts: impl IntoIterator<Item = Vec<(Kind, Value)>>) -> Translation {
    with(parts.into_iter().flatten().collect())
}

#[test]
fn a_service_with_a_policy_is_spoken_to_over_tls() {
    let mut validation = trust("A.example.com");
    validation["subjectAltNames"] =
        json!([{"type": "Hostname", "hostname": "*.b.example"}, {"type": "URI", "uri": "spiffe://x/y"}]);
    let policy = policy("p", &the_service(), &validation);
    let translation = translated([
        service("s"),
        service("plain"),
        vec![ca(), policy, to("r", "a.com", "s", 443), to("q", "b.com", "plain", 443)],
    ]);
    let upstream = translation.upstream("a.com");
    let tls = upstream.tls.unwrap();
    assert_eq!((upstream.protocol, &*tls.server_name), (Protocol::Either, "a.example.com"));
    assert_eq!(tls.names, [SubjectName::Dns("*.b.example".into()), SubjectName::Uri("spiffe://x/y".into())]);
    assert!(matches!(&tls.roots, Roots::These(certificates) if certificates.len() == 1));
    assert_eq!(translation.route("r"), SERVED);
    assert_eq!(translation.ancestors("p"), good());
    assert_eq!(
        (translation.server_name("b.com").as_str(), translation.upstream("b.com").protocol),
        ("none", Protocol::Http1)
    );
}

#[test]
fn the_policy_of_a_port_counts_there_before_that_of_the_service() {
    let mut admin = the_service();
    admin["sectionName"] = json!("admin");
    let translation = translated([
        service("s"),
        vec![
            ca(),
            policy("all", &the_service(), &trust("all.example")),
            policy("port", &admin, &trust("port.example")),
            to("r", "a.com", "s", 443),
            to("q", "b.com", "s", 8443),
        ],
    ]);
    assert_eq!(translation.server_name("a.com"), "all.example");
    assert_eq!(translation.server_name("b.com"), "port.example");
    assert_eq!((translation.ancestors("all"), translation.ancestors("port")), (good(), good()));
}

#[test]
fn of_two_policies_for_one_target_the_older_counts_and_then_the_first_by_name() {
    let objects = |first_age: &str| {
        let (kind, mut a) = policy("a", &the_service(), &trust("a.example"));
        a["metadata"]["creationTimestamp"] = json!(first_age);
        let b = policy("b", &the_service(), &trust("b.example"));
        translated([service("s"), vec![ca(), b, (kind, a), to("r", "a.com", "s", 443)]])
    };
    let lost = ["default: Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs"];
    let same_age = objects("2030-01-01T00:00:00Z");
    assert_eq!(same_age.server_name("a.com"), "a.example");
    assert_eq!((same_age.ancestors("a"), same_age.ancestors("b")), (good(), lost.map(str::to_owned).to_vec()));
    let younger = objects("2030-01-01T00:00:01Z");
    assert_eq!(younger.server_name("a.com"), "b.example");
    assert_eq!((younger.ancestors("b"), younger.ancestors("a")), (good(), lost.map(str::to_owned).to_vec()));
}

#[test]
fn a_policy_that_cannot_be_honoured_stops_its_target() {
    let check = |validation: Value, want: &str| {
        let objects = vec![
            ca(),
            config_map("damaged", "Hello"),
            policy("p", &the_service(), &validation),
            to("r", "a.com", "s", 443),
        ];
        let translation = translated([service("s"), objects]);
        assert_eq!(translation.goes(80, "a.com", "/"), "502", "{validation}");
        assert_eq!(translation.route("r"), SERVED, "the reference leads somewhere");
        assert_eq!(translation.ancestors("p"), [format!("default: {want}")], "{validation}");
    };
    let by = |refs: Value| json!({"hostname": "a.example", "caCertificateRefs": refs});
    let map = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
    let no_ref = "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef";
    check(by(json!([map("absent")])), no_ref);
    check(by(json!([map("damaged")])), no_ref);
    check(by(json!([map("damaged"), map("absent")])), no_ref);
    let secret = json!({"group": "", "kind": "Secret", "name": "ca"});
    check(by(json!([secret])), "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidKind");
    let unknown = json!({"hostname": "a.example", "wellKnownCACertificates": "example.com/Ours"});
    check(unknown, "Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs");
    check(by(json!([])), "Accepted=False/NoValidCACertificate ResolvedRefs=True/ResolvedRefs");
}

#[test]
fn one_good_ca_is_enough_and_the_bad_ones_are_named() {
    let mut validation = trust("a.example");
    let more = json!({"group": "", "kind": "ConfigMap", "name": "absent"});
    validation["caCertificateRefs"].as_array_mut().unwrap().push(more);
    let policy = policy("p", &the_service(), &validation);
    let translation = translated([service("s"), vec![ca(), policy, to("r", "a.com", "s", 443)]]);
    assert_eq!(translation.server_name("a.com"), "a.example");
    let want = "default: Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef";
    assert_eq!(translation.ancestors("p"), [want]);
}

#[test]
fn a_policy_that_is_not_understood_stops_its_target_too() {
    let policy = policy("p", &the_service(), &json!(7));
    let translation = translated([service("s"), vec![policy, to("r", "a.com", "s", 443)]]);
    assert_eq!(translation.goes(80, "a.com", "/"), "502");
    let status = json_of(&translation, Kind::BackendTlsPolicy, "p");
    assert_eq!(status["ancestors"][0]["conditions"][0]["reason"], "Invalid");
}

#[test]
fn a_policy_speaks_of_the_gateways_whose_routes_refer_to_its_targets() {
    let listeners = json!([{"name": "http", "protocol": "HTTP", "port": 80}]);
    let gateway =
        |name: &str| whole(Kind::Gateway, name, &json!({"gatewayClassName": "default", "listeners": listeners}));
    let mirrors = json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "s", "port": 443}}}]);
    let rules = json!([{"filters": mirrors, "backendRefs": [{"kind": "Backend", "name": "office", "port": 80}]}]);
    let mirror = json!({"parentRefs": [{"name": "mirrors"}], "rules": rules});
    let elsewhere =
        json!({"parentRefs": [{"name": "nowhere"}], "rules": [{"backendRefs": [{"name": "s", "port": 443}]}]});
    let translation = translated([
        service("s"),
        vec![
            ca(),
            gateway("mirrors"),
            gateway("unused"),
            policy("p", &the_service(), &trust("a.example")),
            policy("idle", &json!({"group": "", "kind": "Service", "name": "other"}), &trust("a.example")),
            to("r", "a.com", "s", 443),
            whole(Kind::HttpRoute, "m", &mirror),
            whole(Kind::HttpRoute, "e", &elsewhere),
        ],
    ]);
    let served = SERVED.join(" ");
    assert_eq!(translation.ancestors("p"), [format!("default: {served}"), format!("mirrors: {served}")]);
    assert!(translation.ancestors("idle").is_empty());
}

#[test]
fn a_target_that_does_not_exist_is_said() {
    let mut port = the_service();
    port["sectionName"] = json!("no-such-port");
    let translation =
        translated([service("s"), vec![ca(), policy("p", &port, &trust("a.example")), to("r", "a.com", "s", 443)]]);
    let want = "default: Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs";
    assert_eq!(translation.ancestors("p"), [want]);
    assert_eq!(translation.server_name("a.com"), "none");
}

#[test]
fn what_a_service_says_of_its_protocol_holds_over_tls() {
    let check = |app_protocol: &str, with_policy: bool, want: Option<Protocol>| {
        let mut objects = service("s");
        objects[0].1["spec"]["ports"][0]["appProtocol"] = json!(app_protocol);
        objects.extend([ca(), to("r", "a.com", "s", 443)]);
        if with_policy {
            objects.push(policy("p", &the_service(), &trust("a.example")));
        }
        let translation = with(objects);
        match want {
            Some(protocol) => assert_eq!(translation.upstream("a.com").protocol, protocol, "{app_protocol}"),
            None => assert_eq!(translation.route("r")[1], "ResolvedRefs=False/UnsupportedProtocol"),
        }
    };
    check("kubernetes.io/h2c", true, Some(Protocol::Http2));
    check("kubernetes.io/wss", true, Some(Protocol::Http1));
    check("kubernetes.io/wss", false, None);
    check("kubernetes.io/ws", true, Some(Protocol::Http1));
    check("HTTPS", true, Some(Protocol::Either));
    check("HTTPS", false, Some(Protocol::Http1));
}

#[test]
fn a_backend_of_ours_says_itself_that_it_speaks_tls_and_a_policy_says_how() {
    let backend = |name: &str, protocol: &str, endpoint: Value| {
        whole(Kind::Backend, name, &json!({"protocol": protocol, "endpoints": [endpoint]}))
    };
    let to = |name: &str, host: &str| {
        let rules = json!([{"backendRefs": [{"kind": "Backend", "name": name, "port": 443}]}]);
        let spec = json!({"parentRefs": [{"name": "default"}], "hostnames": [host], "rules": rules});
        whole(Kind::HttpRoute, name, &spec)
    };
    let target = |name: &str| json!({"group": "core.apoxy.dev", "kind": "Backend", "name": name});
    let translation = with(vec![
        ca(),
        backend("either", "tls", json!({"fqdn": "Api.example.com."})),
        backend("h2", "h2", json!({"ip": "1.1.1.1"})),
        backend("overridden", "tls", json!({"fqdn": "api.example.com"})),
        backend("raised", "h2c", json!({"fqdn": "api.example.com"})),
        backend("plain", "", json!({"fqdn": "api.example.com"})),
        policy("p", &target("overridden"), &trust("other.example")),
        policy("q", &target("raised"), &trust("raised.example")),
        to("either", "a.com"),
        to("h2", "b.com"),
        to("overridden", "c.com"),
        to("raised", "d.com"),
        to("plain", "e.com"),
    ]);
    let spoken = |host: &str| {
        let upstream = translation.upstream(host);
        let tls = upstream.tls.as_ref().map(|tls| (tls.server_name.to_string(), tls.roots == Roots::System));
        (upstream.protocol, tls)
    };
    let by = |name: &str, system: bool| Some((name.to_owned(), system));
    assert_eq!(spoken("a.com"), (Protocol::Either, by("api.example.com", true)));
    assert_eq!(spoken("b.com"), (Protocol::Http2, by("1.1.1.1", true)));
    assert_eq!(spoken("c.com"), (Protocol::Either, by("other.example", false)));
    assert_eq!(spoken("d.com"), (Protocol::Http2, by("raised.example", false)));
    assert_eq!(spoken("e.com"), (Protocol::Http1, None));
    assert_eq!((translation.ancestors("p"), translation.ancestors("q")), (good(), good()));
}

#[test]
fn entries_of_other_controllers_are_kept_and_there_are_sixteen_at_most() {
    let policy = policy("p", &the_service(), &trust("a.example"));
    let translation = translated([service("s"), vec![ca(), policy, to("r", "a.com", "s", 443)]]);
    let theirs =
        |index: usize| json!({"ancestorRef": {"name": format!("g{index}")}, "controllerName": "example.com/x"});
    let before = json!({"ancestors": (0..20).map(theirs).collect::<Vec<_>>()});
    let mut status = translation.status("default", Kind::BackendTlsPolicy, "p").clone();
    status.keep_times(Some(&Status::Other(Kind::BackendTlsPolicy, before)), "t1");
    let mut again = translation.status("default", Kind::BackendTlsPolicy, "p").clone();
    again.keep_times(Some(&status), "t2");
    assert_eq!(again, status, "what is right is not written again");
    let Status::Other(_, status) = status else { panic!() };
    let entries = status["ancestors"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["controllerName"]), (16, &json!(CONTROLLER_NAME)));
    assert_eq!(entries[1], theirs(0));
}
