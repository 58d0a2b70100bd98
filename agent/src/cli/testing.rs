//! A relay's API in miniature for the tests of the command line: HTTPS with client certificates, an object per path,
//! patches, selectors, pages, watches, and answers that tests prepare.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::Parser as _;
use futures_util::{Stream, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::{Cli, Outcome, execute, print::Console};

/// What a command printed.
pub(crate) struct Run {
    pub(crate) outcome: Outcome,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A certificate authority that signs one thing at a time.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn sign(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

struct Prepared {
    times: usize,
    status: StatusCode,
    body: Value,
}

/// Something that watches tell.
struct Change {
    revision: u64,
    kind: String,
    /// Of the object; empty for what every watch is told.
    path: String,
    /// A whole line.
    line: String,
    object: Value,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    prepared: BTreeMap<String, Prepared>,
    requests: Vec<String>,
    /// With their queries.
    targets: Vec<String>,
    last_body: Value,
    authorization: Option<String>,
    warning: Option<String>,
    is_silent: bool,
    changes: Vec<Change>,
    changed: Arc<Notify>,
    watches: usize,
    /// Watches that began before the last of these have ended.
    ends: usize,
    /// Revisions before it are forgotten, by watches and by pages.
    oldest: u64,
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) authority: Authority,
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Relay {
    pub(crate) async fn start() -> Self {
        Self::start_as(&["localhost", "127.0.0.1"]).await
    }

    /// With a certificate for `names`.
    pub(crate) async fn start_as(names: &[&str]) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&authority, names)));
        let server = tokio::spawn(serve(listener, acceptor, Arc::clone(&state)));
        let relay = Self { address, authority, folder: tempfile::tempdir().unwrap(), state, server };
        relay.write_kubeconfig(&relay.authority, &relay.authority, &format!("https://{address}"));
        relay
    }

    /// Writes the kubeconfig that commands use: trusting `ca`, with a client certificate of `client`.
    pub(crate) fn write_kubeconfig(&self, ca: &Authority, client: &Authority, server: &str) -> PathBuf {
        let (certificate, key) = client.sign(&[], ExtendedKeyUsagePurpose::ClientAuth);
        let encode = |pem: &str| STANDARD.encode(pem);
        let path = self.write(
            "kubeconfig",
            &json!({
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "r", "user": "u"}}],
                "clusters": [{"name": "r", "cluster": {"server": server, "certificate-authority-data": encode(&ca.pem)}}],
                "users": [{"name": "u", "user": {
                    "client-certificate-data": encode(&certificate.pem()), "client-key-data": encode(&key.serialize_pem())}}],
            })
            .to_string(),
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.into()
    }

    /// Writes a file into the test's own folder and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// Where the kubeconfig that commands use is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Runs a command line of words without spaces.
    pub(crate) async fn run(&self, line: &str, input: &str) -> Run {
        let kubeconfig = self.kubeconfig().display().to_string();
        let words = ["underpass", "--kubeconfig", &kubeconfig].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { input: &mut input.as_bytes(), out: &mut out, err: &mut err, is_coloured: false };
        let outcome = execute(cli, &mut console).await;
        Run { outcome, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }

    /// Runs a command that must succeed and say nothing on standard error.
    pub(crate) async fn ok(&self, line: &str) -> String {
        let run = self.run(line, "").await;
        assert_eq!((run.outcome, run.err.as_str()), (Outcome::Done, ""), "{line}");
        run.out
    }

    /// Answers every such request with a refusal from now on.
    pub(crate) fn refuse(&self, method: &str, path: &str, status: StatusCode, body: &Value) {
        self.refuse_times(usize::MAX, method, path, status, body);
    }

    pub(crate) fn refuse_times(&self, times: usize, method: &str, path: &str, status: StatusCode, body: &Value) {
        let prepared = Prepared { times, status, body: body.clone() };
        self.state.lock().unwrap().prepared.insert(format!("{method} {path}"), prepared);
    }

    /// Answers every such request with `body` from now on.
    pub(crate) fn answer(&self, method: &str, path: &str, body: &Value) {
        self.refuse(method, path, StatusCode::OK, body);
    }

    /// Adds a `Warning` header to every answer.
    pub(crate) fn warn(&self, text: &str) {
        self.state.lock().unwrap().warning = Some(format!("299 - \"{}\"", text.replace('"', "\\\"")));
    }

    /// Answers nothing any more.
    pub(crate) fn fall_silent(&self) {
        self.state.lock().unwrap().is_silent = true;
    }

    /// Stores an object as somebody else would; watches hear of it.
    pub(crate) fn put(&self, path: &str, object: &Value) {
        let mut state = self.state.lock().unwrap();
        let before = state.objects.insert(path.to_owned(), object.clone());
        state.tell(if before.is_some() { "MODIFIED" } else { "ADDED" }, path, object);
    }

    /// Removes an object whatever holds it; watches hear of it.
    pub(crate) fn remove(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        if let Some(object) = state.objects.remove(path) {
            state.tell("DELETED", path, &object);
        }
    }

    /// Sends every watch a line as it is.
    pub(crate) fn tell(&self, line: &str) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let change = Change {
            revision: state.revision,
            kind: String::new(),
            path: String::new(),
            line: format!("{line}\n"),
            object: Value::Null,
        };
        state.changes.push(change);
        state.changed.notify_waiters();
    }

    /// Ends every watch.
    pub(crate) fn end_watches(&self) {
        let mut state = self.state.lock().unwrap();
        state.ends = state.watches;
        state.changed.notify_waiters();
    }

    /// Forgets everything that happened so far.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        state.oldest = state.revision;
    }

    /// Returns once as many watches have begun in all.
    pub(crate) async fn watched(&self, times: usize) {
        let changed = Arc::clone(&self.state.lock().unwrap().changed);
        loop {
            let mut next = std::pin::pin!(changed.notified());
            next.as_mut().enable();
            if self.state.lock().unwrap().watches >= times {
                return;
            }
            next.await;
        }
    }

    /// `METHOD PATH?QUERY` of every request so far.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.state.lock().unwrap().targets.clone()
    }

    /// What the last request said in `Authorization`.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.state.lock().unwrap().authorization.clone()
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// `METHOD PATH` of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn last_body(&self) -> Value {
        self.state.lock().unwrap().last_body.clone()
    }
}

