//! ClientTrafficPolicies: which of them counts for which listener, and what is said of each at each Gateway.

use super::{
    unserved::{json_of, whole, with},
    *,
};
use crate::route::{
    client::{ClientSettings, FromProxies},
    table::TlsServes,
    tls::{Check, Clients, Demands, ServerTls, Sessions, Versions},
};

fn target(kind: &str, name: &str) -> Value {
    json!({"group": "gateway.networking.k8s.io", "kind": kind, "name": name})
}

fn section(kind: &str, name: &str, section: &str) -> Value {
    let mut target = target(kind, name);
    target["sectionName"] = json!(section);
    target
}

pub(super) fn policy(name: &str, target: Value, mut spec: Value) -> (Kind, Value) {
    spec["targetRefs"] = Value::Array(vec![target]);
    whole(Kind::ClientTrafficPolicy, name, &spec)
}

/// A policy that is told from others by how long a client may be silent, which listeners in the clear share.
fn idle(name: &str, target: Value, seconds: u64) -> (Kind, Value) {
    policy(name, target, json!({"timeout": {"http": {"idleTimeout": format!("{seconds}s")}}}))
}

fn aged((kind, mut object): (Kind, Value), seconds: u8) -> (Kind, Value) {
    object["metadata"]["creationTimestamp"] = json!(format!("2030-01-01T00:00:{seconds:02}Z"));
    (kind, object)
}

fn gateway_of(name: &str, listeners: &Value) -> (Kind, Value) {
    let allowed = json!({"namespaces": {"from": "Same"}});
    let spec = json!({"gatewayClassName": "default", "listeners": listeners, "allowedListeners": allowed});
    whole(Kind::Gateway, name, &spec)
}

fn http(name: &str, port: u16) -> Value {
    json!({"name": name, "protocol": "HTTP", "port": port})
}

impl Translation {
    fn clients(&self, port: u16) -> Option<&ClientSettings> {
        self.table.clients(ListenAddress::shared(port)).map(|settings| &**settings)
    }

    fn idle(&self, port: u16) -> Option<u64> {
        Some(self.clients(port)?.connection.idle?.as_secs())
    }

    /// What is said at each Gateway.
    fn said_of(&self, policy: &str) -> Vec<String> {
        let status = json_of(self, Kind::ClientTrafficPolicy, policy);
        let entries = status["ancestors"].as_array().unwrap().iter();
        let brief = |entry: &Value| {
            assert_eq!(entry["controllerName"], CONTROLLER_NAME);
            let conditions: Vec<Condition> = serde_json::from_value(entry["conditions"].clone()).unwrap();
            assert!(conditions.iter().all(|condition| condition.observed_generation == 3));
            format!("{}: {}", entry["ancestorRef"]["name"].as_str().unwrap(), brief(&conditions).join(" "))
        };
        entries.map(brief).collect()
    }

    fn why(&self, policy: &str) -> String {
        let status = json_of(self, Kind::ClientTrafficPolicy, policy);
        status["ancestors"][0]["conditions"][0]["message"].as_str().unwrap().to_owned()
    }
}

const GOOD: [&str; 1] = ["default: Accepted=True/Accepted"];

