//! A document of OpenAPI v2 in protocol buffers, the only form that older clients read. Pure.
//!
//! The messages are `openapi.v2` of gnostic's `openapiv2/OpenAPIv2.proto`. What JSON says with an object's keys, they say
//! with pairs, and what may be one of several things is a message around it: [`Form`] names those ways.

use serde_json::{Map, Value};

/// Length-delimited fields; the others are varints (0) and 64 bits (1).
const DELIMITED: u32 = 2;

/// The fields of a message that a document of ours can have.
#[derive(Debug, Clone, Copy)]
enum Message {
    Document,
    Info,
    PathItem,
    Operation,
    BodyParameter,
    QueryParameter,
    PathParameter,
    Response,
    Schema,
}

/// How a field of JSON is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Texts,
    Flag,
    Integer,
    Double,
    /// `Any`: any value, as YAML.
    Any,
    Anys,
    One(Message),
    /// A message in field 1 of another.
    Wrapped(Message),
    /// A text in field 1 of a message.
    WrappedText,
    /// An object as a message of pairs, which are the field of this number in it.
    Named(u32, Message),
    Responses,
    Parameters,
}

type Fields = &'static [(&'static str, u32, Form)];

const SCHEMA: Fields = &[
    ("$ref", 1, Form::Text),
    ("format", 2, Form::Text),
    ("title", 3, Form::Text),
    ("description", 4, Form::Text),
    ("default", 5, Form::Any),
    ("maximum", 7, Form::Double),
    ("minimum", 9, Form::Double),
    ("maxLength", 11, Form::Integer),
    ("minLength", 12, Form::Integer),
    ("pattern", 13, Form::Text),
    ("maxItems", 14, Form::Integer),
    ("minItems", 15, Form::Integer),
    ("uniqueItems", 16, Form::Flag),
    ("maxProperties", 17, Form::Integer),
    ("minProperties", 18, Form::Integer),
    ("required", 19, Form::Texts),
    ("enum", 20, Form::Anys),
    ("additionalProperties", 21, Form::Wrapped(Message::Schema)),
    ("type", 22, Form::WrappedText),
    ("items", 23, Form::Wrapped(Message::Schema)),
    ("properties", 25, Form::Named(1, Message::Schema)),
];

impl Message {
    fn fields(self) -> Fields {
        match self {
            Self::Document => &[
                ("swagger", 1, Form::Text),
                ("info", 2, Form::One(Self::Info)),
                ("paths", 8, Form::Named(2, Self::PathItem)),
                ("definitions", 9, Form::Named(1, Self::Schema)),
            ],
            Self::Info => &[("title", 1, Form::Text), ("version", 2, Form::Text)],
            Self::PathItem => &[
                ("get", 2, Form::One(Self::Operation)),
                ("put", 3, Form::One(Self::Operation)),
                ("post", 4, Form::One(Self::Operation)),
                ("delete", 5, Form::One(Self::Operation)),
                ("patch", 8, Form::One(Self::Operation)),
                ("parameters", 9, Form::Parameters),
            ],
            Self::Operation => &[
                ("description", 3, Form::Text),
                ("operationId", 5, Form::Text),
                ("produces", 6, Form::Texts),
                ("consumes", 7, Form::Texts),
                ("parameters", 8, Form::Parameters),
                ("responses", 9, Form::Responses),
                ("schemes", 10, Form::Texts),
            ],
            Self::BodyParameter => &[
                ("name", 2, Form::Text),
                ("in", 3, Form::Text),
                ("required", 4, Form::Flag),
                ("schema", 5, Form::One(Self::Schema)),
            ],
            Self::QueryParameter => &[
                ("required", 1, Form::Flag),
                ("in", 2, Form::Text),
                ("description", 3, Form::Text),
                ("name", 4, Form::Text),
                ("type", 6, Form::Text),
                ("uniqueItems", 20, Form::Flag),
            ],
            Self::PathParameter => &[
                ("required", 1, Form::Flag),
                ("in", 2, Form::Text),
                ("description", 3, Form::Text),
                ("name", 4, Form::Text),
                ("type", 5, Form::Text),
                ("uniqueItems", 19, Form::Flag),
            ],
            Self::Response => &[("description", 1, Form::Text), ("schema", 2, Form::Wrapped(Self::Schema))],
            Self::Schema => SCHEMA,
        }
    }

