//! Services and their EndpointSlices: which addresses serve a port, and how they are spoken to.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use underpass_shared::resource::service::{EndpointSlice, SERVICE_NAME_LABEL, Service, ServicePort, SliceEndpoint};

use super::{Place, backends::Unresolved, namespace_of};

/// The most endpoints of one Service that requests are spread over; further ones wait for places.
const ENDPOINTS_MAX: usize = 1_000;

/// A project's Services and slices by place.
#[derive(Debug, Default)]
pub(super) struct Services<'a> {
    services: BTreeMap<Place<'a>, &'a Service>,
    slices: BTreeMap<Place<'a>, Vec<&'a EndpointSlice>>,
}

/// What a reference to a Service's port comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// Each once, in ascending order; empty when none is ready.
    pub addresses: Vec<SocketAddr>,
    /// Of the Service's port; empty when it has none.
    pub port_name: &'a str,
    /// What is spoken there, if the Service says.
    pub app_protocol: Option<&'a str>,
}

impl<'a> Services<'a> {
    pub(super) fn new(services: &'a [Service], slices: &'a [EndpointSlice]) -> Self {
        let mut of_service: BTreeMap<Place<'a>, Vec<&'a EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            if let Some(name) = slice.metadata.labels.get(SERVICE_NAME_LABEL) {
                let namespace = namespace_of(&slice.metadata);
                of_service.entry(Place { namespace, name }).or_default().push(slice);
            }
        }
        let services = services.iter().map(|service| (Place::of(&service.metadata), service)).collect();
        Self { services, slices: of_service }
    }

    /// The endpoints of a Service's port.
    ///
    /// # Errors
    /// `BackendNotFound` when there is no such Service or port.
    pub(super) fn find(&self, place: &Place<'_>, port: Option<u16>) -> Result<Found<'a>, Unresolved> {
        let missing = |message| Unresolved { reason: "BackendNotFound", message };
        // Keys live longer than what is asked for: seen through these, both live as long.
        let (services, slices): (&BTreeMap<Place<'_>, &'a Service>, &BTreeMap<Place<'_>, Vec<&'a EndpointSlice>>) =
            (&self.services, &self.slices);
        let service = services.get(place).copied();
        let service = service.ok_or_else(|| missing(format!("Service {place} does not exist")))?;
        if service.spec.kind.as_deref() == Some("ExternalName") {
            let message = format!("Service {place} is an ExternalName: write a Backend for a DNS name");
            return Err(Unresolved { reason: "UnsupportedProtocol", message });
        }
        let port = port.ok_or_else(|| missing(format!("the reference to Service {place} has no port")))?;
        let named = service.spec.ports.iter().find(|one| one.port == port);
        let named = named.ok_or_else(|| missing(format!("Service {place} has no port {port}")))?;
        let slices = slices.get(place).map_or(&[][..], Vec::as_slice);
        let (port_name, app_protocol) = (&*named.name, named.app_protocol.as_deref());
        Ok(Found { addresses: addresses(slices, named), port_name, app_protocol })
    }
}

/// Ready endpoints; when there is none, those that still serve while they end.
fn addresses(slices: &[&EndpointSlice], port: &ServicePort) -> Vec<SocketAddr> {
    let ready = |endpoint: &SliceEndpoint| endpoint.conditions.ready != Some(false);
    let serving = |endpoint: &SliceEndpoint| endpoint.conditions.serving == Some(true);
    let ready = chosen(slices, port, ready);
    if ready.is_empty() { chosen(slices, port, serving) } else { ready }
}

fn chosen(slices: &[&EndpointSlice], port: &ServicePort, fits: impl Fn(&SliceEndpoint) -> bool) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for slice in slices {
        let of_port = slice.ports.iter().find(|one| one.name.as_deref().unwrap_or_default() == port.name);
        // A slice without a number is of a Service whose ports are those of its endpoints.
        let Some(number) = of_port.map(|one| one.port.unwrap_or(port.port)) else { continue };
        let endpoints = slice.endpoints.iter().filter(|endpoint| fits(endpoint));
        let ips = endpoints.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
        addresses.extend(ips.map(|ip| SocketAddr::new(ip, number)));
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ENDPOINTS_MAX);
    addresses
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(ports: &Value) -> Service {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {"ports": ports},
        }))
        .unwrap()
    }

    fn slice(ports: &Value, endpoints: &Value) -> EndpointSlice {
        let labels = json!({ SERVICE_NAME_LABEL: "s" });
        let metadata = json!({"name": "s-1", "namespace": "a", "labels": labels});
        serde_json::from_value(
            json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}),
        )
        .unwrap()
    }

    fn found(service: &Service, slices: &[EndpointSlice], port: Option<u16>) -> Result<Vec<String>, &'static str> {
        let services = std::slice::from_ref(service);
        let found = Services::new(services, slices).find(&Place { namespace: "a", name: "s" }, port);
        let found = found.map_err(|unresolved| unresolved.reason)?;
        Ok(found.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn endpoints_are_found_by_the_name_of_the_service_s_port() {
        let service = service(&json!([{"name": "web", "port": 80}, {"name": "admin", "port": 81}]));
        let ports = json!([{"name": "web", "port": 3000}, {"name": "admin", "port": 4000}]);
        let slices = [
            slice(&ports, &json!([{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"]}])),
            slice(&json!([{"name": "web", "port": 3001}]), &json!([{"addresses": ["fd00::1"]}])),
            slice(&ports, &json!([{"addresses": ["10.0.0.2"]}, {"addresses": ["not an address"]}, {"addresses": []}])),
        ];
        let want = ["10.0.0.1:3000", "10.0.0.2:3000", "[fd00::1]:3001"].map(str::to_owned).to_vec();
        assert_eq!(found(&service, &slices, Some(80)), Ok(want));
        assert_eq!(found(&service, &slices, Some(82)), Err("BackendNotFound"));
        assert_eq!(found(&service, &slices, None), Err("BackendNotFound"));
        assert_eq!(found(&service, &[], Some(80)), Ok(vec![]));
    }

    #[test]
    fn what_is_not_ready_serves_only_when_nothing_is() {
        let service = service(&json!([{"port": 80}]));
        let check = |endpoints: Value, want: &[&str]| {
            let slices = [slice(&json!([{"port": 80}]), &endpoints)];
            assert_eq!(found(&service, &slices, Some(80)).unwrap(), want, "{endpoints}");
        };
        let ready = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}});
        let ending = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true}});
        let starting = json!({"addresses": ["10.0.0.3"], "conditions": {"ready": false}});
        check(json!([ready, ending, starting]), &["10.0.0.1:80"]);
        check(json!([ending, starting]), &["10.0.0.2:80"]);
        check(json!([starting]), &[]);
    }
}
