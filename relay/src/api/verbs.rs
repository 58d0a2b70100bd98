//! What each verb does to the store: decode, default, refuse, write, show. Journey C begins here.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};
use time::Duration;
use underpass_shared::{
    identity::{NodeName, ProjectName},
    resource::kind::Kind,
};

use super::{
    Api, Done,
    path::Place,
    status::{Failure, deleted},
};
use crate::{
    clock,
    schema::{self, Cause, Problem},
    store::{
        object::{Draft, Object, ObjectKey},
        state::timestamp,
    },
};

/// How long a token lives unless its request says otherwise, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// The longest life of a token, in seconds: 30 days.
const TOKEN_SECONDS_MAX: i64 = 30 * 86_400;
/// The most agents that one token enrols.
const TOKEN_USES_MAX: i64 = 10_000;

pub(super) fn get(api: &Api, place: &Place, name: &str) -> Result<Done, Failure> {
    let key = place.key(name);
    let object = api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    Ok(Done::shown(StatusCode::OK, object.to_value_as(place.api_version)))
}

pub(super) fn list(api: &Api, place: &Place) -> Result<Done, Failure> {
    require_project(api, place)?;
    let snapshot = api.store.snapshot();
    let of_namespace = |object: &Object| place.namespace.is_none() || object.key.namespace == place.namespace;
    let items: Vec<Value> = snapshot
        .of(place.project.as_ref(), place.kind)
        .filter(|object| of_namespace(object))
        .map(|object| object.to_value_as(place.api_version))
        .collect();
    Ok(Done::shown(
        StatusCode::OK,
        json!({
            "kind": format!("{}List", place.kind.info().name),
            "apiVersion": place.api_version,
            "metadata": { "resourceVersion": snapshot.revision().to_string() },
            "items": items,
        }),
    ))
}

pub(super) async fn create(api: &Api, place: &Place, body: Value) -> Result<Done, Failure> {
    let written = read(place, None, body)?;
    if written.resource_version.is_some() {
        return Err(Failure::bad_request("metadata.resourceVersion cannot be set on an object that is to be created"));
    }
    let warnings = written.warnings;
    let object = api.store.create(written.draft).await?;
    Ok(Done::shown(StatusCode::CREATED, object.to_value_as(place.api_version)).warning(warnings))
}

pub(super) async fn replace(api: &Api, place: &Place, name: &str, body: Value) -> Result<Done, Failure> {
    let written = read(place, Some(name), body)?;
    let expected = revision(written.resource_version.as_deref())?;
    check_uid(api, &written.draft.key, written.uid.as_deref())?;
    let warnings = written.warnings;
    let object = api.store.replace(written.draft, expected).await?;
    Ok(Done::shown(StatusCode::OK, object.to_value_as(place.api_version)).warning(warnings))
}

/// `options` is a `DeleteOptions`, or nothing.
pub(super) async fn delete(api: &Api, place: &Place, name: &str, options: Option<Value>) -> Result<Done, Failure> {
    let key = place.key(name);
    let mut expected = None;
    if let Some(options) = options {
        let known =
            ["kind", "apiVersion", "gracePeriodSeconds", "orphanDependents", "propagationPolicy", "preconditions"];
        let options = options.as_object().ok_or_else(|| Failure::bad_request("DeleteOptions must be an object"))?;
        if let Some(name) = options.iter().find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null()) {
            return Err(Failure::bad_request(format!("DeleteOptions.{} is not supported yet", name.0.escape_debug())));
        }
        let text = |field| options.get("preconditions").and_then(|p| p.get(field)).and_then(Value::as_str);
        expected = revision(text("resourceVersion"))?;
        check_uid(api, &key, text("uid"))?;
    }
    let object = api.store.delete(key, expected).await?;
    Ok(Done::shown(StatusCode::OK, deleted(&object)))
}

/// `POST tunnelnodes/NAME/token`.
pub(super) async fn token(api: &Api, place: &Place, name: &str, body: Value) -> Result<Done, Failure> {
    let wanted = token_spec(name, &body)?;
    let node: NodeName = name.parse().map_err(|_| Failure::not_found(&place.key(name)))?;
    let project = place.project.clone().unwrap_or_default();
    let now = clock::now();
    let life = Duration::seconds(wanted.seconds);
    let token = api.enrolment.issue_token(&project, &node, life, wanted.uses, now).await?;
    Ok(Done::shown(
        StatusCode::CREATED,
        json!({
            "kind": "TunnelNodeToken",
            "apiVersion": place.api_version,
            "metadata": { "name": name },
            "spec": { "expirationSeconds": wanted.seconds, "uses": wanted.uses },
            "status": { "token": token.to_string(), "expirationTimestamp": timestamp(now + life) },
        }),
    ))
}

struct Written {
    draft: Draft,
    resource_version: Option<String>,
    uid: Option<String>,
    warnings: Vec<String>,
}

