//! The rules of a schema, in the Common Expression Language with the functions that Kubernetes adds.
//!
//! Differences from Kubernetes: texts with a format (`date-time`, `duration`, `byte`) are texts in rules, and a rule's
//! cost is bounded by the size of what it sees instead of being counted step by step.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock},
};

use kube_cel::{
    KubeCelExt as _,
    cel::{
        self, Context, ExecutionError, FunctionContext, Program,
        extractors::This,
        objects::{Key, Map, OptionalValue},
    },
};
use regex::Regex;
use serde_json::{Number, Value};

use super::{
    node::{Form, Node, Rule},
    problem::{Cause, Findings},
};

/// The most JSON values that a rule may see at once.
///
/// Upstream's largest place with a rule is a route of 16 rules with 64 matches each: some 20,000 values at their bounds.
pub(super) const VALUES_MAX: usize = 50_000;

/// The most JSON values that the rules of one object may see all together, a bound on the time they take.
const VALUES_TOTAL_MAX: usize = 2_000_000;

/// The longest message that an expression may make, in characters; Kubernetes allows 5 KiB.
const MESSAGE_LENGTH_MAX: usize = 1024;

/// How many patterns are kept compiled. Those of the definitions are far fewer; one that a value names beyond that is
/// compiled each time.
const PATTERNS_MAX: usize = 256;

/// The patterns that rules have matched with, compiled.
static PATTERNS: LazyLock<RwLock<HashMap<Arc<String>, Regex>>> = LazyLock::new(RwLock::default);

static FUNCTIONS: LazyLock<Context<'static>> = LazyLock::new(|| {
    let mut context = Context::default().with_all();
    context.add_function("size", size);
    context.add_function("matches", matches);
    context
});

/// Whether the pattern has a match in the text. The library compiles it anew for each text, which costs more than the
/// whole rest of a write.
fn matches(
    call: &FunctionContext<'_, '_>,
    This(text): This<Arc<String>>,
    pattern: Arc<String>,
) -> Result<bool, ExecutionError> {
    if let Some(known) = PATTERNS.read().unwrap_or_else(PoisonError::into_inner).get(&pattern) {
        return Ok(known.is_match(&text));
    }
    let compiled =
        Regex::new(&pattern).map_err(|error| call.error(format!("'{pattern}' not a valid regex:\n{error}")))?;
    let is_match = compiled.is_match(&text);
    let mut patterns = PATTERNS.write().unwrap_or_else(PoisonError::into_inner);
    if patterns.len() < PATTERNS_MAX {
        patterns.insert(pattern, compiled);
    }
    Ok(is_match)
}

/// The number of entries, bytes or, for texts, Unicode scalar values, of which the library would count the bytes.
fn size(This(of): This<cel::Value>) -> Result<i64, ExecutionError> {
    let size = match &of {
        cel::Value::String(text) => text.chars().count(),
        cel::Value::Bytes(bytes) => bytes.len(),
        cel::Value::List(items) => items.len(),
        cel::Value::Map(entries) => entries.map.len(),
        _ => return Err(ExecutionError::NoSuchOverload),
    };
    Ok(i64::try_from(size).unwrap_or(i64::MAX))
}

/// A rule's expressions, parsed on first use.
#[derive(Debug, Default)]
pub(super) struct Compiled(OnceLock<Result<Expressions, String>>);

#[derive(Debug)]
struct Expressions {
    rule: Program,
    message: Option<Program>,
    /// Whether the rule compares with what was there before.
    is_transition: bool,
}

