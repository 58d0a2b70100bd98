//! Bodies on their way through: frames pass one by one as they come, trailers too; nothing is gathered.
//!
//! At most one frame is held per direction; what waits beyond it waits in the peers' windows.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{record::Record, upstream::Lease};

/// How long a client may keep a backend waiting for the next part of a body.
///
/// Long enough for a phone that changes networks, short enough that slow bodies (RUDY) do not hold backends for ever.
const UPLOAD_IDLE: Duration = Duration::from_secs(60);

/// How long a backend may be silent within a response.
///
/// Event streams are often silent for a minute; Envoy's default for streams is five minutes as well.
const DOWNLOAD_IDLE: Duration = Duration::from_secs(300);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("no bytes came for {} seconds", .0.as_secs())]
    Stalled(Duration),
    #[error("the sender broke off")]
    Broken(#[from] hyper::Error),
}

/// Counts a request's body while it passes.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    stalled: AtomicBool,
}

impl Meter {
    /// Bytes of the body that have passed so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether the body stopped coming.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }
}

/// Ends a body that stops moving; armed only while something is waited for.
#[derive(Debug)]
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Stall {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, waiting: false }
    }

    /// Passes `frame` on, or turns too long a wait into [`BodyError::Stalled`].
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        frame: Poll<Option<Result<Frame<Bytes>, hyper::Error>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = frame {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        if !self.waiting {
            timer.as_mut().set(sleep(self.limit));
            self.waiting = true;
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Stalled(self.limit)))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A request's body on its way to the backend.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Stream(Box<Upload>),
}

/// A body that the client is still sending.
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    meter: Arc<Meter>,
    stall: Stall,
}

impl RequestBody {
    pub(super) fn stream(incoming: Incoming, meter: Arc<Meter>) -> Self {
        Self::Stream(Box::new(Upload { incoming, meter, stall: Stall::new(UPLOAD_IDLE) }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Stream(upload) = &mut *self else { return Poll::Ready(None) };
        let frame = Pin::new(&mut upload.incoming).poll_frame(cx);
        let frame = upload.stall.watch(cx, frame);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => upload.meter.add(data_bytes(frame)),
            Poll::Ready(Some(Err(BodyError::Stalled(_)))) => upload.meter.stalled.store(true, Relaxed),
            Poll::Ready(Some(Err(BodyError::Broken(_))) | None) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(upload) => upload.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(upload) => upload.incoming.size_hint(),
        }
    }
}

fn data_bytes(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.remaining() as u64)
}

/// A response's body on its way to the client, with the record of the request.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Record,
}

#[derive(Debug)]
enum Source {
    Text(Option<Bytes>),
    Stream(Box<Download>),
}

#[derive(Debug)]
struct Download {
    incoming: Incoming,
    stall: Stall,
    /// Goes back to the pool when the body has ended well; dropped before, it closes its connection.
    lease: Option<Lease>,
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self { source: Source::Text(None), record: Record::default() }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self { source: Source::Text(Some(text)), record: Record::default() }
    }

    pub(super) fn stream(incoming: Incoming, lease: Option<Lease>) -> Self {
        let mut download = Download { incoming, stall: Stall::new(DOWNLOAD_IDLE), lease };
        if download.incoming.is_end_stream() {
            download.give_back();
        }
        Self { source: Source::Stream(Box::new(download)), record: Record::default() }
    }

    /// Keeps `record` until the body has passed.
    pub(super) fn recorded(mut self, record: Record) -> Self {
        self.record = record;
        self
    }
}

impl Download {
    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { source, record } = &mut *self;
        let download = match source {
            Source::Text(text) => {
                let text = text.take();
                record.sent(text.as_ref().map_or(0, |text| text.len() as u64));
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Source::Stream(download) => download,
        };
        let frame = Pin::new(&mut download.incoming).poll_frame(cx);
        let frame = download.stall.watch(cx, frame);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                record.sent(data_bytes(frame));
                if download.incoming.is_end_stream() {
                    download.give_back();
                }
            }
            Poll::Ready(Some(Err(error))) => record.broke(error),
            Poll::Ready(None) => download.give_back(),
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Stream(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Stream(download) => download.incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_moving_ends_after_its_limit_and_every_frame_begins_it_anew() {
        let mut stall = Stall::new(UPLOAD_IDLE);
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            let almost = UPLOAD_IDLE - Duration::from_secs(1);
            let silence = poll_fn(|cx| stall.watch(cx, Poll::Pending));
            assert!(tokio::time::timeout(almost, silence).await.is_err(), "the limit is not over yet");
            let frame = poll_fn(|cx| stall.watch(cx, Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))));
            assert!(matches!(frame.await, Some(Ok(_))));
        }
        let stalled = poll_fn(|cx| stall.watch(cx, Poll::Pending)).await;
        assert!(matches!(stalled, Some(Err(BodyError::Stalled(UPLOAD_IDLE)))));
        assert_eq!(start.elapsed().as_secs(), 3 * 59 + 60);
    }
}
