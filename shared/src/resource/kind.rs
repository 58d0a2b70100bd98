//! The table of kinds: what is served, under which groups, versions and names.

/// A kind that the API serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Project,
    Namespace,
    CustomResourceDefinition,
    ServiceAccount,
    ClusterRoleBinding,
    Secret,
    ConfigMap,
    Service,
    EndpointSlice,
    Deployment,
    Pod,
    Lease,
    TunnelNode,
    Proxy,
    DomainZone,
    DomainRecord,
    CloudMonitoringIntegration,
    GatewayClass,
    Gateway,
    ListenerSet,
    ReferenceGrant,
    Backend,
    BackendTlsPolicy,
    DirectResponse,
    HttpRouteFilter,
    EdgeFunction,
    EdgeFunctionRevision,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    UdpRoute,
    RateLimit,
    BackendTrafficPolicy,
    ClientTrafficPolicy,
    SecurityPolicy,
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
    /// Whether `status` is written through the `status` subresource only.
    pub has_status: bool,
    /// `group/version` pairs, or the version alone in the core group; the first is the stored form, the others are views
    /// of the same object.
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
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::Namespace,
        name: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::CustomResourceDefinition,
        name: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        scope: Scope::Cluster,
        has_status: false,
        api_versions: &["apiextensions.k8s.io/v1"],
    },
    KindInfo {
        kind: Kind::ServiceAccount,
        name: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::ClusterRoleBinding,
        name: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        short_names: &[],
        scope: Scope::Cluster,
        has_status: false,
        api_versions: &["rbac.authorization.k8s.io/v1"],
    },
    KindInfo {
        kind: Kind::Secret,
        name: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::ConfigMap,
        name: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::Service,
        name: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::EndpointSlice,
        name: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &["discovery.k8s.io/v1"],
    },
    KindInfo {
        kind: Kind::Deployment,
        name: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["apps/v1"],
    },
    KindInfo {
        kind: Kind::Pod,
        name: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["v1"],
    },
    KindInfo {
        kind: Kind::Lease,
        name: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &["coordination.k8s.io/v1"],
    },
    KindInfo {
        kind: Kind::TunnelNode,
        name: "TunnelNode",
        plural: "tunnelnodes",
        singular: "tunnelnode",
        short_names: &["tn", "tunnel", "tunnels"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha"],
    },
    KindInfo {
        kind: Kind::Proxy,
        name: "Proxy",
        plural: "proxies",
        singular: "proxy",
        short_names: &[],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::DomainZone,
        name: "DomainZone",
        plural: "domainzones",
        singular: "domainzone",
        short_names: &["dz"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha3", "core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::DomainRecord,
        name: "DomainRecord",
        plural: "domainrecords",
        singular: "domainrecord",
        short_names: &["dr"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha3", "core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::CloudMonitoringIntegration,
        name: "CloudMonitoringIntegration",
        plural: "cloudmonitoringintegrations",
        singular: "cloudmonitoringintegration",
        short_names: &["cmi"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::GatewayClass,
        name: "GatewayClass",
        plural: "gatewayclasses",
        singular: "gatewayclass",
        short_names: &["gc"],
        scope: Scope::Cluster,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1beta1",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1beta1",
        ],
    },
    KindInfo {
        kind: Kind::Gateway,
        name: "Gateway",
        plural: "gateways",
        singular: "gateway",
        short_names: &["gtw"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1beta1",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1beta1",
        ],
    },
    KindInfo {
        kind: Kind::ListenerSet,
        name: "ListenerSet",
        plural: "listenersets",
        singular: "listenerset",
        short_names: &["lset"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["gateway.networking.k8s.io/v1", "gateway.apoxy.dev/v1"],
    },
    KindInfo {
        kind: Kind::ReferenceGrant,
        name: "ReferenceGrant",
        plural: "referencegrants",
        singular: "referencegrant",
        short_names: &["refgrant"],
        scope: Scope::Namespaced,
        has_status: false,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1beta1",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1beta1",
        ],
    },
    KindInfo {
        kind: Kind::Backend,
        name: "Backend",
        plural: "backends",
        singular: "backend",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["core.apoxy.dev/v1alpha2", "core.apoxy.dev/v1alpha"],
    },
    KindInfo {
        kind: Kind::BackendTlsPolicy,
        name: "BackendTLSPolicy",
        plural: "backendtlspolicies",
        singular: "backendtlspolicy",
        short_names: &["btlspolicy"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha3",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1alpha3",
        ],
    },
    KindInfo {
        kind: Kind::DirectResponse,
        name: "DirectResponse",
        plural: "directresponses",
        singular: "directresponse",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["extensions.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::HttpRouteFilter,
        name: "HTTPRouteFilter",
        plural: "httproutefilters",
        singular: "httproutefilter",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["extensions.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::EdgeFunction,
        name: "EdgeFunction",
        plural: "edgefunctions",
        singular: "edgefunction",
        short_names: &["ef"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["extensions.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::EdgeFunctionRevision,
        name: "EdgeFunctionRevision",
        plural: "edgefunctionrevisions",
        singular: "edgefunctionrevision",
        short_names: &["efr"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["extensions.apoxy.dev/v1alpha2"],
    },
    KindInfo {
        kind: Kind::HttpRoute,
        name: "HTTPRoute",
        plural: "httproutes",
        singular: "httproute",
        short_names: &["hr"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1beta1",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1beta1",
        ],
    },
    KindInfo {
        kind: Kind::GrpcRoute,
        name: "GRPCRoute",
        plural: "grpcroutes",
        singular: "grpcroute",
        short_names: &["gr"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["gateway.networking.k8s.io/v1", "gateway.apoxy.dev/v1"],
    },
    KindInfo {
        kind: Kind::TlsRoute,
        name: "TLSRoute",
        plural: "tlsroutes",
        singular: "tlsroute",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha3",
            "gateway.networking.k8s.io/v1alpha2",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1alpha3",
            "gateway.apoxy.dev/v1alpha2",
        ],
    },
    KindInfo {
        kind: Kind::TcpRoute,
        name: "TCPRoute",
        plural: "tcproutes",
        singular: "tcproute",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha2",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1alpha2",
        ],
    },
    KindInfo {
        kind: Kind::UdpRoute,
        name: "UDPRoute",
        plural: "udproutes",
        singular: "udproute",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &[
            "gateway.networking.k8s.io/v1",
            "gateway.networking.k8s.io/v1alpha2",
            "gateway.apoxy.dev/v1",
            "gateway.apoxy.dev/v1alpha2",
        ],
    },
    KindInfo {
        kind: Kind::RateLimit,
        name: "RateLimit",
        plural: "ratelimits",
        singular: "ratelimit",
        short_names: &[],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["policy.apoxy.dev/v1alpha1"],
    },
    KindInfo {
        kind: Kind::BackendTrafficPolicy,
        name: "BackendTrafficPolicy",
        plural: "backendtrafficpolicies",
        singular: "backendtrafficpolicy",
        short_names: &["btp"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["policy.apoxy.dev/v1alpha1"],
    },
    KindInfo {
        kind: Kind::ClientTrafficPolicy,
        name: "ClientTrafficPolicy",
        plural: "clienttrafficpolicies",
        singular: "clienttrafficpolicy",
        short_names: &["ctp"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["policy.apoxy.dev/v1alpha1"],
    },
    KindInfo {
        kind: Kind::SecurityPolicy,
        name: "SecurityPolicy",
        plural: "securitypolicies",
        singular: "securitypolicy",
        short_names: &["sp"],
        scope: Scope::Namespaced,
        has_status: true,
        api_versions: &["policy.apoxy.dev/v1alpha1"],
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
