//! Several relays on one etcd: what is said to one is known to all, and what one dies with is gone for all.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use underpass_shared::enrolment::EnrolmentToken;
use underpass_tests::{
    agent::{Agent, Settings, StateFolder},
    api::Api,
    etcd::Etcd,
    eventually::eventually,
    gate::Gate,
    kubectl::{Kubectl, Version},
    manifest::{self, Target},
    office::{HOST, serves},
    relay::Relay,
    upstream::Upstream,
};

const NODES: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
const NODE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A relay of the deployment in `etcd`; all share the key in `folder`.
async fn start(etcd: &Etcd, folder: &Path, name: &str) -> Relay {
    start_at(&etcd.endpoint(), folder, name).await
}

async fn start_at(endpoint: &str, folder: &Path, name: &str) -> Relay {
    let key = folder.join("store.key");
    let arguments = ["--etcd-endpoint", endpoint, "--store-key-file", key.to_str().unwrap(), "--relay-name", name];
    Relay::start_with(&arguments).await
}

/// Relays `one`, which leads, and `two`, with what they need.
struct Pair {
    one: Relay,
    two: Relay,
    etcd: Etcd,
    folder: tempfile::TempDir,
}

impl Pair {
    async fn start() -> Self {
        let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
        let one = start(&etcd, folder.path(), "one").await;
        let two = start(&etcd, folder.path(), "two").await;
        Self { one, two, etcd, folder }
    }
}

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

async fn write(api: &Api, method: Method, path: &str, body: &Value) -> Value {
    let (status, answer) = api.call(method, path, Some(body)).await.unwrap();
    assert!(status.is_success(), "{path}: {status} {answer}");
    answer
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// Server-side apply of `data` to a ConfigMap.
async fn apply(api: &Api, name: &str, manager: &str, data: &Value, force: bool) -> (StatusCode, Value) {
    let path = format!("{MAPS}/{name}?fieldManager={manager}&force={force}");
    let body = Full::new(Bytes::from(map(name, data).to_string()));
    let request = Request::patch(path).header(header::CONTENT_TYPE, "application/apply-patch+yaml").body(body).unwrap();
    let (head, answer) = api.ask(request).await.unwrap().into_parts();
    (head.status, answer)
}

/// The next `count` events, as type, name and version.
async fn history(watch: &mut underpass_tests::api::Watch, count: usize) -> Vec<(String, String, u64)> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let event = watch.next().await.unwrap();
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        seen.push((text("/type"), text("/object/metadata/name"), version(&event["object"])));
    }
    seen
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
async fn a_watch_at_one_relay_tells_in_order_what_is_written_at_the_other() {
    let pair = Pair::start().await;
    let (one, two) = (pair.one.api(), pair.two.api());
    let start = version(&two.get(MAPS).await);
    let mut watch = two.watch(&format!("{MAPS}?watch=1&resourceVersion={start}")).await;
    let mut wanted = Vec::new();
    for at in 0..10 {
        let name = format!("m-{at}");
        let made = write(&one, Method::POST, MAPS, &map(&name, &json!({"at": "1"}))).await;
        wanted.push(("ADDED".to_owned(), name.clone(), version(&made)));
        // Without a pause, through the other relay: it has to know already.
        let path = format!("{MAPS}/{name}");
        let writer = if at % 2 == 0 { &one } else { &two };
        let changed = write(writer, Method::PUT, &path, &map(&name, &json!({"at": "2"}))).await;
        wanted.push(("MODIFIED".to_owned(), name.clone(), version(&changed)));
        write(&one, Method::DELETE, &path, &json!({})).await;
        wanted.push(("DELETED".to_owned(), name, 0));
    }
    let seen = history(&mut watch, wanted.len()).await;
    assert!(seen.is_sorted_by(|before, after| before.2 < after.2), "{seen:?}");
    for (seen, wanted) in seen.iter().zip(&wanted) {
        let same_version = wanted.2 == 0 || seen.2 == wanted.2;
        assert!((&seen.0, &seen.1) == (&wanted.0, &wanted.1) && same_version, "{seen:?}, and not {wanted:?}");
    }
    // What was seen at one relay is a place to go on from at the other.
    let mut resumed = one.watch(&format!("{MAPS}?watch=1&resourceVersion={}", seen[3].2)).await;
    assert_eq!(history(&mut resumed, seen.len() - 4).await, seen[4..]);
}

