//! Resources as users wrote them → the table that requests are served from, and what every object's status must say.
//!
//! Pure and total: any snapshot gives a translation, in whatever order its objects come. Does not read the store, the
//! clock or the sockets; the controller does, and hands in what it found. Journey C ends here.

mod addresses;
mod attach;
mod backend_tls;
mod backend_traffic;
mod backends;
mod certificates;
mod client_settings;
mod client_tls;
mod clients;
mod conditions;
mod dynamic;
mod extensions;
mod filters;
mod gateway_classes;
mod gateway_status;
mod gateways;
mod grants;
pub mod infrastructure;
mod joined;
mod listeners;
mod owners;
mod policies;
mod proxies;
mod routes;
mod services;
mod sessions;
mod snapshot;
mod traffic;
mod tunnel_nodes;
pub mod unbuilt;
pub mod unserved;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use serde_json::Value;
use underpass_shared::{
    identity::ProjectName,
    resource::{
        backend::BackendStatus,
        condition::Condition,
        gateway::{CONTROLLER_NAME, GatewayClass, GatewayClassStatus, GatewayStatus, ListenerSetStatus},
        http_route::RouteStatus,
        kind::{Kind, Scope},
        metadata::Metadata,
    },
};

use self::unserved::{Effect, Unserved};
pub use self::{
    conditions::keep_times,
    infrastructure::WantedService,
    owners::Owners,
    proxies::{DRAIN_MAX, Shutdown},
    snapshot::{At, KINDS_READ, ProjectSnapshot},
    tunnel_nodes::consent,
};
use crate::{
    proxy::may_dial::DialPolicy,
    route::table::{ListenAddress, Table},
};

/// Everything that routing is decided from, at one revision of the store.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub projects: BTreeMap<ProjectName, ProjectSnapshot>,
    /// Who owned which hostname in the translation before: an owner that still claims a hostname keeps it.
    pub owners: Owners,
}

/// What the operator set, and what the sockets said.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Suffixes whose names mean nodes, such as `tun.internal`.
    pub tunnel_domains: Vec<String>,
    /// What a Gateway's `status.addresses` says without a pool: IP addresses or hostnames.
    pub addresses: Vec<String>,
    /// Where each Gateway gets an address of its own from (`--gateway-pool`).
    pub pool: Option<IpNet>,
    /// Listener ports that could not be bound, and why.
    pub ports_unavailable: BTreeMap<ListenAddress, String>,
    pub dial_policy: DialPolicy,
}

/// What a snapshot means.
#[derive(Debug)]
pub struct Translation {
    pub table: Arc<Table>,
    /// One entry per object that is ours to speak of, ordered by project, kind, namespace and name. Of a route that stays
    /// as it is, it is the very entry of the translation before.
    pub wanted: Vec<Arc<WantedStatus>>,
    /// What must be there beside the Gateways.
    pub services: Vec<WantedService>,
    /// To be handed into the next translation.
    pub owners: Owners,
    pub shutdown: Shutdown,
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
    ListenerSet(ListenerSetStatus),
    /// Of whichever kind of route.
    Route(Kind, RouteStatus),
    Backend(BackendStatus),
    /// Conditions about the node's spec only; the tunnels know the rest of its status.
    TunnelNode(Vec<Condition>),
    /// Of any kind: what of the status is ours, to be laid over the rest.
    Other(Kind, Value),
}

impl Status {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::GatewayClass(_) => Kind::GatewayClass,
            Self::Gateway(_) => Kind::Gateway,
            Self::ListenerSet(_) => Kind::ListenerSet,
            Self::Backend(_) => Kind::Backend,
            Self::TunnelNode(_) => Kind::TunnelNode,
            Self::Route(kind, _) | Self::Other(kind, _) => *kind,
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
    Translator::default().translate(snapshot, settings)
}

/// Translates one snapshot after another, and keeps what did not change between them. What comes out is what
/// [`translate`] makes of the snapshot alone.
#[derive(Debug, Default)]
pub struct Translator {
    joined: joined::Joined,
}

impl Translator {
    /// As [`translate`]. Every change of an object must have changed its uid or generation; `settings` must be the same
    /// each time, but for the ports.
    pub fn translate(&mut self, snapshot: &Snapshot, settings: &Settings) -> Translation {
        self.route(snapshot, settings).finish()
    }

    /// The first half of [`Self::translate`], so that the table can be served before anything is said of it.
    pub fn route<'a>(&'a mut self, snapshot: &'a Snapshot, settings: &'a Settings) -> Routed<'a> {
        let (gateways, clients) = self.joined.update(snapshot, settings);
        Routed { table: Arc::new(self.joined.table()), snapshot, settings, gateways, joined: &self.joined, clients }
    }
}

