//! `TLSRoute`, `TCPRoute` and `UDPRoute` (`gateway.networking.k8s.io/v1`): connections and datagrams as they are.

use serde::{Deserialize, Serialize};

use super::{
    http_route::{HttpBackendRef, ParentReference, RouteStatus},
    metadata::Resource,
};

/// All three kinds; only TLSRoutes have hostnames.
pub type StreamRoute = Resource<StreamRouteSpec, RouteStatus>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRouteSpec {
    pub parent_refs: Vec<ParentReference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Exactly one, says the API.
    pub rules: Vec<StreamRouteRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRouteRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Their filters are empty: streams have none.
    pub backend_refs: Vec<HttpBackendRef>,
}
