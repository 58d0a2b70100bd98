//! The API's `Status` objects → errors whose text users of kubectl know.
//!
//! Pure. The text comes from the relay: whoever prints it removes control characters.

use serde_json::Value;

/// What a refused request was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// CamelCase, as client-go knows them: `NotFound`, `Conflict`, `Invalid`…
    pub reason: String,
    pub message: String,
    /// Which object the causes speak of.
    pub kind: String,
    pub name: String,
    /// Every problem of the object.
    pub causes: Vec<Cause>,
}

/// One problem of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// CamelCase: `FieldValueInvalid`, `FieldManagerConflict`…
    pub reason: String,
    /// Such as `spec.rules[0].name`; empty when it speaks of the whole object.
    pub field: String,
    pub message: String,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

impl ApiError {
    /// Reads a `Status`; `code` is the answer's.
    pub(crate) fn from_status(code: u16, status: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let details = &status["details"];
        let causes = details["causes"].as_array().into_iter().flatten();
        Self {
            code,
            reason: text(&status["reason"]),
            message: text(&status["message"]),
            kind: text(&details["kind"]),
            name: text(&details["name"]),
            causes: causes
                .map(|cause| Cause {
                    reason: text(&cause["reason"]),
                    field: text(&cause["field"]),
                    message: text(&cause["message"]),
                })
                .filter(|cause| !cause.message.is_empty())
                .collect(),
        }
    }

    /// The object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Somebody else wrote the object between our reading and our writing.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409
    }

    /// Fields that others own would have been overwritten by server-side apply.
    #[must_use]
    pub fn is_field_conflict(&self) -> bool {
        self.is_conflict() && self.causes.iter().any(|cause| cause.reason == "FieldManagerConflict")
    }

    /// `HTTPRoute "x" is invalid`, the line above the causes.
    #[must_use]
    pub fn headline(&self) -> String {
        if self.kind.is_empty() { self.message.clone() } else { format!("{} \"{}\" is invalid", self.kind, self.name) }
    }

    fn text(&self) -> String {
        if self.is_field_conflict() {
            let lines: String = self.causes.iter().map(|cause| format!("\n  {cause}")).collect();
            return format!("{}:{lines}", self.message);
        }
        if !self.causes.is_empty() {
            let lines: String = self.causes.iter().map(|cause| format!("\n  {cause}")).collect();
            return format!("{}:{lines}", self.headline());
        }
        let message = if self.message.is_empty() {
            format!("the relay refused the request ({} {})", self.code, self.reason)
        } else {
            self.message.clone()
        };
        match self.code {
            401 => format!(
                "{message} (the relay does not know who this is: use the admin.kubeconfig of its data directory, or a \
                 token that is still good)"
            ),
            _ => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn causes_stand_below_the_object() {
        let status = json!({"kind": "Status", "reason": "Invalid", "message": "m", "details": {
        "kind": "HTTPRoute", "name": "x",
        "causes": [
            {"field": "spec.rules[0].foo", "message": "unknown field"},
            {"message": "too large"},
            {"field": "empty"},
        ]}});
        let error = ApiError::from_status(422, &status);
        assert_eq!(error.to_string(), "HTTPRoute \"x\" is invalid:\n  spec.rules[0].foo: unknown field\n  too large");
    }

    #[test]
    fn any_status_has_a_text() {
        for (code, status, want) in [
            (404, json!({"message": "backends \"x\" not found"}), "backends \"x\" not found"),
            (418, json!({"reason": "Teapot"}), "the relay refused the request (418 Teapot)"),
            (500, json!({"message": 5, "details": [], "reason": null}), "the relay refused the request (500 )"),
            (403, json!({"message": "may not"}), "may not"),
        ] {
            assert_eq!(ApiError::from_status(code, &status).to_string(), want);
        }
    }
}
