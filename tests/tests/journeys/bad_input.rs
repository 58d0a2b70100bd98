//! Manifests that are wrong: each is refused in words that name the thing, nothing is stored, and the neighbours serve on.

use underpass_tests::{
    cli::Outcome,
    client, manifest,
    office::{HOST, Office, serves},
};

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes";
const BACKENDS: &str = "/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends";
const NODES: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";

/// Applies `manifest`, and asserts a refusal that says each of `words`, and that nothing else changed.
async fn expect_refused(manifest: &str, words: &[&str]) -> Outcome {
    let office = Office::open().await;
    let before = everything(&office).await;

    let outcome = office.relay.cli().try_apply(manifest).await;

    outcome.expect_refusal(words);
    assert_eq!(everything(&office).await, before, "nothing is stored, nothing is lost");
    assert_eq!(office.get("/name").await.text(), "office", "the healthy neighbour serves on");
    outcome
}

async fn everything(office: &Office) -> Vec<(String, String)> {
    let api = office.relay.api();
    let mut all = Vec::new();
    for list in [ROUTES, BACKENDS, NODES] {
        for object in api.get(list).await["items"].as_array().unwrap() {
            all.push((object["metadata"]["name"].to_string(), object["spec"].to_string()));
        }
    }
    all
}

/// The office's route, broken by replacing `from`.
fn broken_route(from: &str, to: &str) -> String {
    let route = manifest::route("broken", "broken.example.com", "app", 8080);
    assert!(route.contains(from), "the test breaks something that is there");
    route.replace(from, to)
}

#[tokio::test]
async fn malformed_yaml_is_refused_with_its_line() {
    let outcome = expect_refused("apiVersion: v1\nkind: [unclosed\nmetadata:\n  name: x\n", &["line"]).await;
    assert!(outcome.stderr.contains('-') || outcome.stderr.contains("stdin"), "it names the file: {outcome:?}");
}

#[tokio::test]
async fn a_manifest_that_is_no_object_is_refused() {
    for manifest in ["just words\n", "- a\n- list\n", "42\n"] {
        expect_refused(manifest, &["not a map", "line 1"]).await;
    }
}

#[tokio::test]
async fn a_manifest_without_kind_or_name_is_refused() {
    expect_refused("apiVersion: core.apoxy.dev/v1alpha\nmetadata:\n  name: x\n", &["kind"]).await;
    expect_refused("apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\n", &["name"]).await;
}

#[tokio::test]
async fn an_unknown_kind_is_refused_by_its_name() {
    expect_refused(&broken_route("HTTPRoute", "HTTPRouter"), &["HTTPRouter"]).await;
}

#[tokio::test]
async fn a_known_kind_of_an_unknown_version_is_refused() {
    expect_refused(&broken_route("gateway.apoxy.dev/v1", "gateway.apoxy.dev/v9"), &["gateway.apoxy.dev/v9"]).await;
}

#[tokio::test]
async fn an_unknown_field_is_refused_with_its_path() {
    let words = ["spec.rules[0].backendRefz", "unknown field", "broken"];
    expect_refused(&broken_route("backendRefs", "backendRefz"), &words).await;
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_refused_with_its_path() {
    let hostnames = broken_route("hostnames:\n  - broken.example.com", "hostnames: 5");
    expect_refused(&hostnames, &["spec.hostnames"]).await;
    expect_refused(&broken_route("port: 8080", "port: eight"), &["spec.rules[0].backendRefs[0].port"]).await;
}

#[tokio::test]
async fn a_port_out_of_range_is_refused_with_its_path() {
    expect_refused(&broken_route("port: 8080", "port: 70000"), &["spec.rules[0].backendRefs[0].port"]).await;
}

#[tokio::test]
async fn two_problems_of_one_object_are_both_shown_at_once() {
    let two = broken_route("hostnames:\n  - broken.example.com", "hostnames: 5").replace("backendRefs", "backendRefz");
    expect_refused(&two, &["spec.hostnames", "spec.rules[0].backendRefz"]).await;
}

#[tokio::test]
async fn two_broken_objects_of_one_file_are_both_shown_at_once() {
    let first = broken_route("backendRefs", "backendRefz");
    let second = broken_route("hostnames", "hostnamez").replace("name: broken", "name: worse");
    expect_refused(&manifest::documents(&[first, second]), &["broken", "backendRefz", "worse", "hostnamez"]).await;
}

#[tokio::test]
async fn a_field_that_is_not_served_yet_is_said_in_a_condition_and_never_ignored() {
    let office = Office::open().await;
    let route = broken_route("  rules:\n", "  useDefaultGateways: All\n  rules:\n");
    let outcome = office.relay.cli().try_apply(&route).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("spec.useDefaultGateways (All)"), "the warning names the field: {outcome:?}");
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/broken";
    let condition = underpass_tests::eventually::eventually("the condition", async || {
        let route = office.relay.api().get(path).await;
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "Accepted").ok_or(route)
    })
    .await;
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"UnsupportedValue".into()));
    assert!(condition["message"].as_str().unwrap().contains("spec.useDefaultGateways (All)"), "{condition}");
    let answer = client::get(office.relay.addresses.http, "broken.example.com", "/").await.unwrap();
    assert_eq!(answer.status, 404, "nothing of the route is served");
}

