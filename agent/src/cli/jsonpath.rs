//! Kubernetes' JSONPath templates: `{.metadata.name}`, `{range .items[*]}{.kind}{"\n"}{end}`.
//!
//! Pure. Like kubectl's: fields that are missing give nothing, results of one expression are joined by a space, and `$`
//! and `@` both mean the value at hand. Templates and objects may be hostile: both parsing and evaluation are bounded.

use serde_json::Value;

mod parse;
#[cfg(test)]
mod tests;

/// The longest template in bytes: far more than anybody types.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// How deep filters and ranges may nest: each level is a level of our own stack.
const DEPTH_MAX: usize = 16;
/// How many values one evaluation may look at: `..*..*` grows without bound in the template's length.
const STEPS_MAX: usize = 2_000_000;
/// The longest text that one evaluation may print: as long as the longest answer of the relay.
const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Why a template cannot be read, or not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    #[error("not a JSONPath template: {problem} at character {position}")]
    Syntax { problem: String, position: usize },
    #[error("the JSONPath template is longer than {} KiB", TEMPLATE_BYTES_MAX >> 10)]
    TooLong,
    #[error("the JSONPath template asks for too much: name the fields instead of searching for them with `..`")]
    TooMuch,
}

/// A template that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

/// One step from values to values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// Of a list, from its end when negative.
    Index(i64),
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: usize,
    },
    /// Every item of a list, every value of a map.
    Wildcard,
    /// The value and every list and map below it.
    Descend,
    Union(Vec<Self>),
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    left: Operand,
    /// Without it, that the left side exists.
    comparison: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a template such as `{.metadata.name}{"\n"}`; what stands outside of braces is printed as it is.
    ///
    /// # Errors
    /// [`JsonPathError::Syntax`] with the place, [`JsonPathError::TooLong`].
    pub fn parse(template: &str) -> Result<Self, JsonPathError> {
        if template.len() > TEMPLATE_BYTES_MAX {
            return Err(JsonPathError::TooLong);
        }
        parse::template(template).map(|parts| Self { parts })
    }

    /// Reads one expression, whose braces and first dot may be left out: `{.a.b}`, `.a.b`, `a.b`.
    ///
    /// # Errors
    /// As [`Self::parse`]; also when it is more than one expression.
    pub fn parse_expression(text: &str) -> Result<Self, JsonPathError> {
        let text = text.trim();
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
        let dot = if inner.starts_with(['.', '[', '$', '@']) { "" } else { "." };
        let path = Self::parse(&format!("{{{dot}{inner}}}"))?;
        match path.parts.as_slice() {
            [Part::Path(_)] => Ok(path),
            _ => {
                Err(JsonPathError::Syntax { problem: "one expression such as {.a.b} expected".to_owned(), position: 1 })
            }
        }
    }

    /// What the template prints for `value`.
    ///
    /// # Errors
    /// [`JsonPathError::TooMuch`].
    pub fn render(&self, value: &Value) -> Result<String, JsonPathError> {
        let mut out = String::new();
        render(&self.parts, value, &mut out, &mut Budget(STEPS_MAX))?;
        Ok(out)
    }

    /// What the template's first expression finds in `value`.
    ///
    /// # Errors
    /// [`JsonPathError::TooMuch`].
    pub fn find<'a>(&self, value: &'a Value) -> Result<Vec<&'a Value>, JsonPathError> {
        let path = self.parts.iter().find_map(|part| match part {
            Part::Path(steps) | Part::Range(steps, _) => Some(steps),
            Part::Text(_) => None,
        });
        path.map_or(Ok(Vec::new()), |steps| walk(steps, value, &mut Budget(STEPS_MAX)))
    }
}

/// A value as kubectl prints it: text as it is, everything else as JSON.
#[must_use]
pub fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

struct Budget(usize);

impl Budget {
    fn spend(&mut self, steps: usize) -> Result<(), JsonPathError> {
        self.0 = self.0.checked_sub(steps).ok_or(JsonPathError::TooMuch)?;
        Ok(())
    }
}