#[tokio::test]
async fn a_version_that_another_relay_has_overtaken_is_a_conflict() {
    let pair = Pair::start().await;
    let (one, two) = (pair.one.api(), pair.two.api());
    let path = format!("{MAPS}/m");
    let mut first = write(&one, Method::POST, MAPS, &map("m", &json!({"by": "one"}))).await;
    let mut second = two.get(&path).await;
    assert_eq!(second, first, "what was answered at one is read at the other");
    second["data"]["by"] = json!("two");
    write(&two, Method::PUT, &path, &second).await;
    first["data"]["by"] = json!("one again");
    let (status, refusal) = one.call(Method::PUT, &path, Some(&first)).await.unwrap();
    assert_eq!((status, &refusal["reason"]), (StatusCode::CONFLICT, &json!("Conflict")), "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("the object has been modified"), "{refusal}");
    assert_eq!(one.get(&path).await["data"]["by"], "two");
    let (status, refusal) = two.call(Method::POST, MAPS, Some(&map("m", &json!({})))).await.unwrap();
    assert_eq!((status, &refusal["reason"]), (StatusCode::CONFLICT, &json!("AlreadyExists")), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_through_both_relays_is_one_account_of_owners() {
    let pair = Pair::start().await;
    let (one, two) = (pair.one.api(), pair.two.api());
    let appliers: Vec<_> = (0..8)
        .map(|at| {
            let api = if at % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move {
                apply(&api, "m", &format!("manager-{at}"), &json!({format!("key-{at}"): "mine"}), false).await
            })
        })
        .collect();
    for applier in appliers {
        let (status, answer) = applier.await.unwrap();
        assert!(status.is_success(), "nobody is in another's way: {answer}");
    }
    let both = one.get(&format!("{MAPS}/m")).await;
    assert_eq!(both["data"].as_object().unwrap().len(), 8, "{both}");
    assert_eq!(both["metadata"]["managedFields"].as_array().unwrap().len(), 8, "{both}");

    let (status, refusal) = apply(&two, "m", "manager-1", &json!({"key-0": "taken", "key-1": "mine"}), false).await;
    assert_eq!((status, &refusal["reason"]), (StatusCode::CONFLICT, &json!("Conflict")), "{refusal}");
    assert!(refusal.to_string().contains("manager-0"), "it says whose the field is: {refusal}");
    let (status, taken) = apply(&two, "m", "manager-1", &json!({"key-0": "taken", "key-1": "mine"}), true).await;
    assert_eq!((status, &taken["data"]["key-0"]), (StatusCode::OK, &json!("taken")), "{taken}");
    let (status, lost) = apply(&one, "m", "manager-0", &json!({"key-0": "mine"}), false).await;
    assert_eq!(status, StatusCode::CONFLICT, "the first relay knows who owns it now: {lost}");
}

#[tokio::test]
async fn when_the_leader_is_killed_another_relay_writes_the_statuses() {
    let mut pair = Pair::start().await;
    // Only `one` has it in its status that it leads: it was there first.
    pair.two.cli().apply(&manifest::node("before")).await;
    let told = async |relay: &Relay, name: &str, wanted: Value| {
        eventually(&format!("the addresses of {name}"), async || {
            let node = relay.api().get(&format!("{NODES}/{name}")).await;
            let mut addresses = node["status"]["addresses"].clone();
            addresses.as_array_mut().into_iter().for_each(|all| all.sort_by_key(Value::to_string));
            if addresses == wanted { Ok(()) } else { Err(node["status"].clone()) }
        })
        .await;
    };
    let (one, two) = (json!(pair.one.addresses.tunnel.to_string()), json!(pair.two.addresses.tunnel.to_string()));
    let mut both = vec![one, two.clone()];
    both.sort_by_key(Value::to_string);
    told(&pair.two, "before", json!(both)).await;
    pair.one.kill().await;
    pair.two.cli().apply(&manifest::node("after")).await;
    // Of the relays that are there, and not of the dead: written after its lease had ended, and not before.
    for name in ["before", "after"] {
        told(&pair.two, name, json!([two])).await;
    }
    pair.one.start_again().await;
    for relay in [&pair.one, &pair.two] {
        told(relay, "after", json!(both)).await;
    }
}

#[tokio::test]
async fn a_relay_that_loses_etcd_answers_reads_refuses_writes_and_catches_up() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let gate = Gate::to(etcd.address()).await;
    let one = start(&etcd, folder.path(), "one").await;
    let two = start_at(&format!("http://{}", gate.address()), folder.path(), "two").await;
    let (here, away) = (one.api(), two.api());
    let before = write(&here, Method::POST, MAPS, &map("before", &json!({}))).await;
    let mut watch = away.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&before))).await;
    assert_eq!(away.get(&format!("{MAPS}/before")).await, before);

    gate.close();
    let (status, refusal) = away.call(Method::POST, MAPS, Some(&map("refused", &json!({})))).await.unwrap();
    assert_eq!((status, &refusal["kind"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("Status")), "{refusal}");
    assert_eq!(refusal["reason"], "ServiceUnavailable", "{refusal}");
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("the store cannot be written (etcd") && message.contains("reading goes on"), "{message}");
    assert!(refusal["details"]["retryAfterSeconds"].is_number(), "{refusal}");
    assert_eq!(away.get(&format!("{MAPS}/before")).await, before, "it reads what it knows");
    assert_eq!(away.names(MAPS).await, ["before"]);
    let later: Vec<u64> = {
        let mut versions = Vec::new();
        for at in 0..5 {
            let made = write(&here, Method::POST, MAPS, &map(&format!("later-{at}"), &json!({}))).await;
            versions.push(version(&made));
        }
        versions
    };

    gate.open();
    let seen = history(&mut watch, later.len()).await;
    assert_eq!(seen.iter().map(|event| event.2).collect::<Vec<_>>(), later, "the watch went on: {seen:?}");
    eventually("writing resumes by itself", async || {
        match away.call(Method::POST, MAPS, Some(&map("again", &json!({})))).await.unwrap() {
            (StatusCode::CREATED, _) => Ok(()),
            (_, refusal) => Err(refusal),
        }
    })
    .await;
    assert_eq!(here.names(MAPS).await.len(), 7);
}

