//! `BackendTrafficPolicy` (`policy.apoxy.dev/v1alpha1`): what happens between the gateway and a backend.
//!
//! The fields that the relay acts on; what else may be written is in the schema, and named in the policy's condition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{backend_tls_policy::PolicyTargetReference, metadata::Resource};

/// The relay's part of its status is written entry by entry, beside those of other controllers.
pub type BackendTrafficPolicy = Resource<BackendTrafficPolicySpec, ()>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicySpec {
    pub target_refs: Vec<PolicyTargetReference>,
    pub load_balancer: Option<LoadBalancer>,
    pub health_check: Option<HealthCheck>,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub retry: Option<Retry>,
    pub timeout: Option<Timeout>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `StrategicMerge` or `JSONMerge`, which are the same for what has no lists of objects.
    pub merge_type: Option<String>,
}

/// Tells backends who the client is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// `V1` or `V2`.
    pub version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// `RoundRobin`, `LeastRequest`, `Random` or `ConsistentHash`.
    #[serde(rename = "type")]
    pub kind: String,
    pub consistent_hash: Option<ConsistentHash>,
    pub slow_start: Option<SlowStart>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHash {
    /// `SourceIP`, `Header` or `Cookie`.
    #[serde(rename = "type")]
    pub kind: String,
    pub header: Option<HashHeader>,
    pub cookie: Option<HashCookie>,
    pub table_size: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashHeader {
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HashCookie {
    pub name: String,
    pub ttl: Option<String>,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlowStart {
    pub window: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheck {
    /// Percent.
    pub panic_threshold: Option<u8>,
    pub active: Option<ActiveCheck>,
    pub passive: Option<PassiveCheck>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ActiveCheck {
    /// `HTTP`, `TCP` or `GRPC`.
    #[serde(rename = "type")]
    pub kind: String,
    pub timeout: Option<String>,
    pub interval: Option<String>,
    pub initial_jitter: Option<String>,
    pub unhealthy_threshold: Option<u32>,
    pub healthy_threshold: Option<u32>,
    pub http: Option<HttpCheck>,
    pub tcp: Option<TcpCheck>,
    pub grpc: Option<GrpcCheck>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCheck {
    pub hostname: Option<String>,
    pub path: String,
    pub method: Option<String>,
    pub expected_statuses: Vec<u16>,
    pub expected_response: Option<Payload>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpCheck {
    pub send: Option<Payload>,
    pub receive: Option<Payload>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcCheck {
    pub service: Option<String>,
}

/// Bytes, as `text` or in base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Payload {
    pub text: Option<String>,
    pub binary: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PassiveCheck {
    pub split_external_local_origin_errors: bool,
    pub interval: Option<String>,
    pub consecutive_local_origin_failures: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5XxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    pub base_ejection_time: Option<String>,
    /// Percent.
    pub max_ejection_percent: Option<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    pub max_connections: Option<u32>,
    pub max_parallel_requests: Option<u32>,
    pub max_parallel_retries: Option<u32>,
    pub retry_budget: Option<RetryBudget>,
    pub per_endpoint: Option<PerEndpoint>,
}

/// How many of the requests in flight may be retries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Of all that are in flight.
    pub percent: Option<u8>,
    /// So many may be in any case.
    pub min_retry_concurrency: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PerEndpoint {
    pub max_connections: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    pub num_retries: Option<u32>,
    pub retry_on: Option<RetryOn>,
    pub per_retry: Option<PerRetry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryOn {
    pub triggers: Vec<String>,
    pub http_status_codes: Vec<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PerRetry {
    pub timeout: Option<String>,
    pub back_off: Option<BackOff>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackOff {
    pub base_interval: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeout {
    pub tcp: Option<TcpTimeout>,
    pub http: Option<HttpTimeout>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpTimeout {
    pub request_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpTimeout {
    pub connect_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub idle_time: Option<String>,
    pub interval: Option<String>,
}
