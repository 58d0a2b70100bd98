//! `TunnelNode` (`core.apoxy.dev/v1alpha`): the named thing that owns an overlay prefix.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type TunnelNode = Resource<TunnelNodeSpec, TunnelNodeStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelNodeSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_gateway: Option<EgressGateway>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressGateway {
    /// Whether the node's agents may reach the internet through the relay.
    pub enabled: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelNodeStatus {
    /// `host:port` endpoints that agents dial.
    pub addresses: Vec<String>,
    /// The node's /64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The agents connected now.
    pub agents: Vec<AgentStatus>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentStatus {
    /// The agent's stable id.
    pub name: String,
    /// RFC 3339.
    pub connected_at: String,
    /// The agent's own address in its /96.
    pub agent_address: String,
    /// The relay that holds the session.
    pub relay: String,
}
