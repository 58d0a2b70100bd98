//! HTTP/3 on loopback, with the library's client. What follows here is the harness.

mod bodies;
mod connections;
mod requests;
mod websockets;

use std::time::Duration;

use bytes::Buf as _;
use http::HeaderMap;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use underpass_shared::quic::http3::{self as library, ClientReceive, ClientSend, Code, Requests, StreamError};

use super::*;
use crate::listener::tls;

/// A gateway that serves HTTPS, HTTP/3 too, and what its clients trust.
struct Site {
    gate: Gate,
    /// Where it takes HTTP/3.
    udp: SocketAddr,
    certificate: CertificateDer<'static>,
}

/// A connection of one client.
struct Visitor {
    requests: Requests,
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// An answer that came whole.
#[derive(Debug)]
struct Told {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Site {
    fn open(routes: &[(&str, Target)]) -> Self {
        Self::over(Gate::open_with(routes, Scheme::Https, &["127.0.0.0/8"]))
    }

    fn over(gate: Gate) -> Self {
        let issued = rcgen::generate_simple_self_signed(["a.com".to_owned(), "b.com".to_owned()]).unwrap();
        let certificate = issued.cert.der().clone();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        gate.gateway.tls.store(Some(tls::server_config(vec![certificate.clone()], key).unwrap()));
        let socket = bind::bind_datagrams((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        let udp = socket.local_addr().unwrap();
        tokio::spawn(gate.worker.clone().serve_http3(socket, ListenAddress::shared(80), gate.stop.clone()));
        Self { gate, udp, certificate }
    }

    fn client_config(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// A QUIC connection for `name`, without HTTP/3 on it.
    async fn dial(&self, name: &str) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
        let crypto = QuicClientConfig::try_from(self.client_config(&["h3"])).unwrap();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, self.udp, name).unwrap().await?;
        Ok((endpoint, connection))
    }

    async fn visit(&self, name: &str) -> Visitor {
        let (endpoint, connection) = self.dial(name).await.unwrap();
        let (mut driver, requests) = library::connect(connection.clone()).await.unwrap();
        tokio::spawn(async move { driver.wait_idle().await });
        Visitor { requests, connection, _endpoint: endpoint }
    }
}

impl Visitor {
    async fn begin(&mut self, request: Request<()>) -> (ClientSend, ClientReceive) {
        self.requests.send_request(request).await.unwrap().split()
    }

    /// Sends a request with `body` to its end, and reads the answer to its.
    async fn ask(&mut self, request: Request<()>, body: &'static [u8]) -> Result<Told, StreamError> {
        let (mut send, receive) = self.begin(request).await;
        // The gateway may answer, or refuse, before it has seen all of it.
        if !body.is_empty() {
            let _ = send.send_data(Bytes::from_static(body)).await;
        }
        let _ = send.finish().await;
        told_by(receive).await
    }

    async fn get(&mut self, host: &str, path: &str) -> Told {
        self.ask(get3(host, path), b"").await.unwrap()
    }
}

fn get3(host: &str, path: &str) -> Request<()> {
    Request::get(format!("https://{host}{path}")).body(()).unwrap()
}

/// Reads an answer to its end.
async fn told_by(mut receive: ClientReceive) -> Result<Told, StreamError> {
    let (head, ()) = receive.recv_response().await?.into_parts();
    let mut body = Vec::new();
    while let Some(mut data) = receive.recv_data().await? {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = receive.recv_trailers().await?;
    Ok(Told { status: head.status.as_u16(), headers: head.headers, body, trailers })
}

/// The code that the gateway ended a stream with.
fn code_of(error: &StreamError) -> Option<Code> {
    match error {
        StreamError::RemoteTerminate { code, .. } => Some(*code),
        _ => None,
    }
}

/// `future`, or a failed test when it takes absurdly long.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should be done by now")
}
