//! `underpass apply --prune`: deletes what was applied before and is in no file any more.
//!
//! Deletes only what carries the set's labels *and* was applied in our name; never what other objects live in or by.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo, Scope};

use super::MANAGER;
use crate::cli::{
    client::{Body, Client, ClientError, with_query},
    manifest::Manifest,
    print::Console,
    write::{Report, Target, WriteArgs},
};

/// Kinds that are never pruned: everything in a project, a namespace or a custom kind goes with it, and whoever lives by
/// an account, a role or a secret is locked out. Delete these by name.
const KEPT: [Kind; 6] = [
    Kind::Project,
    Kind::Namespace,
    Kind::CustomResourceDefinition,
    Kind::ServiceAccount,
    Kind::ClusterRoleBinding,
    Kind::Secret,
];

/// What was applied, and what belongs together.
pub(super) struct Set<'a> {
    pub(super) manifests: &'a [Manifest],
    pub(super) namespace: &'a str,
    pub(super) selector: &'a str,
    pub(super) write: &'a WriteArgs,
}

/// Prunes, and returns what went wrong. Last kinds first: routes before the gateways that they are attached to.
pub(super) async fn run(
    client: &mut Client,
    set: &Set<'_>,
    report: &mut Report,
    console: &mut Console<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut errors = Vec::new();
    for info in KINDS.iter().rev().filter(|info| !KEPT.contains(&info.kind)) {
        for namespace in namespaces(set, info) {
            let list = client.path(info, info.api_versions[0], Some(namespace), None);
            let objects = match client.list(&list, &[("labelSelector", set.selector)]).await {
                Ok(list) => list.items,
                // A relay of another version, which does not serve the kind.
                Err(ClientError::Api(error)) if error.is_not_found() => continue,
                Err(ClientError::Api(error)) => {
                    errors.push(format!("cannot look for {} to prune: {error}", info.plural));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for object in objects.into_iter().filter(|object| is_ours(object, set)) {
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let target = Target { info, api_version: info.api_versions[0], namespace: namespace.to_owned(), name };
                if contains(set, &target) {
                    continue;
                }
                match delete(client, &target, &object, set).await {
                    Ok(()) => report.add(&target.full_name(), "pruned", object, console)?,
                    Err(ClientError::Api(error)) if error.is_not_found() => {}
                    Err(ClientError::Api(error)) => errors.push(format!("{}: not pruned: {error}", target.full_name())),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        console.warn(&client.take_warnings())?;
    }
    Ok(errors)
}

/// Those of the set, and that of the command line, where the set's last object may have been.
fn namespaces<'a>(set: &Set<'a>, info: &KindInfo) -> BTreeSet<&'a str> {
    if info.scope != Scope::Namespaced {
        return BTreeSet::from([set.namespace]);
    }
    let of = |manifest: &'a Manifest| manifest.namespace.as_deref().unwrap_or(set.namespace);
    let of_set = set.manifests.iter().filter(|manifest| manifest.info.scope == Scope::Namespaced).map(of);
    of_set.chain([set.namespace]).collect()
}

/// Whether our manager applied it before, and nobody is deleting it already.
fn is_ours(object: &Value, set: &Set<'_>) -> bool {
    let manager = set.write.field_manager.as_deref().unwrap_or(MANAGER);
    let is_of_us = |entry: &Value| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default().is_empty()
    };
    object["metadata"]["deletionTimestamp"].is_null()
        && object["metadata"]["managedFields"].as_array().is_some_and(|entries| entries.iter().any(is_of_us))
}

fn contains(set: &Set<'_>, target: &Target) -> bool {
    set.manifests.iter().any(|manifest| {
        let namespace = manifest.namespace.as_deref().unwrap_or(set.namespace);
        manifest.info.kind == target.info.kind
            && manifest.name == target.name
            && (manifest.info.scope != Scope::Namespaced || namespace == target.namespace)
    })
}

/// Only this very object: not one that took its name since we listed.
async fn delete(client: &mut Client, target: &Target, object: &Value, set: &Set<'_>) -> Result<(), ClientError> {
    let query: Vec<(&str, &str)> = set.write.dry_run.query().into_iter().collect();
    let path = with_query(&target.path(client), &query);
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": object["metadata"]["uid"]},
    });
    client.exchange(Method::DELETE, &path, Body::Json(&options)).await.map(|_| ())
}
