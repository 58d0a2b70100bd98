//! JSON as the API reads it: RFC 8259, one value, at most 128 levels deep. Pure.
//!
//! A field that is there twice is refused, or noted where the client may choose what becomes of it.

use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How many fields that are there twice are named; Kubernetes' limit.
const TWICE_MAX: usize = 100;
/// How much of a field's path is shown, in characters.
const PATH_SHOWN_MAX: usize = 256;

/// The value that `text` holds.
///
/// # Errors
/// With line and column, when it is not JSON, is nested deeper than 128 levels, or an object has a field twice.
pub fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    read(text, Strict(None))
}

/// The value that `text` holds, of fields of one name the last, and the paths of those that are there twice: at most a
/// hundred, as Kubernetes writes them.
///
/// # Errors
/// As [`parse`], but for fields that are there twice.
pub fn parse_last(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut twice = Twice::default();
    let value = read(text, Strict(Some(&mut twice)))?;
    Ok((value, twice.found))
}

fn read(text: &[u8], seed: Strict<'_>) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = seed.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The fields that are there twice.
#[derive(Debug, Default)]
pub(super) struct Twice {
    /// Where the reader is.
    path: String,
    found: Vec<String>,
}

impl Twice {
    /// Goes one step down; gives the length of the path to come back to.
    fn enter(&mut self, step: fmt::Arguments<'_>) -> usize {
        let length = self.path.len();
        // A text takes all that is written to it.
        let _ = self.path.write_fmt(step);
        length
    }

    fn note(&mut self, name: &str) {
        let shown: String =
            self.path.chars().chain(name.chars()).take(PATH_SHOWN_MAX).flat_map(char::escape_debug).collect();
        if self.found.len() < TWICE_MAX && !self.found.contains(&shown) {
            self.found.push(shown);
        }
    }
}

/// Builds a [`Value`], refusing what [`Value`]'s own decoder lets pass: the last of two fields of one name wins there.
///
/// With a note-book, it keeps the last and notes them.
pub(super) struct Strict<'a>(pub(super) Option<&'a mut Twice>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let back = self.0.as_mut().map(|twice| twice.enter(format_args!("[{}]", list.len())));
            let item = items.next_element_seed(Strict(self.0.as_deref_mut()))?;
            self.leave(back);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let dot = if self.0.as_ref().is_some_and(|twice| !twice.path.is_empty()) { "." } else { "" };
            if object.contains_key(&name) {
                let Some(twice) = self.0.as_mut() else {
                    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                    return Err(A::Error::custom(format_args!("the field `{shown}` is there twice")));
                };
                twice.note(&format!("{dot}{name}"));
            }
            let back = self.0.as_mut().map(|twice| twice.enter(format_args!("{dot}{name}")));
            let value = fields.next_value_seed(Strict(self.0.as_deref_mut()))?;
            self.leave(back);
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

impl Strict<'_> {
    fn leave(&mut self, back: Option<usize>) {
        if let (Some(twice), Some(length)) = (self.0.as_mut(), back) {
            twice.path.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_serde_json_writes_is_read_as_it_was() {
        let value = json!({"a": [1, -2, 1.5, true, null, "x\n\u{1f980}"], "b": {"c": {}}, "d": u64::MAX});
        assert_eq!(parse(value.to_string().as_bytes()).unwrap(), value);
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused_at_any_depth() {
        let error = parse(b"{\"spec\":\n{\"a\":[{\"x\":1,\"x\":2}]}}").unwrap_err().to_string();
        assert_eq!(error, "the field `x` is there twice at line 2 column 16");
        assert!(parse(br#"{"x":1,"\u0078":2}"#).is_err(), "escapes do not hide it");
    }

    #[test]
    fn the_last_of_two_fields_stands_where_that_is_asked_for() {
        let (value, twice) =
            parse_last(br#"{"a":1,"spec":{"l":[{},{"x":1,"x":2,"x":3}],"l2":{}},"a":{"b":1,"b":2}}"#).unwrap();
        assert_eq!(value, json!({"a": {"b": 2}, "spec": {"l": [{}, {"x": 3}], "l2": {}}}));
        assert_eq!(twice, ["spec.l[1].x", "a", "a.b"]);
        let many: String = (0..300).map(|n| format!("\"{n}\":1,\"{n}\":2,")).collect();
        let (_, twice) = parse_last(format!("{{{many}\"\\n\":1,\"\\n\":2}}").as_bytes()).unwrap();
        assert_eq!(twice.len(), TWICE_MAX);
        let (_, twice) =
            parse_last(format!(r#"{{"{0}":1,"{0}":2,"\n":1,"\n":1}}"#, "x".repeat(900)).as_bytes()).unwrap();
        assert_eq!(twice, ["x".repeat(PATH_SHOWN_MAX), "\\n".to_owned()]);
    }

    #[test]
    fn bombs_and_leftovers_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).unwrap_err().to_string().contains("recursion limit"));
        for bad in ["", "{} {}", "{", "nul", "{\"a\":1,}", "1e999", "\"\u{0}\"", "\u{feff}{}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_as_serde_json_reads_them_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok((value, _)) = parse_last(&bytes) {
                prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
            if let Ok(value) = parse(&bytes) {
                prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