#[test]
fn a_listeners_policy_counts_before_its_sets_and_its_gateways() {
    let listeners = json!([http("a", 81), http("b", 82)]);
    let set = json!({"parentRef": {"name": "own"}, "listeners": [http("c", 83), http("d", 84)]});
    let translation = with(vec![
        gateway_of("own", &listeners),
        whole(Kind::ListenerSet, "set", &set),
        idle("a", section("Gateway", "own", "a"), 1),
        idle("own", target("Gateway", "own"), 2),
        idle("c", section("ListenerSet", "set", "c"), 3),
        idle("set", target("ListenerSet", "set"), 4),
    ]);
    assert_eq!([81, 82, 83, 84].map(|port| translation.idle(port)), [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(translation.idle(80), None, "another Gateway's");
    for of_one in ["a", "c"] {
        assert_eq!(translation.said_of(of_one), ["own: Accepted=True/Accepted"]);
    }
    let status = json_of(&translation, Kind::ClientTrafficPolicy, "own");
    assert_eq!(translation.said_of("own"), ["own: Accepted=True/Accepted Overridden=True/Overridden"]);
    let said = status["ancestors"][0]["conditions"][1]["message"].as_str().unwrap();
    assert_eq!(said, "a more specific policy counts for listeners a, c, d");
    assert_eq!(translation.said_of("set"), ["own: Accepted=True/Accepted Overridden=True/Overridden"]);
}

#[test]
fn of_two_policies_for_one_target_the_older_counts_and_then_the_first_by_name() {
    let objects = |age| {
        let a = aged(idle("a", target("Gateway", "default"), 1), age);
        with(vec![idle("b", target("Gateway", "default"), 2), a])
    };
    let lost = ["default: Accepted=False/Conflicted"];
    let same_age = objects(0);
    assert_eq!((same_age.idle(80), &*same_age.said_of("a")), (Some(1), &GOOD.map(str::to_owned)[..]));
    assert_eq!(same_age.said_of("b"), lost);
    assert_eq!(same_age.why("b"), "an older policy counts: default/a is for default/default too");
    let younger = objects(1);
    assert_eq!((younger.idle(80), &*younger.said_of("a")), (Some(2), &lost.map(str::to_owned)[..]));
}

#[test]
fn the_first_listener_of_a_port_decides_what_all_of_it_share() {
    let hosts = json!([
        {"name": "a", "hostname": "a.com", "protocol": "HTTP", "port": 81},
        {"name": "b", "hostname": "b.com", "protocol": "HTTP", "port": 81},
    ]);
    let proxied = |name, target| policy(name, target, json!({"proxyProtocol": {}}));
    let from = |translation: &Translation| translation.table.from_proxies(ListenAddress::shared(81));
    // The second alone wants it: connections would break that are for the first.
    let second = with(vec![gateway_of("own", &hosts), proxied("b", section("Gateway", "own", "b"))]);
    assert_eq!(from(&second), None);
    assert_eq!(second.said_of("b"), ["own: Accepted=False/Conflicted"]);
    assert!(second.why("b").contains("listener b: on port 81 another listener came first"), "{}", second.why("b"));
    // The first does: the second, which says nothing of it, is reached in the same way.
    let first = with(vec![
        gateway_of("own", &hosts),
        proxied("a", section("Gateway", "own", "a")),
        policy("b", section("Gateway", "own", "b"), json!({"http3": {}})),
    ]);
    assert_eq!(from(&first), Some(FromProxies::Always));
    for name in ["a", "b"] {
        assert_eq!(first.said_of(name), ["own: Accepted=True/Accepted"]);
    }
    // Both: they agree.
    let both = with(vec![gateway_of("own", &hosts), proxied("own", target("Gateway", "own"))]);
    assert_eq!(
        (from(&both), both.said_of("own")),
        (Some(FromProxies::Always), vec!["own: Accepted=True/Accepted".into()])
    );
    // A younger Gateway changes nothing for an older one on its port.
    let younger = aged(gateway_of("young", &json!([http("c", 81)])), 9);
    let older = with(vec![gateway_of("own", &hosts), younger, proxied("young", target("Gateway", "young"))]);
    assert_eq!((from(&older), older.said_of("young")), (None, vec!["young: Accepted=False/Conflicted".into()]));
}

#[test]
fn another_projects_policy_does_not_reach_ours() {
    let ours = || {
        ProjectSnapshot::read([
            whole(Kind::GatewayClass, "default", &json!({ "controllerName": CONTROLLER_NAME })),
            gateway_of("default", &json!([http("http", 80)])),
        ])
    };
    let mut theirs = ours();
    let (kind, object) = policy("p", target("Gateway", "default"), json!({"proxyProtocol": {}}));
    theirs.put(kind, object);
    let both = translate(&snapshot([("alpha", ours()), ("beta", theirs)]), &settings());
    assert_eq!(both.clients(80), None);
    let Status::Other(_, status) = both.status("beta", Kind::ClientTrafficPolicy, "p") else { panic!() };
    assert_eq!(status["ancestors"][0]["conditions"][0]["reason"], "Conflicted", "{status}");
}

#[test]
fn both_ways_of_asking_for_the_proxy_protocol_are_understood() {
    let check = |spec: Value, want| {
        let translation = with(vec![policy("p", target("Gateway", "default"), spec.clone())]);
        assert_eq!(translation.table.from_proxies(ListenAddress::shared(80)), want, "{spec}");
        assert_eq!(translation.said_of("p"), GOOD, "{spec}");
    };
    check(json!({"proxyProtocol": {}}), Some(FromProxies::Always));
    check(json!({"proxyProtocol": {"optional": true}}), Some(FromProxies::OrNot));
    check(json!({"enableProxyProtocol": true}), Some(FromProxies::Always));
    check(json!({"enableProxyProtocol": false}), None);
    check(json!({}), None);
}

#[test]
fn a_policy_says_what_is_wrong_with_it_and_speaks_only_of_gateways_that_it_reaches() {
    let bad = json!({"timeout": {"http": {"idleTimeout": "0s"}}});
    let translation = with(vec![
        policy("bad", section("Gateway", "default", "http"), bad),
        idle("unnamed", section("Gateway", "default", "absent"), 1),
        idle("absent", target("Gateway", "absent"), 1),
        idle("default", target("Gateway", "default"), 7),
    ]);
    assert_eq!(translation.said_of("bad"), ["default: Accepted=False/Invalid"]);
    assert!(translation.why("bad").contains("timeout.http.idleTimeout"));
    assert_eq!(translation.said_of("unnamed"), ["default: Accepted=False/TargetNotFound"]);
    assert_eq!(translation.said_of("absent"), [""; 0]);
    assert_eq!(translation.idle(80), Some(7), "the broken one changes nothing");
    assert_eq!(translation.said_of("default"), GOOD);
}

#[test]
fn what_protects_and_is_not_served_stops_the_policy_and_what_does_not_is_mentioned() {
    let mild = json!({"timeout": {"http": {"idleTimeout": "5s"}}, "connection": {"maxAcceptPerSocketEvent": 1}});
    let translation = with(vec![policy("p", target("Gateway", "default"), mild.clone())]);
    assert_eq!((translation.said_of("p"), translation.idle(80)), (GOOD.map(str::to_owned).to_vec(), Some(5)));
    assert!(translation.why("p").ends_with("not served yet: spec.connection.maxAcceptPerSocketEvent"));
    for (field, value) in [
        ("tls", json!({"signatureAlgorithms": ["ecdsa_secp256r1_sha256"]})),
        ("headers", json!({"xForwardedClientCert": {"mode": "ForwardOnly"}})),
    ] {
        let mut strict = mild.clone();
        strict[field] = value;
        let translation = with(vec![policy("p", target("Gateway", "default"), strict)]);
        assert_eq!(translation.said_of("p"), ["default: Accepted=False/UnsupportedValue"], "{field}");
        assert_eq!(translation.clients(80), None, "{field}");
    }
}

fn https_gateway(tls: &Value) -> (Kind, Value) {
    let listeners = json!([{"name": "a", "protocol": "HTTPS", "port": 443}]);
    let spec = json!({"gatewayClassName": "default", "listeners": listeners, "tls": tls});
    whole(Kind::Gateway, "tls", &spec)
}

fn asks(tls: &Value) -> (Kind, Value) {
    policy("p", target("Gateway", "tls"), json!({ "tls": tls }))
}

impl Translation {
    fn server_tls(&self) -> &ServerTls {
        match &self.handshake(443, "").unwrap().serves {
            TlsServes::Http(tls) => tls,
            TlsServes::Stream { .. } => unreachable!(),
        }
    }
}

#[test]
fn handshakes_are_held_to_what_the_policy_says() {
    let said = json!({
        "minVersion": "1.3", "ecdhCurves": ["X25519MLKEM768", "P-256"], "alpnProtocols": ["h2"], "session": {},
    });
    let translation = with(vec![https_gateway(&Value::Null), asks(&said)]);
    let want = Demands {
        versions: Versions::Tls13,
        ciphers: vec![],
        groups: vec![0x11ec, 0x17],
        alpn: Some(vec!["h2".into()]),
        sessions: Sessions::Never,
    };
    assert_eq!(translation.server_tls().demands.as_deref(), Some(&want));
    let said = json!({
        "ciphers": ["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]"],
        "session": {"resumption": {"stateful": {}}},
    });
    let translation = with(vec![https_gateway(&Value::Null), asks(&said)]);
    let demands = translation.server_tls().demands.as_deref().unwrap();
    assert_eq!((&*demands.ciphers, demands.sessions), (&[0xc02b, 0xcca8][..], Sessions::Remembered));
    for (bad, named) in [
        (json!({"ciphers": ["AES128-SHA"]}), "AES128-SHA"),
        (json!({"ecdhCurves": ["P-521"]}), "P-521"),
        (json!({"minVersion": "1.0"}), "spec.tls.minVersion (1.0)"),
    ] {
        let translation = with(vec![https_gateway(&Value::Null), asks(&bad)]);
        assert!(translation.why("p").contains(named), "{}", translation.why("p"));
        assert_eq!(*translation.server_tls(), ServerTls::default(), "{named}");
    }
    let both = json!({"tls": {"ecdhCurves": ["P-256"]}, "http3": {}});
    let translation = with(vec![https_gateway(&Value::Null), policy("p", target("Gateway", "tls"), both)]);
    assert!(translation.why("p").contains("tls.ecdhCurves cannot be had over HTTP/3"));
}

#[test]
fn a_listener_whose_clients_cannot_be_verified_lets_nobody_in() {
    let hash = "00".repeat(32);
    let good = asks(&json!({"clientValidation": {"optional": true, "certificateHashes": [hash]}}));
    let translation = with(vec![https_gateway(&Value::Null), good.clone()]);
    let want = Check { optional: true, certificates: vec![[0; 32]], ..Check::default() };
    assert_eq!(translation.server_tls().clients, Clients::Checked(want.into()));
    for (bad, reason) in [
        (json!({"clientValidation": {"caCertificateRefs": [{"name": "absent"}]}}), "InvalidCACertificateRef"),
        (json!({"clientValidation": {}}), "Invalid"),
        (json!({"clientValidation": {"spkiHashes": ["x"]}}), "Invalid"),
        (json!({"clientValidation": {"certificateHashes": [hash]}, "minVersion": "1.1"}), "UnsupportedValue"),
    ] {
        let translation = with(vec![https_gateway(&Value::Null), asks(&bad)]);
        assert_eq!(translation.server_tls().clients, Clients::Nobody, "{bad}");
        assert_eq!(translation.said_of("p"), [format!("tls: Accepted=False/{reason}")], "{bad}");
    }
    // The Gateway's own word stands.
    let ca = json!({"frontend": {"default": {"validation": {"caCertificateRefs": [
        {"group": "", "kind": "ConfigMap", "name": "absent"}]}}}});
    let translation = with(vec![https_gateway(&ca), good]);
    assert_eq!(translation.server_tls().clients, Clients::Nobody);
}
