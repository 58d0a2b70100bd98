//! What kubectl reads of a relay: what there is, in every form of output, and as it changes.

use underpass_shared::resource::kind::{KINDS, Scope};
use underpass_tests::{
    kubectl::{Kubectl, Version},
    manifest,
    relay::Relay,
    with_both_kubectls,
};

with_both_kubectls!(
    lists_every_kind_that_there_is,
    prints_in_every_form,
    selects_by_label_and_field,
    reads_lists_in_pieces_and_of_all_namespaces,
    watches,
    describes_with_conditions,
    explains_fields,
    waits_for_conditions,
    reads_logs_of_a_pod,
);

/// Three Backends, of which two are `tier: front`.
async fn three_backends(kubectl: &Kubectl) {
    let backends = ["one", "two", "three"].map(|name| manifest::backend(name, "office", ""));
    kubectl.apply(&manifest::documents(&backends)).await;
    kubectl.prints(&["label", "backend", "one", "two", "tier=front"]).await;
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

async fn lists_every_kind_that_there_is(_: &Relay, kubectl: &Kubectl) {
    let table = kubectl.prints(&["api-resources", "--no-headers"]).await;
    for info in KINDS {
        for api_version in info.api_versions {
            // Of the versions of a group, the preferred one is listed.
            let preferred = info.api_versions.iter().find(|other| group(other) == group(api_version)).unwrap();
            let namespaced = (info.scope == Scope::Namespaced).to_string();
            let want = [info.plural, preferred, &namespaced, info.name];
            let is_it = |line: &str| want.iter().all(|word| words(line).contains(word));
            let line = table.lines().find(|line| is_it(line)).unwrap_or_else(|| panic!("{want:?}: {table}"));
            assert!(info.short_names.is_empty() || line.contains(&info.short_names.join(",")), "{line}");
        }
    }
    let cluster = kubectl.prints(&["api-resources", "--namespaced=false", "-o", "name"]).await;
    assert!(cluster.lines().any(|line| line == "tunnelnodes.core.apoxy.dev") && !cluster.contains("backends"));
    let versions = kubectl.prints(&["api-versions"]).await;
    for api_version in KINDS.iter().flat_map(|info| info.api_versions) {
        assert!(versions.lines().any(|line| line == *api_version), "{api_version}: {versions}");
    }
    assert!(kubectl.prints(&["version"]).await.contains("+underpass"));
    assert!(kubectl.prints(&["cluster-info"]).await.contains("is running at"));
}

fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

async fn prints_in_every_form(_: &Relay, kubectl: &Kubectl) {
    three_backends(kubectl).await;
    let table = kubectl.prints(&["get", "backends"]).await;
    let lines: Vec<_> = table.lines().map(words).collect();
    assert_eq!(lines[0], ["NAME", "ENDPOINTS", "PROTOCOL", "AGE"]);
    assert_eq!(lines[1..].iter().map(|line| line[0]).collect::<Vec<_>>(), ["one", "three", "two"], "by name");
    assert_eq!(lines[1][1], "office.tun.internal");
    let labels = kubectl.prints(&["get", "backends", "--show-labels", "--no-headers"]).await;
    assert!(labels.lines().all(|line| line.ends_with("tier=front") != line.starts_with("three")), "{labels}");
    let column = kubectl.prints(&["get", "backends", "-L", "tier"]).await;
    assert!(column.lines().next().unwrap().ends_with("TIER"), "{column}");
    let (narrow, wide) = (
        kubectl.prints(&["get", "gateway", "default"]).await,
        kubectl.prints(&["get", "gateway", "default", "-o", "wide"]).await,
    );
    assert!(words(wide.lines().next().unwrap()).len() > words(narrow.lines().next().unwrap()).len(), "{wide}");

    let json = kubectl.json(&["get", "backend", "one"]).await;
    let yaml: serde_json::Value =
        serde_saphyr::from_str(&kubectl.prints(&["get", "backend", "one", "-o", "yaml"]).await).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json["spec"]["endpoints"][0]["fqdn"], "office.tun.internal");
    let get = ["get", "backends"];
    assert_eq!(kubectl.path(&get, "{.items[*].metadata.name}").await, "one three two");
    assert_eq!(kubectl.path(&["get", "backend", "one"], "{.spec.endpoints[0].fqdn}").await, "office.tun.internal");
    let names = kubectl.prints(&["get", "backends", "-o", "name"]).await;
    assert_eq!(names.lines().next(), Some("backend.core.apoxy.dev/one"));
    let columns = "custom-columns=N:.metadata.name,T:.metadata.labels.tier";
    let columns = kubectl.prints(&["get", "backends", "-o", columns, "--sort-by", ".metadata.creationTimestamp"]).await;
    assert_eq!(columns.lines().map(words).next().unwrap(), ["N", "T"]);
    let both = kubectl.prints(&["get", "backends,gateways"]).await;
    assert!(both.contains("backend.core.apoxy.dev/one") && both.contains("/default"), "{both}");
    let absent = kubectl.run(&["get", "backend", "nobody"]).await;
    absent.expect_refusal(&["Error from server (NotFound): backends.core.apoxy.dev \"nobody\" not found"]);
    kubectl.run(&["get", "unicorns"]).await.expect_refusal(&["doesn't have a resource type \"unicorns\""]);
}

