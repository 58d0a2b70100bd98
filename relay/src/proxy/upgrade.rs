//! WebSockets over HTTP/1.1: the only upgrade there is, and only after the backend's 101 (RFC 6455 §4, RFC 9110 §7.8).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use hyper::{
    body::{Body, Incoming},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    body::{ClientBody, Meter},
    headers::has_token,
    record::Record,
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// How long both sides may take to switch once 101 has been seen.
const SWITCH: Duration = Duration::from_secs(10);

/// How long an upgraded connection may be silent in both directions.
///
/// WebSocket libraries ping every 20 to 60 seconds; what is silent for longer than this is gone.
const SILENCE: Duration = Duration::from_secs(300);

/// Bytes held per direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Whether the request asks for a WebSocket. Every other upgrade is not seen at all (h2c would smuggle).
pub(super) fn wanted(request: &Request<ClientBody>) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && is_websocket(upgrades.next())
        && upgrades.next().is_none()
        && request.headers().get_all(header::CONNECTION).iter().any(|value| has_token(value, "upgrade"))
}

/// Whether the backend's 101 switches to what was asked for.
pub(super) fn granted(response: &Response<Incoming>) -> bool {
    is_websocket(response.headers().get(header::UPGRADE))
}

fn is_websocket(value: Option<&HeaderValue>) -> bool {
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Writes the hop-by-hop fields that were stripped, for the next hop.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, WEBSOCKET);
    headers.insert(header::CONNECTION, UPGRADE);
}

/// Copies bytes both ways until both ends are done, silence lasts too long, or the worker is cut.
pub(super) async fn join(client: OnUpgrade, backend: OnUpgrade, mut record: Record, cut: CancellationToken) {
    record.answered(http::StatusCode::SWITCHING_PROTOCOLS);
    let both = async { tokio::try_join!(client, backend) };
    let (client, backend) = match timeout(SWITCH, both).await {
        Ok(Ok(ends)) => ends,
        Ok(Err(error)) => return record.broke(&error),
        Err(elapsed) => return record.broke(&elapsed),
    };
    let meter = record.meter();
    let mut client = Metered { io: TokioIo::new(client), meter: meter.clone() };
    let mut backend = Metered { io: TokioIo::new(backend), meter: Arc::<Meter>::default() };
    let downloaded = backend.meter.clone();
    let copied = {
        let copy = copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER_BYTES, BUFFER_BYTES);
        tokio::pin!(copy);
        loop {
            let before = (meter.bytes(), downloaded.bytes());
            tokio::select! {
                done = &mut copy => break done.map(drop),
                () = cut.cancelled() => break Ok(()),
                () = sleep(SILENCE) => if before == (meter.bytes(), downloaded.bytes()) { break Ok(()) },
            }
        }
    };
    record.sent(downloaded.bytes());
    if let Err(error) = copied {
        record.broke(&error);
    }
}

/// An upgraded connection that counts what is read from it.
struct Metered {
    io: TokioIo<Upgraded>,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.meter.add((buf.filled().len() - before) as u64);
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
