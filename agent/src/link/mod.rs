//! The way to one relay: QUIC, HTTP/3 on it, the enrolment exchange and the CONNECT-IP request.
//!
//! Owns one connection. What travels in a session is `session`'s, flows that begin here are `outward`'s; when to dial is
//! `node::redial`'s.

pub mod outward;
pub mod session;

use std::{io, net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Buf as _;
use http::{Request, StatusCode, header};
use serde::de::DeserializeOwned;
use tokio::{
    task::JoinHandle,
    time::{error::Elapsed, timeout},
};
use tracing::debug;
use underpass_shared::{
    enrolment::{EXCHANGE_BYTES_MAX, EnrolRequest, Issued, Refusal, Secret},
    ledger::Ledger,
    quic::{
        endpoint::{self, HANDSHAKE_TIMEOUT, HandshakeError},
        http3::{self, ClientStream, ConnectionError, NoExtendedConnect, Requests, StreamError},
        socket::SocketLosses,
        tls::{self, Credential, SERVER_NAME, TlsError, Trust},
    },
};

/// How long a relay may take to answer a request of ours.
///
/// Two round trips round the world and a durable write; beyond it another relay is the better choice.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a relay gave us nothing.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the certificate in the state directory cannot be used")]
    Tls { source: TlsError },
    #[error("this build cannot speak QUIC")]
    Quic { source: io::Error },
    #[error("cannot resolve {relay}: {source}")]
    Resolve { relay: String, source: io::Error },
    #[error("cannot reach {relay} ({address}): {source}")]
    Handshake { relay: String, address: SocketAddr, source: HandshakeError },
    #[error("{relay} did not answer a request in time")]
    TimedOut { relay: String },
    #[error("{relay} broke off: {source}")]
    Connection { relay: String, source: ConnectionError },
    #[error("{relay} broke off the request: {source}")]
    Stream { relay: String, source: StreamError },
    #[error("{relay} is no relay: {source}")]
    NoRelay { relay: String, source: NoExtendedConnect },
    #[error("{relay} answered with a protocol error: {what}")]
    Protocol { relay: String, what: &'static str },
    #[error("{}", .0.message)]
    Refused(Refusal),
    #[error("{relay} answered {status} and no reason that can be read")]
    Answer { relay: String, status: StatusCode },
}

impl LinkError {
    /// Whether whoever answered is no relay of the deployment that was expected; trying again will not change it.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        matches!(
            self,
            Self::Handshake { source: HandshakeError::Failed(quinn::ConnectionError::TransportError(error)), .. }
                if CRYPTO_ERRORS.contains(&u64::from(error.code))
        )
    }
}

/// The transport's codes for TLS alerts (RFC 9000 §20.1).
const CRYPTO_ERRORS: RangeInclusive<u64> = 0x100..=0x1ff;

/// A live connection to a relay. Dropping it closes the connection.
pub struct Link {
    relay: String,
    connection: quinn::Connection,
    requests: Requests,
    driver: JoinHandle<ConnectionError>,
    ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.relay)
    }
}

/// The agent's UDP socket, from which every relay is dialled.
#[derive(Debug)]
pub struct Dialler {
    socket: quinn::Endpoint,
    /// Where the packets of all links are counted.
    ledger: Arc<Ledger>,
}

impl Dialler {
    /// Opens the socket, on any free port.
    ///
    /// # Errors
    /// When the host has no network stack to speak of.
    pub fn open(ledger: Arc<Ledger>) -> io::Result<Self> {
        endpoint::dialler().map(|socket| Self { socket, ledger })
    }

    /// What the kernel drops before the socket.
    #[must_use]
    pub fn losses(&self) -> Option<SocketLosses> {
        SocketLosses::of(&self.socket)
    }

