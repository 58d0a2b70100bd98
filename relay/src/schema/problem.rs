//! What is wrong with a written object, and where: problems, field paths, and how a user's text is repeated.

use serde_json::Value;

/// The most problems reported of one object; the last one then says how many were left out.
pub const PROBLEMS_MAX: usize = 500;

/// The most bytes of a user's text that a message or path repeats.
const QUOTED_BYTES_MAX: usize = 64;

/// One thing wrong with a written object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full field path, as in `spec.rules[0].backendRefs[1].port`; empty for the object itself.
    pub path: String,
    /// A sentence for people, without the path.
    pub message: String,
    pub cause: Cause,
}

/// What sort of problem it is, as Kubernetes clients know them (`metav1.CauseType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
}

impl Cause {
    /// The `reason` of a `StatusCause`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One pass over an object: where it is, and what it found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    path: String,
    problems: Vec<Problem>,
    left_out: usize,
    /// How many of them a rule found.
    by_rules: usize,
    /// How many values rules have seen.
    spent: usize,
}

impl Findings {
    pub(super) fn at_field(&mut self, name: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let plain = name.len() <= QUOTED_BYTES_MAX
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        match (plain, length) {
            (true, 0) => self.path.push_str(name),
            (true, _) => self.path.push_str(&format!(".{name}")),
            (false, _) => self.path.push_str(&format!("[{}]", quoted(name))),
        }
        then(self);
        self.path.truncate(length);
    }

    /// An entry of a map, whose keys are the user's.
    pub(super) fn at_key(&mut self, key: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&format!("[{}]", quoted(key)));
        then(self);
        self.path.truncate(length);
    }

    pub(super) fn at_item(&mut self, index: usize, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        then(self);
        self.path.truncate(length);
    }

    pub(super) fn report(&mut self, cause: Cause, message: impl Into<String>) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.left_out += 1;
            return;
        }
        self.problems.push(Problem { path: self.path.clone(), message: message.into(), cause });
    }

    /// Reports what a rule found.
    pub(super) fn report_rule(&mut self, cause: Cause, message: impl Into<String>) {
        self.by_rules += 1;
        self.report(cause, message);
    }

    /// The place that a rule's `fieldPath` names below its own: `.a.b` or `['a.b']`.
    pub(super) fn at_rule_path(&mut self, below: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(if length == 0 { below.trim_start_matches('.') } else { below });
        then(self);
        self.path.truncate(length);
    }

    /// Counts `values` that rules are about to see; false when that is more than `max` altogether.
    pub(super) fn spend(&mut self, values: usize, max: usize) -> bool {
        self.spent = self.spent.saturating_add(values);
        self.spent <= max
    }

    /// How many problems there are so far that no rule found.
    pub(super) fn structural(&self) -> usize {
        self.count() - self.by_rules
    }

    /// How many problems there are so far, left-out ones included.
    pub(super) fn count(&self) -> usize {
        self.problems.len() + self.left_out
    }

    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            let message = format!("and {} more problems, which are not listed", self.left_out);
            self.problems.push(Problem { path: String::new(), message, cause: Cause::Invalid });
        }
        self.problems
    }

    /// The problems alone, at most [`PROBLEMS_MAX`].
    pub(super) fn into_listed(self) -> Vec<Problem> {
        self.problems
    }
}

/// What `value` is, for a message.
pub(super) fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A user's text, short and without control characters, for a message.
pub(super) fn quoted(text: &str) -> String {
    let mut end = text.len().min(QUOTED_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let escaped = text[..end].chars().flat_map(char::escape_debug).collect();
    if end < text.len() { format!("{escaped}…") } else { escaped }
}
