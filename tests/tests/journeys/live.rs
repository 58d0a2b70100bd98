//! Routes that change all the time while requests run: none fails, and nothing is left behind.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use underpass_tests::{
    api::Api, client::Connection, eventually::eventually, office::serves, relay::Relay, upstream::Upstream,
};

/// How many changes; `scripts/soak` asks for 10,000.
const CHANGES_VARIABLE: &str = "UNDERPASS_LIVE_CHANGES";
const CHANGES: usize = 300;

/// Connections that ask without a pause.
const CLIENTS: usize = 8;

/// What the relay may grow by from the first tenth of the changes to the end, in bytes: allocators keep some of what was freed.
const GROWTH_MAX: u64 = 24 << 20;

const HOST: &str = "moving.example.com";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

fn route(backend: &str, change: usize) -> Value {
    let set = json!([{"name": "x-change", "value": change.to_string()}]);
    let filters = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}}]);
    let references = json!([{"group": "core.apoxy.dev", "kind": "Backend", "name": backend, "port": 80}]);
    json!({"rules": [{"filters": filters, "backendRefs": references}]})
}

async fn patch(api: &Api, spec: Value) {
    let body = Full::new(json!({ "spec": spec }).to_string().into());
    let request =
        Request::patch(format!("{ROUTES}/moving")).header(header::CONTENT_TYPE, "application/merge-patch+json");
    let answer = api.ask(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.body());
}

/// Two Backends on loopback, named like their upstreams, and a route to the first.
async fn set_up(relay: &Relay, upstreams: &[&Upstream; 2]) {
    let api = relay.api();
    let post = async |path: &str, object: Value| {
        let (status, answer) = api.call(Method::POST, path, Some(&object)).await.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    };
    for (name, upstream) in ["red", "blue"].into_iter().zip(upstreams) {
        let endpoints = json!([{"ip": "127.0.0.1"}]);
        let backend = json!({
            "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": name},
            "spec": {"endpoints": endpoints},
        });
        post("/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends", backend).await;
        assert_ne!(upstream.port(), 0);
    }
}

#[tokio::test]
async fn many_changes_under_load_fail_no_request_and_leave_nothing() {
    let changes = env::var(CHANGES_VARIABLE).map_or(CHANGES, |text| text.parse().expect("a number of changes"));
    let relay = Relay::start_with(&["--allow-backend", "127.0.0.0/8"]).await;
    let (red, blue) = (Upstream::start("red").await, Upstream::start("blue").await);
    set_up(&relay, &[&red, &blue]).await;
    let api = relay.api();
    let spec = |change: usize| {
        let (name, port) = if change.is_multiple_of(2) { ("red", red.port()) } else { ("blue", blue.port()) };
        let mut spec = route(name, change);
        spec["rules"][0]["backendRefs"][0]["port"] = json!(port);
        spec["parentRefs"] = json!([{"name": "default"}]);
        spec["hostnames"] = json!([HOST]);
        spec
    };
    let first = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "moving", "namespace": "default"}, "spec": spec(0),
    });
    let (status, answer) = api.call(Method::POST, ROUTES, Some(&first)).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    serves(&relay, HOST, "red").await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..CLIENTS {
        let (gateway, stop, served) = (relay.addresses.http, Arc::clone(&stop), Arc::clone(&served));
        load.spawn(async move {
            let mut connection = Connection::http1(gateway).await?;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.get(HOST, "/name").await?;
                let good = answer.status == StatusCode::OK && ["red", "blue"].contains(&answer.text().as_str());
                anyhow::ensure!(good, "{} {}", answer.status, answer.text());
                served.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let mut early = 0;
    for change in 1..=changes {
        patch(&api, spec(change)).await;
        if change == changes.div_ceil(10) {
            early = relay.process.memory();
        }
    }
    let last = changes.to_string();
    eventually("the last change is served", async || {
        let mut connection = Connection::http1(relay.addresses.http).await.unwrap();
        let answer = connection.get(HOST, "/name").await.unwrap();
        let seen = answer.headers.get("x-change").map(|value| value.to_str().unwrap().to_owned());
        if seen.as_deref() == Some(last.as_str()) { Ok(()) } else { Err(seen) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for worker in load.join_all().await {
        worker.expect("no request fails");
    }

    let (served, grown) = (served.load(Ordering::Relaxed), relay.process.memory().saturating_sub(early));
    let connections = red.connections() + blue.connections();
    println!("{served} requests during {changes} changes; {connections} connections made; {} KiB more", grown >> 10);
    assert!(served > changes, "there was load: {served}");
    // Each worker keeps a connection for each request in flight at once, to each of the two.
    assert!(connections <= 8 * CLIENTS, "{connections} connections were made");
    assert!(grown <= GROWTH_MAX, "{grown} bytes more than after a tenth of the changes");
}
