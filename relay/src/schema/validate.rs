//! Whether an object is as its schema says: types, bounds, formats, lists whose items differ, and the rules.
//!
//! Every problem is reported at once. Unknown fields are not looked at here (`prune`), nor names (`metadata`).

use std::{cmp::Ordering, collections::BTreeMap};

use serde_json::{Map, Number, Value};

use super::{
    cel,
    node::{Form, Format, ListKind, Node, Pattern},
    problem::{Cause, Findings, noun, quoted},
    text,
};

/// The most values of an enumeration that a message lists.
const CHOICES_SHOWN_MAX: usize = 32;

/// Checks `value` against `node`; `old` is what stood at the same place before, where that is known.
///
/// What is as it was is not looked at again, so that an object stored under other definitions can still be changed
/// (KEP-4008). Of a changed object or list the bounds and rules count, and what in it has changed: of lists, items are
/// known again by their keys alone.
///
/// Rules run where everything below them has the right structure, so a rule never meets a value of the wrong type or
/// a list longer than its bound. Total over arbitrary JSON.
pub(super) fn check(node: &Node, value: &Value, old: Option<&Value>, findings: &mut Findings) {
    let before = findings.structural();
    if old == Some(value) || (value.is_null() && node.nullable) {
        return;
    }
    shape(node, value, old, findings);
    enumeration(node, value, findings);
    logic(node, value, findings);
    if findings.structural() == before {
        cel::run(node, value, old, findings);
    }
}

fn shape(node: &Node, value: &Value, old: Option<&Value>, findings: &mut Findings) {
    match (&node.form, value) {
        (Form::Anything, _) | (Form::Boolean, Value::Bool(_)) => {}
        (Form::Object { .. }, Value::Object(fields)) => object(node, fields, old, findings),
        (Form::List { .. }, Value::Array(items)) => list(node, items, old, findings),
        (Form::Text { min_length, max_length, pattern, format }, Value::String(written)) => {
            let length = written.chars().count();
            if length < *min_length {
                findings.report(Cause::Invalid, too_short(*min_length));
            } else if max_length.is_some_and(|max| length > max) {
                let max = max_length.unwrap_or_default();
                findings.report(Cause::TooLong, format!("must be at most {max} characters, not {length}"));
            } else {
                pattern_and_format(pattern.as_ref(), *format, written, findings);
            }
        }
        (Form::Integer { min, max, format }, Value::Number(number)) => integer((*min, *max), *format, number, findings),
        (Form::Number { min, max }, Value::Number(number)) => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
                findings.report(Cause::Invalid, format!("must be {}, not {number}", bounds(*min, *max)));
            }
        }
        (Form::IntOrString { .. }, Value::Number(number)) => integer((None, None), None, number, findings),
        (Form::IntOrString { pattern }, Value::String(written)) => {
            pattern_and_format(pattern.as_ref(), None, written, findings);
        }
        (form, value) => {
            findings.report(Cause::TypeInvalid, format!("must be {}, not {}", form_noun(form), noun(value)));
        }
    }
}

fn object(node: &Node, fields: &Map<String, Value>, old: Option<&Value>, findings: &mut Findings) {
    let Form::Object { properties, required, additional, min, max, .. } = &node.form else { return };
    if fields.len() < *min {
        findings.report(Cause::Invalid, format!("must have at least {min} field(s)"));
    }
    if let Some(max) = max
        && fields.len() > *max
    {
        return findings.report(Cause::TooMany, format!("must have at most {max} fields, not {}", fields.len()));
    }
    for name in required.iter().filter(|name| !fields.contains_key(*name)) {
        findings.at_field(name, |findings| findings.report(Cause::Required, "required"));
    }
    for (name, value) in fields {
        let before = old.and_then(|old| old.get(name));
        match (properties.get(name), additional) {
            (Some(node), _) => findings.at_field(name, |findings| check(node, value, before, findings)),
            (None, Some(node)) => findings.at_key(name, |findings| check(node, value, before, findings)),
            (None, None) => {}
        }
    }
}

