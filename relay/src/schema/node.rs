//! The tree that a definition becomes: one node for each place of an object.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::cel;

/// What may stand at one place of an object.
#[derive(Debug)]
pub struct Node {
    /// What the field is for, in a sentence or two.
    pub description: String,
    pub form: Form,
    /// Whether `null` is a value here; elsewhere it means that the field is absent.
    pub nullable: bool,
    pub default: Option<Value>,
    /// The only values allowed; empty when there is no such list.
    pub enumeration: Vec<Value>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<Rule>,
    /// How a strategic merge patch treats this list or object.
    pub patch: Option<PatchStrategy>,
    pub logic: Logic,
}

#[derive(Debug)]
pub enum Form {
    Object {
        properties: BTreeMap<String, Arc<Node>>,
        required: Vec<String>,
        /// What the values of other keys must be: the object is a map.
        additional: Option<Arc<Node>>,
        /// `x-kubernetes-preserve-unknown-fields`: other fields are kept as they are.
        open: bool,
        /// `x-kubernetes-map-type: atomic`: owned and replaced as a whole.
        atomic: bool,
        /// `x-kubernetes-embedded-resource`: an object with `apiVersion`, `kind` and `metadata` of its own.
        embedded: bool,
        /// The fewest keys.
        min: usize,
        /// The most keys.
        max: Option<usize>,
    },
    List {
        items: Arc<Node>,
        kind: ListKind,
        min: usize,
        max: Option<usize>,
    },
    /// Lengths are in Unicode scalar values.
    Text {
        min_length: usize,
        max_length: Option<usize>,
        pattern: Option<Pattern>,
        format: Option<Format>,
    },
    Integer {
        min: Option<i64>,
        max: Option<i64>,
        format: Option<Format>,
    },
    Number {
        min: Option<f64>,
        max: Option<f64>,
    },
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString {
        /// For the text, where it is one.
        pattern: Option<Pattern>,
    },
    /// Any JSON, kept as it is.
    Anything,
}

/// How the items of a list are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// Not at all: the list is one value.
    Atomic,
    /// By their value.
    Set,
    /// By these fields of each item.
    Map(Vec<String>),
}

/// Value validations joined by logic; their nodes say no type, default or rule of their own.
#[derive(Debug, Default)]
pub struct Logic {
    pub all_of: Vec<Arc<Node>>,
    pub any_of: Vec<Arc<Node>>,
    pub one_of: Vec<Arc<Node>>,
    pub not: Option<Arc<Node>>,
}

/// A rule in the Common Expression Language.
#[derive(Debug)]
pub struct Rule {
    pub rule: String,
    pub message: Option<String>,
    /// An expression whose value is the message.
    pub message_expression: Option<String>,
    /// Where below the rule's own place the problem is reported, such as `.port`.
    pub field_path: Option<String>,
    /// `FieldValueInvalid`, `FieldValueForbidden`, `FieldValueRequired` or `FieldValueDuplicate`.
    pub reason: Option<String>,
    /// Whether a rule on `oldSelf` also runs when there is none.
    pub optional_old_self: bool,
    pub(super) compiled: cel::Compiled,
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// `merge`: a list is merged item by item instead of being replaced.
    pub merge: bool,
    /// `retainKeys`: what the patch does not name is dropped.
    pub retain_keys: bool,
    /// The field by which items of a merged list are told apart; primitives are told apart by value.
    pub merge_key: Option<String>,
}

/// What the text of a string, or the width of an integer, must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 3339.
    DateTime,
    /// As Go writes durations: `1h30m`, `250ms`.
    Duration,
    /// Base64 (RFC 4648 §4).
    Byte,
    Ip,
    Ipv4,
    Ipv6,
    Cidr,
    Hostname,
    Uri,
    Int32,
    Int64,
}

impl Format {
    const ALL: &[(&str, Self)] = &[
        ("date-time", Self::DateTime),
        ("duration", Self::Duration),
        ("byte", Self::Byte),
        ("ip", Self::Ip),
        ("ipv4", Self::Ipv4),
        ("ipv6", Self::Ipv6),
        ("cidr", Self::Cidr),
        ("hostname", Self::Hostname),
        ("uri", Self::Uri),
        ("int32", Self::Int32),
        ("int64", Self::Int64),
    ];

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, format)| *format)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }
}

/// A regular expression, compiled when a text first meets it.
#[derive(Debug)]
pub struct Pattern {
    source: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self { source: source.to_owned(), compiled: OnceLock::new() }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether `text` has a match anywhere in it; the pattern itself says where it is anchored.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }

    /// `None` when the pattern is no regular expression.
    pub(super) fn regex(&self) -> Option<&Regex> {
        // In Go's syntax, which definitions are written for, `\d`, `\w` and `\s` are ASCII.
        let build = |unicode| RegexBuilder::new(&self.source).unicode(unicode).build().ok();
        self.compiled.get_or_init(|| build(false).or_else(|| build(true))).as_ref()
    }
}
