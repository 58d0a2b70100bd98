//! The tunnel port: QUIC connections come in, are told who they are by their certificate, and speak HTTP/3.
//!
//! Owns the handshake, the enrolment exchange and the answer to CONNECT-IP. A session's further life is `session`'s.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::{
    runtime::Handle,
    sync::OnceCell,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span};
use underpass_shared::{
    enrolment::{ENROL_PATH, EXCHANGE_BYTES_MAX, EnrolRequest, Issued, RENEW_PATH, Refusal, RefusalReason, Secret},
    identity::{AgentIdentity, Identity},
    quic::{
        datagrams::Datagrams,
        endpoint::{self, CLIENT_STREAMS},
        http3::{self, ConnectionError, Protocol, ServerStream, StreamError},
        socket::SocketLosses,
        streams::StreamLimit,
        tls,
    },
    wire::connect_ip,
};

use super::{
    Tunnels, connect,
    session::{self, Session},
};
use crate::{clock, enrolment::Enrolment, proxy::Routing};

/// Connections of one relay, sessions and exchanges together; about 40 KiB each when idle. Beyond it new ones are refused.
const CONNECTIONS_MAX: usize = 20_000;

/// How long a connection may live that has no session, before one and after it.
///
/// After it, flows in flight may finish: an agent that stops closes the connection itself when they have.
const WITHOUT_SESSION: Duration = Duration::from_secs(30);

/// How long a request may take that is no session, its head included: two round trips and a durable write.
///
/// Without it a peer that sends half a request would hold its connection for ever.
pub(super) const REQUEST: Duration = Duration::from_secs(15);

/// How long agents may take to leave a relay that stops, once no request is in flight any more.
const LEAVE: Duration = Duration::from_secs(3);

/// Close code of an orderly end (RFC 9114 §8.1, `H3_NO_ERROR`).
const NO_ERROR: u32 = 0x100;

/// The UDP port that agents dial, bound but not served yet.
#[derive(Debug)]
pub struct TunnelPort {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    losses: Option<SocketLosses>,
}

impl TunnelPort {
    /// Binds `address`; the socket belongs to `runtime`, where [`Acceptor::run`] must run.
    ///
    /// # Errors
    /// When the port is taken, the address is not this host's, or `tls` cannot serve QUIC.
    pub fn bind(address: SocketAddr, tls: rustls::ServerConfig, runtime: &Handle) -> io::Result<Self> {
        // quinn looks for the runtime that its socket belongs to.
        let _entered = runtime.enter();
        let endpoint = endpoint::listen(address, tls)?;
        let address = endpoint.local_addr()?;
        let losses = SocketLosses::of(&endpoint);
        Ok(Self { endpoint, address, losses })
    }

    /// What the kernel drops before the socket; once.
    pub fn losses(&mut self) -> Option<SocketLosses> {
        self.losses.take()
    }

    /// Where it is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves the tunnel port: what it needs of the rest of the relay.
#[derive(Debug, Clone)]
pub struct Acceptor {
    pub tunnels: Tunnels,
    pub enrolment: Enrolment,
    /// What is dialled outside, and by which rules.
    pub routing: Arc<Routing>,
    /// What the names of nodes end in, in lower case.
    pub tunnel_domains: Arc<[String]>,
}

/// One QUIC connection: one identity, at most one session.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) connection: quinn::Connection,
    pub(super) datagrams: Datagrams,
    pub(super) identity: Option<AgentIdentity>,
    /// Cancelled when the relay stops: agents are to go elsewhere.
    pub(super) drain: CancellationToken,
    session: OnceCell<()>,
    /// The session while it lives: what may open flows.
    live: Mutex<Option<Arc<Session>>>,
}

/// Ends with the session.
pub(super) struct Live<'a>(&'a Peer);

