//! The kinds as OpenAPI documents.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{exchange::Done, path::Reach, status::Failure};

/// `/openapi/v2`.
///
/// # Errors
/// None yet.
pub(super) fn v2(_reach: &Reach, _headers: &HeaderMap) -> Result<Done, Failure> {
    Ok(Done::shown(
        StatusCode::OK,
        json!({ "swagger": "2.0", "info": { "title": "Underpass", "version": "v1" }, "paths": {} }),
    ))
}

/// `/openapi/v3`.
#[must_use]
pub(super) fn v3_index(_reach: &Reach) -> Value {
    json!({ "paths": {} })
}

/// `/openapi/v3/apis/GROUP/VERSION`.
#[must_use]
pub(super) fn v3(_reach: &Reach, _api_version: &str) -> Value {
    json!({ "openapi": "3.0.0", "info": { "title": "Underpass", "version": "v1" }, "paths": {} })
}
