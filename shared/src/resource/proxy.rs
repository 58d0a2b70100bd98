//! `Proxy` (`core.apoxy.dev/v1alpha2`): how the gateways of a project run.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type Proxy = Resource<ProxySpec, ProxyStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxySpec {
    pub provider: Provider,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ProxyShutdown>,
}

/// How a relay ends, counted from when it is told to. Durations as Go writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyShutdown {
    /// When it ends whatever is still in flight.
    pub drain_timeout: String,
    /// How long it takes new connections at the least; at most `drain_timeout`.
    pub minimum_drain_time: String,
}

impl Default for ProxyShutdown {
    fn default() -> Self {
        Self { drain_timeout: "30s".to_owned(), minimum_drain_time: "30s".to_owned() }
    }
}

/// Who runs the relays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// The operator starts them.
    #[default]
    Unmanaged,
    /// Somebody else, which is not served.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStatus {
    pub conditions: Vec<Condition>,
}
