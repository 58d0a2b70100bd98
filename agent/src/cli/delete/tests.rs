use serde_json::json;

use crate::cli::{Outcome, testing::Relay};

const FILE: &str = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {name: office}\n---\n\
                    apiVersion: gateway.apoxy.dev/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\n";
const OFFICE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";

#[tokio::test]
async fn objects_are_deleted_by_name_and_by_file() {
    let relay = Relay::start().await;
    relay.run("apply -f -", FILE).await;
    assert_eq!(relay.ok("delete tunnel/office").await, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
    relay.run("apply -f -", FILE).await;
    let run = relay.run("delete -f -", FILE).await;
    assert_eq!(
        (run.outcome, run.out.as_str()),
        (Outcome::Done, "httproute.gateway.apoxy.dev \"web\" deleted\ntunnelnode.core.apoxy.dev \"office\" deleted\n")
    );
    assert!(relay.object(OFFICE).is_none());
}

#[tokio::test]
async fn what_is_not_there_is_an_error_unless_told_otherwise() {
    let relay = Relay::start().await;
    relay.run("apply -f -", FILE).await;
    let run = relay.run("delete tn nobody office", "").await;
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(run.out, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
    assert_eq!(run.err, "error: tunnelnodes \"nobody\" not found\n");
    let run = relay.run("delete tn nobody --ignore-not-found", "").await;
    assert_eq!((run.outcome, run.err.as_str()), (Outcome::Done, ""));
    assert!(relay.run("delete tn", "").await.err.contains("underpass delete tunnelnode NAME"));
    assert!(relay.run("delete tn/a --all", "").await.err.contains("is one object"));
    assert!(relay.run("delete gateway x -A", "").await.err.contains("needs -l LABELS or --all"));
}

#[tokio::test]
async fn what_a_selector_finds_is_deleted_in_its_own_namespace() {
    let relay = Relay::start().await;
    let route = |namespace: &str, app: &str| {
        let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{app}");
        relay.put(&path, &json!({"metadata": {"name": app, "namespace": namespace, "labels": {"app": app}}}));
        path
    };
    let paths = [route("default", "a"), route("shop", "a"), route("shop", "b")];
    let left = || paths.iter().map(|path| relay.object(path).is_some()).collect::<Vec<_>>();
    let group = "httproute.gateway.networking.k8s.io";
    assert_eq!(relay.ok("delete hr -l app=a -n shop").await, format!("{group} \"a\" deleted\n"));
    assert_eq!(left(), [true, false, true]);
    assert_eq!(relay.ok("delete hr -A --all -o name").await, format!("{group}/a\n{group}/b\n"));
    assert_eq!(left(), [false; 3]);
    assert_eq!(relay.run("delete hr --all", "").await.err, "No resources found\n");
}

#[tokio::test]
async fn options_reach_the_relay_and_a_dry_run_deletes_nothing() {
    let relay = Relay::start().await;
    relay.run("apply -f -", FILE).await;
    let dry = "tunnelnode.core.apoxy.dev \"office\" deleted (server dry run)\n";
    assert_eq!(relay.ok("delete tn office --dry-run").await, dry);
    assert_eq!(relay.targets().last().unwrap(), &format!("DELETE {OFFICE}?dryRun=All"));
    let sent = relay.requests().len();
    assert!(relay.ok("delete tn office --dry-run=client").await.ends_with("deleted (dry run)\n"));
    assert_eq!(relay.requests().len(), sent);
    assert!(relay.object(OFFICE).is_some());
    relay.ok("delete tn office --cascade orphan --grace-period 3 --wait=false").await;
    let options =
        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Orphan", "gracePeriodSeconds": 3});
    assert_eq!((relay.last_body(), relay.targets().last().unwrap()), (options, &format!("DELETE {OFFICE}")));
}

fn held() -> serde_json::Value {
    json!({"metadata": {"name": "office", "uid": "u1", "finalizers": ["a.b/\u{1b}c", "d"]}})
}

#[tokio::test]
async fn a_deletion_is_waited_for_by_watching() {
    let relay = Relay::start().await;
    relay.put(OFFICE, &held());
    let (out, ()) = tokio::join!(relay.ok("delete tn office"), async {
        relay.watched(1).await;
        relay.remove(OFFICE);
    });
    assert_eq!(out, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
    let watch = relay.targets().pop().unwrap();
    assert!(watch.contains("?fieldSelector=metadata.name%3Doffice&watch=true&"), "{watch}");
}

#[tokio::test]
async fn another_object_under_the_same_name_is_not_waited_for() {
    let relay = Relay::start().await;
    relay.put(OFFICE, &held());
    let (out, ()) = tokio::join!(relay.ok("delete tn office"), async {
        relay.watched(1).await;
        relay.put(OFFICE, &json!({"metadata": {"name": "office", "uid": "u2"}}));
    });
    assert_eq!(out, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
}

#[tokio::test]
async fn what_holds_an_object_is_named_when_it_does_not_go_in_time() {
    let relay = Relay::start().await;
    relay.put(OFFICE, &held());
    let (run, ()) = tokio::join!(relay.run("delete tn office --timeout 30s", ""), async {
        relay.watched(1).await;
        tokio::time::pause();
    });
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(
        run.err,
        "error: tunnelnode.core.apoxy.dev \"office\" is still there after 30s: held by the finalizers a.b/c, d; it goes \
         when those who set them have done their work and removed them\n"
    );
}
