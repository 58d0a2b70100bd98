//! One request's life: room, who asks, what for, in which form, body, verb, answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use underpass_shared::{
    identity::{Identity, ProjectName},
    resource::kind::{Kind, Scope},
};

use super::{
    Api, Caller, account_token, backup, discovery, json, list,
    negotiate::{self, Media, Shape},
    options::{FieldValidation, Options, truth},
    path::{self, Place, Reach, Subresource, Target},
    protobuf, review,
    status::{Failure, duplicate_field},
    table, verbs, watch, yaml,
};
use crate::{
    access::{User, role::Access},
    clock,
    store::object::{Object, ObjectKey},
};

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
    /// In place of those of the same name that every answer has.
    headers: HeaderMap,
}

enum Content {
    /// A JSON value; an object of the place's kind is shown in the form that the client asked for.
    Value(Value),
    /// A stored object; the same holds for it.
    Object {
        object: Arc<Object>,
        api_version: &'static str,
        revision: u64,
    },
    Text(String),
    Bytes {
        media: &'static str,
        bytes: Bytes,
    },
    Stream(AnswerBody),
}

impl Done {
    pub(super) fn shown(code: StatusCode, body: Value) -> Self {
        Self { code, content: Content::Value(body), warnings: Vec::new(), headers: HeaderMap::new() }
    }

    /// A stored object as `place` shows it, at `revision`.
    pub(super) fn object(code: StatusCode, place: &Place, object: Arc<Object>, revision: u64) -> Self {
        let content = Content::Object { object, api_version: place.api_version, revision };
        Self { code, content, ..Self::shown(StatusCode::OK, Value::Null) }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { content: Content::Text(text.into()), ..Self::shown(StatusCode::OK, Value::Null) }
    }

    /// Bytes as they are, of the media type `media`.
    pub(super) fn bytes(media: &'static str, bytes: impl Into<Bytes>) -> Self {
        let content = Content::Bytes { media, bytes: bytes.into() };
        Self { content, ..Self::shown(StatusCode::OK, Value::Null) }
    }

    /// JSON values one after the other, for as long as the stream lasts.
    pub(super) fn stream(body: AnswerBody) -> Self {
        Self { content: Content::Stream(body), ..Self::shown(StatusCode::OK, Value::Null) }
    }

    /// The client has it already (RFC 9110 §15.4.5).
    pub(super) fn not_modified(media: &'static str) -> Self {
        Self { code: StatusCode::NOT_MODIFIED, ..Self::bytes(media, Bytes::new()) }
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The name of the object that is shown.
    fn name(&self) -> Option<&str> {
        let shown = match &self.content {
            Content::Object { object, .. } => return Some(&object.key.name),
            Content::Value(shown) => shown,
            Content::Text(_) | Content::Bytes { .. } | Content::Stream(_) => return None,
        };
        let metadata = match shown.get("kind")?.as_str()? {
            "Table" => shown.pointer("/rows/0/object/metadata")?,
            _ => shown.get("metadata")?,
        };
        metadata.get("name")?.as_str()
    }

    /// What was accepted and is not served.
    pub(super) fn warning(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }
}

/// Answers one request. Never fails: every refusal is a `Status`. Cancels `trusted` once its credential was found good.
pub(super) async fn answer(
    api: &Arc<Api>,
    caller: &Caller,
    request: Request<Incoming>,
    trusted: &CancellationToken,
) -> Response<AnswerBody> {
    let (parts, body) = request.into_parts();
    match serve(api, caller, &parts, body, trusted).await {
        Ok(done) => respond(done),
        Err(failure) => {
            tracing::debug!(code = failure.code.as_u16(), reason = failure.reason, "an API request was refused");
            refuse(&failure)
        }
    }
}

async fn serve(
    api: &Arc<Api>,
    caller: &Caller,
    parts: &Parts,
    body: Incoming,
    trusted: &CancellationToken,
) -> Result<Done, Failure> {
    let _room = api.in_flight.try_acquire().map_err(|_| Failure::too_many())?;
    let headers = &parts.headers;
    let target = path::parse(parts.uri.path());
    match target {
        Ok(Target::Version) => return only_get(parts).map(|()| Done::shown(StatusCode::OK, discovery::version())),
        Ok(Target::Health) => return only_get(parts).map(|()| Done::text("ok")),
        Ok(Target::Ready) => {
            only_get(parts)?;
            return if api.is_ready() {
                Ok(Done::text("ok"))
            } else {
                Err(Failure::unavailable("the relay is stopping"))
            };
        }
        _ => {}
    }
    let user = authenticate(api, caller, headers)?;
    trusted.cancel();
    let (place, name) = match target? {
        Target::Collection(place) => (place, None),
        Target::Item(place, name) => (place, Some(name)),
        Target::Backup => {
            only_get(parts)?;
            return backup::answer(api, &user).await;
        }
        Target::Review { scope, review } => {
            let body = read_review(api, &user, &scope, parts, body).await?;
            return review::answer(&api.guard, &user, &scope, review, &body);
        }
        other => return describe(api, &user, parts, &other),
    };
    let access = Access {
        verb: verb(parts, name.is_some()),
        kind: Some(place.kind),
        subresource: place.subresource.map(Subresource::name),
        project: place.project.as_ref(),
        namespace: place.namespace.as_deref(),
        name: name.as_deref(),
    };
    let done = match api.guard.authorize(&user, &access) {
        Ok(()) => act(api, &place, name.as_deref(), parts, body).await,
        Err(why) => Err(Failure::forbidden(why).of_kind(place.kind, name.as_deref())),
    };
    if !access.is_read() {
        // What is created gives its name only now.
        let name = done.as_ref().ok().and_then(Done::name).or(access.name);
        let code = done.as_ref().map_or_else(|failure| failure.code, |done| done.code);
        audit(&user, &Access { name, ..access }, parts, code);
    }
    done
}

/// What `Access` calls a method here.
fn verb(parts: &Parts, is_item: bool) -> &'static str {
    let query = parts.uri.query().unwrap_or_default();
    let watches =
        || form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "watch" && truth(&value) == Some(true));
    match parts.method {
        Method::GET if watches() => "watch",
        Method::GET if is_item => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if is_item => "delete",
        Method::DELETE => "deletecollection",
        _ => "use",
    }
}

