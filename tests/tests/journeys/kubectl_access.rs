//! Who kubectl is at a relay, what it may do there, and that a project is a world of its own.

use underpass_tests::{
    eventually::eventually,
    kubectl::{Kubectl, Version},
    manifest,
    relay::Relay,
    with_both_kubectls,
};

with_both_kubectls!(asks_what_it_may_do, is_held_to_its_role, makes_tokens_of_service_accounts, sees_one_project_only,);

async fn asks_what_it_may_do(_: &Relay, kubectl: &Kubectl) {
    for question in [&["create", "backends"][..], &["*", "*"], &["get", "secrets", "-n", "elsewhere"]] {
        assert_eq!(kubectl.prints(&[&["auth", "can-i"], question].concat()).await, "yes\n", "{question:?}");
    }
    let list = kubectl.prints(&["auth", "can-i", "--list"]).await;
    assert!(list.contains("backends.core.apoxy.dev") && list.contains("deletecollection"), "{list}");
    if kubectl.version == Version::Current {
        assert!(kubectl.prints(&["auth", "whoami"]).await.contains("admin"));
    }
}

async fn is_held_to_its_role(relay: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&manifest::backend("api", "office", "")).await;
    eventually("the audit line of what was created", async || {
        let log = relay.process.log();
        let words = ["audit", "verb=\"create\"", "kind=\"Backend\"", "name=\"api\"", "code=201"];
        let is_told = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if is_told { Ok(()) } else { Err(log) }
    })
    .await;
    let file = kubectl.file("bob.kubeconfig", "");
    std::fs::remove_file(&file).unwrap();
    let access = ["access", "create", "bob", "--role", "viewer", "--kubeconfig-out", &file];
    let _ = relay.cli().run(&access).await.expect_success();
    let bob = Kubectl::new(kubectl.version, file.into());
    assert!(bob.prints(&["get", "backends"]).await.contains("api"));
    for (question, answer) in [(["get", "backends"], "yes"), (["delete", "backends"], "no"), (["get", "secrets"], "no")]
    {
        let outcome = bob.run(&[&["auth", "can-i"][..], &question].concat()).await;
        // The older one says why not.
        assert_eq!(outcome.stdout.split_whitespace().next(), Some(answer), "{question:?}: {outcome:?}");
    }
    let refused = bob.run(&["delete", "backend", "api"]).await;
    refused.expect_refusal(&["Forbidden", "cannot delete", "backends"]);
    bob.run(&["get", "secrets"]).await.expect_refusal(&["Forbidden"]);
    let refused = bob.run_with_input(&["apply", "-f", "-"], &manifest::backend("b", "office", "")).await;
    refused.expect_refusal(&["Forbidden"]);
    let _ = relay.cli().run(&["access", "revoke", "bob"]).await.expect_success();
    let revoked = bob.run(&["get", "backends"]).await;
    assert_ne!(revoked.code, Some(0), "{revoked:?}");
}

async fn makes_tokens_of_service_accounts(_: &Relay, kubectl: &Kubectl) {
    kubectl
        .apply(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: ci\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata:\n  name: ci\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}\n\
             subjects: [{kind: ServiceAccount, name: ci, namespace: default}]\n",
        )
        .await;
    let token = match kubectl.version {
        Version::Current => kubectl.prints(&["create", "token", "ci", "--duration", "1h"]).await,
        // It has no `create token`; what that would ask, it can ask as well.
        Version::Debian => {
            let request = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[]}}"#;
            let file = kubectl.file("request.json", request);
            let path = "/api/v1/namespaces/default/serviceaccounts/ci/token";
            let answer = kubectl.prints(&["create", "--raw", path, "-f", &file]).await;
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            answer["status"]["token"].as_str().unwrap().to_owned()
        }
    };
    // The administrator's certificate would go before a token: this kubeconfig has the cluster only.
    let admin = kubectl.prints(&["config", "view", "--raw", "--flatten", "-o", "json"]).await;
    let mut config: serde_json::Value = serde_json::from_str(&admin).unwrap();
    config["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let file = kubectl.file("ci.kubeconfig", &config.to_string());
    let ci = Kubectl::new(kubectl.version, file.into());
    assert!(ci.prints(&["get", "gateways"]).await.contains("default"));
    let refused = ci.run(&["delete", "gateway", "default"]).await;
    refused.expect_refusal(&["Forbidden", "system:serviceaccount:default:ci"]);
    if kubectl.version == Version::Current {
        assert!(ci.prints(&["auth", "whoami"]).await.contains("system:serviceaccount:default:ci"));
    }
}

async fn sees_one_project_only(relay: &Relay, kubectl: &Kubectl) {
    kubectl.apply(&manifest::project("shop")).await;
    let config = relay.cli().run(&["project", "kubeconfig", "shop"]).await.expect_success();
    assert!(config.contains("/projects/shop"), "{config}");
    let shop = Kubectl::new(kubectl.version, kubectl.file("shop.kubeconfig", &config).into());
    kubectl.apply(&manifest::backend("ours", "office", "")).await;
    shop.apply(&manifest::documents(&[manifest::backend("theirs", "office", ""), manifest::node("cellar")])).await;
    for (who, backends, nodes) in [(kubectl, "ours", ""), (&shop, "theirs", "cellar")] {
        assert_eq!(who.path(&["get", "backends", "-A"], "{.items[*].metadata.name}").await, backends);
        assert_eq!(who.path(&["get", "tunnelnodes"], "{.items[*].metadata.name}").await, nodes);
    }
    shop.run(&["get", "backend", "ours"]).await.expect_refusal(&["not found"]);
    shop.run(&["delete", "backend", "ours"]).await.expect_refusal(&["not found"]);
    let resources = shop.prints(&["api-resources", "-o", "name"]).await;
    assert!(resources.contains("backends.core.apoxy.dev") && !resources.contains("projects.core"), "{resources}");
    assert!(shop.prints(&["explain", "backend.spec"]).await.contains("endpoints"));
    assert_eq!(shop.path(&["get", "gateways"], "{.items[*].metadata.name}").await, "default", "one of its own");
    kubectl.run(&["delete", "project", "shop"]).await.expect_refusal(&["Conflict", "still holds 2 object(s)"]);
    shop.prints(&["delete", "backends,tunnelnodes", "--all"]).await;
    kubectl.prints(&["delete", "project", "shop"]).await;
    let gone = shop.run(&["get", "backends"]).await;
    assert_ne!(gone.code, Some(0), "{gone:?}");
    assert_eq!(kubectl.path(&["get", "backends"], "{.items[*].metadata.name}").await, "ours");
}
