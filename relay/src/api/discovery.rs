//! What the API tells clients of itself: version, groups, resources; in the old form and the aggregated one. Pure.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind, KindInfo, Scope};

use super::{
    exchange::Done,
    negotiate::{self, Discovery},
    openapi,
    path::{CORE, REVIEWS, Reach, Subresource, Target, api_versions, groups},
    status::Failure,
};

/// The Kubernetes release whose REST conventions are followed.
const KUBERNETES_MAJOR: &str = "1";
const KUBERNETES_MINOR: &str = "36";

/// What every stored kind can do.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `/version` (`version.Info`).
#[must_use]
pub(super) fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": KUBERNETES_MAJOR,
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v{KUBERNETES_MAJOR}.{KUBERNETES_MINOR}.0+underpass.{own}"),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "underpass": own,
    })
}

/// The document at `target`, one of those that describe.
///
/// # Errors
/// 406 when the client takes no form that it has.
pub(super) fn document(target: &Target, reach: &Reach, headers: &HeaderMap) -> Result<Done, Failure> {
    let shown = |value| Ok(Done::shown(StatusCode::OK, value));
    match target {
        Target::Root { .. } => shown(root(reach)),
        Target::CoreVersions { .. } => match negotiate::discovery(headers)? {
            Discovery::Legacy => shown(core_versions()),
            Discovery::Aggregated(version) => Ok(aggregated(reach, version, true)),
        },
        Target::Groups { .. } => match negotiate::discovery(headers)? {
            Discovery::Legacy => shown(group_list(reach)),
            Discovery::Aggregated(version) => Ok(aggregated(reach, version, false)),
        },
        Target::Group { group, .. } => shown(self::group(reach, group)),
        Target::Resources { api_version, .. } => shown(resources(reach, api_version)),
        Target::OpenApiV2 { .. } => openapi::v2(reach, headers),
        Target::OpenApiV3Index { .. } => openapi::v3_index(reach, headers),
        Target::OpenApiV3 { api_version, .. } => openapi::v3(reach, api_version, headers),
        _ => Err(Failure::not_allowed("this is no document")),
    }
}

fn root(reach: &Reach) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups() {
        paths.push(format!("/apis/{group}"));
    }
    let versions = api_versions().filter(|version| *version != CORE && is_shown(reach, version));
    paths.extend(versions.map(|version| format!("/apis/{version}")));
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({ "paths": paths })
}

