use http::StatusCode;
use serde_json::json;

use crate::cli::{Outcome, testing::Relay};

const NODE: &str = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata:\n  name: office\n";
const ROUTE: &str = "apiVersion: gateway.apoxy.dev/v1\nkind: HTTPRoute\nmetadata:\n  name: web\nspec:\n  \
                     parentRefs:\n  - name: default\n  rules:\n  - foo: 1\n";
const BACKEND: &str = "apiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\nmetadata:\n  name: be\nspec:\n  \
                       endpoints:\n  - fqdn: office.tun.internal\n";

#[tokio::test]
async fn objects_are_created_then_unchanged_then_configured() {
    let relay = Relay::start().await;
    let path = relay.write("office.yaml", NODE);
    let apply = format!("apply -f {path}");
    assert_eq!(relay.ok(&apply).await, "tunnelnode.core.apoxy.dev/office created\n");
    assert_eq!(relay.ok(&apply).await, "tunnelnode.core.apoxy.dev/office unchanged\n");
    relay.write("office.yaml", &format!("{NODE}spec:\n  egressGateway:\n    enabled: true\n"));
    assert_eq!(relay.ok(&apply).await, "tunnelnode.core.apoxy.dev/office configured\n");
    assert_eq!(
        relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").unwrap()["spec"],
        json!({"egressGateway": {"enabled": true}})
    );
}

#[tokio::test]
async fn a_directory_is_applied_in_the_order_of_kinds_and_namespaces_are_filled_in() {
    let relay = Relay::start().await;
    relay.write("all/a.yaml", &format!("{ROUTE}---\n{BACKEND}"));
    let folder = relay.write("all/z.yaml", NODE).replace("/z.yaml", "");
    assert_eq!(
        relay.ok(&format!("apply -f {folder} -n shop")).await,
        "tunnelnode.core.apoxy.dev/office created\nbackend.core.apoxy.dev/be created\n\
         httproute.gateway.apoxy.dev/web created\n"
    );
    let route = relay.object("/apis/gateway.apoxy.dev/v1/namespaces/shop/httproutes/web").unwrap();
    assert_eq!(route["metadata"]["namespace"], "shop");
    assert!(
        relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").unwrap()["metadata"]["namespace"].is_null()
    );
}

#[tokio::test]
async fn one_bad_file_stops_everything_before_anything_is_sent() {
    let relay = Relay::start().await;
    let good = relay.write("good.yaml", NODE);
    let bad = relay.write(
        "bad.yaml",
        &format!("{NODE}---\nkind: TunelNode\napiVersion: core.apoxy.dev/v1alpha\nmetadata: {{}}\n---\na: [\n"),
    );
    let run = relay.run(&format!("apply -f {good} -f {bad} -f /nowhere/x.yaml"), "").await;
    assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""));
    let wanted = [
        format!("error: {bad}: document 2, line 6: unknown kind `TunelNode`: did you mean TunnelNode?"),
        format!("error: {bad}: document 2, line 8: `metadata.name` is missing"),
        format!("error: {bad}: document 3, line 1"),
        "error: /nowhere/x.yaml: no such file or directory".to_owned(),
        "error: nothing was sent to the relay".to_owned(),
    ];
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines.len(), wanted.len(), "{}", run.err);
    for want in &wanted {
        assert!(lines.iter().any(|line| line.starts_with(want.as_str())), "{want}\n{}", run.err);
    }
    assert_eq!(relay.requests(), [] as [String; 0]);
}

#[tokio::test]
async fn a_refused_object_shows_every_cause_with_its_line_and_stops_no_neighbour() {
    let relay = Relay::start().await;
    relay.refuse("PATCH", "/apis/gateway.apoxy.dev/v1/namespaces/default/httproutes/web", StatusCode::UNPROCESSABLE_ENTITY,
        &json!({"kind": "Status", "reason": "Invalid", "message": "invalid", "details": {"kind": "HTTPRoute", "name": "web",
            "causes": [{"field": "spec.rules[0].foo", "message": "unknown field"},
                       {"field": "spec.hostnames", "message": "required\u{1b}[31m"}]}}));
    let run = relay.run("apply -f -", &format!("{ROUTE}---\n{BACKEND}---\n{NODE}")).await;
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(run.out, "tunnelnode.core.apoxy.dev/office created\nbackend.core.apoxy.dev/be created\n");
    assert_eq!(
        run.err,
        "error: stdin: document 1, line 1: HTTPRoute \"web\" is invalid:\n  line 9: spec.rules[0].foo: unknown field\n  \
         line 5: spec.hostnames: required[31m\n"
    );
}

