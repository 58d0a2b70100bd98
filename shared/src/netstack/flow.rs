//! One TCP flow as the application sees it, and the cell it shares with the driver.
//!
//! The socket's two buffers lie in the cell, so that reading and writing copy once; everything else of a flow belongs
//! to the driver alone. Whoever changes the socket from the application's side signals the driver.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::ledger::Ledger;

/// The two ends of a flow, seen from this stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowKey {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What the handles, the flows and the driver of one netstack have in common.
#[derive(Debug)]
pub(super) struct Shared {
    /// Flows whose application did something; each at most once.
    signals: Mutex<VecDeque<Arc<FlowCell>>>,
    pub(super) wake: Notify,
    pub(super) ledger: Arc<Ledger>,
    /// Whether the application takes datagrams.
    datagrams_taken: AtomicBool,
    pub(super) load: LoadCounters,
}

/// Gauges the driver keeps for [`super::Load`].
#[derive(Debug, Default)]
pub(super) struct LoadCounters {
    pub(super) flows: AtomicUsize,
    pub(super) pending: AtomicUsize,
    pub(super) lingering: AtomicUsize,
}

impl Shared {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            signals: Mutex::default(),
            wake: Notify::new(),
            ledger,
            datagrams_taken: AtomicBool::new(false),
            load: LoadCounters::default(),
        }
    }

    pub(super) fn take_datagrams(&self) {
        self.datagrams_taken.store(true, Relaxed);
    }

    pub(super) fn takes_datagrams(&self) -> bool {
        self.datagrams_taken.load(Relaxed)
    }

    pub(super) fn take_signal(&self) -> Option<Arc<FlowCell>> {
        lock(&self.signals).pop_front()
    }

    /// Says that `cell` needs the driver. At most once until the driver looked, and not after the end.
    fn signal(&self, cell: &Arc<FlowCell>, state: &mut FlowState) {
        if !state.signalled && state.end.is_none() {
            state.signalled = true;
            lock(&self.signals).push_back(cell.clone());
            self.wake.notify_one();
        }
    }
}

/// What the application decided on a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Waiting,
    Accepted,
    Refused,
}

/// How a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both directions were closed in order.
    Finished,
    /// The peer reset it.
    Reset,
    /// The peer fell silent.
    TimedOut,
    /// The network said that the peer cannot be reached.
    Unreachable,
    /// This stack ended, or its TCP engine failed.
    Aborted,
}

impl End {
    fn error(self) -> io::Error {
        let (kind, text) = match self {
            Self::Finished => (io::ErrorKind::BrokenPipe, "the flow is closed"),
            Self::Reset => (io::ErrorKind::ConnectionReset, "the peer reset the flow"),
            Self::TimedOut => (io::ErrorKind::TimedOut, "the peer no longer answers"),
            Self::Unreachable => (io::ErrorKind::HostUnreachable, "the peer cannot be reached"),
            Self::Aborted => (io::ErrorKind::ConnectionAborted, "the netstack has ended"),
        };
        io::Error::new(kind, text)
    }
}

/// A flow's socket with its buffers.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) set: SocketSet<'static>,
    pub(super) handle: SocketHandle,
}

