//! Request path → what it names. Pure; answers only "not found", with a sentence that says why.

use underpass_shared::{
    identity::ProjectName,
    resource::kind::{KINDS, Kind, KindInfo, Scope},
};

use crate::{
    schema::{dns_label, dns_subdomain},
    store::object::ObjectKey,
};

/// The core group's version, which has no group before it.
pub(super) const CORE: &str = "v1";
/// The longest path in bytes; three names of 253 bytes and the fixed parts fit.
const PATH_BYTES_MAX: usize = 2048;

/// What a request path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Version,
    /// Whether the relay runs.
    Health,
    /// Whether it is to be sent more.
    Ready,
    /// `/backup`: everything, for the deployment's administrators.
    Backup,
    /// `/`: the paths that lead on.
    Root {
        scope: Reach,
    },
    /// `/api`: the versions of the core group.
    CoreVersions {
        scope: Reach,
    },
    /// `/apis`.
    Groups {
        scope: Reach,
    },
    /// `/apis/GROUP`.
    Group {
        scope: Reach,
        group: &'static str,
    },
    /// `/apis/GROUP/VERSION`, `/api/v1`.
    Resources {
        scope: Reach,
        api_version: &'static str,
    },
    /// `/api/v1/events` and those of a namespace, which kubectl looks for when it describes an object: there are none.
    Events {
        scope: Reach,
    },
    /// `/openapi/v2`.
    OpenApiV2 {
        scope: Reach,
    },
    /// `/openapi/v3`: the documents there are.
    OpenApiV3Index {
        scope: Reach,
    },
    /// `/openapi/v3/apis/GROUP/VERSION`, `/openapi/v3/api/v1`.
    OpenApiV3 {
        scope: Reach,
        api_version: &'static str,
    },
    /// `POST` of a question about the caller, which is answered and not stored.
    Review {
        scope: Reach,
        review: Review,
    },
    Collection(Place),
    /// An object, or the subresource of it that `place` names.
    Item(Place, String),
}

/// A question about the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    /// `authorization.k8s.io/v1` `SelfSubjectAccessReview`.
    Access,
    /// `authorization.k8s.io/v1` `SelfSubjectRulesReview`.
    Rules,
    /// `authentication.k8s.io/v1` `SelfSubjectReview`.
    Subject,
}

/// The questions, and where they are put.
pub(super) const REVIEWS: [(&str, &str, &str, Review); 3] = [
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", Review::Access),
    ("authorization.k8s.io/v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", Review::Rules),
    ("authentication.k8s.io/v1", "selfsubjectreviews", "SelfSubjectReview", Review::Subject),
];

/// A part of an object that is written or read by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subresource {
    Status,
    /// Of a `TunnelNode`, a `ServiceAccount`.
    Token,
    /// Of a `Pod`.
    Log,
}

impl Subresource {
    /// Its name in paths, roles and audit lines.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Token => "token",
            Self::Log => "log",
        }
    }

    /// Those that `kind` has.
    pub(super) fn of(kind: Kind) -> impl Iterator<Item = Self> {
        [Self::Status, Self::Token, Self::Log].into_iter().filter(move |subresource| match subresource {
            Self::Status => kind.info().has_status,
            Self::Token => matches!(kind, Kind::TunnelNode | Kind::ServiceAccount),
            Self::Log => kind == Kind::Pod,
        })
    }
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
    pub(super) subresource: Option<Subresource>,
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
    #[error("there is nothing at this path; resources are under /api/v1, /apis and /projects/PROJECT")]
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
    #[error("{0} have no such subresource")]
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
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let rest = path.strip_prefix('/').ok_or(PathError::Malformed)?;
    // Some clients end a folder's path with a slash.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let parts: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
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
        ["backup"] if matches!(reach, Reach::Deployment) => Ok(Target::Backup),
        ["healthz" | "livez"] => Ok(Target::Health),
        ["readyz"] => Ok(Target::Ready),
        [] => Ok(Target::Root { scope: scope() }),
        ["api"] => Ok(Target::CoreVersions { scope: scope() }),
        ["api", "v1"] => Ok(Target::Resources { scope: scope(), api_version: CORE }),
        ["api", "v1", "events"] | ["api", "v1", "namespaces", _, "events"] => Ok(Target::Events { scope: scope() }),
        ["api", "v1", rest @ ..] => resource(reach, CORE, rest),
        ["openapi", "v2"] => Ok(Target::OpenApiV2 { scope: scope() }),
        ["openapi", "v3"] => Ok(Target::OpenApiV3Index { scope: scope() }),
        ["openapi", "v3", "api", "v1"] => Ok(Target::OpenApiV3 { scope: scope(), api_version: CORE }),
        ["openapi", "v3", "apis", group, version] => {
            Ok(Target::OpenApiV3 { scope: scope(), api_version: known(group, version)? })
        }
        ["apis"] => Ok(Target::Groups { scope: scope() }),
        ["apis", group] => {
            let group = groups().into_iter().find(|known| known == group).ok_or(PathError::NoGroup)?;
            Ok(Target::Group { scope: scope(), group })
        }
        ["apis", group, version, rest @ ..] => {
            let api_version = known(group, version)?;
            let asked = |review: &&(&str, &str, &str, Review)| review.0 == api_version && [review.1] == *rest;
            if let Some((_, _, _, review)) = REVIEWS.iter().find(asked) {
                return Ok(Target::Review { scope: scope(), review: *review });
            }
            match rest {
                [] => Ok(Target::Resources { scope: scope(), api_version }),
                rest => resource(reach, api_version, rest),
            }
        }
        _ => Err(PathError::Nothing),
    }
}

