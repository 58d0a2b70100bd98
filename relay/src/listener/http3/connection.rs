//! One client's QUIC connection from the handshake to its end, and each request on it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use hyper::ext::Protocol;
use tokio::{
    io::{DuplexStream, duplex},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use underpass_shared::quic::{
    adapter::{Delivered, Deliveries, Delivery},
    endpoint,
    http3::{self, Code, Resolver, Server, ServerReceive, StreamError},
};

use super::{
    answer::{Answer, Unsent},
    body::{Fault, Kind, Upload},
    head, tls, websocket,
};
use crate::{
    clock,
    listener::{
        HEAD_BYTES_MAX, Worker,
        connection::{Ration, over},
        places::Room,
        watch::{self, HEAD, IDLE, InFlight, TICK, WRITE, Watch},
    },
    proxy::{
        Client,
        body::{BodyError, ClientBody},
    },
    route::{client::Connection, table::ListenAddress},
};

/// How long a client may take to hear that it is to begin no more requests: three round trips, and at most this.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// A connection that was let in; its handshake is still to come.
pub(super) struct Accepted {
    pub(super) connecting: quinn::Connecting,
    pub(super) half_open: Arc<()>,
    pub(super) at: ListenAddress,
    /// What the socket is bound to.
    pub(super) local: SocketAddr,
    pub(super) _room: Room,
}

impl Accepted {
    /// Serves the connection until the client is done, a limit is exceeded, or the worker is cut.
    pub(super) async fn serve(self, worker: Arc<Worker>, stop: CancellationToken) {
        let handshake = tokio::select! {
            () = worker.cut.cancelled() => return,
            handshake = endpoint::handshake(self.connecting) => handshake,
        };
        drop(self.half_open);
        let connection = match handshake {
            Ok(connection) => connection,
            Err(error) => return tracing::debug!(%error, "QUIC handshake"),
        };
        let address = endpoint::peer_address(&connection);
        let name = tls::server_name(&connection);
        // The table may have changed since the certificate was chosen.
        let Some(listener) = tls::listener(&worker.gateway, self.at, name.as_deref()) else {
            return connection.close(code(Code::H3_NO_ERROR), b"not served over HTTP/3 any more");
        };
        let ip = connection.local_ip().unwrap_or(self.local.ip()).to_canonical();
        let local = SocketAddr::new(ip, self.local.port());
        let limits = listener.clients.as_ref().map(|clients| clients.connection.clone()).unwrap_or_default();
        let client = Arc::new(Client { address, local, at: self.at, tls: Some(listener) });
        let watch = Watch::new(clock::instant(), limits.idle.unwrap_or(IDLE));
        let ration = Ration::new(limits.requests);
        let host = Arc::new(Host { worker, client, limits, ration, wasted: watch::Wasted::default() });
        let ended = Box::pin(host.speak(&connection, watch, stop)).await;
        if let Err(error) = ended {
            tracing::debug!(src = %address, %error, "HTTP/3 connection");
        }
    }
}

/// What the requests of one connection share.
struct Host {
    worker: Arc<Worker>,
    client: Arc<Client>,
    limits: Connection,
    ration: Ration,
    /// Requests whose answers the client did not take.
    wasted: watch::Wasted,
}

/// Why the client has no whole answer.
#[derive(Debug, thiserror::Error)]
enum Wasted {
    #[error("the head took more than {} seconds", HEAD.as_secs())]
    SlowHead,
    #[error("the head: {0}")]
    Head(StreamError),
    #[error("the client gave it up")]
    GivenUp,
    #[error(transparent)]
    Unsent(#[from] Unsent),
}

/// Where a connection is on its way to an end.
enum Stage {
    Open,
    /// The client was told to begin nothing more.
    Ending,
    /// It has had time to hear so.
    Ended,
}

impl Host {
    async fn speak(
        self: Arc<Self>,
        connection: &quinn::Connection,
        watch: Arc<Watch>,
        stop: CancellationToken,
    ) -> Result<(), http3::ConnectionError> {
        let serving = http3::serve_public(connection.clone(), HEAD_BYTES_MAX as u64);
        let (mut server, deliveries) = tokio::select! {
            () = self.worker.cut.cancelled() => return Ok(()),
            serving = serving => serving?,
        };
        let goodbye = self.worker.goodbye.load_full();
        // Requests end with this: their answers are reset, their backends are left.
        let mut requests = JoinSet::new();
        let mut stage = Stage::Open;
        let mut farewell = Box::pin(sleep(Duration::ZERO));
        let mut over = Box::pin(over((&stop, &goodbye), self.limits.duration, &self.ration));
        let tick = TICK.min(self.limits.idle.unwrap_or(TICK));
        loop {
            tokio::select! {
                accepted = server.accept() => {
                    let Some(resolver) = accepted? else { return Ok(()) };
                    self.clone().begin(&mut requests, resolver, &deliveries, &stage, watch.begin());
                }
                Some(_) = requests.join_next(), if !requests.is_empty() => {
                    if self.wasted.is_too_much() {
                        connection.close(code(Code::H3_EXCESSIVE_LOAD), b"too many requests for nothing");
                        return Ok(());
                    }
                }
                () = self.worker.cut.cancelled() => return Ok(()),
                () = &mut over, if matches!(stage, Stage::Open) => {
                    stage = go_away(&mut server).await?;
                    farewell.set(sleep(time_to_hear(connection)));
                }
                () = &mut farewell, if matches!(stage, Stage::Ending) => stage = Stage::Ended,
                () = sleep(tick), if matches!(stage, Stage::Open) => {
                    if watch.overdue(clock::instant()).is_some() {
                        stage = go_away(&mut server).await?;
                        farewell.set(sleep(time_to_hear(connection)));
                    }
                }
            }
            if matches!(stage, Stage::Ended) && requests.is_empty() {
                connection.close(code(Code::H3_NO_ERROR), b"goodbye");
                return Ok(());
            }
        }
    }

    fn begin(
        self: Arc<Self>,
        requests: &mut JoinSet<()>,
        resolver: Resolver,
        deliveries: &Deliveries,
        stage: &Stage,
        in_flight: InFlight,
    ) {
        let Some(delivery) = deliveries.take() else { return };
        if matches!(stage, Stage::Open) {
            self.ration.is_spent_by_another();
            requests.spawn(async move {
                let _in_flight = in_flight;
                self.request(resolver, delivery).await;
            });
        } else {
            requests.spawn(reject(resolver));
        }
    }

    /// One request, from its head until the client has all of the answer; keeps count of those for nothing.
    async fn request(&self, resolver: Resolver, delivery: Delivery) {
        let wasted = match Box::pin(self.serve(resolver, delivery)).await {
            Ok(()) => return self.wasted.less(),
            Err(wasted) => wasted,
        };
        tracing::debug!(src = %self.client.address, reason = %wasted, "HTTP/3 request");
        // A backend that broke off is not the client's fault.
        if !matches!(wasted, Wasted::Unsent(Unsent::Body(_))) {
            self.wasted.more();
        }
    }

    async fn serve(&self, resolver: Resolver, mut delivery: Delivery) -> Result<(), Wasted> {
        let resolved = timeout(HEAD, resolver.resolve_request()).await.map_err(|_| Wasted::SlowHead)?;
        let (request, stream) = resolved.map_err(Wasted::Head)?;
        let (send, receive) = stream.split();
        tokio::select! {
            // The first to be asked, so that nothing is begun for a client that went.
            biased;
            _ = &mut delivery => return Err(Wasted::GivenUp),
            answered = Box::pin(self.answer(request, Answer::new(send), receive)) => answered?,
        }
        // In flight until the client has all of it, which closing the connection would else throw away.
        match timeout(WRITE, delivery).await {
            Ok(Delivered::Whole) => Ok(()),
            Ok(Delivered::Unwanted) | Err(_) => Err(Wasted::GivenUp),
        }
    }

    async fn answer(&self, request: Request<()>, answer: Answer, mut receive: ServerReceive) -> Result<(), Unsent> {
        let (mut parts, ()) = request.into_parts();
        let asked = parts.extensions.remove::<http3::Protocol>();
        let length = match head::check(&parts, asked.is_some()) {
            Ok(length) => length,
            Err(malformed) => {
                receive.stop_sending(Code::H3_MESSAGE_ERROR);
                return Err(answer.refuse(&malformed));
            }
        };
        if let Some(asked) = asked {
            parts.extensions.insert(protocol(asked));
            return self.switch(Request::from_parts(parts, ()), answer, receive).await;
        }
        let method = parts.method.clone();
        let fault = Fault::default();
        let body = Upload::new(receive, length, fault.clone()).into_body().await;
        let response = match body {
            Ok(body) => Ok(self.worker.proxy.handle(Box::new(Request::from_parts(parts, body)), &self.client).await),
            Err(error) => Err(error),
        };
        match fault.kind() {
            Some(Kind::Misfit) => return Err(answer.refuse(&BodyError::Length)),
            Some(Kind::Broken) => return Err(Unsent::Broken),
            None => {}
        }
        answer.send(response?, &method).await
    }

    /// An extended CONNECT: its DATA are no body, but bytes for a backend that agrees.
    async fn switch(&self, request: Request<()>, mut answer: Answer, receive: ServerReceive) -> Result<(), Unsent> {
        let (ours, theirs): (DuplexStream, DuplexStream) = duplex(websocket::BUFFER_BYTES);
        let method = request.method().clone();
        let request = request.map(|()| ClientBody::Switched(theirs));
        let response = self.worker.proxy.handle(Box::new(request), &self.client).await;
        if !response.status().is_success() {
            return answer.send(response, &method).await;
        }
        let (parts, _) = response.into_parts();
        answer.head(parts.status, parts.headers).await?;
        websocket::carry(answer, receive, ours).await
    }
}

async fn go_away(server: &mut Server) -> Result<Stage, http3::ConnectionError> {
    http3::go_away(server).await?;
    Ok(Stage::Ending)
}

/// Until the client has heard the GOAWAY, and what it sent before has come and was rejected, so that it asks elsewhere.
fn time_to_hear(connection: &quinn::Connection) -> Duration {
    (connection.rtt() * 3).min(FAREWELL_MAX)
}

/// Tells the client that its request was not looked at, so that it may send it again elsewhere.
async fn reject(resolver: Resolver) {
    let resolved: Result<Result<_, StreamError>, _> = timeout(HEAD, resolver.resolve_request()).await;
    if let Ok(Ok((_, mut stream))) = resolved {
        stream.stop_sending(Code::H3_REQUEST_REJECTED);
        stream.stop_stream(Code::H3_REQUEST_REJECTED);
    }
}

/// The one name that the proxy knows the protocol by.
fn protocol(asked: http3::Protocol) -> Protocol {
    if asked == http3::Protocol::WEBSOCKET {
        Protocol::from_static("websocket")
    } else {
        Protocol::from_static("other")
    }
}

fn code(code: Code) -> quinn::VarInt {
    quinn::VarInt::from_u64(code.value()).unwrap_or(quinn::VarInt::MAX)
}
