//! The controller runtime of `kube`: caches that never lie for long, and a controller with a finalizer and a child.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    discovery::ApiResource,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        finalizer::{Event as Finalizer, finalizer},
        reflector, watcher,
    },
};
use serde_json::json;
use tokio::task::JoinHandle;
use underpass_tests::{eventually::eventually, relay::Relay};

use super::kube_client::{backend, backends, client, settings};

/// Everything a watcher complained of.
type Complaints = Arc<Mutex<Vec<String>>>;

/// What is kept of a map for comparing: its uid and version.
type Seen = BTreeMap<String, (Option<String>, Option<String>)>;

fn seen<'a>(maps: impl IntoIterator<Item = &'a ConfigMap>) -> Seen {
    maps.into_iter().map(|map| (map.name_any(), (map.uid(), map.resource_version()))).collect()
}

/// A reflector that runs until it is dropped.
struct Cache {
    store: reflector::Store<ConfigMap>,
    complaints: Complaints,
    task: JoinHandle<()>,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cache {
    async fn fill(client: Client, config: watcher::Config) -> Self {
        let (store, writer) = reflector::store();
        let complaints = Complaints::default();
        let stream = reflector(writer, watcher(Api::<ConfigMap>::all(client), config).default_backoff());
        let task = tokio::spawn(drain(stream, Arc::clone(&complaints)));
        let ready = tokio::time::timeout(Duration::from_secs(60), store.wait_until_ready()).await;
        ready.expect("the first list arrives").expect("the watcher goes on");
        Self { store, complaints, task }
    }

    /// Waits until the cache holds exactly what the API lists.
    async fn agrees(&self, maps: &Api<ConfigMap>) {
        eventually("the cache holds what the API lists", async || {
            let listed = maps.list(&kube::api::ListParams::default()).await.map_err(|error| error.to_string())?;
            let (listed, cached) = (seen(&listed.items), seen(self.store.state().iter().map(AsRef::as_ref)));
            if listed == cached { Ok(()) } else { Err(format!("listed {listed:?}, cached {cached:?}")) }
        })
        .await;
    }
}

async fn drain<T>(stream: impl Stream<Item = Result<T, watcher::Error>>, complaints: Complaints) {
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        if let Err(error) = item {
            complaints.lock().unwrap().push(format!("{error:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_follow_every_change_and_come_back_after_the_log_was_lost() {
    let mut relay = Relay::start().await;
    let client = client(&relay).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    for at in 0..12 {
        maps.create(&post, &settings(&format!("before-{at}"), &[])).await.unwrap();
    }
    let pages = watcher::Config::default().page_size(5);
    let listing = Cache::fill(client.clone(), pages).await;
    let streaming = Cache::fill(client.clone(), watcher::Config::default().streaming_lists()).await;
    assert_eq!(streaming.store.state().len(), 12, "a streamed list is whole before it is called ready");

    for at in 0..6 {
        maps.create(&post, &settings(&format!("after-{at}"), &[])).await.unwrap();
        let change = Patch::Merge(json!({"data": {"round": at.to_string()}}));
        maps.patch(&format!("before-{at}"), &PatchParams::default(), &change).await.unwrap();
        maps.delete(&format!("before-{}", at + 6), &DeleteParams::default()).await.unwrap();
    }
    for cache in [&listing, &streaming] {
        cache.agrees(&maps).await;
        assert!(cache.complaints.lock().unwrap().is_empty());
    }

    // The watchers are told nothing of other kinds; a relay that starts anew remembers no change from before.
    let namespaces: Api<Namespace> = Api::all(client);
    let other = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    namespaces.create(&post, &other).await.unwrap();
    relay.kill().await;
    relay.start_again().await;
    maps.delete("after-0", &DeleteParams::default()).await.unwrap();
    maps.create(&post, &settings("at-last", &[])).await.unwrap();
    for cache in [&listing, &streaming] {
        cache.agrees(&maps).await;
        let complaints = cache.complaints.lock().unwrap().join("\n");
        assert!(complaints.contains("code: 410") && complaints.contains("Expired"), "{complaints}");
    }
}

const CLEANUP: &str = "example.com/cleanup";

/// What the controller works with, and what it did.
struct Work {
    client: Client,
    cleaned: Mutex<Vec<String>>,
}

/// Sees to it that each Backend has a ConfigMap of its own name, owned by it.
async fn reconcile(
    object: Arc<DynamicObject>,
    work: Arc<Work>,
) -> Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    let backends = backends(&work.client).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(work.client.clone());
    finalizer(&backends, CLEANUP, object, async |event| {
        match event {
            Finalizer::Apply(object) => {
                let types = object.types.clone().unwrap_or_default();
                let child = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": object.name_any(), "ownerReferences": [{
                        "apiVersion": types.api_version, "kind": types.kind, "name": object.name_any(),
                        "uid": object.uid(), "controller": true, "blockOwnerDeletion": true,
                    }]},
                    "data": {"ip": object.data["spec"]["endpoints"][0]["ip"]},
                });
                maps.patch(&object.name_any(), &PatchParams::apply("shadow").force(), &Patch::Apply(child)).await?;
            }
            Finalizer::Cleanup(object) => work.cleaned.lock().unwrap().push(object.name_any()),
        }
        Ok(Action::await_change())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_keeps_a_child_for_each_object_and_cleans_up_after_it() {
    let relay = Relay::start().await;
    let client = client(&relay).await;
    let (backends, maps) = (backends(&client).await, Api::<ConfigMap>::default_namespaced(client.clone()));
    let work = Arc::new(Work { client: client.clone(), cleaned: Mutex::default() });
    let resource = ApiResource {
        group: "core.apoxy.dev".to_owned(),
        version: "v1alpha2".to_owned(),
        api_version: "core.apoxy.dev/v1alpha2".to_owned(),
        kind: "Backend".to_owned(),
        plural: "backends".to_owned(),
    };
    let controller = Controller::new_with(backends.clone(), watcher::Config::default(), resource)
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), Arc::clone(&work));
    let running = tokio::spawn(controller.for_each(|_| std::future::ready(())));

    let owner = backends.create(&PostParams::default(), &backend("b", "192.0.2.1")).await.unwrap();
    let holds = async |ip: &str| {
        eventually(&format!("a child that says {ip}"), async || {
            let child = maps.get_opt("b").await.unwrap().ok_or("none")?;
            if child.data.as_ref().is_some_and(|data| data.get("ip").is_some_and(|found| found == ip)) {
                Ok(child)
            } else {
                Err("another")
            }
        })
        .await
    };
    let child = holds("192.0.2.1").await;
    assert_eq!(Some(child.owner_references()[0].uid.as_str()), owner.meta().uid.as_deref());
    assert_eq!(backends.get("b").await.unwrap().finalizers(), [CLEANUP]);
    // Somebody's hand in the child, and a change of its owner.
    maps.patch("b", &PatchParams::default(), &Patch::Merge(json!({"data": {"ip": "wrong"}}))).await.unwrap();
    assert_eq!(holds("192.0.2.1").await.uid(), child.uid());
    let moved = Patch::Merge(json!({"spec": {"endpoints": [{"ip": "192.0.2.2"}]}}));
    backends.patch("b", &PatchParams::default(), &moved).await.unwrap();
    holds("192.0.2.2").await;

    let marked = backends.delete("b", &DeleteParams::background()).await.unwrap();
    let marked = marked.left().expect("an object with a finalizer stays, and is shown");
    assert!(marked.meta().deletion_timestamp.is_some());
    eventually("owner and child are gone", async || {
        let left = (backends.get_opt("b").await.unwrap().is_some(), maps.get_opt("b").await.unwrap().is_some());
        if left == (false, false) { Ok(()) } else { Err(left) }
    })
    .await;
    // A clean-up whose end meets another write is done again: finalizers promise once or more.
    let cleaned = work.cleaned.lock().unwrap().clone();
    assert!(!cleaned.is_empty() && cleaned.iter().all(|name| name == "b"), "{cleaned:?}");
    running.abort();
}
