//! What nodes consent to.

use super::*;
use crate::tunnel::consent::Service;

fn with_spec(name: &str, spec: &Value) -> ProjectSnapshot {
    let node = object("core.apoxy.dev/v1alpha", "TunnelNode", name, 0, spec);
    ProjectSnapshot { nodes: vec![node], ..ProjectSnapshot::default() }
}

/// Whether, with this `allowFrom` of node `office`, node `laptop` may reach `port` there.
fn admits(allow_from: &Value, port: u16) -> bool {
    let projects = snapshot([("default", with_spec("office", &json!({ "allowFrom": allow_from })))]);
    let node = |name: &str| name.parse().unwrap();
    let (laptop, office) = (node("laptop"), node("office"));
    consent(&projects).may_send(&ProjectName::default(), &laptop, &office, Service::Tcp(port))
}

#[test]
fn a_node_admits_whom_it_names_to_the_ports_that_it_names() {
    let check = |allow_from: Value, port: u16, want: bool| {
        assert_eq!(admits(&allow_from, port), want, "{allow_from} {port}");
    };
    check(json!([]), 80, false);
    check(json!([{"node": "phone"}]), 80, false);
    check(json!([{"node": "laptop"}]), 80, true);
    check(json!([{"node": "laptop", "ports": []}]), 80, true);
    check(json!([{"node": "laptop", "ports": [80, "443", "8000-8010"]}]), 80, true);
    check(json!([{"node": "laptop", "ports": [80, "443", "8000-8010"]}]), 443, true);
    check(json!([{"node": "laptop", "ports": [80, "443", "8000-8010"]}]), 8005, true);
    check(json!([{"node": "laptop", "ports": [80, "443", "8000-8010"]}]), 81, false);
    check(json!([{"node": "phone", "ports": [80]}, {"node": "laptop", "ports": [81]}]), 81, true);
}

#[test]
fn what_cannot_be_read_admits_nobody() {
    for allow_from in [
        json!([{"gateway": "laptop"}]),
        json!([{"node": "Not a name"}]),
        json!([{"node": "laptop", "ports": [99999]}]),
        json!([{"node": "laptop", "ports": ["http", -80, "90-80"]}]),
        json!([{}]),
    ] {
        assert!(!admits(&allow_from, 80), "{allow_from}");
    }
}

#[test]
fn only_a_node_with_an_egress_gateway_may_leave() {
    let check = |spec: Value, want: bool| {
        let projects = snapshot([("default", with_spec("office", &spec))]);
        let may = consent(&projects).may_leave(&ProjectName::default(), &"office".parse().unwrap());
        assert_eq!(may, want, "{spec}");
    };
    check(json!({}), false);
    check(json!({"egressGateway": {}}), false);
    check(json!({"egressGateway": {"enabled": false}}), false);
    check(json!({"egressGateway": {"enabled": true}}), true);
}

#[test]
fn a_node_says_whom_it_admits() {
    let check = |allow_from: Value, want: &str, words: &str| {
        let translation = one(with_spec("office", &json!({ "allowFrom": allow_from })));
        let Status::TunnelNode(conditions) = translation.status("default", Kind::TunnelNode, "office") else {
            panic!()
        };
        assert_eq!(brief(conditions), [format!("AllowFrom={want}")], "{allow_from}");
        assert!(conditions[0].message.contains(words), "{allow_from}: {}", conditions[0].message);
    };
    check(json!([{"node": "a"}]), "True/Admitted", "1 other node may reach");
    check(json!([{"node": "a", "ports": [80]}, {"node": "a"}, {"node": "b"}]), "True/Admitted", "2 other nodes may");
    let mixed = json!([{"node": "a"}, {"gateway": "default"}]);
    check(mixed, "True/Admitted", "entries that name one are not served yet");
    check(json!([{"gateway": "default"}]), "False/NotSupported", "no other node may");
    let wrong = json!([{"node": "a"}, {"node": "b", "ports": [80, "90-80"]}]);
    check(wrong, "False/InvalidPorts", "spec.allowFrom[1].ports[1] is no port");
}
