//! Several relays on one etcd: what is said to one is known to all, and what one dies with is gone for all.

use std::path::Path;

use serde_json::{Value, json};
use underpass_tests::{
    agent::{Agent, Settings},
    etcd::Etcd,
    eventually::eventually,
    manifest,
    relay::Relay,
};

const NODE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";

/// A relay of the deployment in `etcd`; all share the key in `folder`.
async fn start(etcd: &Etcd, folder: &Path, name: &str) -> Relay {
    let key = folder.join("store.key");
    let arguments =
        ["--etcd-endpoint", &etcd.endpoint(), "--store-key-file", key.to_str().unwrap(), "--relay-name", name];
    Relay::start_with(&arguments).await
}

/// The relays that agents of the node are connected to, as `relay` shows them, once they are `wanted`.
async fn sessions(relay: &Relay, wanted: impl Fn(&[&str]) -> bool) -> Value {
    eventually("the node's agents", async || {
        let Some(node) = relay.api().find(NODE).await else { return Err(json!("no node")) };
        let agents = node["status"]["agents"].as_array().cloned().unwrap_or_default();
        let relays: Vec<&str> = agents.iter().filter_map(|agent| agent["relay"].as_str()).collect();
        if wanted(&relays) { Ok(node) } else { Err(node["status"].clone()) }
    })
    .await
}

#[tokio::test]
async fn an_agent_of_one_relay_is_seen_at_the_other_and_goes_with_its_relay() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let mut one = start(&etcd, folder.path(), "one").await;
    let two = start(&etcd, folder.path(), "two").await;
    assert_eq!(
        std::fs::read(one.data_folder().join("ca.crt")).unwrap(),
        std::fs::read(two.data_folder().join("ca.crt")).unwrap(),
        "one deployment has one CA"
    );

    one.cli().apply(&manifest::node("office")).await;
    let (agent, connected) = Agent::enrol(&one, Settings::node("office")).await;
    let node = sessions(&two, |relays| relays == ["one"]).await;
    assert_eq!(node["status"]["agents"][0]["name"], connected.agent);
    assert_eq!(node["status"]["agents"][0]["agentAddress"], connected.address.to_string());
    let addresses = node["status"]["addresses"].as_array().unwrap();
    for relay in [&one, &two] {
        assert!(addresses.contains(&json!(relay.addresses.tunnel.to_string())), "{addresses:?}");
    }

    one.kill().await;
    // The other relay leads now, and what was the dead one's ends with its lease. The agent may have moved.
    sessions(&two, |relays| !relays.contains(&"one")).await;
    two.cli().apply(&manifest::node("another")).await;
    drop(agent);

    one.start_again().await;
    assert_eq!(one.api().names("/apis/core.apoxy.dev/v1alpha/tunnelnodes").await, ["another", "office"]);
}

#[tokio::test]
async fn two_relays_go_on_after_etcd_was_killed() {
    let (mut etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let one = start(&etcd, folder.path(), "one").await;
    let two = start(&etcd, folder.path(), "two").await;
    one.cli().apply(&manifest::node("before")).await;
    etcd.kill().await;
    let nodes = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
    let (status, refusal) = one.api().call(http::Method::POST, nodes, Some(&node("during"))).await.unwrap();
    assert_eq!(status, http::StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("etcd"), "{refusal}");
    etcd.start_again().await;
    let write = async || match two.api().call(http::Method::POST, nodes, Some(&node("after"))).await.unwrap() {
        (http::StatusCode::CREATED | http::StatusCode::CONFLICT, _) => Ok(()),
        (_, refusal) => Err(refusal),
    };
    eventually("writing resumes", write).await;
    let both = async || {
        let names = one.api().names(nodes).await;
        if names == ["after", "before"] { Ok(()) } else { Err(names) }
    };
    eventually("the other relay knows", both).await;
}

fn node(name: &str) -> Value {
    json!({ "apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": { "name": name }, "spec": {} })
}
