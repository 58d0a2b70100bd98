//! Manifests in the form that a person writes them.

/// Where a route sends requests.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub node: &'a str,
    pub port: u16,
    /// As `Backend.spec.protocol` has it: empty, `plain` or `h2c`.
    pub protocol: &'a str,
}

/// Several documents in one stream.
#[must_use]
pub fn documents(parts: &[String]) -> String {
    parts.join("---\n")
}

#[must_use]
pub fn project(name: &str) -> String {
    format!("apiVersion: core.apoxy.dev/v1alpha2\nkind: Project\nmetadata:\n  name: {name}\n")
}

#[must_use]
pub fn node(name: &str) -> String {
    format!("apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata:\n  name: {name}\n")
}

/// A Backend named `name` on a node.
#[must_use]
pub fn backend(name: &str, node: &str, protocol: &str) -> String {
    let protocol = if protocol.is_empty() { String::new() } else { format!("  protocol: {protocol}\n") };
    format!(
        "apiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\nmetadata:\n  name: {name}\nspec:\n  endpoints:\n  \
         - fqdn: {node}.tun.internal\n{protocol}"
    )
}

/// An HTTPRoute named `name` on the default Gateway: all of `hostname` to one port of a Backend.
#[must_use]
pub fn route(name: &str, hostname: &str, backend: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.apoxy.dev/v1\nkind: HTTPRoute\nmetadata:\n  name: {name}\nspec:\n  parentRefs:\n  \
         - name: default\n  hostnames:\n  - {hostname}\n  rules:\n  - backendRefs:\n    - kind: Backend\n      \
         name: {backend}\n      port: {port}\n"
    )
}

/// A Backend and an HTTPRoute, both named `name`, for `hostname`.
#[must_use]
pub fn service(name: &str, hostname: &str, target: Target<'_>) -> String {
    documents(&[backend(name, target.node, target.protocol), route(name, hostname, name, target.port)])
}