impl Rule {
    /// # Errors
    /// When one of the rule's expressions does not parse, with the parser's words.
    #[cfg(test)]
    pub(super) fn compile(&self) -> Result<(), String> {
        self.expressions().as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// The functions and operators that the rule's expressions call.
    #[cfg(test)]
    pub(super) fn functions(&self) -> Vec<String> {
        let Ok(expressions) = self.expressions() else { return Vec::new() };
        let programs = std::iter::once(&expressions.rule).chain(&expressions.message);
        programs
            .flat_map(|program| program.references().functions().into_iter().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    fn expressions(&self) -> &Result<Expressions, String> {
        self.compiled.0.get_or_init(|| {
            let parse = |text: &str| Program::compile(text).map_err(|error| format!("`{text}`: {error}"));
            let rule = parse(&self.rule)?;
            let is_transition = rule.references().has_variable("oldSelf");
            Ok(Expressions { rule, message: self.message_expression.as_deref().map(parse).transpose()?, is_transition })
        })
    }
}

/// Runs the rules of `node` on `value`, whose structure is right.
///
/// Rules that speak of `oldSelf` run only when there is an `old` value, or when the rule makes it optional. An old value
/// that a rule cannot compare with refuses the new one.
pub(super) fn run(node: &Node, value: &Value, old: Option<&Value>, findings: &mut Findings) {
    if node.rules.is_empty() {
        return;
    }
    let size = count(value) + old.map_or(0, count);
    if size > VALUES_MAX || !findings.spend(size.saturating_mul(node.rules.len()), VALUES_TOTAL_MAX) {
        return findings.report_rule(Cause::Invalid, "too large for the rules that apply here");
    }
    let mut scope = FUNCTIONS.new_inner_scope();
    scope.add_variable_from_value("self", to_cel(node, value));
    let before = old.map(|old| to_cel(node, old));
    if let Some(before) = &before {
        scope.add_variable_from_value("oldSelf", before.clone());
    }
    for rule in &node.rules {
        if let Err(message) = holds(rule, &scope, before.as_ref()) {
            let cause = cause(rule.reason.as_deref());
            findings.at_rule_path(rule.field_path.as_deref().unwrap_or_default(), |findings| {
                findings.report_rule(cause, message);
            });
        }
    }
}

/// Whether `rule` holds in `scope`, or the message that says that it does not.
fn holds(rule: &Rule, scope: &Context<'_>, before: Option<&cel::Value>) -> Result<(), String> {
    let expressions = match rule.expressions() {
        Ok(expressions) => expressions,
        Err(error) => return Err(format!("the rule cannot be read: {error}")),
    };
    if expressions.is_transition && before.is_none() && !rule.optional_old_self {
        return Ok(());
    }
    let mut inner = scope.new_inner_scope();
    if rule.optional_old_self {
        let before = before.map_or_else(OptionalValue::none, |before| OptionalValue::of(before.clone()));
        inner.add_variable_from_value("oldSelf", cel::Value::Opaque(Arc::new(before)));
    }
    match expressions.rule.execute(&inner) {
        Ok(cel::Value::Bool(true)) => return Ok(()),
        Ok(cel::Value::Bool(false)) => {}
        Ok(_) => return Err(format!("the rule says neither true nor false: {}", rule.rule)),
        // A fault of the rule. The error itself may repeat all that the user wrote.
        Err(ExecutionError::UndeclaredReference(_) | ExecutionError::NoSuchOverload) => {
            return Err(format!("the rule cannot be evaluated: {}", rule.rule));
        }
        // A field that the rule asks for is not there, a text is not the number it should be: the rule does not hold.
        Err(_) => {}
    }
    let said = expressions.message.as_ref().and_then(|program| match program.execute(&inner) {
        Ok(cel::Value::String(text)) if !text.trim().is_empty() => Some(shortened(&text)),
        _ => None,
    });
    Err(said.or_else(|| rule.message.clone()).unwrap_or_else(|| format!("failed rule: {}", rule.rule)))
}

fn shortened(text: &str) -> String {
    text.trim().chars().filter(|letter| !letter.is_control()).take(MESSAGE_LENGTH_MAX).collect()
}

fn cause(reason: Option<&str>) -> Cause {
    match reason {
        Some("FieldValueRequired") => Cause::Required,
        Some("FieldValueForbidden") => Cause::Forbidden,
        Some("FieldValueDuplicate") => Cause::Duplicate,
        _ => Cause::Invalid,
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Object(fields) => fields.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// `value` as expressions see it: by its schema, a name of a field is escaped, the key of a map is not.
fn to_cel(node: &Node, value: &Value) -> cel::Value {
    match (&node.form, value) {
        (Form::Object { properties, additional, .. }, Value::Object(fields)) => {
            let entries = fields.iter().filter_map(|(name, value)| match (properties.get(name), additional) {
                // An explicit null is an absent field.
                (Some(_), _) if value.is_null() => None,
                (Some(node), _) => Some((escaped(name), to_cel(node, value))),
                (None, Some(node)) => Some((name.clone(), to_cel(node, value))),
                // Unknown to the schema, unknown to its rules.
                (None, None) => None,
            });
            map(entries)
        }
        (Form::List { items: node, .. }, Value::Array(items)) => {
            cel::Value::List(Arc::new(items.iter().map(|item| to_cel(node, item)).collect()))
        }
        (Form::Number { .. }, Value::Number(number)) => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        _ => untyped(value),
    }
}

fn untyped(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => self::number(number),
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(untyped).collect())),
        Value::Object(fields) => map(fields.iter().map(|(name, value)| (name.clone(), untyped(value)))),
    }
}

fn map(entries: impl Iterator<Item = (String, cel::Value)>) -> cel::Value {
    let entries = entries.map(|(name, value)| (Key::String(Arc::new(name)), value));
    cel::Value::Map(Map { map: Arc::new(entries.collect::<HashMap<_, _>>()) })
}

fn number(number: &Number) -> cel::Value {
    match (number.as_i64(), number.as_u64()) {
        (Some(value), _) => cel::Value::Int(value),
        (None, Some(value)) => cel::Value::UInt(value),
        _ => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
    }
}

/// The words that an expression cannot use as a name.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name by which expressions know a field, as Kubernetes escapes it.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        let (word, length) = match letter {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            _ => (&rest[..letter.len_utf8()], letter.len_utf8()),
        };
        escaped.push_str(word);
        rest = &rest[length..];
    }
    escaped
}