#[tokio::test]
async fn networks_behind_a_node_are_stored_with_a_warning_and_a_condition() {
    let office = Office::open().await;
    let node = format!("{}spec:\n  routes: [10.0.0.0/8]\n", manifest::node("office-link"));
    let outcome = office.relay.cli().try_apply(&node).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("spec.routes"), "the warning is shown: {outcome:?}");
    let condition = underpass_tests::eventually::eventually("the condition", async || {
        let node = office.relay.api().get(&format!("{NODES}/office-link")).await;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == "Routes").ok_or(node)
    })
    .await;
    assert_eq!((&condition["status"], &condition["reason"]), (&"False".into(), &"NotSupported".into()));
}

#[tokio::test]
async fn a_bad_update_leaves_the_good_object_as_it_was() {
    let office = Office::open().await;
    let bad = manifest::route("app", HOST, "app", office.upstream.port()).replace("backendRefs", "backendRefz");
    let before = everything(&office).await;
    office.relay.cli().try_apply(&bad).await.expect_refusal(&["backendRefz"]);
    assert_eq!(everything(&office).await, before);
    serves(&office.relay, HOST, "office").await;
}

#[tokio::test]
async fn a_route_to_a_backend_that_is_not_there_says_so_and_hurts_no_other() {
    let office = Office::open().await;
    office.relay.cli().apply(&manifest::route("lost", "lost.example.com", "nowhere", 80)).await;

    let condition = underpass_tests::eventually::eventually("ResolvedRefs is False", async || {
        let route = office.relay.api().get(&format!("{ROUTES}/lost")).await;
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "ResolvedRefs" && c["status"] == "False").ok_or(route)
    })
    .await;

    assert_eq!(condition["reason"], "BackendNotFound");
    assert!(condition["message"].as_str().is_some_and(|text| text.contains("nowhere")), "{condition}");
    underpass_tests::office::answers(&office.relay, "lost.example.com", 500).await;
    assert_eq!(office.get("/name").await.text(), "office");
}

#[tokio::test]
async fn what_is_not_there_cannot_be_shown_or_deleted_and_the_text_names_it() {
    let office = Office::open().await;
    let cli = office.relay.cli();
    for arguments in [
        ["get", "httproute", "nobody"].as_slice(),
        &["delete", "httproute", "nobody"],
        &["gateway", "get", "nobody"],
        &["gateway", "routes", "get", "http/nobody"],
        &["tunnel", "get", "nobody"],
        &["tunnel", "token", "nobody"],
    ] {
        cli.run(arguments).await.expect_refusal(&["nobody", "not found"]);
    }
    cli.run(&["get", "gizmos"]).await.expect_refusal(&["gizmos"]);
    cli.run(&["apply", "-f", "no-such-file.yaml"]).await.expect_refusal(&["no-such-file.yaml"]);
}

#[tokio::test]
async fn a_relay_that_is_away_is_named_with_its_address() {
    let mut office = Office::open().await;
    let address = office.relay.addresses.api.to_string();
    office.relay.kill().await;
    office.relay.cli().run(&["get", "tunnelnodes"]).await.expect_refusal(&[&address]);
}
