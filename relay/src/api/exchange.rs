//! One request's life: room, who asks, what for, in which form, body, verb, answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Incoming};
use serde_json::Value;
use underpass_shared::{identity::Identity, resource::kind::Scope};

use super::{
    Api, Caller, discovery, json, list,
    negotiate::{self, Media, Shape},
    options::Options,
    path::{self, Place, Reach, Subresource, Target},
    status::Failure,
    table, verbs, watch, yaml,
};
use crate::{clock, store::object::ObjectKey};

/// The longest request body in bytes; Kubernetes' limit.
pub(super) const BODY_BYTES_MAX: usize = 3 << 20;
/// How much of a body beyond that is read and dropped, so that its sender reads the refusal instead of a reset.
const DROPPED_BYTES_MAX: usize = 13 << 20;
/// How long a request body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of an answer: whole, or the events of a watch as they come.
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// One request, as far as it is understood before its body is read.
pub(super) struct Call<'a> {
    pub(super) api: &'a Arc<Api>,
    pub(super) caller: &'a Caller,
    pub(super) place: &'a Place,
    pub(super) options: &'a Options,
    /// The form of the body.
    pub(super) media: Media,
    pub(super) shape: Shape,
    pub(super) user_agent: &'a str,
}

/// What a verb did.
pub(super) struct Done {
    code: StatusCode,
    content: Content,
    warnings: Vec<String>,
}

enum Content {
    /// A JSON value; an object of the place's kind is shown in the form that the client asked for.
    Value(Value),
    Text(String),
    Bytes {
        media: &'static str,
        bytes: Bytes,
    },
    Stream(AnswerBody),
}

impl Done {
    pub(super) fn shown(code: StatusCode, body: Value) -> Self {
        Self { code, content: Content::Value(body), warnings: Vec::new() }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { code: StatusCode::OK, content: Content::Text(text.into()), warnings: Vec::new() }
    }

    /// Bytes as they are, of the media type `media`.
    pub(super) fn bytes(media: &'static str, bytes: impl Into<Bytes>) -> Self {
        let content = Content::Bytes { media, bytes: bytes.into() };
        Self { code: StatusCode::OK, content, warnings: Vec::new() }
    }

    /// JSON values one after the other, for as long as the stream lasts.
    pub(super) fn stream(body: AnswerBody) -> Self {
        Self { code: StatusCode::OK, content: Content::Stream(body), warnings: Vec::new() }
    }

    /// What was accepted and is not served.
    pub(super) fn warning(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// Answers one request. Never fails: every refusal is a `Status`.
pub(super) async fn answer(api: &Arc<Api>, caller: &Caller, request: Request<Incoming>) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    match serve(api, caller, &parts, body).await {
        Ok(done) => respond(done),
        Err(failure) => {
            tracing::debug!(code = failure.code.as_u16(), reason = failure.reason, "an API request was refused");
            refuse(&failure)
        }
    }
}

async fn serve(api: &Arc<Api>, caller: &Caller, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    let _room = api.in_flight.try_acquire().map_err(|_| Failure::too_many())?;
    let target = path::parse(parts.uri.path());
    if !matches!(target, Ok(Target::Version | Target::Health)) {
        authorize(caller)?;
    }
    let headers = &parts.headers;
    let (place, name) = match target? {
        Target::Collection(place) => (place, None),
        Target::Item(place, name) => (place, Some(name)),
        other => return describe(api, parts, other),
    };
    let options = Options::parse(parts.uri.query().unwrap_or_default(), Some(place.kind))?;
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (place, options) = (&place, &options);
    let shape = negotiate::shape(headers)?;
    let call = Call { api, caller, place, options, media: negotiate::media(headers)?, shape, user_agent: agent };
    verbs::require_project(api, place)?;
    let done = match &name {
        None => on_collection(&call, parts, body).await?,
        Some(name) => on_item(&call, name, parts, body).await?,
    };
    Ok(in_shape(&call, done))
}

async fn on_collection(call: &Call<'_>, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    match parts.method {
        Method::GET if call.options.watch => watch::watch(call).await,
        Method::GET => list::list(call).await,
        Method::POST if call.place.namespace.is_none() && call.place.kind.info().scope == Scope::Namespaced => {
            let plural = call.place.kind.info().plural;
            let message = format!("{plural} are created in a namespace: POST to /namespaces/NAMESPACE/{plural}");
            Err(Failure::not_allowed(message))
        }
        Method::POST => verbs::create(call, read_value(call, parts, body).await?).await,
        Method::DELETE => verbs::delete_collection(call, read_options(call, parts, body).await?).await,
        ref other => Err(unsupported(other)),
    }
}

