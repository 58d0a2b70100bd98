//! `Proxy` (`core.apoxy.dev/v1alpha2`): how the gateways of a project run.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type Proxy = Resource<ProxySpec, ProxyStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxySpec {
    pub provider: Provider,
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
