//! A policy for clients, as the owner of a Gateway meets it: who is believed to say whose a request is.

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use underpass_tests::{
    client::{Body, Connection, empty, whole},
    eventually::eventually,
    office::{HOST, Office},
};

const POLICY: &str = "/apis/policy.apoxy.dev/v1alpha1/namespaces/default/clienttrafficpolicies/clients";

/// Gives the default Gateway a policy, and waits until its condition says that it is served.
async fn policy(office: &Office, mut spec: Value) {
    spec["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default"}]);
    let policy = json!({
        "apiVersion": "policy.apoxy.dev/v1alpha1", "kind": "ClientTrafficPolicy",
        "metadata": {"name": "clients", "namespace": "default"}, "spec": spec,
    });
    office.relay.cli().apply(&policy.to_string()).await;
    eventually("the policy is accepted", async || {
        let policy = office.relay.api().get(POLICY).await;
        let entry = &policy["status"]["ancestors"][0];
        let accepted = &entry["conditions"][0];
        let is_now = accepted["observedGeneration"] == policy["metadata"]["generation"];
        let is_of_the_gateway = entry["ancestorRef"]["name"] == "default";
        if accepted["status"] == "True" && is_now && is_of_the_gateway { Ok(()) } else { Err(policy.to_string()) }
    })
    .await;
}

fn from(client: &str) -> Request<Body> {
    let request = Request::builder().method(Method::GET).uri("/head").header("host", HOST);
    request.header("x-forwarded-for", client).body(empty()).unwrap()
}

#[tokio::test]
async fn a_proxy_before_the_gateway_is_believed_from_when_a_policy_says_so() {
    let office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let seen = whole(connection.begin(from("203.0.113.7")).await.unwrap()).await.unwrap();
    assert!(!seen.text().contains("203.0.113.7"), "{}", seen.text());
    let detection = json!({"xForwardedFor": {"trustedCIDRs": ["127.0.0.0/8", "::1/128"]}});
    policy(&office, json!({ "clientIPDetection": detection })).await;
    // The connection goes on, and what is said on it is believed now, but for what the client may have made up.
    eventually("the proxy is believed", async || {
        let seen = connection.begin(from("198.51.100.1, 203.0.113.7")).await.map_err(|error| format!("{error:#}"))?;
        let seen = whole(seen).await.map_err(|error| format!("{error:#}"))?.text();
        let is_right = seen.contains("203.0.113.7, ") && !seen.contains("198.51.100.1");
        if is_right { Ok(()) } else { Err(seen) }
    })
    .await;
    let detection = json!({"customHeader": {"name": "x-client", "failClosed": true}});
    policy(&office, json!({ "clientIPDetection": detection })).await;
    eventually("a request without the header is refused", async || {
        let status = office.get("/head").await.status;
        if status == StatusCode::FORBIDDEN { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// What the gateway answers to `bytes`, until it closes.
async fn raw(office: &Office, bytes: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(office.relay.addresses.http).await.map_err(|error| error.to_string())?;
    stream.write_all(bytes.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_load_balancer_says_for_whom_it_connects_in_the_proxy_protocol() {
    let office = Office::open().await;
    policy(&office, json!({"proxyProtocol": {}})).await;
    let request = format!("GET /head HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let announced = format!("PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n{request}");
    eventually("the load balancer is believed", async || {
        let seen = raw(&office, &announced).await?;
        if seen.contains("203.0.113.7") { Ok(()) } else { Err(seen) }
    })
    .await;
    // Whoever comes without is not served.
    assert!(!raw(&office, &request).await.unwrap_or_default().contains("HTTP/1.1"));
}
