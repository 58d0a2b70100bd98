//! The Rust client `kube`, which we did not write: every verb, typed and dynamic, and who wins a Lease.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::{
    ByteString,
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ConfigMap, Namespace, Secret},
    },
};
use kube::{
    Api, Client, Config, Discovery, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
    },
    config::{KubeConfigOptions, Kubeconfig},
    core::{GroupVersionKind, Status},
    discovery,
};
use serde_json::{Value, json};
use underpass_tests::{eventually::eventually, relay::Relay};

/// The client, as anybody makes one from a kubeconfig.
pub(super) async fn client(relay: &Relay) -> Client {
    let file = Kubeconfig::read_from(relay.kubeconfig()).expect("kube reads the administrator's kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("the kubeconfig is whole")).expect("its credentials are good")
}

pub(super) async fn backends(client: &Client) -> Api<DynamicObject> {
    dynamic(client, "core.apoxy.dev", "v1alpha2", "Backend").await.0
}

/// A kind that the client was not compiled with, found by discovery.
async fn dynamic(client: &Client, group: &str, version: &str, kind: &str) -> (Api<DynamicObject>, ApiResource) {
    let wanted = GroupVersionKind::gvk(group, version, kind);
    let (resource, _) = discovery::pinned_kind(client, &wanted).await.unwrap();
    (Api::default_namespaced_with(client.clone(), &resource), resource)
}

pub(super) fn settings(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(data.iter().map(pair).collect()),
        ..ConfigMap::default()
    }
}

pub(super) fn backend(name: &str, ip: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": name},
        "spec": {"endpoints": [{"ip": ip}]},
    }))
    .expect("a manifest is an object")
}

/// What the relay refused with.
fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> Box<Status> {
    match outcome {
        Err(kube::Error::Api(status)) => status,
        other => panic!("the relay refuses with a Status: {other:?}"),
    }
}

#[tokio::test]
async fn a_typed_object_goes_through_every_verb() {
    let relay = Relay::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&relay).await);
    let (post, none) = (PostParams::default(), PatchParams::default());

    let tried = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&tried, &settings("app", &[])).await.unwrap();
    assert!(maps.get_opt("app").await.unwrap().is_none(), "a dry run leaves nothing");
    let created = maps.create(&post, &settings("app", &[("colour", "red"), ("size", "1")])).await.unwrap();
    let again = refusal(maps.create(&post, &settings("app", &[])).await);
    assert!(again.is_already_exists() && again.code == 409, "{again:?}");
    assert_eq!(refusal(maps.get("nothing").await).code, 404);
    assert_eq!(maps.get("app").await.unwrap(), created);
    let metadata = maps.get_metadata("app").await.unwrap();
    assert_eq!((metadata.uid(), metadata.types.unwrap().kind.as_str()), (created.uid(), "PartialObjectMetadata"));

    let mut second = created.clone();
    second.data.as_mut().unwrap().insert("size".to_owned(), "2".to_owned());
    let second = maps.replace("app", &post, &second).await.unwrap();
    let stale = refusal(maps.replace("app", &post, &created).await);
    assert!(stale.is_conflict() && stale.reason == "Conflict", "{stale:?}");

    let merged = Patch::Merge(json!({"data": {"size": null, "shape": "round"}}));
    let merged = maps.patch("app", &none, &merged).await.unwrap();
    assert_eq!(json!(merged.data), json!({"colour": "red", "shape": "round"}));
    let operations = json!([
        {"op": "test", "path": "/data/colour", "value": "red"},
        {"op": "replace", "path": "/data/colour", "value": "blue"},
    ]);
    let operations: Patch<Value> = Patch::Json(serde_json::from_value(operations).unwrap());
    assert_eq!(maps.patch("app", &none, &operations).await.unwrap().data.unwrap()["colour"], "blue");
    let failed = refusal(maps.patch("app", &none, &operations).await);
    assert_eq!(failed.code, 422, "the test of a JSON patch fails: {failed:?}");
    let strategic = Patch::Strategic(json!({"metadata": {"labels": {"tier": "front"}}}));
    let labelled = maps.patch("app", &none, &strategic).await.unwrap();
    assert_eq!(labelled.labels()["tier"], "front");

    let of_another = Preconditions { uid: Some("of-another".to_owned()), ..Preconditions::default() };
    let kept = refusal(maps.delete("app", &DeleteParams::default().preconditions(of_another)).await);
    assert!(kept.is_conflict(), "{kept:?}");
    let old = Preconditions { resource_version: second.resource_version(), ..Preconditions::default() };
    assert!(refusal(maps.delete("app", &DeleteParams::default().preconditions(old)).await).is_conflict());
    let exact = Preconditions { uid: created.uid(), resource_version: labelled.resource_version() };
    maps.delete("app", &DeleteParams::default().preconditions(exact)).await.unwrap();
    assert!(maps.get_opt("app").await.unwrap().is_none());
}