async fn selects_by_label_and_field(_: &Relay, kubectl: &Kubectl) {
    three_backends(kubectl).await;
    for (selector, want) in [
        ("tier=front", "one two"),
        ("tier!=front", "three"),
        ("tier in (front,back)", "one two"),
        ("!tier", "three"),
        ("tier,tier notin (back)", "one two"),
    ] {
        let names = kubectl.path(&["get", "backends", "-l", selector], "{.items[*].metadata.name}").await;
        assert_eq!(names, want, "-l {selector}");
    }
    for (selector, want) in
        [("metadata.name=one", "one"), ("metadata.name!=one", "three two"), ("spec.protocol=", "one three two")]
    {
        let names = kubectl.path(&["get", "backends", "--field-selector", selector], "{.items[*].metadata.name}").await;
        assert_eq!(names, want, "--field-selector {selector}");
    }
    let refused = kubectl.run(&["get", "backends", "--field-selector", "spec.colour=red"]).await;
    refused.expect_refusal(&["field label not supported: spec.colour"]);
}

async fn reads_lists_in_pieces_and_of_all_namespaces(_: &Relay, kubectl: &Kubectl) {
    three_backends(kubectl).await;
    kubectl.prints(&["create", "namespace", "elsewhere"]).await;
    kubectl.with_manifest(&["apply", "-n", "elsewhere"], &manifest::backend("four", "office", "")).await;
    let all = kubectl.prints(&["get", "backends", "-A", "--chunk-size=1", "--no-headers"]).await;
    let rows: Vec<_> = all.lines().map(|line| words(line)[..2].join("/")).collect();
    assert_eq!(rows, ["default/one", "default/three", "default/two", "elsewhere/four"]);
    let here = kubectl.path(&["get", "backends", "-n", "elsewhere"], "{.items[*].metadata.name}").await;
    assert_eq!(here, "four");
}

async fn watches(_: &Relay, kubectl: &Kubectl) {
    three_backends(kubectl).await;
    let mut table = kubectl.start(&["get", "backends", "-w", "--output-watch-events"]);
    let starts = |words: &'static [&'static str]| {
        move |line: &str| line.split_whitespace().take(words.len()).eq(words.iter().copied()).then_some(())
    };
    table.line("a header", starts(&["EVENT", "NAME", "ENDPOINTS"])).await;
    table.line("what is there", starts(&["ADDED", "one", "office.tun.internal"])).await;
    table.line("all of it", starts(&["ADDED", "two"])).await;
    let mut only = kubectl.start(&["get", "backends", "-l", "tier=front", "--watch-only", "-o", "name"]);
    kubectl.apply(&manifest::backend("five", "cellar", "")).await;
    table.line("what is added", starts(&["ADDED", "five", "cellar.tun.internal"])).await;
    kubectl.apply(&manifest::backend("five", "attic", "")).await;
    table.line("what is changed", starts(&["MODIFIED", "five", "attic.tun.internal"])).await;
    kubectl.prints(&["delete", "backend", "five"]).await;
    table.line("what is deleted", starts(&["DELETED", "five"])).await;
    kubectl.prints(&["annotate", "backend", "one", "seen=yes"]).await;
    only.line("what is selected", |line| (line == "backend.core.apoxy.dev/one").then_some(())).await;
    assert!(!only.lines().iter().any(|line| line.ends_with("/five")), "{:?}", only.lines());
}

