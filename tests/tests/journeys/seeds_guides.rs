//! The seeds about the first steps, the core concepts, the kinds of routes and HTTP routing, example by example.
//!
//! Where a seed contradicts the Gateway API, the API holds: `docs/errata.md` has these.

use http::Method;
use serde_json::Value;
use underpass_tests::{
    eventually::eventually,
    stage::{LOCALHOST, Stage, condition, of_seed},
};

/// The guides have a service answer with whatever; its name tells which one it was.
fn says(service: &str, _: &str) -> String {
    service.to_owned()
}

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

const NOT_FOUND: (u16, String) = (404, String::new());

/// The route of that name on Gateway `default`, once it is served, and what the command line shows of both.
async fn on_the_default_gateway(stage: &Stage, manifests: &str, route: &str) {
    stage.relay.cli().apply(manifests).await;
    stage.is_served(manifests).await;
    let cli = stage.relay.cli();
    for (arguments, words) in [
        (&["gateway", "get", "default"][..], &["default", route][..]),
        (&["gateway", "routes", "list"], &[route]),
        (&["gateway", "routes", "get", &format!("http/{route}")], &[route, "api-backend"]),
    ] {
        let shown = cli.run(arguments).await.expect_success();
        for word in words {
            assert!(shown.contains(word), "`underpass {}` shows {word}: {shown}", arguments.join(" "));
        }
    }
}

#[tokio::test]
async fn routing_traffic_attaches_the_route_and_the_command_line_shows_it() {
    let manifests = of_seed("000-routing-traffic.yaml", &["api-backend", "api-route"]);
    let stage = Stage::prepare(&manifests, says).await;
    on_the_default_gateway(&stage, &manifests, "api-route").await;
    let host = "api.your-org.apoxy.app";
    let (status, _) = stage.ask(Method::GET, host, "/", &[]).await;
    assert!(status >= 500, "the host is served, and its Backend has an address that is nowhere: {status}");
    assert_eq!(stage.get("/").await, NOT_FOUND, "another host is not");
}

#[tokio::test]
async fn the_order_of_files_does_not_matter_for_a_route_and_its_backend() {
    let seed = "000-routing-traffic.yaml";
    let (backend, route) = (of_seed(seed, &["api-backend"]), of_seed(seed, &["api-route"]));
    let stage = Stage::prepare(&route, says).await;
    stage.relay.cli().apply(&route).await;
    let path = "/apis/gateway.apoxy.dev/v1/namespaces/default/httproutes/api-route";
    eventually("the Backend is missed", async || {
        let object = stage.relay.api().get(path).await;
        let resolved = condition(&object, "ResolvedRefs").cloned().unwrap_or_default();
        if resolved["reason"] == "BackendNotFound" { Ok(()) } else { Err(resolved) }
    })
    .await;
    stage.relay.cli().apply(&backend).await;
    stage.is_served(&route).await;
}

#[tokio::test]
async fn core_concepts_route_serves_its_prefix_on_both_listeners() {
    let manifests = of_seed("001-core-concepts.yaml", &["api-backend", "api-route"]);
    let stage = Stage::prepare(&manifests, says).await;
    on_the_default_gateway(&stage, &manifests, "api-route").await;
    let (status, _) = stage.ask(Method::GET, "api.example.com", "/v1/users", &[]).await;
    assert!(status >= 500, "the path is served, and its Backend has an address that is nowhere: {status}");
    assert_eq!(stage.ask(Method::GET, "api.example.com", "/v2", &[]).await, NOT_FOUND);
    let gateway = stage.relay.api().get("/apis/gateway.apoxy.dev/v1/namespaces/default/gateways/default").await;
    let attached: Vec<_> = gateway["status"]["listeners"].as_array().unwrap().iter().map(attached_routes).collect();
    assert_eq!(attached, [1, 1], "{gateway}");
}

fn attached_routes(listener: &Value) -> u64 {
    listener["attachedRoutes"].as_u64().unwrap()
}

/// The Gateway that the seed about kinds of routes speaks of and does not show; routes of any namespace may attach.
const EXAMPLE_GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  \
     name: example-gateway\nspec:\n  gatewayClassName: example-gateway-class\n  listeners:\n  - name: http-listener\n    \
     protocol: HTTP\n    port: 80\n    allowedRoutes: {namespaces: {from: All}}\n  - name: other-listener\n    \
     protocol: HTTP\n    port: 50051\n";

#[tokio::test]
async fn route_attachment_is_to_the_listener_of_that_name_alone() {
    let route = of_seed("002-route-types.yaml", &["example-route"]);
    let stage = Stage::open(&format!("{EXAMPLE_GATEWAY}---\n{route}"), says).await;
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/example-gateway";
    eventually("the route is counted where it is attached", async || {
        let gateway = stage.relay.api().get(path).await;
        let listeners = gateway["status"]["listeners"].as_array().cloned().unwrap_or_default();
        let attached: Vec<_> = listeners.iter().map(attached_routes).collect();
        if attached == [1, 0] { Ok(()) } else { Err(gateway["status"].clone()) }
    })
    .await;
    assert_eq!(stage.get("/").await.0, 500, "a rule without backends (Gateway API)");
}