async fn on_item(call: &Call<'_>, name: &str, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    match (call.place.subresource, &parts.method) {
        (Some(Subresource::Token), &Method::POST) => {
            verbs::token(call, name, read_value(call, parts, body).await?).await
        }
        (Some(Subresource::Token), other) => Err(unsupported(other)),
        (Some(Subresource::Log), &Method::GET) => verbs::read_log(call, name),
        (Some(Subresource::Log), &Method::POST | &Method::PUT) => {
            verbs::write_log(call, name, &read_bytes(parts, body).await?)
        }
        (Some(Subresource::Log), other) => Err(unsupported(other)),
        (None, &Method::GET) if call.options.watch => watch::watch_one(call, name).await,
        (_, &Method::GET) => list::get(call, name).await,
        (_, &Method::PUT) => verbs::update(call, name, read_value(call, parts, body).await?).await,
        (_, &Method::PATCH) => verbs::patch(call, name, read_value(call, parts, body).await?).await,
        (None, &Method::DELETE) => verbs::delete(call, name, read_options(call, parts, body).await?).await,
        (None, &Method::POST) => Err(Failure::not_allowed("an object is created by POST to its collection")),
        (_, other) => Err(unsupported(other)),
    }
}

/// What the API says of itself.
fn describe(api: &Api, parts: &Parts, target: Target) -> Result<Done, Failure> {
    if let Target::Review { .. } = target {
        return Err(Failure::not_allowed("reviews are not answered yet"));
    }
    if parts.method != Method::GET {
        return Err(unsupported(&parts.method));
    }
    let scope = match &target {
        Target::Version => return Ok(Done::shown(StatusCode::OK, discovery::version())),
        Target::Health => return Ok(Done::text("ok")),
        Target::Root { scope }
        | Target::CoreVersions { scope }
        | Target::Groups { scope }
        | Target::Group { scope, .. }
        | Target::Resources { scope, .. }
        | Target::OpenApiV2 { scope }
        | Target::OpenApiV3Index { scope }
        | Target::OpenApiV3 { scope, .. } => scope,
        Target::Review { .. } | Target::Collection(_) | Target::Item(..) => {
            return Err(Failure::not_allowed("this is no document"));
        }
    };
    if let Reach::Project(project) = scope {
        let key = ObjectKey::project(project);
        api.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
    }
    discovery::document(&target, scope, &parts.headers)
}

fn unsupported(method: &Method) -> Failure {
    let shown: String = method.as_str().chars().take(16).collect();
    Failure::not_allowed(format!("{shown} is not supported here"))
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

/// The body as a value; an absent one is refused.
async fn read_value(call: &Call<'_>, parts: &Parts, body: Incoming) -> Result<Value, Failure> {
    let bytes = read_bytes(parts, body).await?;
    decode(call.media, &bytes)?.ok_or_else(|| Failure::bad_request("the request has no body"))
}

/// The body as `DeleteOptions`; an absent one asks for nothing.
async fn read_options(call: &Call<'_>, parts: &Parts, body: Incoming) -> Result<Option<Value>, Failure> {
    if body.is_end_stream() {
        return Ok(None);
    }
    decode(call.media, &read_bytes(parts, body).await?)
}

fn decode(media: Media, bytes: &[u8]) -> Result<Option<Value>, Failure> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let not_yaml = |error| Failure::bad_request(format!("the body is not YAML: {error}"));
    match media {
        Media::Yaml | Media::ApplyPatch => yaml::parse(bytes).map(Some).map_err(not_yaml),
        Media::Text => Err(Failure::unsupported_media_type("text is read as a pod's log only: send application/json")),
        Media::Json | Media::JsonPatch | Media::MergePatch | Media::StrategicMergePatch => {
            json::parse(bytes).map(Some).map_err(|error| Failure::bad_request(format!("the body is not JSON: {error}")))
        }
    }
}

async fn read_bytes(parts: &Parts, body: Incoming) -> Result<Vec<u8>, Failure> {
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Failure::unsupported_media_type("compressed bodies are not read here: send the body as it is"));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body)).await;
    read.map_err(|_| Failure::timeout())?
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

/// An object in the form that the client asked for; anything else as it is.
fn in_shape(call: &Call<'_>, done: Done) -> Done {
    let Content::Value(object) = &done.content else { return done };
    if object.get("kind").and_then(Value::as_str) != Some(call.place.kind.info().name) {
        return done;
    }
    let content = match call.shape {
        Shape::Full => return done,
        Shape::Partial => table::partial(object),
        Shape::Table => table::of_one(call.place.kind, object, call.options.include, clock::now()),
    };
    Done { content: Content::Value(content), ..done }
}

fn respond(done: Done) -> Response<AnswerBody> {
    let (media, body) = match done.content {
        Content::Value(value) => ("application/json", whole(value.to_string())),
        Content::Text(text) => ("text/plain; charset=utf-8", whole(text)),
        Content::Bytes { media, bytes } => (media, whole(bytes)),
        Content::Stream(body) => ("application/json", body),
    };
    let mut response = with_body(done.code, media, body);
    for warning in done.warnings {
        // RFC 9111 §5.5: code, agent, quoted text.
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{}\"", warning.replace(['"', '\\'], "'"))) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

pub(super) fn refuse(failure: &Failure) -> Response<AnswerBody> {
    let mut response = with_body(failure.code, "application/json", whole(failure.to_value().to_string()));
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

fn whole(bytes: impl Into<Bytes>) -> AnswerBody {
    Full::new(bytes.into()).boxed_unsync()
}

fn with_body(code: StatusCode, media: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
