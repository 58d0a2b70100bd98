//! The table of kinds: what is served, under which groups, versions and names.

/// A kind that the API serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Project,
    TunnelNode,
    Backend,
    Proxy,
    GatewayClass,
    Gateway,
    HttpRoute,
}

/// Where one project's objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One for the deployment, outside every project.
    Deployment,
    /// One namespace-less set per project.
    Cluster,
    Namespaced,
}

/// Everything the API and the CLI need to know of a kind.
#[derive(Debug)]
pub struct KindInfo {
    pub kind: Kind,
    /// The `kind` field of a manifest.
    pub name: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub scope: Scope,
    /// `group/version` pairs; the first is the stored form, the others are views of the same object.
    pub api_versions: &'static [&'static str],
}

/// All kinds, in the order in which a directory of manifests is best applied.
pub const KINDS: &[KindInfo] = &[
    KindInfo {
        kind: Kind::Project,
        name: "Project",
        plural: "projects",
        singular: "project",
        short_names: &[],
        scope: Scope::Deployment,
        api_versions: &["core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::TunnelNode,
        name: "TunnelNode",
        plural: "tunnelnodes",
        singular: "tunnelnode",
        short_names: &["tn", "tunnel", "tunnels"],
        scope: Scope::Cluster,
        api_versions: &["core.apoxy.dev/v1alpha"],
    },
    KindInfo {
        kind: Kind::Proxy,
        name: "Proxy",
        plural: "proxies",
        singular: "proxy",
        short_names: &[],
        scope: Scope::Cluster,
        api_versions: &["core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::GatewayClass,
        name: "GatewayClass",
        plural: "gatewayclasses",
        singular: "gatewayclass",
        short_names: &["gc"],
        scope: Scope::Cluster,
        api_versions: &["gateway.networking.k8s.io/v1", "gateway.apoxy.dev/v1"],
    },
    KindInfo {
        kind: Kind::Gateway,
        name: "Gateway",
        plural: "gateways",
        singular: "gateway",
        short_names: &["gtw"],
        scope: Scope::Namespaced,
        api_versions: &["gateway.networking.k8s.io/v1", "gateway.apoxy.dev/v1"],
    },
    KindInfo {
        kind: Kind::Backend,
        name: "Backend",
        plural: "backends",
        singular: "backend",
        short_names: &[],
        scope: Scope::Namespaced,
        api_versions: &["core.apoxy.dev/v1alpha2", "core.apoxy.dev/v1alpha"],
    },
    KindInfo {
        kind: Kind::HttpRoute,
        name: "HTTPRoute",
        plural: "httproutes",
        singular: "httproute",
        short_names: &["hr"],
        scope: Scope::Namespaced,
        api_versions: &["gateway.networking.k8s.io/v1", "gateway.apoxy.dev/v1"],
    },
];

impl Kind {
    /// The kind's row in [`KINDS`].
    ///
    /// # Panics
    /// Never: every kind has a row, which a test holds.
    #[must_use]
    pub fn info(self) -> &'static KindInfo {
        KINDS.iter().find(|info| info.kind == self).expect("every kind has a row in KINDS")
    }

    /// The kind that a manifest's `apiVersion` and `kind` name.
    #[must_use]
    pub fn of_manifest(api_version: &str, kind: &str) -> Option<Self> {
        KINDS.iter().find(|info| info.name == kind && info.api_versions.contains(&api_version)).map(|info| info.kind)
    }

    /// The kind of a plural in a request path such as `/apis/GROUP/VERSION/PLURAL`.
    #[must_use]
    pub fn of_path(api_version: &str, plural: &str) -> Option<Self> {
        KINDS
            .iter()
            .find(|info| info.plural == plural && info.api_versions.contains(&api_version))
            .map(|info| info.kind)
    }

    /// The kind that a person means by `word`: plural, singular, short name or kind, in any case.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        KINDS
            .iter()
            .find(|info| {
                info.plural == word
                    || info.singular == word
                    || info.name.eq_ignore_ascii_case(&word)
                    || info.short_names.contains(&word.as_str())
            })
            .map(|info| info.kind)
    }
}
