//! `GET /backup`: the whole store as lines, sealed where the store seals, for the deployment's administrators.

use std::{convert::Infallible, io};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{Api, exchange::Done, status::Failure};
use crate::access::User;

/// How much is written before it is sent on, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// How many such pieces wait for a slow reader.
const CHUNKS_MAX: usize = 4;

/// A backup of the store as it is now. One that breaks off lacks its last line, by which readers know that it is whole.
pub(super) async fn answer(api: &Api, user: &User) -> Result<Done, Failure> {
    if !api.guard.owns(user) {
        let message = format!("User \"{}\" does not administrate the deployment: backups hold all projects", user.name);
        return Err(Failure::forbidden(message));
    }
    let snapshot = api.store.backup().await.map_err(|error| Failure::unavailable(error.to_string()))?;
    tracing::info!(target: "audit", user = user.name, "a backup was taken");
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::task::spawn_blocking(move || {
        let out = io::BufWriter::with_capacity(CHUNK_BYTES, Pipe(sender));
        if let Err(error) = snapshot.write(out) {
            tracing::warn!(%error, "a backup was not read to its end");
        }
    });
    let frames = stream::unfold(receiver, async |mut receiver| {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), receiver))
    });
    let lines = HeaderValue::from_static("application/x-ndjson");
    Ok(Done::stream(StreamBody::new(frames).boxed_unsync()).header(header::CONTENT_TYPE, lines))
}

/// The writing end of the answer's body.
struct Pipe(mpsc::Sender<Bytes>);

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
