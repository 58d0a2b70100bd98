//! What the API tells clients of itself: version, groups, resources. Pure.

use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo, Scope};

use super::path::{Reach, api_versions, groups};

/// The Kubernetes release whose REST conventions are followed.
const KUBERNETES_MAJOR: &str = "1";
const KUBERNETES_MINOR: &str = "32";

/// `/version` (`version.Info`).
#[must_use]
pub(super) fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": KUBERNETES_MAJOR,
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}.0+underpass.{own}"),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "underpass": own,
    })
}

/// `/api`.
#[must_use]
pub(super) fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": [], "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
#[must_use]
pub(super) fn group_list(reach: &Reach) -> Value {
    let groups: Vec<Value> = groups().into_iter().map(|name| group_body(reach, name)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`.
#[must_use]
pub(super) fn group(reach: &Reach, name: &str) -> Value {
    let mut group = group_body(reach, name);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    group
}

/// `/apis/GROUP/VERSION`.
#[must_use]
pub(super) fn resources(reach: &Reach, api_version: &str) -> Value {
    let mut resources = Vec::new();
    for info in shown(reach).filter(|info| info.api_versions.contains(&api_version)) {
        resources.push(json!({
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.scope == Scope::Namespaced,
            "kind": info.name,
            "verbs": ["create", "delete", "get", "list", "update"],
            "shortNames": info.short_names,
        }));
        if info.kind == Kind::TunnelNode {
            resources.push(json!({
                "name": format!("{}/token", info.plural),
                "singularName": "",
                "namespaced": false,
                "kind": "TunnelNodeToken",
                "verbs": ["create"],
            }));
        }
    }
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources })
}

fn group_body(reach: &Reach, name: &str) -> Value {
    let served = |api_version: &&str| {
        let of_group = api_version.split_once('/').is_some_and(|(group, _)| group == name);
        of_group && shown(reach).any(|info| info.api_versions.contains(api_version))
    };
    let mut versions: Vec<Value> = api_versions()
        .filter(served)
        .map(|api_version| {
            let version = api_version.split_once('/').map_or("", |(_, version)| version);
            json!({ "groupVersion": api_version, "version": version })
        })
        .collect();
    versions.sort_by(|a, b| b["version"].as_str().cmp(&a["version"].as_str()));
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({ "name": name, "versions": versions, "preferredVersion": preferred })
}

fn shown(reach: &Reach) -> impl Iterator<Item = &'static KindInfo> + use<'_> {
    KINDS.iter().filter(|info| info.scope != Scope::Deployment || *reach == Reach::Deployment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_discovered_under_each_of_its_versions() {
        for info in KINDS {
            for api_version in info.api_versions {
                let list = resources(&Reach::Deployment, api_version);
                let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect();
                assert!(names.contains(&json!(info.plural)), "{api_version} {names:?}");
            }
        }
    }

    #[test]
    fn a_project_does_not_hold_projects() {
        let reach = Reach::Project("shop".parse().unwrap());
        let list = resources(&reach, "core.apoxy.dev/v1alpha2");
        assert!(list["resources"].as_array().unwrap().iter().all(|resource| resource["name"] != "projects"));
    }

    #[test]
    fn groups_prefer_their_newest_version() {
        let list = group_list(&Reach::Deployment);
        assert_eq!(list["groups"].as_array().unwrap().len(), 3);
        let core = group(&Reach::Deployment, "core.apoxy.dev");
        assert_eq!(core["preferredVersion"]["version"], "v1alpha2");
        assert_eq!(core["versions"].as_array().unwrap().len(), 2);
    }
}
