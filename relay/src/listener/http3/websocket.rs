//! WebSockets over HTTP/3 (RFC 9220): once the backend has agreed, the stream's DATA are the bytes of the connection.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, split},
    time::timeout,
};
use underpass_shared::quic::http3::ServerReceive;

use super::answer::{Answer, Unsent};
use crate::{listener::watch::WRITE, proxy::body::BodyError};

/// Bytes held per direction between the client's stream and the backend's.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// Carries bytes between the client and `backend` until both directions have ended.
///
/// When the backend has ended its direction, the client has a minute to end its own.
///
/// # Errors
/// What broke; the client's stream is reset then.
pub(super) async fn carry(answer: Answer, receive: ServerReceive, backend: DuplexStream) -> Result<(), Unsent> {
    let (from_backend, to_backend) = split(backend);
    let mut up = Box::pin(upload(receive, to_backend));
    let mut down = Box::pin(download(answer, from_backend));
    tokio::select! {
        ended = &mut up => {
            ended?;
            down.await
        }
        ended = &mut down => {
            ended?;
            // A client that never ends its direction is told to stop when this is dropped.
            timeout(WRITE, up).await.unwrap_or(Ok(()))
        }
    }
}

async fn upload(mut receive: ServerReceive, mut backend: WriteHalf<DuplexStream>) -> Result<(), Unsent> {
    let closed = |error: std::io::Error| Unsent::Body(BodyError::Lost(error.to_string()));
    while let Some(mut data) = receive.recv_data().await? {
        let mut data: Bytes = data.copy_to_bytes(data.remaining());
        backend.write_all_buf(&mut data).await.map_err(closed)?;
    }
    backend.shutdown().await.map_err(closed)
}

async fn download(mut answer: Answer, mut backend: ReadHalf<DuplexStream>) -> Result<(), Unsent> {
    loop {
        let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
        let read = backend.read_buf(&mut buffer).await;
        match read.map_err(|error| BodyError::Lost(error.to_string()))? {
            0 => return answer.end().await,
            _ => answer.data(buffer.freeze()).await?,
        }
    }
}
