//! The driver's half of one flow: an interface and a device of its own around the socket in the cell.
//!
//! smoltcp looks at every socket of a set for every packet; with a set for each flow that costs nothing.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, CongestionControl};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::flow::{Decision, End, FlowCell, FlowKey, FlowState, Socket};
use super::replies::{self, Segment};
use super::window::Windows;
use crate::ledger::{Ledger, Place, Reason};

/// Packets for one flow that wait for its next turn, at most.
pub(super) const INBOX_PACKETS_MAX: usize = 128;

/// Packets one flow may send in one turn; then the others have theirs.
const TURN_PACKETS_MAX: usize = 64;

/// How long a handshake may take, either way. SYNs go out at 0, 1, 3, 7 and 15 seconds.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);

/// How often an idle peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a peer that owes an answer may be silent; four keep-alives.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long a flow may go on closing after the application dropped it; Linux's `tcp_fin_timeout`.
const ORPHAN_MAX: Duration = Duration::from_secs(60);

/// Repeated ACKs that tell a sender of a loss (RFC 5681 §3.2).
const LOSS_ACKS: usize = 3;

/// What a new flow's socket and interface are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of each of the two buffers.
    pub(super) tcp_buffer: usize,
    pub(super) mtu: usize,
    pub(super) seed: u64,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is more to send than the turn or the outbound queue had room for.
    Again,
    /// Nothing to do before this time, or before a packet or the application comes.
    Idle(Option<Instant>),
    /// The flow is over and its socket gone.
    Ended(Option<Farewell>),
    /// The engine panicked. The flow is over.
    Fault,
}

/// What the last ACK of a flow in TIME-WAIT said, to be repeated when the peer's FIN is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Farewell {
    pub(super) seq: u32,
    pub(super) ack: u32,
}

pub(super) struct Live {
    pub(super) cell: Arc<FlowCell>,
    interface: Interface,
    device: FlowDevice,
    handshaking: bool,
    accepted: bool,
    /// True while the flow is in the list of those that want a turn.
    pub(super) ready: bool,
    reset_seen: bool,
    orphan_until: Option<Instant>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Live").field("key", &self.cell.key).field("handshaking", &self.handshaking).finish()
    }
}

impl Live {
    /// A flow that will send a SYN in its first turn.
    pub(super) fn dial(cell: Arc<FlowCell>, shape: Shape, now: Instant) -> Option<Self> {
        let mut live = Self::new(cell, shape, now);
        let mut socket = socket(shape);
        let key = live.cell.key;
        socket.connect(live.interface.context(), key.remote, key.local).ok()?;
        live.install(socket);
        Some(live)
    }

    /// A flow that will answer `syn` in its first turn.
    pub(super) fn accept(cell: Arc<FlowCell>, shape: Shape, syn: (Bytes, Segment), now: Instant) -> Option<Self> {
        let mut live = Self::new(cell, shape, now);
        let mut socket = socket(shape);
        socket.listen(live.cell.key.local).ok()?;
        live.install(socket);
        live.accepted = true;
        live.device.inbox.push_back(syn);
        Some(live)
    }

    fn new(cell: Arc<FlowCell>, shape: Shape, now: Instant) -> Self {
        let mut device = FlowDevice::new(&cell, shape.mtu);
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = shape.seed;
        let mut interface = Interface::new(config, &mut device, now);
        interface.update_ip_addrs(|addresses| {
            // With a prefix of no length every peer is "on the link", so no route is needed.
            let address = IpCidr::new(IpAddress::from(cell.key.local.ip()), 0);
            addresses.push(address).expect("the list has room for eight");
        });
        Self {
            cell,
            interface,
            device,
            handshaking: true,
            accepted: false,
            ready: false,
            reset_seen: false,
            orphan_until: None,
        }
    }

    fn install(&self, socket: tcp::Socket<'static>) {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        let mut state = self.cell.lock();
        state.decision = Decision::Accepted;
        state.socket = Some(Socket { set, handle });
    }

