use std::os::unix::fs::PermissionsExt as _;

use http::StatusCode;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cli::testing::{Relay, Run};

const OFFICE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";

/// With an editor that runs `script` on the file `$1`; each line of `script` is for one more time it is opened.
async fn edited(relay: &Relay, script: &[&str]) -> Run {
    let mut text =
        "#!/bin/sh\nset -e\nturns=$(cat \"$0.turns\" 2>/dev/null || echo 0)\necho $((turns + 1)) > \"$0.turns\"\n\
                    cp \"$1\" \"$0.seen$turns\"\ncase $turns in\n"
            .to_owned();
    for (turn, line) in script.iter().enumerate() {
        text += &format!("{turn}) {line} ;;\n");
    }
    let path = relay.write("editor", &(text + "*) exit 9 ;;\nesac\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let _ = fs::remove_file(format!("{path}.turns"));
    relay.run(&format!("edit tn office --editor {path}"), "").await
}

/// What the editor was shown.
fn seen(relay: &Relay, turn: usize) -> String {
    let editor = relay.write("beside", "").replace("beside", "editor");
    fs::read_to_string(format!("{editor}.seen{turn}")).unwrap()
}

/// The file that was kept, taken away.
fn kept(run: &Run) -> String {
    let line = run.err.lines().find_map(|line| line.strip_prefix("Your edited copy is kept in ")).expect(&run.err);
    assert_eq!(fs::metadata(line).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(line).unwrap();
    fs::remove_file(line).unwrap();
    text
}

fn office(relay: &Relay) {
    relay.put(
        OFFICE,
        &json!({"apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "spec": {"x": 1, "z": 2},
            "metadata": {"name": "office", "resourceVersion": "7", "managedFields": [{"manager": "m"}]}}),
    );
}

#[tokio::test]
async fn what_was_changed_is_sent_and_nothing_else() {
    let relay = Relay::start().await;
    office(&relay);
    let run = edited(&relay, &["sed -i -e 's/x: 1/x: 5/' -e '/z: 2/d' \"$1\""]).await;
    assert_eq!((run.out.as_str(), run.err.as_str()), ("tunnelnode.core.apoxy.dev/office edited\n", ""));
    assert_eq!(relay.last_body(), json!({"metadata": {"resourceVersion": "7"}, "spec": {"x": 5, "z": null}}));
    assert!(relay.targets().last().unwrap().ends_with("?fieldManager=underpass-edit&fieldValidation=Strict"));
    let shown = seen(&relay, 0);
    assert!(shown.starts_with("# Change the object below") && !shown.contains("managedFields"), "{shown}");
}

#[tokio::test]
async fn an_edit_without_changes_or_of_an_empty_file_changes_nothing() {
    let relay = Relay::start().await;
    office(&relay);
    for (script, want) in [
        ("true", "Edit cancelled, no changes made.\n"),
        ("echo '# more' >> \"$1\"", "Edit cancelled, no changes made.\n"),
        ("echo '# nothing' > \"$1\"", "Edit cancelled, saved file was empty.\n"),
    ] {
        let run = edited(&relay, &[script]).await;
        assert_eq!((run.outcome, run.err.as_str()), (Outcome::Done, want), "{script}");
    }
    assert!(relay.requests().iter().all(|request| request.starts_with("GET")));
}

#[tokio::test]
async fn an_invalid_edit_is_opened_again_with_its_problems() {
    let relay = Relay::start().await;
    office(&relay);
    let invalid = json!({"kind": "Status", "reason": "Invalid", "details": {"kind": "TunnelNode", "name": "office",
        "causes": [{"field": "spec.x", "message": "must be a number"}]}});
    relay.refuse_times(1, "PATCH", OFFICE, StatusCode::UNPROCESSABLE_ENTITY, &invalid);
    let run = edited(
        &relay,
        &[
            "sed -i 's/x: 1/x: [/' \"$1\"",
            "sed -i -e 's/x: \\[/x: 3/' -e 's/name: office/name: other/' \"$1\"",
            "sed -i -e 's/x: 3/x: many/' -e 's/name: other/name: office/' \"$1\"",
            "sed -i 's/x: many/x: 4/' \"$1\"",
        ],
    )
    .await;
    assert_eq!((run.out.as_str(), run.err.as_str()), ("tunnelnode.core.apoxy.dev/office edited\n", ""));
    assert_eq!(relay.object(OFFICE).unwrap()["spec"], json!({"x": 4, "z": 2}));
    assert!(seen(&relay, 1).contains("# It could not be saved:\n# * ") && seen(&relay, 1).contains("x: ["));
    assert!(seen(&relay, 2).contains("# * metadata.name cannot be changed\n"));
    assert!(seen(&relay, 3).contains("# * TunnelNode \"office\" is invalid\n# * spec.x: must be a number\n"));
    assert!(!seen(&relay, 3).contains("cannot be changed"), "old problems are gone");
}

#[tokio::test]
async fn what_cannot_be_saved_is_kept() {
    let relay = Relay::start().await;
    office(&relay);
    let change = "sed -i 's/x: 1/x: 5/' \"$1\"";
    let conflict = json!({"kind": "Status", "reason": "Conflict", "message": "modified"});
    relay.refuse_times(1, "PATCH", OFFICE, StatusCode::CONFLICT, &conflict);
    let run = edited(&relay, &[change]).await;
    assert_eq!(run.outcome, Outcome::Failed);
    assert!(run.err.contains("was changed by somebody else in the meantime"), "{}", run.err);
    assert!(kept(&run).contains("x: 5"));

    let run = edited(&relay, &["sed -i 's/x: 1/x: [/' \"$1\"", "true"]).await;
    assert!(run.err.contains("edit cancelled, no valid changes were saved"), "{}", run.err);
    assert!(kept(&run).contains("x: ["));

    let run = edited(&relay, &["exit 3"]).await;
    assert!(run.err.contains("failed (exit status: 3); nothing was changed"), "{}", run.err);
    assert!(!run.err.contains("is kept in"), "there is nothing to keep");
}

/// RFC 7386.
fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(fields) = patch else { return patch.clone() };
    let mut result = target.as_object().cloned().unwrap_or_default();
    for (key, value) in fields {
        let before = result.remove(key).unwrap_or(Value::Null);
        if !value.is_null() {
            result.insert(key.clone(), merged(&before, value));
        }
    }
    Value::Object(result)
}

fn objects() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any::<u8>().prop_map(Value::from), Just(json!([1, null])), Just(json!({}))];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

proptest! {
    #[test]
    fn a_merge_patch_makes_one_object_of_another(from in objects(), to in objects()) {
        prop_assert_eq!(merged(&from, &merge_patch(&from, &to)), to);
    }
}
