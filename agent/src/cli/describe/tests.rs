//! Pages of objects, pure and from a relay.

use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{page::page, *};
use crate::cli::testing::Relay;

fn now() -> OffsetDateTime {
    OffsetDateTime::parse("2026-11-21T12:00:00Z", &Rfc3339).unwrap()
}

fn route() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-11-21T11:55:00Z", "generation": 2,
            "labels": {"app": "web"}, "finalizers": ["a/b"],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "ownerReferences": [{"kind": "Gateway", "name": "eg", "controller": true}]},
        "spec": {"parentRefs": [{"name": "default"}], "hostnames": ["a.example"], "rules": [{"backendRefs": [
            {"kind": "Backend", "name": "office", "port": 80}, {"kind": "Backend", "name": "gone", "port": 80},
            {"name": "svc", "port": 1}]}]},
        "status": {"parents": [{"parentRef": {"name": "default", "namespace": "default"}, "conditions": [
            {"type": "Accepted", "status": "True"}, {"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound",
             "message": "no gone"}]}]}})
}

fn backend() -> Value {
    json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend",
        "metadata": {"name": "office", "namespace": "default"},
        "spec": {"endpoints": [{"fqdn": "office.tun.internal"}]}})
}

fn node(agents: &Value) -> Value {
    json!({"apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": {"name": "office"},
        "status": {"prefix": "fd00::/64", "agents": agents}})
}

#[test]
fn a_route_is_shown_with_its_parents_and_backends() {
    let related = Related {
        backends: vec![backend()],
        nodes: vec![node(&json!([{}, {}]))],
        missing: vec!["Backend default/gone".to_owned()],
        ..Related::default()
    };
    assert_eq!(
        page(&route(), &related, now()),
        "\
Name:          web
Namespace:     default
Labels:        app=web
Annotations:   <none>
API Version:   gateway.networking.k8s.io/v1
Kind:          HTTPRoute
Created:       2026-11-21T11:55:00Z (5m ago)
Owned by:      Gateway/eg (controller)
Finalizers:    a/b
Generation:    2
Spec:
  Hostnames:
    a.example
  Parent Refs:
    - Name: default
  Rules:
    - Backend Refs:
        - Kind: Backend
          Name: office
          Port: 80
        - Kind: Backend
          Name: gone
          Port: 80
        - Name: svc
          Port: 1

Rules:
RULE   MATCH          BACKENDS
1      PathPrefix /   Backend office:80,Backend gone:80,Service svc:1

Parents:
PARENT    ACCEPTED   RESOLVED                  MESSAGE
default   True       False (BackendNotFound)   no gone

Backends:
BACKEND             EXISTS   ENDPOINTS             NODES
Backend office:80   yes      office.tun.internal   office (2 agents)
Backend gone:80     no       -                     -
Service svc:1       yes      -                     -
"
    );
}

#[test]
fn a_secret_shows_sizes_only() {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque",
        "data": {"tls.key": "czNjcmV0MQ==", "empty": ""}, "stringData": {"x": "plain"}});
    let text = page(&secret, &Related::default(), now());
    assert!(text.ends_with("Data:\n  empty: 0 bytes\n  tls.key: 7 bytes\n  x: 5 bytes\n"), "{text}");
    assert!(!text.contains("czNj") && !text.contains("plain"));
}

#[test]
fn conditions_are_a_table() {
    let object = json!({"kind": "Proxy", "status": {"replicas": 2, "conditions": [
        {"type": "Ready", "status": "False", "reason": "Why", "message": "m\n\u{1b}[2J", "lastTransitionTime": "2026-11-21T11:00:00Z"}]}});
    let text = page(&object, &Related::default(), now());
    assert!(text.contains("Status:\n  Replicas: 2\n"), "{text}");
    assert!(
        text.contains("TYPE    STATUS   REASON   AGE   MESSAGE\nReady   False    Why      1h    m [2J\n"),
        "{text}"
    );
}

#[test]
fn pages_of_arbitrary_objects_are_made() {
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({"a": [deep]});
    }
    for kind in ["HTTPRoute", "Gateway", "Secret", "x"] {
        for odd in [json!(null), json!(5), json!([[1], {}]), json!({"a": {}}), deep.clone()] {
            let api_version = if kind == "Secret" { "v1" } else { "gateway.networking.k8s.io/v1" };
            let object = json!({"apiVersion": api_version, "kind": kind, "metadata": odd, "spec": odd, "data": odd,
                "status": {"conditions": odd, "parents": odd, "x": odd}});
            assert!(page(&object, &Related::default(), now()).contains("Name:"));
        }
    }
}

#[tokio::test]
async fn related_objects_are_asked_for() {
    let relay = Relay::start().await;
    let gateways = "/apis/gateway.networking.k8s.io/v1";
    relay.put(&format!("{gateways}/namespaces/default/httproutes/web"), &route());
    relay.put("/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends/office", &backend());
    relay.put(
        "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office",
        &node(&json!([{"name": "a-1", "agentAddress": "fd00::1"}])),
    );
    relay.put("/api/v1/namespaces/default/services/svc", &json!({"metadata": {"name": "svc"}}));
    relay.put(
        &format!("{gateways}/namespaces/default/gateways/default"),
        &json!({"metadata": {"name": "default", "namespace": "default"}, "spec": {"gatewayClassName": "c"}}),
    );
    let page = relay.ok("describe httproute web").await;
    assert!(page.contains("office.tun.internal   office (1 agent)"), "{page}");
    assert!(page.contains("Backend gone:80     no"), "{page}");
    assert!(page.contains("Service svc:1       yes"), "{page}");
    let page = relay.ok("describe backend/office").await;
    assert!(page.contains("HTTPRoute web   a.example") && page.contains("office (1 agent)"), "{page}");
    let page = relay.ok("describe tn").await;
    assert!(page.contains("a-1    fd00::1") && page.contains("default/office   office.tun.internal"), "{page}");
    let page = relay.ok("describe gateway default").await;
    assert!(page.contains("c: not found") && page.contains("HTTPRoute web"), "{page}");
    let run = relay.run("describe gateway nobody", "").await;
    assert_eq!((run.outcome, run.err.as_str()), (Outcome::Failed, "error: gateways \"nobody\" not found\n"));
}

#[tokio::test]
async fn a_project_is_shown_with_its_counts() {
    let relay = Relay::start().await;
    relay.put("/apis/core.apoxy.dev/v1alpha2/projects/acme", &json!({"metadata": {"name": "acme"}}));
    for name in ["a", "b"] {
        relay.put(
            &format!("/projects/acme/apis/core.apoxy.dev/v1alpha/tunnelnodes/{name}"),
            &json!({"metadata": {"name": name}}),
        );
    }
    let page = relay.ok("describe project acme").await;
    assert!(page.contains("tunnelnodes     2\n"), "{page}");
    assert!(page.contains("gateways        0\n"), "{page}");
}
