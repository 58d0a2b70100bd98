//! `underpass apply`: make the relay's objects what files say.
//!
//! Reads and checks everything first; then writes one object after the other, in the order of the kinds, and goes on
//! after one that is refused. Until the API has server-side apply, a write is a read, then POST or PUT.

use std::time::Duration;

use http::Method;
use rand::RngExt as _;
use serde_json::Value;
use underpass_shared::resource::kind::Scope;

use super::{
    GlobalArgs, Outcome,
    client::{Client, ClientError},
    files::{self, FileArgs},
    kinds::full_name,
    manifest::Manifest,
    print::{Console, clean_line},
    status::ApiError,
};

/// How often a write is tried when others write the same object.
const ATTEMPTS_MAX: u32 = 6;
/// The longest wait before the second attempt; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(20);
/// What the server sets: an object as `get -o yaml` shows it can be applied again.
const SERVER_METADATA: [&str; 6] =
    ["resourceVersion", "uid", "generation", "creationTimestamp", "managedFields", "selfLink"];

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Configured,
    Unchanged,
}

/// `underpass apply`.
pub(crate) async fn run(global: &GlobalArgs, args: &FileArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let Some(mut manifests) = load(global, args, console) else { return Ok(Outcome::Failed) };
    manifests.sort_by_key(Manifest::rank);
    let (mut client, namespace) = global.connect()?;
    let mut errors = Vec::new();
    for (index, manifest) in manifests.iter().enumerate() {
        let result = apply(&mut client, manifest, &namespace).await;
        let name = full_name(manifest.info, manifest.api_version, &manifest.name);
        for warning in client.take_warnings() {
            console.warn(&[format!("{name}: {warning}")])?;
        }
        match result {
            Ok(change) => {
                let change = match change {
                    Change::Created => "created",
                    Change::Configured => "configured",
                    Change::Unchanged => "unchanged",
                };
                console.say(&format!("{name} {change}"))?;
            }
            Err(ClientError::Api(error)) => errors.push(explain(manifest, &error)),
            Err(error) => {
                errors.push(error.to_string());
                let untried = manifests.len() - index - 1;
                if untried > 0 {
                    errors.push(format!("{untried} more objects were not tried"));
                }
                break;
            }
        }
    }
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// All manifests that the arguments name; `None` after saying everything that is wrong with them.
pub(super) fn load(global: &GlobalArgs, args: &FileArgs, console: &mut Console<'_>) -> Option<Vec<Manifest>> {
    let (manifests, mut problems) = match files::load(args, console.input) {
        Ok(manifests) => (manifests, Vec::new()),
        Err(problems) => (Vec::new(), problems),
    };
    for manifest in &manifests {
        if let (Scope::Namespaced, Some(wanted), Some(written)) =
            (manifest.info.scope, &global.namespace, &manifest.namespace)
            && wanted != written
        {
            problems.push(format!(
                "{}: the namespace is `{written}`, but -n says `{wanted}`: leave one of them out",
                manifest.origin_of("metadata.namespace")
            ));
        }
    }
    if problems.is_empty() {
        return Some(manifests);
    }
    problems.iter().for_each(|problem| console.complain(problem));
    console.complain("nothing was sent to the relay");
    None
}

async fn apply(client: &mut Client, manifest: &Manifest, namespace: &str) -> Result<Change, ClientError> {
    let namespace = manifest.namespace.as_deref().unwrap_or(namespace);
    let (info, api_version) = (manifest.info, manifest.api_version);
    let list = client.path(info, api_version, Some(namespace), None);
    let path = client.path(info, api_version, Some(namespace), Some(&manifest.name));
    let wanted = wanted(manifest, namespace);
    let mut attempt = 1;
    loop {
        let written = match client.get(&path).await {
            Ok(existing) => replace(client, &path, &existing, &wanted).await,
            Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => {
                client.send(Method::POST, &list, Some(&wanted)).await.map(|_| Change::Created)
            }
            Err(error) => Err(error),
        };
        match written {
            Err(error) if error.as_api().is_some_and(ApiError::is_conflict) && attempt < ATTEMPTS_MAX => {
                let longest = BACK_OFF * 2_u32.pow(attempt - 1);
                tokio::time::sleep(longest.mul_f64(rand::rng().random())).await;
                attempt += 1;
            }
            written => return written,
        }
    }
}

async fn replace(client: &mut Client, path: &str, existing: &Value, wanted: &Value) -> Result<Change, ClientError> {
    let mut wanted = wanted.clone();
    wanted["metadata"]["resourceVersion"] = existing["metadata"]["resourceVersion"].clone();
    let written = client.send(Method::PUT, path, Some(&wanted)).await?;
    let is_same = |pointer: &str| is_equal(existing.pointer(pointer), written.pointer(pointer));
    let unchanged = is_same("/metadata/labels") && is_same("/metadata/annotations") && {
        let (Value::Object(before), Value::Object(after)) = (existing, &written) else { return Ok(Change::Configured) };
        let content = |key: &String| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind");
        before.keys().chain(after.keys()).filter(|key| content(key)).all(|key| is_same(&format!("/{key}")))
    };
    Ok(if unchanged { Change::Unchanged } else { Change::Configured })
}

/// An empty map is as good as none.
fn is_equal(a: Option<&Value>, b: Option<&Value>) -> bool {
    let is_empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        _ => false,
    };
    a == b || (is_empty(a) && is_empty(b))
}

/// The object as it is sent: in its namespace, without what the server sets.
fn wanted(manifest: &Manifest, namespace: &str) -> Value {
    let mut object = manifest.object();
    if let Value::Object(fields) = &mut object {
        fields.remove("status");
    }
    if let Value::Object(metadata) = &mut object["metadata"] {
        SERVER_METADATA.iter().for_each(|field| {
            metadata.remove(*field);
        });
        if manifest.info.scope == Scope::Namespaced {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }
    object
}

fn explain(manifest: &Manifest, error: &ApiError) -> String {
    if error.causes.is_empty() {
        return format!("{}: {} \"{}\": {error}", manifest.origin, manifest.info.name, manifest.name);
    }
    let mut text = format!("{}: {}:", manifest.origin, error.headline());
    for cause in &error.causes {
        text += &format!("\n  line {}: {}", manifest.origin_of(&cause.field).line, clean_line(&cause.to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
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
        relay.refuse("POST", "/apis/gateway.apoxy.dev/v1/namespaces/default/httproutes", StatusCode::UNPROCESSABLE_ENTITY,
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
        relay.refuse_times(2, "PUT", object, StatusCode::CONFLICT, &conflict);
        assert_eq!(relay.ok(&format!("apply -f {path}")).await, "tunnelnode.core.apoxy.dev/office unchanged\n");

        relay.refuse("PUT", object, StatusCode::CONFLICT, &conflict);
        let run = relay.run(&format!("apply -f {path}"), "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!(
            run.err,
            format!("error: {path}: document 1, line 1: TunnelNode \"office\": the object has been modified\n")
        );
        let puts = relay.requests().iter().filter(|request| request.starts_with("PUT")).count();
        assert_eq!(puts, 3 + 6);
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
}