#[tokio::test]
async fn core_kinds_have_the_meaning_that_their_types_promise() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let team: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &team).await.unwrap();
    assert_eq!(namespaces.get("team").await.unwrap().status.unwrap().phase.as_deref(), Some("Active"));

    let secrets: Api<Secret> = Api::namespaced(client.clone(), "team");
    let key = json!({"metadata": {"generateName": "key-"}, "stringData": {"a": "b"}});
    let key = secrets.create(&PostParams::default(), &serde_json::from_value(key).unwrap()).await.unwrap();
    assert!(key.name_any().starts_with("key-") && key.name_any().len() > 4);
    let kept = secrets.get(&key.name_any()).await.unwrap();
    assert_eq!((&kept.data.unwrap()["a"], kept.string_data), (&ByteString(b"b".to_vec()), None));
    assert_eq!(kept.type_.as_deref(), Some("Opaque"));
    assert_eq!(Api::<Secret>::all(client).list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_list_in_pages_is_of_one_moment() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    for at in 0..25 {
        let mut map = settings(&format!("map-{at:02}"), &[]);
        map.labels_mut().insert("even".to_owned(), (at % 2 == 0).to_string());
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let mut page = ListParams::default().limit(10);
    let (mut names, mut versions) = (Vec::new(), Vec::new());
    loop {
        let list = maps.list(&page).await.unwrap();
        names.extend(list.items.iter().map(ResourceExt::name_any));
        versions.push(list.metadata.resource_version.clone());
        let Some(next) = list.metadata.continue_.filter(|next| !next.is_empty()) else { break };
        assert_eq!(list.metadata.remaining_item_count, Some(25 - i64::try_from(names.len()).unwrap()));
        // What is written meanwhile is not in this list.
        maps.create(&PostParams::default(), &settings(&format!("map-99-{}", names.len()), &[])).await.unwrap();
        maps.delete(&format!("map-{:02}", names.len() + 2), &DeleteParams::default()).await.unwrap();
        page = page.continue_token(&next);
    }
    assert_eq!(names, (0..25).map(|at| format!("map-{at:02}")).collect::<Vec<_>>());
    assert!(versions.len() == 3 && versions.iter().all(|version| *version == versions[0]), "{versions:?}");

    let even = maps.list_metadata(&ListParams::default().labels("even in (true),even!=false")).await.unwrap();
    assert_eq!(even.items.len(), 13 - 2, "of the even ones map-12 and map-22 are gone");
    let named = maps.list(&ListParams::default().fields("metadata.name=map-07")).await.unwrap();
    assert_eq!(named.items.len(), 1);
    let bad = refusal(maps.list(&ListParams::default().continue_token("nonsense")).await);
    assert_eq!(bad.code, 400, "{bad:?}");
}

#[tokio::test]
async fn discovery_finds_every_kind_and_both_of_its_forms_agree() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let kinds = |found: &Discovery| {
        let of_group = |group: &discovery::ApiGroup| {
            let mut kinds: Vec<String> = group
                .resources_by_stability()
                .into_iter()
                .map(|(resource, can)| {
                    format!("{} {} {:?} {:?}", resource.api_version, resource.kind, can.scope, can.operations)
                })
                .collect();
            kinds.sort();
            kinds
        };
        found.groups_alphabetical().into_iter().flat_map(of_group).collect::<Vec<_>>()
    };
    let legacy = kinds(&Discovery::new(client.clone()).run().await.unwrap());
    let aggregated = kinds(&Discovery::new(client).run_aggregated().await.unwrap());
    assert_eq!(legacy, aggregated);
    for kind in ["gateway.networking.k8s.io/v1 HTTPRoute Namespaced", "v1 Secret Namespaced", "v1 Namespace Cluster"] {
        assert!(legacy.iter().any(|found| found.starts_with(kind)), "{kind}: {legacy:#?}");
    }
}

