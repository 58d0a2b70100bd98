//! When a client's connection is given up: a head that takes too long, silence between requests, a client that does not read.
//!
//! [`Watch`] is told what happens and asked now and then; it reads no clock. [`Watched`] is the stream that tells it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::places::Room;
use crate::clock;

/// How long the head of an HTTP/1.1 request may take from its first byte (slowloris).
pub(super) const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may be without a request; what browsers and proxies expect of a server.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How long a client may take no byte while some wait for it.
pub(super) const WRITE: Duration = Duration::from_secs(60);

/// Requests that a client gave up, less those that it did not; beyond it the connection ends.
///
/// Each costs a backend something (CVE-2023-44487, CVE-2025-8671); people who click on give up fewer.
const WASTED_MAX: u32 = 100;

/// How often an open connection is looked at: a limit is exceeded by at most this.
pub(super) const TICK: Duration = Duration::from_secs(5);

/// Stands for "not now" in a time kept as milliseconds.
const NEVER: u64 = u64::MAX;

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Idle,
    Write,
}

/// Counts what a client asks for and does not want.
#[derive(Debug, Default)]
pub(super) struct Wasted(AtomicU32);

impl Wasted {
    /// A request was for nothing.
    pub(super) fn more(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// A request was not for nothing.
    pub(super) fn less(&self) {
        // None below none; there seldom are any, and then nothing is written.
        if self.0.load(Relaxed) > 0 {
            let _ = self.0.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    pub(super) fn is_too_much(&self) -> bool {
        self.0.load(Relaxed) > WASTED_MAX
    }
}

/// What one connection is doing. Times are milliseconds since it began.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    /// How long there may be no request.
    idle: Duration,
    requests: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
    wasted: Wasted,
    /// The first bytes, until it is known whether they begin an HTTP/2 connection.
    opening: AtomicU32,
}

/// A request in flight; dropped when its response has been sent or given up.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Watch>);

/// A request in flight that has no answer yet: dropped before, it was for nothing.
#[derive(Debug)]
pub(super) struct Unanswered(Option<InFlight>);

impl Unanswered {
    pub(super) fn new(in_flight: InFlight) -> Self {
        Self(Some(in_flight))
    }

    /// There is an answer, which the request is in flight for until it has been sent.
    pub(super) fn answered(mut self) -> Option<InFlight> {
        let in_flight = self.0.take();
        if let Some(InFlight(watch)) = &in_flight {
            watch.wasted.less();
        }
        in_flight
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(InFlight(watch)) = &self.0 {
            watch.wasted.more();
        }
    }
}

impl Watch {
    pub(super) fn new(now: Instant, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            began: now,
            idle,
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            blocked_since: AtomicU64::new(NEVER),
            wasted: Wasted::default(),
            opening: AtomicU32::new(0),
        })
    }

    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(NEVER)
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(NEVER, Relaxed);
        InFlight(self.clone())
    }

    fn end(&self, now: Instant) {
        self.requests.fetch_sub(1, Relaxed);
        self.idle_since.store(self.at(now), Relaxed);
    }

    /// Whether the next bytes would begin a head.
    fn awaits_head(&self) -> bool {
        self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NEVER
    }

    fn handle_bytes(&self, bytes: &[u8], now: Instant) {
        self.head_since.store(self.at(now), Relaxed);
        let mut opening = self.opening.load(Relaxed);
        for &byte in bytes.iter().take(4) {
            if opening < 1 << 24 {
                opening = opening << 8 | u32::from(byte);
            }
        }
        self.opening.store(opening, Relaxed);
    }

    /// HTTP/2 begins with `PRI ` (RFC 9113 §3.4); its frames between requests are no heads.
    fn is_http2(&self) -> bool {
        self.opening.load(Relaxed).to_be_bytes() == *b"PRI "
    }

    fn handle_blocked(&self, now: Instant) {
        let _ = self.blocked_since.compare_exchange(NEVER, self.at(now), Relaxed, Relaxed);
    }

    fn handle_written(&self) {
        self.blocked_since.store(NEVER, Relaxed);
    }

    /// Which limit the connection exceeds at `now`, if any.
    pub(super) fn overdue(&self, now: Instant) -> Option<Overdue> {
        let now = self.at(now);
        let exceeds = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Relaxed);
            since != NEVER && u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        if exceeds(&self.blocked_since, WRITE) {
            return Some(Overdue::Write);
        }
        if self.requests.load(Relaxed) > 0 {
            return None;
        }
        if !self.is_http2() && exceeds(&self.head_since, HEAD) {
            return Some(Overdue::Head);
        }
        exceeds(&self.idle_since, self.idle).then_some(Overdue::Idle)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end(clock::instant());
    }
}

