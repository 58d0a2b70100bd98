//! A service that closes its connection after each answer without having said so, as idle time-outs do.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// The longest request head it reads, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A running service of that kind. Stops when dropped.
#[derive(Debug)]
pub struct Abrupt {
    address: SocketAddr,
    listener: AbortHandle,
}

impl Drop for Abrupt {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Abrupt {
    /// # Panics
    /// When loopback has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let listener = tokio::spawn(accept(listener)).abort_handle();
        Self { address, listener }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(answer_once(tcp));
    }
}

async fn answer_once(mut tcp: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        let Ok(byte) = tcp.read_u8().await else { return };
        head.push(byte);
    }
    // Whoever asked may be gone by now.
    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabrupt").await;
}
