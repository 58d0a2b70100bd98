//! `Secret` and `ConfigMap` (`v1`), as far as certificates are read from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metadata::Metadata;

/// The type of a Secret that holds a certificate and its key, `tls.crt` and `tls.key`.
pub const TLS_SECRET: &str = "kubernetes.io/tls";

/// It has no `spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub metadata: Metadata,
    #[serde(rename = "type")]
    pub kind: String,
    /// Values are base64 (RFC 4648 §4).
    pub data: BTreeMap<String, String>,
}

/// It has no `spec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    pub metadata: Metadata,
    pub data: BTreeMap<String, String>,
}
