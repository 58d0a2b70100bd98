//! One client's connection from the handshake to its end.

use std::{
    convert::Infallible,
    future::pending,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    handshake::{self, Opened},
    http3::alternative::advertise,
    places::{Place, Room},
    proxied,
    watch::{IDLE, InFlight, Overdue, TICK, Unanswered, Watch, Watched},
};
use crate::{
    clock,
    proxy::{
        Client, Hold,
        body::{BodyError, ClientBody, ResponseBody},
        dial::keep_alive,
        stream::{self, Terms},
    },
    route::{
        client::{Arrival, ClientSettings},
        table::Port,
    },
};

/// How long a TLS handshake may take, and before it a PROXY header.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves `stream` until the client is done, a limit is exceeded, or the worker is cut.
pub(super) async fn serve(
    worker: Arc<Worker>,
    mut stream: TcpStream,
    mut client: Client,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(src = %client.address, %error, "connection");
        return;
    }
    let clients = worker.gateway.routing.table.load().clients(client.at).cloned();
    let place = match &clients {
        None => None,
        Some(clients) => match arrive(&worker, &clients.arrival, &mut stream, &mut client).await {
            Some(place) => place,
            None => return,
        },
    };
    let room = Room { _permit: permit, _place: place };
    let rule = match worker.gateway.routing.table.load().port(client.at) {
        None => return,
        Some(Port::Tls(_)) => return secure(worker, stream, client, room, stop).await,
        Some(Port::Stream(rule)) => Some(rule.clone()),
        Some(Port::Http(_)) => None,
    };
    match rule {
        None => Box::pin(speak(worker, (stream, room), client, clients, stop)).await,
        Some(None) => stream::reset(&stream),
        Some(Some(rule)) => {
            let terms = Terms { clients, cut: &worker.cut };
            Box::pin(stream::pass(&worker.gateway.routing, &rule, (&client, stream), Vec::new(), &terms)).await;
        }
    }
}

/// Does what a policy demands before anything else; `None` ends the connection.
///
/// Whoever is one too many is not asked for a header.
async fn arrive(
    worker: &Worker,
    arrival: &Arrival,
    stream: &mut TcpStream,
    client: &mut Client,
) -> Option<Option<Place>> {
    if let Some(keepalive) = &arrival.keepalive {
        keep_alive(stream, keepalive);
    }
    let mut place = None;
    if let Some(limit) = arrival.limit {
        place = worker.gateway.places.take(client.at, limit);
        if place.is_none() {
            tracing::debug!(src = %client.address, port = client.at.port, reason = "too many", "connection");
            tokio::select! {
                () = worker.cut.cancelled() => {}
                () = worker.gateway.places.turn_away(limit) => {}
            }
            return None;
        }
    }
    let Some(from) = arrival.from_proxies else { return Some(place) };
    let read = tokio::select! {
        () = worker.cut.cancelled() => return None,
        read = timeout(HANDSHAKE, proxied::read(stream, from)) => read,
    };
    match read {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(addresses))) => (client.address, client.local) = (addresses.source(), addresses.destination()),
        Ok(Err(error)) => {
            tracing::debug!(src = %client.address, port = client.at.port, %error, "connection");
            return None;
        }
        Err(_) => {
            tracing::debug!(src = %client.address, port = client.at.port, reason = "too slow", "PROXY header");
            return None;
        }
    }
    Some(place)
}

/// Shakes hands, and then serves what the listener of the handshake is for.
async fn secure(worker: Arc<Worker>, stream: TcpStream, client: Client, room: Room, stop: CancellationToken) {
    let handshake = timeout(HANDSHAKE, handshake::open(&worker, stream, client.at));
    let opened = tokio::select! {
        () = worker.cut.cancelled() => return,
        opened = Box::pin(handshake) => opened,
    };
    let (routing, cut) = (&worker.gateway.routing, &worker.cut);
    match opened {
        Ok(Ok(Opened::Http(stream, listener))) => {
            let clients = listener.clients.clone();
            let client = Client { tls: Some(listener), ..client };
            Box::pin(speak(worker, (stream, room), client, clients, stop)).await;
        }
        Ok(Ok(Opened::Terminated(stream, rule, listener))) => {
            let terms = Terms { clients: listener.clients.clone(), cut };
            Box::pin(stream::pass(routing, &rule, (&client, stream), Vec::new(), &terms)).await;
        }
        Ok(Ok(Opened::Through { stream, hello, rule, listener })) => {
            let terms = Terms { clients: listener.clients.clone(), cut };
            Box::pin(stream::pass(routing, &rule, (&client, stream), hello, &terms)).await;
        }
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(src = %client.address, port = client.at.port, %error, cause, "TLS handshake");
        }
        Err(_) => tracing::debug!(src = %client.address, port = client.at.port, reason = "too slow", "TLS handshake"),
    }
}

