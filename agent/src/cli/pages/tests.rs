//! Golden pages.

use serde_json::json;

use super::*;

fn conditions(accepted: &str, reason: &str, message: &str) -> Value {
    json!([{"type": "Accepted", "status": accepted, "reason": reason, "message": message},
           {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "fine"}])
}

pub(in crate::cli) fn sample_gateway() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "default", "namespace": "default"},
        "spec": {"gatewayClassName": "default", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.example.com"}]},
        "status": {"addresses": [{"type": "IPAddress", "value": "0.0.0.0"}],
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted"},
                           {"type": "Programmed", "status": "False", "reason": "AddressNotUsable", "message": "port 443 is taken"}],
            "listeners": [{"name": "http", "attachedRoutes": 2, "conditions": [{"type": "Programmed", "status": "True"}]}]}})
}

pub(in crate::cli) fn sample_routes() -> [Value; 4] {
    let route = |name: &str, namespace: &str, parents: Value, status: Value| {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"parentRefs": parents, "hostnames": ["api.example.com"], "rules": [
                {"matches": [{"path": {"type": "Exact", "value": "/v1"}, "method": "GET",
                              "headers": [{"name": "x-a", "value": "b", "type": "Exact"}]},
                             {"queryParams": [{"name": "q", "value": ".*", "type": "RegularExpression"}]}],
                 "backendRefs": [{"kind": "Backend", "name": "be", "port": 8080, "weight": 90}, {"kind": "Backend", "name": "c", "port": 1, "weight": 1}]},
                {"backendRefs": [{"name": "svc", "port": 80}]}]},
            "status": {"parents": status}})
    };
    [
        route(
            "api-route",
            "default",
            json!([{"name": "default"}]),
            json!([{"parentRef": {"name": "default", "namespace": "default"}, "conditions": conditions("True", "Accepted", "")}]),
        ),
        route(
            "far",
            "shop",
            json!([{"group": "gateway.apoxy.dev", "kind": "Gateway", "name": "default", "namespace": "default", "sectionName": "http"}]),
            json!([{"parentRef": {"name": "default", "namespace": "default", "sectionName": "http"},
                    "conditions": conditions("False", "NotAllowedByListeners", "routes of other\n\u{1b}[2Jnamespaces")}]),
        ),
        route("other", "shop", json!([{"name": "default"}]), json!([])),
        route("another", "default", json!([{"name": "eg"}]), json!([])),
    ]
}

#[test]
fn a_gateway_is_shown_with_every_attached_route() {
    assert_eq!(
        gateway(&sample_gateway(), &[], &sample_routes(), now()),
        "\
Gateway:    default
Namespace:  default
Age:        -
Class:      default
Addresses:  0.0.0.0
Conditions: Accepted=True
            Programmed=False (AddressNotUsable) port 443 is taken

Listeners:
NAME    PORT   PROTOCOL   HOSTNAME        ROUTES   PROGRAMMED
http    80     HTTP       *               2        True
https   443    HTTPS      *.example.com   -        -

Attached routes:
ROUTE                 HOSTNAMES         LISTENER   BACKENDS             ACCEPTED                        RESOLVED   MESSAGE
HTTPRoute api-route   api.example.com   all        be:8080,c:1,svc:80   True                            True
HTTPRoute shop/far    api.example.com   http       be:8080,c:1,svc:80   False (NotAllowedByListeners)   True       routes of other [2Jnamespaces
"
    );
    assert!(
        gateway(&sample_gateway(), &[], &[], now())
            .ends_with("Attached routes: none (a route attaches with parentRefs: [{name: default}])\n")
    );
}

#[test]
fn a_route_is_shown_with_its_rules_and_gateways() {
    assert_eq!(
        route(&sample_routes()[0], now()),
        "\
HTTPRoute:  api-route
Namespace:  default
Age:        -
Hostnames:  api.example.com

Rules:
RULE   MATCH                          BACKENDS
1      GET, Exact /v1, header x-a=b   Backend be:8080 (weight 90),Backend c:1
or     PathPrefix /, query q~.*
2      PathPrefix /                   Service svc:80

Parents:
PARENT    ACCEPTED   RESOLVED   MESSAGE
default   True       True
"
    );
}

#[test]
fn pages_of_arbitrary_objects_are_made() {
    for odd in [
        json!(null),
        json!({}),
        json!([]),
        json!({"spec": {"parentRefs": [1], "rules": [1, {"matches": [1]}], "listeners": [1]}}),
    ] {
        assert!(gateway(&odd, std::slice::from_ref(&odd), std::slice::from_ref(&odd), now()).contains("Listeners:"));
        assert!(route(&odd, now()).contains("Rules:"));
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH
}

#[test]
fn routes_of_every_kind_attach_to_listener_sets_too() {
    let set = json!({"metadata": {"name": "more", "namespace": "shop"}, "spec": {
        "parentRef": {"name": "default", "namespace": "default"},
        "listeners": [{"name": "pg", "port": 5432, "protocol": "TCP"}]}});
    let stray = json!({"metadata": {"name": "stray", "namespace": "shop"}, "spec": {"parentRef": {"name": "x"}}});
    let tcp = |parent: &str| {
        json!({"kind": "TCPRoute", "metadata": {"name": format!("to-{parent}"), "namespace": "shop"}, "spec": {
            "parentRefs": [{"kind": "ListenerSet", "name": parent, "sectionName": "pg"}],
            "rules": [{"backendRefs": [{"kind": "Backend", "name": "db", "port": 5432}]}]}})
    };
    let page = gateway(&sample_gateway(), &[set, stray], &[tcp("more"), tcp("stray")], now());
    let lines: Vec<String> = page.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines.contains(&"NAME PORT PROTOCOL HOSTNAME ROUTES PROGRAMMED LISTENERSET".to_owned()), "{page}");
    assert!(lines.contains(&"pg 5432 TCP * - - shop/more".to_owned()), "{page}");
    assert!(lines.contains(&"TCPRoute shop/to-more - shop/more#pg db:5432 - -".to_owned()), "{page}");
    assert!(!page.contains("stray"), "{page}");
}

#[test]
fn calls_and_bare_rules_are_shown() {
    let grpc = json!({"kind": "GRPCRoute", "spec": {"rules": [
        {"matches": [{"method": {"service": "a.B"}, "headers": [{"name": "x", "value": "1"}]},
                     {"method": {"type": "RegularExpression", "method": "Get.*"}}]}, {}]}});
    assert_eq!(
        rules(&grpc),
        "\nRules:\nRULE   MATCH               BACKENDS\n1      a.B/*, header x=1   -\nor     ~*/Get.*\n2      everything          -\n"
    );
}
