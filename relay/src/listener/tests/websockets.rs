//! WebSockets over HTTP/2 by extended CONNECT, and backends for those over any version.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::ext::Protocol as Extended;
use tokio::sync::oneshot;

use super::*;
use crate::proxy::{Client, Hold, body::ClientBody};

/// What a backend does with a wish for a WebSocket.
pub(super) enum Backend {
    /// Echoes bytes until the client ends its half, then ends its own.
    Echo,
    /// Answers with a status.
    Refuse(u16),
    /// Switches without having read the key.
    WrongProof,
    /// Says when the connection is gone.
    Watch(oneshot::Sender<()>),
}

/// Serves one connection.
pub(super) async fn backend(kind: Backend) -> SocketAddr {
    let (upstream, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
        let fields = head.to_lowercase();
        for field in ["upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n"] {
            assert!(fields.contains(field), "{head}");
        }
        let proof = if matches!(kind, Backend::WrongProof) { "x".to_owned() } else { proof(&head) };
        let switch = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {proof}\r\n\r\n"
        );
        if let Backend::Refuse(status) = kind {
            let refusal = format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno");
            return stream.write_all(refusal.as_bytes()).await.unwrap();
        }
        stream.write_all(switch.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        if let Backend::Watch(gone) = kind {
            let _ = gone.send(());
        }
    });
    address
}

/// What RFC 6455 §4.2.2 asks for, computed as the RFC describes it.
fn proof(head: &str) -> String {
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("sec-websocket-key").then_some(value)
    });
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.expect("a key"));
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    STANDARD.encode(hash)
}

fn connect(protocol: &'static str) -> Request<Full<Bytes>> {
    let request = Request::connect("http://a.com/chat").extension(Extended::from_static(protocol));
    request.header("sec-websocket-version", "13").body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_websocket_over_http2_echoes_until_each_half_is_closed() {
    let gate = Gate::open(&[("a.com", to_address(backend(Backend::Echo).await))]);
    let mut sender = gate.http2().await;
    sender.ready().await.unwrap();
    let mut response = sender.send_request(connect("websocket")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept") && !response.headers().contains_key("upgrade"));
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    stream.write_all(b"one ").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"one ");
    stream.write_all(b"two").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "two");
}

#[tokio::test]
async fn refusals_over_http2_are_ordinary_answers_and_never_successes() {
    for (kind, status) in [(Backend::Refuse(403), 403), (Backend::Refuse(200), 502), (Backend::WrongProof, 502)] {
        let gate = Gate::open(&[("a.com", to_address(backend(kind).await))]);
        let mut sender = gate.http2().await;
        sender.ready().await.unwrap();
        let (answered, _) = told(sender.send_request(connect("websocket")).await.unwrap()).await;
        assert_eq!(answered, status);
    }
}

#[tokio::test]
async fn other_protocols_over_http2_are_not_served() {
    let gate = Gate::open(&[("a.com", to_address(echo().await))]);
    let mut sender = gate.http2().await;
    sender.ready().await.unwrap();
    let (status, text) = told(sender.send_request(connect("connect-udp")).await.unwrap()).await;
    assert_eq!(status, 501, "{text}");
}

#[tokio::test]
async fn what_the_listener_holds_for_an_upgraded_connection_lives_as_long_as_it() {
    let gate = Gate::open(&[("a.com", to_address(backend(Backend::Echo).await))]);
    let ((hold, mut held), (mut ours, theirs)) = (oneshot::channel::<()>(), tokio::io::duplex(64));
    let client = Client { address: gate.address, local: gate.address, at: ListenAddress::shared(80), tls: None };
    let mut request = connect("websocket").map(|_| ClientBody::Switched(theirs));
    *request.version_mut() = http::Version::HTTP_2;
    request.extensions_mut().insert(Hold::new(hold));
    assert_eq!(gate.worker.proxy.handle(Box::new(request), &Arc::new(client)).await.status(), 200);
    ours.write_all(b"one").await.unwrap();
    ours.read_exact(&mut [0; 3]).await.unwrap();
    assert_eq!(held.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    drop(ours);
    held.await.unwrap_err();
}
