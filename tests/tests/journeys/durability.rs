//! What the relay acknowledged, it keeps: SIGKILL in the middle of a stream of writes.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use underpass_tests::{
    eventually::{PATIENCE, within},
    manifest,
    relay::Relay,
};

const BACKENDS: &str = "/apis/core.apoxy.dev/v1alpha2/namespaces/default/backends";
/// Acknowledged writes before the relay is killed.
const BEFORE: usize = 100;

fn backend(name: &str) -> Value {
    json!({
        "apiVersion": "core.apoxy.dev/v1alpha2",
        "kind": "Backend",
        "metadata": {"name": name},
        "spec": {"endpoints": [{"fqdn": format!("{name}.tun.internal")}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_object_survives_sigkill_in_a_stream_of_writes() {
    let mut relay = Relay::start().await;
    let (acknowledge, mut acknowledged) = mpsc::channel(1_000);
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let (api, acknowledge) = (relay.api(), acknowledge.clone());
        writers.spawn(async move {
            for at in 0.. {
                let name = format!("written-{writer}-{at}");
                let Ok((status, object)) = api.call(Method::POST, BACKENDS, Some(&backend(&name))).await else {
                    return;
                };
                assert_eq!(status, StatusCode::CREATED, "{object}");
                let uid = object["metadata"]["uid"].as_str().expect("a stored object has a uid").to_owned();
                acknowledge.send((name, uid)).await.expect("the test listens");
            }
        });
    }
    drop(acknowledge);

    let mut kept = BTreeMap::new();
    for _ in 0..BEFORE {
        kept.extend(within(PATIENCE, "an acknowledged write", acknowledged.recv()).await);
    }
    relay.kill().await;
    writers.join_all().await;
    while let Some((name, uid)) = acknowledged.recv().await {
        kept.insert(name, uid);
    }
    relay.start_again().await;

    let list = relay.api().get(BACKENDS).await;
    let stored: BTreeMap<&str, &Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| (object["metadata"]["name"].as_str().unwrap(), object))
        .collect();
    for (name, uid) in &kept {
        let object = stored.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is lost"));
        assert_eq!(object["metadata"]["uid"], uid.as_str());
        assert_eq!(object["spec"]["endpoints"], backend(name)["spec"]["endpoints"], "{name} is whole");
    }
    assert!(stored.len() <= kept.len() + 4, "at most one unanswered write for each writer");
    assert!(kept.len() >= BEFORE);
}

#[tokio::test]
async fn a_relay_killed_again_and_again_keeps_its_identity_and_counts_on() {
    let mut relay = Relay::start().await;
    let ca = std::fs::read(relay.data_folder().join("ca.crt")).unwrap();
    let mut revision = 0;
    for round in 0..5 {
        let name = format!("node-{round}");
        relay.cli().apply(&manifest::node(&name)).await;
        let node = relay.api().get(&format!("/apis/core.apoxy.dev/v1alpha/tunnelnodes/{name}")).await;
        let stored: u64 = node["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(stored > revision, "revisions only grow: {stored} after {revision}");
        revision = stored;
        relay.kill().await;
        relay.start_again().await;
    }
    assert_eq!(std::fs::read(relay.data_folder().join("ca.crt")).unwrap(), ca, "one CA for the deployment's life");
    assert_eq!(relay.api().names("/apis/core.apoxy.dev/v1alpha/tunnelnodes").await.len(), 5);
}

#[test]
fn keys_and_the_admin_kubeconfig_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let office = underpass_tests::office::Office::open().await;
        let mut secret = office.agent.state().files();
        assert!(!secret.is_empty(), "an agent keeps its key");
        secret.push(office.relay.kubeconfig());
        for file in std::fs::read_dir(office.relay.data_folder()).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() && file.extension().is_none_or(|extension| extension != "crt") {
                secret.push(file);
            }
        }
        for file in secret {
            let text = std::fs::read(&file).unwrap();
            let private = String::from_utf8_lossy(&text).contains("PRIVATE KEY") || file.ends_with("admin.kubeconfig");
            let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            assert!(!private || mode == 0o600, "{} has mode {mode:o}", file.display());
        }
    });
}