/// A snapshot whose table is made, and of which nothing is said yet.
#[derive(Debug)]
pub struct Routed<'a> {
    pub table: Arc<Table>,
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    gateways: Vec<gateways::Placed<'a>>,
    joined: &'a joined::Joined,
    clients: clients::Decided<'a>,
}

impl Routed<'_> {
    /// The second half of [`Translator::translate`].
    #[must_use]
    pub fn finish(self) -> Translation {
        let Self { table, snapshot, settings, gateways, joined, clients } = self;
        let mut wanted = wanted(snapshot, settings, &gateways, joined.routes());
        wanted.extend(clients.wanted(&gateways, snapshot));
        let mut wanted: Vec<_> = wanted.into_iter().map(Arc::new).collect();
        wanted.extend(joined.routes().iter().map(routes::Compiled::wanted));
        in_order(&mut wanted);
        let (services, shutdown) = (infrastructure::wanted(&gateways), proxies::shutdown(&gateways));
        Translation { table, wanted, services, owners: joined.owners().clone(), shutdown }
    }
}

/// What must be said of everything but routes, and but ClientTrafficPolicies.
fn wanted(
    snapshot: &Snapshot,
    settings: &Settings,
    gateways: &[gateways::Placed<'_>],
    routes: &routes::Routes,
) -> Vec<WantedStatus> {
    let mut wanted = Vec::new();
    for (project, objects) in &snapshot.projects {
        let classes = objects.gateway_classes.iter().filter(is_ours);
        wanted.extend(classes.map(|class| gateway_classes::wanted(project, objects, class)));
        wanted.extend(objects.backends.iter().map(|backend| backends::wanted(project, objects, backend, settings)));
        wanted.extend(objects.nodes.iter().map(|node| tunnel_nodes::wanted(project, objects, node)));
        wanted.extend(extensions::wanted(project, objects));
        wanted.extend(others(project, objects));
    }
    wanted.extend(gateway_status::wanted(gateways, routes, snapshot));
    wanted.extend(backend_tls::wanted(gateways, routes, snapshot));
    wanted.extend(backend_traffic::wanted(gateways, routes, snapshot));
    wanted
}

fn in_order(wanted: &mut [Arc<WantedStatus>]) {
    wanted.sort_by(|a, b| {
        let of_kind = || (a.status.kind(), &a.namespace, &a.name).cmp(&(b.status.kind(), &b.namespace, &b.name));
        a.project.cmp(&b.project).then_with(of_kind)
    });
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

/// What of `found` keeps the part that it stands in from being served: the first reason, and the sentence.
fn stop(found: &[Unserved]) -> Option<(&'static str, String)> {
    let stops = || found.iter().filter(|field| matches!(field.effect, Effect::Stops(_)));
    let Effect::Stops(reason) = stops().next()?.effect else { return None };
    Some((reason, unserved::sentence(stops())))
}

/// `message`, and what of `found` does no harm.
fn mention(message: &str, found: &[Unserved]) -> String {
    let mut harmless = found.iter().filter(|field| field.effect == Effect::Harmless).peekable();
    match harmless.peek() {
        None => message.to_owned(),
        Some(_) => format!("{message}; {}", unserved::sentence(harmless)),
    }
}

/// What must be said of Proxies, of kinds that are not built, and of what could not be read.
fn others<'a>(project: &'a ProjectName, objects: &'a ProjectSnapshot) -> impl Iterator<Item = WantedStatus> + 'a {
    let ours = unreadable_are_ours(objects);
    let foreign = attach::foreign_gateways(objects);
    let others = objects.others.iter().map(|(kind, object)| {
        let status = match kind {
            Kind::Proxy => Some(unbuilt::proxy(object)),
            _ => unbuilt::status(*kind, object),
        };
        (*kind, object, status)
    });
    let unreadable = objects.unreadable.iter().filter(move |(kind, object, _)| ours(*kind, object));
    let unreadable = unreadable
        .map(move |(kind, object, why)| (*kind, object, Some(unbuilt::unreadable(*kind, object, why, &foreign))));
    others.chain(unreadable).filter_map(move |(kind, object, status)| {
        let name = object.pointer("/metadata/name")?.as_str()?;
        let namespace = (kind.info().scope == Scope::Namespaced).then(|| unbuilt::namespace(object).to_owned());
        let status = Status::Other(kind, status?);
        Some(WantedStatus { project: project.clone(), namespace, name: name.to_owned(), status })
    })
}

/// Which of the objects that cannot be read are ours to speak of.
fn unreadable_are_ours(objects: &ProjectSnapshot) -> impl Fn(Kind, &Value) -> bool {
    let (ours, _) = class_names(objects);
    move |kind, object| {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        match kind {
            Kind::GatewayClass => text("/spec/controllerName") == Some(CONTROLLER_NAME),
            Kind::Gateway => text("/spec/gatewayClassName").is_some_and(|class| ours.contains(class)),
            _ => true,
        }
    }
}