/// One line for each write that was tried, whatever became of it.
fn audit(user: &User, access: &Access<'_>, parts: &Parts, code: StatusCode) {
    tracing::info!(
        target: "audit",
        user = user.name,
        verb = access.verb,
        kind = access.kind.map_or("", |kind| kind.info().name),
        subresource = access.subresource.unwrap_or_default(),
        project = access.project.map_or("", |project| project.as_str()),
        namespace = access.namespace.unwrap_or_default(),
        name = access.name.unwrap_or_default(),
        dry_run = parts.uri.query().is_some_and(|query| query.contains("dryRun=All")),
        code = code.as_u16(),
        "a write was asked for"
    );
}

/// Does what the request asks for, which its user may ask.
async fn act(
    api: &Arc<Api>,
    place: &Place,
    name: Option<&str>,
    parts: &Parts,
    body: Incoming,
) -> Result<Done, Failure> {
    let headers = &parts.headers;
    let options = Options::parse(parts.uri.query().unwrap_or_default(), Some(place.kind))?;
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let shape = negotiate::shape(headers)?;
    let call = Call { api, place, options: &options, media: negotiate::media(headers)?, shape, user_agent: agent };
    verbs::require_project(api, place)?;
    let done = match name {
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
        Method::POST => with_value(call, parts, body, |value| verbs::create(call, value)).await,
        Method::DELETE => verbs::delete_collection(call, read_options(call, parts, body).await?).await,
        ref other => Err(unsupported(other)),
    }
}

async fn on_item(call: &Call<'_>, name: &str, parts: &Parts, body: Incoming) -> Result<Done, Failure> {
    match (call.place.subresource, &parts.method) {
        (Some(Subresource::Token), &Method::POST) if call.place.kind == Kind::ServiceAccount => {
            account_token::issue(call, name, &read_value(call, parts, body).await?)
        }
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
        (_, &Method::PUT) => with_value(call, parts, body, |value| verbs::update(call, name, value)).await,
        (_, &Method::PATCH) => with_value(call, parts, body, |value| verbs::patch(call, name, value)).await,
        (None, &Method::DELETE) => verbs::delete(call, name, read_options(call, parts, body).await?).await,
        (None, &Method::POST) => Err(Failure::not_allowed("an object is created by POST to its collection")),
        (_, other) => Err(unsupported(other)),
    }
}

fn only_get(parts: &Parts) -> Result<(), Failure> {
    if parts.method == Method::GET { Ok(()) } else { Err(unsupported(&parts.method)) }
}

/// What the API says of itself.
fn describe(api: &Api, user: &User, parts: &Parts, target: &Target) -> Result<Done, Failure> {
    only_get(parts)?;
    let scope = match target {
        Target::Root { scope }
        | Target::CoreVersions { scope }
        | Target::Groups { scope }
        | Target::Group { scope, .. }
        | Target::Resources { scope, .. }
        | Target::Events { scope }
        | Target::OpenApiV2 { scope }
        | Target::OpenApiV3Index { scope }
        | Target::OpenApiV3 { scope, .. } => scope,
        _ => return Err(Failure::not_allowed("this is no document")),
    };
    require_reach(api, user, scope)?;
    if let Target::Events { .. } = target {
        let metadata = json!({ "resourceVersion": api.store.snapshot().revision().to_string() });
        let list = json!({ "kind": "EventList", "apiVersion": "v1", "metadata": metadata, "items": [] });
        return Ok(Done::shown(StatusCode::OK, list));
    }
    discovery::document(target, scope, &parts.headers)
}

