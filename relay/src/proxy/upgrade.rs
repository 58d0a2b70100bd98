//! WebSockets: the only upgrade there is, and only after the backend's 101 (RFC 6455 §4, RFC 9110 §7.8).
//!
//! Over HTTP/2 and HTTP/3 a client asks by extended CONNECT (RFC 8441, RFC 9220). To the backend it is always the upgrade
//! of HTTP/1.1, so that the handshake's key is then ours, and its proof is looked at here.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::{body::Body, ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, copy_bidirectional_with_sizes},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::Failure,
    body::{ClientBody, Meter},
    dial::Transport,
    headers::has_token,
    record::Record,
    request::Refusal,
};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// How long the client's side may take to switch once 101 has been seen.
const SWITCH: Duration = Duration::from_secs(10);

/// How long an upgraded connection may be silent in both directions.
///
/// WebSocket libraries ping every 20 to 60 seconds; what is silent for longer than this is gone.
const SILENCE: Duration = Duration::from_secs(300);

/// Bytes held per direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a server appends to the key before it hashes it (RFC 6455 §4.2.2).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Something of the listener's that is to live as long as an upgraded connection; an extension of the request.
#[derive(Clone)]
pub struct Hold(Arc<dyn Any + Send + Sync>);

impl Hold {
    #[must_use]
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(held))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({:?})", self.0.type_id())
    }
}

/// A client's wish for a WebSocket, and its end of one.
pub(super) struct Upgrade {
    client: ClientEnd,
    /// The proof that the backend owes us; none where the client made the key and looks itself.
    accept: Option<HeaderValue>,
    hold: Option<Hold>,
}

enum ClientEnd {
    Hyper(OnUpgrade),
    Stream(DuplexStream),
}

/// Takes the wish for a WebSocket out of `request`; an extended CONNECT becomes the GET that it stands for.
///
/// Every other upgrade is not seen at all (h2c would smuggle).
///
/// # Errors
/// [`Refusal::Protocol`]: an extended CONNECT for anything else.
pub(super) fn take(request: &mut Request<ClientBody>) -> Result<Option<Upgrade>, Refusal> {
    let hold = request.extensions_mut().remove::<Hold>();
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else {
        let upgrade = |client| Upgrade { client: ClientEnd::Hyper(client), accept: None, hold };
        return Ok(is_wanted(request).then(|| upgrade(hyper::upgrade::on(request))));
    };
    if *request.method() != Method::CONNECT || protocol.as_str() != "websocket" {
        return Err(Refusal::Protocol);
    }
    let client = match std::mem::replace(request.body_mut(), ClientBody::Empty) {
        ClientBody::Switched(stream) => ClientEnd::Stream(stream),
        ClientBody::Http(_) | ClientBody::Empty | ClientBody::Other(_) | ClientBody::Timed(_) => {
            ClientEnd::Hyper(hyper::upgrade::on(&mut *request))
        }
    };
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    let accept = accept(key.as_bytes());
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is visible ASCII"));
    Ok(Some(Upgrade { client, accept: Some(accept), hold }))
}

/// The proof that a server has read `key`.
fn accept(key: &[u8]) -> HeaderValue {
    let proof = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    HeaderValue::from_str(&STANDARD.encode(proof)).expect("base64 is visible ASCII")
}

fn is_wanted(request: &Request<ClientBody>) -> bool {
    let mut upgrades = request.headers().get_all(header::UPGRADE).iter();
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && is_websocket(upgrades.next())
        && upgrades.next().is_none()
        && request.headers().get_all(header::CONNECTION).iter().any(|value| has_token(value, "upgrade"))
}

impl Upgrade {
    /// Whether the backend's 101 switches to what was asked for.
    ///
    /// # Errors
    /// [`Failure::UnaskedUpgrade`], [`Failure::Handshake`].
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if !is_websocket(headers.get(header::UPGRADE)) {
            return Err(Failure::UnaskedUpgrade);
        }
        match &self.accept {
            Some(accept) if headers.get(header::SEC_WEBSOCKET_ACCEPT) != Some(accept) => Err(Failure::Handshake),
            _ => Ok(()),
        }
    }

    /// Whether the answer to a refused wish can be passed on: a success would tell the client that it was granted.
    pub(super) fn may_refuse_with(&self, status: StatusCode) -> bool {
        self.accept.is_none() || !status.is_success()
    }

    /// Makes the backend's 101 what the client waits for: the same, or 200 over HTTP/2 and HTTP/3.
    pub(super) fn answer(&self, status: &mut StatusCode, headers: &mut HeaderMap) {
        if self.accept.is_none() {
            return ask(headers);
        }
        *status = StatusCode::OK;
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        headers.remove(header::CONTENT_LENGTH);
    }
}

fn is_websocket(value: Option<&HeaderValue>) -> bool {
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Writes the hop-by-hop fields that were stripped, for the next hop.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::UPGRADE, WEBSOCKET);
    headers.insert(header::CONNECTION, UPGRADE);
}

/// Copies bytes both ways, from the backend first those that are `ahead`, until both ends are done, silence lasts too long, or the worker is cut.
pub(super) async fn join(
    upgrade: Upgrade,
    (backend, ahead): (Transport, Bytes),
    mut record: Record,
    cut: CancellationToken,
) {
    let _hold = upgrade.hold;
    let client = match timeout(SWITCH, upgrade.client.switch()).await {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return record.broke(&error),
        Err(elapsed) => return record.broke(&elapsed),
    };
    let meter = record.meter();
    let mut client = Metered { io: client, meter: meter.clone() };
    let mut backend = Metered { io: Box::new(backend), meter: Arc::<Meter>::default() };
    let downloaded = backend.meter.clone();
    let copied = {
        let copy = async {
            client.write_all(&ahead).await?;
            downloaded.add(ahead.len() as u64);
            copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER_BYTES, BUFFER_BYTES).await
        };
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

impl ClientEnd {
    async fn switch(self) -> Result<Box<dyn Io>, hyper::Error> {
        Ok(match self {
            Self::Hyper(upgrade) => Box::new(TokioIo::new(upgrade.await?)),
            Self::Stream(stream) => Box::new(stream),
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An upgraded connection that counts what is read from it.
struct Metered {
    io: Box<dyn Io>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_extended_connect_becomes_a_get_with_a_key_of_ours() {
        let connect = |protocol| {
            let request = Request::connect("https://a.com/chat").extension(Protocol::from_static(protocol));
            request.header("sec-websocket-key", "theirs").header("content-length", "0").body(ClientBody::Empty).unwrap()
        };
        let mut request = connect("websocket");
        let upgrade = take(&mut request).unwrap().unwrap();
        assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/chat"));
        let key = request.headers()["sec-websocket-key"].clone();
        assert_eq!(STANDARD.decode(&key).unwrap().len(), 16);
        assert_eq!(upgrade.accept, Some(accept(key.as_bytes())));
        assert!(!request.headers().contains_key("content-length"));
        assert!(upgrade.may_refuse_with(StatusCode::FORBIDDEN) && !upgrade.may_refuse_with(StatusCode::OK));
        assert!(matches!(take(&mut connect("connect-udp")), Err(Refusal::Protocol)));
    }
}