fn known(group: &str, version: &str) -> Result<&'static str, PathError> {
    let wanted = format!("{group}/{version}");
    api_versions().find(|known| *known == wanted).ok_or(PathError::NoGroup)
}

fn resource(reach: &Reach, api_version: &'static str, parts: &[&str]) -> Result<Target, PathError> {
    let (namespace, plural, rest) = match parts {
        // A namespace's own subresource looks like a collection in it.
        ["namespaces", _, "status"] => (None, "namespaces", &parts[1..]),
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest),
        [plural, rest @ ..] => (None, *plural, rest),
        [] => return Err(PathError::Nothing),
    };
    let kind = Kind::of_path(api_version, plural).ok_or_else(|| PathError::NoResource(plural.to_owned()))?;
    let info = kind.info();
    let (project, namespace) = (project_of(reach, info)?, namespace_of(namespace, info)?);
    let place = Place { kind, api_version, project, namespace, subresource: None };
    let name = match rest {
        [] => return Ok(Target::Collection(place)),
        [name, ..] => (*name).to_owned(),
    };
    if info.scope == Scope::Namespaced && place.namespace.is_none() {
        return Err(PathError::NamespaceMissing(info.plural));
    }
    if kind != Kind::ClusterRoleBinding {
        dns_subdomain(&name).map_err(PathError::BadName)?;
    }
    match rest {
        [_] => Ok(Target::Item(place, name)),
        [_, part] => {
            let subresource = Subresource::of(kind).find(|known| known.name() == *part);
            let subresource = Some(subresource.ok_or(PathError::NoSubresource(info.plural))?);
            Ok(Target::Item(Place { subresource, ..place }, name))
        }
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
    let of_kinds = KINDS.iter().flat_map(|info| info.api_versions.iter().copied());
    let all: Vec<&'static str> = of_kinds.chain(REVIEWS.iter().map(|review| review.0)).collect();
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
            subresource: None,
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
        let core = |kind, namespace| place(kind, "v1", Some("default"), namespace);
        let node = Place {
            subresource: Some(Subresource::Token),
            ..place(Kind::TunnelNode, "core.apoxy.dev/v1alpha", Some("default"), None)
        };
        let project = place(Kind::Project, "core.apoxy.dev/v1alpha2", None, None);
        for (path, want) in [
            ("/version", Target::Version),
            ("/projects/shop/healthz", Target::Health),
            ("/", Target::Root { scope: Reach::Deployment }),
            ("/apis/", Target::Groups { scope: Reach::Deployment }),
            ("/api/v1", Target::Resources { scope: Reach::Deployment, api_version: "v1" }),
            ("/api/v1/namespaces/a", Target::Item(core(Kind::Namespace, None), "a".to_owned())),
            ("/api/v1/namespaces/a/pods", Target::Collection(core(Kind::Pod, Some("a")))),
            (
                "/api/v1/namespaces/a/status",
                Target::Item(
                    Place { subresource: Some(Subresource::Status), ..core(Kind::Namespace, None) },
                    "a".to_owned(),
                ),
            ),
            (
                "/api/v1/namespaces/a/pods/p/log",
                Target::Item(
                    Place { subresource: Some(Subresource::Log), ..core(Kind::Pod, Some("a")) },
                    "p".to_owned(),
                ),
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:x",
                Target::Item(
                    place(Kind::ClusterRoleBinding, "rbac.authorization.k8s.io/v1", Some("default"), None),
                    "system:x".to_owned(),
                ),
            ),
            (
                "/projects/shop/openapi/v3/apis/core.apoxy.dev/v1alpha",
                Target::OpenApiV3 {
                    scope: Reach::Project("shop".parse().unwrap()),
                    api_version: "core.apoxy.dev/v1alpha",
                },
            ),
            (
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                Target::Review { scope: Reach::Deployment, review: Review::Access },
            ),
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
            ("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office/token", Target::Item(node, "office".to_owned())),
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
            ("/apis/core.apoxy.dev/v1alpha/tunnelnodes/x/log", PathError::NoSubresource("tunnelnodes")),
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
