use http::StatusCode;
use serde_json::json;

use super::*;
use crate::cli::testing::Relay;

const NODE: &str = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata:\n  name: office\nspec:\n  x: 1\n";

#[tokio::test]
async fn what_apply_would_change_is_shown_and_nothing_is_changed() {
    let relay = Relay::start().await;
    let new = relay.run("diff -f -", NODE).await;
    assert_eq!((new.outcome, new.err.as_str()), (Outcome::Exit(1), ""));
    assert_eq!(
        new.out,
        "--- live/tunnelnode.core.apoxy.dev/office\n+++ applied/tunnelnode.core.apoxy.dev/office\n@@ -0,0 +1,6 @@\n\
         +apiVersion: core.apoxy.dev/v1alpha\n+kind: TunnelNode\n+metadata:\n+  name: office\n+spec:\n+  x: 1\n"
    );
    relay.run("apply -f -", NODE).await;
    let same = relay.run("diff -f -", NODE).await;
    assert_eq!((same.outcome, same.out.as_str(), same.err.as_str()), (Outcome::Done, "", ""));
    let other = relay.run("diff -f -", &NODE.replace("x: 1", "x: 2")).await;
    assert_eq!(other.outcome, Outcome::Exit(1));
    assert!(other.out.ends_with("   name: office\n spec:\n-  x: 1\n+  x: 2\n"), "{}", other.out);
    assert_eq!(relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").unwrap()["spec"]["x"], 1);
    assert!(
        relay.targets().iter().filter(|target| target.starts_with("PATCH")).any(|target| target.contains("dryRun=All"))
    );
}

#[tokio::test]
async fn what_cannot_be_compared_is_more_than_a_difference() {
    let relay = Relay::start().await;
    assert_eq!(relay.run("diff -f -", "kind: x\n").await.outcome, Outcome::Exit(2));
    let path = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
    relay.refuse(
        "PATCH",
        path,
        StatusCode::UNPROCESSABLE_ENTITY,
        &json!({"kind": "Status", "reason": "Invalid",
        "details": {"kind": "TunnelNode", "name": "office", "causes": [{"field": "spec.x", "message": "no"}]}}),
    );
    let run = relay.run("diff -f -", NODE).await;
    assert_eq!(run.outcome, Outcome::Exit(2));
    assert!(run.err.contains("line 6: spec.x: no"), "{}", run.err);
    relay.answer("GET", path, &json!("nonsense"));
    assert_eq!(relay.run("diff -f -", NODE).await.outcome, Outcome::Exit(2));
}

#[tokio::test]
async fn secret_values_are_not_shown() {
    let relay = Relay::start().await;
    let secret = |text: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{same: aaaa, other: {text}, {text}: new}}\n"
        )
    };
    relay.run("apply -f -", &secret("bbbb")).await;
    let out = relay.run("diff -f -", &secret("cccc")).await.out;
    assert!(out.contains("-  other: '*** (before)'\n") || out.contains("-  other: \"*** (before)\"\n"), "{out}");
    for value in ["aaaa", ": bbbb", ": cccc", ": new"] {
        assert!(!out.contains(value), "{out}");
    }
}

#[test]
fn colours_are_added_line_by_line() {
    let text = unified("a/b", "x\n", "y\n", true);
    assert_eq!(
        text,
        "\u{1b}[1m--- live/a/b\u{1b}[0m\n\u{1b}[1m+++ applied/a/b\u{1b}[0m\n\u{1b}[36m@@ -1 +1 @@\u{1b}[0m\n\
         \u{1b}[31m-x\u{1b}[0m\n\u{1b}[32m+y\u{1b}[0m\n"
    );
    assert_eq!(unified("a", "x\n", "x\n", true), "");
}