    /// Queues a packet for the next turn; false if there is no room.
    pub(super) fn push(&mut self, packet: Bytes, segment: &Segment) -> bool {
        if self.device.inbox.len() >= INBOX_PACKETS_MAX {
            return false;
        }
        self.reset_seen |= segment.rst;
        self.device.inbox.push_back((packet, *segment));
        true
    }

    /// Packets pushed since the last turn.
    pub(super) fn waiting(&self) -> usize {
        self.device.inbox.len()
    }

    /// True while the peer has not confirmed our SYN-ACK.
    pub(super) fn is_half_open(&self) -> bool {
        self.accepted && self.handshaking
    }

    /// True if our SYN with this sequence number is unanswered.
    pub(super) fn dialled_with(&self, seq: u32) -> bool {
        self.handshaking && self.device.last_sent.is_some_and(|sent| sent.syn && sent.ack.is_none() && sent.seq == seq)
    }

    /// Ends the flow at once and without a word to the peer.
    pub(super) fn end(&self, end: End) {
        finish(&mut self.cell.lock(), end);
    }

    /// Feeds what came in, sends what may go out (into `out`, at most `room` packets), and wakes the application.
    pub(super) fn turn(&mut self, now: Instant, room: usize, out: &mut VecDeque<BytesMut>) -> Turn {
        let cell = self.cell.clone();
        let mut state = cell.lock();
        let state = &mut *state;
        let Some(socket) = &mut state.socket else {
            return Turn::Ended(None);
        };
        if state.abandoned {
            self.abandon(socket, state.shut, now);
        }
        self.device.room = room.min(TURN_PACKETS_MAX);
        self.device.refused = false;
        let Ok(()) = catch_unwind(AssertUnwindSafe(|| {
            self.interface.poll(now, &mut self.device, &mut socket.set);
        })) else {
            // What the socket holds can no longer be relied on, so nothing of it is saved.
            state.socket = None;
            finish(state, End::Aborted);
            return Turn::Fault;
        };
        state.freed = 0;
        out.extend(self.device.outbox.drain(..));
        let turn = self.outcome(state, now);
        self.reset_seen = false;
        turn
    }

    /// Goes on closing if the application closed and read everything; resets otherwise.
    fn abandon(&mut self, socket: &mut Socket, shut: bool, now: Instant) {
        let deadline = *self.orphan_until.get_or_insert(now + ORPHAN_MAX);
        let tcp = socket.tcp();
        if !shut || tcp.can_recv() || now >= deadline {
            tcp.abort();
        }
    }

    fn outcome(&mut self, state: &mut FlowState, now: Instant) -> Turn {
        let Some(socket) = &mut state.socket else {
            return Turn::Ended(None);
        };
        let tcp = socket.tcp();
        let sending = self.device.refused;
        match tcp.state() {
            tcp::State::Closed if tcp.remote_endpoint().is_none() => {
                let end = match tcp.recv(|_| (0, ())) {
                    _ if self.reset_seen => End::Reset,
                    Err(tcp::RecvError::Finished) if state.shut => End::Finished,
                    _ => End::TimedOut,
                };
                finish(state, end);
                return Turn::Ended(None);
            }
            // A reset in SYN-RECEIVED sends a smoltcp socket back to listening.
            tcp::State::Listen => {
                finish(state, End::Reset);
                return Turn::Ended(None);
            }
            tcp::State::TimeWait if !sending => {
                finish(state, End::Finished);
                return Turn::Ended(
                    self.device.last_sent.and_then(|sent| sent.ack.map(|ack| Farewell { seq: sent.next_seq(), ack })),
                );
            }
            tcp::State::SynSent | tcp::State::SynReceived => {}
            _ if self.handshaking => {
                self.handshaking = false;
                tcp.set_timeout(Some(SILENCE_MAX));
                tcp.set_keep_alive(Some(KEEP_ALIVE));
                state.wake_all();
            }
            _ => {}
        }
        if sending {
            wake(state);
            return Turn::Again;
        }
        wake(state);
        let socket = state.socket.as_mut().expect("it was there above and only finish takes it");
        let next = self.interface.poll_at(now, &socket.set);
        Turn::Idle(next.into_iter().chain(self.orphan_until).min())
    }
}

