//! Request path → what it names. Pure; answers only "not found", with a sentence that says why.

use underpass_shared::{
    identity::ProjectName,
    resource::kind::{KINDS, Kind, KindInfo, Scope},
};

use crate::{
    schema::{dns_label, dns_subdomain},
    store::object::ObjectKey,
};

/// The longest path in bytes; three names of 253 bytes and the fixed parts fit.
const PATH_BYTES_MAX: usize = 2048;

/// What a request path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Version,
    Health,
    /// `/api`: the versions of the core group, of which none is served.
    CoreVersions,
    /// `/apis`.
    Groups {
        scope: Reach,
    },
    /// `/apis/GROUP`.
    Group {
        scope: Reach,
        group: &'static str,
    },
    /// `/apis/GROUP/VERSION`.
    Resources {
        scope: Reach,
        api_version: &'static str,
    },
    Collection(Place),
    Item(Place, String),
    /// `tunnelnodes/NAME/token`.
    Token(Place, String),
}

/// Which kinds a path's discovery shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// All: no project was named.
    Deployment,
    /// Those inside this project.
    Project(ProjectName),
}

/// Where the objects of a kind are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// The `apiVersion` under which the objects are shown.
    pub(super) api_version: &'static str,
    /// `None` for kinds outside projects.
    pub(super) project: Option<ProjectName>,
    /// `None` for kinds without namespaces, and for a collection over all of them.
    pub(super) namespace: Option<String>,
}

impl Place {
    /// The key of the object `name` here.
    #[must_use]
    pub(super) fn key(&self, name: &str) -> ObjectKey {
        ObjectKey {
            kind: self.kind,
            project: self.project.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }
}

/// Why a path names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    #[error("the path has an escape, an empty part, or a character that no name has")]
    Malformed,
    #[error("there is nothing at this path; resources are under /apis and /projects/PROJECT/apis")]
    Nothing,
    #[error("the API group or version is not served")]
    NoGroup,
    #[error("this group and version have no resource {0}")]
    NoResource(String),
    #[error("projects belong to no project: use /apis/core.apoxy.dev/v1alpha2/projects")]
    OutsideProjects,
    #[error("{0} have no namespaces")]
    NoNamespaces(&'static str),
    #[error("{0} are named within a namespace: use /namespaces/NAMESPACE/{0}/NAME")]
    NamespaceMissing(&'static str),
    #[error("{0}")]
    BadName(String),
    #[error("{0} have no such subresource, or it is not supported yet")]
    NoSubresource(&'static str),
}

/// What `path` names. It must be free of a query.
///
/// # Errors
/// See [`PathError`]; all of them are a 404.
pub(super) fn parse(path: &str) -> Result<Target, PathError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let rest = path.strip_prefix('/').ok_or(PathError::Malformed)?;
    let parts: Vec<&str> = rest.split('/').collect();
    if !parts.iter().all(|part| !part.is_empty() && part.bytes().all(plain) && !matches!(*part, "." | "..")) {
        return Err(PathError::Malformed);
    }
    match parts.as_slice() {
        ["projects", project, inner @ ..] => {
            let project = project.parse().map_err(|error| PathError::BadName(format!("{error}")))?;
            within(&Reach::Project(project), inner)
        }
        inner => within(&Reach::Deployment, inner),
    }
}

fn within(reach: &Reach, parts: &[&str]) -> Result<Target, PathError> {
    let scope = || reach.clone();
    match parts {
        ["version"] => Ok(Target::Version),
        ["healthz" | "livez" | "readyz"] => Ok(Target::Health),
        ["api"] => Ok(Target::CoreVersions),
        ["apis"] => Ok(Target::Groups { scope: scope() }),
        ["apis", group] => {
            let group = groups().into_iter().find(|known| known == group).ok_or(PathError::NoGroup)?;
            Ok(Target::Group { scope: scope(), group })
        }
        ["apis", group, version, rest @ ..] => {
            let wanted = format!("{group}/{version}");
            let api_version = api_versions().find(|known| *known == wanted).ok_or(PathError::NoGroup)?;
            match rest {
                [] => Ok(Target::Resources { scope: scope(), api_version }),
                rest => resource(reach, api_version, rest),
            }
        }
        _ => Err(PathError::Nothing),
    }
}

fn resource(reach: &Reach, api_version: &'static str, parts: &[&str]) -> Result<Target, PathError> {
    let (namespace, plural, rest) = match parts {
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest),
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return Err(PathError::Nothing),
    };
    let kind = Kind::of_path(api_version, plural).ok_or_else(|| PathError::NoResource(plural.to_owned()))?;
    let info = kind.info();
    let place =
        Place { kind, api_version, project: project_of(reach, info)?, namespace: namespace_of(namespace, info)? };
    let name = match rest {
        [] => return Ok(Target::Collection(place)),
        [name, ..] => (*name).to_owned(),
    };
    if info.scope == Scope::Namespaced && place.namespace.is_none() {
        return Err(PathError::NamespaceMissing(info.plural));
    }
    dns_subdomain(&name).map_err(PathError::BadName)?;
    match rest {
        [_] => Ok(Target::Item(place, name)),
        [_, "token"] if kind == Kind::TunnelNode => Ok(Target::Token(place, name)),
        _ => Err(PathError::NoSubresource(info.plural)),
    }
}

fn project_of(reach: &Reach, info: &KindInfo) -> Result<Option<ProjectName>, PathError> {
    match (info.scope, reach) {
        (Scope::Deployment, Reach::Deployment) => Ok(None),
        (Scope::Deployment, Reach::Project(_)) => Err(PathError::OutsideProjects),
        (_, Reach::Deployment) => Ok(Some(ProjectName::default())),
        (_, Reach::Project(project)) => Ok(Some(project.clone())),
    }
}

fn namespace_of(namespace: Option<&str>, info: &KindInfo) -> Result<Option<String>, PathError> {
    let Some(namespace) = namespace else { return Ok(None) };
    if info.scope != Scope::Namespaced {
        return Err(PathError::NoNamespaces(info.plural));
    }
    dns_label(namespace).map_err(PathError::BadName)?;
    Ok(Some(namespace.to_owned()))
}

/// Every `group/version` that is served, in the order of the kinds, once each.
pub(super) fn api_versions() -> impl Iterator<Item = &'static str> {
    let all: Vec<&'static str> = KINDS.iter().flat_map(|info| info.api_versions.iter().copied()).collect();
    (0..all.len()).filter(|&n| !all[..n].contains(&all[n])).map(|n| all[n]).collect::<Vec<_>>().into_iter()
}

