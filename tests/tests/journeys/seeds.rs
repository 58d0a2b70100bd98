//! The manifests of the project's seeds (`tests/seeds`), applied as they stand.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use underpass_shared::resource::kind::Kind;
use underpass_tests::{
    eventually::eventually,
    kubectl::{Kubectl, Version},
    relay::Relay,
};

/// Kinds of the seeds that are stored and not served yet.
const UNBUILT: &[&str] = &["EdgeFunction", "DomainRecord"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert_eq!(files.len(), 5, "one for each seed: {files:?}");
    files
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

/// The API path of a manifest's object.
fn path(manifest: &Value) -> String {
    let api_version = manifest["apiVersion"].as_str().unwrap();
    let info = Kind::of_manifest(api_version, manifest["kind"].as_str().unwrap()).unwrap().info();
    let name = manifest["metadata"]["name"].as_str().unwrap();
    let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or("default");
    match info.scope {
        underpass_shared::resource::kind::Scope::Namespaced => {
            format!("/apis/{api_version}/namespaces/{namespace}/{}/{name}", info.plural)
        }
        _ => format!("/apis/{api_version}/{}/{name}", info.plural),
    }
}

/// Whether all that `want` says stands in `have`, which may say more.
fn holds(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(field, want)| have.get(field).is_some_and(|have| holds(have, want)))
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| holds(have, want))
        }
        _ => have == want,
    }
}

/// Every condition in a status, wherever its kind has them.
fn conditions(status: &Value) -> Vec<&Value> {
    let mut found: Vec<&Value> = status["conditions"].as_array().into_iter().flatten().collect();
    for of in ["parents", "ancestors"] {
        let parents = status[of].as_array().into_iter().flatten();
        found.extend(parents.flat_map(|parent| parent["conditions"].as_array().into_iter().flatten()));
    }
    found
}

/// What the relay must say against accepting a manifest; `None` where it must accept it.
fn objection(manifest: &Value) -> Option<&'static str> {
    let (kind, spec) = (manifest["kind"].as_str().unwrap(), &manifest["spec"]);
    let parent = &spec["parentRefs"][0];
    match kind {
        _ if UNBUILT.contains(&kind) => Some("not served yet"),
        // HTTPRoutes of the same seed have the same hostnames on the same listeners: see docs/errata.md.
        "GRPCRoute" => Some("an older HTTPRoute"),
        // The seed has that Gateway in another namespace.
        "HTTPRoute" if parent["name"] == "task-api-gateway" && manifest["metadata"]["namespace"] == "default" => {
            Some("does not exist")
        }
        // The seed has no Gateway at all.
        "HTTPRoute" if parent["sectionName"] == "http-listener" => Some("does not exist"),
        _ => None,
    }
}

/// What is wrong with what a status says of `Accepted`, or of a TunnelNode at all.
fn misjudged(manifest: &Value, object: &Value) -> Option<String> {
    let conditions = conditions(&object["status"]);
    let accepted = conditions.iter().find(|condition| condition["type"] == "Accepted");
    let is_right = match manifest["kind"].as_str().unwrap() {
        // It has no status.
        "ReferenceGrant" => true,
        "TunnelNode" => !conditions.is_empty(),
        _ => accepted.is_some_and(|accepted| match objection(manifest) {
            None => accepted["status"] == "True",
            Some(words) => accepted["status"] == "False" && accepted["message"].as_str().unwrap().contains(words),
        }),
    };
    (!is_right).then(|| format!("{:?} is not said of {object}", objection(manifest)))
}

/// Waits until an object is as its manifest says, and what became of it is said.
async fn is_stored_and_judged(relay: &Relay, manifest: &Value) {
    let path = path(manifest);
    let stored = eventually(&format!("{path} is judged"), async || {
        let object = relay.api().find(&path).await.ok_or_else(|| "absent".to_owned())?;
        misjudged(manifest, &object).map_or(Ok(object), Err)
    })
    .await;
    assert!(holds(&stored["spec"], &manifest["spec"]), "{path} is what was applied: {stored}");
}

/// The classes that the seeds' Gateways name, then each seed; after each, all that it holds is judged.
async fn apply_each(version: Version, flags: &[&str]) {
    let relay = Relay::start().await;
    let kubectl = Kubectl::new(version, relay.kubeconfig());
    let around = folder().join("around");
    for file in [vec![around], files()].concat() {
        let file_name = file.display().to_string();
        let printed = kubectl.prints(&[&["apply", "-f", &file_name], flags].concat()).await;
        if file.is_file() {
            let documents = documents(&file);
            assert_eq!(printed.lines().count(), documents.len(), "{file_name}: {printed}");
            for manifest in &documents {
                is_stored_and_judged(&relay, manifest).await;
            }
        }
    }
    for class in ["eg", "example-gateway-class"] {
        kubectl.prints(&["wait", "gatewayclass", class, "--for=condition=Accepted", "--timeout=30s"]).await;
    }
    let route = kubectl.prints(&["get", "httproute", "task-api-canary", "-n", "task-api"]).await;
    assert!(route.contains("task-api-canary"), "{route}");
}

#[tokio::test]
async fn debians_kubectl_applies_each_seed() {
    apply_each(Version::Debian, &[]).await;
}

#[tokio::test]
async fn a_current_kubectl_applies_each_seed_on_the_server() {
    apply_each(Version::Current, &["--server-side"]).await;
}

#[tokio::test]
async fn our_own_command_applies_the_folder() {
    let relay = Relay::start().await;
    let folder = folder().display().to_string();
    let printed = relay.cli().run(&["apply", "-f", &folder, "-R"]).await.expect_success();
    assert!(printed.contains("task-grpc-route"), "{printed}");
    let all: Vec<_> = files().iter().flat_map(|file| documents(file)).collect();
    for (at, manifest) in all.iter().enumerate() {
        // Two seeds have an object of the same name: the later one stands.
        let again = all[at + 1..].iter().any(|other| path(other) == path(manifest));
        if !again {
            is_stored_and_judged(&relay, manifest).await;
        }
    }
}
