//! The CustomResourceDefinitions that the API lists, made from the table of kinds.
//!
//! Nobody applied them and nobody can change them: they tell clients what is served, and conformance tests by which
//! version and channel of the Gateway API.

use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo, Scope};

/// The groups of kinds that are a part of Kubernetes itself, and therefore have no definition; the core group is the
/// one without a name.
const BUILT_IN_GROUPS: &[&str] = &[
    "",
    "apiextensions.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "rbac.authorization.k8s.io",
];

/// The Gateway API's own group. Its alias holds the same objects but is not what upstream released.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The release of the Gateway API whose definitions ours are compared with (`tests/tests/upstream.rs`).
pub const GATEWAY_BUNDLE_VERSION: &str = "v1.6.1";

/// The release channel: ours has everything of the experimental one.
pub const GATEWAY_CHANNEL: &str = "experimental";

/// One definition for each group of each kind that is not built in, in the order of [`KINDS`].
///
/// `schema_of` gives a kind's OpenAPI schema, which all its versions share. The caller adds what the store would have
/// (`uid`, `resourceVersion`, `creationTimestamp`).
pub fn all(schema_of: impl Fn(Kind) -> Value) -> Vec<Value> {
    let mut definitions = Vec::new();
    for info in KINDS {
        let groups = groups(info);
        if groups.is_empty() {
            continue;
        }
        let schema = schema_of(info.kind);
        definitions.extend(groups.into_iter().map(|group| definition(info, group, &schema)));
    }
    definitions
}

/// The groups under which the kind is served and is no part of Kubernetes, in the order of its versions.
fn groups(info: &KindInfo) -> Vec<&'static str> {
    let mut groups = Vec::new();
    for api_version in info.api_versions {
        let (group, _) = split(api_version);
        if !BUILT_IN_GROUPS.contains(&group) && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// Group and version of an `apiVersion`, whose group is empty for the core one.
fn split(api_version: &'static str) -> (&'static str, &'static str) {
    api_version.rsplit_once('/').unwrap_or(("", api_version))
}

fn definition(info: &KindInfo, group: &str, schema: &Value) -> Value {
    let names = names(info);
    let stored = versions(info, group).next();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{group}", info.plural),
            "generation": 1,
            "annotations": annotations(group),
        },
        "spec": {
            "group": group,
            "names": names,
            "scope": if info.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
            "versions": versions(info, group)
                .map(|name| version(info, name, Some(name) == stored, schema))
                .collect::<Vec<_>>(),
            "conversion": {"strategy": "None"},
        },
        "status": {
            "acceptedNames": names,
            "storedVersions": stored.into_iter().collect::<Vec<_>>(),
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no other kind has these names"),
                condition("Established", "InitialNamesAccepted", "the kind is served"),
            ],
        },
    })
}

/// The kind's versions in `group`; the first is the stored one.
fn versions<'a>(info: &'a KindInfo, group: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    info.api_versions
        .iter()
        .map(|api_version| split(api_version))
        .filter(move |(of, _)| *of == group)
        .map(|(_, name)| name)
}

fn version(info: &KindInfo, name: &str, stored: bool, schema: &Value) -> Value {
    let mut version = json!({
        "name": name,
        "served": true,
        "storage": stored,
        "schema": {"openAPIV3Schema": schema},
    });
    if info.has_status {
        version["subresources"] = json!({"status": {}});
    }
    version
}

fn names(info: &KindInfo) -> Value {
    let mut names = json!({
        "plural": info.plural,
        "singular": info.singular,
        "kind": info.name,
        "listKind": format!("{}List", info.name),
    });
    if !info.short_names.is_empty() {
        names["shortNames"] = json!(info.short_names);
    }
    names
}

