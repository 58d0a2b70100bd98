//! Failures as Kubernetes clients know them: one `metav1.Status` per refusal. Pure.

use http::StatusCode;
use serde_json::{Value, json};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::path::{PathError, Place};
use crate::{
    access::role::group_of,
    apply::ApplyError,
    patch::PatchError,
    schema::{Cause, Problem},
    store::{
        StoreError, TransactError, Unavailable,
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
        let message = "only application/json is served: send Accept: application/json";
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

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// A revision that this relay has not reached.
    pub(super) fn version_too_large(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let cause = json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
        let details = json!({ "causes": [cause], "retryAfterSeconds": RETRY_AFTER_SECONDS });
        Self { details: Some(details), ..Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message) }
    }

    /// An object that is not as its writer thought; `why` is for people.
    pub(super) fn conflict(key: &ObjectKey, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {}: {why}", named(key));
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(key)
    }

    /// A write of an older revision.
    pub(super) fn modified(key: &ObjectKey, current: u64, expected: u64) -> Self {
        let why = format!(
            "the object has been modified; please apply your changes to the latest version and try again: \
             it is at {current}, not {expected}"
        );
        Self::conflict(key, &why)
    }

    /// A write of another object, which had this name before.
    pub(super) fn other_uid(key: &ObjectKey, wanted: &str, current: &str) -> Self {
        let wanted: String = wanted.chars().take(64).flat_map(char::escape_debug).collect();
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {current}: \
             it was deleted and made anew"
        );
        Self::conflict(key, &why)
    }

    pub(super) fn not_found(key: &ObjectKey) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} not found{}", named(key), place_of(key))).about(key)
    }

    /// Something that is not there and is no object.
    pub(super) fn nothing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(super) fn already_exists(key: &ObjectKey) -> Self {
        let message = format!("{} already exists{}", named(key), place_of(key));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(key)
    }

    /// Every problem of an object of `kind`, in one answer.
    pub(super) fn invalid_object(kind: Kind, name: &str, problems: &[Problem]) -> Self {
        Self::invalid(group_of(kind), kind.info().name, name, problems)
    }

    /// Every problem of a body of any sort, in one answer.
    pub(super) fn invalid(group: &str, kind: &str, name: &str, problems: &[Problem]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = format!("{qualified} \"{name}\" is invalid: {}", listed(problems));
        let details = json!({ "name": name, "group": group, "kind": kind, "causes": causes(problems) });
        Self { details: Some(details), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message) }
    }

    /// Says of which resource the failure is.
    pub(super) fn of_kind(self, kind: Kind, name: Option<&str>) -> Self {
        let mut details = json!({ "kind": kind.info().plural, "group": group_of(kind) });
        if let Some(name) = name {
            details["name"] = json!(name);
        }
        Self { details: Some(details), ..self }
    }

    /// Fields that no schema knows; `problems` are what else is wrong.
    pub(super) fn unknown_fields(place: &Place, name: &str, unknown: &[Problem], problems: &[Problem]) -> Self {
        let kind = place.kind.info().name;
        let (_, version) = place.api_version.rsplit_once('/').unwrap_or(("", place.api_version));
        let fields: Vec<String> = unknown.iter().map(unknown_field).collect();
        let mut message = format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
            fields.join(", ")
        );
        if !problems.is_empty() {
            message.push_str(&format!("; besides, it is invalid: {}", listed(problems)));
        }
        let mut all = causes(unknown);
        all.extend(causes(problems));
        let details = json!({ "name": name, "group": group_of(place.kind), "kind": kind, "causes": all });
        Self { details: Some(details), ..Self::bad_request(message) }
    }

    /// Fields that are there twice.
    pub(super) fn twice(place: &Place, paths: &[String]) -> Self {
        let kind = place.kind.info().name;
        let (_, version) = place.api_version.rsplit_once('/').unwrap_or(("", place.api_version));
        let fields: Vec<String> = paths.iter().map(|path| duplicate_field(path)).collect();
        Self::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {kind}: strict decoding error: {}",
            fields.join(", ")
        ))
    }

    /// A server-side apply that is refused.
    pub(super) fn apply(key: &ObjectKey, error: ApplyError) -> Self {
        let message = error.to_string();
        let conflicts = match error {
            ApplyError::Invalid(_) => return Self::bad_request(message),
            ApplyError::Conflicts(conflicts) => conflicts,
        };
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|conflict| {
                let message = format!("conflict with {conflict}");
                json!({ "reason": "FieldManagerConflict", "message": message, "field": conflict.field })
            })
            .collect();
        let mut failure = Self::new(StatusCode::CONFLICT, "Conflict", message).about(key);
        if let Some(details) = &mut failure.details {
            details["causes"] = Value::Array(causes);
        }
        failure
    }

    /// A patch that cannot be applied to an object.
    pub(super) fn patch(error: &PatchError) -> Self {
        let message = error.to_string();
        match error {
            PatchError::Malformed(_) => Self::bad_request(message),
            PatchError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message),
            PatchError::Inapplicable(_) => {
                let message = format!("the server rejected our request due to an error in our request: {message}");
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            }
        }
    }

    fn about(self, key: &ObjectKey) -> Self {
        let details = json!({ "name": key.name, "group": group_of(key.kind), "kind": key.kind.info().plural });
        Self { details: Some(details), ..self }
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
            TransactError::Refused(WriteError::AlreadyExists(key)) => Self::already_exists(&key),
            TransactError::Refused(WriteError::NotFound(key)) => Self::not_found(&key),
            TransactError::Refused(WriteError::Conflict { key, current, expected }) => {
                Self::modified(&key, current, expected)
            }
            TransactError::Refused(WriteError::Permanent(key)) => Self::forbidden(message).about(&key),
            TransactError::Refused(WriteError::NotEmpty { .. }) => Self::new(StatusCode::CONFLICT, "Conflict", message),
            TransactError::Refused(WriteError::Name { name, reason }) => {
                let problem = Problem { path: "metadata.name".to_owned(), message: reason, cause: Cause::Invalid };
                Self::invalid("", "", &name, &[problem])
            }
            TransactError::Refused(WriteError::Deleting(key)) => {
                let message = "no new finalizers can be added if the object is being deleted".to_owned();
                let problem = Problem { path: "metadata.finalizers".to_owned(), message, cause: Cause::Forbidden };
                Self::invalid_object(key.kind, &key.name, &[problem])
            }
            TransactError::Refused(WriteError::Terminating { namespace }) => {
                let cause =
                    json!({ "reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace" });
                let details = json!({ "name": namespace, "kind": "namespaces", "causes": [cause] });
                Self { details: Some(details), ..Self::forbidden(message) }
            }
            TransactError::Refused(WriteError::Full { .. }) => Self::forbidden(message),
            TransactError::Refused(WriteError::Record { .. }) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
            }
            // No waiting helps, so that nobody is told to try again.
            TransactError::Unavailable(Unavailable::TooLarge(_)) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
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
        "details": {
            "name": object.key.name, "group": group_of(kind), "kind": kind.info().plural, "uid": object.body.uid,
        },
    })
}

