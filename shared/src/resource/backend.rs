//! `Backend` (`core.apoxy.dev/v1alpha2`): where a route sends traffic.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type Backend = Resource<BackendSpec, BackendStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendSpec {
    pub endpoints: Vec<Endpoint>,
    pub protocol: Protocol,
}

/// Exactly one of the two is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// A DNS name, or a node's name in the tunnel domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// How the relay speaks to the endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 in the clear.
    #[default]
    #[serde(rename = "", alias = "plain")]
    Plain,
    /// HTTP/2 in the clear with prior knowledge.
    #[serde(rename = "h2c")]
    H2c,
    /// HTTP/1.1 or HTTP/2 over TLS, as the endpoint prefers.
    #[serde(rename = "tls")]
    Tls,
    /// HTTP/2 over TLS.
    #[serde(rename = "h2")]
    H2,
    /// Something that is not served.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendStatus {
    pub conditions: Vec<Condition>,
}
