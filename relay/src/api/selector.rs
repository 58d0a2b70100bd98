//! Label and field selectors: text → requirement → whether an object meets it. Pure.
//!
//! The grammar is Kubernetes' (`labels.Parse`, `fields.ParseSelector`); anything beside it is refused with the place.

use std::collections::BTreeMap;

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use crate::store::object::Object;

/// The longest selector in bytes.
const SELECTOR_BYTES_MAX: usize = 8 << 10;
/// The most requirements of one selector.
const REQUIREMENTS_MAX: usize = 128;

/// Why a selector is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SelectorError {
    #[error("the selector is longer than {SELECTOR_BYTES_MAX} bytes, or has more than {REQUIREMENTS_MAX} parts")]
    TooLong,
    #[error("unable to parse requirement: {0}")]
    Malformed(String),
    #[error("field label not supported: {field}; {kind} can be selected by {known}")]
    Field { field: String, kind: &'static str, known: String },
}

/// A label selector; the empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Labels {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Met by a label that is not there, too.
    NotIn(Vec<String>),
}

impl Labels {
    /// # Errors
    /// [`SelectorError::TooLong`], [`SelectorError::Malformed`].
    pub(super) fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(SelectorError::TooLong);
        }
        let mut requirements = Vec::new();
        for part in split(text)? {
            if requirements.len() >= REQUIREMENTS_MAX {
                return Err(SelectorError::TooLong);
            }
            requirements.push(requirement(part)?);
        }
        Ok(Self { requirements })
    }

    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    #[must_use]
    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

/// The parts between the commas that are outside parentheses.
fn split(text: &str) -> Result<Vec<&str>, SelectorError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match (byte, inside) {
            (b'(', false) => inside = true,
            (b')', true) => inside = false,
            (b'(', true) | (b')', false) => return Err(malformed(text, "the parentheses do not match")),
            (b',', false) => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(malformed(text, "a parenthesis is not closed"));
    }
    parts.push(text[begin..].trim());
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, SelectorError> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement { key: label_key(key.trim(), part)?, test: Test::Absent });
    }
    for (operator, is_equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = part.split_once(operator) {
            let values = vec![label_value(value.trim(), part)?];
            let test = if is_equal { Test::In(values) } else { Test::NotIn(values) };
            return Ok(Requirement { key: label_key(key.trim(), part)?, test });
        }
    }
    let Some((head, values)) = part.split_once('(') else {
        return Ok(Requirement { key: label_key(part, part)?, test: Test::Exists });
    };
    let values = values.strip_suffix(')').ok_or_else(|| malformed(part, "text after the parenthesis"))?;
    let values = values.split(',').map(|value| label_value(value.trim(), part)).collect::<Result<Vec<_>, _>>()?;
    let mut words = head.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(key), Some("in"), None) => Ok(Requirement { key: label_key(key, part)?, test: Test::In(values) }),
        (Some(key), Some("notin"), None) => Ok(Requirement { key: label_key(key, part)?, test: Test::NotIn(values) }),
        _ => Err(malformed(part, "expected KEY in (VALUES) or KEY notin (VALUES)")),
    }
}

fn label_key(key: &str, part: &str) -> Result<String, SelectorError> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_name = (1..=63).contains(&name.len()) && plain(name);
    if is_name && prefix.len() <= 253 && plain(prefix) {
        Ok(key.to_owned())
    } else {
        Err(malformed(part, "the key is not a label's"))
    }
}

fn label_value(value: &str, part: &str) -> Result<String, SelectorError> {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if plain && value.len() <= 63 { Ok(value.to_owned()) } else { Err(malformed(part, "the value is not a label's")) }
}

fn malformed(part: &str, why: &str) -> SelectorError {
    let shown: String = part.chars().take(64).flat_map(char::escape_debug).collect();
    SelectorError::Malformed(format!("`{shown}`: {why}"))
}

/// A field selector of one kind; the empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// Field path, value, whether it must be equal.
    requirements: Vec<(&'static str, String, bool)>,
}

/// The fields that every kind can be selected by.
const EVERY_KIND: [&str; 2] = ["metadata.name", "metadata.namespace"];

/// What else a kind can be selected by.
fn fields_of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Namespace => &["status.phase"],
        Kind::Secret => &["type"],
        Kind::Pod => &["status.phase", "spec.nodeName", "status.podIP", "spec.serviceAccountName"],
        Kind::Service => &["spec.type", "spec.clusterIP"],
        Kind::Proxy => &["spec.provider"],
        Kind::Backend => &["spec.protocol"],
        Kind::DomainZone => &["status.phase"],
        Kind::DomainRecord => &["spec.zone", "spec.name", "status.phase"],
        Kind::Gateway => &["spec.gatewayClassName"],
        _ => &[],
    }
}

