//! Backends: what their endpoints mean, and what a route's reference to one resolves to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use underpass_shared::{
    identity::{NodeName, ProjectName},
    resource::{
        backend::{self, Backend, BackendStatus},
        http_route::BackendObjectReference,
        kind::Kind,
    },
};

use super::{
    Place, ProjectSnapshot, Settings, Status, WantedStatus,
    backend_tls::Policies,
    backend_traffic, conditions, dynamic,
    extensions::Extensions,
    generation,
    grants::{self, End},
    routes::Origin,
    services::Services,
    stop,
};
use crate::{
    proxy::may_dial::{Purpose, may_dial},
    route::{
        filter::Filters,
        host,
        lookup::Lookup,
        target::{self, Answers, Endpoint, Link, Protocol, Target, Upstream},
        tls::{Roots, UpstreamTls},
    },
};

/// How an endpoint is spoken to.
type Speech = (Protocol, Option<Arc<UpstreamTls>>);

/// An endpoint before a reference adds the port.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Node(NodeName),
    Address(IpAddr),
    Host(Box<str>),
    /// What each request names.
    Asked(Arc<Lookup>),
}

/// Why an endpoint cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum EndpointError {
    #[error("either fqdn or ip must be set")]
    Neither,
    #[error("fqdn and ip exclude each other")]
    Both,
    #[error("ip `{0}` is not an IP address")]
    NotAnAddress(String),
    #[error("fqdn: {0}")]
    NotAHostname(#[from] host::HostError),
    #[error("fqdn `{0}` names no node: write NODE.{1}")]
    NoNode(String, String),
    #[error("fqdn `{0}` names an agent or a host behind a node, which is not supported yet: write NODE.{1}")]
    BehindNode(String, String),
}

fn read(endpoint: &backend::Endpoint, settings: &Settings) -> Result<Form, EndpointError> {
    match (&endpoint.fqdn, &endpoint.ip) {
        (None, None) => Err(EndpointError::Neither),
        (Some(_), Some(_)) => Err(EndpointError::Both),
        (None, Some(ip)) => ip.parse().map(Form::Address).map_err(|_| EndpointError::NotAnAddress(ip.clone())),
        (Some(fqdn), None) => read_name(fqdn, &settings.tunnel_domains),
    }
}

fn read_name(fqdn: &str, tunnel_domains: &[String]) -> Result<Form, EndpointError> {
    let name = host::parse_name(fqdn)?;
    for domain in tunnel_domains {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let Some(front) = name.strip_suffix(domain.as_str()) else { continue };
        let Some(node) = front.strip_suffix('.') else {
            if front.is_empty() {
                return Err(EndpointError::NoNode(fqdn.to_owned(), domain));
            }
            continue;
        };
        if node.contains('.') {
            return Err(EndpointError::BehindNode(fqdn.to_owned(), domain));
        }
        return node.parse().map(Form::Node).map_err(|_| EndpointError::NoNode(fqdn.to_owned(), domain));
    }
    Ok(Form::Host((*name).into()))
}

impl Form {
    fn upstream(self, project: &ProjectName, port: u16, (protocol, tls): Speech) -> Upstream {
        let endpoint = match self {
            Self::Node(node) => return Upstream { tls, ..Upstream::node(project, &node, port, protocol) },
            Self::Address(ip) => Endpoint::Address(SocketAddr::new(ip, port)),
            Self::Host(name) => Endpoint::Host { name, port, lookup: None },
            Self::Asked(lookup) => Endpoint::Asked { lookup, port },
        };
        Upstream { project: project.clone(), endpoint, protocol, tls, announces: None, link: Link::default() }
    }
}