#[tokio::test]
async fn a_token_made_at_one_relay_enrols_an_agent_at_the_other_which_serves() {
    let mut pair = Pair::start().await;
    let upstream = Upstream::start("office").await;
    let target = Target { node: "office", port: upstream.port(), protocol: "" };
    let app = manifest::service("app", HOST, target);
    pair.one.cli().apply(&manifest::documents(&[manifest::node("office"), app])).await;
    // Made by `one`, which dies before anybody has used it.
    let token = pair.one.cli().token("office").await;
    pair.one.kill().await;
    let mut agent = Agent::start(Settings::node("office").token(&token), StateFolder::default());
    let connected = agent.connected().await;
    assert_eq!(connected.relay, pair.two.addresses.tunnel);
    serves(&pair.two, HOST, "office").await;
    sessions(&pair.two, |relays| relays == ["two"]).await;

    // A token is good for one agent, wherever it was used.
    pair.one.start_again().await;
    let settings = Settings::node("office").token(&token);
    let refused = underpass_tests::agent::run_to_end(&settings, &StateFolder::default()).await;
    refused.expect_refusal(&["token"]);
}

#[tokio::test]
async fn both_relays_come_back_with_everything_and_so_does_the_agent() {
    let mut pair = Pair::start().await;
    let upstream = Upstream::start("office").await;
    let target = Target { node: "office", port: upstream.port(), protocol: "" };
    let app = manifest::service("app", HOST, target);
    pair.one.cli().apply(&manifest::documents(&[manifest::node("office"), app])).await;
    let (mut agent, connected) = Agent::enrol(&pair.two, Settings::node("office")).await;
    let kept = write(&pair.one.api(), Method::POST, MAPS, &map("kept", &json!({"a": "b"}))).await;

    pair.one.kill().await;
    assert_eq!(pair.two.stop().await.code(), Some(0));
    pair.two.start_again().await;
    pair.one.start_again().await;

    for relay in [&pair.one, &pair.two] {
        assert_eq!(relay.api().get(&format!("{MAPS}/kept")).await, kept);
    }
    let again = agent.connected().await;
    assert_eq!((&again.agent, again.address), (&connected.agent, connected.address));
    let place = if again.relay == pair.one.addresses.tunnel { &pair.one } else { &pair.two };
    serves(place, HOST, "office").await;
}

