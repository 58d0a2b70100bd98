//! The relay's REST API with the administrator's certificate, as any Kubernetes client would reach it.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::eventually::{PATIENCE, within};

/// One deployment's API and who we are there.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
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
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key);
        Self {
            address: authority.parse().expect("the relay's API is on an address and a port"),
            tls: Arc::new(tls.expect("key and certificate belong together")),
        }
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
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(text)))?;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let value = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            anyhow::Ok((head.status, value))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }
}
