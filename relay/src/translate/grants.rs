//! Which references into other namespaces are allowed (Gateway API, `ReferenceGrant`).

use underpass_shared::resource::reference_grant::ReferenceGrant;

use super::{is_gateway_group, namespace_of};

/// One end of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
}

/// Whether one of `grants` lets an object of `from` refer to `name` of `to`. Within a namespace nobody has to.
pub(super) fn permits(grants: &[ReferenceGrant], from: End<'_>, to: End<'_>, name: &str) -> bool {
    // Both names of the Gateway API's group are one.
    let same_group = |a: &str, b: &str| a == b || (is_gateway_group(Some(a)) && is_gateway_group(Some(b)));
    from.namespace == to.namespace
        || grants.iter().filter(|grant| namespace_of(&grant.metadata) == to.namespace).any(|grant| {
            grant.spec.from.iter().any(|one| {
                same_group(&one.group, from.group) && one.kind == from.kind && one.namespace == from.namespace
            }) && grant.spec.to.iter().any(|one| {
                same_group(&one.group, to.group)
                    && one.kind == to.kind
                    && one.name.as_deref().is_none_or(|only| only.is_empty() || only == name)
            })
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(namespace: &str, to: &serde_json::Value) -> ReferenceGrant {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
            "metadata": {"name": "g", "namespace": namespace},
            "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "a"}], "to": [to]},
        }))
        .unwrap()
    }

    #[test]
    fn a_grant_of_the_target_s_namespace_for_both_ends_is_needed() {
        let route = |namespace| End { group: "gateway.networking.k8s.io", kind: "HTTPRoute", namespace };
        let service = |namespace| End { group: "", kind: "Service", namespace };
        let all = [grant("b", &json!({"group": "", "kind": "Service"}))];
        assert!(permits(&[], route("a"), service("a"), "s"), "the same namespace");
        assert!(!permits(&[], route("a"), service("b"), "s"));
        assert!(permits(&all, route("a"), service("b"), "s"));
        assert!(permits(&all, End { group: "gateway.apoxy.dev", ..route("a") }, service("b"), "s"));
        assert!(!permits(&all, route("c"), service("b"), "s"), "from elsewhere");
        assert!(!permits(&all, route("a"), service("c"), "s"), "into another namespace");
        assert!(!permits(&all, End { kind: "GRPCRoute", ..route("a") }, service("b"), "s"));
        assert!(!permits(&all, route("a"), End { kind: "Secret", ..service("b") }, "s"));
        let one = [grant("b", &json!({"group": "", "kind": "Service", "name": "s"}))];
        assert!(permits(&one, route("a"), service("b"), "s") && !permits(&one, route("a"), service("b"), "t"));
    }
}
