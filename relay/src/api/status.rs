//! Failures as Kubernetes clients know them: one `metav1.Status` per refusal. Pure.

use http::StatusCode;
use serde_json::{Value, json};
use underpass_shared::resource::kind::Kind;

use super::path::PathError;
use crate::{
    schema::{Cause, Problem},
    store::{
        StoreError, TransactError,
        object::{Object, ObjectKey},
        state::WriteError,
    },
};

/// Seconds after which a client that was turned away may try again.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failure {
    pub(super) code: StatusCode,
    /// `metav1.StatusReason`.
    pub(super) reason: &'static str,
    pub(super) message: String,
    details: Option<Value>,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn not_acceptable() -> Self {
        let message = "only application/json is served; tables and protobuf are not supported yet";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(super) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(super) fn too_large(max: usize) -> Self {
        let message = format!("the request body is longer than {max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(super) fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request body did not arrive in time")
    }

    pub(super) fn too_many() -> Self {
        let message = "the API is busy: too many requests at once";
        let details = json!({ "retryAfterSeconds": RETRY_AFTER_SECONDS });
        let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        Self { details: Some(details), ..failure }
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        let details = json!({ "retryAfterSeconds": RETRY_AFTER_SECONDS });
        let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        Self { details: Some(details), ..failure }
    }

    pub(super) fn conflict(key: &ObjectKey, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(key)
    }

    pub(super) fn not_found(key: &ObjectKey) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{key} not found")).about(key)
    }

    /// Every problem of an object, in one answer.
    pub(super) fn invalid(kind: &str, name: &str, problems: &[Problem]) -> Self {
        let said: Vec<String> = problems
            .iter()
            .map(|problem| match problem.path.as_str() {
                "" => problem.message.clone(),
                path => format!("{path}: {}", problem.message),
            })
            .collect();
        let causes: Vec<Value> = problems
            .iter()
            .map(|problem| {
                json!({ "field": problem.path, "message": problem.message, "reason": problem.cause.as_str() })
            })
            .collect();
        let list = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind} \"{name}\" is invalid: {list}");
        let details = json!({ "name": name, "kind": kind, "causes": causes });
        Self { details: Some(details), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message) }
    }

    fn about(self, key: &ObjectKey) -> Self {
        Self { details: Some(json!({ "name": key.name, "kind": key.kind.info().plural })), ..self }
    }

    /// Seconds for a `Retry-After` header.
    #[must_use]
    pub(super) fn retry_after(&self) -> Option<u32> {
        let turned_away = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        turned_away.contains(&self.code).then_some(RETRY_AFTER_SECONDS)
    }

    /// The `Status` object.
    #[must_use]
    pub(super) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            TransactError::Refused(WriteError::AlreadyExists(key)) => {
                Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(&key)
            }
            TransactError::Refused(WriteError::NotFound(key)) => Self::not_found(&key),
            TransactError::Refused(WriteError::Conflict { key, .. }) => Self::conflict(&key, message),
            TransactError::Refused(WriteError::Permanent(key)) => Self::forbidden(message).about(&key),
            TransactError::Refused(WriteError::NotEmpty { .. }) => Self::new(StatusCode::CONFLICT, "Conflict", message),
            TransactError::Refused(WriteError::Name { name, reason }) => {
                let problem = Problem { path: "metadata.name".to_owned(), message: reason, cause: Cause::Invalid };
                Self::invalid("", &name, &[problem])
            }
            TransactError::Refused(WriteError::Full { .. }) => Self::forbidden(message),
            TransactError::Refused(WriteError::Record { .. }) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
            }
            TransactError::Unavailable(_) | TransactError::Stopped => Self::unavailable(message),
        }
    }
}

/// The answer to a deletion that was done.
#[must_use]
pub(super) fn deleted(object: &Object) -> Value {
    let kind: Kind = object.key.kind;
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": { "name": object.key.name, "kind": kind.info().plural, "uid": object.body.uid },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_lists_every_cause() {
        let problem = |path: &str, message: &str| Problem {
            path: path.to_owned(),
            message: message.to_owned(),
            cause: Cause::Invalid,
        };
        let problems = [problem("spec.a", "unknown field"), problem("spec.b[0]", "must be a string, not a number")];
        let failure = Failure::invalid("Backend", "b", &problems);
        assert_eq!(
            failure.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422,
                "message":
                    "Backend \"b\" is invalid: [spec.a: unknown field, spec.b[0]: must be a string, not a number]",
                "details": {
                    "name": "b", "kind": "Backend",
                    "causes": [
                        {"field": "spec.a", "message": "unknown field", "reason": "FieldValueInvalid"},
                        {
                            "field": "spec.b[0]", "message": "must be a string, not a number",
                            "reason": "FieldValueInvalid",
                        },
                    ],
                },
            })
        );
    }
}