fn list(node: &Node, items: &[Value], old: Option<&Value>, findings: &mut Findings) {
    let Form::List { items: each, kind, min, max } = &node.form else { return };
    if items.len() < *min {
        findings.report(Cause::Invalid, format!("must have at least {min} item(s)"));
    }
    if max.is_some_and(|max| items.len() > max) {
        let max = max.unwrap_or_default();
        findings.report(Cause::TooMany, format!("must have at most {max} items, not {}", items.len()));
    }
    let looked_at = items.iter().enumerate().take(max.unwrap_or(usize::MAX));
    let before = Earlier::of(kind, old);
    for (index, item) in looked_at.clone() {
        let earlier = before.item(kind, item);
        findings.at_item(index, |findings| check(each, item, earlier, findings));
    }
    let mut seen = BTreeMap::new();
    for (index, item) in looked_at {
        let Some(identity) = identity(kind, item) else { continue };
        if let Some(first) = seen.insert(identity, index) {
            findings.at_item(index, |findings| duplicate(kind, item, first, findings));
        }
    }
}

/// What tells an item from the others, as text; `None` when nothing does, or a key is missing.
fn identity(kind: &ListKind, item: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(item.to_string()),
        ListKind::Map(keys) => {
            let values = keys.iter().map(|key| item.get(key).filter(|value| !value.is_null()));
            // An optional key may be absent from every item but one.
            let known: Vec<_> = values.clone().collect();
            known.iter().any(Option::is_some).then(|| {
                known.iter().map(|value| value.map_or_else(String::new, Value::to_string)).collect::<Vec<_>>().join(",")
            })
        }
    }
}

fn duplicate(kind: &ListKind, item: &Value, first: usize, findings: &mut Findings) {
    let shown = |value: &Value| value.as_str().map_or_else(|| quoted(&value.to_string()), quoted);
    match kind {
        ListKind::Map(keys) if keys.len() == 1 => {
            let key = &keys[0];
            let message = format!("`{}` is already used by item {first}", item.get(key).map(shown).unwrap_or_default());
            findings.at_field(key, |findings| findings.report(Cause::Duplicate, message));
        }
        ListKind::Map(keys) => {
            let message = format!("item {first} has the same {}", keys.join(", "));
            findings.report(Cause::Duplicate, message);
        }
        ListKind::Set | ListKind::Atomic => {
            findings.report(Cause::Duplicate, format!("`{}` is already item {first}", shown(item)));
        }
    }
}

/// The items that stood in a list before, by what tells them apart.
struct Earlier<'a>(BTreeMap<String, &'a Value>);

impl<'a> Earlier<'a> {
    fn of(kind: &ListKind, old: Option<&'a Value>) -> Self {
        let correlated = matches!(kind, ListKind::Map(_));
        let items = old.and_then(Value::as_array).filter(|_| correlated).into_iter().flatten();
        Self(items.filter_map(|item| Some((identity(kind, item)?, item))).collect())
    }

    fn item(&self, kind: &ListKind, item: &Value) -> Option<&'a Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&identity(kind, item)?).copied()
    }
}

fn integer(bounds: (Option<i64>, Option<i64>), format: Option<Format>, number: &Number, findings: &mut Findings) {
    let width = match format {
        Some(Format::Int32) => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    let (min, max) = (bounds.0.unwrap_or(width.0).max(width.0), bounds.1.unwrap_or(width.1).min(width.1));
    match whole(number) {
        Some(value) if (min..=max).contains(&value) => {}
        Some(_) if bounds.1.is_none() && bounds.0.is_some() => {
            findings.report(Cause::Invalid, format!("must be a whole number not below {min}, not {number}"));
        }
        _ if bounds == (None, None) && format != Some(Format::Int32) => {
            findings.report(Cause::TypeInvalid, format!("must be a whole number, not {number}"));
        }
        _ => findings.report(Cause::Invalid, format!("must be a whole number from {min} to {max}, not {number}")),
    }
}

/// Whole numbers may be written with a fraction of zero, as in `1.0`.
fn whole(number: &Number) -> Option<i64> {
    /// Beyond 2^53 a floating-point number no longer says which whole number it is.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let value = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= EXACT_MAX)?;
        format!("{value:.0}").parse().ok()
    })
}

