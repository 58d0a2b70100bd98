//! What may be written for each kind: the structural rules, and the check that reports every broken one at once.
//!
//! The rules are plain values (`tables`), rules that span fields are code (`relations`), what upstream fills in is
//! in `defaults`. Whether a reference resolves is not decided here.

mod defaults;
mod relations;
mod tables;
mod text;

use serde_json::{Map, Value};

pub use self::{
    defaults::{default, strip_nulls},
    text::{dns_label, dns_subdomain, hostname},
};
use super::kind::{Kind, Scope};

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
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// Every problem of `object` as a manifest of `kind`, in the order of the rules; empty when it may be stored.
///
/// Total over arbitrary JSON. `null` counts as absent; `status` is accepted and not looked at.
/// A value without problems deserializes into the kind's struct once [`strip_nulls`] went over it.
#[must_use]
pub fn validate(kind: Kind, object: &Value) -> Vec<Problem> {
    let mut check = Check::default();
    check.value(&Shape::Object(tables::fields(kind)), object);
    if object.is_object() {
        check.identity(kind, object);
        relations::check(kind, object, &mut check);
    }
    check.into_problems()
}

/// What a value must look like.
enum Shape {
    Object(&'static [Field]),
    List(&'static List),
    /// String keys and string values.
    Map(&'static MapRule),
    Text(&'static Text),
    Integer {
        min: i64,
        max: i64,
    },
    Bool,
    /// The server's own fields, which clients send back: accepted and ignored.
    Anything,
}

struct Field {
    name: &'static str,
    need: Need,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
    /// The upstream kind has the field; we do not serve it yet.
    Later,
}

struct List {
    items: Shape,
    min: usize,
    max: usize,
    /// The field by which items are told apart (`x-kubernetes-list-map-keys`).
    key: Option<&'static str>,
}

struct MapRule {
    key: fn(&str) -> Result<(), String>,
    value: fn(&str) -> Result<(), String>,
}

struct Text {
    /// Length in bytes.
    min: usize,
    max: usize,
    allowed: Allowed,
}

enum Allowed {
    Any,
    Rule(fn(&str) -> Result<(), String>),
    /// The values served, and those that upstream has beside them.
    OneOf {
        now: &'static [&'static str],
        later: &'static [&'static str],
    },
}

/// One pass over an object: where it is, and what it found.
#[derive(Default)]
struct Check {
    path: String,
    problems: Vec<Problem>,
    left_out: usize,
}

impl Check {
    fn value(&mut self, shape: &Shape, value: &Value) {
        match (shape, value) {
            (Shape::Anything, _) | (Shape::Bool, Value::Bool(_)) => {}
            (Shape::Object(fields), Value::Object(object)) => self.object(fields, object),
            (Shape::List(list), Value::Array(items)) => self.list(list, items),
            (Shape::Map(rule), Value::Object(object)) => self.map(rule, object),
            (Shape::Text(rule), Value::String(text)) => self.text(rule, text),
            (Shape::Integer { min, max }, Value::Number(number)) => match number.as_i64() {
                Some(n) if (*min..=*max).contains(&n) => {}
                _ => self.report(Cause::Invalid, format!("must be a whole number from {min} to {max}, not {number}")),
            },
            (shape, value) => {
                let message = format!("must be {}, not {}", shape.noun(), noun(value));
                self.report(Cause::TypeInvalid, message);
            }
        }
    }

    fn object(&mut self, fields: &[Field], object: &Map<String, Value>) {
        for field in fields {
            let value = object.get(field.name).filter(|value| !value.is_null());
            self.at_field(field.name, |check| match (value, field.need) {
                (Some(_), Need::Later) => check.report(Cause::NotSupported, "not supported yet"),
                (Some(value), _) => check.value(&field.shape, value),
                (None, Need::Required) => check.report(Cause::Required, "required"),
                (None, _) => {}
            });
        }
        for name in object.keys().filter(|name| !fields.iter().any(|field| field.name == name.as_str())) {
            let hint = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            let message = match hint {
                Some(field) => format!("unknown field; is `{}` meant?", field.name),
                None => "unknown field".to_owned(),
            };
            self.at_field(name, |check| check.report(Cause::Invalid, message));
        }
    }

    fn list(&mut self, list: &List, items: &[Value]) {
        if items.len() < list.min {
            self.report(Cause::Invalid, format!("must have at least {} item(s)", list.min));
        }
        if items.len() > list.max {
            self.report(Cause::Invalid, format!("must have at most {} items, not {}", list.max, items.len()));
        }
        for (index, item) in items.iter().enumerate().take(list.max) {
            self.at_item(index, |check| check.value(&list.items, item));
        }
        let Some(key) = list.key else { return };
        let mut seen = std::collections::BTreeMap::new();
        for (index, item) in items.iter().enumerate().take(list.max) {
            let Some(name) = item.get(key).and_then(Value::as_str) else { continue };
            if let Some(first) = seen.insert(name, index) {
                let message = format!("`{}` is already used by item {first}", quoted(name));
                self.at_item(index, |check| check.at_field(key, |check| check.report(Cause::Duplicate, message)));
            }
        }
    }

    fn map(&mut self, rule: &MapRule, object: &Map<String, Value>) {
        for (key, value) in object {
            let length = self.path.len();
            self.path.push_str(&format!("[{}]", quoted(key)));
            if let Err(message) = (rule.key)(key) {
                self.report(Cause::Invalid, message);
            }
            match value {
                Value::String(text) => {
                    if let Err(message) = (rule.value)(text) {
                        self.report(Cause::Invalid, message);
                    }
                }
                Value::Null => {}
                other => self.report(Cause::TypeInvalid, format!("must be a string, not {}", noun(other))),
            }
            self.path.truncate(length);
        }
    }

    fn text(&mut self, rule: &Text, text: &str) {
        if text.len() < rule.min {
            return self.report(Cause::Invalid, "must not be empty");
        }
        if text.len() > rule.max {
            return self.report(Cause::Invalid, format!("must be at most {} bytes, not {}", rule.max, text.len()));
        }
        match &rule.allowed {
            Allowed::Any => {}
            Allowed::Rule(check) => {
                if let Err(message) = check(text) {
                    self.report(Cause::Invalid, message);
                }
            }
            Allowed::OneOf { now, later: _ } if now.contains(&text) => {}
            Allowed::OneOf { now, later } => {
                let list = now.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
                let verdict = if later.contains(&text) { "not supported yet" } else { "unknown value" };
                self.report(Cause::NotSupported, format!("`{}`: {verdict}; may be {list}", quoted(text)));
            }
        }
    }

    /// `apiVersion`, `kind` and where the object may live.
    fn identity(&mut self, kind: Kind, object: &Value) {
        let info = kind.info();
        if let Some(version) = object.get("apiVersion").and_then(Value::as_str)
            && !info.api_versions.contains(&version)
        {
            let message =
                format!("`{}` has no {}; may be {}", quoted(version), info.name, info.api_versions.join(" or "));
            self.at_field("apiVersion", |check| check.report(Cause::NotSupported, message));
        }
        if let Some(name) = object.get("kind").and_then(Value::as_str)
            && name != info.name
        {
            let message = format!("`{}` is not {}", quoted(name), info.name);
            self.at_field("kind", |check| check.report(Cause::Invalid, message));
        }
        // Their names are labels of DNS names and parts of identities.
        if matches!(kind, Kind::Project | Kind::TunnelNode)
            && let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str)
            && dns_subdomain(name).is_ok()
            && let Err(message) = dns_label(name)
        {
            self.at_field("metadata", |check| check.at_field("name", |check| check.report(Cause::Invalid, message)));
        }
        let namespace = object.pointer("/metadata/namespace").filter(|value| !value.is_null());
        if info.scope != Scope::Namespaced && namespace.is_some() {
            let message = format!("a {} belongs to no namespace: remove the field", info.name);
            self.at_field("metadata", |check| {
                check.at_field("namespace", |check| check.report(Cause::Invalid, message));
            });
        }
    }

    fn at_field(&mut self, name: &str, then: impl FnOnce(&mut Self)) {
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

    fn at_item(&mut self, index: usize, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(&format!("[{index}]"));
        then(self);
        self.path.truncate(length);
    }

    /// Looks at the items of the list `name`, at most `max` of them, each under its path.
    fn each(&mut self, object: &Value, name: &str, max: usize, mut then: impl FnMut(&mut Self, &Value)) {
        let Some(items) = object.get(name).and_then(Value::as_array) else { return };
        self.at_field(name, |check| {
            for (index, item) in items.iter().enumerate().take(max) {
                check.at_item(index, |check| then(check, item));
            }
        });
    }

    fn report(&mut self, cause: Cause, message: impl Into<String>) {
        if self.problems.len() >= PROBLEMS_MAX {
            self.left_out += 1;
            return;
        }
        self.problems.push(Problem { path: self.path.clone(), message: message.into(), cause });
    }

    fn into_problems(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            let message = format!("and {} more problems, which are not listed", self.left_out);
            self.problems.push(Problem { path: String::new(), message, cause: Cause::Invalid });
        }
        self.problems
    }
}

impl Shape {
    fn noun(&self) -> &'static str {
        match self {
            Self::Object(_) => "an object",
            Self::List(_) => "a list",
            Self::Map(_) => "an object of strings",
            Self::Text(_) => "a string",
            Self::Integer { .. } => "a whole number",
            Self::Bool => "true or false",
            Self::Anything => "anything",
        }
    }
}

fn noun(value: &Value) -> &'static str {
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
fn quoted(text: &str) -> String {
    let mut end = text.len().min(QUOTED_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let escaped = text[..end].chars().flat_map(char::escape_debug).collect();
    if end < text.len() { format!("{escaped}…") } else { escaped }
}

#[cfg(test)]
mod tests;