/// What the Backend's status must say.
pub(super) fn wanted(
    project: &ProjectName,
    objects: &ProjectSnapshot,
    backend: &Backend,
    settings: &Settings,
) -> WantedStatus {
    let at = generation(&backend.metadata);
    let mut problems = Vec::new();
    let mut missing = Vec::new();
    let mut denied = Vec::new();
    for (index, endpoint) in backend.spec.endpoints.iter().enumerate() {
        match read(endpoint, settings) {
            Err(error) => problems.push(format!("spec.endpoints[{index}]: {error}")),
            Ok(Form::Node(node)) if !objects.nodes.iter().any(|known| known.metadata.name == node.as_str()) => {
                missing.push(format!("TunnelNode {node} does not exist"));
            }
            Ok(Form::Address(ip)) => denied.extend(
                // Which ports are the relay's own is decided when it dials.
                may_dial(&settings.dial_policy, project, Purpose::Backend, SocketAddr::new(ip, 0))
                    .err()
                    .map(|why| format!("spec.endpoints[{index}]: {why}")),
            ),
            Ok(Form::Node(_) | Form::Host(_) | Form::Asked(_)) => {}
        }
    }
    match &backend.spec.dynamic_proxy {
        None if backend.spec.endpoints.is_empty() => problems.push("spec.endpoints is empty".to_owned()),
        None => {}
        // The endpoints of such a Backend are not used, whatever they are: some tools want one there.
        Some(written) => {
            (missing, denied) = (Vec::new(), Vec::new());
            let read = dynamic::read(project, &Place::of(&backend.metadata), written);
            problems = read.err().map(|error| error.to_string()).into_iter().collect();
        }
    }
    let stop = stop(objects.unserved(Kind::Backend, &backend.metadata));
    let mut conditions = vec![if let Some((reason, message)) = stop {
        conditions::no(at, "Accepted", reason, message)
    } else if !problems.is_empty() {
        conditions::no(at, "Accepted", "Invalid", problems.join("; "))
    } else if !denied.is_empty() {
        conditions::no(at, "Accepted", "AddressNotAllowed", denied.join("; "))
    } else {
        conditions::yes(at, "Accepted", "Accepted", "the Backend can be referred to by routes")
    }];
    if !missing.is_empty() {
        conditions.push(conditions::no(at, "ResolvedRefs", "NodeNotFound", missing.join("; ")));
    }
    WantedStatus {
        project: project.clone(),
        namespace: Some(Place::of(&backend.metadata).namespace.to_owned()),
        name: backend.metadata.name.clone(),
        status: Status::Backend(BackendStatus { conditions }),
    }
}

/// Why a reference to a backend does not resolve: the reason of the route's `ResolvedRefs`, and what to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    pub reason: &'static str,
    pub message: String,
}

/// One project's Backends by place, for the routes that refer to them.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) project: &'a ProjectName,
    backends: BTreeMap<Place<'a>, &'a Backend>,
    services: Services<'a>,
    policies: Policies<'a>,
    traffic: backend_traffic::Policies<'a>,
    pub(super) extensions: Extensions<'a>,
    pub(super) objects: &'a ProjectSnapshot,
    settings: &'a Settings,
}

impl<'a> Index<'a> {
    pub(super) fn new(project: &'a ProjectName, objects: &'a ProjectSnapshot, settings: &'a Settings) -> Self {
        let backends = objects.backends.iter().map(|backend| (Place::of(&backend.metadata), backend)).collect();
        let services = Services::new(&objects.services, &objects.slices);
        let policies = Policies::new(objects);
        let traffic = backend_traffic::Policies::new(objects);
        let extensions = Extensions::new(objects);
        Self { project, backends, services, policies, traffic, extensions, objects, settings }
    }
}

/// What `reference`, written in `origin`, stands for; its filters are still to be found.
pub(super) fn resolve(
    origin: &Origin<'_>,
    reference: &BackendObjectReference,
    weight: u32,
) -> (target::Backend, Option<Unresolved>) {
    let place = Place { namespace: reference.namespace.as_deref().unwrap_or(origin.namespace), name: &reference.name };
    let name: Arc<str> = place.to_string().into();
    let (target, unresolved) = match find(origin, reference) {
        Ok(target) => (target, None),
        Err(unresolved) => (not_usable(&place, 500, &unresolved.message), Some(unresolved)),
    };
    (target::Backend { name, weight, target, filters: Filters::default() }, unresolved)
}

fn not_usable(place: &Place<'_>, status: u16, why: &str) -> Target {
    let text = format!("backend {place} of the route is not usable: {why}").into();
    Target::Answer(target::Answer { status, text })
}

/// What kind of backend `reference`, written in an object of `from`, means, and where that is, whether it exists or not.
pub(super) fn referred<'a>(
    objects: &ProjectSnapshot,
    from: End<'a>,
    reference: &'a BackendObjectReference,
) -> Result<(Referred, Place<'a>), Unresolved> {
    let kind = kind_of(reference)?;
    let place = Place { namespace: reference.namespace.as_deref().unwrap_or(from.namespace), name: &reference.name };
    let group = if kind == Referred::Service { "" } else { "core.apoxy.dev" };
    let to = End { group, kind: kind.name(), namespace: place.namespace };
    // Before anything is said of what is there: whether it exists is nobody's business without a grant.
    if !grants::permits(&objects.grants, from, to, &reference.name) {
        let message = format!("{place} is in another namespace, where no ReferenceGrant lets the route refer to it");
        return Err(Unresolved { reason: "RefNotPermitted", message });
    }
    Ok((kind, place))
}