fn render(parts: &[Part], value: &Value, out: &mut String, budget: &mut Budget) -> Result<(), JsonPathError> {
    for part in parts {
        budget.spend(1)?;
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(steps) => {
                for (index, found) in walk(steps, value, budget)?.into_iter().enumerate() {
                    if index > 0 {
                        out.push(' ');
                    }
                    *out += &text_of(found);
                    if out.len() > OUTPUT_BYTES_MAX {
                        return Err(JsonPathError::TooMuch);
                    }
                }
            }
            Part::Range(steps, body) => {
                for item in walk(steps, value, budget)? {
                    render(body, item, out, budget)?;
                }
            }
        }
        if out.len() > OUTPUT_BYTES_MAX {
            return Err(JsonPathError::TooMuch);
        }
    }
    Ok(())
}

fn walk<'a>(steps: &[Step], value: &'a Value, budget: &mut Budget) -> Result<Vec<&'a Value>, JsonPathError> {
    let mut values = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in values {
            take(step, value, &mut next, budget)?;
        }
        values = next;
    }
    Ok(values)
}

fn take<'a>(
    step: &Step,
    value: &'a Value,
    found: &mut Vec<&'a Value>,
    budget: &mut Budget,
) -> Result<(), JsonPathError> {
    budget.spend(1)?;
    match step {
        Step::Field(name) => found.extend(value.as_object().and_then(|fields| fields.get(name))),
        Step::Index(index) => {
            let items = value.as_array().map_or(&[] as &[Value], Vec::as_slice);
            found.extend(place(*index, items.len()).and_then(|index| items.get(index)));
        }
        Step::Slice { start, end, step } => {
            let items = value.as_array().map_or(&[] as &[Value], Vec::as_slice);
            let bound = |bound: i64| place(bound, items.len()).unwrap_or(0).min(items.len());
            let end = end.map_or(items.len(), bound);
            let start = start.map_or(0, bound).min(end);
            budget.spend(end - start)?;
            found.extend(items[start..end].iter().step_by((*step).max(1)));
        }
        Step::Wildcard => {
            let before = found.len();
            found.extend(children(value));
            budget.spend(found.len() - before)?;
        }
        Step::Descend => descend(value, found, budget)?,
        Step::Union(steps) => {
            for step in steps {
                take(step, value, found, budget)?;
            }
        }
        Step::Filter(filter) => {
            for item in value.as_array().into_iter().flatten() {
                if holds(filter, item, budget)? {
                    found.push(item);
                }
            }
        }
    }
    Ok(())
}

/// An index from the start of a list of `length`; `None` when it is before it.
fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(i64::try_from(length).ok()?)? } else { index };
    usize::try_from(index).ok()
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

/// `value` and what is below it, parents first; leaves have nothing to offer the next step. Own stack: no recursion.
fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>, budget: &mut Budget) -> Result<(), JsonPathError> {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        budget.spend(1)?;
        let below = children(value);
        if !below.is_empty() {
            found.push(value);
        }
        waiting.extend(below.into_iter().rev());
    }
    Ok(())
}

fn holds(filter: &Filter, item: &Value, budget: &mut Budget) -> Result<bool, JsonPathError> {
    let left = resolve(&filter.left, item, budget)?;
    let Some((comparison, right)) = &filter.comparison else { return Ok(!left.is_empty()) };
    let right = resolve(right, item, budget)?;
    Ok(match (left.first(), right.first()) {
        (Some(left), Some(right)) => compare(*comparison, left, right),
        _ => false,
    })
}

fn resolve<'a>(operand: &'a Operand, item: &'a Value, budget: &mut Budget) -> Result<Vec<&'a Value>, JsonPathError> {
    match operand {
        Operand::Literal(value) => Ok(vec![value]),
        Operand::Path(steps) => walk(steps, item, budget),
    }
}

/// Numbers compare as numbers, texts as texts; values of different types are only ever unequal.
fn compare(comparison: Comparison, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match comparison {
        Comparison::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::NotEqual => !order.is_some_and(std::cmp::Ordering::is_eq),
        Comparison::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Comparison::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Comparison::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
        Comparison::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}
