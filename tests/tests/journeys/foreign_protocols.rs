//! Whole protocols through the gateway with implementations that we did not write on both ends: WebSockets with
//! compression, and gRPC.

use std::net::SocketAddr;

use underpass_tests::{
    front::{Front, HOST},
    process::Process,
    python,
};

/// Starts the backend of a script; gives where it listens.
async fn serve(script: &str, requirements: &str) -> (Process, SocketAddr) {
    let mut backend = python::spawn(script, requirements, &["serve"]).await;
    let port: u16 = backend.line("its port", |line| line.strip_prefix("listening ")?.parse().ok()).await;
    (backend, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Runs the client of a script against the gateway, and asserts that so many cases went well.
async fn ask(front: &Front, script: &str, requirements: &str, cases: usize) {
    let http = front.addresses().http;
    let arguments = ["ask", &http.ip().to_string(), &http.port().to_string(), HOST];
    let text = python::run(script, requirements, &arguments).await;
    assert!(text.ends_with(&format!("{cases} cases went well\n")), "{text}");
}

#[tokio::test]
async fn websockets_of_an_independent_implementation_on_both_ends() {
    let (script, requirements) = ("websocket_cases.py", "websocket-requirements.txt");
    let (_backend, address) = serve(script, requirements).await;
    let front = Front::open(address).await;
    ask(&front, script, requirements, 74).await;
    front.serves_others("WebSockets").await;
}

#[tokio::test]
async fn grpc_of_an_independent_implementation_on_both_ends() {
    let (script, requirements) = ("grpc_cases.py", "grpc-requirements.txt");
    let (_backend, address) = serve(script, requirements).await;
    let front = Front::prepare_with(address, "h2c").await;
    let manifest = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: front}}\n\
         spec:\n  parentRefs: [{{name: default}}]\n  hostnames: [{HOST}]\n  rules:\n  \
         - matches: [{{method: {{service: underpass.Cases}}}}]\n    backendRefs: \
         [{{group: core.apoxy.dev, kind: Backend, name: front, port: {}}}]\n",
        address.port()
    );
    front.relay.cli().apply(&manifest).await;
    front.answers("underpass.Cases/Echo").await;
    ask(&front, script, requirements, 12).await;
}