fn server_config(authority: &Authority, names: &[&str]) -> ServerConfig {
    let (certificate, key) = authority.sign(names, ExtendedKeyUsagePurpose::ServerAuth);
    let mut roots = RootCertStore::empty();
    let pem = authority.pem.as_bytes();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| handle(request, &state));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn handle(request: Request<Incoming>, state: &Arc<Mutex<State>>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if state.lock().unwrap().is_silent {
        return std::future::pending().await;
    }
    let mut locked = state.lock().unwrap();
    let path = head.uri.path().to_owned();
    let key = format!("{} {path}", head.method);
    locked.requests.push(key.clone());
    locked.targets.push(format!("{} {}", head.method, head.uri));
    locked.last_body = body.clone();
    locked.authorization = header("authorization");
    let prepared = match locked.prepared.get_mut(&key) {
        Some(prepared) if prepared.times > 0 => {
            prepared.times -= 1;
            Some((prepared.status, prepared.body.clone()))
        }
        _ => None,
    };
    let query = Query(head.uri.query().unwrap_or_default().to_owned());
    let wants_table = header("accept").is_some_and(|accept| accept.contains("as=Table"));
    if prepared.is_none() && query.get("watch").is_some() {
        locked.watches += 1;
        locked.changed.notify_waiters();
        let events = watch(Arc::clone(state), path, query, (locked.watches, wants_table));
        return Ok(Response::new(StreamBody::new(events).boxed_unsync()));
    }
    let content_type = header("content-type").unwrap_or_default();
    let is_ours = prepared.is_none();
    let (status, answer) = prepared.unwrap_or_else(|| match head.method {
        Method::PATCH => locked.patch(&path, &query, &content_type, &body),
        Method::DELETE => locked.delete(&path, &query),
        _ => locked.act(&head.method, &path, &query, body),
    });
    let answer = if wants_table && is_ours && status == StatusCode::OK { table(&answer) } else { answer };
    let mut response = Response::builder().status(status);
    if let Some(warning) = &locked.warning {
        response = response.header("warning", warning);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        response = response.header("retry-after", "0");
    }
    Ok(response.body(Full::new(answer.to_string().into()).boxed_unsync()).unwrap())
}