    /// Dials `relay` (`host:port`), each of its addresses in turn, and speaks HTTP/3 to the first that answers.
    ///
    /// # Errors
    /// The last address's fault; see [`LinkError`].
    pub async fn dial(&self, relay: &str, trust: Trust, credential: Option<Credential>) -> Result<Link, LinkError> {
        let tls = tls::client(trust, credential).map_err(|source| LinkError::Tls { source })?;
        let tls = endpoint::client_config(tls).map_err(|source| LinkError::Quic { source })?;
        let resolve = |source| LinkError::Resolve { relay: relay.to_owned(), source };
        let addresses = timeout(HANDSHAKE_TIMEOUT, tokio::net::lookup_host(relay))
            .await
            .map_err(|_| resolve(io::ErrorKind::TimedOut.into()))?
            .map_err(resolve)?;
        let mut fault = resolve(io::Error::other("the name has no address"));
        for address in addresses {
            match endpoint::connect(&self.socket, tls.clone(), address).await {
                Ok(connection) => return Link::speak(relay, connection, Arc::clone(&self.ledger)).await,
                Err(source) => {
                    debug!(%address, error = %source, "address passed over");
                    fault = LinkError::Handshake { relay: relay.to_owned(), address, source };
                }
            }
        }
        Err(fault)
    }
}

impl Link {
    async fn speak(relay: &str, connection: quinn::Connection, ledger: Arc<Ledger>) -> Result<Self, LinkError> {
        let (mut driver, requests) = http3::connect(connection.clone())
            .await
            .map_err(|source| LinkError::Connection { relay: relay.to_owned(), source })?;
        let driver = tokio::spawn(async move { driver.wait_idle().await });
        Ok(Self { relay: relay.to_owned(), connection, requests, driver, ledger })
    }

    /// The QUIC connection beneath.
    #[must_use]
    pub fn connection(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Trades the token's `secret`, or without one this connection's certificate, for a fresh certificate.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with the relay's reason, or what went wrong on the way.
    pub async fn exchange(
        &self,
        path: &str,
        secret: Option<&Secret>,
        wanted: &EnrolRequest,
    ) -> Result<Issued, LinkError> {
        let mut request =
            Request::post(format!("https://{}{path}", SERVER_NAME)).header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", secret.expose()));
        }
        let request = request.body(()).expect("path and secret are plain ASCII");
        let body = serde_json::to_vec(wanted).expect("plain structs always serialise");
        self.in_time(async {
            let mut stream = self.send(request).await?;
            let broke = |source| self.broke(source);
            stream.send_data(body.into()).await.map_err(broke)?;
            stream.finish().await.map_err(broke)?;
            let response = stream.recv_response().await.map_err(broke)?;
            self.read(response.status(), &mut stream).await
        })
        .await
    }

    pub(crate) async fn send(&self, request: Request<()>) -> Result<ClientStream, LinkError> {
        self.requests.clone().send_request(request).await.map_err(|source| self.broke(source))
    }

    /// A whole answer: what was asked for on 200, the relay's reason otherwise.
    pub(crate) async fn read<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        stream: &mut ClientStream,
    ) -> Result<T, LinkError> {
        let unreadable = || LinkError::Answer { relay: self.relay.clone(), status };
        let mut body = Vec::new();
        while let Some(mut data) = stream.recv_data().await.map_err(|source| self.broke(source))? {
            if body.len() + data.remaining() > EXCHANGE_BYTES_MAX {
                return Err(unreadable());
            }
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|_| unreadable());
        }
        Err(serde_json::from_slice(&body).map_or_else(|_| unreadable(), LinkError::Refused))
    }

    pub(crate) async fn in_time<T>(&self, answer: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        timeout(ANSWER, answer)
            .await
            .unwrap_or_else(|_: Elapsed| Err(LinkError::TimedOut { relay: self.relay.clone() }))
    }

    pub(crate) fn broke(&self, source: StreamError) -> LinkError {
        LinkError::Stream { relay: self.relay.clone(), source }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close(0x100_u32.into(), b"the agent is done");
        self.driver.abort();
    }
}
