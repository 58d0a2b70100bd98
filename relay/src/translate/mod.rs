//! Resources as users wrote them → the table that requests are served from, and what every object's status must say.
//!
//! Pure and total: any snapshot gives a translation, in whatever order its objects come. Does not read the store, the
//! clock or the sockets; the controller does, and hands in what it found. Journey C ends here.

mod attach;
mod backends;
mod conditions;
mod gateways;
mod owners;
mod routes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        backend::{Backend, BackendStatus},
        condition::Condition,
        gateway::{CONTROLLER_NAME, Gateway, GatewayClass, GatewayClassStatus, GatewayStatus},
        http_route::{HttpRoute, RouteStatus},
        kind::Kind,
        metadata::Metadata,
        tunnel_node::TunnelNode,
    },
};

pub use self::{conditions::keep_times, owners::Owners};
use crate::{
    proxy::may_dial::DialPolicy,
    route::table::{Table, TableBuilder},
};

/// Everything that routing is decided from, at one revision of the store.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub projects: BTreeMap<ProjectName, ProjectSnapshot>,
    /// Who owned which hostname in the translation before: an owner that still claims a hostname keeps it.
    pub owners: Owners,
}

/// One project's objects, each name at most once per kind and namespace.
#[derive(Debug, Default)]
pub struct ProjectSnapshot {
    pub gateway_classes: Vec<GatewayClass>,
    pub gateways: Vec<Gateway>,
    pub routes: Vec<HttpRoute>,
    pub backends: Vec<Backend>,
    pub nodes: Vec<TunnelNode>,
}

/// What the operator set, and what the sockets said.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Suffixes whose names mean nodes, such as `tun.internal`.
    pub tunnel_domains: Vec<String>,
    /// What every Gateway's `status.addresses` says: IP addresses or hostnames.
    pub addresses: Vec<String>,
    /// Listener ports that could not be bound, and why.
    pub ports_unavailable: BTreeMap<u16, String>,
    pub dial_policy: DialPolicy,
}

/// What a snapshot means.
#[derive(Debug)]
pub struct Translation {
    pub table: Table,
    /// One entry per object that is ours to speak of, ordered by project, kind, namespace and name.
    pub wanted: Vec<WantedStatus>,
    /// To be handed into the next translation.
    pub owners: Owners,
}

/// What one object's status must say.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedStatus {
    pub project: ProjectName,
    pub namespace: Option<String>,
    pub name: String,
    pub status: Status,
}

/// A status whose `lastTransitionTime`s are empty until [`Status::keep_times`] has filled them.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    GatewayClass(GatewayClassStatus),
    Gateway(GatewayStatus),
    HttpRoute(RouteStatus),
    Backend(BackendStatus),
    /// Conditions about the node's spec only; the tunnels know the rest of its status.
    TunnelNode(Vec<Condition>),
}

impl Status {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::Backend(_) => Kind::Backend,
            Self::TunnelNode(_) => Kind::TunnelNode,
        }
    }
}

/// A namespaced object's place: namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Place<'a> {
    fn of(metadata: &'a Metadata) -> Self {
        Self { namespace: namespace_of(metadata), name: &metadata.name }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn namespace_of(metadata: &Metadata) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

/// Seconds since the epoch, `i64::MAX` when the object does not say: the unknown is the youngest.
fn created(metadata: &Metadata) -> i64 {
    let text = metadata.creation_timestamp.as_deref().unwrap_or_default();
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .map_or(i64::MAX, time::OffsetDateTime::unix_timestamp)
}

fn generation(metadata: &Metadata) -> i64 {
    metadata.generation.unwrap_or_default()
}

/// Whether `group` is one of the two names of the Gateway API's group, which is also what no group means.
fn is_gateway_group(group: Option<&str>) -> bool {
    matches!(group, None | Some("gateway.networking.k8s.io" | "gateway.apoxy.dev"))
}

/// Makes the table and every status out of `snapshot`.
#[must_use]
pub fn translate(snapshot: &Snapshot, settings: &Settings) -> Translation {
    let mut gateways = gateways::place(snapshot, settings);
    let mut routes = routes::compile(snapshot, settings);
    attach::find_listeners(snapshot, &gateways, &mut routes);
    let owners = owners::settle(&snapshot.owners, &mut gateways, &mut routes);

    let mut builder = TableBuilder::default();
    attach::build(&mut builder, &gateways, &routes, &owners);

    let mut wanted = Vec::new();
    for (project, objects) in &snapshot.projects {
        wanted.extend(objects.gateway_classes.iter().filter(is_ours).map(|class| gateway_class(project, class)));
        wanted.extend(objects.backends.iter().map(|backend| backends::wanted(project, objects, backend, settings)));
        wanted.extend(objects.nodes.iter().map(|node| tunnel_node(project, node)));
    }
    wanted.extend(gateways::wanted(&gateways, &routes, snapshot, settings));
    wanted.extend(routes.iter().map(routes::Compiled::wanted));
    wanted.sort_by(|a, b| {
        let key = |wanted: &WantedStatus| (wanted.status.kind(), wanted.namespace.clone(), wanted.name.clone());
        a.project.cmp(&b.project).then_with(|| key(a).cmp(&key(b)))
    });
    Translation { table: builder.build(), wanted, owners }
}

fn is_ours(class: &&GatewayClass) -> bool {
    class.spec.controller_name == CONTROLLER_NAME
}

/// The names of the project's classes that are ours, and of all.
fn class_names(objects: &ProjectSnapshot) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let ours = objects.gateway_classes.iter().filter(is_ours).map(|class| class.metadata.name.as_str()).collect();
    let all = objects.gateway_classes.iter().map(|class| class.metadata.name.as_str()).collect();
    (ours, all)
}

fn gateway_class(project: &ProjectName, class: &GatewayClass) -> WantedStatus {
    let accepted = conditions::yes(generation(&class.metadata), "Accepted", "Accepted", "the relay serves this class");
    WantedStatus {
        project: project.clone(),
        namespace: None,
        name: class.metadata.name.clone(),
        status: Status::GatewayClass(GatewayClassStatus { conditions: vec![accepted] }),
    }
}

fn tunnel_node(project: &ProjectName, node: &TunnelNode) -> WantedStatus {
    let egress = node.spec.egress_gateway.as_ref().filter(|egress| egress.enabled).map(|_| {
        let message = "traffic from the node to the internet is not supported yet; everything else of the node works";
        conditions::no(generation(&node.metadata), "EgressGateway", "NotSupported", message)
    });
    WantedStatus {
        project: project.clone(),
        namespace: None,
        name: node.metadata.name.clone(),
        status: Status::TunnelNode(egress.into_iter().collect()),
    }
}
