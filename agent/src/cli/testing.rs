//! A relay's API in miniature for the tests of the command line: HTTPS with client certificates, an object per path, and
//! answers that tests prepare.

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
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
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

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    prepared: BTreeMap<String, Prepared>,
    requests: Vec<String>,
    last_body: Value,
    warning: Option<String>,
    is_silent: bool,
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

    /// Runs a command line of words without spaces.
    pub(crate) async fn run(&self, line: &str, input: &str) -> Run {
        let kubeconfig = self.folder.path().join("kubeconfig").display().to_string();
        let words = ["underpass", "--kubeconfig", &kubeconfig].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console { input: &mut input.as_bytes(), out: &mut out, err: &mut err };
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

    pub(crate) fn put(&self, path: &str, object: &Value) {
        self.state.lock().unwrap().objects.insert(path.to_owned(), object.clone());
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

async fn handle(request: Request<Incoming>, state: &Mutex<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if state.lock().unwrap().is_silent {
        return std::future::pending().await;
    }
    let mut state = state.lock().unwrap();
    let path = head.uri.path().to_owned();
    let key = format!("{} {path}", head.method);
    state.requests.push(key.clone());
    state.last_body = body.clone();
    let prepared = match state.prepared.get_mut(&key) {
        Some(prepared) if prepared.times > 0 => {
            prepared.times -= 1;
            Some((prepared.status, prepared.body.clone()))
        }
        _ => None,
    };
    let (status, answer) = prepared.unwrap_or_else(|| state.act(&head.method, &path, body));
    let mut response = Response::builder().status(status);
    if let Some(warning) = &state.warning {
        response = response.header("warning", warning);
    }
    Ok(response.body(Full::new(answer.to_string().into())).unwrap())
}

impl State {
    fn act(&mut self, method: &Method, path: &str, mut body: Value) -> (StatusCode, Value) {
        let segments: Vec<&str> = path.split('/').collect();
        let name = segments[segments.len() - 1];
        self.revision += 1;
        if !body.is_null() {
            body["metadata"]["resourceVersion"] = self.revision.to_string().into();
            body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        let not_found = || {
            let message = format!("{} \"{name}\" not found", segments[segments.len() - 2]);
            (StatusCode::NOT_FOUND, json!({"kind": "Status", "reason": "NotFound", "message": message}))
        };
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None if name.ends_with('s') => (StatusCode::OK, self.list(path)),
                None => not_found(),
            },
            Method::POST if name != "token" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                self.objects.insert(path, body.clone());
                (StatusCode::CREATED, body)
            }
            Method::PUT if self.objects.contains_key(path) => {
                self.objects.insert(path.to_owned(), body.clone());
                (StatusCode::OK, body)
            }
            Method::DELETE if self.objects.remove(path).is_some() => {
                (StatusCode::OK, json!({"kind": "Status", "status": "Success"}))
            }
            _ => not_found(),
        }
    }

    /// The objects right below `path`, or of that plural in all namespaces.
    fn list(&self, path: &str) -> Value {
        let (prefix, plural) = path.rsplit_once('/').unwrap();
        let is_in = |object: &str| {
            let (list, _) = object.rsplit_once('/').unwrap();
            list == path
                || (list.starts_with(&format!("{prefix}/namespaces/")) && list.ends_with(&format!("/{plural}")))
        };
        let items: Vec<&Value> =
            self.objects.iter().filter(|(path, _)| is_in(path)).map(|(_, object)| object).collect();
        json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }
}
