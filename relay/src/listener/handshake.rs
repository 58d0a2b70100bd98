//! The beginning of a TLS connection: the ClientHello's name selects the listener, and the listener what follows.

use std::{io, sync::Arc};

use rustls::{AlertDescription, server::Acceptor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    Worker,
    tls::{Carries, TlsError},
};
use crate::{
    proxy::stream::reset,
    route::{
        table::{ListenAddress, Port, TlsListener, TlsServes},
        target::Rule,
        tls::ServerTls,
    },
};

/// The longest ClientHello in bytes, with what comes right behind it.
///
/// With post-quantum key shares one has 2 KiB; other servers stop at 16 KiB too.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// What a handshake led to.
pub(super) enum Opened {
    Http(TlsStream<TcpStream>, Arc<TlsListener>),
    /// TLS ended here; what is inside goes to the rule's backends.
    Terminated(TlsStream<TcpStream>, Arc<Rule>, Arc<TlsListener>),
    /// The backend does TLS: the bytes so far, and all that follow, are for it.
    Through {
        stream: TcpStream,
        hello: Vec<u8>,
        rule: Arc<Rule>,
        listener: Arc<TlsListener>,
    },
}

/// Why there is none. The client was told by an alert, but where streams are passed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("it closed before it said what it wants")]
    Silent,
    #[error("the ClientHello is longer than {HELLO_BYTES_MAX} bytes")]
    TooLong,
    #[error("the ClientHello is none")]
    Garbage(#[source] rustls::Error),
    #[error("no listener for this name: {0:?}")]
    NoListener(Option<String>),
    #[error("no route for this name: {0:?}")]
    NoRule(Option<String>),
    #[error("the listener cannot serve")]
    Config(#[source] TlsError),
}

/// What the client said first.
struct Hello {
    accepted: rustls::server::Accepted,
    /// In lower case.
    name: Option<String>,
    bytes: Vec<u8>,
}

/// Reads the ClientHello and shakes hands as the listener that it selects at `at` says.
///
/// The table is looked at when the name is known, so that a slow client gets what is right by then.
pub(super) async fn open(worker: &Worker, mut stream: TcpStream, at: ListenAddress) -> Result<Opened, HandshakeError> {
    let hello = match read_hello(&mut stream).await {
        Ok(hello) => hello,
        Err(error) => return refuse(stream, error).await,
    };
    let (listener, passes_streams) = match worker.gateway.routing.table.load().port(at) {
        Some(Port::Tls(port)) => (port.listener(hello.name.as_deref()).cloned(), port.passes_streams()),
        _ => (None, false),
    };
    let Some(listener) = listener else {
        let error = HandshakeError::NoListener(hello.name);
        return if passes_streams { hang_up(&stream, error) } else { refuse(stream, error).await };
    };
    match &listener.serves {
        TlsServes::Http(tls) => {
            let stream = shake(worker, stream, hello, (tls, Carries::Http)).await?;
            Ok(Opened::Http(stream, listener))
        }
        TlsServes::Stream { tls, rules } => {
            let rule = rules.covering(hello.name.as_deref().unwrap_or_default()).next().cloned();
            let Some(rule) = rule else { return refuse(stream, HandshakeError::NoRule(hello.name)).await };
            match tls {
                None => Ok(Opened::Through { stream, hello: hello.bytes, rule, listener }),
                Some(tls) => {
                    let stream = shake(worker, stream, hello, (tls, Carries::Bytes)).await?;
                    Ok(Opened::Terminated(stream, rule, listener))
                }
            }
        }
    }
}

/// Reads until the ClientHello is whole, in however many pieces it comes.
async fn read_hello(stream: &mut TcpStream) -> Result<Hello, HandshakeError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    loop {
        let fed = bytes.len();
        let left = HELLO_BYTES_MAX - fed;
        if left == 0 {
            return Err(HandshakeError::TooLong);
        }
        if (&mut *stream).take(left as u64).read_buf(&mut bytes).await? == 0 {
            return Err(HandshakeError::Silent);
        }
        let mut news = &bytes[fed..];
        while !news.is_empty() {
            // Without this, a beginning that is taken for an end would be waited on for ever.
            if acceptor.read_tls(&mut news)? == 0 {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Ok(Hello { accepted, name, bytes });
            }
            Err((error, mut alert)) => {
                let mut said = Vec::new();
                alert.write_all(&mut said)?;
                stream.write_all(&said).await?;
                return Err(HandshakeError::Garbage(error));
            }
        }
    }
}

/// Does the rest of the handshake.
async fn shake(
    worker: &Worker,
    stream: TcpStream,
    hello: Hello,
    (tls, carries): (&Arc<ServerTls>, Carries),
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let own = worker.gateway.tls.load();
    let config = worker.gateway.configs.get(tls, carries, own.as_ref());
    drop(own);
    match config {
        Ok(config) => Ok(StartHandshake::from_parts(hello.accepted, stream).into_stream(config).await?),
        Err(error) => refuse(stream, HandshakeError::Config(error)).await,
    }
}

/// Tells the client by a fatal alert (RFC 8446 §6) and hangs up.
async fn refuse<T>(mut stream: TcpStream, error: HandshakeError) -> Result<T, HandshakeError> {
    let alert = match &error {
        // These have been told already, or there is nobody to tell.
        HandshakeError::Io(_) | HandshakeError::Silent | HandshakeError::Garbage(_) => return Err(error),
        HandshakeError::NoRule(_) => return hang_up(&stream, error),
        HandshakeError::TooLong => AlertDescription::DecodeError,
        HandshakeError::NoListener(_) => AlertDescription::UnrecognisedName,
        HandshakeError::Config(TlsError::Nobody | TlsError::Verifier(_)) => AlertDescription::AccessDenied,
        HandshakeError::Config(_) => AlertDescription::InternalError,
    };
    // A record of two bytes: alert, TLS 1.2 as every version says there; fatal.
    stream.write_all(&[21, 3, 3, 0, 2, 2, alert.into()]).await?;
    stream.shutdown().await?;
    Err(error)
}

/// Hangs up without a word where streams are passed: TLS is the backend's there, and for a name without backend nobody
/// speaks it. The Gateway API's suite takes an alert for an answer (`TLSRouteHostnameIntersection`).
fn hang_up<T>(stream: &TcpStream, error: HandshakeError) -> Result<T, HandshakeError> {
    reset(stream);
    Err(error)
}