#[tokio::test]
async fn server_side_apply_tells_owners_apart() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let backends = backends(&client).await;
    let applied = |ip: &str| Patch::Apply(backend("b", ip));
    let (ours, theirs) = (PatchParams::apply("ours"), PatchParams::apply("theirs"));
    let first = backends.patch("b", &ours, &applied("192.0.2.1")).await.unwrap();
    let managed: Vec<_> = first.managed_fields().iter().map(|entry| entry.manager.clone().unwrap()).collect();
    assert_eq!(managed, ["ours"]);
    // Of a kind that no controller writes to: what is there already changes nothing.
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"},
    }));
    let stored = maps.patch("m", &ours, &map).await.unwrap();
    assert_eq!(maps.patch("m", &ours, &map).await.unwrap(), stored);

    let conflict = refusal(backends.patch("b", &theirs, &applied("192.0.2.2")).await);
    assert!(conflict.is_conflict(), "{conflict:?}");
    let cause = &conflict.details.as_ref().unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.endpoints"));
    assert!(cause.message.contains("conflict with \"ours\""), "{cause:?}");
    let forced = backends.patch("b", &theirs.clone().force(), &applied("192.0.2.2")).await.unwrap();
    assert_eq!(forced.data["spec"]["endpoints"][0]["ip"], "192.0.2.2");

    let typo = Patch::Apply(json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "b"}, "spec": {"endpoint": []},
    }));
    let strict = refusal(backends.patch("b", &ours.clone().validation_strict(), &typo).await);
    assert!(strict.message.contains("spec.endpoint"), "{strict:?}");

    let status = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend",
        "status": {"conditions": [{
            "type": "example.com/Seen", "status": "True", "reason": "Seen", "message": "",
            "lastTransitionTime": "2026-11-21T00:00:00Z",
        }]},
    });
    let generation = backends.get("b").await.unwrap().metadata.generation;
    let seen = backends.patch_status("b", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let conditions = seen.data["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "example.com/Seen"), "{conditions:?}");
    assert_eq!(seen.metadata.generation, generation, "the status is no new generation");
}

#[tokio::test]
async fn one_route_is_written_in_one_group_and_read_in_the_other() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let (upstream, _) = dynamic(&client, "gateway.networking.k8s.io", "v1", "HTTPRoute").await;
    let (alias, resource) = dynamic(&client, "gateway.apoxy.dev", "v1", "HTTPRoute").await;
    let route = DynamicObject::new("web", &resource).data(json!({"spec": {
        "parentRefs": [{"name": "default"}],
        "rules": [{"backendRefs": [{"group": "core.apoxy.dev", "kind": "Backend", "name": "b", "port": 80}]}],
    }}));
    let written = alias.create(&PostParams::default(), &route).await.unwrap();
    let read = eventually("the controller's status", async || {
        let read = upstream.get("web").await.unwrap();
        if read.data["status"]["parents"][0]["conditions"].is_array() { Ok(read) } else { Err(read) }
    })
    .await;
    assert_eq!((read.uid(), &read.data["spec"]), (written.uid(), &written.data["spec"]));
    assert_eq!(read.types.unwrap().api_version, "gateway.networking.k8s.io/v1");
    let bad = Patch::Merge(
        json!({"spec": {"hostnames": ["not a name"], "rules": [{"matches": [{"path": {"value": "x"}}]}]}}),
    );
    let refused = refusal(upstream.patch("web", &PatchParams::default(), &bad).await);
    assert!(refused.is_invalid(), "{refused:?}");
    let fields: Vec<_> = refused.details.unwrap().causes.into_iter().map(|cause| cause.field).collect();
    for field in ["spec.hostnames[0]", "spec.rules[0].matches[0].path"] {
        assert!(fields.iter().any(|found| found.starts_with(field)), "{field}: {fields:?}");
    }
    upstream.delete("web", &DeleteParams::foreground()).await.unwrap();
    eventually("the route is gone from both", async || match alias.get_opt("web").await.unwrap() {
        None => Ok(()),
        Some(left) => Err(left),
    })
    .await;
}