async fn describes_with_conditions(_: &Relay, kubectl: &Kubectl) {
    kubectl.prints(&["wait", "gateway/default", "--for=condition=Programmed", "--timeout=30s"]).await;
    let page = kubectl.prints(&["describe", "gateway", "default"]).await;
    for line in ["Name:         default", "Kind:         Gateway", "    Type:                  Programmed"] {
        assert!(page.lines().any(|other| other == line), "`{line}`: {page}");
    }
    kubectl.prints(&["create", "secret", "generic", "door", "--from-literal=code=sesame"]).await;
    let page = kubectl.prints(&["describe", "secret", "door"]).await;
    assert!(page.contains("code:  6 bytes") && !page.contains("sesame"), "{page}");
    kubectl.run(&["describe", "backend", "nobody"]).await.expect_refusal(&["not found"]);
}

async fn explains_fields(_: &Relay, kubectl: &Kubectl) {
    for (path, words) in [
        ("backend", ["Backend", "spec", "FIELDS:"]),
        ("backend.spec.endpoints.fqdn", ["fqdn", "<string>", "DESCRIPTION:"]),
        ("httproute.spec.rules.matches.path", ["type", "value", "<string>"]),
        ("service.spec.ports", ["targetPort", "protocol", "port"]),
        ("tunnelnodes.metadata.ownerReferences", ["blockOwnerDeletion", "uid", "<boolean>"]),
    ] {
        let text = kubectl.prints(&["explain", path]).await;
        assert!(words.iter().all(|word| text.contains(word)), "{path}: {words:?}: {text}");
    }
    let tree = kubectl.prints(&["explain", "edgefunction", "--recursive"]).await;
    assert!(tree.contains("goPluginSource") && tree.contains("revisionHistoryLimit"), "{tree}");
    for info in KINDS {
        let text = kubectl.prints(&["explain", info.plural, "--api-version", info.api_versions[0]]).await;
        assert!(text.contains(info.name) && text.contains("DESCRIPTION:"), "{}: {text}", info.name);
        assert!(!text.contains("<empty>"), "{} says what it is: {text}", info.name);
    }
    let wrong = kubectl.run(&["explain", "backend.spec.colour"]).await;
    wrong.expect_refusal(&["field \"colour\" does not exist"]);
}

async fn waits_for_conditions(_: &Relay, kubectl: &Kubectl) {
    three_backends(kubectl).await;
    let met = kubectl.prints(&["wait", "gateway/default", "--for=condition=Accepted", "--timeout=30s"]).await;
    assert!(met.contains("condition met"), "{met}");
    let waiting = kubectl.start(&["wait", "backend/one", "--for=delete", "--timeout=50s"]);
    let never = kubectl.run(&["wait", "backend/one", "--for=condition=Flying", "--timeout=1s"]).await;
    never.expect_refusal(&["timed out waiting for the condition"]);
    kubectl.prints(&["delete", "backend", "one", "--wait=false"]).await;
    let mut waiting = waiting;
    assert!(waiting.exit().await.success(), "{:?} {}", waiting.lines(), waiting.log());
    if kubectl.version == Version::Current {
        let value = "--for=jsonpath={.spec.endpoints[0].fqdn}=office.tun.internal";
        kubectl.prints(&["wait", "backend/two", value, "--timeout=30s"]).await;
        kubectl.prints(&["wait", "backend/two", "--for=create", "--timeout=30s"]).await;
    }
}

async fn reads_logs_of_a_pod(_: &Relay, kubectl: &Kubectl) {
    kubectl.prints(&["run", "it", "--image=nothing"]).await;
    assert_eq!(kubectl.prints(&["logs", "it"]).await, "", "nothing runs it, nothing is written of it");
    assert_eq!(kubectl.prints(&["logs", "pod/it", "-c", "it", "--tail=5"]).await, "");
    kubectl.run(&["logs", "it", "-c", "other"]).await.expect_refusal(&["container other is not valid for pod it"]);
    kubectl.run(&["logs", "nobody"]).await.expect_refusal(&["pods \"nobody\" not found"]);
}
