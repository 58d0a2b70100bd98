//! `Backend` (`core.apoxy.dev/v1alpha2`): where a route sends traffic.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type Backend = Resource<BackendSpec, BackendStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendSpec {
    pub endpoints: Vec<Endpoint>,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_proxy: Option<DynamicProxy>,
}

/// A forward proxy: each request goes to the host that it names itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DynamicProxy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_cache_config: Option<DnsCacheConfig>,
}

/// How the names of those hosts are resolved. Durations are as Go writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsCacheConfig {
    pub dns_lookup_family: LookupFamily,
    /// How long an answer is kept that does not say.
    pub dns_refresh_rate: String,
    /// The shortest that an answer is kept.
    pub dns_min_refresh_rate: String,
    /// How long an answer is kept that nobody asks for.
    #[serde(rename = "hostTTL")]
    pub host_ttl: String,
    pub max_hosts: u32,
    pub dns_query_timeout: String,
}

impl Default for DnsCacheConfig {
    fn default() -> Self {
        Self {
            dns_lookup_family: LookupFamily::default(),
            dns_refresh_rate: "60s".to_owned(),
            dns_min_refresh_rate: "5s".to_owned(),
            host_ttl: "5m".to_owned(),
            max_hosts: 1024,
            dns_query_timeout: "5s".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LookupFamily {
    #[default]
    Auto,
    V4Only,
    V6Only,
    V4Preferred,
    All,
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
