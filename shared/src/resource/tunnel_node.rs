//! `TunnelNode` (`core.apoxy.dev/v1alpha`): the named thing that owns an overlay prefix.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type TunnelNode = Resource<TunnelNodeSpec, TunnelNodeStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelNodeSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_gateway: Option<EgressGateway>,
    /// Who may reach the node besides the Gateways of its project.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<Allowance>,
}

/// Either a node or a Gateway, and the ports that it may reach; no ports means all that are published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allowance {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
}

/// A port, or a range as `8000-8010`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRange {
    Number(i64),
    Text(String),
}

impl PortRange {
    /// The ports that are meant, `None` when these are no ports. A range whose end is before its beginning is empty.
    #[must_use]
    pub fn ports(&self) -> Option<RangeInclusive<u16>> {
        match self {
            Self::Number(number) => u16::try_from(*number).ok().map(|port| port..=port),
            Self::Text(text) => {
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                Some(first.parse().ok()?..=last.parse().ok()?)
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        let check = |json: &str, want: Option<RangeInclusive<u16>>| {
            let written: PortRange = serde_json::from_str(json).unwrap();
            assert_eq!(written.ports(), want, "{json}");
        };
        check("80", Some(80..=80));
        check("\"80\"", Some(80..=80));
        check("\"8000-8010\"", Some(8000..=8010));
        check("\"8010-8000\"", Some(RangeInclusive::new(8010, 8000)));
        for wrong in ["-1", "65536", "\"\"", "\"-\"", "\"http\"", "\"1-2-3\"", "\"99999\"", "\"1-99999\""] {
            check(wrong, None);
        }
    }
}
