//! What an `ExtensionRef` of a route may name: `DirectResponse` and `HTTPRouteFilter` of `extensions.apoxy.dev/v1alpha2`.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, filter::Header, metadata::Resource};

/// The group of both.
pub const GROUP: &str = "extensions.apoxy.dev";

pub type DirectResponse = Resource<DirectResponseSpec, ExtensionStatus>;

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectResponseSpec {
    /// 100 to 599.
    pub status_code: u16,
    pub content_type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<DirectBody>,
}

impl Default for DirectResponseSpec {
    fn default() -> Self {
        Self { status_code: 200, content_type: "text/plain".to_owned(), headers: Vec::new(), body: None }
    }
}

/// The body of a fixed answer, for which `type` is `Inline`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DirectBody {
    pub inline: String,
}

pub type HttpRouteFilter = Resource<HttpRouteFilterSpec, ExtensionStatus>;

/// Settings of a route beyond the Gateway API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpRouteFilterSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressor: Option<Compressor>,
}

/// Compression of responses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Compressor {
    pub disabled: bool,
    /// Which may be used, the best first; empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub algorithms: Vec<Algorithm>,
    /// Bytes; shorter responses of known length stay as they are.
    pub min_content_length: u64,
    /// Media types; empty means those for which it helps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub content_type: Vec<String>,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { disabled: false, algorithms: Vec::new(), min_content_length: 128, content_type: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Gzip,
    Brotli,
    Zstd,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtensionStatus {
    pub conditions: Vec<Condition>,
}
