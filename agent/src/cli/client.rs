//! A small HTTPS client for the relay's API: one connection, JSON in, JSON or a typed error out.
//!
//! Knows paths, pages and `Status` objects; does not know what objects mean, and prints nothing: warnings are kept for
//! the caller to show. Watches are `watch`'s.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use underpass_shared::resource::kind::{KindInfo, Scope};

use self::tls::{explain_tls, reason_of, tls_cause, tls_config};
use super::{
    kubeconfig::{Kubeconfig, Server},
    status::ApiError,
};

#[cfg(test)]
mod tests;
mod tls;
mod watch;

pub use self::watch::{Event, Follow, News, Watch};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer in bytes: a list of some hundred thousand objects.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The most different warnings that one command keeps.
const WARNINGS_MAX: usize = 100;
/// How many objects are asked for at a time; kubectl's number.
const PAGE_ITEMS: &str = "500";
/// The most pages of one list: a million objects.
const PAGES_MAX: usize = 2_000;
/// How often a request is sent again because the relay asked to come back later.
const RETRIES_MAX: u32 = 5;
/// What the relay may ask us to wait, at most.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// How long to wait when it does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Asks for columns instead of objects (Kubernetes API concepts, "Table fetches").
const TABLE_ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Why a request has no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{source_file}: {problem}")]
    Credentials { source_file: String, problem: String },
    #[error("cannot reach the relay's API: {reason} (is the relay running? tried {server} from {source_file})")]
    Unreachable { server: String, source_file: String, reason: String },
    #[error("cannot speak to {server} from {source_file}: {reason}")]
    Tls { server: String, source_file: String, reason: String },
    #[error("the relay at {server} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { server: String },
    #[error("the relay at {server} broke off the connection: {reason}")]
    BrokenOff { server: String, reason: String },
    #[error("the relay's answer is longer than {} MiB", ANSWER_BYTES_MAX >> 20)]
    TooLong,
    #[error("a line of the relay's watch is longer than {} MiB", watch::LINE_BYTES_MAX >> 20)]
    LineTooLong,
    #[error("the relay's list has more than {PAGES_MAX} pages")]
    TooManyPages,
    #[error("{server} answered {status} with something that is not of the relay's API: {excerpt}")]
    NotUnderstood { server: String, status: StatusCode, excerpt: String },
    #[error(transparent)]
    Api(Box<ApiError>),
}

impl ClientError {
    /// The relay's own refusal, when it is one.
    #[must_use]
    pub fn as_api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }
}

/// A connection to one relay's API, made when first needed.
#[derive(Debug)]
pub struct Client {
    server: Server,
    source_file: String,
    /// `/projects/NAME` or nothing.
    project_prefix: String,
    tls: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    /// `Bearer TOKEN`, marked as sensitive.
    authorization: Option<HeaderValue>,
    prefers_tables: bool,
    connection: Option<Connection>,
    warnings: Vec<String>,
    shown: Vec<String>,
}

