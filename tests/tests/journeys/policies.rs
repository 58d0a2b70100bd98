//! A policy for a backend, as its user meets it: endpoints that fail are left alone, on this host and behind agents.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use underpass_tests::{
    client::Connection,
    eventually::eventually,
    manifest,
    office::{Office, serves},
    relay::Relay,
};

const HOST: &str = "balanced.example.com";
/// Requests in a row that show that an endpoint gets none: of two that are taken by chance, by 1 in 2^64 wrongly.
const IN_A_ROW: usize = 64;

async fn create(office: &Office, path: &str, object: Value) {
    let (status, answer) = office.relay.api().call(Method::POST, path, Some(&object)).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// A Backend of two endpoints, `HOST` routed to it, and endpoints that are asked for their health by connecting.
async fn balanced(office: &Office, endpoints: Value) {
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    let backend = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": metadata("two"),
        "spec": {"endpoints": endpoints},
    });
    create(office, "/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends", backend).await;
    let reference =
        json!({"group": "core.apoxy.dev", "kind": "Backend", "name": "two", "port": office.upstream.port()});
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata("two"),
        "spec": {"parentRefs": [{"name": "default"}], "hostnames": [HOST], "rules": [{"backendRefs": [reference]}]},
    });
    create(office, "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes", route).await;
    let check = json!({"type": "TCP", "tcp": {}, "interval": "100ms", "timeout": "500ms", "unhealthyThreshold": 1});
    let policy = json!({
        "apiVersion": "policy.apoxy.dev/v1alpha1", "kind": "BackendTrafficPolicy", "metadata": metadata("two"),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "two"}],
            "healthCheck": {"active": check, "panicThreshold": 0},
        },
    });
    create(office, "/apis/policy.apoxy.dev/v1alpha1/namespaces/default/backendtrafficpolicies", policy).await;
}

/// Waits until so many requests in a row are served, by whichever endpoint.
async fn all_are_served(relay: &Relay) {
    eventually("every request is served", async || {
        let mut connection = Connection::http1(relay.addresses.http).await.unwrap();
        for _ in 0..IN_A_ROW {
            let answer = connection.get(HOST, "/name").await.unwrap();
            if answer.status != StatusCode::OK {
                return Err(format!("{} {}", answer.status, answer.text()));
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_its_health_check_gets_no_requests() {
    let office = Office::open_on(Relay::start_with(&["--allow-backend", "127.0.0.0/8"]).await, "", &[]).await;
    // Nobody listens on the second address.
    balanced(&office, json!([{"ip": "127.0.0.1"}, {"ip": "127.0.0.2"}])).await;
    all_are_served(&office.relay).await;
    let path = "/apis/policy.apoxy.dev/v1alpha1/namespaces/default/backendtrafficpolicies/two";
    let policy = office.relay.api().get(path).await;
    let accepted = &policy["status"]["ancestors"][0]["conditions"][0];
    assert_eq!((&accepted["type"], &accepted["status"]), (&"Accepted".into(), &"True".into()), "{policy}");
}

#[tokio::test]
async fn a_service_behind_an_agent_is_asked_for_its_health_through_the_tunnel() {
    let mut office = Office::open_on(Relay::start_with(&["--allow-backend", "127.0.0.0/8"]).await, "", &[]).await;
    office.relay.cli().apply(&manifest::node("away")).await;
    // The second node has no agent; the first loses its own.
    balanced(&office, json!([{"fqdn": "office.tun.internal"}, {"fqdn": "away.tun.internal"}])).await;
    all_are_served(&office.relay).await;
    serves(&office.relay, HOST, "office").await;
    office.agent.kill_and_restart().await;
    all_are_served(&office.relay).await;
}