#[tokio::test]
async fn a_relay_that_stops_names_another_to_its_agents() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let mut one = start(&etcd, folder.path(), "one").await;
    one.cli().apply(&manifest::node("office")).await;
    let (mut agent, connected) = Agent::enrol(&one, Settings::node("office")).await;
    assert_eq!(connected.relay, one.addresses.tunnel);
    // Only now, so that the agent cannot have heard of it.
    let two = start(&etcd, folder.path(), "two").await;
    eventually("the first relay knows of the second", async || {
        let token: EnrolmentToken = one.cli().token("office").await.parse().unwrap();
        if token.relays.contains(&two.addresses.tunnel.to_string()) { Ok(()) } else { Err(token.relays) }
    })
    .await;
    one.stop().await;
    assert_eq!(agent.connected().await.relay, two.addresses.tunnel);
}

#[tokio::test]
async fn kubectl_watches_at_one_relay_what_is_applied_at_the_other() {
    let pair = Pair::start().await;
    let (one, two) = [&pair.one, &pair.two].map(|relay| Kubectl::new(Version::Current, relay.kubeconfig())).into();
    let mut watch = two.start(&["get", "backends", "-w", "--output-watch-events"]);
    let starts = |words: &'static [&'static str]| {
        move |line: &str| line.split_whitespace().take(words.len()).eq(words.iter().copied()).then_some(())
    };
    one.apply(&manifest::backend("a", "office", "")).await;
    watch.line("what is added", starts(&["ADDED", "a", "office.tun.internal"])).await;
    one.apply(&manifest::backend("a", "attic", "")).await;
    watch.line("what is changed", starts(&["MODIFIED", "a", "attic.tun.internal"])).await;
    two.prints(&["label", "backend", "a", "tier=front"]).await;
    one.prints(&["wait", "backend", "a", "--for=jsonpath={.metadata.labels.tier}=front", "--timeout=30s"]).await;
    one.prints(&["delete", "backend", "a"]).await;
    watch.line("what is deleted", starts(&["DELETED", "a"])).await;
}

#[tokio::test]
async fn of_two_relays_of_one_name_the_older_ends_and_says_why() {
    let mut pair = Pair::start().await;
    let upstart = start(&pair.etcd, pair.folder.path(), "two").await;
    assert_eq!(pair.two.process.exit().await.code(), Some(1));
    let said = eventually("its last word", async || {
        let log = pair.two.process.log();
        if log.contains("error: ") { Ok(log) } else { Err(log) }
    })
    .await;
    assert!(said.contains("another relay of this deployment was started as two"), "{said}");
    assert!(said.contains("--relay-name"), "{said}");
    write(&upstart.api(), Method::POST, MAPS, &map("m", &json!({}))).await;
    assert_eq!(pair.one.api().names(MAPS).await, ["m"]);
}

#[tokio::test]
async fn two_relays_go_on_after_etcd_was_killed() {
    let (mut etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let one = start(&etcd, folder.path(), "one").await;
    let two = start(&etcd, folder.path(), "two").await;
    one.cli().apply(&manifest::node("before")).await;
    etcd.kill().await;
    let nodes = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
    let (status, refusal) = one.api().call(Method::POST, nodes, Some(&node("during"))).await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
    assert!(refusal["message"].as_str().unwrap().contains("etcd"), "{refusal}");
    etcd.start_again().await;
    let write = async || match two.api().call(Method::POST, nodes, Some(&node("after"))).await.unwrap() {
        (StatusCode::CREATED | StatusCode::CONFLICT, _) => Ok(()),
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
