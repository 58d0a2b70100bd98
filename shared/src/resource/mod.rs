//! Resources as users write them (Gateway API, `core.apoxy.dev`), and the table of kinds.
//!
//! These are outside forms: only the relay's `translate` and `controller` and the CLI read them.

pub mod backend;
pub mod backend_tls_policy;
pub mod backend_traffic_policy;
pub mod client_traffic_policy;
pub mod condition;
pub mod extension;
pub mod filter;
pub mod gateway;
pub mod grpc_route;
pub mod http_route;
pub mod kind;
pub mod metadata;
pub mod project;
pub mod proxy;
pub mod reference_grant;
pub mod secret;
pub mod selector;
pub mod service;
pub mod stream_route;
pub mod tunnel_node;