/// A project's documents are for those who may be in it; that it exists is not for others.
fn require_reach(api: &Api, user: &User, scope: &Reach) -> Result<(), Failure> {
    let project = match scope {
        Reach::Project(project) => project.clone(),
        Reach::Deployment => ProjectName::default(),
    };
    if !api.guard.reaches(user, &project) {
        let message = format!(
            "User \"{}\" does not belong to project {project}: use a server URL that ends in /projects/PROJECT",
            user.name
        );
        return Err(Failure::forbidden(message));
    }
    let key = ObjectKey::project(&project);
    api.store.get(&key).map(drop).ok_or_else(|| Failure::not_found(&key))
}

async fn read_review(api: &Api, user: &User, scope: &Reach, parts: &Parts, body: Incoming) -> Result<Value, Failure> {
    require_reach(api, user, scope)?;
    if parts.method != Method::POST {
        return Err(unsupported(&parts.method));
    }
    let bytes = read_bytes(parts, body).await?;
    decode(negotiate::media(&parts.headers)?, &bytes)?.ok_or_else(|| Failure::bad_request("the request has no body"))
}

fn unsupported(method: &Method) -> Failure {
    let shown: String = method.as_str().chars().take(16).collect();
    Failure::not_allowed(format!("{shown} is not supported here"))
}

/// Who asks: the certificate of the connection, or else the token of the request.
fn authenticate(api: &Api, caller: &Caller, headers: &HeaderMap) -> Result<User, Failure> {
    let hint = "use the admin.kubeconfig of the relay's data directory, or a bearer token";
    if let Caller::Known(identity) = caller {
        return api.guard.of_certificate(identity).ok_or_else(|| match identity {
            Identity::Relay(relay) => {
                Failure::forbidden(format!("the certificate of relay {relay} may not use the API: {hint}"))
            }
            Identity::Admin | Identity::Agent(_) => Failure::forbidden(hint),
        });
    }
    match (api.guard.of_token(headers, clock::now()), caller) {
        (Ok(Some(user)), _) => Ok(user),
        (Err(fault), _) => Err(Failure::unauthorized(fault.to_string())),
        (Ok(None), Caller::Unknown(fault)) => Err(Failure::unauthorized(format!("{fault}: {hint}"))),
        (Ok(None), _) => {
            Err(Failure::unauthorized(format!("neither a client certificate nor a bearer token was shown: {hint}")))
        }
    }
}

/// Does `verb` with the body, which may have fields twice where the client lets it.
async fn with_value<F: Future<Output = Result<Done, Failure>>>(
    call: &Call<'_>,
    parts: &Parts,
    body: Incoming,
    verb: impl FnOnce(Value) -> F,
) -> Result<Done, Failure> {
    let bytes = read_bytes(parts, body).await?;
    let (value, twice) = match read_last(call.media, &bytes) {
        Some((value, twice)) => (Some(value), twice),
        None => (decode(call.media, &bytes)?, Vec::new()),
    };
    let value = value.ok_or_else(|| Failure::bad_request("the request has no body"))?;
    let validation = call.options.field_validation;
    if validation == FieldValidation::Strict && !twice.is_empty() {
        return Err(Failure::twice(call.place, &twice));
    }
    let mut done = verb(value).await?;
    if validation == FieldValidation::Warn {
        done.warnings.extend(twice.iter().map(|path| duplicate_field(path)));
    }
    Ok(done)
}

/// A body in JSON, also where YAML is read: the value, and the fields that are there twice.
fn read_last(media: Media, bytes: &[u8]) -> Option<(Value, Vec<String>)> {
    match media {
        Media::Protobuf | Media::Text => None,
        Media::Yaml | Media::ApplyPatch if !bytes.trim_ascii_start().starts_with(b"{") => None,
        _ => json::parse_last(bytes).ok(),
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
        Media::Protobuf => protobuf::decode(bytes)
            .map(Some)
            .map_err(|fault| Failure::bad_request(format!("the body is not of Kubernetes' protobuf form: {fault}"))),
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
    let made;
    let object = match &done.content {
        Content::Object { .. } if call.shape == Shape::Full => return done,
        Content::Object { object, api_version, revision } => {
            made = object.to_value_at(api_version, *revision);
            &made
        }
        Content::Value(object) => object,
        Content::Text(_) | Content::Bytes { .. } | Content::Stream(_) => return done,
    };
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

pub(super) fn respond(done: Done) -> Response<AnswerBody> {
    let (media, body) = match done.content {
        Content::Value(value) => ("application/json", whole(value.to_string())),
        Content::Object { object, api_version, revision } => {
            let shown = serde_json::to_vec(&object.shown_at(api_version, revision));
            ("application/json", whole(shown.expect("what was JSON has a JSON form")))
        }
        Content::Text(text) => ("text/plain; charset=utf-8", whole(text)),
        Content::Bytes { media, bytes } => (media, whole(bytes)),
        Content::Stream(body) => ("application/json", body),
    };
    let mut response = with_body(done.code, media, body);
    response.headers_mut().extend(done.headers);
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
