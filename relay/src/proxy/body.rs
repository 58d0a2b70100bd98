//! Bodies on their way through: frames pass one by one as they come, trailers too; nothing is gathered.
//!
//! At most one frame is held per direction; what waits beyond it waits in the peers' windows.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Sleep, sleep, sleep_until},
};

use super::{http1::Http1Error, record::Record, upstream::Received};
use crate::route::client::Requests;

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
    #[error("it did not come in full within {} seconds", .0.as_secs())]
    Late(Duration),
    #[error("the sender broke off")]
    Broken(#[from] hyper::Error),
    #[error("{0}")]
    Answer(#[from] Http1Error),
    #[error("the sender broke off: {0}")]
    Lost(String),
    #[error("the body is not as long as its head says")]
    Length,
    #[error("the response could not be packed")]
    Packing(#[from] std::io::Error),
    #[error("the response took longer than its route allows")]
    TooLong,
    #[error("the copy of a body fell behind, or was broken off")]
    Behind,
}

impl BodyError {
    /// Whether the sender did not keep to the time.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Stalled(_) | Self::Late(_))
    }
}

/// What follows the head of a client's request, as its listener hands it over.
#[derive(Debug)]
pub enum ClientBody {
    /// Of HTTP/1.1 and HTTP/2.
    Http(Incoming),
    Empty,
    /// Of a protocol that the listener reads itself.
    Other(UnsyncBoxBody<Bytes, BodyError>),
    /// Of a listener that sets times of its own.
    Timed(Box<Timed>),
    /// No body, but the bytes of an extended CONNECT, both ways (RFC 9220), for when the backend agrees.
    Switched(DuplexStream),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::from),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
            Self::Timed(timed) => timed.poll_frame(cx),
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(incoming) => incoming.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
            Self::Timed(timed) => timed.body.is_end_stream(),
            Self::Empty | Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(incoming) => incoming.size_hint(),
            Self::Other(body) => body.size_hint(),
            Self::Timed(timed) => timed.body.size_hint(),
            Self::Empty | Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}

/// A body that must have come in time, and may not stop coming for longer than its listener says.
#[derive(Debug)]
pub struct Timed {
    body: ClientBody,
    /// When all of it must be there, and how long after the head that is.
    whole: Option<(Pin<Box<Sleep>>, Duration)>,
    /// How long it may be silent.
    idle: Option<Duration>,
}

impl ClientBody {
    /// Holds the body of a request that `arrived` then to the times that `clients` have.
    pub(super) fn timed(self, clients: &Requests, arrived: Instant) -> Self {
        if self.is_end_stream() || (clients.received_within.is_none() && clients.idle.is_none()) {
            return self;
        }
        let until = |limit: Duration| (Box::pin(sleep_until((arrived + limit).into())), limit);
        let (whole, idle) = (clients.received_within.map(until), clients.idle);
        Self::Timed(Box::new(Timed { body: self, whole, idle }))
    }

    /// How long the next part may be waited for.
    fn idle(&self) -> Duration {
        match self {
            Self::Timed(timed) => timed.idle.unwrap_or(UPLOAD_IDLE),
            Self::Http(_) | Self::Empty | Self::Other(_) | Self::Switched(_) => UPLOAD_IDLE,
        }
    }
}