/// Wakes the reader if there is something to read, and the writer if a good part of its buffer is free.
fn wake(state: &mut FlowState) {
    let Some(socket) = &mut state.socket else { return };
    let tcp = socket.tcp();
    let readable = tcp.can_recv() || !tcp.may_recv();
    let free = tcp.send_capacity() - tcp.send_queue();
    let writable = free >= tcp.send_capacity() / 4 || !tcp.may_send();
    if readable && let Some(waker) = state.reader.take() {
        waker.wake();
    }
    if writable && let Some(waker) = state.writer.take() {
        waker.wake();
    }
}

/// Saves what is unread, lets the buffers go, and tells the application.
pub(super) fn finish(state: &mut FlowState, end: End) {
    if let Some(mut socket) = state.socket.take() {
        let tcp = socket.tcp();
        let mut unread = BytesMut::with_capacity(if state.abandoned { 0 } else { tcp.recv_queue() });
        while !state.abandoned && tcp.recv_queue() > 0 {
            let read = tcp.recv(|bytes| {
                unread.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            if !matches!(read, Ok(1..)) {
                break;
            }
        }
        state.read_finished = matches!(tcp.recv(|_| (0, ())), Err(tcp::RecvError::Finished));
        state.leftover = unread.freeze();
    }
    state.end = Some(end);
    state.wake_all();
}

fn socket(shape: Shape) -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; shape.tcp_buffer]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_congestion_control(CongestionControl::Cubic);
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_timeout(Some(HANDSHAKE_MAX));
    socket
}

/// A link of one flow: packets in from the demultiplexer, packets out to the outbound queue.
#[derive(Debug)]
struct FlowDevice {
    key: FlowKey,
    ledger: Arc<Ledger>,
    mtu: usize,
    /// At most [`INBOX_PACKETS_MAX`].
    inbox: VecDeque<(Bytes, Segment)>,
    /// The packet that is next, with what smoltcp has to be told beside it; at most 2 and [`LOSS_ACKS`].
    feed: VecDeque<Bytes>,
    /// At most [`TURN_PACKETS_MAX`], and one answer for each packet of the inbox.
    outbox: Vec<BytesMut>,
    room: usize,
    /// The socket had something to send and no room was left.
    refused: bool,
    last_sent: Option<Segment>,
    windows: Windows,
}

impl FlowDevice {
    fn new(cell: &FlowCell, mtu: usize) -> Self {
        Self {
            key: cell.key,
            ledger: cell.ledger().clone(),
            mtu,
            inbox: VecDeque::new(),
            feed: VecDeque::new(),
            outbox: Vec::new(),
            room: 0,
            refused: false,
            last_sent: None,
            windows: Windows::default(),
        }
    }

    /// Moves the next packet to the feed, unless it is refused.
    fn mend_next(&mut self) -> Option<()> {
        let (packet, segment) = self.inbox.pop_front()?;
        let mend = self.windows.handle_received(&segment);
        if mend.refused {
            self.ledger.lose(Place::Flow, Reason::BeyondWindow, 1);
            return Some(());
        }
        self.feed.extend(mend.before.map(|seq| replies::empty_ack(self.key, seq, &segment)));
        self.feed.push_back(packet);
        if let Some(seq) = mend.behind {
            self.feed.extend((0..LOSS_ACKS).map(|_| replies::empty_ack(self.key, seq, &segment)));
        }
        Some(())
    }
}

impl Device for FlowDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        while self.feed.is_empty() {
            self.mend_next()?;
        }
        let packet = self.feed.pop_front()?;
        Some((Received(packet), Sending(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        if self.room == 0 {
            self.refused = true;
            return None;
        }
        Some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // The demultiplexer verified them before it chose this flow, and `Sending` writes TCP's after mending the
        // window.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

struct Received(Bytes);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a>(&'a mut FlowDevice);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut packet = BytesMut::zeroed(bytes);
        let result = write(&mut packet);
        self.0.room = self.0.room.saturating_sub(1);
        self.0.last_sent = Segment::of_own(&packet).map(|segment| {
            let segment = self.0.windows.handle_sent(&segment);
            replies::seal(&mut packet, self.0.key, &segment);
            segment
        });
        self.0.outbox.push(packet);
        result
    }
}
