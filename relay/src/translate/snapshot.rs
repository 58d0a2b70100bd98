//! Stored objects → what is decided from: the served fields typed, and beside them what is not served.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use underpass_shared::resource::{
    backend::Backend,
    backend_tls_policy::BackendTlsPolicy,
    backend_traffic_policy::BackendTrafficPolicy,
    client_traffic_policy::ClientTrafficPolicy,
    extension::{DirectResponse, HttpRouteFilter},
    gateway::{Gateway, GatewayClass, ListenerSet},
    grpc_route::GrpcRoute,
    http_route::HttpRoute,
    kind::Kind,
    metadata::{Metadata, Resource},
    reference_grant::ReferenceGrant,
    secret::{ConfigMap, Secret},
    service::{EndpointSlice, Service},
    stream_route::StreamRoute,
    tunnel_node::TunnelNode,
};

use super::{
    namespace_of, unbuilt,
    unserved::{self, Unserved},
};

/// The kinds that [`ProjectSnapshot::read`] makes something of.
pub const KINDS_READ: &[Kind] = &[
    Kind::Namespace,
    Kind::Secret,
    Kind::ConfigMap,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::TunnelNode,
    Kind::Proxy,
    Kind::DomainZone,
    Kind::DomainRecord,
    Kind::CloudMonitoringIntegration,
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::ReferenceGrant,
    Kind::Backend,
    Kind::BackendTlsPolicy,
    Kind::DirectResponse,
    Kind::HttpRouteFilter,
    Kind::EdgeFunction,
    Kind::EdgeFunctionRevision,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::RateLimit,
    Kind::BackendTrafficPolicy,
    Kind::ClientTrafficPolicy,
    Kind::SecurityPolicy,
];

/// One project's objects, each name at most once per kind and namespace.
#[derive(Debug, Default)]
pub struct ProjectSnapshot {
    pub gateway_classes: Vec<GatewayClass>,
    pub gateways: Vec<Gateway>,
    pub listener_sets: Vec<ListenerSet>,
    pub routes: Vec<HttpRoute>,
    pub grpc_routes: Vec<GrpcRoute>,
    pub tls_routes: Vec<StreamRoute>,
    pub tcp_routes: Vec<StreamRoute>,
    pub udp_routes: Vec<StreamRoute>,
    pub backends: Vec<Backend>,
    pub backend_tls_policies: Vec<BackendTlsPolicy>,
    pub backend_traffic_policies: Vec<BackendTrafficPolicy>,
    pub client_traffic_policies: Vec<ClientTrafficPolicy>,
    pub direct_responses: Vec<DirectResponse>,
    pub route_filters: Vec<HttpRouteFilter>,
    pub nodes: Vec<TunnelNode>,
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
    pub grants: Vec<ReferenceGrant>,
    pub secrets: Vec<Secret>,
    pub config_maps: Vec<ConfigMap>,
    /// The labels of each namespace.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Proxies, and kinds that nothing is built for: whole objects.
    pub others: Vec<(Kind, Value)>,
    /// Whole objects of the kinds above that cannot be read, and why.
    pub unreadable: Vec<(Kind, Value, String)>,
    /// Of everything that rules of routes may refer to.
    pub targets: Version,
    /// Of everything but routes.
    pub surroundings: Version,
    /// What objects of the kinds above say that is not served.
    pub unserved: BTreeMap<At, Vec<Unserved>>,
}

/// Stands for a state of things: equal to its copies, and to nothing else.
#[derive(Debug, Clone, Default)]
pub struct Version(Arc<()>);

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// An object of a project: kind, namespace, name.
pub type At = (Kind, String, String);

impl ProjectSnapshot {
    /// Takes a project's objects, whole, as the API shows them. Objects of other kinds are passed over.
    #[must_use]
    pub fn read(objects: impl IntoIterator<Item = (Kind, Value)>) -> Self {
        let mut snapshot = Self::default();
        for (kind, object) in objects {
            snapshot.put(kind, object);
        }
        snapshot
    }

    /// Adds a whole object that is not there: whoever has another version of it removes that first.
    pub fn put(&mut self, kind: Kind, mut object: Value) {
        self.note(kind);
        if kind == Kind::Proxy || unbuilt::is_unbuilt(kind) {
            return self.others.push((kind, object));
        }
        // Nothing is decided from a status, and others may have written what our types do not know.
        object.as_object_mut().map(|object| object.remove("status"));
        if self.take_core(kind, &object) {
            return;
        }
        let found = unserved::find(kind, &object);
        let read = match kind {
            Kind::GatewayClass => put(&mut self.gateway_classes, &object),
            Kind::Gateway => put(&mut self.gateways, &object),
            Kind::HttpRoute => put(&mut self.routes, &object),
            Kind::GrpcRoute => put(&mut self.grpc_routes, &object),
            Kind::TlsRoute => put(&mut self.tls_routes, &object),
            Kind::TcpRoute => put(&mut self.tcp_routes, &object),
            Kind::UdpRoute => put(&mut self.udp_routes, &object),
            Kind::ListenerSet => put(&mut self.listener_sets, &object),
            Kind::Backend => put(&mut self.backends, &object),
            Kind::BackendTlsPolicy => put(&mut self.backend_tls_policies, &object),
            Kind::BackendTrafficPolicy => put(&mut self.backend_traffic_policies, &object),
            Kind::ClientTrafficPolicy => put(&mut self.client_traffic_policies, &object),
            Kind::DirectResponse => put(&mut self.direct_responses, &object),
            Kind::HttpRouteFilter => put(&mut self.route_filters, &object),
            Kind::TunnelNode => put(&mut self.nodes, &object),
            _ => return,
        };
        match read {
            Ok(metadata) if !found.is_empty() => drop(self.unserved.insert(at(kind, &metadata), found)),
            Ok(_) => {}
            Err(error) => self.unreadable.push((kind, object, error.to_string())),
        }
    }