/// What a request carries, and how the relay is to understand it.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    None,
    Json(&'a Value),
    /// RFC 7386.
    MergePatch(&'a Value),
    /// RFC 6902.
    JsonPatch(&'a Value),
    StrategicPatch(&'a Value),
    /// Server-side apply; JSON is YAML too.
    Apply(&'a Value),
}

impl<'a> Body<'a> {
    fn parts(self) -> Option<(&'static str, &'a Value)> {
        match self {
            Self::None => None,
            Self::Json(value) => Some(("application/json", value)),
            Self::MergePatch(value) => Some(("application/merge-patch+json", value)),
            Self::JsonPatch(value) => Some(("application/json-patch+json", value)),
            Self::StrategicPatch(value) => Some(("application/strategic-merge-patch+json", value)),
            Self::Apply(value) => Some(("application/apply-patch+yaml", value)),
        }
    }
}

/// All objects of a list, whichever pages they came on.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// Objects, or the rows of a table.
    pub items: Vec<Value>,
    /// The columns, when tables are preferred.
    pub columns: Value,
    /// The state of the store that the list shows: where a watch goes on.
    pub revision: String,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// Prepares a client; connects nothing yet. `project` wins over the one in the server's URL.
    ///
    /// # Errors
    /// When the certificates or the key cannot be used.
    pub fn new(config: &Kubeconfig, project: Option<&str>) -> Result<Self, ClientError> {
        let source_file = config.source.display().to_string();
        let refuse = |problem: String| ClientError::Credentials { source_file: source_file.clone(), problem };
        let tls = tls_config(config).map_err(refuse)?;
        let name = config.tls_server_name.as_ref().unwrap_or(&config.server.host).clone();
        let server_name = ServerName::try_from(name).map_err(|error| refuse(format!("the server's host: {error}")))?;
        let project = project.or(config.server.project.as_ref().map(|project| project.as_str()));
        Ok(Self {
            server: config.server.clone(),
            source_file: source_file.clone(),
            project_prefix: project.map(|project| format!("/projects/{project}")).unwrap_or_default(),
            tls: Arc::new(tls),
            server_name,
            authorization: authorization(config),
            prefers_tables: false,
            connection: None,
            warnings: Vec::new(),
            shown: Vec::new(),
        })
    }

    /// The path of a kind's list, or of the object `name`.
    #[must_use]
    pub fn path(&self, info: &KindInfo, api_version: &str, namespace: Option<&str>, name: Option<&str>) -> String {
        let project = match info.scope {
            Scope::Deployment => "",
            Scope::Cluster | Scope::Namespaced => &self.project_prefix,
        };
        let namespace = match (info.scope, namespace) {
            (Scope::Namespaced, Some(namespace)) => format!("/namespaces/{}", escape(namespace)),
            _ => String::new(),
        };
        let name = name.map(|name| format!("/{}", escape(name))).unwrap_or_default();
        // The core group came before groups had names (Kubernetes API concepts, "API groups").
        let root = if api_version.contains('/') { "apis" } else { "api" };
        format!("{project}/{root}/{api_version}{namespace}/{}{name}", info.plural)
    }

    /// A path of the API that is no kind's, such as `/openapi/v3`, as the project has it.
    #[must_use]
    pub fn in_project(&self, path: &str) -> String {
        format!("{}{path}", self.project_prefix)
    }

    /// The project that paths name.
    #[must_use]
    pub fn project(&self) -> Option<&str> {
        self.project_prefix.strip_prefix("/projects/")
    }

    /// Sends a request and reads its answer whole.
    ///
    /// # Errors
    /// [`ClientError::Api`] when the relay refused; the others when no answer came or none of its.
    pub async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let body = body.map_or(Body::None, Body::Json);
        self.exchange(method, path, body).await.map(|(_, answer)| answer)
    }

    /// Sends a request and reads its answer whole, with the status it came with. Comes back later when the relay asks
    /// for that, a few times.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<(StatusCode, Value), ClientError> {
        let request = self.request(method, path, body);
        let mut retries = 0;
        loop {
            let (head, bytes) = self.round_trip(request.clone()).await?;
            self.keep_warnings(&head.headers);
            match retry_after(&head) {
                Some(pause) if retries < RETRIES_MAX => {
                    retries += 1;
                    sleep(pause).await;
                }
                _ => return self.understand(head.status, &bytes).map(|answer| (head.status, answer)),
            }
        }
    }

    async fn round_trip(&mut self, request: Request<Full<Bytes>>) -> Result<(response::Parts, Bytes), ClientError> {
        let mut connection = self.connection().await?;
        let exchange = async {
            let answer = connection.sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head, read(body).await?))
        };
        let answer = match timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken_off(error.as_ref())),
            Err(_) => return Err(ClientError::TimedOut { server: self.server.to_string() }),
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Reads a whole list page by page; `selection` holds `labelSelector` and `fieldSelector`. Starts over, without
    /// pages, when the relay has forgotten the state that the pages are of.
    ///
    /// # Errors
    /// As [`Self::send`], and [`ClientError::TooManyPages`].
    pub async fn list(&mut self, path: &str, selection: &[(&str, &str)]) -> Result<List, ClientError> {
        let whole = with_query(path, selection);
        let mut items = Vec::new();
        let mut next = String::new();
        for _ in 0..PAGES_MAX {
            let mut page = vec![("limit", PAGE_ITEMS)];
            if !next.is_empty() {
                page.push(("continue", &next));
            }
            let mut answer = match self.get(&with_query(&whole, &page)).await {
                Err(ClientError::Api(error)) if error.code == 410 && !next.is_empty() => {
                    items.clear();
                    self.get(&whole).await?
                }
                answer => answer?,
            };
            let page = if self.prefers_tables { "rows" } else { "items" };
            if let Value::Array(more) = answer[page].take() {
                items.extend(more);
            }
            let columns = answer["columnDefinitions"].take();
            let metadata = &answer["metadata"];
            next = metadata["continue"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                return Ok(List {
                    items,
                    columns,
                    revision: metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        Err(ClientError::TooManyPages)
    }

    /// Whether objects and lists are asked for as tables from now on, in watches too.
    pub fn prefer_tables(&mut self, prefers_tables: bool) {
        self.prefers_tables = prefers_tables;
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&mut self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, None).await
    }

    /// The texts of `Warning` headers that came since the last call, each only once per command.
    pub fn take_warnings(&mut self) -> Vec<String> {
        let new: Vec<String> =
            std::mem::take(&mut self.warnings).into_iter().filter(|text| !self.shown.contains(text)).collect();
        if self.shown.len() < WARNINGS_MAX {
            self.shown.extend(new.iter().cloned());
        }
        new
    }

    /// The same, with the object that they are about before each: the same text about another object is news.
    pub fn take_warnings_about(&mut self, name: &str) -> Vec<String> {
        let warnings = std::mem::take(&mut self.warnings);
        self.warnings = warnings.into_iter().map(|text| format!("{name}: {text}")).collect();
        self.take_warnings()
    }

    async fn connection(&mut self) -> Result<Connection, ClientError> {
        if let Some(mut connection) = self.connection.take()
            && connection.sender.ready().await.is_ok()
        {
            return Ok(connection);
        }
        let stream = match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(stream) => stream?,
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        };
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken_off(&error))?;
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        Ok(Connection { sender, driver })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let stream = TcpStream::connect((self.server.host.as_str(), self.server.port))
            .await
            .map_err(|error| self.unreachable(reason_of(&error)))?;
        let _ = stream.set_nodelay(true);
        TlsConnector::from(Arc::clone(&self.tls))
            .connect(self.server_name.clone(), stream)
            .await
            .map_err(|error| self.tls_error(&error))
    }

    fn request(&self, method: Method, path: &str, body: Body<'_>) -> Request<Full<Bytes>> {
        let host = if self.server.host.contains(':') {
            format!("[{}]:{}", self.server.host, self.server.port)
        } else {
            format!("{}:{}", self.server.host, self.server.port)
        };
        let parts = body.parts();
        let bytes = parts.map(|(_, value)| Bytes::from(value.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.server.prefix)
            .parse()
            .expect("a path of known words and percent-escaped names is a URI");
        let headers = request.headers_mut();
        headers.insert(header::HOST, host.parse().expect("a host that was part of a URI is a header value"));
        let accept = if self.prefers_tables { TABLE_ACCEPT } else { "application/json" };
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("underpass/", env!("CARGO_PKG_VERSION"))));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some((content_type, _)) = parts {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        request
    }

    fn understand(&self, status: StatusCode, bytes: &[u8]) -> Result<Value, ClientError> {
        let value: Option<Value> = serde_json::from_slice(bytes).ok().filter(Value::is_object);
        match value {
            Some(value) if status.is_success() => Ok(value),
            Some(value) if value["kind"] == "Status" => {
                Err(ClientError::Api(Box::new(ApiError::from_status(status.as_u16(), &value))))
            }
            _ => {
                let excerpt: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
                Err(ClientError::NotUnderstood { server: self.server.to_string(), status, excerpt })
            }
        }
    }

    fn keep_warnings(&mut self, headers: &http::HeaderMap) {
        for text in headers.get_all(header::WARNING).iter().filter_map(warning_text) {
            if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&text) {
                self.warnings.push(text);
            }
        }
    }

    fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { server: self.server.to_string(), source_file: self.source_file.clone(), reason }
    }

    fn tls_error(&self, error: &io::Error) -> ClientError {
        let reason = match tls_cause(error) {
            Some(cause) => explain_tls(cause),
            None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                "the connection ended during the TLS handshake: something else than a relay may be listening there"
                    .to_owned()
            }
            None => error.to_string(),
        };
        ClientError::Tls { server: self.server.to_string(), source_file: self.source_file.clone(), reason }
    }

    /// In TLS 1.3 a server judges the client's certificate after the handshake, so that its refusal arrives here.
    fn broken_off(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        let server = self.server.to_string();
        if error.is::<LengthLimitError>() {
            return ClientError::TooLong;
        }
        if let Some(cause) = tls_cause(error) {
            return ClientError::Tls { server, source_file: self.source_file.clone(), reason: explain_tls(cause) };
        }
        let mut reason = error.to_string();
        if let Some(source) = error.source() {
            reason = format!("{reason}: {source}");
        }
        ClientError::BrokenOff { server, reason }
    }
}