fn find(origin: &Origin<'_>, reference: &BackendObjectReference) -> Result<Target, Unresolved> {
    let Origin { index, namespace, .. } = *origin;
    let from = End { group: "gateway.networking.k8s.io", kind: origin.kind.info().name, namespace };
    match referred(index.objects, from, reference)? {
        (Referred::Service, place) => of_service(origin, &place, reference),
        (Referred::Backend, place) => of_backend(origin, &place, reference),
    }
}

fn of_backend(
    origin: &Origin<'_>,
    place: &Place<'_>,
    reference: &BackendObjectReference,
) -> Result<Target, Unresolved> {
    let Origin { index, answers, .. } = *origin;
    let unresolved = |reason, message| Unresolved { reason, message };
    let backend = index.backends.get(place);
    let backend = backend.ok_or_else(|| unresolved("BackendNotFound", format!("Backend {place} does not exist")))?;
    let port = reference.port.filter(|&port| port != 0);
    let port = port.ok_or_else(|| unresolved("UnsupportedValue", format!("the reference to {place} has no port")))?;
    let not_served =
        || unresolved("UnsupportedValue", format!("Backend {place} asks for what is not served yet: see its status"));
    if stop(index.objects.unserved(Kind::Backend, &backend.metadata)).is_some() {
        return Err(not_served());
    }
    let policy = match policy(origin, Referred::Backend, place, "") {
        Ok(policy) => policy,
        Err(answer) => return Ok(answer),
    };
    let written = backend.spec.protocol;
    let secure = policy.is_some() || matches!(written, backend::Protocol::Tls | backend::Protocol::H2);
    let protocol = match written {
        backend::Protocol::Other => return Err(not_served()),
        backend::Protocol::H2c | backend::Protocol::H2 => Protocol::Http2,
        _ if answers == Answers::Grpc => Protocol::Http2,
        _ if secure => Protocol::Either,
        _ => Protocol::Http1,
    };
    let upstreams: Vec<_> = match &backend.spec.dynamic_proxy {
        Some(_) if !matches!(origin.kind, Kind::HttpRoute | Kind::GrpcRoute) => {
            let message = format!(
                "Backend {place} goes by the host that requests name, and a {} has no requests",
                origin.kind.info().name
            );
            return Err(unresolved("UnsupportedValue", message));
        }
        Some(written) => {
            let lookup = dynamic::read(index.project, place, written);
            let lookup = lookup.map_err(|error| unresolved("UnsupportedValue", format!("Backend {place}: {error}")))?;
            // Verified as the host that the request names.
            let tls = secure.then(|| policy.clone().unwrap_or_else(|| by_its_name(&backend::Endpoint::default())));
            vec![Arc::new(Form::Asked(Arc::new(lookup)).upstream(index.project, port, (protocol, tls)))]
        }
        None => {
            let readable = backend.spec.endpoints.iter().filter_map(|endpoint| {
                let form = read(endpoint, index.settings).ok()?;
                let tls = secure.then(|| policy.clone().unwrap_or_else(|| by_its_name(endpoint)));
                Some(Arc::new(form.upstream(index.project, port, (protocol, tls))))
            });
            readable.collect()
        }
    };
    if upstreams.is_empty() {
        return Err(unresolved("UnsupportedValue", format!("Backend {place} has no usable endpoint: see its status")));
    }
    let mut target = Target::Upstreams(upstreams);
    if let Some(traffic) = index.traffic.of_backend(place) {
        target.deal((index.project, &place.to_string().into()), traffic, |_, traffic| traffic.clone());
    }
    Ok(target)
}

/// Verified as what it is called, by the CAs of the host.
fn by_its_name(endpoint: &backend::Endpoint) -> Arc<UpstreamTls> {
    let name = endpoint.fqdn.as_ref().or(endpoint.ip.as_ref()).map(String::as_str).unwrap_or_default();
    let server_name = name.trim_end_matches('.').to_ascii_lowercase().into();
    Arc::new(UpstreamTls { server_name, roots: Roots::System, names: Vec::new(), identity: None })
}

