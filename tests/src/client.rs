//! HTTP clients that a visitor of the gateway would use: HTTP/1.1 and HTTP/2, in the clear and over TLS.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::{AbortHandle, JoinHandle},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    digest::{PIECE_BYTES, Pieces, Sha256},
    eventually::{PATIENCE, within},
};

/// What harness bodies may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A body of the harness, on either side.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to a gateway, in one of the two versions.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    driver: AbortHandle,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// HTTP/1.1 in the clear.
    ///
    /// # Errors
    /// When the gateway does not take the connection.
    pub async fn http1(gateway: SocketAddr) -> anyhow::Result<Self> {
        Self::http1_over(TcpStream::connect(gateway).await?).await
    }

    /// HTTP/2 in the clear with prior knowledge.
    ///
    /// # Errors
    /// When the gateway does not take the connection.
    pub async fn http2(gateway: SocketAddr) -> anyhow::Result<Self> {
        Self::http2_over(TcpStream::connect(gateway).await?).await
    }

    /// TLS, then the version that ALPN chose among `offer`; says which that was.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn tls(gateway: SocketAddr, host: &str, offer: &[&str]) -> anyhow::Result<(Self, String)> {
        let stream = tls_stream(gateway, host, offer).await?;
        let chosen = String::from_utf8_lossy(stream.get_ref().1.alpn_protocol().unwrap_or_default()).into_owned();
        let connection =
            if chosen == "h2" { Self::http2_over(stream).await? } else { Self::http1_over(stream).await? };
        Ok((connection, chosen))
    }

    async fn http1_over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let driver: JoinHandle<_> = tokio::spawn(connection.with_upgrades());
        Ok(Self { sender: Sender::Http1(sender), driver: driver.abort_handle() })
    }

    async fn http2_over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> anyhow::Result<Self> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        let driver: JoinHandle<_> = tokio::spawn(connection);
        Ok(Self { sender: Sender::Http2(sender), driver: driver.abort_handle() })
    }

    /// Sends a request and gives the response as soon as its head is there.
    ///
    /// # Errors
    /// When the connection breaks before that.
    pub async fn begin(&mut self, request: Request<Body>) -> anyhow::Result<Response<Incoming>> {
        Ok(self.start(request).await?.await?)
    }

    /// Hands a request over and gives the future of its response, so that an HTTP/2 connection can take another.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn start(
        &mut self,
        request: Request<Body>,
    ) -> anyhow::Result<BoxFuture<'static, hyper::Result<Response<Incoming>>>> {
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                Box::pin(sender.send_request(request))
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                Box::pin(sender.send_request(request))
            }
        })
    }

    /// GET, with the whole answer.
    ///
    /// # Errors
    /// When the connection breaks before its end.
    pub async fn get(&mut self, host: &str, path: &str) -> anyhow::Result<Answer> {
        let request = self.request(Method::GET, host, path, empty());
        whole(self.begin(request).await?).await
    }

    /// A request in the form that this connection's version wants.
    ///
    /// # Panics
    /// When `host` or `path` is not one.
    #[must_use]
    pub fn request(&self, method: Method, host: &str, path: &str, body: Body) -> Request<Body> {
        let request = Request::builder().method(method);
        let request = match &self.sender {
            Sender::Http1(_) => request.uri(path).header(header::HOST, host),
            Sender::Http2(_) => request.uri(format!("http://{host}{path}")),
        };
        request.body(body).expect("host and path are well formed")
    }
}

/// One GET over HTTP/1.1 on a connection of its own, at most [`PATIENCE`].
///
/// # Errors
/// When the connection breaks before the end of the answer.
pub async fn get(gateway: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    let exchange = async { Connection::http1(gateway).await?.get(host, path).await };
    within(PATIENCE, &format!("an answer to GET {host}{path}"), exchange).await
}

/// Sends bytes on a connection of their own, ends our half, and gives all that comes back.
///
/// # Panics
/// When the gateway takes no connection, or does not end this one.
pub async fn raw(gateway: SocketAddr, bytes: &[u8]) -> String {
    let mut tcp = TcpStream::connect(gateway).await.expect("the gateway takes connections");
    let (mut receive, mut send) = tcp.split();
    let sending = async {
        // A gateway that has refused reads no more.
        if send.write_all(bytes).await.is_ok() {
            let _ = send.shutdown().await;
        }
    };
    let mut answer = Vec::new();
    let receiving = async {
        let _ = receive.read_to_end(&mut answer).await;
    };
    within(PATIENCE, "the connection ends", async { tokio::join!(sending, receiving) }).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads a response to its end.
///
/// # Errors
/// When it is cut.
pub async fn whole(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.context("the body is cut")?;
    let trailers = collected.trailers().cloned();
    Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
}

/// Reads a body of any size and gives its digest.
///
/// # Errors
/// When it is cut.
pub async fn digest(mut body: Incoming) -> anyhow::Result<String> {
    let mut sha = Sha256::default();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.context("the body is cut")?.data_ref() {
            sha.update(data);
        }
    }
    Ok(sha.finish())
}

/// Reads a body to its end and gives its length.
///
/// # Errors
/// When it is cut.
pub async fn discard(mut body: Incoming) -> anyhow::Result<u64> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.context("the body is cut")?.data_ref().map_or(0, Bytes::len) as u64;
    }
    Ok(length)
}

#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of generated pieces, made while it is sent, without a declared length.
#[must_use]
pub fn pieces(pieces: Pieces) -> Body {
    StreamBody::new(stream::iter(pieces.map(|piece| Ok(Frame::data(piece))))).boxed_unsync()
}

/// A body of `length` zeros, which cost nothing to make, without a declared length.
#[must_use]
pub fn zeros(length: u64) -> Body {
    static PIECE: [u8; PIECE_BYTES] = [0; PIECE_BYTES];
    let pieces = (0..length.div_ceil(PIECE_BYTES as u64)).map(move |at| {
        let left = length - at * PIECE_BYTES as u64;
        let size = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        Ok(Frame::data(Bytes::from_static(&PIECE[..size])))
    });
    StreamBody::new(stream::iter(pieces)).boxed_unsync()
}

/// A TLS connection to a gateway whose certificate is not looked at, with this offer of ALPN.
///
/// # Errors
/// When the handshake fails.
pub async fn tls_stream(gateway: SocketAddr, host: &str, offer: &[&str]) -> anyhow::Result<TlsStream<TcpStream>> {
    let config = trusting_all(offer)?;
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(gateway).await?).await?)
}

/// Settings that take any certificate, with this offer of ALPN.
///
/// # Errors
/// Never with the suites that are built in.
pub fn trusting_all(offer: &[&str]) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SelfIssued(provider)))
        .with_no_client_auth();
    config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// Takes any certificate: an HTTPS listener's is self-issued until one is configured. Signatures are still checked.
#[derive(Debug)]
struct SelfIssued(Arc<CryptoProvider>);

impl ServerCertVerifier for SelfIssued {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