impl Fields {
    /// # Errors
    /// [`SelectorError`]; [`SelectorError::Field`] for a field that the kind cannot be selected by.
    pub(super) fn parse(text: &str, kind: Kind) -> Result<Self, SelectorError> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(SelectorError::TooLong);
        }
        let mut requirements = Vec::new();
        for part in unescaped_parts(text) {
            if requirements.len() >= REQUIREMENTS_MAX {
                return Err(SelectorError::TooLong);
            }
            let (field, value, is_equal) = [("!=", false), ("==", true), ("=", true)]
                .into_iter()
                .find_map(|(operator, is_equal)| {
                    part.split_once(operator).map(|(field, value)| (field, value, is_equal))
                })
                .ok_or_else(|| malformed(&part, "expected FIELD=VALUE or FIELD!=VALUE"))?;
            let known = EVERY_KIND.iter().chain(fields_of(kind));
            let Some(field) = known.clone().find(|known| **known == field) else {
                let field = field.chars().take(64).flat_map(char::escape_debug).collect();
                let known = known.copied().collect::<Vec<_>>().join(", ");
                return Err(SelectorError::Field { field, kind: kind.info().name, known });
            };
            requirements.push((*field, value.to_owned(), is_equal));
        }
        Ok(Self { requirements })
    }

    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether something without namespace and other fields than its name is chosen.
    #[must_use]
    pub(super) fn matches_name(&self, name: &str) -> bool {
        let of = |field: &str| if field == "metadata.name" { name } else { "" };
        self.requirements.iter().all(|(field, value, is_equal)| (of(field) == value) == *is_equal)
    }

    #[must_use]
    pub(super) fn matches(&self, object: &Object) -> bool {
        self.requirements.iter().all(|(field, value, is_equal)| (field_of(object, field) == *value) == *is_equal)
    }
}

/// The parts between commas; `\,`, `\=` and `\\` stand for the character itself.
fn unescaped_parts(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match (character, escaped) {
            ('\\', false) => escaped = true,
            (',', false) => parts.push(std::mem::take(&mut part)),
            (other, _) => {
                part.push(other);
                escaped = false;
            }
        }
    }
    parts.push(part);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// An absent field counts as the empty text.
fn field_of<'a>(object: &'a Object, field: &str) -> &'a str {
    match field {
        "metadata.name" => &object.key.name,
        "metadata.namespace" => object.key.namespace.as_deref().unwrap_or_default(),
        other => {
            let mut path = other.split('.');
            let first = match path.next() {
                Some("status") => object.body.status.as_ref(),
                Some(name) => object.body.content.get(name),
                None => None,
            };
            path.fold(first, |value, name| value?.get(name)).and_then(Value::as_str).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use underpass_shared::identity::ProjectName;

    use super::*;
    use crate::store::{
        object::{Draft, ObjectKey},
        state::{Fresh, State},
    };

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_are_selected_as_kubernetes_does() {
        let object = labels(&[("app", "web"), ("example.com/tier", "front")]);
        for (text, want) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!gone", true),
            ("app=web", true),
            ("app == web , example.com/tier=front", true),
            ("app!=web", false),
            ("gone!=x", true),
            ("app in (api, web)", true),
            ("app in (api)", false),
            ("app notin (api),app", true),
            ("gone notin (x)", true),
            ("gone in (x)", false),
            ("gone=", false),
        ] {
            assert_eq!(Labels::parse(text).unwrap().matches(&object), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in
            ["a b", "app in web", "app in (web", "app in (web) x", "(a)", "=x", "a=b=c", "a,,b", "a=\u{e9}", ")"]
        {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
        assert_eq!(Labels::parse(&"a,".repeat(5000)), Err(SelectorError::TooLong));
        assert_eq!(Labels::parse(&vec!["a"; 200].join(",")), Err(SelectorError::TooLong));
    }

    #[test]
    fn fields_are_selected_and_unknown_ones_refused() {
        let key = ObjectKey::namespaced(&ProjectName::default(), Kind::Backend, "default", "web");
        let mut fresh = Fresh::new(time::OffsetDateTime::UNIX_EPOCH, [1; 32]);
        let object = State::default().create(Draft::of_spec(key, json!({ "protocol": "h2c" })), &mut fresh).unwrap();
        for (text, want) in [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==web,metadata.namespace=default", true),
            ("metadata.name!=web", false),
            ("spec.protocol=h2c", true),
            ("spec.protocol=", false),
            ("metadata.name=we\\,b", false),
        ] {
            assert_eq!(Fields::parse(text, Kind::Backend).unwrap().matches(&object), want, "{text}");
        }
        assert_eq!(
            Fields::parse("spec.nope=x", Kind::Backend).unwrap_err().to_string(),
            "field label not supported: spec.nope; Backend can be selected by metadata.name, metadata.namespace, spec.protocol"
        );
        assert!(Fields::parse("metadata.name", Kind::Backend).is_err());
        let others = Fields::parse("metadata.name!=a,metadata.namespace=", Kind::Backend).unwrap();
        assert!(others.matches_name("b") && !others.matches_name("a"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "[a-z!=,()\\\\ ./in]{0,40}|\\PC{0,40}") {
            let _ = Labels::parse(&text);
            let _ = Fields::parse(&text, Kind::Pod);
        }
    }
}