async fn read(body: Incoming) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes())
}

/// `Authorization: Bearer TOKEN` (RFC 6750 §2.1), when the kubeconfig has a token.
fn authorization(config: &Kubeconfig) -> Option<HeaderValue> {
    let text = format!("Bearer {}", config.token.as_ref()?.as_str());
    let mut value = HeaderValue::from_str(&text).expect("a token is visible ASCII");
    value.set_sensitive(true);
    Some(value)
}

/// How long the relay asks us to wait before the same request may work (RFC 6585 §4, RFC 9110 §10.2.3).
fn retry_after(head: &response::Parts) -> Option<Duration> {
    let asked = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let pause = match (head.status, asked.map(Duration::from_secs)) {
        (StatusCode::TOO_MANY_REQUESTS, asked) => asked.unwrap_or(RETRY_AFTER),
        (StatusCode::SERVICE_UNAVAILABLE, Some(asked)) => asked,
        _ => return None,
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

/// `path` with more query parameters behind it.
#[must_use]
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut path = path.to_owned();
    for (name, value) in parameters {
        path.push(if path.contains('?') { '&' } else { '?' });
        path += &format!("{name}={}", escape(value));
    }
    path
}

/// The quoted text of `299 - "text"` (RFC 9111 §5.5).
fn warning_text(value: &HeaderValue) -> Option<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let quoted = text.split_once('"')?.1;
    let quoted = quoted.rsplit_once('"').map_or(quoted, |(text, _)| text);
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Percent-escapes what is not an unreserved character (RFC 3986 §2.3).
fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            b'.' if segment != "." && segment != ".." => escaped.push('.'),
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}