/// Every group that is served, once each.
pub(super) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    for group in api_versions().filter_map(|api_version| api_version.split_once('/')).map(|(group, _)| group) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(kind: Kind, api_version: &'static str, project: Option<&str>, namespace: Option<&str>) -> Place {
        Place {
            kind,
            api_version,
            project: project.map(|name| name.parse().unwrap()),
            namespace: namespace.map(str::to_owned),
        }
    }

    #[test]
    fn paths_name_what_they_say() {
        let route =
            |project, namespace| place(Kind::HttpRoute, "gateway.networking.k8s.io/v1", Some(project), namespace);
        let node = place(Kind::TunnelNode, "core.apoxy.dev/v1alpha", Some("default"), None);
        let project = place(Kind::Project, "core.apoxy.dev/v1alpha2", None, None);
        for (path, want) in [
            ("/version", Target::Version),
            ("/projects/shop/healthz", Target::Health),
            ("/apis", Target::Groups { scope: Reach::Deployment }),
            ("/apis/gateway.networking.k8s.io/v1/httproutes", Target::Collection(route("default", None))),
            (
                "/projects/shop/apis/gateway.networking.k8s.io/v1/namespaces/a/httproutes/web.example",
                Target::Item(route("shop", Some("a")), "web.example".to_owned()),
            ),
            (
                "/apis/gateway.apoxy.dev/v1/namespaces/default/gateways",
                Target::Collection(place(Kind::Gateway, "gateway.apoxy.dev/v1", Some("default"), Some("default"))),
            ),
            ("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office/token", Target::Token(node, "office".to_owned())),
            ("/apis/core.apoxy.dev/v1alpha2/projects/shop", Target::Item(project, "shop".to_owned())),
        ] {
            assert_eq!(parse(path), Ok(want), "{path}");
        }
    }

    #[test]
    fn tricks_and_mistakes_name_nothing() {
        for (path, want) in [
            ("", PathError::Malformed),
            ("version", PathError::Malformed),
            ("/apis/", PathError::Malformed),
            ("//apis", PathError::Malformed),
            ("/apis/../version", PathError::Malformed),
            ("/apis/%2e%2e/version", PathError::Malformed),
            ("/apis\\core.apoxy.dev", PathError::Malformed),
            ("/metrics", PathError::Nothing),
            ("/projects/shop/projects/other/apis", PathError::Nothing),
            ("/apis/gateway.networking.k8s.io/v9/httproutes", PathError::NoGroup),
            ("/apis/core.apoxy.dev/v1alpha/pods", PathError::NoResource("pods".to_owned())),
            ("/projects/shop/apis/core.apoxy.dev/v1alpha2/projects", PathError::OutsideProjects),
            ("/apis/core.apoxy.dev/v1alpha/namespaces/a/tunnelnodes/x", PathError::NoNamespaces("tunnelnodes")),
            ("/apis/core.apoxy.dev/v1alpha2/backends/x", PathError::NamespaceMissing("backends")),
            ("/apis/core.apoxy.dev/v1alpha/tunnelnodes/x/status", PathError::NoSubresource("tunnelnodes")),
            ("/apis/core.apoxy.dev/v1alpha2/namespaces/a/backends/x/token", PathError::NoSubresource("backends")),
        ] {
            assert_eq!(parse(path), Err(want), "{path}");
        }
        assert!(matches!(parse("/projects/Shop/apis"), Err(PathError::BadName(_))));
        assert!(matches!(parse("/apis/core.apoxy.dev/v1alpha/tunnelnodes/-x"), Err(PathError::BadName(_))));
        assert_eq!(parse(&format!("/apis/{}", "a".repeat(3000))), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(path in "(/|\\PC){0,40}") {
            let _ = parse(&path);
        }
    }
}