/// Serves HTTP, by the settings of `clients` where there are any.
async fn speak<S>(
    worker: Arc<Worker>,
    (stream, room): (S, Room),
    client: Client,
    clients: Option<Arc<ClientSettings>>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = clients.as_ref().map(|clients| &clients.connection);
    let idle = limits.and_then(|limits| limits.idle).unwrap_or(IDLE);
    let watch = Watch::new(clock::instant(), idle);
    let stream = Watched { stream, watch: watch.clone(), _room: room };
    let alternative = worker.http3.alternative(&worker.gateway.routing.table.load(), &client);
    let (source, client) = (client.address, Arc::new(client));
    let ration = Ration::new(limits.and_then(|limits| limits.requests));
    let service = service_fn(|mut request: Request<Incoming>| {
        if request.method() == Method::CONNECT {
            // Over HTTP/2 an upgraded stream outlives its answer, and the connection is not idle for as long.
            request.extensions_mut().insert(Hold::new(watch.begin()));
        }
        let request = Box::new(request.map(ClientBody::Http));
        let (worker, client, in_flight) = (worker.clone(), client.clone(), Unanswered::new(watch.begin()));
        let alternative = alternative.clone();
        let says_goodbye = ration.is_spent_by_another() && request.version() < Version::HTTP_2;
        async move {
            let mut response = handle(&worker, request, client, in_flight).await;
            advertise(&mut response, alternative.as_ref());
            if says_goodbye && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let own = limits.map(super::builder);
    let builder = own.as_ref().unwrap_or(&worker.builder);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let goodbye = worker.goodbye.load_full();
    let over = over((&stop, &goodbye), limits.and_then(|limits| limits.duration), &ration);
    let mut outside = Outside::new(&worker.cut, over, (&watch, TICK.min(idle)));
    loop {
        let said = tokio::select! {
            biased;
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(src = %source, %error, "connection");
                }
                return;
            }
            said = outside.next() => said,
        };
        match said {
            Said::Goodbye => connection.as_mut().graceful_shutdown(),
            Said::End(reason) => {
                tracing::debug!(src = %source, ?reason, "connection given up");
                return;
            }
        }
    }
}

/// What a connection does not see itself. Each part is polled when it was woken, not with each of the connection's events.
struct Outside<'a> {
    told: FuturesUnordered<BoxFuture<'a, Told>>,
    watch: &'a Watch,
    tick: Duration,
    is_finishing: bool,
}

enum Told {
    Cut,
    Over,
    Tick,
}

/// What is said to a connection.
enum Said {
    /// It ends after what it is doing.
    Goodbye,
    /// It ends now, for this reason if not because the worker ends.
    End(Option<Overdue>),
}

impl<'a> Outside<'a> {
    fn new(
        cut: &'a CancellationToken,
        over: impl Future<Output = ()> + Send + 'a,
        (watch, tick): (&'a Watch, Duration),
    ) -> Self {
        let told = [cut.cancelled().map(|()| Told::Cut).boxed(), over.map(|()| Told::Over).boxed()];
        let mut outside = Self { told: told.into_iter().collect(), watch, tick, is_finishing: false };
        outside.wait();
        outside
    }

    fn wait(&mut self) {
        self.told.push(sleep(self.tick).map(|()| Told::Tick).boxed());
    }

    async fn next(&mut self) -> Said {
        loop {
            match self.told.next().await {
                Some(Told::Cut) | None => return Said::End(None),
                Some(Told::Over) => return Said::Goodbye,
                Some(Told::Tick) => self.wait(),
            }
            match self.watch.overdue(clock::instant()) {
                None => {}
                // Idle connections are said goodbye to; whoever does not answer is gone a tick later.
                Some(Overdue::Idle) if !self.is_finishing => {
                    self.is_finishing = true;
                    return Said::Goodbye;
                }
                Some(reason) => return Said::End(Some(reason)),
            }
        }
    }
}

/// Until a connection is to begin nothing more: its port goes, or the relay does, it has lived for its time, or it has had
/// its requests.
pub(super) async fn over(
    (stop, goodbye): (&CancellationToken, &CancellationToken),
    duration: Option<Duration>,
    ration: &Ration,
) {
    let age = async {
        match duration {
            Some(limit) => sleep(limit).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = goodbye.cancelled() => {}
        () = age => {}
        () = ration.spent.notified() => {}
    }
}

/// How many requests a connection carries.
#[derive(Debug)]
pub(super) struct Ration {
    limit: Option<u32>,
    used: AtomicU32,
    /// The last one has begun.
    spent: Notify,
}

impl Ration {
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { limit, used: AtomicU32::new(0), spent: Notify::new() }
    }

    /// Counts a request; says whether it is the last one, or one too many already.
    pub(super) fn is_spent_by_another(&self) -> bool {
        let is_last = self.limit.is_some_and(|limit| self.used.fetch_add(1, Relaxed).saturating_add(1) >= limit);
        if is_last {
            self.spent.notify_one();
        }
        is_last
    }
}

async fn handle(
    worker: &Worker,
    request: Box<Request<ClientBody>>,
    client: Arc<Client>,
    in_flight: Unanswered,
) -> Response<CountedBody> {
    let response = worker.proxy.handle(request, &client).await;
    response.map(|body| CountedBody { body, _in_flight: in_flight.answered() })
}

/// A response's body that keeps its request in flight until it has passed.
#[derive(Debug)]
struct CountedBody {
    body: ResponseBody,
    _in_flight: Option<InFlight>,
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
