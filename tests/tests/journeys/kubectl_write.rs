//! What kubectl writes to a relay: applied, compared, patched, edited, replaced and deleted.

use std::collections::BTreeSet;

use underpass_tests::{
    kubectl::{Kubectl, Version},
    manifest,
    relay::Relay,
    with_both_kubectls,
};

with_both_kubectls!(
    compares_before_it_applies,
    applies_on_the_server_and_names_who_owns_a_field,
    tries_out_without_storing,
    prunes_what_is_no_longer_applied,
    refuses_what_does_not_fit_the_schema,
    patches_in_every_form,
    edits_in_an_editor,
    keeps_an_edit_that_is_refused,
    creates_and_replaces,
    labels_and_annotates,
    deletes_only_when_finalizers_are_done,
    deletes_dependents_as_it_is_told,
    does_not_scale,
);

const GET: [&str; 3] = ["get", "configmap", "settings"];

/// ConfigMap `settings` with one entry, `colour`.
fn settings(colour: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  colour: {colour}\n")
}

/// A ConfigMap with the label `set: shop`.
fn labelled(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  labels:\n    set: shop\n")
}

async fn compares_before_it_applies(_: &Relay, kubectl: &Kubectl) {
    let changes = |text: &str| -> Vec<String> {
        let is_change = |line: &&str| line.starts_with(['+', '-']) && line.contains(" protocol:");
        text.lines().filter(is_change).map(str::to_owned).collect()
    };
    let file = kubectl.file("backend.yaml", &manifest::backend("api", "office", ""));
    let new = kubectl.run(&["diff", "-f", &file]).await;
    assert_eq!(new.code, Some(1), "an object that is not there differs: {new:?}");
    kubectl.prints(&["apply", "-f", &file]).await;
    let _ = kubectl.file("backend.yaml", &manifest::backend("api", "office", "h2c"));
    for flags in [&[][..], &["--server-side", "--force-conflicts"]] {
        let changed = kubectl.run(&[&["diff", "-f", &file], flags].concat()).await;
        assert_eq!((changed.code, changes(&changed.stdout)), (Some(1), vec!["+  protocol: h2c".to_owned()]));
    }
    kubectl.prints(&["apply", "-f", &file]).await;
    let same = kubectl.run(&["diff", "-f", &file]).await;
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""), "{same:?}");
    let _ = kubectl.file("backend.yaml", &manifest::backend("api", "office", ""));
    let changed = kubectl.run(&["diff", "-f", &file]).await;
    assert_eq!((changed.code, changes(&changed.stdout)), (Some(1), vec!["-  protocol: h2c".to_owned()]));
}

async fn applies_on_the_server_and_names_who_owns_a_field(_: &Relay, kubectl: &Kubectl) {
    let apply = |colour: &str, flags: &[&'static str]| {
        let flags = [&["apply", "--server-side"], flags].concat();
        let colour = settings(colour);
        async move { kubectl.run_with_input(&[&flags[..], &["-f", "-"]].concat(), &colour).await }
    };
    assert!(apply("green", &["--field-manager=ann"]).await.expect_success().contains("serverside-applied"));
    let refused = apply("red", &["--field-manager=bob"]).await;
    refused.expect_refusal(&["conflict with \"ann\"", ".data.colour"]);
    assert_eq!(kubectl.path(&GET, "{.data.colour}").await, "green");
    let _ = apply("red", &["--field-manager=bob", "--force-conflicts"]).await.expect_success();
    let _ = apply("red", &["--field-manager=ann"]).await.expect_success();
    assert_eq!(kubectl.path(&GET, "{.data.colour}").await, "red");

    let managers = if kubectl.version == Version::Current { &["--show-managed-fields"][..] } else { &[] };
    let object = kubectl.json(&[&GET, managers].concat()).await;
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let names: BTreeSet<_> = managers.iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "bob"].into(), "{object}");
    assert!(managers.iter().all(|entry| entry["operation"] == "Apply"), "{object}");
    // What nobody applies any more goes.
    let none = settings("x").replace("data:\n  colour: x\n", "");
    for manager in ["--field-manager=ann", "--field-manager=bob"] {
        kubectl.with_manifest(&["apply", "--server-side", manager], &none).await;
    }
    assert_eq!(kubectl.path(&GET, "{.data}").await, "");
}

