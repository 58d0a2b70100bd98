use serde_json::json;

use super::*;
use crate::cli::testing::Relay;

const OFFICE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";

fn office(relay: &Relay) {
    relay.put(
        OFFICE,
        &json!({"metadata": {"name": "office", "resourceVersion": "7", "labels": {"a": "1"}}, "spec": {"x": 1, "y": [1]}}),
    );
}

#[tokio::test]
async fn fields_are_merged_or_operated_on() {
    let relay = Relay::start().await;
    office(&relay);
    let file = relay.write("patch.yaml", "spec:\n  x: 2\n  y: null\n");
    let patched = "tunnelnode.core.apoxy.dev/office patched\n";
    assert_eq!(relay.ok(&format!("patch tn office --patch-file {file}")).await, patched);
    assert_eq!(relay.object(OFFICE).unwrap()["spec"], json!({"x": 2}));
    assert_eq!(
        relay.targets().last().unwrap(),
        &format!("PATCH {OFFICE}?fieldManager=underpass-patch&fieldValidation=Strict")
    );
    let line = r#"patch tn/office --type json -p [{"op":"replace","path":"/spec/x","value":3}]"#;
    assert_eq!(relay.ok(line).await, patched);
    assert_eq!(relay.object(OFFICE).unwrap()["spec"], json!({"x": 3}));
    let same = "tunnelnode.core.apoxy.dev/office patched (no change)\n";
    assert_eq!(relay.ok(r#"patch tn/office -p {"spec":{"x":3}}"#).await, same);
    let dry = relay.ok(r#"patch tn/office --dry-run -p {"spec":{"x":4}}"#).await;
    assert_eq!(dry, "tunnelnode.core.apoxy.dev/office patched (server dry run)\n");
    assert_eq!(relay.object(OFFICE).unwrap()["spec"], json!({"x": 3}));
}

#[tokio::test]
async fn a_patch_that_is_none_is_not_sent() {
    let relay = Relay::start().await;
    for (line, want) in [
        ("patch tn office -p [1]", "a merge patch is a map of fields"),
        ("patch tn office --type json -p {a:1}", "a JSON patch is a list of operations"),
        ("patch tn office -p {a:[", "-p: line 1: "),
        ("patch tn office --patch-file /nowhere/x", "/nowhere/x: cannot read this file"),
        ("patch tn -p {a:1}", "underpass patch tunnelnode NAME"),
    ] {
        let run = relay.run(line, "").await;
        assert!(run.outcome == Outcome::Failed && run.err.contains(want), "{line}: {}", run.err);
    }
    assert_eq!(relay.requests(), [] as [String; 0]);
    assert_eq!(relay.run("patch tn office -p {a: 1}".replace(": ", ":").as_str(), "").await.outcome, Outcome::Failed);
}

#[tokio::test]
async fn labels_are_set_changed_and_removed() {
    let relay = Relay::start().await;
    office(&relay);
    let labels = || relay.object(OFFICE).unwrap()["metadata"]["labels"].clone();
    let name = "tunnelnode.core.apoxy.dev/office";
    assert_eq!(relay.ok("label tn office b=2 c=x=y").await, format!("{name} labeled\n"));
    assert_eq!(labels(), json!({"a": "1", "b": "2", "c": "x=y"}));
    let run = relay.run("label tn/office a=9 d=4", "").await;
    assert_eq!(run.err, format!("error: {name}: `a` is `1` already: to change it, underpass label --overwrite\n"));
    assert_eq!(relay.ok("label tn --all a=9 b- c- --overwrite").await, format!("{name} labeled\n"));
    assert_eq!(labels(), json!({"a": "9"}));
    assert_eq!(relay.ok("label tn/office a=9 z-").await, format!("{name} not labeled\n"));
    assert_eq!(relay.ok("annotate tn/office e.com/x=1").await, format!("{name} annotated\n"));
    assert_eq!(relay.object(OFFICE).unwrap()["metadata"]["annotations"], json!({"e.com/x": "1"}));
}

#[test]
fn names_come_before_changes() {
    let read = |text: &str| {
        changes(&text.split(' ').map(str::to_owned).collect::<Vec<_>>()).map_err(|error| error.to_string())
    };
    let set = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    assert_eq!(
        read("n m a=1 b-"),
        Ok((vec!["n".to_owned(), "m".to_owned()], vec![set("a", Some("1")), set("b", None)]))
    );
    for (text, want) in
        [("a=1 n", "names come before"), ("=1", "has no key"), ("a=1 a-", "given twice"), ("-", "has no key")]
    {
        assert!(read(text).unwrap_err().contains(want), "{text}");
    }
}
