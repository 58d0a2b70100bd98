//! TunnelNodes: what they consent to, and what their statuses say of it.

use std::collections::BTreeSet;

use underpass_shared::{
    identity::{NodeName, ProjectName},
    resource::{
        condition::Condition,
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
const UNSERVED: &[(&str, &str, &str)] = &[
    ("spec.routes", "Routes", "networks behind the node are not supported yet; only its own ports can be reached"),
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
    let fields = UNSERVED.iter().filter(|(path, _, _)| found.iter().any(|field| field.path.starts_with(path)));
    let unserved = fields.map(|(_, kind, message)| conditions::no(at, kind, "NotSupported", *message));
    let conditions = egress(at, node).into_iter().chain(allow_from(at, node)).chain(unserved).collect();
    WantedStatus {
        project: project.clone(),
        namespace: None,
        name: node.metadata.name.clone(),
        status: Status::TunnelNode(conditions),
    }
}

fn egress(at: i64, node: &TunnelNode) -> Option<Condition> {
    let enabled = node.spec.egress_gateway.as_ref().is_some_and(|gateway| gateway.enabled);
    let message = "the node's agents reach the internet through the relay over TCP, by the proxies of --socks-addr; UDP \
                   and ICMP are not carried yet";
    enabled.then(|| conditions::yes(at, "EgressGateway", "Enabled", message))
}

/// Whom the node admits, or which entry says something that is not served.
fn allow_from(at: i64, node: &TunnelNode) -> Option<Condition> {
    let allowances = &node.spec.allow_from;
    if allowances.is_empty() {
        return None;
    }
    let unreadable = allowances.iter().enumerate().find_map(|(index, allowance)| {
        let place = allowance.ports.iter().position(|range| range.ports().is_none_or(|range| range.is_empty()))?;
        Some(format!("spec.allowFrom[{index}].ports[{place}] is no port from 0 to 65535, and no range of them"))
    });
    if let Some(unreadable) = unreadable {
        return Some(conditions::no(at, "AllowFrom", "InvalidPorts", format!("{unreadable}; it admits nobody")));
    }
    let gateways = allowances.iter().filter(|allowance| allowance.gateway.is_some()).count();
    let nodes: BTreeSet<_> = allowances.iter().filter_map(|allowance| allowance.node.as_deref()).collect();
    let mut message = match nodes.len() {
        0 => "no other node may reach the node".to_owned(),
        count => format!("{count} other node{} may reach what its agents publish", if count == 1 { "" } else { "s" }),
    };
    if gateways > 0 {
        message += "; every Gateway of the project may anyway, and entries that name one are not served yet";
    }
    Some(match nodes.len() {
        0 => conditions::no(at, "AllowFrom", "NotSupported", message),
        _ => conditions::yes(at, "AllowFrom", "Admitted", message),
    })
}