/// As Kubernetes names objects in failures: `backends.core.apoxy.dev "b"`.
fn named(key: &ObjectKey) -> String {
    let plural = key.kind.info().plural;
    match group_of(key.kind) {
        "" => format!("{plural} \"{}\"", key.name),
        group => format!("{plural}.{group} \"{}\"", key.name),
    }
}

/// In which project it was looked for, when that is not the usual one.
fn place_of(key: &ObjectKey) -> String {
    match &key.project {
        Some(project) if *project != ProjectName::default() => format!(" in project {project}"),
        _ => String::new(),
    }
}

/// As Kubernetes' clients know it.
#[must_use]
pub(super) fn unknown_field(problem: &Problem) -> String {
    format!("unknown field \"{}\"", problem.path)
}

/// As Kubernetes' clients know it.
#[must_use]
pub(super) fn duplicate_field(path: &str) -> String {
    format!("duplicate field \"{path}\"")
}

fn listed(problems: &[Problem]) -> String {
    let said = problems.iter().map(|problem| match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    });
    match said.collect::<Vec<_>>().as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn causes(problems: &[Problem]) -> Vec<Value> {
    let cause = |problem: &Problem| json!({ "field": problem.path, "message": problem.message, "reason": problem.cause.as_str() });
    problems.iter().map(cause).collect()
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
        let failure = Failure::invalid_object(Kind::Backend, "b", &problems);
        assert_eq!(
            failure.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422,
                "message":
                    "Backend.core.apoxy.dev \"b\" is invalid: [spec.a: unknown field, spec.b[0]: must be a string, not a number]",
                "details": {
                    "name": "b", "group": "core.apoxy.dev", "kind": "Backend",
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
