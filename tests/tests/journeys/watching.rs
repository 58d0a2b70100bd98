//! Lists and watches by the letter of the protocol, with the harness's own client.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use underpass_relay::store::log::EVENTS_BYTES_MAX;
use underpass_tests::{
    api::{Api, Watch},
    relay::Relay,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

fn map(name: &str, tier: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"tier": tier}}})
}

async fn create(api: &Api, name: &str, tier: &str) -> Value {
    let (status, body) = api.call(Method::POST, MAPS, Some(&map(name, tier))).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body
}

async fn replace(api: &Api, name: &str, tier: &str) -> Value {
    let (status, body) = api.call(Method::PUT, &format!("{MAPS}/{name}"), Some(&map(name, tier))).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

async fn delete(api: &Api, name: &str) {
    let (status, body) = api.call(Method::DELETE, &format!("{MAPS}/{name}"), None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// The next events, which must be these: type and name.
async fn tells(watch: &mut Watch, wanted: &[(&str, &str)]) {
    for (kind, name) in wanted {
        let told = watch.told().await;
        assert_eq!((told.0.as_str(), told.1.as_str()), (*kind, *name));
    }
}

/// GET with this `Accept`.
async fn get_as(api: &Api, path: &str, accept: &str) -> (StatusCode, Value) {
    let request = Request::get(path).header(header::ACCEPT, accept).body(Full::<Bytes>::default()).unwrap();
    let (head, body) = api.ask(request).await.unwrap().into_parts();
    (head.status, body)
}

#[tokio::test]
async fn a_watch_resumed_from_any_version_tells_each_later_change_once() {
    let relay = Relay::start().await;
    let api = relay.api();
    let start = version(&api.get(MAPS).await);
    let mut following = api.watch(&format!("{MAPS}?watch=1&resourceVersion={start}")).await;
    create(&api, "a", "x").await;
    create(&api, "b", "x").await;
    replace(&api, "a", "y").await;
    delete(&api, "b").await;
    create(&api, "b", "z").await;
    let wanted = [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b"), ("ADDED", "b")];
    let mut versions = vec![start];
    for (kind, name) in wanted {
        let event = following.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!(kind), &json!(name)));
        versions.push(version(&event["object"]));
    }
    assert!(versions.is_sorted_by(|before, after| before < after), "{versions:?}");
    for (seen, from) in versions.iter().enumerate() {
        let mut resumed = api.watch(&format!("{MAPS}?watch=true&resourceVersion={from}&timeoutSeconds=1")).await;
        let rest: Vec<u64> = resumed.rest().await.iter().map(|event| version(&event["object"])).collect();
        assert_eq!(rest, versions[seen + 1..], "from {from}");
    }
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let relay = Relay::start().await;
    let api = relay.api();
    create(&api, "a", "x").await;
    create(&api, "b", "x").await;
    for from in ["", "&resourceVersion=0"] {
        let mut watch = api.watch(&format!("{MAPS}?watch=True{from}")).await;
        tells(&mut watch, &[("ADDED", "a"), ("ADDED", "b")]).await;
        replace(&api, "a", if from.is_empty() { "y" } else { "z" }).await;
        tells(&mut watch, &[("MODIFIED", "a")]).await;
    }
    let mut one = api.watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    tells(&mut one, &[("ADDED", "b")]).await;
    let mut item = api.watch(&format!("{MAPS}/b?watch=1")).await;
    tells(&mut item, &[("ADDED", "b")]).await;
    delete(&api, "a").await;
    delete(&api, "b").await;
    tells(&mut one, &[("DELETED", "b")]).await;
    tells(&mut item, &[("DELETED", "b")]).await;
}

#[tokio::test]
async fn what_comes_into_a_selection_is_added_and_what_leaves_it_is_deleted() {
    let relay = Relay::start().await;
    let api = relay.api();
    create(&api, "in", "front").await;
    create(&api, "out", "back").await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&labelSelector=tier%3Dfront")).await;
    tells(&mut watch, &[("ADDED", "in")]).await;
    replace(&api, "out", "front").await;
    let left = replace(&api, "in", "back").await;
    replace(&api, "in", "elsewhere").await;
    delete(&api, "in").await;
    delete(&api, "out").await;
    tells(&mut watch, &[("ADDED", "out")]).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["metadata"]["name"]), (&json!("DELETED"), &json!("in")));
    assert_eq!(version(&event["object"]), version(&left), "at the version of the change that took it out");
    assert_eq!(event["object"]["metadata"]["labels"]["tier"], "front", "as it last was in the selection");
    tells(&mut watch, &[("DELETED", "out")]).await;
}

