//! One step from a value to a part of it, as managed fields write it: a field, a list item by its keys or its value.

use std::fmt;

use serde_json::Value;

/// The longest integer that a floating point number holds exactly: beyond it, `1e300` stays as it is written.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A step. Ordered as Kubernetes orders them: fields, keyed items, valued items, positions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field of an object or an entry of a map: `f:name`.
    Field(String),
    /// The item of a list whose key fields have these values, sorted by name: `k:{"name":"x"}`.
    Keys(Vec<(String, Plain)>),
    /// The item of a set: `v:"x"`.
    Item(Plain),
    /// The item at a position: `i:0`. Read for completeness; our lists never use it.
    Index(i64),
}

impl Step {
    /// Reads one name of a `FieldsV1` object; `Ok(None)` for a sort of step that is not known, which is skipped.
    ///
    /// # Errors
    /// In words, when the name is no step.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((sort, rest)) = text.split_once(':').filter(|(sort, _)| sort.len() == 1) else {
            return Err("a name in fieldsV1 is one letter, a colon and a path element".to_owned());
        };
        let json = || serde_json::from_str::<Value>(rest).map_err(|error| error.to_string());
        Ok(Some(match sort {
            "f" => Self::Field(rest.to_owned()),
            "v" => Self::Item(Plain::of(&json()?)),
            "k" => match json()? {
                Value::Object(keys) => Self::keys(keys.iter().map(|(name, value)| (name.as_str(), value))),
                _ => return Err("`k:` takes an object".to_owned()),
            },
            "i" => Self::Index(rest.parse().map_err(|_| "`i:` takes a position".to_owned())?),
            _ => return Ok(None),
        }))
    }

    pub(super) fn keys<'a>(fields: impl Iterator<Item = (&'a str, &'a Value)>) -> Self {
        let mut keys: Vec<_> = fields.map(|(name, value)| (name.to_owned(), Plain::of(value))).collect();
        keys.sort();
        Self::Keys(keys)
    }

    pub(super) fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Keys(keys) => {
                let fields: Vec<_> = keys.iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
                format!("k:{{{}}}", fields.join(","))
            }
            Self::Item(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

/// As conflicts show it: `.spec`, `[port=80,protocol="TCP"]`, `[="x"]`, `[0]`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Keys(keys) => {
                f.write_str("[")?;
                for (at, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={value}", if at > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Item(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A JSON value as text, so that it can be ordered; equal values have equal texts, `1` and `1.0` among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plain(String);

impl Plain {
    pub(super) fn of(value: &Value) -> Self {
        Self(match value {
            Value::Number(number) => match number.as_f64() {
                #[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53, checked here")]
                Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT_MAX => {
                    (float as i64).to_string()
                }
                _ => number.to_string(),
            },
            Value::Object(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("{}:{}", quoted(name), Self::of(value))).collect();
                format!("{{{}}}", fields.join(","))
            }
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| Self::of(item).0).collect();
                format!("[{}]", items.join(","))
            }
            other => other.to_string(),
        })
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

/// The steps from an object to a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(pub(super) Vec<Step>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| step.fmt(f))
    }
}