fn bounds(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, max) => format!("at most {}", max.unwrap_or_default()),
    }
}

fn too_short(min: usize) -> String {
    match min {
        1 => "must not be empty".to_owned(),
        min => format!("must be at least {min} characters"),
    }
}

fn pattern_and_format(pattern: Option<&Pattern>, format: Option<Format>, written: &str, findings: &mut Findings) {
    if let Some(pattern) = pattern
        && !pattern.is_match(written)
    {
        return findings.report(Cause::Invalid, text::mismatch(pattern.as_str(), written));
    }
    if let Some(format) = format
        && let Err(message) = text::format(format, written)
    {
        findings.report(Cause::Invalid, message);
    }
}

fn enumeration(node: &Node, value: &Value, findings: &mut Findings) {
    if node.enumeration.is_empty() || node.enumeration.contains(value) {
        return;
    }
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let choices = node.enumeration.iter().take(CHOICES_SHOWN_MAX).map(|value| format!("`{}`", shown(value)));
    let choices = choices.collect::<Vec<_>>().join(", ");
    let same_type = node.enumeration.iter().any(|choice| noun(choice) == noun(value));
    // A value of the wrong type was reported as that.
    if same_type || matches!(node.form, Form::Anything | Form::IntOrString { .. }) {
        let message = format!("`{}`: unknown value; may be {choices}", quoted(&shown(value)));
        findings.report(Cause::NotSupported, message);
    }
}

fn logic(node: &Node, value: &Value, findings: &mut Findings) {
    let logic = &node.logic;
    for branch in &logic.all_of {
        check(branch, value, None, findings);
    }
    let holds = |branch: &Node| {
        let mut inner = Findings::default();
        check(branch, value, None, &mut inner);
        inner.count() == 0
    };
    if !logic.any_of.is_empty() && !logic.any_of.iter().any(|branch| holds(branch)) {
        match branch_message(&logic.any_of, value) {
            Some(message) => findings.report(Cause::Invalid, message),
            None => findings.report(Cause::Invalid, "fits none of the forms that are allowed here"),
        }
    }
    if !logic.one_of.is_empty() {
        match logic.one_of.iter().filter(|branch| holds(branch)).count().cmp(&1) {
            Ordering::Less => findings.report(Cause::Invalid, "fits none of the forms that are allowed here"),
            Ordering::Greater => findings.report(Cause::Invalid, "fits several forms that exclude each other"),
            Ordering::Equal => {}
        }
    }
    if logic.not.as_ref().is_some_and(|branch| holds(branch)) {
        findings.report(Cause::Invalid, "has a form that is not allowed here");
    }
}

/// When every branch asks for a format, what the text should have been.
fn branch_message(branches: &[std::sync::Arc<Node>], value: &Value) -> Option<String> {
    let names = branches.iter().map(|branch| match &branch.form {
        Form::Text { format: Some(format), .. } => Some(format.name()),
        _ => None,
    });
    let names = names.collect::<Option<Vec<_>>>()?.join(" nor ");
    Some(format!("`{}` is neither {names}", quoted(value.as_str()?)))
}

fn form_noun(form: &Form) -> &'static str {
    match form {
        Form::Object { properties, additional: Some(values), .. }
            if properties.is_empty() && matches!(values.form, Form::Text { .. }) =>
        {
            "an object of strings"
        }
        Form::Object { .. } => "an object",
        Form::List { .. } => "a list",
        Form::Text { .. } => "a string",
        Form::Integer { .. } => "a whole number",
        Form::Number { .. } => "a number",
        Form::Boolean => "true or false",
        Form::IntOrString { .. } => "a whole number or a string",
        Form::Anything => "anything",
    }
}

#[cfg(test)]
mod tests;