fn on_example_gateway(namespace: &str, rules: &str) -> String {
    format!(
        "{EXAMPLE_GATEWAY}---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  \
         name: fragment\n  namespace: {namespace}\nspec:\n  parentRefs:\n  - name: example-gateway\n    \
         namespace: default\n{rules}"
    )
}

#[tokio::test]
async fn backend_selection_by_weight() {
    let rules = "  rules:\n  - backendRefs:\n    - name: service-a\n      port: 80\n      weight: 90\n    \
                 - name: service-b\n      port: 80\n      weight: 10\n";
    let stage = Stage::open(&on_example_gateway("default", rules), says).await;
    let mut second = 0;
    for _ in 0..1000 {
        match stage.get("/").await {
            answer if answer == ok("service-a") => {}
            answer if answer == ok("service-b") => second += 1,
            answer => panic!("{answer:?}"),
        }
    }
    // Five standard deviations around 100.
    assert!((53..=147).contains(&second), "{second} of 1000");
}

#[tokio::test]
async fn cross_namespace_routing_needs_the_grant() {
    let rules =
        "  rules:\n  - backendRefs:\n    - name: backend-service\n      namespace: backend-ns\n      port: 8080\n";
    let manifests = on_example_gateway("frontend-ns", rules);
    let stage = Stage::prepare(&manifests, says).await;
    stage.relay.cli().apply(&manifests).await;
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/frontend-ns/httproutes/fragment";
    eventually("the reference is not permitted", async || {
        let object = stage.relay.api().get(path).await;
        let resolved = condition(&object, "ResolvedRefs").cloned().unwrap_or_default();
        if resolved["reason"] == "RefNotPermitted" { Ok(()) } else { Err(resolved) }
    })
    .await;
    assert_eq!(stage.get("/").await.0, 500);

    stage.relay.cli().apply(&of_seed("002-route-types.yaml", &["allow-routes"])).await;
    stage.is_served(&manifests).await;
    assert_eq!(stage.get("/").await, ok("backend-service"));
}

const HTTP_ROUTING: &str = "003-http-routing.yaml";

#[tokio::test]
async fn http_routing_by_host() {
    let stage = Stage::open(&of_seed(HTTP_ROUTING, &["example-gateway", "example-route"]), says).await;
    assert_eq!(stage.ask(Method::GET, "example.com", "/any/path", &[]).await, ok("example-svc"));
    assert_eq!(stage.ask(Method::GET, "www.example.com", "/", &[]).await, NOT_FOUND);
    assert_eq!(stage.ask(Method::GET, LOCALHOST, "/", &[]).await, NOT_FOUND);
}

#[tokio::test]
async fn http_routing_by_host_and_path() {
    let stage = Stage::open(&of_seed(HTTP_ROUTING, &["example-gateway", "foo-route"]), says).await;
    for (path, want) in [
        ("/login", ok("foo-svc")),
        ("/login/", ok("foo-svc")),
        ("/login/a/b", ok("foo-svc")),
        ("/logins", NOT_FOUND),
        ("/", NOT_FOUND),
    ] {
        assert_eq!(stage.ask(Method::GET, "foo.example.com", path, &[]).await, want, "{path}");
    }
}

#[tokio::test]
async fn http_routing_by_host_and_header() {
    let stage = Stage::open(&of_seed(HTTP_ROUTING, &["example-gateway", "bar-route"]), says).await;
    for (fields, service) in [
        (&[("env", "canary")][..], "bar-svc-canary"),
        (&[("Env", "canary")], "bar-svc-canary"),
        (&[("env", "Canary")], "bar-svc"),
        (&[("env", "canaries")], "bar-svc"),
        (&[], "bar-svc"),
    ] {
        assert_eq!(stage.ask(Method::GET, "bar.example.com", "/x", fields).await, ok(service), "{fields:?}");
    }
}

#[tokio::test]
async fn http_routes_of_several_hosts_merge_on_one_gateway() {
    let names = ["example-gateway", "example-route", "foo-route", "bar-route"];
    let stage = Stage::open(&of_seed(HTTP_ROUTING, &names), says).await;
    for (host, path, service) in [
        ("example.com", "/login", "example-svc"),
        ("foo.example.com", "/login", "foo-svc"),
        ("bar.example.com", "/login", "bar-svc"),
    ] {
        assert_eq!(stage.ask(Method::GET, host, path, &[]).await, ok(service));
    }
    assert_eq!(stage.ask(Method::GET, "foo.example.com", "/", &[]).await, NOT_FOUND, "no other host's rule helps out");
}
