//! A WebSocket client and the gateway's view of an upgrade (RFC 6455).

use std::net::SocketAddr;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::eventually::{PATIENCE, within};

/// The longest response head that [`upgrade`] reads, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// An open WebSocket through a gateway.
#[derive(Debug)]
pub struct WebSocket(WebSocketStream<TcpStream>);

impl WebSocket {
    /// # Errors
    /// When the gateway or the upstream refuses the upgrade.
    pub async fn open(gateway: SocketAddr, host: &str, path: &str) -> anyhow::Result<Self> {
        let open = async {
            let tcp = TcpStream::connect(gateway).await?;
            anyhow::Ok(Self(client_async(format!("ws://{host}{path}"), tcp).await?.0))
        };
        within(PATIENCE, "a WebSocket opens", open).await
    }

    /// Sends a message and waits for the next one.
    ///
    /// # Errors
    /// When the socket closes instead.
    pub async fn exchange(&mut self, message: Message) -> anyhow::Result<Message> {
        self.0.send(message).await?;
        let next = within(PATIENCE, "a WebSocket message comes back", self.0.next()).await;
        Ok(next.context("the WebSocket closed")??)
    }

    /// Closes it and waits until the other side has closed too.
    ///
    /// # Errors
    /// When it ends in another way.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.0.close(None).await?;
        while let Some(message) = within(PATIENCE, "a WebSocket closes", self.0.next()).await {
            message?;
        }
        Ok(())
    }
}

/// Asks for an upgrade by hand, checks the 101, and gives the bare connection: the test owns every byte after it.
///
/// # Errors
/// When the answer is not 101.
pub async fn upgrade(gateway: SocketAddr, host: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut tcp = TcpStream::connect(gateway).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).await?;
    let head = within(PATIENCE, "the answer to an upgrade", read_head(&mut tcp)).await?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 101"), "the gateway answered {head}");
    Ok(tcp)
}

/// Reads up to the empty line, byte by byte, so that nothing behind it is swallowed.
async fn read_head(tcp: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < HEAD_BYTES_MAX, "the head of the answer does not end");
        head.push(tcp.read_u8().await.with_context(|| String::from_utf8_lossy(&head).into_owned())?);
    }
    Ok(String::from_utf8(head)?)
}