/// `/api`.
fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": [CORE], "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
#[must_use]
fn group_list(reach: &Reach) -> Value {
    let groups: Vec<Value> = groups().into_iter().map(|name| group_body(reach, name)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`.
#[must_use]
fn group(reach: &Reach, name: &str) -> Value {
    let mut group = group_body(reach, name);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    group
}

/// `/apis/GROUP/VERSION` and `/api/v1`.
#[must_use]
fn resources(reach: &Reach, api_version: &str) -> Value {
    let mut resources = Vec::new();
    for info in shown(reach).filter(|info| info.api_versions.contains(&api_version)) {
        let mut resource = json!({
            "name": info.plural,
            "singularName": info.singular,
            "namespaced": info.scope == Scope::Namespaced,
            "kind": info.name,
            "verbs": verbs(info.kind),
            "shortNames": info.short_names,
        });
        if let Some(categories) = categories(info.kind) {
            resource["categories"] = json!(categories);
        }
        resources.push(resource);
        for subresource in Subresource::of(info.kind) {
            resources.push(json!({
                "name": format!("{}/{}", info.plural, subresource.name()),
                "singularName": "",
                "namespaced": info.scope == Scope::Namespaced,
                "kind": subresource_kind(info, subresource),
                "verbs": subresource_verbs(subresource),
            }));
        }
    }
    for (_, plural, kind, _) in REVIEWS.iter().filter(|review| review.0 == api_version) {
        resources.push(json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": ["create"],
        }));
    }
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources })
}

/// Everything in one answer (`apidiscovery.k8s.io` `APIGroupDiscoveryList`).
fn aggregated(reach: &Reach, version: &'static str, is_core: bool) -> Done {
    let items: Vec<Value> = match is_core {
        true => vec![json!({ "metadata": { "creationTimestamp": null }, "versions": [version_body(reach, CORE)] })],
        false => groups()
            .into_iter()
            .map(|group| {
                let versions: Vec<Value> =
                    versions_of(reach, group).into_iter().map(|version| version_body(reach, version)).collect();
                json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
            })
            .collect(),
    };
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let media = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    Done::bytes(media, list.to_string())
}

fn version_body(reach: &Reach, api_version: &'static str) -> Value {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let scope = |is_namespaced: bool| if is_namespaced { "Namespaced" } else { "Cluster" };
    let mut resources: Vec<Value> = shown(reach)
        .filter(|info| info.api_versions.contains(&api_version))
        .map(|info| {
            let subresources: Vec<Value> = Subresource::of(info.kind)
                .map(|subresource| {
                    json!({
                        "subresource": subresource.name(),
                        "responseKind": response_kind(group, version, subresource_kind(info, subresource)),
                        "verbs": subresource_verbs(subresource),
                    })
                })
                .collect();
            let mut resource = json!({
                "resource": info.plural,
                "responseKind": response_kind(group, version, info.name),
                "scope": scope(info.scope == Scope::Namespaced),
                "singularResource": info.singular,
                "verbs": verbs(info.kind),
                "shortNames": info.short_names,
                "subresources": subresources,
            });
            if let Some(categories) = categories(info.kind) {
                resource["categories"] = json!(categories);
            }
            resource
        })
        .collect();
    resources.extend(REVIEWS.iter().filter(|review| review.0 == api_version).map(|(_, plural, kind, _)| {
        json!({
            "resource": plural,
            "responseKind": response_kind(group, version, kind),
            "scope": "Cluster",
            "singularResource": kind.to_lowercase(),
            "verbs": ["create"],
        })
    }));
    json!({ "version": version, "resources": resources, "freshness": "Current" })
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// What can be done with a kind's objects.
#[must_use]
pub(super) fn verbs(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::CustomResourceDefinition => &["get", "list", "watch"],
        _ => &VERBS,
    }
}

fn subresource_verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Status => &["get", "patch", "update"],
        Subresource::Token => &["create"],
        Subresource::Log => &["create", "get", "update"],
    }
}

pub(super) fn subresource_kind(info: &'static KindInfo, subresource: Subresource) -> &'static str {
    match (subresource, info.kind) {
        (Subresource::Token, Kind::TunnelNode) => "TunnelNodeToken",
        (Subresource::Token, _) => "TokenRequest",
        (Subresource::Status | Subresource::Log, _) => info.name,
    }
}

/// The words by which `kubectl get` names several kinds at once.
pub(super) fn categories(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::Gateway | Kind::ListenerSet | Kind::GatewayClass | Kind::ReferenceGrant => Some(&["gateway-api"]),
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => Some(&["gateway-api"]),
        Kind::BackendTlsPolicy => Some(&["gateway-api"]),
        Kind::Service | Kind::Deployment | Kind::Pod => Some(&["all"]),
        _ => None,
    }
}

fn group_body(reach: &Reach, name: &str) -> Value {
    let versions: Vec<Value> = versions_of(reach, name)
        .into_iter()
        .map(|api_version| {
            let version = api_version.split_once('/').map_or("", |(_, version)| version);
            json!({ "groupVersion": api_version, "version": version })
        })
        .collect();
    let preferred = versions.first().cloned().unwrap_or_default();
    json!({ "name": name, "versions": versions, "preferredVersion": preferred })
}

/// A group's versions, the one to prefer first: stable before beta before alpha, newer before older.
fn versions_of(reach: &Reach, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = api_versions()
        .filter(|api_version| api_version.split_once('/').is_some_and(|(of, _)| of == group))
        .filter(|api_version| is_shown(reach, api_version))
        .collect();
    versions.sort_by_key(|api_version| std::cmp::Reverse(priority(api_version)));
    versions
}

/// How stable, and how new (`version.CompareKubeAwareVersionStrings`).
fn priority(api_version: &str) -> (u8, u32, u32) {
    let version = api_version.rsplit_once("/v").map_or("", |(_, version)| version);
    let number = |text: &str| text.parse().unwrap_or(0);
    match (version.split_once("alpha"), version.split_once("beta")) {
        (Some((major, minor)), _) => (0, number(major), number(minor)),
        (_, Some((major, minor))) => (1, number(major), number(minor)),
        _ => (2, number(version), 0),
    }
}

fn is_shown(reach: &Reach, api_version: &str) -> bool {
    shown(reach).any(|info| info.api_versions.contains(&api_version))
        || REVIEWS.iter().any(|review| review.0 == api_version)
}

/// The kinds that can be reached.
pub(super) fn shown(reach: &Reach) -> impl Iterator<Item = &'static KindInfo> + use<'_> {
    KINDS.iter().filter(|info| info.scope != Scope::Deployment || *reach == Reach::Deployment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &Value, field: &str) -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_kind_is_discovered_under_each_of_its_versions_in_both_forms() {
        for info in KINDS {
            for api_version in info.api_versions {
                let list = resources(&Reach::Deployment, api_version);
                assert!(names(&list["resources"], "name").contains(&info.plural.to_owned()), "{api_version}");
                let body = version_body(&Reach::Deployment, api_version);
                assert!(names(&body["resources"], "resource").contains(&info.plural.to_owned()), "{api_version}");
            }
        }
    }

    #[test]
    fn a_project_does_not_hold_projects() {
        let reach = Reach::Project("shop".parse().unwrap());
        let list = resources(&reach, "core.apoxy.dev/v1alpha2");
        assert!(!names(&list["resources"], "name").contains(&"projects".to_owned()));
    }

    #[test]
    fn groups_prefer_their_most_stable_version() {
        for (name, want) in [
            ("core.apoxy.dev", ["v1alpha3", "v1alpha2", "v1alpha"].as_slice()),
            ("gateway.networking.k8s.io", &["v1", "v1beta1", "v1alpha3", "v1alpha2"]),
        ] {
            let group = group(&Reach::Deployment, name);
            assert_eq!(names(&group["versions"], "version"), want);
            assert_eq!(group["preferredVersion"]["version"], want[0]);
        }
    }

    #[test]
    fn subresources_are_told() {
        let list = resources(&Reach::Deployment, "v1");
        let names = names(&list["resources"], "name");
        for name in ["pods/log", "pods/status", "namespaces/status", "serviceaccounts/token"] {
            assert!(names.contains(&name.to_owned()), "{name}");
        }
    }
}
