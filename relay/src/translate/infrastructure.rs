//! What is made for a Gateway, so that tools that look for it find it: a Service with the Gateway's labels, annotations
//! and ports (Gateway API, `GatewayInfrastructure`).
//!
//! Only Gateways that ask for labels or annotations have one: there is nothing else that could carry them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use underpass_shared::identity::ProjectName;

use super::{addresses::fnv, gateways::Placed};
use crate::route::table::Speaks;

/// Names the Gateway that an object was made for (Gateway API, `GatewayNameLabelKey`).
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Says that an object was made by the relay, which then mends and deletes it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "underpass");

/// The longest name of a Service, and value of a label (RFC 1035 §2.3.4).
const NAME_CHARS_MAX: usize = 63;

/// A Service that must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedService {
    pub project: ProjectName,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `metav1.OwnerReference` to the Gateway: with it goes the Service.
    pub owner: Value,
    pub spec: Value,
}

/// The Services of all Gateways that ask for one, in their order.
pub(super) fn wanted(gateways: &[Placed<'_>]) -> Vec<WantedService> {
    gateways.iter().filter_map(of_gateway).collect()
}

fn of_gateway(placed: &Placed<'_>) -> Option<WantedService> {
    let asked = placed.gateway.spec.infrastructure.as_ref()?;
    if asked.labels.is_empty() && asked.annotations.is_empty() {
        return None;
    }
    let metadata = &placed.gateway.metadata;
    let mut labels = asked.labels.clone();
    labels.insert(GATEWAY_NAME_LABEL.to_owned(), short(&metadata.name));
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let ports: BTreeSet<(u16, &str)> = placed
        .listeners
        .iter()
        .filter(|listener| listener.listener.port != 0)
        .map(|listener| (listener.listener.port, if listener.serves.speaks() == Speaks::Udp { "UDP" } else { "TCP" }))
        .collect();
    let port = |(port, protocol): (u16, &str)| {
        let name = format!("p{port}-{}", protocol.to_lowercase());
        json!({"name": name, "port": port, "protocol": protocol, "targetPort": port})
    };
    let ports: Vec<Value> = ports.into_iter().map(port).collect();
    Some(WantedService {
        project: placed.project.clone(),
        namespace: placed.place.namespace.to_owned(),
        name: short(&format!("gateway-{}", metadata.name)),
        labels,
        annotations: asked.annotations.clone(),
        owner: json!({
            "apiVersion": placed.gateway.api_version, "kind": "Gateway", "name": metadata.name,
            "uid": metadata.uid.as_deref().unwrap_or_default(),
        }),
        spec: json!({"type": "ClusterIP", "sessionAffinity": "None", "ports": ports}),
    })
}

/// `name`, or, where it is too long, its beginning and a hash of it.
fn short(name: &str) -> String {
    // Names of Gateways may hold dots, those of Services not.
    let plain = name.replace('.', "-");
    if plain == name && name.len() <= NAME_CHARS_MAX {
        return plain;
    }
    let hash = format!("{:08x}", fnv(name));
    let front: String = plain.chars().take(NAME_CHARS_MAX - 1 - hash.len()).collect();
    format!("{}-{hash}", front.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_service_may_have_are_made_short_and_stay_apart() {
        assert_eq!(short("gateway-web"), "gateway-web");
        let (long, other) = (short(&"x".repeat(253)), short(&"x".repeat(252)));
        assert_eq!((long.len(), other.len()), (63, 63));
        assert_ne!(long, other);
        assert_ne!(short("a.b"), short("a-b"));
    }
}