/// What happens from a revision on, until the test ends watches.
fn watch(
    state: Arc<Mutex<State>>,
    path: String,
    query: Query,
    (number, wants_table): (usize, bool),
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let from = query.get("resourceVersion").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    stream::unfold((state, path, query, from), move |(state, path, query, from)| async move {
        loop {
            let changed = Arc::clone(&state.lock().unwrap().changed);
            let mut next = std::pin::pin!(changed.notified());
            next.as_mut().enable();
            let line = {
                let state = state.lock().unwrap();
                if from < state.oldest {
                    let status = json!({"type": "ERROR", "object":
                        {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}});
                    Some((format!("{status}\n"), u64::MAX))
                } else {
                    let is_news = |change: &&Change| {
                        change.revision > from
                            && (change.path.is_empty()
                                || is_below(&change.path, &path) && query.selects(&change.object))
                    };
                    let news = state.changes.iter().find(is_news);
                    if news.is_none() && number <= state.ends {
                        return None;
                    }
                    news.map(|change| {
                        let line = if wants_table && !change.path.is_empty() {
                            let table = table(&change.object);
                            format!("{}\n", json!({"type": change.kind, "object": table}))
                        } else {
                            change.line.clone()
                        };
                        (line, change.revision)
                    })
                }
            };
            match line {
                Some((line, revision)) => {
                    return Some((Ok(Frame::data(line.into())), (state, path, query, revision)));
                }
                None => next.await,
            }
        }
    })
}

struct Query(String);

impl Query {
    fn get(&self, name: &str) -> Option<String> {
        let value = self.0.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))?.1;
        let mut plain = Vec::new();
        let mut bytes = value.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                plain.push(byte);
                continue;
            }
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            plain.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        }
        Some(String::from_utf8(plain).unwrap())
    }

    fn is_dry_run(&self) -> bool {
        self.get("dryRun").as_deref() == Some("All")
    }

    /// `a=b,c=d` only.
    fn selects(&self, object: &Value) -> bool {
        let all = |selector: Option<String>, value: &dyn Fn(&str) -> Value| {
            selector.unwrap_or_default().split(',').filter(|part| !part.is_empty()).all(|part| {
                let (name, want) = part.split_once('=').unwrap_or((part, ""));
                value(name) == want
            })
        };
        all(self.get("labelSelector"), &|name| object["metadata"]["labels"][name].clone())
            && all(self.get("fieldSelector"), &|name| object["metadata"][name.trim_start_matches("metadata.")].clone())
    }
}

/// Objects in three columns, the last in wide output only.
fn table(answer: &Value) -> Value {
    let objects = answer["items"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
    let rows = objects.iter().map(|object| {
        let metadata = &object["metadata"];
        let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
        json!({"cells": [metadata["name"], "5m", object["spec"]["note"]], "object": partial})
    });
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": answer["metadata"],
        "columnDefinitions": [
            {"name": "Name", "type": "string", "format": "name", "priority": 0},
            {"name": "Age", "type": "date", "priority": 0},
            {"name": "Note", "type": "string", "priority": 1}],
        "rows": rows.collect::<Vec<_>>()})
}

fn is_below(object: &str, list: &str) -> bool {
    let (prefix, plural) = list.rsplit_once('/').unwrap();
    let (parent, _) = object.rsplit_once('/').unwrap();
    parent == list || (parent.starts_with(&format!("{prefix}/namespaces/")) && parent.ends_with(&format!("/{plural}")))
}