async fn tries_out_without_storing(_: &Relay, kubectl: &Kubectl) {
    for flags in [&["apply"][..], &["apply", "--server-side"], &["create"]] {
        let arguments = [flags, &["--dry-run=server", "-o", "yaml"]].concat();
        let shown = kubectl.with_manifest(&arguments, &manifest::backend("api", "office", "")).await;
        assert!(shown.contains("uid: "), "as it would be: {shown}");
    }
    kubectl.run(&["get", "backend", "api"]).await.expect_refusal(&["not found"]);
    kubectl.apply(&manifest::backend("api", "office", "")).await;
    kubectl.prints(&["label", "backend", "api", "a=b", "--dry-run=server"]).await;
    kubectl.prints(&["delete", "backend", "api", "--dry-run=server"]).await;
    assert_eq!(kubectl.path(&["get", "backend", "api"], "{.metadata.labels}").await, "");
}

async fn prunes_what_is_no_longer_applied(_: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&manifest::documents(&["one", "two"].map(labelled))).await;
    kubectl.apply(&settings("green")).await;
    let kinds = match kubectl.version {
        Version::Debian => "--prune-whitelist=core/v1/ConfigMap",
        Version::Current => "--prune-allowlist=core/v1/ConfigMap",
    };
    let printed = kubectl.with_manifest(&["apply", "--prune", "-l", "set=shop", kinds], &labelled("one")).await;
    assert!(printed.contains("configmap/two pruned"), "{printed}");
    let left = kubectl.path(&["get", "configmaps"], "{.items[*].metadata.name}").await;
    assert_eq!(left, "one settings");
}

async fn refuses_what_does_not_fit_the_schema(_: &Relay, kubectl: &Kubectl) {
    let apply =
        async |text: &str, flags: &[&str]| kubectl.run_with_input(&[&["apply", "-f", "-"], flags].concat(), text).await;
    let unknown = manifest::backend("api", "office", "").replace("spec:", "spec:\n  colour: red");
    for flags in [&[][..], &["--validate=false"], &["--server-side"]] {
        // A kubectl that does not validate says so to the server, if it knows how to.
        let lenient = flags == ["--validate=false"] && kubectl.version == Version::Current;
        if !lenient {
            apply(&unknown, flags).await.expect_refusal(&["unknown field", "colour"]);
        }
    }
    let mistyped = manifest::route("api", "app.example.com", "api", 80).replace("port: 80", "port: high");
    apply(&mistyped, &["--validate=false"])
        .await
        .expect_refusal(&["spec.rules[0].backendRefs[0].port", "whole number"]);
    let twice = manifest::backend("api", "office", "spdy").replace("office.tun.internal", "UPPER");
    apply(&twice, &[]).await.expect_refusal(&["is invalid", "spec.protocol", "spec.endpoints[0].fqdn"]);
    let named = manifest::backend("Api_1", "office", "");
    apply(&named, &[]).await.expect_refusal(&["metadata.name", "Api_1"]);
    assert_eq!(kubectl.prints(&["get", "backends", "-o", "name"]).await, "", "nothing of it is stored");
}