/// A Lease's spec with this holder, as candidates write it.
fn held_by(holder: Option<&str>) -> LeaseSpec {
    LeaseSpec { holder_identity: holder.map(str::to_owned), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
}

#[tokio::test]
async fn of_many_candidates_one_leads_and_when_it_steps_down_one_other_does() {
    let relay = Relay::start().await;
    let leases: Api<Lease> = Api::default_namespaced(client(&relay).await);
    let stand = async |name: String| {
        let metadata = ObjectMeta { name: Some("leader".to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(held_by(Some(&name))) };
        match leases.create(&PostParams::default(), &lease).await {
            Ok(_) => Some(name),
            Err(kube::Error::Api(status)) if status.is_already_exists() => None,
            Err(error) => panic!("{error}"),
        }
    };
    let candidates = (0..8).map(|at| format!("candidate-{at}"));
    let leaders: Vec<String> = join_all(candidates.clone().map(stand)).await.into_iter().flatten().collect();
    assert_eq!(leaders.len(), 1, "{leaders:?}");

    let mut lease = leases.get("leader").await.unwrap();
    assert_eq!(lease.spec.as_ref().unwrap().holder_identity.as_ref(), Some(&leaders[0]));
    lease.spec = Some(held_by(None));
    let free = leases.replace("leader", &PostParams::default(), &lease).await.unwrap();
    let take = async |name: String| {
        let mut lease = free.clone();
        lease.spec = Some(held_by(Some(&name)));
        match leases.replace("leader", &PostParams::default(), &lease).await {
            Ok(_) => Some(name),
            Err(kube::Error::Api(status)) if status.is_conflict() => None,
            Err(error) => panic!("{error}"),
        }
    };
    let others = candidates.filter(|name| *name != leaders[0]);
    let next: Vec<String> = join_all(others.map(take)).await.into_iter().flatten().collect();
    assert_eq!(next.len(), 1, "{next:?}");
    assert_eq!(leases.get("leader").await.unwrap().spec.unwrap().holder_identity.as_ref(), Some(&next[0]));
}

#[tokio::test]
async fn a_raw_request_and_a_watch_with_a_timeout_work_as_in_a_cluster() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let version = client.apiserver_version().await.unwrap();
    assert!(!version.major.is_empty() && !version.git_version.is_empty(), "{version:?}");
    let request = http::Request::builder().method(Method::GET).uri("/healthz").body(Vec::new()).unwrap();
    assert_eq!(client.request_text(request).await.unwrap(), "ok");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let absent = kube::runtime::wait::await_condition(maps.clone(), "late", |map: Option<&ConfigMap>| map.is_some());
    let (made, waited) = tokio::join!(
        async { maps.create(&PostParams::default(), &settings("late", &[])).await },
        tokio::time::timeout(Duration::from_secs(60), absent)
    );
    assert_eq!(waited.unwrap().unwrap().unwrap().uid(), made.unwrap().uid());
    let parameters = DeleteParams::default();
    let deleting = kube::runtime::wait::delete::delete_and_finalize(maps, "late", &parameters);
    tokio::time::timeout(Duration::from_secs(60), deleting).await.unwrap().unwrap();
}