#[tokio::test]
async fn streamed_lists_end_with_a_bookmark_and_a_watch_with_a_timeout_with_another() {
    let relay = Relay::start().await;
    let api = relay.api();
    create(&api, "a", "x").await;
    let ask = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{ask}&timeoutSeconds=1")).await;
    tells(&mut watch, &[("ADDED", "a")]).await;
    let end = watch.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    // A change of another kind moves the version without an event.
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let (_, secret) = api.call(Method::POST, secrets, Some(&secret)).await.unwrap();
    let rest = watch.rest().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!((&rest[0]["type"], version(&rest[0]["object"])), (&json!("BOOKMARK"), version(&secret)));

    let without = format!("{MAPS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    let (status, body) = api.call(Method::GET, &without, None).await.unwrap();
    assert!(status.is_client_error(), "sendInitialEvents needs resourceVersionMatch: {status} {body}");
}

#[tokio::test]
async fn a_version_from_before_the_log_is_gone_and_one_from_the_future_is_refused() {
    let mut relay = Relay::start().await;
    let before = version(&relay.api().get(MAPS).await);
    create(&relay.api(), "a", "x").await;
    relay.kill().await;
    relay.start_again().await;
    let api = relay.api();
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={before}")).await;
    let events = watch.rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
    let status = &events[0]["object"];
    assert_eq!((&events[0]["type"], &status["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));

    let (code, body) = api.call(Method::GET, &format!("{MAPS}?resourceVersion=99999999"), None).await.unwrap();
    assert_eq!(code, StatusCode::GATEWAY_TIMEOUT, "{body}");
    assert_eq!(body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "{body}");
    for nonsense in ["resourceVersion=x", "limit=-1", "watch=perhaps", "labelSelector=%3D%3D", "continue=%21"] {
        let (code, body) = api.call(Method::GET, &format!("{MAPS}?{nonsense}"), None).await.unwrap();
        assert_eq!((code, &body["kind"]), (StatusCode::BAD_REQUEST, &json!("Status")), "{nonsense}: {body}");
    }
}

#[tokio::test]
async fn a_version_that_was_compacted_away_is_gone_and_a_later_one_is_not() {
    let relay = Relay::start().await;
    let api = relay.api();
    let before = version(&create(&api, "big", "x").await);
    let write = async |n: u32| {
        let mut object = map("big", "x");
        object["data"] = json!({ "n": format!("{n}{}", "x".repeat(900_000)) });
        let (status, body) = api.call(Method::PUT, &format!("{MAPS}/big"), Some(&object)).await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        version(&body)
    };
    let mut newest = 0;
    let writes = u32::try_from(EVENTS_BYTES_MAX / 900_000).unwrap();
    for n in 0..writes {
        newest = write(n).await;
    }
    let events = api.watch(&format!("{MAPS}?watch=1&resourceVersion={before}")).await.rest().await;
    assert_eq!((&events[0]["type"], &events[0]["object"]["reason"]), (&json!("ERROR"), &json!("Expired")));
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={newest}")).await;
    write(writes).await;
    tells(&mut watch, &[("MODIFIED", "big")]).await;
}

#[tokio::test]
async fn pages_are_of_one_version_and_an_old_page_is_gone() {
    let relay = Relay::start().await;
    let api = relay.api();
    for at in 0..7 {
        create(&api, &format!("m-{at}"), "x").await;
    }
    let first = api.get(&format!("{MAPS}?limit=3")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    delete(&api, "m-3").await;
    replace(&api, "m-4", "changed").await;
    create(&api, "m-3a", "x").await;
    let (mut names, mut next) = (Vec::new(), first["metadata"]["continue"].as_str().unwrap().to_owned());
    while !next.is_empty() {
        let page = api.get(&format!("{MAPS}?limit=3&continue={next}")).await;
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        for item in page["items"].as_array().unwrap() {
            assert_eq!(item["metadata"]["labels"]["tier"], "x", "as it was then");
            names.push(item["metadata"]["name"].as_str().unwrap().to_owned());
        }
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(names, ["m-3", "m-4", "m-5", "m-6"]);
    assert_eq!(api.names(MAPS).await.len(), 7, "the list of now is another");

    // Only so many moments are kept for pages; the eldest gives way.
    for at in 0..20 {
        create(&api, &format!("n-{at}"), "x").await;
        api.get(&format!("{MAPS}?limit=1")).await;
    }
    let old = first["metadata"]["continue"].as_str().unwrap();
    let (code, body) = api.call(Method::GET, &format!("{MAPS}?limit=3&continue={old}"), None).await.unwrap();
    assert_eq!((code, &body["reason"]), (StatusCode::GONE, &json!("Expired")), "{body}");
}

#[tokio::test]
async fn lists_and_watches_come_as_tables_and_as_metadata_alone() {
    let relay = Relay::start().await;
    let api = relay.api();
    create(&api, "a", "x").await;
    let (code, list) = get_as(&api, MAPS, METADATA_LIST).await;
    assert_eq!((code, &list["kind"]), (StatusCode::OK, &json!("PartialObjectMetadataList")), "{list}");
    let item = &list["items"][0];
    assert_eq!((&item["metadata"]["name"], item.get("data")), (&json!("a"), None));
    let (_, one) = get_as(&api, &format!("{MAPS}/a"), METADATA).await;
    assert_eq!(one["kind"], "PartialObjectMetadata");
    let (_, table) = get_as(&api, MAPS, TABLE).await;
    let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!((&table["kind"], columns[0]), (&json!("Table"), &json!("Name")));
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns.len());
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let (code, _) = get_as(&api, MAPS, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(code, StatusCode::NOT_ACCEPTABLE);
    let (code, list) =
        get_as(&api, MAPS, &format!("application/vnd.kubernetes.protobuf,{TABLE},application/json")).await;
    assert_eq!((code, &list["kind"]), (StatusCode::OK, &json!("Table")));

    let mut rows = api.watch_as(&format!("{MAPS}?watch=1"), TABLE).await;
    let mut metadata = api.watch_as(&format!("{MAPS}?watch=1"), METADATA).await;
    replace(&api, "a", "y").await;
    for kind in ["ADDED", "MODIFIED"] {
        let row = rows.next().await.unwrap();
        assert_eq!((&row["type"], &row["object"]["kind"]), (&json!(kind), &json!("Table")));
        assert_eq!(row["object"]["rows"][0]["cells"][0], "a");
        let change = metadata.next().await.unwrap();
        assert_eq!((&change["type"], &change["object"]["kind"]), (&json!(kind), &json!("PartialObjectMetadata")));
        assert_eq!(change["object"]["metadata"]["name"], "a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watcher_of_a_crowd_sees_the_same_history() {
    let relay = Relay::start().await;
    let api = relay.api();
    let start = version(&api.get(MAPS).await);
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(api.watch(&format!("{MAPS}?watch=1&resourceVersion={start}")).await);
    }
    let writers = (0..4).map(|writer| {
        let api = api.clone();
        tokio::spawn(async move {
            for at in 0..10 {
                let name = format!("w-{writer}-{at}");
                create(&api, &name, "x").await;
                replace(&api, &name, "y").await;
                delete(&api, &name).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    create(&api, "end", "x").await;
    let mut histories = Vec::new();
    for mut watch in watches {
        let mut history = Vec::new();
        while history.last().is_none_or(|(_, name, _): &(String, String, u64)| name != "end") {
            let event = watch.next().await.unwrap();
            let name = event["object"]["metadata"]["name"].as_str().unwrap().to_owned();
            history.push((event["type"].as_str().unwrap().to_owned(), name, version(&event["object"])));
        }
        histories.push(history);
    }
    assert!(histories.iter().all(|history| *history == histories[0]), "every watcher sees the same");
    assert!(histories[0].is_sorted_by(|before, after| before.2 < after.2), "in the order of versions");
    let mut of_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (kind, name, _) in &histories[0] {
        of_name.entry(name).or_default().push(kind);
    }
    assert_eq!(of_name.len(), 41);
    assert!(of_name.iter().all(|(name, kinds)| *name == "end" || *kinds == ["ADDED", "MODIFIED", "DELETED"]));
}
