//! One client's connection from the handshake to its end.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    handshake::{self, Opened},
    http3::alternative::advertise,
    proxied,
    watch::{InFlight, Overdue, TICK, Unanswered, Watch, Watched},
};
use crate::{
    clock,
    proxy::{
        Client, Hold,
        body::{BodyError, ClientBody, ResponseBody},
        stream,
    },
    route::table::Port,
};

/// How long a TLS handshake may take, and before it a PROXY header.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves `stream` until the client is done, a limit is exceeded, or the worker is cut.
pub(super) async fn serve(
    worker: Arc<Worker>,
    mut stream: TcpStream,
    mut client: Client,
    room: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(src = %client.address, %error, "connection");
        return;
    }
    let from_proxies = worker.gateway.routing.table.load().from_proxies(client.at);
    if let Some(from) = from_proxies {
        let read = tokio::select! {
            () = worker.cut.cancelled() => return,
            read = timeout(HANDSHAKE, proxied::read(&mut stream, from)) => read,
        };
        match read {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(addresses))) => {
                (client.address, client.local) = (addresses.source(), addresses.destination());
            }
            Ok(Err(error)) => {
                tracing::debug!(src = %client.address, port = client.at.port, %error, "connection");
                return;
            }
            Err(_) => {
                tracing::debug!(src = %client.address, port = client.at.port, reason = "too slow", "PROXY header");
                return;
            }
        }
    }
    let rule = match worker.gateway.routing.table.load().port(client.at) {
        None => return,
        Some(Port::Tls(_)) => return secure(worker, stream, client, room, stop).await,
        Some(Port::Stream(rule)) => Some(rule.clone()),
        Some(Port::Http(_)) => None,
    };
    match rule {
        None => Box::pin(speak(worker, stream, client, room, stop)).await,
        Some(None) => stream::reset(&stream),
        Some(Some(rule)) => {
            Box::pin(stream::pass(&worker.gateway.routing, &rule, (&client, stream), Vec::new(), &worker.cut)).await;
        }
    }
}

/// Shakes hands, and then serves what the listener of the handshake is for.
async fn secure(
    worker: Arc<Worker>,
    stream: TcpStream,
    client: Client,
    room: OwnedSemaphorePermit,
    stop: CancellationToken,
) {
    let handshake = timeout(HANDSHAKE, handshake::open(&worker, stream, client.at));
    let opened = tokio::select! {
        () = worker.cut.cancelled() => return,
        opened = Box::pin(handshake) => opened,
    };
    let (routing, cut) = (&worker.gateway.routing, &worker.cut);
    match opened {
        Ok(Ok(Opened::Http(stream, listener))) => {
            let client = Client { tls: Some(listener), ..client };
            Box::pin(speak(worker, stream, client, room, stop)).await;
        }
        Ok(Ok(Opened::Terminated(stream, rule))) => {
            Box::pin(stream::pass(routing, &rule, (&client, stream), Vec::new(), cut)).await;
        }
        Ok(Ok(Opened::Through { stream, hello, rule })) => {
            Box::pin(stream::pass(routing, &rule, (&client, stream), hello, cut)).await;
        }
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(src = %client.address, port = client.at.port, %error, cause, "TLS handshake");
        }
        Err(_) => tracing::debug!(src = %client.address, port = client.at.port, reason = "too slow", "TLS handshake"),
    }
}

async fn speak<S>(worker: Arc<Worker>, stream: S, client: Client, room: OwnedSemaphorePermit, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = Watch::new(clock::instant());
    let stream = Watched { stream, watch: watch.clone(), _room: room };
    let alternative = worker.http3.alternative(&worker.gateway.routing.table.load(), &client);
    let service = service_fn(|mut request: Request<Incoming>| {
        if request.method() == Method::CONNECT {
            // Over HTTP/2 an upgraded stream outlives its answer, and the connection is not idle for as long.
            request.extensions_mut().insert(Hold::new(watch.begin()));
        }
        let (worker, client, in_flight) = (worker.clone(), client.clone(), Unanswered::new(watch.begin()));
        let alternative = alternative.clone();
        async move {
            let mut response = handle(&worker, request, client, in_flight).await;
            advertise(&mut response, alternative.as_ref());
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(worker.builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut finishing = false;
    let mut stopping = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(src = %client.address, %error, "connection");
                }
                return;
            }
            () = worker.cut.cancelled() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep(TICK) => match watch.overdue(clock::instant()) {
                None => {}
                // Idle connections are said goodbye to; whoever does not answer is gone a tick later.
                Some(Overdue::Idle) if !finishing => {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
                Some(reason) => {
                    tracing::debug!(src = %client.address, ?reason, "connection given up");
                    return;
                }
            },
        }
    }
}

async fn handle(
    worker: &Worker,
    request: Request<Incoming>,
    client: Client,
    in_flight: Unanswered,
) -> Response<CountedBody> {
    let response = worker.proxy.handle(request.map(ClientBody::Http), &client).await;
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