impl Peer {
    /// Whose session it is, and the session; `None` when there is none, or none any more.
    pub(super) fn live(&self) -> Option<(AgentIdentity, Arc<Session>)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        self.identity.clone().zip(live.clone())
    }

    /// The session lives for as long as what is returned.
    pub(super) fn enliven(&self, session: &Arc<Session>) -> Live<'_> {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(session));
        Live(self)
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        *self.0.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Acceptor {
    /// Accepts until `drain` is cancelled, then tells every agent to go elsewhere and returns when all are gone; at the
    /// latest after three seconds, but for flows that agents opened: these may go on until `cut` is cancelled.
    pub async fn run(self, TunnelPort { endpoint, .. }: TunnelPort, drain: CancellationToken, cut: CancellationToken) {
        // Each handshake under way holds a clone, so that the count needs no bookkeeping.
        let half_open = Arc::new(());
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = drain.cancelled() => None,
                Some(_) = connections.join_next() => continue,
            };
            let Some(incoming) = incoming else { break };
            if connections.len() >= CONNECTIONS_MAX {
                incoming.refuse();
                continue;
            }
            let from = incoming.remote_address().ip().to_canonical();
            match endpoint::admit(incoming, Arc::strong_count(&half_open) - 1) {
                Ok(Some(connecting)) => {
                    let connection = self.clone().connection(connecting, Arc::clone(&half_open), drain.clone());
                    connections.spawn(connection.instrument(info_span!("connection", %from)));
                }
                Ok(None) => {}
                Err(error) => debug!(%from, %error, "no handshake"),
            }
        }
        self.tunnels.outbound().close();
        let gone = async { while connections.join_next().await.is_some() {} };
        let stay = async {
            sleep(LEAVE).await;
            self.tunnels.outbound().wait().await;
        };
        tokio::select! {
            () = gone => {}
            () = stay => debug!("some agents did not leave in time"),
            () = cut.cancelled() => debug!("some flows did not end in time"),
        }
        endpoint.close(NO_ERROR.into(), b"the relay is stopping");
        endpoint.wait_idle().await;
    }

    async fn connection(self, connecting: quinn::Connecting, half_open: Arc<()>, drain: CancellationToken) {
        let connection = match endpoint::handshake(connecting).await {
            Ok(connection) => connection,
            Err(error) => return debug!(%error, "handshake failed"),
        };
        drop(half_open);
        let identity = match tls::peer_identity(&connection) {
            Ok(Some(Identity::Agent(agent))) => Some(agent),
            Ok(None) => None,
            Ok(Some(other)) => {
                debug!(%other, "not an agent's certificate");
                return connection.close(NO_ERROR.into(), b"only agents' certificates are for this port");
            }
            Err(error) => {
                debug!(%error, "a certificate without a name of ours");
                return connection.close(NO_ERROR.into(), b"the certificate names no agent");
            }
        };
        let datagrams = Datagrams::spawn(connection.clone(), Arc::clone(self.tunnels.ledger()));
        let peer =
            Arc::new(Peer { connection, datagrams, identity, drain, session: OnceCell::new(), live: Mutex::default() });
        if let Err(error) = self.requests(&peer).await {
            debug!(%error, "connection ended");
        }
    }

    /// Serves a connection's requests until it ends.
    async fn requests(&self, peer: &Arc<Peer>) -> Result<(), ConnectionError> {
        let mut http = http3::serve(peer.connection.clone()).await?;
        let mut requests = JoinSet::new();
        let idle = sleep(WITHOUT_SESSION);
        tokio::pin!(idle);
        let mut draining = false;
        let mut limit = StreamLimit::new(CLIENT_STREAMS);
        loop {
            tokio::select! {
                accepted = http.accept() => {
                    let Some(resolver) = accepted? else { return Ok(()) };
                    // Without a session there is no reason for many requests.
                    let raised = if peer.session.initialized() { limit.handle_opened() } else { None };
                    if let Some(raised) = raised {
                        peer.connection.set_max_concurrent_bi_streams(raised.into());
                    }
                    if draining {
                        // The one that GOAWAY could not keep away; dropping it resets its stream.
                        continue;
                    }
                    let (this, peer) = (self.clone(), Arc::clone(peer));
                    requests.spawn(async move {
                        let Ok(Ok((request, stream))) = timeout(REQUEST, resolver.resolve_request()).await else {
                            return debug!("no whole request head came");
                        };
                        if let Err(error) = this.request(&peer, request, stream).await {
                            debug!(%error, "request ended");
                        }
                    }.in_current_span());
                }
                Some(_) = requests.join_next(), if !requests.is_empty() => {
                    limit.handle_closed();
                    idle.set(sleep(WITHOUT_SESSION));
                    if draining && requests.is_empty() {
                        peer.connection.close(NO_ERROR.into(), b"the relay is stopping");
                        return Ok(());
                    }
                }
                () = peer.drain.cancelled(), if !draining => {
                    draining = true;
                    http3::go_away(&mut http).await?;
                    if requests.is_empty() {
                        peer.connection.close(NO_ERROR.into(), b"the relay is stopping");
                        return Ok(());
                    }
                }
                () = &mut idle, if requests.is_empty() => {
                    peer.connection.close(NO_ERROR.into(), b"nothing is asked for");
                    return Ok(());
                }
            }
        }
    }

    /// A session and a flow live as long as they like; everything else must be over soon.
    async fn request(&self, peer: &Arc<Peer>, request: Request<()>, stream: ServerStream) -> Result<(), StreamError> {
        let protocol = request.extensions().get::<Protocol>().copied();
        if (request.method(), protocol, request.uri().path())
            == (&Method::CONNECT, Some(Protocol::CONNECT_IP), connect_ip::PATH)
        {
            return self.connect_ip(peer, &request, stream).await;
        }
        if (request.method(), protocol) == (&Method::CONNECT, None) {
            return connect::serve(self, peer, &request, stream).await;
        }
        timeout(REQUEST, self.brief(peer, &request, protocol, stream)).await.unwrap_or_else(|_| {
            debug!("a request took too long");
            Ok(())
        })
    }

    async fn brief(
        &self,
        peer: &Arc<Peer>,
        request: &Request<()>,
        protocol: Option<Protocol>,
        mut stream: ServerStream,
    ) -> Result<(), StreamError> {
        match (request.method(), protocol, request.uri().path()) {
            (&Method::POST, None, ENROL_PATH | RENEW_PATH) => {
                let answer = match read_body(&mut stream).await? {
                    Some(body) => self.exchange(peer, request, &body).await,
                    None => Err(refusal(RefusalReason::BadRequest, "the request is too long")),
                };
                answer_exchange(stream, answer).await
            }
            (&Method::CONNECT, Some(_), _) => {
                refuse(stream, StatusCode::NOT_FOUND, "only connect-ip to any host is served here").await
            }
            _ => refuse(stream, StatusCode::NOT_FOUND, "nothing is served here but tunnels").await,
        }
    }

    /// Trades a token or a certificate for a fresh certificate.
    async fn exchange(&self, peer: &Peer, request: &Request<()>, body: &[u8]) -> Result<Issued, Refusal> {
        let wanted: EnrolRequest = serde_json::from_slice(body)
            .map_err(|error| refusal(RefusalReason::BadRequest, &format!("the request cannot be read: {error}")))?;
        if request.uri().path() == ENROL_PATH {
            let secret = bearer(request).ok_or_else(|| {
                refusal(RefusalReason::UnknownToken, "enrolment needs the token in the authorization header")
            })?;
            let issued = self.enrolment.redeem(&secret, &wanted, clock::now()).await?;
            info!(project = %wanted.project, node = %wanted.node, agent = %wanted.agent, "agent enrolled");
            return Ok(issued);
        }
        let identity = peer.identity.as_ref().ok_or_else(|| {
            refusal(RefusalReason::Unauthenticated, "renewal needs the certificate that is to be renewed")
        })?;
        self.enrolment.renew(identity, &wanted, clock::now()).await
    }

    async fn connect_ip(
        &self,
        peer: &Arc<Peer>,
        request: &Request<()>,
        stream: ServerStream,
    ) -> Result<(), StreamError> {
        let Some(identity) = &peer.identity else {
            let refusal = refusal(RefusalReason::Unauthenticated, "a session needs a certificate: enrol first");
            return answer_refusal(stream, &refusal).await;
        };
        let admission = match self.enrolment.admit(identity).await {
            Ok(admission) => admission,
            Err(refusal) => return answer_refusal(stream, &refusal).await,
        };
        if peer.session.set(()).is_err() {
            return refuse(stream, StatusCode::CONFLICT, "this connection has its session already").await;
        }
        session::run(self, peer, identity, admission, request.headers(), stream).await
    }
}