fn status(code: StatusCode, reason: &str, message: &str) -> (StatusCode, Value) {
    (code, json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": message}))
}

fn not_found(path: &str) -> (StatusCode, Value) {
    let mut segments = path.rsplit('/');
    let (name, plural) = (segments.next().unwrap(), segments.next().unwrap());
    status(StatusCode::NOT_FOUND, "NotFound", &format!("{plural} \"{name}\" not found"))
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

impl State {
    fn tell(&mut self, kind: &str, path: &str, object: &Value) {
        self.revision += 1;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.changes.push(Change {
            revision: self.revision,
            kind: kind.to_owned(),
            path: path.to_owned(),
            line,
            object,
        });
        self.changed.notify_waiters();
    }

    /// Stores an object under the next revision.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let revision = self.revision + 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{revision}").into();
        }
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        let before = self.objects.insert(path.to_owned(), object.clone());
        self.tell(if before.is_some() { "MODIFIED" } else { "ADDED" }, path, &object);
        object
    }

    fn act(&mut self, method: &Method, path: &str, query: &Query, body: Value) -> (StatusCode, Value) {
        let name = path.rsplit('/').next().unwrap();
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if name.ends_with('s') || name.ends_with("proxies") => self.list(path, query),
                None => not_found(path),
            },
            Method::POST if name != "token" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                (StatusCode::CREATED, self.store(&path, body))
            }
            Method::PUT if self.objects.contains_key(path) => (StatusCode::OK, self.store(path, body)),
            _ => not_found(path),
        }
    }

    fn patch(&mut self, path: &str, query: &Query, content_type: &str, body: &Value) -> (StatusCode, Value) {
        let existing = self.objects.get(path).cloned();
        let is_apply = content_type == "application/apply-patch+yaml";
        let mut object = match (&existing, content_type) {
            (None, _) if !is_apply => return not_found(path),
            (None, _) => body.clone(),
            (Some(existing), "application/json-patch+json") => {
                let mut object = existing.clone();
                for operation in body.as_array().unwrap() {
                    *object.pointer_mut(operation["path"].as_str().unwrap()).unwrap() = operation["value"].clone();
                }
                object
            }
            (Some(existing), _) => {
                let mut object = existing.clone();
                if is_apply {
                    object.as_object_mut().unwrap().retain(|key, _| key == "metadata" || key == "status");
                }
                merge(&mut object, body);
                object
            }
        };
        let revision = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if let Some(existing) = &existing
            && revision(&object) != revision(existing)
        {
            return status(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        if is_apply {
            let manager = query.get("fieldManager").expect("server-side apply names a manager");
            object["metadata"]["managedFields"] = json!([{"manager": manager, "operation": "Apply"}]);
        }
        match existing {
            Some(existing) if existing == object => (StatusCode::OK, object),
            existing => {
                let code = if existing.is_some() { StatusCode::OK } else { StatusCode::CREATED };
                let answer = if query.is_dry_run() { object } else { self.store(path, object) };
                (code, answer)
            }
        }
    }

    /// What has finalizers is only marked.
    fn delete(&mut self, path: &str, query: &Query) -> (StatusCode, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else { return not_found(path) };
        let success = (
            StatusCode::OK,
            json!({"kind": "Status", "status": "Success",
            "details": {"uid": object["metadata"]["uid"]}}),
        );
        if query.is_dry_run() {
            return success;
        }
        if object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()) {
            object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
            return (StatusCode::OK, self.store(path, object));
        }
        self.objects.remove(path);
        self.tell("DELETED", path, &object);
        success
    }

    /// The objects right below `path`, or of that plural in all namespaces; those of one page.
    fn list(&self, path: &str, query: &Query) -> (StatusCode, Value) {
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(object, value)| is_below(object, path) && query.selects(value))
            .map(|(_, object)| object)
            .collect();
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
        let start = number("continue").unwrap_or(0);
        if start > 0 && self.oldest > 0 {
            return status(StatusCode::GONE, "Expired", "the continue parameter is too old");
        }
        let end = start.saturating_add(number("limit").unwrap_or(usize::MAX)).min(items.len());
        let next = if end < items.len() { end.to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": self.revision.to_string(), "continue": next,
            "remainingItemCount": items.len() - end});
        (StatusCode::OK, json!({"kind": "List", "metadata": metadata, "items": items[start..end]}))
    }
}