fn annotations(group: &str) -> Value {
    if group != GATEWAY_GROUP {
        return json!({});
    }
    json!({
        "gateway.networking.k8s.io/bundle-version": GATEWAY_BUNDLE_VERSION,
        "gateway.networking.k8s.io/channel": GATEWAY_CHANNEL,
    })
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn listed() -> Vec<Value> {
        all(|kind| json!({"type": "object", "description": kind.info().name}))
    }

    fn named(name: &str) -> Value {
        let found = listed().into_iter().find(|definition| definition["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is listed"))
    }

    #[test]
    fn every_group_of_every_other_kind_has_one_definition() {
        let names: Vec<String> =
            listed().iter().map(|definition| definition["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        let of = |group: &str| names.iter().filter(|name| name.split_once('.').unwrap().1 == group).count();
        assert_eq!((of("gateway.networking.k8s.io"), of("gateway.apoxy.dev")), (10, 10));
        for info in KINDS {
            for api_version in info.api_versions {
                let group = api_version.split_once('/').map_or("", |(group, _)| group);
                let listed = names.contains(&format!("{}.{group}", info.plural));
                let custom = group.ends_with(".apoxy.dev") || group == "gateway.networking.k8s.io";
                assert_eq!(listed, custom, "{} in {api_version}", info.name);
            }
        }
    }

    #[test]
    fn definitions_stand_in_the_order_of_the_kinds() {
        let order: Vec<_> = KINDS.iter().map(|info| info.name).collect();
        let positions: Vec<_> = listed()
            .iter()
            .map(|definition| {
                let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
                order.iter().position(|name| *name == kind).unwrap()
            })
            .collect();
        assert!(positions.is_sorted());
    }

    #[test]
    fn a_gateway_kind_names_release_and_channel_in_its_own_group_only() {
        let own = named("gateways.gateway.networking.k8s.io");
        let annotations = &own["metadata"]["annotations"];
        assert_eq!(annotations["gateway.networking.k8s.io/bundle-version"], "v1.6.1");
        assert_eq!(annotations["gateway.networking.k8s.io/channel"], "experimental");
        let alias = named("gateways.gateway.apoxy.dev");
        assert_eq!(alias["metadata"]["annotations"], json!({}));
        assert_eq!(alias["spec"]["names"], own["spec"]["names"]);
    }

    #[test]
    fn a_definition_tells_what_clients_look_for() {
        let definition = named("gateways.gateway.networking.k8s.io");
        assert_eq!(definition["apiVersion"], "apiextensions.k8s.io/v1");
        assert_eq!(definition["kind"], "CustomResourceDefinition");
        let names = json!({"plural": "gateways", "singular": "gateway", "kind": "Gateway", "listKind": "GatewayList",
            "shortNames": ["gtw"]});
        let schema = json!({"openAPIV3Schema": {"type": "object", "description": "Gateway"}});
        let version = |name: &str, stored: bool| {
            json!({"name": name, "served": true, "storage": stored, "schema": schema,
                "subresources": {"status": {}}})
        };
        let spec = &definition["spec"];
        assert_eq!(spec["group"], "gateway.networking.k8s.io");
        assert_eq!(spec["names"], names);
        assert_eq!(spec["scope"], "Namespaced");
        assert_eq!(spec["versions"], json!([version("v1", true), version("v1beta1", false)]));
        let status = &definition["status"];
        assert_eq!(status["acceptedNames"], names);
        assert_eq!(status["storedVersions"], json!(["v1"]));
        for (at, kind) in [(0, "NamesAccepted"), (1, "Established")] {
            assert_eq!(status["conditions"][at]["type"], kind);
            assert_eq!(status["conditions"][at]["status"], "True");
        }
    }

    #[test]
    fn scope_status_and_short_names_are_those_of_the_kind() {
        assert_eq!(named("gatewayclasses.gateway.networking.k8s.io")["spec"]["scope"], "Cluster");
        assert_eq!(named("projects.core.apoxy.dev")["spec"]["scope"], "Cluster");
        let grant = named("referencegrants.gateway.networking.k8s.io");
        assert_eq!(grant["spec"]["versions"][0].get("subresources"), None);
        assert_eq!(named("tcproutes.gateway.apoxy.dev")["spec"]["names"].get("shortNames"), None);
    }
}
