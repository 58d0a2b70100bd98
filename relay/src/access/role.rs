//! What each role may do. Pure.

use underpass_shared::{identity::ProjectName, resource::kind::Kind};

/// What a caller may do in a project, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Everything.
    Admin,
    /// Everything but giving rights to others.
    Editor,
    /// Reading everything but secrets.
    Viewer,
}

impl Role {
    /// By our names and by Kubernetes'.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "admin" | "cluster-admin" => Some(Self::Admin),
            "editor" | "edit" => Some(Self::Editor),
            "viewer" | "view" => Some(Self::Viewer),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }

    #[must_use]
    pub fn allows(self, access: &Access<'_>) -> bool {
        let gives_rights = matches!(access.kind, Some(Kind::ClusterRoleBinding | Kind::Project))
            || (access.kind == Some(Kind::ServiceAccount) && access.subresource == Some("token"));
        match self {
            Self::Admin => true,
            Self::Editor => access.is_read() || !gives_rights,
            Self::Viewer => access.is_read() && access.kind != Some(Kind::Secret),
        }
    }
}

/// What an agent must be able to do: look at its own node.
#[must_use]
pub fn agent_allows(node: &str, access: &Access<'_>) -> bool {
    access.kind == Some(Kind::TunnelNode)
        && access.verb == "get"
        && access.subresource.is_none()
        && access.name == Some(node)
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'a str,
    /// `None` for a kind that is not served.
    pub kind: Option<Kind>,
    pub subresource: Option<&'a str>,
    /// `None` for kinds outside projects.
    pub project: Option<&'a ProjectName>,
    pub namespace: Option<&'a str>,
    pub name: Option<&'a str>,
}

impl Access<'_> {
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }
}

/// The API group of a kind; empty for the core group.
#[must_use]
pub fn group_of(kind: Kind) -> &'static str {
    kind.info().api_versions[0].split_once('/').map_or("", |(group, _)| group)
}