#[tokio::test]
async fn a_conflict_is_tried_again_a_few_times() {
    let relay = Relay::start().await;
    let path = relay.write("office.yaml", NODE);
    relay.ok(&format!("apply -f {path}")).await;
    let object = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
    let conflict = json!({"kind": "Status", "reason": "Conflict", "message": "the object has been modified"});
    relay.refuse_times(2, "PATCH", object, StatusCode::CONFLICT, &conflict);
    assert_eq!(relay.ok(&format!("apply -f {path}")).await, "tunnelnode.core.apoxy.dev/office unchanged\n");

    relay.refuse("PATCH", object, StatusCode::CONFLICT, &conflict);
    let run = relay.run(&format!("apply -f {path}"), "").await;
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(
        run.err,
        format!("error: {path}: document 1, line 1: TunnelNode \"office\": the object has been modified\n")
    );
    let patches = relay.requests().iter().filter(|request| request.starts_with("PATCH")).count();
    assert_eq!(patches, 1 + 3 + 6);
}

#[tokio::test]
async fn what_get_prints_can_be_applied_again() {
    let relay = Relay::start().await;
    relay.run("apply -f -", &format!("{NODE}---\n{BACKEND}")).await;
    let yaml = relay.ok("get tunnelnodes -o yaml").await;
    assert_eq!(relay.run("apply -f -", &yaml).await.out, "tunnelnode.core.apoxy.dev/office unchanged\n");
    let json = relay.ok("get backend be -o json").await;
    assert_eq!(relay.run("apply -f -", &json).await.out, "backend.core.apoxy.dev/be unchanged\n");
}

#[tokio::test]
async fn warnings_and_projects_are_passed_on() {
    let relay = Relay::start().await;
    relay.warn("TunnelNode.spec.egressGateway is \"stored\" but not served yet");
    let run = relay.run("apply -f - --project acme", NODE).await;
    assert_eq!(
        run.err,
        "warning: tunnelnode.core.apoxy.dev/office: TunnelNode.spec.egressGateway is \"stored\" but not served yet\n"
    );
    assert!(relay.object("/projects/acme/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").is_some());
}

#[tokio::test]
async fn a_manifest_of_another_namespace_than_asked_for_is_refused() {
    let relay = Relay::start().await;
    let text = BACKEND.replace("  name: be\n", "  name: be\n  namespace: other\n");
    let run = relay.run("apply -f - -n shop", &text).await;
    assert!(
        run.err.starts_with("error: stdin: document 1, line 5: the namespace is `other`, but -n says `shop`"),
        "{}",
        run.err
    );
    assert_eq!(relay.run("apply -f - -n other", &text).await.outcome, Outcome::Done);
}

#[tokio::test]
async fn what_is_sent_is_a_strict_server_side_apply_in_our_name() {
    let relay = Relay::start().await;
    relay.run("apply -f -", NODE).await;
    let path = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
    let query = "fieldManager=underpass&fieldValidation=Strict";
    assert_eq!(relay.targets().last().unwrap(), &format!("PATCH {path}?{query}"));
    assert_eq!(
        relay.last_body(),
        json!({"apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": {"name": "office"}})
    );
    relay.run("apply -f - --field-manager ops --force-conflicts --dry-run", NODE).await;
    let query = "fieldManager=ops&fieldValidation=Strict&dryRun=All&force=true";
    assert_eq!(relay.targets().last().unwrap(), &format!("PATCH {path}?{query}"));
}

#[tokio::test]
async fn fields_of_others_are_named_with_their_lines_and_managers() {
    let relay = Relay::start().await;
    let path = "/apis/gateway.apoxy.dev/v1/namespaces/default/httproutes/web";
    let conflict = json!({"kind": "Status", "reason": "Conflict", "message": "Apply failed with 1 conflict",
        "details": {"kind": "HTTPRoute", "name": "web", "causes": [{"reason": "FieldManagerConflict",
        "message": "conflict with \"kubectl\" using gateway.apoxy.dev/v1", "field": ".spec.parentRefs[name=\"default\"].name"}]}});
    relay.refuse("PATCH", path, StatusCode::CONFLICT, &conflict);
    let run = relay.run("apply -f -", ROUTE).await;
    assert_eq!(run.outcome, Outcome::Failed);
    assert_eq!(
        run.err,
        "error: stdin: document 1, line 1: HTTPRoute \"web\": others have set these fields to something else:\n  \
         line 7: .spec.parentRefs[name=\"default\"].name: conflict with \"kubectl\" using gateway.apoxy.dev/v1\n  \
         to take them over, add --force-conflicts; to leave them to the others, remove them from the file\n"
    );
    assert_eq!(relay.requests().len(), 2, "it is not tried again");
}

