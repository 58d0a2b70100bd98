//! A small HTTPS client for the relay's API: one connection, JSON in, JSON or a typed error out.
//!
//! Knows paths and `Status` objects; does not know what objects mean, and prints nothing: warnings are kept for the
//! caller to show.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use underpass_shared::resource::kind::{KindInfo, Scope};

use super::{
    kubeconfig::{Kubeconfig, Server},
    status::ApiError,
};

/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte of a request to the last of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer in bytes: a list of some hundred thousand objects.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The most different warnings that one command keeps.
const WARNINGS_MAX: usize = 100;

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
    connection: Option<Connection>,
    warnings: Vec<String>,
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
            connection: None,
            warnings: Vec::new(),
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
        format!("{project}/apis/{api_version}{namespace}/{}{name}", info.plural)
    }

    /// Sends a request and reads its answer whole.
    ///
    /// # Errors
    /// [`ClientError::Api`] when the relay refused; the others when no answer came or none of its.
    pub async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let mut connection = self.connection().await?;
        let request = self.request(method, path, body);
        let exchange = async {
            let answer = connection.sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((head, read(body).await?))
        };
        let (head, bytes) = match timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken_off(error.as_ref())),
            Err(_) => return Err(ClientError::TimedOut { server: self.server.to_string() }),
        };
        self.connection = Some(connection);
        self.keep_warnings(&head.headers);
        self.understand(head.status, &bytes)
    }

    /// Reads an object or a list.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&mut self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, None).await
    }

    /// The texts of `Warning` headers that came since the last call.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
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

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let host = if self.server.host.contains(':') {
            format!("[{}]:{}", self.server.host, self.server.port)
        } else {
            format!("{}:{}", self.server.host, self.server.port)
        };
        let bytes = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let mut request = Request::new(Full::new(bytes));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{path}", self.server.prefix)
            .parse()
            .expect("a path of known words and percent-escaped names is a URI");
        let headers = request.headers_mut();
        headers.insert(header::HOST, host.parse().expect("a host that was part of a URI is a header value"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("underpass/", env!("CARGO_PKG_VERSION"))));
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
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

fn tls_config(config: &Kubeconfig) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&config.ca) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| format!("`certificate-authority-data` is not a PEM certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("`certificate-authority-data` holds no PEM certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut tls = match &config.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = CertificateDer::pem_slice_iter(&client.certificate)
                .collect::<Result<Vec<_>, _>>()
                .ok()
                .filter(|chain| !chain.is_empty())
                .ok_or("`client-certificate-data` is not a PEM certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&client.key)
                .map_err(|_| "`client-key-data` is not a PEM private key".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the client's certificate and key cannot be used together: {error}"))?
        }
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// The rustls error somewhere below `error`, which `io::Error` hides from `source`.
fn tls_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<rustls::Error>() {
            return Some(cause);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn explain_tls(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, Error};
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the relay's certificate is not of the CA in this kubeconfig: the kubeconfig belongs to another relay, or the \
             relay's data directory was made anew; copy its admin.kubeconfig again"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the relay's certificate has expired: compare the clocks of both machines, then restart the relay".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the relay's certificate is not valid yet: compare the clocks of both machines".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let names = presented.join(", ");
            format!(
                "the relay's certificate is not for {}, but for {names}: use one of these names in `server`, or set \
                 `tls-server-name`",
                expected.to_str()
            )
        }
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::AccessDenied
            | Alert::DecryptError),
        ) => format!(
            "the relay does not accept this kubeconfig's client certificate ({alert:?}): it is of another relay, expired \
             or revoked; copy admin.kubeconfig from the relay's data directory again"
        ),
        Error::InvalidMessage(_) => "it does not speak TLS: is this the relay's API port?".to_owned(),
        other => other.to_string(),
    }
}

