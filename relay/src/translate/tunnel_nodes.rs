//! TunnelNodes: what they consent to, and what their statuses say of it.

use underpass_shared::{
    identity::{NodeName, ProjectName},
    resource::{
        kind::Kind,
        tunnel_node::{Allowance, TunnelNode},
    },
};

use super::{ProjectSnapshot, Snapshot, Status, WantedStatus, conditions, generation};
use crate::tunnel::consent::{Admits, Consent, NodeConsent, Ports};

/// What the nodes of all projects have consented to. A node that cannot be read consents to nothing.
#[must_use]
pub fn consent(snapshot: &Snapshot) -> Consent {
    let mut consent = Consent::default();
    for (project, objects) in &snapshot.projects {
        for node in &objects.nodes {
            // No agent can be enrolled with a node whose name is no label.
            let Ok(name) = node.metadata.name.parse() else { continue };
            let egress = node.spec.egress_gateway.as_ref().is_some_and(|gateway| gateway.enabled);
            let admits = node.spec.allow_from.iter().filter_map(admits).collect();
            consent.insert(project.clone(), name, NodeConsent { egress, admits });
        }
    }
    consent
}

/// What an entry admits. Ports that cannot be read are none, and a Gateway is no node.
fn admits(allowance: &Allowance) -> Option<Admits> {
    let node: NodeName = allowance.node.as_ref()?.parse().ok()?;
    let ports = match &allowance.ports[..] {
        [] => Ports::All,
        ports => Ports::Only(ports.iter().filter_map(|range| range.ports()).collect()),
    };
    Some(Admits { node, ports })
}

/// The condition of each field of a node that nothing acts on.
const NODE_FIELDS: &[(&str, &str, &str)] = &[
    (
        "spec.egressGateway",
        "EgressGateway",
        "traffic from the node to the internet is not supported yet; everything else of the node works",
    ),
    ("spec.routes", "Routes", "networks behind the node are not supported yet; only its own ports can be reached"),
    ("spec.allowFrom", "AllowFrom", "traffic between nodes is not supported yet; only gateways can reach the node"),
    (
        "spec.defaultUpstream",
        "DefaultUpstream",
        "a default upstream is not supported yet; traffic goes to its own port",
    ),
];

/// What the node's status must say of its spec.
pub(super) fn wanted(project: &ProjectName, objects: &ProjectSnapshot, node: &TunnelNode) -> WantedStatus {
    let at = generation(&node.metadata);
    let found = objects.unserved(Kind::TunnelNode, &node.metadata);
    let fields = NODE_FIELDS.iter().filter(|(path, _, _)| found.iter().any(|field| field.path.starts_with(path)));
    WantedStatus {
        project: project.clone(),
        namespace: None,
        name: node.metadata.name.clone(),
        status: Status::TunnelNode(
            fields.map(|(_, kind, message)| conditions::no(at, kind, "NotSupported", *message)).collect(),
        ),
    }
}
