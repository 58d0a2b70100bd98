//! One request's life: room, who asks, what for, body, verb, answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use serde_json::Value;
use underpass_shared::{identity::Identity, resource::kind::Scope};

use super::{
    Api, Caller, discovery, json,
    path::{self, Place, Reach, Target},
    status::Failure,
    verbs,
};
use crate::store::object::ObjectKey;

/// The longest request body in bytes; Kubernetes' limit.
pub(super) const BODY_BYTES_MAX: usize = 3 << 20;
/// How much of a body beyond that is read and dropped, so that its sender reads the refusal instead of a reset.
const DROPPED_BYTES_MAX: usize = 13 << 20;
/// How long a request body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Query parameters that change nothing here: all items are always answered, fields are always checked strictly.
const HARMLESS: &[&str] = &[
    "allowWatchBookmarks",
    "fieldManager",
    "fieldValidation",
    "gracePeriodSeconds",
    "limit",
    "orphanDependents",
    "pretty",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "timeout",
    "timeoutSeconds",
];

/// What a verb did.
pub(super) struct Done {
    code: StatusCode,
    body: Value,
    warnings: Vec<String>,
}

impl Done {
    pub(super) fn shown(code: StatusCode, body: Value) -> Self {
        Self { code, body, warnings: Vec::new() }
    }

    /// What was accepted and is not served.
    pub(super) fn warning(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// Answers one request. Never fails: every refusal is a `Status`.
pub(super) async fn answer(api: &Api, caller: &Caller, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    match serve(api, caller, &parts, body).await {
        Ok(done) => respond(done),
        Err(failure) => {
            tracing::debug!(code = failure.code.as_u16(), reason = failure.reason, "an API request was refused");
            refuse(&failure)
        }
    }
}

async fn serve(api: &Api, caller: &Caller, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    let _room = api.in_flight.try_acquire().map_err(|_| Failure::too_many())?;
    let target = path::parse(parts.uri.path());
    if !matches!(target, Ok(Target::Version | Target::Health)) {
        authorize(caller)?;
    }
    check_accept(&parts.headers)?;
    check_query(parts.uri.query().unwrap_or_default())?;
    match target? {
        Target::Version => describe(parts, discovery::version()),
        Target::Health => describe(parts, Value::String("ok".to_owned())),
        Target::CoreVersions => describe(parts, discovery::core_versions()),
        Target::Groups { scope } => describe_in(api, parts, &scope, discovery::group_list),
        Target::Group { scope, group } => describe_in(api, parts, &scope, |scope| discovery::group(scope, group)),
        Target::Resources { scope, api_version } => {
            describe_in(api, parts, &scope, |scope| discovery::resources(scope, api_version))
        }
        Target::Collection(place) => on_collection(api, &place, parts, body).await,
        Target::Item(place, name) => on_item(api, &place, &name, parts, body).await,
        Target::Token(place, name) => {
            only(&parts.method, &[Method::POST])?;
            verbs::require_project(api, &place)?;
            let body = read_json(parts, body).await?;
            verbs::token(api, &place, &name, body).await
        }
    }
}

async fn on_collection(api: &Api, place: &Place, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    match parts.method {
        Method::GET => verbs::list(api, place),
        Method::POST if place.namespace.is_none() && needs_namespace(place) => {
            let plural = place.kind.info().plural;
            let message = format!("{plural} are created in a namespace: POST to /namespaces/NAMESPACE/{plural}");
            Err(Failure::not_allowed(message))
        }
        Method::POST => {
            let body = read_json(parts, body).await?;
            verbs::create(api, place, body).await
        }
        Method::DELETE => Err(Failure::not_allowed("deleting a whole collection is not supported yet")),
        ref other => Err(unsupported(other)),
    }
}

async fn on_item(api: &Api, place: &Place, name: &str, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    match parts.method {
        Method::GET => verbs::get(api, place, name),
        Method::PUT => {
            let body = read_json(parts, body).await?;
            verbs::replace(api, place, name, body).await
        }
        Method::DELETE => {
            let options = if body.is_end_stream() { None } else { read_optional_json(parts, body).await? };
            verbs::delete(api, place, name, options).await
        }
        Method::POST => Err(Failure::not_allowed("an object is created by POST to its collection")),
        ref other => Err(unsupported(other)),
    }
}

fn needs_namespace(place: &Place) -> bool {
    place.kind.info().scope == Scope::Namespaced
}

fn describe(parts: &Parts, shown: Value) -> Result<Done, Failure> {
    only(&parts.method, &[Method::GET])?;
    Ok(Done::shown(StatusCode::OK, shown))
}

fn describe_in(api: &Api, parts: &Parts, scope: &Reach, shown: impl FnOnce(&Reach) -> Value) -> Result<Done, Failure> {
    if let Reach::Project(project) = scope {
        let key = ObjectKey::project(project);
        api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    }
    describe(parts, shown(scope))
}

fn only(method: &Method, allowed: &[Method]) -> Result<(), Failure> {
    if allowed.contains(method) { Ok(()) } else { Err(unsupported(method)) }
}

fn unsupported(method: &Method) -> Failure {
    match *method {
        Method::PATCH => Failure::not_allowed("PATCH is not supported yet: read the object, change it, and PUT it"),
        ref other => {
            let shown: String = other.as_str().chars().take(16).collect();
            Failure::not_allowed(format!("{shown} is not supported here"))
        }
    }
}

fn authorize(caller: &Caller) -> Result<(), Failure> {
    let hint = "use the admin.kubeconfig of the relay's data directory";
    match caller {
        Caller::Anonymous => Err(Failure::unauthorized(format!("no client certificate was shown: {hint}"))),
        Caller::Unknown(fault) => Err(Failure::unauthorized(format!("{fault}: {hint}"))),
        Caller::Known(Identity::Admin) => Ok(()),
        Caller::Known(Identity::Agent(agent)) => Err(Failure::forbidden(format!(
            "the certificate of agent {} of node {} may not use the API: {hint}",
            agent.agent, agent.node
        ))),
        Caller::Known(Identity::Relay(relay)) => {
            Err(Failure::forbidden(format!("the certificate of relay {relay} may not use the API: {hint}")))
        }
    }
}

/// Plain JSON must be among what the client takes; a preferred table or protobuf beside it is fine.
fn check_accept(headers: &HeaderMap) -> Result<(), Failure> {
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        asked = true;
        let Ok(value) = value.to_str() else { continue };
        for range in value.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let special = parts.any(|parameter| parameter.to_ascii_lowercase().starts_with("as="));
            if !special && ["application/json", "application/*", "*/*"].contains(&media.as_str()) {
                return Ok(());
            }
        }
    }
    if asked { Err(Failure::not_acceptable()) } else { Ok(()) }
}