impl Socket {
    pub(super) fn tcp(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

/// What application and driver both touch, under the cell's lock. Neither holds it over an await.
#[derive(Debug)]
pub(super) struct FlowState {
    /// Present from the dial or the acceptance until the end; 2 × `tcp_buffer` bytes.
    pub(super) socket: Option<Socket>,
    /// Received and unread when the socket went; at most `tcp_buffer` bytes.
    pub(super) leftover: Bytes,
    pub(super) end: Option<End>,
    pub(super) decision: Decision,
    /// True while the cell is in the list of signals.
    pub(super) signalled: bool,
    /// The application closed its direction.
    pub(super) shut: bool,
    /// The application dropped its end.
    pub(super) abandoned: bool,
    /// The peer's direction ended in order.
    pub(super) read_finished: bool,
    /// Bytes read since the driver last had the chance to open the window.
    pub(super) freed: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl FlowState {
    pub(super) fn wake_all(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// One flow, from the SYN on.
#[derive(Debug)]
pub(super) struct FlowCell {
    pub(super) key: FlowKey,
    state: Mutex<FlowState>,
    shared: Arc<Shared>,
}

impl FlowCell {
    pub(super) fn new(key: FlowKey, shared: Arc<Shared>) -> Arc<Self> {
        let state = FlowState {
            socket: None,
            leftover: Bytes::new(),
            end: None,
            decision: Decision::Waiting,
            signalled: false,
            shut: false,
            abandoned: false,
            read_finished: false,
            freed: 0,
            reader: None,
            writer: None,
        };
        Arc::new(Self { key, state: Mutex::new(state), shared })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FlowState> {
        lock(&self.state)
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    pub(super) fn decide(self: &Arc<Self>, decision: Decision) {
        let mut state = self.lock();
        state.decision = decision;
        self.shared.signal(self, &mut state);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One established TCP flow.
///
/// Reads and writes go through two buffers of `tcp_buffer` bytes; full buffers hold the writer back, here or at the
/// peer. `shutdown` sends what was written and then FIN, and leaves reading open. A drop without `shutdown`, or with
/// received bytes unread, resets the flow, as closing a socket in that state does.
#[derive(Debug)]
pub struct TcpFlow {
    cell: Arc<FlowCell>,
}

impl TcpFlow {
    pub(super) fn new(cell: Arc<FlowCell>) -> Self {
        Self { cell }
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.cell.key.local
    }

    /// The peer's end.
    pub fn remote(&self) -> SocketAddr {
        self.cell.key.remote
    }

    /// Waits for the handshake to end, one way or the other.
    pub(super) fn poll_established(&self, cx: &Context<'_>) -> Poll<Result<(), End>> {
        let mut state = self.cell.lock();
        if let Some(end) = state.end {
            // A flow that was opened and closed before anybody looked was established.
            return Poll::Ready(if end == End::Finished { Ok(()) } else { Err(end) });
        }
        let handshaking = match &mut state.socket {
            None => true,
            Some(socket) => {
                matches!(socket.tcp().state(), tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived)
            }
        };
        if !handshaking {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncRead for TcpFlow {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let cell = &self.cell;
        let mut state = cell.lock();
        let state = &mut *state;
        if let Some(socket) = &mut state.socket {
            let tcp = socket.tcp();
            match tcp.recv(|bytes| take(bytes, buffer)) {
                Ok(0) => {}
                Ok(read) => {
                    state.freed += read;
                    if state.freed >= tcp.recv_capacity() / WINDOW_SHARE {
                        cell.shared.signal(cell, state);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(tcp::RecvError::Finished) => return Poll::Ready(Ok(())),
                Err(tcp::RecvError::InvalidState) => {}
            }
        } else if state.leftover.has_remaining() {
            let (read, _) = take(&state.leftover, buffer);
            state.leftover.advance(read);
            return Poll::Ready(Ok(()));
        } else if state.read_finished {
            return Poll::Ready(Ok(()));
        } else if let Some(end) = state.end {
            return Poll::Ready(Err(end.error()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A reader that freed one part in this many of its buffer has the driver see whether the window opened enough to say
/// so.
///
/// smoltcp announces a window when it doubled. With less than an eighth read since the driver last looked, the last
/// announced window is at least 3/8 of the buffer, or seven eighths of the buffer wait to be read: neither stalls the
/// peer for good.
const WINDOW_SHARE: usize = 8;

fn take(bytes: &[u8], buffer: &mut ReadBuf<'_>) -> (usize, usize) {
    let read = bytes.len().min(buffer.remaining());
    buffer.put_slice(&bytes[..read]);
    (read, read)
}

impl AsyncWrite for TcpFlow {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let cell = &self.cell;
        let mut state = cell.lock();
        let state = &mut *state;
        if let Some(end) = state.end {
            return Poll::Ready(Err(end.error()));
        }
        if state.shut {
            return Poll::Ready(Err(End::Finished.error()));
        }
        if let Some(socket) = &mut state.socket
            && let Ok(written @ 1..) = socket.tcp().send_slice(bytes)
        {
            cell.shared.signal(cell, state);
            return Poll::Ready(Ok(written));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let cell = &self.cell;
        let mut state = cell.lock();
        let state = &mut *state;
        if !state.shut {
            state.shut = true;
            if let Some(socket) = &mut state.socket {
                socket.tcp().close();
                cell.shared.signal(cell, state);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        let mut state = self.cell.lock();
        state.abandoned = true;
        state.leftover = Bytes::new();
        self.cell.shared.signal(&self.cell, &mut state);
    }
}

/// A SYN that waits for a decision. No buffer is held for it yet, and nothing was answered.
///
/// Dropped undecided it is refused. It is forgotten after 30 seconds, or when the peer takes it back.
#[derive(Debug)]
pub struct PendingFlow {
    cell: Option<Arc<FlowCell>>,
    key: FlowKey,
}

/// Why an accepted SYN did not become a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The peer took the SYN back, or answered the SYN-ACK with a reset.
    #[error("{remote} gave the connection up before it was established")]
    Withdrawn {
        /// The peer.
        remote: SocketAddr,
    },
    /// The decision came too late, or the peer never answered the SYN-ACK.
    #[error("{remote} did not complete the handshake in time")]
    TimedOut {
        /// The peer.
        remote: SocketAddr,
    },
    /// The driver has ended.
    #[error("the netstack has ended")]
    Closed,
}

impl PendingFlow {
    pub(super) fn new(cell: Arc<FlowCell>) -> Self {
        Self { key: cell.key, cell: Some(cell) }
    }

    /// True once there is nothing left to decide.
    pub(super) fn is_over(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.lock().end.is_some())
    }

    /// The address and port that were asked for.
    pub fn local(&self) -> SocketAddr {
        self.key.local
    }

    /// Who asks.
    pub fn remote(&self) -> SocketAddr {
        self.key.remote
    }

    /// Answers SYN-ACK and waits until the peer confirms it. Dropping the future resets the flow.
    ///
    /// # Errors
    /// [`AcceptError`], when no flow came of it.
    pub async fn accept(mut self) -> Result<TcpFlow, AcceptError> {
        let remote = self.key.remote;
        let cell = self.cell.take().expect("only accept and refuse take the cell, and both consume self");
        cell.decide(Decision::Accepted);
        let flow = TcpFlow::new(cell);
        match std::future::poll_fn(|cx| flow.poll_established(cx)).await {
            Ok(()) => Ok(flow),
            Err(End::TimedOut) => Err(AcceptError::TimedOut { remote }),
            Err(End::Aborted) => Err(AcceptError::Closed),
            Err(End::Reset | End::Unreachable | End::Finished) => Err(AcceptError::Withdrawn { remote }),
        }
    }

    /// Answers RST: the peer's connect fails with "connection refused".
    pub fn refuse(self) {
        drop(self);
    }
}

impl Drop for PendingFlow {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            cell.decide(Decision::Refused);
        }
    }
}