/// Checks a written object and takes what users may say of it; the server's own fields are dropped.
fn read(place: &Place, name: Option<&str>, mut body: Value) -> Result<Written, Failure> {
    let info = place.kind.info();
    schema::quirks::normalise(place.kind, &mut body);
    if info.has_status
        && let Some(body) = body.as_object_mut()
    {
        // The server's, and written through its own subresource.
        body.remove("status");
    }
    let schema = schema::of(place.kind);
    let mut problems = schema.unknown(&body);
    schema.default(&mut body);
    problems.extend(schema.validate(&body, None));
    let written_name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !problems.is_empty() {
        let shown = if schema::dns_subdomain(&written_name).is_ok() { written_name.as_str() } else { "" };
        return Err(Failure::invalid(info.name, name.unwrap_or(shown), &problems));
    }
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    if let Some(name) = name
        && name != written_name
    {
        let message = format!("the object is named `{written_name}`, the path says `{name}`");
        return Err(Failure::bad_request(message));
    }
    if let Some(namespace) = text("/metadata/namespace")
        && place.namespace.as_ref() != Some(&namespace)
    {
        let path = place.namespace.as_deref().unwrap_or_default();
        return Err(Failure::bad_request(format!("the object is in namespace `{namespace}`, the path says `{path}`")));
    }
    let mut warnings = Vec::new();
    if place.kind == Kind::TunnelNode && body.pointer("/spec/egressGateway/enabled") == Some(&Value::Bool(true)) {
        warnings.push("spec.egressGateway is stored but not served yet: agents get no way to the internet".to_owned());
    }
    Ok(Written {
        resource_version: text("/metadata/resourceVersion").filter(|version| !version.is_empty()),
        uid: text("/metadata/uid").filter(|uid| !uid.is_empty()),
        draft: Draft {
            key: place.key(&written_name),
            labels: strings(&body, "/metadata/labels"),
            annotations: strings(&body, "/metadata/annotations"),
            spec: body.get_mut("spec").map_or_else(|| Value::Object(Map::new()), Value::take),
        },
        warnings,
    })
}

fn strings(body: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = body.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn revision(text: Option<&str>) -> Result<Option<u64>, Failure> {
    text.map(|text| {
        text.parse().map_err(|_| Failure::bad_request("metadata.resourceVersion is not one that this server gave"))
    })
    .transpose()
}

/// A uid that a client sends back must still be the object's: another object of the same name is not meant.
fn check_uid(api: &Api, key: &ObjectKey, uid: Option<&str>) -> Result<(), Failure> {
    let (Some(uid), Some(object)) = (uid, api.store.get(key)) else { return Ok(()) };
    if object.body.uid == uid {
        return Ok(());
    }
    Err(Failure::conflict(key, format!("{key} has another uid: it was deleted and made anew")))
}

pub(super) fn require_project(api: &Api, place: &Place) -> Result<(), Failure> {
    let Some(project) = &place.project else { return Ok(()) };
    if *project == ProjectName::default() {
        return Ok(());
    }
    let key = ObjectKey::project(project);
    api.store.get(&key).map(drop).ok_or_else(|| Failure::not_found(&key))
}

struct TokenSpec {
    seconds: i64,
    uses: u32,
}

fn token_spec(name: &str, body: &Value) -> Result<TokenSpec, Failure> {
    let mut problems = Vec::new();
    let mut report = |path: &str, message: String| {
        problems.push(Problem { path: path.to_owned(), message, cause: Cause::Invalid });
    };
    let empty = Map::new();
    let object = body.as_object().unwrap_or_else(|| {
        report("", "must be an object".to_owned());
        &empty
    });
    for field in object.keys() {
        if !["kind", "apiVersion", "metadata", "spec", "status"].contains(&field.as_str()) {
            report(&field.escape_debug().to_string(), "unknown field".to_owned());
        }
    }
    let spec = match object.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(spec)) => spec,
        Some(_) => {
            report("spec", "must be an object".to_owned());
            &empty
        }
    };
    for field in spec.keys() {
        if !["expirationSeconds", "uses"].contains(&field.as_str()) {
            report(&format!("spec.{}", field.escape_debug()), "unknown field".to_owned());
        }
    }
    let mut number = |field: &str, default: i64, max: i64| match spec.get(field) {
        None | Some(Value::Null) => default,
        Some(value) => value.as_i64().filter(|n| (1..=max).contains(n)).unwrap_or_else(|| {
            report(&format!("spec.{field}"), format!("must be a whole number from 1 to {max}"));
            default
        }),
    };
    let seconds = number("expirationSeconds", TOKEN_SECONDS, TOKEN_SECONDS_MAX);
    let uses = number("uses", 1, TOKEN_USES_MAX);
    if !problems.is_empty() {
        return Err(Failure::invalid("TunnelNodeToken", name, &problems));
    }
    Ok(TokenSpec { seconds, uses: u32::try_from(uses).expect("uses is from 1 to 10000") })
}