    /// Takes out the object of that place, if it is there. `namespace` is `None` for kinds without namespaces.
    pub fn remove(&mut self, kind: Kind, namespace: Option<&str>, name: &str) {
        fn take<T>(list: &mut Vec<T>, metadata: impl Fn(&T) -> &Metadata, place: (&str, &str)) {
            let is_it = |one: &T| (namespace_of(metadata(one)), metadata(one).name.as_str()) == place;
            if let Some(at) = list.iter().position(is_it) {
                list.swap_remove(at);
            }
        }
        self.note(kind);
        let place = (namespace.unwrap_or("default"), name);
        match kind {
            Kind::GatewayClass => take(&mut self.gateway_classes, |one| &one.metadata, place),
            Kind::Gateway => take(&mut self.gateways, |one| &one.metadata, place),
            Kind::ListenerSet => take(&mut self.listener_sets, |one| &one.metadata, place),
            Kind::HttpRoute => take(&mut self.routes, |one| &one.metadata, place),
            Kind::GrpcRoute => take(&mut self.grpc_routes, |one| &one.metadata, place),
            Kind::TlsRoute => take(&mut self.tls_routes, |one| &one.metadata, place),
            Kind::TcpRoute => take(&mut self.tcp_routes, |one| &one.metadata, place),
            Kind::UdpRoute => take(&mut self.udp_routes, |one| &one.metadata, place),
            Kind::Backend => take(&mut self.backends, |one| &one.metadata, place),
            Kind::BackendTlsPolicy => take(&mut self.backend_tls_policies, |one| &one.metadata, place),
            Kind::BackendTrafficPolicy => take(&mut self.backend_traffic_policies, |one| &one.metadata, place),
            Kind::ClientTrafficPolicy => take(&mut self.client_traffic_policies, |one| &one.metadata, place),
            Kind::DirectResponse => take(&mut self.direct_responses, |one| &one.metadata, place),
            Kind::HttpRouteFilter => take(&mut self.route_filters, |one| &one.metadata, place),
            Kind::TunnelNode => take(&mut self.nodes, |one| &one.metadata, place),
            Kind::Service => take(&mut self.services, |one| &one.metadata, place),
            Kind::EndpointSlice => take(&mut self.slices, |one| &one.metadata, place),
            Kind::ReferenceGrant => take(&mut self.grants, |one| &one.metadata, place),
            Kind::Secret => take(&mut self.secrets, |one| &one.metadata, place),
            Kind::ConfigMap => take(&mut self.config_maps, |one| &one.metadata, place),
            Kind::Namespace => drop(self.namespaces.remove(name)),
            _ => {}
        }
        let is_it = |known: Kind, object: &Value| {
            let text = |field: &str| object.get("metadata")?.get(field)?.as_str();
            (known, text("namespace").unwrap_or("default"), text("name").unwrap_or_default())
                == (kind, place.0, place.1)
        };
        self.others.retain(|(known, object)| !is_it(*known, object));
        self.unreadable.retain(|(known, object, _)| !is_it(*known, object));
        self.unserved.remove(&(kind, place.0.to_owned(), name.to_owned()));
    }

    /// Rules of routes are compiled again only when what they refer to may have changed, and joined to listeners again only
    /// when anything but routes has.
    fn note(&mut self, kind: Kind) {
        let is_route =
            matches!(kind, Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute);
        let is_no_target = matches!(
            kind,
            Kind::GatewayClass | Kind::Gateway | Kind::ListenerSet | Kind::ClientTrafficPolicy | Kind::Namespace
        );
        if !is_route {
            self.surroundings = Version::default();
        }
        if !is_route && !is_no_target {
            self.targets = Version::default();
        }
    }

    /// Takes an object that others have their say about, and we none. What cannot be read of it is not there for us.
    fn take_core(&mut self, kind: Kind, object: &Value) -> bool {
        match kind {
            Kind::Namespace => {
                if let Ok(metadata) = Metadata::deserialize(&object["metadata"]) {
                    self.namespaces.insert(metadata.name, metadata.labels);
                }
            }
            Kind::Service => drop(put(&mut self.services, object)),
            Kind::Secret => self.secrets.extend(Secret::deserialize(object)),
            Kind::ConfigMap => self.config_maps.extend(ConfigMap::deserialize(object)),
            Kind::EndpointSlice => self.slices.extend(EndpointSlice::deserialize(object)),
            Kind::ReferenceGrant => drop(put(&mut self.grants, object)),
            _ => return false,
        }
        true
    }

    /// What the object says that is not served.
    pub(super) fn unserved(&self, kind: Kind, metadata: &Metadata) -> &[Unserved] {
        self.unserved.get(&at(kind, metadata)).map_or(&[], Vec::as_slice)
    }
}

fn at(kind: Kind, metadata: &Metadata) -> At {
    (kind, namespace_of(metadata).to_owned(), metadata.name.clone())
}

fn put<Spec, Status>(list: &mut Vec<Resource<Spec, Status>>, object: &Value) -> Result<Metadata, serde_json::Error>
where
    Resource<Spec, Status>: for<'de> Deserialize<'de>,
{
    let object = Resource::deserialize(object)?;
    let metadata = object.metadata.clone();
    list.push(object);
    Ok(metadata)
}