/// What a BackendTLSPolicy says of a backend.
///
/// # Errors
/// The answer instead of the backend, when its policy cannot be honoured. The reference itself leads somewhere.
fn policy(
    origin: &Origin<'_>,
    kind: Referred,
    place: &Place<'_>,
    port: &str,
) -> Result<Option<Arc<UpstreamTls>>, Target> {
    let found = origin.index.policies.find(kind, place, port).filter(|_| origin.kind != Kind::UdpRoute);
    let why = |trouble: &Unresolved| not_usable(place, 502, &format!("its BackendTLSPolicy: {}", trouble.message));
    found.transpose().map(|tls| tls.cloned()).map_err(why)
}

/// The endpoints of a Service; none of them when none is ready, which is answered 503.
fn of_service(
    origin: &Origin<'_>,
    place: &Place<'_>,
    reference: &BackendObjectReference,
) -> Result<Target, Unresolved> {
    let found = origin.index.services.find(place, reference.port)?;
    let tls = match policy(origin, Referred::Service, place, found.port_name) {
        Ok(policy) => policy,
        Err(answer) => return Ok(answer),
    };
    let protocol = match found.app_protocol {
        Some("kubernetes.io/wss") if tls.is_none() => {
            let message = format!("Service {place} asks for TLS, which needs a BackendTLSPolicy for it");
            return Err(Unresolved { reason: "UnsupportedProtocol", message });
        }
        Some("kubernetes.io/h2c") => Protocol::Http2,
        _ if origin.answers == Answers::Grpc => Protocol::Http2,
        // WebSockets are asked for over HTTP/1.1.
        Some("kubernetes.io/ws" | "kubernetes.io/wss") => Protocol::Http1,
        // Names that are not known may be ignored (KEP-3726).
        _ if tls.is_some() => Protocol::Either,
        _ => Protocol::Http1,
    };
    let upstream = |address| {
        let (project, endpoint) = (origin.index.project.clone(), Endpoint::Address(address));
        Arc::new(Upstream { project, endpoint, protocol, tls: tls.clone(), announces: None, link: Link::default() })
    };
    Ok(Target::Upstreams(found.addresses.into_iter().map(upstream).collect()))
}

/// What a reference may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Referred {
    Service,
    Backend,
}

impl Referred {
    fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Backend => "Backend",
        }
    }
}

/// A Backend without group is ours: manifests leave it out.
fn kind_of(reference: &BackendObjectReference) -> Result<Referred, Unresolved> {
    let kind = reference.kind.as_deref().unwrap_or("Service");
    let group = reference.group.as_deref().unwrap_or_default();
    match (kind, group) {
        ("Service", "") => Ok(Referred::Service),
        ("Backend", "" | "core.apoxy.dev") => Ok(Referred::Backend),
        _ => {
            let kind = if group.is_empty() { kind.to_owned() } else { format!("{group}/{kind}") };
            let message = format!("kind {kind} is not supported: refer to a Service, or a Backend of core.apoxy.dev");
            Err(Unresolved { reason: "InvalidKind", message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<Form, EndpointError> {
        read_name(text, &["tun.internal".to_owned(), "tun.example.net.".to_owned()])
    }

    #[test]
    fn names_in_a_tunnel_domain_are_nodes() {
        let office = || Ok(Form::Node("office".parse().unwrap()));
        assert_eq!(name("office.tun.internal"), office());
        assert_eq!(name("Office.TUN.internal."), office());
        assert_eq!(name("office.tun.example.net"), office());
    }

    #[test]
    fn names_below_a_node_are_refused_for_now() {
        assert!(matches!(name("a1.office.tun.internal"), Err(EndpointError::BehindNode(..))));
        assert!(matches!(name("192-0-2-7.office.tun.internal"), Err(EndpointError::BehindNode(..))));
    }

    #[test]
    fn the_tunnel_domain_itself_names_no_node() {
        assert!(matches!(name("tun.internal"), Err(EndpointError::NoNode(..))));
        assert!(matches!(name("a_b.tun.internal"), Err(EndpointError::NoNode(..))));
    }

    #[test]
    fn other_names_are_hosts() {
        assert_eq!(name("api.example.com"), Ok(Form::Host("api.example.com".into())));
        assert_eq!(name("xtun.internal"), Ok(Form::Host("xtun.internal".into())));
        assert!(matches!(name("10.0.0.1"), Err(EndpointError::NotAHostname(_))));
    }
}
