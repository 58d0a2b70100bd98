//! What the status of a GatewayClass says: whether it is served, and which features of the Gateway API are.

use underpass_shared::{
    identity::ProjectName,
    resource::{
        gateway::{GatewayClass, GatewayClassStatus, SupportedFeature},
        kind::Kind,
    },
};

use super::{ProjectSnapshot, Status, WantedStatus, conditions, generation, mention, proxies, stop};

/// The features that are served, by upstream's names, in ascending order (Gateway API, `pkg/features`).
///
/// The conformance suite reads them from the status and tests each.
pub(super) const SUPPORTED_FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

pub(super) fn wanted(project: &ProjectName, objects: &ProjectSnapshot, class: &GatewayClass) -> WantedStatus {
    let at = generation(&class.metadata);
    let found = objects.unserved(Kind::GatewayClass, &class.metadata);
    let missing = || Some(("InvalidParameters", proxies::missing(objects, class.spec.parameters_ref.as_ref())?));
    let accepted = match stop(found).or_else(missing) {
        Some((reason, message)) => conditions::no(at, "Accepted", reason, message),
        None => conditions::yes(at, "Accepted", "Accepted", mention("the relay serves this class", found)),
    };
    let message = "the relay has the API's definitions of this version in itself";
    let version = conditions::yes(at, "SupportedVersion", "SupportedVersion", message);
    let features = SUPPORTED_FEATURES.iter().map(|&name| SupportedFeature { name: name.to_owned() });
    WantedStatus {
        project: project.clone(),
        namespace: None,
        name: class.metadata.name.clone(),
        status: Status::GatewayClass(GatewayClassStatus {
            conditions: vec![accepted, version],
            supported_features: features.collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_ascending_order_and_each_once() {
        assert!(SUPPORTED_FEATURES.is_sorted_by(|a, b| a < b));
    }
}
