//! `BackendTLSPolicy` (`gateway.networking.k8s.io/v1`): which backends are spoken to over TLS, and how they are verified.

use serde::{Deserialize, Serialize};

use super::{filter::LocalObjectReference, metadata::Resource};

/// The relay's part of its status is written entry by entry, beside those of other controllers.
pub type BackendTlsPolicy = Resource<BackendTlsPolicySpec, ()>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    pub target_refs: Vec<PolicyTargetReference>,
    pub validation: BackendTlsValidation,
}

/// A backend in the policy's namespace, or one port of it (Gateway API, `LocalPolicyTargetReferenceWithSectionName`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTargetReference {
    pub group: String,
    pub kind: String,
    pub name: String,
    /// The name of a Service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    /// What SNI says, and what the certificate must be for unless `subject_alt_names` say otherwise.
    pub hostname: String,
    #[serde(rename = "caCertificateRefs", skip_serializing_if = "Vec::is_empty")]
    pub ca_certificate_refs: Vec<LocalObjectReference>,
    /// `System`: the CAs of the host.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known_ca_certificates: Option<String>,
    /// The certificate must hold one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum SubjectAltName {
    /// It may begin with a wildcard label.
    Hostname { hostname: String },
    #[serde(rename = "URI")]
    Uri { uri: String },
}
