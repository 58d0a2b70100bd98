//! What the service answers, by path.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

use super::State;
use crate::{
    client::{Body, digest, discard, full, pieces, zeros},
    digest::{Pieces, Sha256},
};

/// One request or WebSocket that is open now.
struct Open(Arc<State>);

impl Open {
    fn count(state: &Arc<State>) -> Self {
        state.open.send_modify(|open| *open += 1);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

pub(super) async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, Infallible> {
    let open = Open::count(&state);
    state.requests.send_modify(|count| *count += 1);
    let path = request.uri().path().to_owned();
    let (what, argument) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let number = argument.parse().unwrap_or(0);
    Ok(match what {
        "name" => Response::new(full(state.name.clone())),
        "head" => Response::new(full(describe(&request))),
        "echo" => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
        "bytes" => sized(number),
        "digest" => match digest(request.into_body()).await {
            Ok(digest) => Response::new(full(digest)),
            Err(error) => plain(StatusCode::BAD_REQUEST, error.to_string()),
        },
        "zeros" => {
            let mut response = Response::new(zeros(number));
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(number));
            response
        }
        "sink" => match discard(request.into_body()).await {
            Ok(length) => Response::new(full(length.to_string())),
            Err(error) => plain(StatusCode::BAD_REQUEST, error.to_string()),
        },
        "events" => events(number, "text/event-stream", state),
        "chunks" => events(number, "application/octet-stream", state),
        "trailers" => trailers(),
        "hold" => {
            let mut released = state.released.subscribe();
            // The sender lives in `state`, which we hold.
            let _ = released.wait_for(|&released| released).await;
            Response::new(full(state.name.clone()))
        }
        "websocket" => upgrade(request, |upgraded| echo_messages(upgraded, open)),
        "raw" => upgrade(request, |upgraded| digest_raw(upgraded, open)),
        _ => plain(StatusCode::NOT_FOUND, format!("upstream {} has no {path}", state.name)),
    })
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

/// The request's line and fields, one a line.
fn describe(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

fn sized(length: u64) -> Response<Body> {
    let mut response = Response::new(pieces(Pieces::of(length)));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// `count` events, each written only when the test allows it.
fn events(count: u64, media_type: &'static str, state: Arc<State>) -> Response<Body> {
    let events = stream::unfold(0, move |at| {
        let state = Arc::clone(&state);
        async move {
            if at == count {
                return None;
            }
            state.events.acquire().await.ok()?.forget();
            Some((Ok(Frame::data(Bytes::from(format!("data: {at}\n\n")))), at + 1))
        }
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn trailers() -> Response<Body> {
    let mut last = HeaderMap::new();
    last.insert("grpc-status", HeaderValue::from_static("0"));
    last.insert("x-checksum", HeaderValue::from_static("abc"));
    let frames = [Ok(Frame::data(Bytes::from_static(b"a body"))), Ok(Frame::trailers(last))];
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("grpc-status, x-checksum"));
    response
}

fn upgrade<F>(mut request: Request<Incoming>, then: impl FnOnce(Upgraded) -> F + Send + 'static) -> Response<Body>
where
    F: Future<Output = ()> + Send,
{
    let wants = request.headers().get(header::UPGRADE).is_some_and(|value| value == "websocket");
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).filter(|_| wants) else {
        return plain(StatusCode::BAD_REQUEST, "not an upgrade to websocket".to_owned());
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade: OnUpgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            then(upgraded).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .body(full(""))
        .expect("the response is well formed")
}

async fn echo_messages(upgraded: Upgraded, open: Open) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
    drop(open);
}

/// Reads to the end, and only then answers, on the half that is still open: the digest, then generated bytes.
async fn digest_raw(upgraded: Upgraded, open: Open) {
    let mut io = TokioIo::new(upgraded);
    let mut sha = Sha256::default();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = io.read(&mut buffer).await {
        sha.update(&buffer[..count]);
    }
    // A peer that is gone shows in the test's own read.
    let _ = io.write_all(format!("{}\n", sha.finish()).as_bytes()).await;
    for piece in Pieces::of(300_000) {
        let _ = io.write_all(&piece).await;
    }
    let _ = io.shutdown().await;
    drop(open);
}