fn bearer(request: &Request<()>) -> Option<Secret> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::presented(secret.trim()))
}

/// The whole body, `None` when it is longer than an exchange may be.
async fn read_body(stream: &mut ServerStream) -> Result<Option<Vec<u8>>, StreamError> {
    let mut body = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        if body.len() + data.remaining() > EXCHANGE_BYTES_MAX {
            return Ok(None);
        }
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(Some(body))
}

fn refusal(reason: RefusalReason, message: &str) -> Refusal {
    Refusal { reason, message: message.to_owned() }
}

async fn answer_exchange(stream: ServerStream, answer: Result<Issued, Refusal>) -> Result<(), StreamError> {
    match answer {
        Ok(issued) => {
            let body = serde_json::to_vec(&issued).expect("plain structs always serialise");
            answer_json(stream, StatusCode::OK, body).await
        }
        Err(refusal) => answer_refusal(stream, &refusal).await,
    }
}

async fn answer_refusal(stream: ServerStream, refusal: &Refusal) -> Result<(), StreamError> {
    let status = match refusal.reason {
        RefusalReason::UnknownToken
        | RefusalReason::TokenExpired
        | RefusalReason::TokenUsed
        | RefusalReason::Unauthenticated => StatusCode::UNAUTHORIZED,
        RefusalReason::WrongNode | RefusalReason::Revoked => StatusCode::FORBIDDEN,
        RefusalReason::NodeNotFound => StatusCode::NOT_FOUND,
        RefusalReason::BadRequest => StatusCode::BAD_REQUEST,
        RefusalReason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    info!(reason = ?refusal.reason, message = %refusal.message, "agent refused");
    answer_json(stream, status, serde_json::to_vec(refusal).expect("plain structs always serialise")).await
}

async fn refuse(stream: ServerStream, status: StatusCode, text: &'static str) -> Result<(), StreamError> {
    answer(stream, status, "text/plain", Bytes::from_static(text.as_bytes())).await
}

async fn answer_json(stream: ServerStream, status: StatusCode, body: Vec<u8>) -> Result<(), StreamError> {
    answer(stream, status, "application/json", body.into()).await
}

async fn answer(
    mut stream: ServerStream,
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
) -> Result<(), StreamError> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    stream.send_response(response).await?;
    stream.send_data(body).await?;
    stream.finish().await
}