async fn patches_in_every_form(_: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&settings("green")).await;
    let patch = |form: &'static str, text: &'static str| async move {
        kubectl.prints(&["patch", "configmap", "settings", "--type", form, "-p", text]).await
    };
    patch("strategic", r#"{"data":{"size":"big"}}"#).await;
    patch("merge", r#"{"data":{"colour":null,"shape":"round"}}"#).await;
    patch(
        "json",
        r#"[{"op":"test","path":"/data/size","value":"big"},{"op":"move","from":"/data/size","path":"/data/s"}]"#,
    )
    .await;
    assert_eq!(kubectl.json(&GET).await["data"], serde_json::json!({"shape": "round", "s": "big"}));
    let unchanged = kubectl.prints(&["patch", "configmap", "settings", "--type=merge", "-p", "{}"]).await;
    assert!(unchanged.contains("(no change)"), "{unchanged}");
    let failed = r#"[{"op":"test","path":"/data/s","value":"small"}]"#;
    let failed = kubectl.run(&["patch", "configmap", "settings", "--type=json", "-p", failed]).await;
    failed.expect_refusal(&["invalid"]);

    kubectl.prints(&["create", "service", "clusterip", "web", "--tcp=80:8080"]).await;
    let ports = r#"{"spec":{"ports":[{"port":443,"name":"tls"}]}}"#;
    kubectl.prints(&["patch", "service", "web", "-p", ports]).await;
    let shown = kubectl.path(&["get", "service", "web"], "{.spec.ports[*].port}").await;
    assert_eq!(shown.split(' ').collect::<BTreeSet<_>>(), ["443", "80"].into(), "ports are merged by number");
    let ports = r#"{"spec":{"ports":[{"port":80,"$patch":"delete"}]}}"#;
    kubectl.prints(&["patch", "service", "web", "-p", ports]).await;
    assert_eq!(kubectl.path(&["get", "service", "web"], "{.spec.ports[*].port}").await, "443");

    kubectl.apply(&manifest::backend("api", "office", "")).await;
    let strategic = kubectl.run(&["patch", "backend", "api", "-p", r#"{"spec":{"protocol":"h2c"}}"#]).await;
    strategic.expect_refusal(&["application/merge-patch+json"]);
    kubectl.prints(&["patch", "backend", "api", "--type=merge", "-p", r#"{"spec":{"protocol":"h2c"}}"#]).await;
    let invalid = r#"{"spec":{"protocol":"spdy"}}"#;
    let invalid = kubectl.run(&["patch", "backend", "api", "--type=merge", "-p", invalid]).await;
    invalid.expect_refusal(&["Backend", "is invalid", "spec.protocol", "spdy"]);
    if kubectl.version == Version::Current {
        let status = r#"{"status":{"conditions":[]}}"#;
        kubectl.prints(&["patch", "backend", "api", "--subresource=status", "--type=merge", "-p", status]).await;
    }
}

async fn edits_in_an_editor(_: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&settings("green")).await;
    kubectl.apply(&manifest::backend("api", "office", "")).await;
    let editing = kubectl.clone().with_editor("s/colour: green/colour: red/");
    assert!(editing.prints(&["edit", "configmap", "settings"]).await.contains("configmap/settings edited"));
    assert_eq!(kubectl.path(&GET, "{.data.colour}").await, "red");
    let editing = kubectl.clone().with_editor("s/fqdn: office/fqdn: cellar/");
    assert!(editing.prints(&["edit", "backend/api"]).await.contains("backend.core.apoxy.dev/api edited"));
    let fqdn = kubectl.path(&["get", "backend", "api"], "{.spec.endpoints[*].fqdn}").await;
    assert_eq!(fqdn, "cellar.tun.internal");
    let none = kubectl.clone().with_editor("s/nothing/nothing/").run(&["edit", "backend/api"]).await;
    assert!(none.stderr.contains("no changes made"), "{none:?}");
}

async fn keeps_an_edit_that_is_refused(_: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&manifest::backend("api", "office", "")).await;
    // The editor opens again with what was wrong; an edit that changes nothing then ends it.
    let editing = kubectl.clone().with_editor("s/^  endpoints:/  protocol: spdy\\n  endpoints:/");
    let script = editing.file("once.sh", "#!/bin/sh\n[ -e seen ] && exit 0\ntouch seen\nsed -i -f edit.sed \"$1\"\n");
    let editing = editing.with_environment("KUBE_EDITOR", &format!("sh {script}"));
    let refused = editing.run(&["edit", "backend/api"]).await;
    assert!(refused.code != Some(0) && refused.stderr.contains("is invalid"), "{refused:?}");
    assert!(refused.stderr.contains("copy of your changes"), "what was typed is kept: {refused:?}");
    assert_eq!(kubectl.path(&["get", "backend", "api"], "{.spec.protocol}").await, "");
}

async fn creates_and_replaces(_: &Relay, kubectl: &Kubectl) {
    let created = kubectl.with_manifest(&["create"], &settings("green")).await;
    assert_eq!(created, "configmap/settings created\n");
    let again = kubectl.run_with_input(&["create", "-f", "-"], &settings("red")).await;
    again.expect_refusal(&["AlreadyExists", "\"settings\" already exists"]);
    let before = kubectl.json(&GET).await;
    let revision = before["metadata"]["resourceVersion"].as_str().unwrap();
    let at = |colour: &str| settings(colour).replace("  name:", &format!("  resourceVersion: '{revision}'\n  name:"));
    assert!(kubectl.with_manifest(&["replace"], &at("red")).await.contains("replaced"));
    let stale = kubectl.run_with_input(&["replace", "-f", "-"], &at("blue")).await;
    stale.expect_refusal(&["Conflict", "the object has been modified"]);
    assert!(kubectl.with_manifest(&["replace"], &settings("blue")).await.contains("replaced"));
    let after = kubectl.json(&GET).await;
    assert_eq!((&after["data"]["colour"], &after["metadata"]["uid"]), (&"blue".into(), &before["metadata"]["uid"]));
    let forced = kubectl.with_manifest(&["replace", "--force"], &settings("grey")).await;
    assert!(forced.contains("deleted") && forced.contains("replaced"), "{forced}");
    assert_ne!(kubectl.json(&GET).await["metadata"]["uid"], before["metadata"]["uid"]);

    let generated = settings("x").replace("  name: settings", "  generateName: many-");
    for _ in 0..2 {
        let created = kubectl.with_manifest(&["create"], &generated).await;
        assert!(created.starts_with("configmap/many-"), "{created}");
    }
    let names = kubectl.prints(&["get", "configmaps", "-o", "name"]).await;
    assert_eq!(names.lines().filter(|name| name.starts_with("configmap/many-")).count(), 2);
    let typed = manifest::route("typed", "app.example.com", "api", 80);
    assert!(kubectl.with_manifest(&["create", "--validate=true"], &typed).await.contains("created"));
}

async fn labels_and_annotates(_: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&settings("green")).await;
    for (verb, field) in [("label", "labels"), ("annotate", "annotations")] {
        let run = |argument: &'static str, flags: &'static [&'static str]| async move {
            kubectl.run(&[&[verb, "configmap", "settings", argument], flags].concat()).await
        };
        let _ = run("tier=front", &[]).await.expect_success();
        run("tier=back", &[]).await.expect_refusal(&["already has a value"]);
        let _ = run("tier=back", &["--overwrite"]).await.expect_success();
        assert_eq!(kubectl.path(&GET, &format!("{{.metadata.{field}.tier}}")).await, "back");
        let _ = run("tier-", &[]).await.expect_success();
        assert_eq!(kubectl.path(&GET, &format!("{{.metadata.{field}.tier}}")).await, "");
    }
    let all = kubectl.prints(&["label", "configmaps,gateways", "--all", "seen=yes"]).await;
    assert!(all.contains("configmap/settings labeled") && all.contains("/default labeled"), "{all}");
}

async fn deletes_only_when_finalizers_are_done(_: &Relay, kubectl: &Kubectl) {
    let held = settings("green").replace("  name:", "  finalizers: [example.com/hold]\n  name:");
    kubectl.apply(&held).await;
    kubectl.prints(&["delete", "configmap", "settings", "--wait=false"]).await;
    let object = kubectl.json(&GET).await;
    assert!(object["metadata"]["deletionTimestamp"].is_string(), "{object}");
    let waited = kubectl.run(&["delete", "configmap", "settings", "--timeout=1s"]).await;
    waited.expect_refusal(&["timed out waiting for the condition"]);
    let mut waiting = kubectl.start(&["delete", "configmap", "settings"]);
    waiting.line("that it is deleting", |line| line.contains("deleted").then_some(())).await;
    let done = r#"{"metadata":{"finalizers":null}}"#;
    kubectl.prints(&["patch", "configmap", "settings", "--type=merge", "-p", done]).await;
    assert!(waiting.exit().await.success(), "{}", waiting.log());
    kubectl.run(&GET).await.expect_refusal(&["not found"]);
    kubectl.run(&["delete", "configmap", "settings"]).await.expect_refusal(&["NotFound"]);
    kubectl.prints(&["delete", "configmap", "settings", "--ignore-not-found"]).await;
}

async fn deletes_dependents_as_it_is_told(_: &Relay, kubectl: &Kubectl) {
    for (cascade, left) in [("background", false), ("foreground", false), ("orphan", true)] {
        kubectl.apply(&settings("green")).await;
        let uid = kubectl.path(&GET, "{.metadata.uid}").await;
        let owner = format!("  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: settings, uid: {uid}}}]\n");
        let dependents = ["one", "two"].map(|name| labelled(name).replace("  labels:", &format!("{owner}  labels:")));
        kubectl.apply(&manifest::documents(&dependents)).await;
        kubectl.prints(&["delete", "configmap", "settings", &format!("--cascade={cascade}")]).await;
        if left {
            let owners = kubectl.path(&["get", "configmaps", "-l", "set=shop"], "{.items[*].metadata.ownerReferences}");
            assert_eq!(owners.await, "", "orphans have no owner any more");
            assert_eq!(kubectl.path(&["get", "configmaps"], "{.items[*].metadata.name}").await, "one two");
        } else {
            let gone = ["wait", "configmap/one", "configmap/two", "--for=delete", "--timeout=30s"];
            // One that is gone before the wait begins is what was asked for.
            let gone = kubectl.run(&gone).await;
            let already = ["NotFound", "no matching resources"].iter().any(|word| gone.stderr.contains(word));
            assert!(gone.code == Some(0) || already, "{cascade}: {gone:?}");
        }
    }
    let all = kubectl.prints(&["delete", "configmaps", "--all"]).await;
    assert_eq!(all.lines().count(), 2, "{all}");
}

async fn does_not_scale(_: &Relay, kubectl: &Kubectl) {
    kubectl.prints(&["create", "deployment", "web", "--image=web"]).await;
    let refused = kubectl.run(&["scale", "deployment", "web", "--replicas=3"]).await;
    refused.expect_refusal(&["NotFound"]);
    assert_eq!(kubectl.path(&["get", "deployment", "web"], "{.spec.replicas}").await, "1");
}
