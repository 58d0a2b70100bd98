//! The relay's REST API as any Kubernetes client would reach it: with the administrator's certificate, with a bearer
//! token, or with nothing.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{net::TcpStream, task::AbortHandle};
use tokio_rustls::TlsConnector;

use crate::eventually::{PATIENCE, within};

/// One deployment's API and who we are there.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    /// Without a client certificate.
    bare: Arc<ClientConfig>,
    token: Option<String>,
}

impl Api {
    /// # Panics
    /// When the file is not a kubeconfig with an `https` server, a CA and a client certificate.
    #[must_use]
    pub fn of_kubeconfig(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let config: Value = serde_saphyr::from_str(&text).expect("a kubeconfig is YAML");
        let text = |pointer: &str| -> &str {
            config.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer} in {}", path.display()))
        };
        let pem = |pointer: &str| STANDARD.decode(text(pointer)).expect("data in a kubeconfig is base64");
        let server = text("/clusters/0/cluster/server");
        let authority = server.strip_prefix("https://").expect("the API speaks TLS").trim_end_matches('/');
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")) {
            roots.add(certificate.expect("the CA is PEM")).expect("the CA is a certificate");
        }
        let own = pem("/users/0/user/client-certificate-data");
        let chain = CertificateDer::pem_slice_iter(&own).collect::<Result<Vec<_>, _>>().expect("a PEM chain");
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")).expect("a PEM key");
        let bare = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
        Self {
            address: authority.parse().expect("the relay's API is on an address and a port"),
            tls: Arc::new(tls.expect("key and certificate belong together")),
            bare: Arc::new(bare),
            token: None,
        }
    }

    /// The same API without a certificate, and with nothing in its place.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { tls: Arc::clone(&self.bare), token: None, ..self.clone() }
    }

    /// The same API without a certificate, and with a bearer token in its place.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.anonymous() }
    }

    /// The same API with the certificate `chain` of the private key `key`, both PEM.
    ///
    /// # Panics
    /// When they are not, or do not belong together.
    #[must_use]
    pub fn with_certificate(&self, roots: &[u8], chain: &[u8], key: &[u8]) -> Self {
        let mut trusted = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(roots) {
            trusted.add(certificate.expect("the CA is PEM")).expect("the CA is a certificate");
        }
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().expect("a PEM chain");
        let key = PrivateKeyDer::from_pem_slice(key).expect("a PEM key");
        let tls = ClientConfig::builder().with_root_certificates(trusted).with_client_auth_cert(chain, key);
        Self { tls: Arc::new(tls.expect("key and certificate belong together")), ..self.anonymous() }
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When the relay goes away meanwhile.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        within(PATIENCE, &format!("the API answers {method} {path}"), self.exchange(method, path, body)).await
    }

    /// GET, which must be answered 200.
    ///
    /// # Panics
    /// When it is not.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await.expect("the API answers");
        assert_eq!(status, StatusCode::OK, "GET {path}: {body}");
        body
    }

    /// GET of something that may be absent.
    ///
    /// # Panics
    /// When the answer is neither 200 nor 404.
    pub async fn find(&self, path: &str) -> Option<Value> {
        let (status, body) = self.call(Method::GET, path, None).await.expect("the API answers");
        match status {
            StatusCode::OK => Some(body),
            StatusCode::NOT_FOUND => None,
            other => panic!("GET {path}: {other}: {body}"),
        }
    }

    /// The names in a list.
    ///
    /// # Panics
    /// When the answer is not a list.
    pub async fn names(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await;
        let items = list["items"].as_array().unwrap_or_else(|| panic!("GET {path} gives a list: {list}"));
        let name = |item: &Value| item["metadata"]["name"].as_str().expect("an object has a name").to_owned();
        items.iter().map(name).collect()
    }

    /// Begins a watch of `path`, whose query says of what.
    ///
    /// # Panics
    /// When it is not answered 200.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    /// The same, with objects in the form that `accept` asks for.
    ///
    /// # Panics
    /// When it is not answered 200.
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Full::default()).expect("a request");
        let (response, connection) =
            within(PATIENCE, &format!("a watch of {path} begins"), self.send(request)).await.expect("the API answers");
        assert_eq!(response.status(), StatusCode::OK, "GET {path}");
        Watch { body: response.into_body(), unread: BytesMut::new(), path: path.to_owned(), connection }
    }

    /// One request with head and body as they are; the whole answer.
    ///
    /// # Errors
    /// When the relay goes away meanwhile.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Value>> {
        let what = format!("the API answers {} {}", request.method(), request.uri());
        let asking = async {
            let (response, connection) = self.send(request).await?;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await?.to_bytes();
            connection.abort();
            let value = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            anyhow::Ok(Response::from_parts(head, value))
        };
        within(PATIENCE, &what, asking).await
    }

    /// A connection that speaks HTTP/2, for load; it lives as long as one of the clones of what is given back.
    ///
    /// # Errors
    /// When the relay does not take the connection.
    pub async fn http2(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))?;
        let (head, body) = self.ask(request).await?.into_parts();
        Ok((head.status, body))
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<(Response<Incoming>, AbortHandle)> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.address.to_string().parse()?);
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        let connection = tokio::spawn(connection).abort_handle();
        Ok((sender.send_request(request).await?, connection))
    }
}

/// A watch that is open.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    unread: BytesMut,
    path: String,
    connection: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Watch {
    /// The next event; `None` when the relay ended the watch.
    ///
    /// # Panics
    /// When none comes in time, or what comes is no event.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return Some(serde_json::from_slice(&line).expect("an event is one line of JSON"));
            }
            let frame = within(PATIENCE, &format!("an event of {}", self.path), self.body.frame()).await?;
            let frame = frame.expect("the relay does not break a watch off");
            self.unread.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// The next event as its type and the name of its object.
    ///
    /// # Panics
    /// When the watch ended.
    pub async fn told(&mut self) -> (String, String) {
        let event = self.next().await.unwrap_or_else(|| panic!("the watch of {} goes on", self.path));
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }

    /// Everything until the relay ends the watch.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}
