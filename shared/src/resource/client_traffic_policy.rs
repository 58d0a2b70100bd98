//! `ClientTrafficPolicy` (`policy.apoxy.dev/v1alpha1`): what happens between clients and the gateway.
//!
//! The fields that the relay acts on; what else may be written is in the schema, and named in the policy's condition.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    backend_tls_policy::PolicyTargetReference, backend_traffic_policy::TcpKeepalive, gateway::ObjectReference,
    metadata::Resource,
};

/// The relay's part of its status is written entry by entry, beside those of other controllers.
pub type ClientTrafficPolicy = Resource<ClientTrafficPolicySpec, ()>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTrafficPolicySpec {
    pub target_refs: Vec<PolicyTargetReference>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub proxy_protocol: Option<ProxyProtocol>,
    /// An older way of saying `proxy_protocol`.
    pub enable_proxy_protocol: Option<bool>,
    #[serde(rename = "clientIPDetection")]
    pub client_ip_detection: Option<ClientIpDetection>,
    pub tls: Option<ClientTls>,
    pub timeout: Option<ClientTimeout>,
    pub connection: Option<ClientConnection>,
    pub http2: Option<Http2Settings>,
    pub http3: Option<Http3Settings>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Whether a connection may do without.
    pub optional: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpDetection {
    pub x_forwarded_for: Option<XForwardedFor>,
    pub custom_header: Option<CustomHeader>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct XForwardedFor {
    pub num_trusted_hops: Option<u32>,
    #[serde(rename = "trustedCIDRs")]
    pub trusted_cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomHeader {
    pub name: String,
    /// Whether a request without it is refused.
    pub fail_closed: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTls {
    /// `Auto`, `1.0`, `1.1`, `1.2` or `1.3`.
    pub min_version: Option<String>,
    pub max_version: Option<String>,
    /// As OpenSSL names them.
    pub ciphers: Vec<String>,
    pub ecdh_curves: Vec<String>,
    /// An empty list offers none.
    pub alpn_protocols: Option<Vec<String>>,
    pub session: Option<TlsSession>,
    pub client_validation: Option<ClientValidation>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsSession {
    pub resumption: Option<TlsResumption>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsResumption {
    /// By tickets that clients keep.
    pub stateless: Option<Value>,
    /// By ids that the relay remembers.
    pub stateful: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientValidation {
    /// Whether a client may do without a certificate.
    pub optional: bool,
    pub ca_certificate_refs: Vec<ObjectReference>,
    /// SHA-256 of the keys that are taken, in base64.
    pub spki_hashes: Vec<String>,
    /// SHA-256 of the certificates that are taken, in hexadecimal digits.
    pub certificate_hashes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTimeout {
    pub tcp: Option<ClientTcpTimeout>,
    pub http: Option<ClientHttpTimeout>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTcpTimeout {
    pub idle_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientHttpTimeout {
    pub request_received_timeout: Option<String>,
    pub idle_timeout: Option<String>,
    pub stream_idle_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    pub connection_limit: Option<ConnectionLimit>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionLimit {
    /// How many there may be at once.
    pub value: Option<u64>,
    pub close_delay: Option<String>,
    pub max_connection_duration: Option<String>,
    pub max_requests_per_connection: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2Settings {
    /// A number of bytes, or a text such as `64Ki`.
    pub initial_stream_window_size: Option<Value>,
    pub initial_connection_window_size: Option<Value>,
    pub max_concurrent_streams: Option<u32>,
}

/// Its presence says it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http3Settings {}