    /// The number of `vendor_extension`, where fields that begin with `x-` go.
    fn extension(self) -> u32 {
        match self {
            Self::Document => 16,
            Self::Info => 7,
            Self::PathItem => 10,
            Self::Operation => 13,
            Self::BodyParameter => 6,
            Self::QueryParameter => 23,
            Self::PathParameter => 22,
            Self::Response => 5,
            Self::Schema => 31,
        }
    }

    /// What the message does not know is left away.
    fn encode(self, object: &Map<String, Value>) -> Vec<u8> {
        let mut writer = Writer::default();
        for (name, value) in object {
            if name.starts_with("x-") {
                writer.bytes(self.extension(), &pair(name, &any(value)));
            } else if let Some((_, number, form)) = self.fields().iter().find(|(known, _, _)| known == name) {
                writer.field(*number, *form, value);
            }
        }
        writer.0
    }

    /// The same of what ought to be an object.
    fn of(self, value: &Value) -> Vec<u8> {
        value.as_object().map(|object| self.encode(object)).unwrap_or_default()
    }
}

/// `document` as a message `openapi.v2.Document`.
#[must_use]
pub(super) fn encode(document: &Map<String, Value>) -> Vec<u8> {
    Message::Document.encode(document)
}

/// A message in the making.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn tag(&mut self, number: u32, wire_type: u32) {
        self.varint(u64::from(number << 3 | wire_type));
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.tag(number, DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u32, value: &Value) {
        self.bytes(number, value.as_str().unwrap_or_default().as_bytes());
    }

    fn field(&mut self, number: u32, form: Form, value: &Value) {
        let each = || value.as_array().into_iter().flatten();
        match form {
            Form::Text => self.text(number, value),
            Form::Texts => each().for_each(|item| self.text(number, item)),
            Form::Flag => {
                self.tag(number, 0);
                self.varint(u64::from(value.as_bool().unwrap_or_default()));
            }
            Form::Integer => {
                self.tag(number, 0);
                // Negative numbers are as their two's complement of 64 bits.
                self.varint(value.as_i64().unwrap_or_default() as u64);
            }
            Form::Double => {
                self.tag(number, 1);
                self.0.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
            }
            Form::Any => self.bytes(number, &any(value)),
            Form::Anys => each().for_each(|item| self.bytes(number, &any(item))),
            Form::One(message) => self.bytes(number, &message.of(value)),
            Form::Wrapped(message) => self.bytes(number, &around(1, &message.of(value))),
            Form::WrappedText => self.bytes(number, &around(1, value.as_str().unwrap_or_default().as_bytes())),
            Form::Named(inner, message) => self.bytes(number, &pairs(inner, value, |value| message.of(value))),
            Form::Responses => {
                let response = |value: &Value| around(1, &Message::Response.of(value));
                self.bytes(number, &pairs(1, value, response));
            }
            Form::Parameters => each().for_each(|item| self.bytes(number, &parameter(item))),
        }
    }
}

/// A message whose only field is this.
fn around(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(number, bytes);
    writer.0
}

/// `Any`; JSON is YAML too.
fn any(value: &Value) -> Vec<u8> {
    around(2, value.to_string().as_bytes())
}

/// `NamedAny`, `NamedSchema` and the like.
fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes(1, name.as_bytes());
    writer.bytes(2, value);
    writer.0
}

/// An object's fields as pairs; extensions of `paths` and `responses`, which are not among them, we have none.
fn pairs(number: u32, object: &Value, of: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut writer = Writer::default();
    for (name, value) in object.as_object().into_iter().flatten() {
        writer.bytes(number, &pair(name, &of(value)));
    }
    writer.0
}

/// `ParametersItem`: a parameter is in the body, or else in the query or the path.
fn parameter(value: &Value) -> Vec<u8> {
    let parameter = match value.get("in").and_then(Value::as_str) {
        Some("body") => around(1, &Message::BodyParameter.of(value)),
        Some("path") => around(2, &around(4, &Message::PathParameter.of(value))),
        _ => around(2, &around(3, &Message::QueryParameter.of(value))),
    };
    around(1, &parameter)
}
