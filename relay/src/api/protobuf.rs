//! Kubernetes' protocol buffers, in which client-go writes the kinds that are Kubernetes' own, as JSON. Pure.
//!
//! Around an object stands an envelope: `k8s`, a zero, and a `runtime.Unknown` that names its version and kind. Which
//! number is which field says `messages.txt`. Answers are JSON: clients that write this form read that as well.

use std::{collections::BTreeMap, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::json;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages may be nested; Kubernetes' own kinds come to 16.
const DEPTH_MAX: usize = 32;
/// How deep the JSON in a message may be nested: with the messages around it, no deeper than a body in JSON may be.
const JSON_DEPTH_MAX: usize = 64;

const TABLE: &str = include_str!("protobuf/messages.txt");
static MESSAGES: LazyLock<BTreeMap<&'static str, Vec<Field>>> = LazyLock::new(|| messages(TABLE));

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it does not begin with `k8s` and a zero")]
    NoMagic,
    #[error("it is cut off")]
    Cut,
    #[error("field {0} of {1} has another type on the wire than Kubernetes gives it")]
    Wire(u32, &'static str),
    #[error("{1} has no field {0} that is known here")]
    Unknown(u32, &'static str),
    #[error("{1} has field {0} twice")]
    Twice(u32, &'static str),
    #[error("{0} holds what is not its type")]
    Value(&'static str),
    #[error("messages are nested deeper than {DEPTH_MAX} levels")]
    Deep,
    #[error("no kind {0} is written in this form here: send JSON")]
    Kind(String),
}

#[derive(Debug)]
struct Field {
    number: u32,
    /// `_` for a message whose fields are the outer one's in JSON.
    name: &'static str,
    form: Form,
    /// Whether zero means that it is not there.
    omits: bool,
}

#[derive(Debug)]
enum Form {
    Text,
    Int,
    Bool,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Json,
    Message(&'static str),
    List(Box<Self>),
    Map(Box<Self>),
}

impl Form {
    fn of(word: &'static str) -> Self {
        if let Some(item) = word.strip_prefix("[]") {
            return Self::List(Box::new(Self::of(item)));
        }
        if let Some(value) = word.strip_prefix("{}") {
            return Self::Map(Box::new(Self::of(value)));
        }
        match word {
            "text" => Self::Text,
            "int" => Self::Int,
            "bool" => Self::Bool,
            "bytes" => Self::Bytes,
            "time" => Self::Time,
            "microtime" => Self::MicroTime,
            "quantity" => Self::Quantity,
            "int-or-string" => Self::IntOrString,
            "json" => Self::Json,
            message => Self::Message(message),
        }
    }
}

fn messages(table: &'static str) -> BTreeMap<&'static str, Vec<Field>> {
    let mut messages: BTreeMap<&str, Vec<Field>> = BTreeMap::new();
    let mut last = "";
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') {
            last = line;
        }
        let fields = messages.entry(last).or_default();
        for word in line.split(' ').filter(|word| word.contains(':')) {
            let (number, rest) = word.split_once(':').unwrap_or_default();
            let (name, form) = rest.split_once(':').unwrap_or_default();
            let omits = form.ends_with('?');
            let number = number.parse().unwrap_or_default();
            fields.push(Field { number, name, form: Form::of(form.trim_end_matches('?')), omits });
        }
    }
    messages
}

/// The object in `bytes`, with its `apiVersion` and `kind`.
///
/// # Errors
/// When it is not of that form, of no kind that has one, or has fields that are not known here.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, Fault> {
    const ENVELOPE: &str = "runtime.Unknown";
    let (mut type_meta, mut raw) = (&[][..], &[][..]);
    for part in Parts(bytes.strip_prefix(MAGIC).ok_or(Fault::NoMagic)?) {
        match part? {
            (1, Wire::Delimited(bytes)) => type_meta = bytes,
            (2, Wire::Delimited(bytes)) => raw = bytes,
            // How `raw` is encoded, which is empty for all that clients send.
            (3 | 4, Wire::Delimited(_)) => {}
            (number, _) => return Err(Fault::Unknown(number, ENVELOPE)),
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    for part in Parts(type_meta) {
        match part? {
            (1, Wire::Delimited(bytes)) => api_version = text(bytes, ENVELOPE)?,
            (2, Wire::Delimited(bytes)) => kind = text(bytes, ENVELOPE)?,
            (number, _) => return Err(Fault::Unknown(number, ENVELOPE)),
        }
    }
    let group = api_version.split_once('/').map_or("core", |(group, _)| group);
    let package = if kind == "DeleteOptions" { "meta" } else { group.split('.').next().unwrap_or_default() };
    let name = format!("{package}.{kind}");
    let Some((name, _)) = MESSAGES.get_key_value(name.as_str()) else {
        return Err(Fault::Kind(format!("{} of {}", shown(&kind), shown(&api_version))));
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    fill(&mut object, name, raw, DEPTH_MAX)?;
    Ok(Value::Object(object))
}

/// Writes the fields of a message to `object`.
fn fill(object: &mut Map<String, Value>, name: &'static str, bytes: &[u8], depth: usize) -> Result<(), Fault> {
    let depth = depth.checked_sub(1).ok_or(Fault::Deep)?;
    let fields = MESSAGES.get(name).map_or(&[][..], Vec::as_slice);
    let mut seen = Vec::new();
    for part in Parts(bytes) {
        let (number, wire) = part?;
        let field = fields.iter().find(|field| field.number == number).ok_or(Fault::Unknown(number, name))?;
        match &field.form {
            Form::List(form) => {
                let item = value(form, (number, name), wire, depth)?;
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or(Fault::Value(name))?.push(item);
                continue;
            }
            Form::Map(form) => {
                let (key, item) = entry(form, (number, name), wire, depth)?;
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                map.as_object_mut().ok_or(Fault::Value(name))?.insert(key, item);
                continue;
            }
            _ if seen.contains(&number) => return Err(Fault::Twice(number, name)),
            _ => seen.push(number),
        }
        if let (Form::Message(inner), "_", Wire::Delimited(bytes)) = (&field.form, field.name, wire) {
            fill(object, inner, bytes, depth)?;
            continue;
        }
        let value = value(&field.form, (number, name), wire, depth)?;
        if !(field.omits && is_zero(&value)) {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_true) => !is_true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn value(form: &Form, at: (u32, &'static str), wire: Wire<'_>, depth: usize) -> Result<Value, Fault> {
    let name = at.1;
    match (form, wire) {
        (Form::Int, Wire::Varint(number)) => Ok(number.cast_signed().into()),
        (Form::Bool, Wire::Varint(number)) => Ok((number != 0).into()),
        (Form::Text, Wire::Delimited(bytes)) => Ok(text(bytes, name)?.into()),
        (Form::Bytes, Wire::Delimited(bytes)) => Ok(STANDARD.encode(bytes).into()),
        (Form::Time, Wire::Delimited(bytes)) => instant(bytes, name, false),
        (Form::MicroTime, Wire::Delimited(bytes)) => instant(bytes, name, true),
        (Form::Quantity, Wire::Delimited(bytes)) => match wrapped(bytes, name)? {
            Some(bytes) => Ok(text(bytes, name)?.into()),
            None => Ok("0".into()),
        },
        (Form::Json, Wire::Delimited(bytes)) => match wrapped(bytes, name)? {
            Some(bytes) => {
                let value = json::parse(bytes).map_err(|_| Fault::Value(name))?;
                if levels(&value) > JSON_DEPTH_MAX { Err(Fault::Deep) } else { Ok(value) }
            }
            None => Ok(Value::Null),
        },
        (Form::IntOrString, Wire::Delimited(bytes)) => int_or_string(bytes, name),
        (Form::Message(inner), Wire::Delimited(bytes)) => {
            let mut object = Map::new();
            fill(&mut object, inner, bytes, depth)?;
            Ok(Value::Object(object))
        }
        _ => Err(Fault::Wire(at.0, name)),
    }
}

/// One pair of a map: a message of a text and a value, of which either may be left out for its zero.
fn entry(form: &Form, at: (u32, &'static str), wire: Wire<'_>, depth: usize) -> Result<(String, Value), Fault> {
    let Wire::Delimited(bytes) = wire else { return Err(Fault::Wire(at.0, at.1)) };
    let (mut key, mut item) = (String::new(), None);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Delimited(bytes)) => key = text(bytes, at.1)?,
            (2, wire) => item = Some(value(form, at, wire, depth)?),
            (number, _) => return Err(Fault::Unknown(number, at.1)),
        }
    }
    let item = item.map_or_else(|| value(form, at, Wire::Delimited(&[]), depth), Ok)?;
    Ok((key, item))
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

/// A client's text, short and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

fn text(bytes: &[u8], name: &'static str) -> Result<String, Fault> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Fault::Value(name))
}

/// Field 1 of a message that has no other.
fn wrapped<'a>(bytes: &'a [u8], name: &'static str) -> Result<Option<&'a [u8]>, Fault> {
    let mut found = None;
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Delimited(bytes)) => found = Some(bytes),
            (number, _) => return Err(Fault::Unknown(number, name)),
        }
    }
    Ok(found)
}

fn int_or_string(bytes: &[u8], name: &'static str) -> Result<Value, Fault> {
    let (mut is_text, mut number, mut words) = (false, 0, String::new());
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Varint(which)) => is_text = which != 0,
            (2, Wire::Varint(value)) => number = value.cast_signed(),
            (3, Wire::Delimited(bytes)) => words = text(bytes, name)?,
            (other, _) => return Err(Fault::Unknown(other, name)),
        }
    }
    Ok(if is_text { words.into() } else { number.into() })
}

/// A time as RFC 3339 has it, in seconds or in microseconds; null for none.
fn instant(bytes: &[u8], name: &'static str, micros: bool) -> Result<Value, Fault> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for part in Parts(bytes) {
        match part? {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = u32::try_from(value).map_err(|_| Fault::Value(name))?,
            (number, _) => return Err(Fault::Unknown(number, name)),
        }
    }
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.replace_nanosecond(nanos).ok());
    let time = time.filter(|time| (0..=9_999).contains(&time.year())).ok_or(Fault::Value(name))?;
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    let fraction = if micros { format!(".{:06}", time.microsecond()) } else { String::new() };
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z").into())
}

/// A value as it stands on the wire; numbers of fixed width have no place in these messages.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Delimited(&'a [u8]),
}

/// The fields of a message in their order, each with its number. Ends after the first fault.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Wire<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_none() {
            self.0 = &[];
        }
        Some(part.ok_or(Fault::Cut))
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Option<(u32, Wire<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Wire::Delimited(bytes)
            }
            _ => return None,
        };
        Some((number, wire))
    }

    /// Seven bits in each byte, the lowest first, at most ten bytes.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..10 {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