/// A client's stream that tells its [`Watch`], and holds the connection's place in the worker while it lives.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) watch: Arc<Watch>,
    pub(super) _room: Room,
}

impl<S> Watched<S> {
    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        match &result {
            Poll::Ready(_) => self.watch.handle_written(),
            Poll::Pending => self.watch.handle_blocked(clock::instant()),
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.watch.wasted.is_too_much() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "too many requests for nothing")));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() && self.watch.awaits_head() {
            self.watch.handle_bytes(read, clock::instant());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_head_is_overdue_ten_seconds_after_its_first_byte() {
        let start = clock::instant();
        let watch = Watch::new(start, IDLE);
        assert!(watch.awaits_head());
        watch.handle_bytes(b"GET ", start + 5 * SECOND);
        assert!(!watch.awaits_head());
        assert_eq!(watch.overdue(start + 14 * SECOND), None);
        assert_eq!(watch.overdue(start + 15 * SECOND), Some(Overdue::Head));
    }

    #[test]
    fn a_request_in_flight_is_never_idle() {
        let start = clock::instant();
        let watch = Watch::new(start, IDLE);
        watch.handle_bytes(b"G", start);
        let request = watch.begin();
        assert_eq!(watch.overdue(start + 1000 * SECOND), None);
        watch.end(start + 1000 * SECOND);
        std::mem::forget(request);
        assert_eq!(watch.overdue(start + 1059 * SECOND), None);
        assert_eq!(watch.overdue(start + 1060 * SECOND), Some(Overdue::Idle));
    }

    #[test]
    fn requests_given_up_count_against_those_that_were_answered() {
        let watch = Watch::new(clock::instant(), IDLE);
        let request = || Unanswered::new(watch.begin());
        assert!(request().answered().is_some());
        for _ in 0..WASTED_MAX + 1 {
            assert!(!watch.wasted.is_too_much(), "an answer before counts for nothing");
            drop(request());
        }
        assert!(watch.wasted.is_too_much());
        assert!(request().answered().is_some());
        assert!(!watch.wasted.is_too_much());
        assert_eq!(watch.requests.load(Relaxed), 0);
    }

    #[test]
    fn a_connection_without_any_byte_is_idle_after_a_minute() {
        let start = clock::instant();
        let watch = Watch::new(start, IDLE);
        assert_eq!(watch.overdue(start + 59 * SECOND), None);
        assert_eq!(watch.overdue(start + 60 * SECOND), Some(Overdue::Idle));
    }

    #[test]
    fn frames_of_http2_are_no_heads() {
        let start = clock::instant();
        let watch = Watch::new(start, IDLE);
        watch.handle_bytes(b"PRI * HTTP/2.0", start);
        assert_eq!(watch.overdue(start + 20 * SECOND), None);
        let other = Watch::new(start, IDLE);
        other.handle_bytes(b"PR", start);
        other.handle_bytes(b"OPFIND", start);
        assert_eq!(other.overdue(start + 20 * SECOND), Some(Overdue::Head));
    }

    #[test]
    fn a_client_that_does_not_read_is_given_up_even_in_a_response() {
        let start = clock::instant();
        let watch = Watch::new(start, IDLE);
        let _request = watch.begin();
        watch.handle_blocked(start + SECOND);
        watch.handle_blocked(start + 30 * SECOND);
        assert_eq!(watch.overdue(start + 60 * SECOND), None);
        assert_eq!(watch.overdue(start + 61 * SECOND), Some(Overdue::Write));
        watch.handle_written();
        assert_eq!(watch.overdue(start + 61 * SECOND), None);
    }
}