#[tokio::test]
async fn dry_runs_change_nothing_and_say_so() {
    let relay = Relay::start().await;
    let dry = relay.run("apply -f - --dry-run=server", NODE).await;
    assert_eq!(
        (dry.out.as_str(), dry.err.as_str()),
        ("tunnelnode.core.apoxy.dev/office created (server dry run)\n", "")
    );
    assert!(relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").is_none());
    relay.run("apply -f -", NODE).await;
    let same = relay.run("apply -f - --dry-run", NODE).await;
    assert_eq!(same.out, "tunnelnode.core.apoxy.dev/office unchanged (server dry run)\n");
    let other = relay.run("apply -f - --dry-run", &format!("{NODE}spec: {{x: 1}}\n")).await;
    assert_eq!(other.out, "tunnelnode.core.apoxy.dev/office configured (server dry run)\n");
    let sent = relay.requests().len();
    let client = relay.run("apply -f - --dry-run=client", NODE).await;
    assert_eq!(client.out, "tunnelnode.core.apoxy.dev/office serverside-applied (dry run)\n");
    assert_eq!(relay.requests().len(), sent);
}

#[tokio::test]
async fn applied_objects_can_be_printed() {
    let relay = Relay::start().await;
    let both = format!("{NODE}---\n{BACKEND}");
    assert_eq!(
        relay.run("apply -f - -o name", &both).await.out,
        "tunnelnode.core.apoxy.dev/office\nbackend.core.apoxy.dev/be\n"
    );
    let one: serde_json::Value = serde_json::from_str(&relay.run("apply -f - -o json", NODE).await.out).unwrap();
    assert_eq!((&one["kind"], &one["metadata"]["uid"]), (&json!("TunnelNode"), &json!("uid-1")));
    let all: serde_json::Value = serde_saphyr::from_str(&relay.run("apply -f - -o yaml", &both).await.out).unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
}

const LABELLED: &str = "metadata: {labels: {app: shop}, ";

#[tokio::test]
async fn pruning_deletes_only_what_was_applied_with_the_label_and_is_in_no_file() {
    let relay = Relay::start().await;
    let node =
        |name: &str| format!("---\napiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\n{LABELLED}name: {name}}}\n");
    let secret = format!("---\napiVersion: v1\nkind: Secret\n{LABELLED}name: key}}\n");
    let backend = |namespace: &str| {
        format!(
            "---\napiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\n{LABELLED}name: be, namespace: {namespace}}}\n"
        )
    };
    let unlabelled = NODE.replace("office", "plain");
    let all = [&node("a"), &node("b"), &secret, &backend("default"), &backend("other"), "---\n", &unlabelled]
        .map(String::from)
        .concat();
    relay.run("apply -f -", &all).await;
    relay.run("apply -f - --field-manager ops", &node("c")).await;

    let keep = node("a");
    let dry = relay.run("apply -f - --prune -l app=shop --dry-run", &keep).await;
    let lines =
        "backend.core.apoxy.dev/be pruned (server dry run)\ntunnelnode.core.apoxy.dev/b pruned (server dry run)\n";
    assert!(dry.out.ends_with(lines), "{}{}", dry.out, dry.err);

    let run = relay.run("apply -f - --prune -l app=shop", &keep).await;
    assert_eq!((run.outcome, run.err.as_str()), (Outcome::Done, ""));
    assert_eq!(
        run.out,
        "tunnelnode.core.apoxy.dev/a unchanged\nbackend.core.apoxy.dev/be pruned\ntunnelnode.core.apoxy.dev/b pruned\n"
    );
    for name in ["a", "c", "plain"] {
        assert!(relay.object(&format!("/apis/core.apoxy.dev/v1alpha/tunnelnodes/{name}")).is_some(), "{name}");
    }
    assert!(relay.object("/api/v1/namespaces/default/secrets/key").is_some());
    assert!(relay.object("/apis/core.apoxy.dev/v1alpha2/namespaces/other/backends/be").is_some());
}

#[tokio::test]
async fn nothing_is_pruned_when_something_could_not_be_applied() {
    let relay = Relay::start().await;
    let labelled = NODE.replace("  name: office", "  name: old\n  labels: {app: shop}");
    relay.run("apply -f -", &labelled).await;
    let path = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
    relay.refuse(
        "PATCH",
        path,
        StatusCode::FORBIDDEN,
        &json!({"kind": "Status", "reason": "Forbidden", "message": "no"}),
    );
    let run = relay.run("apply -f - --prune -l app=shop", NODE).await;
    assert!(run.err.ends_with("error: nothing was pruned, because not everything could be applied\n"), "{}", run.err);
    assert!(relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/old").is_some());
    let run = relay.run("apply -f - --prune -l app=shop --dry-run=client", NODE).await;
    assert!(run.err.contains("use --dry-run=server"), "{}", run.err);
}
