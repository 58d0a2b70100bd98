//! This module's decoders of requests as the tests of the whole feed them: any text in, what was taken of it out. Pure.
//!
//! A refusal is shown as the sentence that its client reads.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde_json::Value;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::{
    list::Continue,
    negotiate,
    options::Options,
    path::{self, Target},
    protobuf,
    selector::{Fields, Labels},
};
use crate::store::object::{Object, ObjectKey};

/// What a label selector chooses.
///
/// # Errors
/// When it is none.
pub fn label_selector(text: &str) -> Result<impl Fn(&BTreeMap<String, String>) -> bool + use<>, String> {
    let labels = Labels::parse(text).map_err(|error| error.to_string())?;
    Ok(move |of: &BTreeMap<String, String>| labels.matches(of))
}

/// What a field selector chooses of the objects of `kind`.
///
/// # Errors
/// When it is none, or `kind` has no such field.
pub fn field_selector(text: &str, kind: Kind) -> Result<impl Fn(&Object) -> bool + use<>, String> {
    let fields = Fields::parse(text, kind).map_err(|error| error.to_string())?;
    Ok(move |object: &Object| fields.matches(object))
}

/// What a request path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Health, discovery, documents, questions about the caller.
    Document,
    /// The objects of a kind, in a namespace or in all.
    Collection { kind: Kind, project: Option<ProjectName>, namespace: Option<String> },
    /// An object, or a subresource of it.
    Object { key: ObjectKey, subresource: Option<&'static str> },
}

/// What a request path names.
///
/// # Errors
/// When it names nothing.
pub fn path(text: &str) -> Result<Named, String> {
    Ok(match path::parse(text).map_err(|error| error.to_string())? {
        Target::Collection(place) => {
            Named::Collection { kind: place.kind, project: place.project, namespace: place.namespace }
        }
        Target::Item(place, name) => {
            Named::Object { key: place.key(&name), subresource: place.subresource.map(path::Subresource::name) }
        }
        _ => Named::Document,
    })
}

/// Whether a query asks for what can be asked of `kind`.
///
/// # Errors
/// When it does not.
pub fn query(text: &str, kind: Kind) -> Result<(), String> {
    Options::parse(text, Some(kind)).map(drop).map_err(|failure| failure.message)
}

/// The token of the next page, written again.
#[must_use]
pub fn continue_token(text: &str) -> Option<String> {
    Continue::decode(text).map(|token| token.encode())
}

/// The object that a body in Kubernetes' protocol buffers holds.
///
/// # Errors
/// When it holds none.
pub fn protobuf(bytes: &[u8]) -> Result<Value, String> {
    protobuf::decode(bytes).map_err(|fault| fault.to_string())
}

/// Whether there is an object, and a discovery document, in a form that the client takes, and its body's form is read.
///
/// # Errors
/// With the first refusal.
pub fn negotiated(headers: &HeaderMap) -> Result<(), String> {
    let object = negotiate::shape(headers).map(drop);
    let document = negotiate::discovery(headers).map(drop);
    let _ = negotiate::prefers(headers, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf");
    object.and(document).and(negotiate::media(headers).map(drop)).map_err(|failure| failure.message)
}