/// The operating system's words without its error number.
fn reason_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use underpass_shared::resource::kind::Kind;

    use super::*;
    use crate::cli::{
        Outcome,
        kubeconfig::{self, Places},
        testing::{Authority, Relay},
    };

    async fn error(relay: &Relay) -> String {
        let run = relay.run("get tunnelnodes", "").await;
        assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""));
        run.err
    }

    fn kubeconfig(relay: &Relay, server: &str) -> String {
        relay.write_kubeconfig(&relay.authority, &relay.authority, server).display().to_string()
    }

    #[tokio::test]
    async fn nobody_listening_is_said_with_address_and_file() {
        let relay = Relay::start().await;
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let file = kubeconfig(&relay, &format!("https://{free}"));
        assert_eq!(
            error(&relay).await,
            format!(
                "error: cannot reach the relay's API: connection refused (is the relay running? tried https://{free} from {file})\n"
            )
        );
    }

    #[tokio::test]
    async fn a_relay_of_another_authority_is_not_trusted() {
        let relay = Relay::start().await;
        relay.write_kubeconfig(&Authority::new(), &relay.authority, &format!("https://{}", relay.address));
        assert!(error(&relay).await.contains("the relay's certificate is not of the CA in this kubeconfig"));
        assert_eq!(relay.requests(), [] as [String; 0]);
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_is_refused_with_its_names() {
        let relay = Relay::start_as(&["relay.example.com"]).await;
        let text = error(&relay).await;
        assert!(text.contains("the relay's certificate is not for 127.0.0.1, but for"), "{text}");
        assert!(text.contains("relay.example.com"), "{text}");
    }

    #[tokio::test]
    async fn a_refused_client_certificate_is_said_to_be_so() {
        let relay = Relay::start().await;
        relay.write_kubeconfig(&relay.authority, &Authority::new(), &format!("https://{}", relay.address));
        let text = error(&relay).await;
        assert!(text.contains("the relay does not accept this kubeconfig's client certificate"), "{text}");
    }

    #[tokio::test]
    async fn what_is_no_tls_or_no_api_is_named() {
        let relay = Relay::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        kubeconfig(&relay, &format!("https://{}", listener.local_addr().unwrap()));
        let web = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut Vec::with_capacity(16 << 10)).await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            listener.accept().await.unwrap();
        });
        assert!(error(&relay).await.contains("it does not speak TLS: is this the relay's API port?"));
        let text = error(&relay).await;
        assert!(text.contains("the connection ended during the TLS handshake"), "{text}");
        web.await.unwrap();

        kubeconfig(&relay, &format!("https://{}", relay.address));
        let list = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
        relay.refuse("GET", list, StatusCode::BAD_GATEWAY, &serde_json::json!("<html>\u{1b}[2J"));
        assert_eq!(
            error(&relay).await,
            format!(
                "error: https://{} answered 502 Bad Gateway with something that is not of the relay's API: \"<html>\\u001b[2J\"\n",
                relay.address
            )
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_read_to_its_end() {
        let relay = Relay::start().await;
        let list = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
        relay.answer("GET", list, &Value::String("x".repeat(ANSWER_BYTES_MAX)));
        assert_eq!(error(&relay).await, "error: the relay's answer is longer than 64 MiB\n");
    }

    #[tokio::test]
    async fn paths_carry_prefix_project_and_namespace() {
        let relay = Relay::start().await;
        kubeconfig(&relay, &format!("https://{}/behind/projects/acme", relay.address));
        relay.run("get projects", "").await;
        relay.run("get gateways", "").await;
        relay.run("get gateways -A --project other", "").await;
        relay.run("get tn a/../b?c#d", "").await;
        assert_eq!(
            relay.requests(),
            [
                "GET /behind/apis/core.apoxy.dev/v1alpha2/projects",
                "GET /behind/projects/acme/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways",
                "GET /behind/projects/other/apis/gateway.networking.k8s.io/v1/gateways",
                "GET /behind/projects/acme/apis/core.apoxy.dev/v1alpha/tunnelnodes/a%2F..%2Fb%3Fc%23d",
            ]
        );
    }

    fn client(relay: &Relay) -> (Client, String) {
        let file = kubeconfig(relay, &format!("https://{}", relay.address));
        let config = kubeconfig::load(&Places::new(Some(file.as_ref()))).unwrap();
        let client = Client::new(&config, None).unwrap();
        let info = Kind::TunnelNode.info();
        let path = client.path(info, info.api_versions[0], None, None);
        (client, path)
    }

    #[tokio::test]
    async fn a_relay_that_does_not_answer_is_not_waited_for_forever() {
        let relay = Relay::start().await;
        let (mut silent, path) = client(&relay);
        silent.get(&path).await.unwrap();
        relay.fall_silent();
        tokio::time::pause();
        let text = silent.get(&path).await.unwrap_err().to_string();
        assert_eq!(text, format!("the relay at https://{} did not answer within 60 s", relay.address));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        kubeconfig(&relay, &format!("https://{}", listener.local_addr().unwrap()));
        assert!(error(&relay).await.contains("cannot reach the relay's API: no answer within 10 s"));
    }

    #[tokio::test]
    async fn a_closed_connection_is_made_anew() {
        let relay = Relay::start().await;
        let (mut client, path) = client(&relay);
        client.get(&path).await.unwrap();
        client.connection.as_ref().unwrap().driver.abort();
        while !client.connection.as_ref().unwrap().driver.is_finished() {
            tokio::task::yield_now().await;
        }
        client.get(&path).await.unwrap();
        assert_eq!(relay.requests().len(), 2);
    }

    #[test]
    fn warnings_are_unquoted() {
        for (header, want) in [
            ("299 - \"a \\\"b\\\"\"", Some("a \"b\"")),
            ("299 relay \"text\" \"date\"", Some("text\" \"date")),
            ("299 - \"cut", Some("cut")),
            ("nothing quoted", None),
        ] {
            assert_eq!(warning_text(&HeaderValue::from_static(header)).as_deref(), want);
        }
    }

    proptest! {
        #[test]
        fn escaped_names_are_one_segment(name in "\\PC{0,20}") {
            let path = format!("/apis/{}", escape(&name));
            let uri: http::Uri = path.parse().unwrap();
            prop_assert_eq!(uri.path(), path.as_str());
            prop_assert_eq!(uri.path().matches('/').count(), 2);
            prop_assert!(!uri.path().ends_with("/.."), "{}", path);
        }
    }
}
