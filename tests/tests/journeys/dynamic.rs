//! `dynamicProxy`, as its user meets it: a forward proxy that goes where a request names, and nowhere it must not.

use underpass_tests::{client, eventually::eventually, gate::Gate, manifest, office::Office, relay::Relay};

/// A route for every host to a Backend without endpoints and settings, as its documentation has it.
fn forward_proxy(port: u16) -> String {
    let backend =
        "apiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\nmetadata: {name: any}\nspec: {dynamicProxy: {}}\n";
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: any}}\nspec:\n  \
         parentRefs: [{{name: default}}]\n  rules:\n  - backendRefs:\n    - {{group: core.apoxy.dev, kind: Backend, \
         name: any, port: {port}}}\n  - matches: [{{path: {{value: /rewritten}}}}]\n    filters:\n    - type: URLRewrite\n      \
         urlRewrite: {{hostname: localhost, path: {{type: ReplaceFullPath, replaceFullPath: /name}}}}\n    backendRefs:\n    \
         - {{group: core.apoxy.dev, kind: Backend, name: any, port: {port}}}\n"
    );
    manifest::documents(&[backend.to_owned(), route])
}

#[tokio::test]
async fn a_request_goes_to_the_host_that_it_names() {
    let relay = Relay::start_with(&["--allow-backend", "127.0.0.0/8", "--allow-backend", "::1/128"]).await;
    let office = Office::open_on(relay, "", &[]).await;
    let port = office.upstream.port();
    office.relay.cli().apply(&forward_proxy(port)).await;
    office.serves("localhost", "office").await;
    for host in ["127.0.0.1", "app.localhost", &format!("localhost:{port}")] {
        let answer = client::get(office.relay.addresses.http, host, "/name").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "office".to_owned()), "{host}");
    }
    let rewritten = client::get(office.relay.addresses.http, "x.invalid", "/rewritten").await.unwrap();
    assert_eq!((rewritten.status.as_u16(), rewritten.text()), (200, "office".to_owned()), "the host after rewrites");
    // Its own address is never dialled, but who knows all addresses that lead back to it?
    let gate = Gate::to(office.relay.addresses.http).await;
    office.relay.cli().apply(&forward_proxy(gate.address().port())).await;
    eventually("a request that goes round is answered once", async || {
        let answer = client::get(office.relay.addresses.http, "round.localhost", "/name").await.unwrap();
        if answer.status == 508 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    })
    .await;
    let cases = [
        ("x.invalid", 503, "the backend's name x.invalid does not exist"),
        ("169.254.169.254", 502, "the backend may not be reached: its address is link-local, which is never dialled"),
        ("10.0.0.1", 502, "the backend may not be reached: its address is private"),
    ];
    for (host, status, text) in cases {
        let answer = client::get(office.relay.addresses.http, host, "/name").await.unwrap();
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        assert!(answer.text().contains(text), "{host}: {}", answer.text());
    }
}
