//! The relay with one route to the upstream, and with ten thousand.

use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use underpass_tests::{api::Api, client, clock, eventually::eventually, relay::Relay};

use crate::{
    Effort, Port,
    figures::{median, short},
    load::{self, Load, Work},
    peers::Peer,
};

const ROUTES: usize = 10_000;
/// Changes of one route among all that are timed.
const CHANGES: usize = 50;
/// Requests go on between changes, so that each finds what the relay says of the one before written.
const BETWEEN_CHANGES: Duration = Duration::from_millis(500);
const PATH: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";

fn route(name: &str, hostname: Option<&str>, path: &str, origin: u16) -> Value {
    let backend = json!({"group": "core.apoxy.dev", "kind": "Backend", "name": "origin", "port": origin});
    let matches = json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let mut spec =
        json!({"parentRefs": [{"name": "default"}], "rules": [{"matches": matches, "backendRefs": [backend]}]});
    if let Some(hostname) = hostname {
        spec["hostnames"] = json!([hostname]);
    }
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

async fn post(api: &Api, path: &str, object: &Value) {
    let (status, answer) = api.call(Method::POST, path, Some(object)).await.expect("the API answers");
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// Starts it and lets it run to the end of the program.
pub(crate) async fn start(origin: u16) -> Peer {
    let relay = Relay::start_with(&["--allow-backend", "127.0.0.0/8"]).await;
    let backend = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "origin"},
        "spec": {"endpoints": [{"ip": "127.0.0.1"}]},
    });
    post(&relay.api(), "/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends", &backend).await;
    post(&relay.api(), PATH, &route("all", None, "/", origin)).await;
    let gateway = relay.addresses.http;
    eventually("the relay serves", async || {
        let answer = client::get(gateway, "localhost", "/s").await.map_err(|error| error.to_string())?;
        if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    let (plain, tls) = (relay.addresses.http.port(), relay.addresses.https.port());
    Peer::of_relay(relay, [plain, tls], origin)
}

/// The same requests beside ten thousand routes of other hosts and paths, and how soon one change among them is served.
pub(crate) async fn many_routes(side: &Peer, effort: Effort) {
    let work = Work { name: "routes", load: Load::Wrk { connections: 32 }, port: Port::Plain, path: "/s" };
    let measure = async || {
        let mut rates = Vec::new();
        for _ in 0..effort.rounds {
            rates.push(load::run(&work, side, effort.seconds).await.rate);
        }
        median(rates)
    };
    let one = measure().await;
    let (relay, origin) = side.relay().expect("the relay's side");
    let api = relay.api();
    for at in 0..ROUTES {
        // Half of them share the hosts of the request, half have hosts of their own.
        let host = format!("h{at}.example.com");
        let object = route(&format!("r{at}"), (at % 2 == 0).then_some(host.as_str()), &format!("/p{at}/x"), origin);
        post(&api, PATH, &object).await;
    }
    let (gateway, last) = (relay.addresses.http, ROUTES - 1);
    eventually("the last route is served", async || {
        let answer =
            client::get(gateway, "localhost", &format!("/p{last}/x")).await.map_err(|error| error.to_string())?;
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    let mut took = Vec::new();
    for change in 0..CHANGES {
        took.push(change_one(&api, gateway, origin, change).await.as_secs_f64() * 1e3);
    }
    let many = measure().await;
    println!("With {ROUTES} routes: {} requests a second, {:.2} of those with one route", short(many), many / one);
    took.sort_by(f64::total_cmp);
    println!(
        "One of them changed, from the request that changes it to the first answer by it: median {:.1} ms, longest {:.1} ms",
        took[CHANGES / 2],
        took[CHANGES - 1]
    );
}

/// Gives a route a header to set, and waits for an answer that has it.
async fn change_one(api: &Api, gateway: std::net::SocketAddr, origin: u16, change: usize) -> Duration {
    let value = change.to_string();
    let mut spec = route("r1", None, "/p1/x", origin)["spec"].clone();
    let set = json!([{"name": "x-change", "value": value}]);
    spec["rules"][0]["filters"] = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": set}}]);
    let body = Full::new(json!({ "spec": spec }).to_string().into());
    let request = Request::patch(format!("{PATH}/r1")).header(header::CONTENT_TYPE, "application/merge-patch+json");
    let mut connection = client::Connection::http1(gateway).await.expect("the relay listens");
    let begin: Instant = clock::now();
    let answer = api.ask(request.body(body).expect("a request")).await.expect("the API answers");
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.body());
    loop {
        let answer = connection.get("localhost", "/p1/x").await.expect("the relay answers");
        if answer.headers.get("x-change").is_some_and(|seen| seen == value.as_str()) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let took = begin.elapsed();
    while begin.elapsed() < BETWEEN_CHANGES {
        connection.get("localhost", "/p1/x").await.expect("the relay answers");
    }
    took
}