impl Timed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((until, limit)) = &mut self.whole
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(BodyError::Late(*limit))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// Counts a request's body while it passes.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    stalled: AtomicBool,
    answered: AtomicBool,
    broken: AtomicBool,
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

    /// Whether the client broke the body off, or sent one that is malformed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// The backend has begun to answer: from then on its silence counts, and not that of a client that only listens, as
    /// in a gRPC stream both ways.
    pub(super) fn answered(&self) {
        self.answered.store(true, Relaxed);
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
    fn watch<E: Into<BodyError>>(
        &mut self,
        cx: &mut Context<'_>,
        frame: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = frame {
            self.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
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
#[derive(Debug, Default)]
pub enum RequestBody {
    #[default]
    Empty,
    /// Gathered, so that it can be sent again.
    Whole(Option<Bytes>),
    Stream(Box<Upload>),
    /// A copy of what a [`RequestBody::Stream`] passes on.
    Copy(mpsc::Receiver<Copied>),
}

/// A body that the client is still sending.
#[derive(Debug)]
pub struct Upload {
    incoming: ClientBody,
    /// What was read of it already.
    ahead: VecDeque<Bytes>,
    meter: Arc<Meter>,
    stall: Stall,
    copies: Vec<mpsc::Sender<Copied>>,
}

/// What a copy of a body is made of.
#[derive(Debug)]
pub enum Copied {
    Data(Bytes),
    /// The body ended well; without it, it was broken off.
    End,
}

/// The parts of a body that a slow copy may be behind; one that is further behind is broken off.
const COPY_PARTS_MAX: usize = 64;

impl RequestBody {
    pub(super) fn stream(incoming: ClientBody, meter: Arc<Meter>) -> Self {
        Self::rest(VecDeque::new(), incoming, meter)
    }

    /// A body of which `ahead` was read already.
    pub(super) fn rest(ahead: VecDeque<Bytes>, incoming: ClientBody, meter: Arc<Meter>) -> Self {
        let stall = Stall::new(incoming.idle());
        Self::Stream(Box::new(Upload { incoming, ahead, meter, stall, copies: Vec::new() }))
    }

    /// Another body of the same content, filled as this one passes. It never holds this one up.
    pub(super) fn copy(&mut self) -> Self {
        match self {
            Self::Empty | Self::Copy(_) => Self::Empty,
            Self::Whole(bytes) => Self::Whole(bytes.clone()),
            Self::Stream(upload) => {
                let (sender, receiver) = mpsc::channel(COPY_PARTS_MAX);
                upload.copies.push(sender);
                Self::Copy(receiver)
            }
        }
    }
}

/// The next part of a body that is read before anything is sent; it may not be waited for longer than any other.
pub(super) async fn next_frame(body: &mut ClientBody) -> Option<Result<Frame<Bytes>, BodyError>> {
    let mut stall = Stall::new(body.idle());
    poll_fn(|cx| {
        let frame = Pin::new(&mut *body).poll_frame(cx);
        stall.watch(cx, frame)
    })
    .await
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match self.ahead.pop_front() {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(part)))),
            None => {
                let frame = Pin::new(&mut self.incoming).poll_frame(cx);
                if self.meter.answered.load(Relaxed) { frame } else { self.stall.watch(cx, frame) }
            }
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.meter.add(data_bytes(frame));
                if let Some(data) = frame.data_ref() {
                    self.copies.retain(|copy| copy.try_send(Copied::Data(data.clone())).is_ok());
                }
                // Whoever reads the body need not ask again after its last frame.
                if self.is_end_stream() {
                    self.end_copies();
                }
            }
            Poll::Ready(None) => self.end_copies(),
            Poll::Ready(Some(Err(error))) => {
                self.copies.clear();
                let fault = if error.is_late() { &self.meter.stalled } else { &self.meter.broken };
                fault.store(true, Relaxed);
            }
            Poll::Pending => {}
        }
        frame
    }

    fn end_copies(&mut self) {
        for copy in self.copies.drain(..) {
            // One that is too far behind to be told is broken off.
            let _ = copy.try_send(Copied::End);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.incoming.is_end_stream()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(upload) => upload.poll(cx),
            Self::Copy(parts) => parts.poll_recv(cx).map(|part| match part {
                Some(Copied::Data(data)) => Some(Ok(Frame::data(data))),
                Some(Copied::End) => None,
                None => Some(Err(BodyError::Behind)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(upload) => upload.is_end_stream(),
            Self::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(upload) if upload.ahead.is_empty() => upload.incoming.size_hint(),
            // The length that the head promises counts.
            Self::Stream(_) | Self::Copy(_) => SizeHint::default(),
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
    /// Another body, changed on its way.
    Other(UnsyncBoxBody<Bytes, BodyError>),
}

#[derive(Debug)]
struct Download {
    incoming: Received,
    stall: Stall,
    /// Why it ends early; told when what came before is on its way.
    broken: Option<BodyError>,
    /// When the whole response must have passed.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(super) fn empty() -> Self {
        Self { source: Source::Text(None), record: Record::default() }
    }

    pub(super) fn text(text: Bytes) -> Self {
        Self { source: Source::Text(Some(text)), record: Record::default() }
    }

    pub(super) fn stream(incoming: Received, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|at| Box::pin(sleep_until(at.into())));
        let download = Download { incoming, stall: Stall::new(DOWNLOAD_IDLE), broken: None, deadline };
        Self { source: Source::Stream(Box::new(download)), record: Record::default() }
    }

    pub(super) fn other(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self { source: Source::Other(UnsyncBoxBody::new(body)), record: Record::default() }
    }

    /// Breaks off when nothing of the response comes for `limit`.
    pub(super) fn may_be_silent_for(&mut self, limit: Duration) {
        if let Source::Stream(download) = &mut self.source {
            download.stall = Stall::new(limit);
        }
    }

    /// What a client that asked with HEAD gets: a text of ours is told the length of, and not sent (RFC 9110 §9.3.2).
    /// A backend that was asked with HEAD has sent nothing.
    pub(super) fn left_out(self) -> (Self, Option<u64>) {
        match self.source {
            Source::Text(text) => {
                (Self { source: Source::Text(None), record: self.record }, text.map(|text| text.len() as u64))
            }
            Source::Stream(_) | Source::Other(_) => (self, None),
        }
    }

    /// Keeps `record` until the body has passed.
    pub(super) fn recorded(mut self, record: Record) -> Self {
        self.record = record;
        self
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
            Source::Other(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                match &frame {
                    Poll::Ready(Some(Ok(frame))) => record.sent(data_bytes(frame)),
                    Poll::Ready(Some(Err(error))) => record.broke(error),
                    Poll::Ready(None) | Poll::Pending => {}
                }
                return frame;
            }
            Source::Stream(download) => download,
        };
        if let Some(broken) = download.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        if let Some(deadline) = &mut download.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            record.broke(&BodyError::TooLong);
            return Poll::Ready(Some(Err(BodyError::TooLong)));
        }
        let frame = Pin::new(&mut download.incoming).poll_frame(cx);
        match download.stall.watch(cx, frame) {
            Poll::Ready(Some(Ok(frame))) => {
                record.sent(data_bytes(&frame));
                Poll::Ready(Some(Ok(frame)))
            }
            // Whoever writes it to the client would throw away with the error what is not flushed yet.
            Poll::Ready(Some(Err(error))) => {
                record.broke(&error);
                download.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            end => end,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Other(body) => body.is_end_stream(),
            Source::Stream(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Other(_) => SizeHint::default(),
            Source::Stream(download) => download.incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{poll, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_moving_ends_after_its_limit_and_every_frame_begins_it_anew() {
        let mut stall = Stall::new(UPLOAD_IDLE);
        let start = tokio::time::Instant::now();
        for _ in 0..3 {
            let almost = UPLOAD_IDLE - Duration::from_secs(1);
            let silence = poll_fn(|cx| stall.watch::<BodyError>(cx, Poll::Pending));
            assert!(tokio::time::timeout(almost, silence).await.is_err(), "the limit is not over yet");
            let frame = poll_fn(|cx| stall.watch::<BodyError>(cx, Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))));
            assert!(matches!(frame.await, Some(Ok(_))));
        }
        let stalled = poll_fn(|cx| stall.watch::<BodyError>(cx, Poll::Pending)).await;
        assert!(matches!(stalled, Some(Err(BodyError::Stalled(UPLOAD_IDLE)))));
        assert_eq!(start.elapsed().as_secs(), 3 * 59 + 60);
    }

    /// A body of which nothing ever comes, from a listener that lets it be silent for `idle`.
    fn silent(idle: Option<Duration>, meter: &Arc<Meter>) -> RequestBody {
        let body = ClientBody::Other(UnsyncBoxBody::new(StreamBody::new(stream::pending())));
        RequestBody::stream(ClientBody::Timed(Box::new(Timed { body, whole: None, idle })), meter.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_may_let_bodies_be_silent_for_longer() {
        for (idle, want) in [(None, UPLOAD_IDLE), (Some(UPLOAD_IDLE * 2), UPLOAD_IDLE * 2)] {
            let frame = silent(idle, &Arc::default()).frame().await;
            assert!(matches!(frame, Some(Err(BodyError::Stalled(limit))) if limit == want), "{frame:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_only_listens_is_not_given_up() {
        let meter = Arc::default();
        let mut body = silent(None, &meter);
        let mut waiting = pin!(tokio::time::timeout(UPLOAD_IDLE * 9, body.frame()));
        assert!(poll!(waiting.as_mut()).is_pending(), "it is waited for already when the answer begins");
        meter.answered();
        assert!(waiting.await.is_err());
    }
}