/// A parameter that would change the answer, and that we would ignore, is refused.
fn check_query(query: &str) -> Result<(), Failure> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if HARMLESS.contains(&name) || (name == "watch" && ["false", "0"].contains(&value)) || value.is_empty() {
            continue;
        }
        if name == "watch" {
            return Err(Failure::not_allowed("watch is not supported yet: list again instead"));
        }
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        return Err(Failure::bad_request(format!("the query parameter `{shown}` is not supported yet")));
    }
    Ok(())
}

async fn read_json(parts: &Parts, body: Incoming) -> Result<Value, Failure> {
    read_optional_json(parts, body).await?.ok_or_else(|| Failure::bad_request("the request has no body"))
}

async fn read_optional_json(parts: &Parts, body: Incoming) -> Result<Option<Value>, Failure> {
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = content_type.and_then(|value| value.split(';').next()).map(|value| value.trim().to_ascii_lowercase());
    if media.as_deref() != Some("application/json") {
        let message = "the body must be application/json; YAML and protobuf are not supported yet";
        return Err(Failure::unsupported_media_type(message));
    }
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Failure::unsupported_media_type("compressed bodies are not supported yet"));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await;
    let bytes = read.map_err(|_| Failure::timeout())??;
    if bytes.is_empty() {
        return Ok(None);
    }
    json::parse(&bytes).map(Some).map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let too_large = Err(Failure::too_large(BODY_BYTES_MAX));
    if body.size_hint().lower() > (BODY_BYTES_MAX + DROPPED_BYTES_MAX) as u64 {
        return too_large;
    }
    let (mut bytes, mut seen) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::bad_request("the request body was cut short"))?;
        let Ok(data) = frame.into_data() else { continue };
        seen += data.len();
        if seen <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&data);
        } else if seen > BODY_BYTES_MAX + DROPPED_BYTES_MAX {
            return too_large;
        }
    }
    if seen > BODY_BYTES_MAX { too_large } else { Ok(bytes) }
}

fn respond(done: Done) -> Response<Full<Bytes>> {
    let mut response = with_body(done.code, &done.body);
    for warning in done.warnings {
        // RFC 9111 §5.5: code, agent, quoted text.
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{}\"", warning.replace(['"', '\\'], "'"))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

pub(super) fn refuse(failure: &Failure) -> Response<Full<Bytes>> {
    let mut response = with_body(failure.code, &failure.to_value());
    if let Some(seconds) = failure.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if failure.code == StatusCode::PAYLOAD_TOO_LARGE || failure.code == StatusCode::REQUEST_TIMEOUT {
        response.extensions_mut().insert(CloseAfter);
    }
    response
}

/// The rest of the request body is not read: the connection cannot be used again over HTTP/1.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloseAfter;

fn with_body(code: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let (media, bytes) = match body {
        Value::String(text) => ("text/plain; charset=utf-8", text.clone().into_bytes()),
        json => ("application/json", json.to_string().into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
