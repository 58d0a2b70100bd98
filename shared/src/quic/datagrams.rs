//! HTTP datagrams of one connection: one reader hands them to sessions, senders put them into one buffer each.
//!
//! Nothing is lost in silence: what is not delivered is in the ledger, also what quinn drops without a word.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    ledger::{Ledger, Place, Reason},
    wire::datagram::{self, DatagramError},
};

/// How many packets wait for one session; beyond it the newest is dropped, as the queue is in order.
pub const QUEUE_PACKETS_MAX: usize = 512;

/// How many sessions one connection may have.
pub const SESSIONS_MAX: usize = 64;

/// More than quinn's own cost of a queued datagram, in bytes, which counts against its buffer (32 in 0.11).
const QUEUED_BYTES: usize = 64;

/// `H3_DATAGRAM_ERROR` (RFC 9297 §5.2).
const H3_DATAGRAM_ERROR: u32 = 0x33;

/// The datagrams of one connection. Clones are the same; with the last one, receivers included, the reader stops.
#[derive(Debug, Clone)]
pub struct Datagrams {
    shared: Arc<Shared>,
    _reader: Arc<Reader>,
}

/// The packets of one session. Dropping it ends the registration; what it had not read yet is lost.
#[derive(Debug)]
pub struct Receiver {
    stream_id: u64,
    packets: mpsc::Receiver<Bytes>,
    owner: Datagrams,
}

/// Why a session cannot have datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("stream {0} has a datagram receiver already")]
    Twice(u64),
    #[error("the connection has {SESSIONS_MAX} sessions already")]
    TooMany,
}

/// Why a packet was not sent as a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not counted yet: send it as a DATAGRAM capsule, or answer with Packet Too Big, and say so to the ledger.
    #[error("the packet is larger than the path takes as a datagram")]
    TooLarge,
    /// The packet is lost.
    #[error("the queue to the path is full")]
    Full,
    /// The packet is lost.
    #[error("the connection has ended, or its peer takes no datagrams")]
    Closed,
}

#[derive(Debug)]
struct Shared {
    connection: quinn::Connection,
    queue_by_stream: Mutex<BTreeMap<u64, mpsc::Sender<Bytes>>>,
    ledger: Arc<Ledger>,
    /// What quinn says of its send buffer while nothing waits in it, in bytes.
    idle_space: usize,
    /// Datagrams that quinn took.
    accepted: AtomicU64,
    /// Datagrams that quinn handed over.
    read: AtomicU64,
    settled: Mutex<Settled>,
}

/// What the ledger has been told of quinn's own counts.
#[derive(Debug, Default)]
struct Settled {
    sent: u64,
    discarded: u64,
    overflowed: u64,
}

#[derive(Debug)]
struct Reader(AbortHandle);

impl Datagrams {
    /// Starts the connection's one reader. It ends with the connection or with the last clone. Call it before the first
    /// datagram is sent.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn spawn(connection: quinn::Connection, ledger: Arc<Ledger>) -> Self {
        let shared = Arc::new(Shared {
            idle_space: connection.datagram_send_buffer_space(),
            connection,
            queue_by_stream: Mutex::default(),
            ledger,
            accepted: AtomicU64::new(0),
            read: AtomicU64::new(0),
            settled: Mutex::default(),
        });
        let reader = tokio::spawn(read(Arc::clone(&shared)));
        Self { shared, _reader: Arc::new(Reader(reader.abort_handle())) }
    }

    /// The packets of the session on request stream `stream_id`. Register before the 200 goes out.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(&self, stream_id: u64) -> Result<Receiver, RegisterError> {
        let mut queues = self.shared.queues();
        if queues.len() >= SESSIONS_MAX {
            return Err(RegisterError::TooMany);
        }
        let Entry::Vacant(vacant) = queues.entry(stream_id) else {
            return Err(RegisterError::Twice(stream_id));
        };
        let (sender, packets) = mpsc::channel(QUEUE_PACKETS_MAX);
        vacant.insert(sender);
        drop(queues);
        Ok(Receiver { stream_id, packets, owner: self.clone() })
    }

    /// Sends a frame that [`datagram::encode`] or a [`datagram::Framer`] made; never waits.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, frame: &Bytes) -> Result<(), SendError> {
        let ledger = &self.shared.ledger;
        ledger.enter(Place::QuicSend, 1);
        let sent = self.offer(frame);
        match sent {
            Ok(()) | Err(SendError::TooLarge) => {}
            Err(SendError::Full) => ledger.lose(Place::QuicSend, Reason::QueueFull, 1),
            Err(SendError::Closed) => ledger.lose(Place::QuicSend, Reason::NoSession, 1),
        }
        sent
    }

    /// Sends frames, as for [`Datagrams::send`], until one is not taken, which then stands first and is not counted; never
    /// waits. Says what was in the way of it.
    pub fn send_frames(&self, frames: &mut VecDeque<Bytes>) -> Option<SendError> {
        let before = frames.len();
        let mut stopped = None;
        while let Some(frame) = frames.front() {
            // Room is asked for each time: what quinn takes off for a datagram is more than its bytes.
            stopped = self.offer(frame).err();
            if stopped.is_some() {
                break;
            }
            frames.pop_front();
        }
        self.shared.ledger.enter(Place::QuicSend, (before - frames.len()) as u64);
        stopped
    }

    /// Sends one frame, and waits for room where there is none. Cancelled or failed, it was neither sent nor counted.
    ///
    /// # Errors
    /// As [`Datagrams::send`], but never [`SendError::Full`].
    pub async fn send_when_room(&self, frame: Bytes) -> Result<(), SendError> {
        self.shared.connection.send_datagram_wait(frame).await.map_err(|error| refused(&error))?;
        self.shared.accepted.fetch_add(1, Relaxed);
        self.shared.ledger.enter(Place::QuicSend, 1);
        Ok(())
    }

    /// Gives a frame to quinn if that loses nothing. The ledger is the caller's.
    fn offer(&self, frame: &Bytes) -> Result<(), SendError> {
        let connection = &self.shared.connection;
        if connection.datagram_send_buffer_space() < frame.len() + QUEUED_BYTES {
            // quinn would make room by dropping the oldest, and tell nobody.
            return Err(match connection.max_datagram_size() {
                None => SendError::Closed,
                Some(max) if frame.len() > max => SendError::TooLarge,
                Some(_) => SendError::Full,
            });
        }
        connection.send_datagram(frame.clone()).map_err(|error| refused(&error))?;
        self.shared.accepted.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The largest packet that now fits a datagram of the session on `stream_id`, in bytes; it moves with the path.
    /// `None`: the peer takes no datagrams.
    #[must_use]
    pub fn packet_bytes_max(&self, stream_id: u64) -> Option<usize> {
        self.shared.connection.max_datagram_size().map(|max| max.saturating_sub(datagram::header_bytes(stream_id)))
    }

    /// Where the datagrams are counted.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Tells the ledger what quinn has sent, and what it dropped by itself, since the last time. The end of the connection
    /// does it too.
    pub fn settle(&self) {
        self.shared.settle_sent();
    }
}

impl Receiver {
    /// The next packet; `None` when the connection has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let packet = self.packets.recv().await?;
        self.owner.shared.ledger.deliver(Place::QuicReceive, 1);
        Some(packet)
    }

    /// Adds up to `limit` packets to `batch` and says how many; 0 when the connection has ended. Cancel-safe.
    pub async fn recv_many(&mut self, batch: &mut Vec<Bytes>, limit: usize) -> usize {
        let packets = self.packets.recv_many(batch, limit).await;
        self.owner.shared.ledger.deliver(Place::QuicReceive, packets as u64);
        packets
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.owner.shared.queues().remove(&self.stream_id);
        self.packets.close();
        while self.packets.try_recv().is_ok() {
            self.owner.shared.ledger.lose(Place::QuicReceive, Reason::NoSession, 1);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.settle_sent();
        let settled = self.settled.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.accepted.load(Relaxed).saturating_sub(settled.sent + settled.discarded);
        self.ledger.lose(Place::QuicSend, Reason::NoSession, waiting);
    }
}

impl Shared {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<u64, mpsc::Sender<Bytes>>> {
        self.queue_by_stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// quinn drops what no longer fits when the path shrinks: it is what was taken, was not sent, and does not wait.
    fn settle_sent(&self) {
        let mut settled = self.settled();
        // In this order: whatever is sent meanwhile makes the difference smaller, never larger.
        let accepted = self.accepted.load(Relaxed);
        let is_idle = self.connection.datagram_send_buffer_space() >= self.idle_space;
        let sent = self.connection.stats().frame_tx.datagram;
        self.ledger.deliver(Place::QuicSend, sent.saturating_sub(settled.sent));
        settled.sent = sent;
        if is_idle {
            let discarded = accepted.saturating_sub(sent + settled.discarded);
            self.ledger.lose(Place::QuicSend, Reason::PathShrank, discarded);
            settled.discarded += discarded;
        }
    }

    /// quinn drops the oldest when its buffer is full: it is what came, was not read, and does not wait. Call it when
    /// nothing waits, on the connection's own thread.
    fn settle_received(&self) {
        let mut settled = self.settled();
        let came = self.connection.stats().frame_rx.datagram;
        let overflowed = came.saturating_sub(self.read.load(Relaxed) + settled.overflowed);
        settled.overflowed += overflowed;
        self.ledger.enter(Place::QuicReceive, overflowed);
        self.ledger.lose(Place::QuicReceive, Reason::ReceiveOverflow, overflowed);
    }

    /// Hands `frame` to its session, or counts why not.
    ///
    /// # Errors
    /// What the peer did wrong.
    fn deliver(&self, frame: Bytes) -> Result<(), DatagramError> {
        self.read.fetch_add(1, Relaxed);
        self.ledger.enter(Place::QuicReceive, 1);
        let lost = |reason| self.ledger.lose(Place::QuicReceive, reason, 1);
        let unpacked = datagram::decode(frame).and_then(|(id, payload)| Ok((id, datagram::decode_payload(payload)?)));
        let (stream_id, packet) = unpacked.inspect_err(|_| lost(Reason::Malformed))?;
        let Some(queue) = self.queues().get(&stream_id).cloned() else {
            lost(Reason::NoSession);
            return Ok(());
        };
        match queue.try_send(packet) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => lost(Reason::QueueFull),
            Err(mpsc::error::TrySendError::Closed(_)) => lost(Reason::NoSession),
        }
        Ok(())
    }
}

async fn read(shared: Arc<Shared>) {
    loop {
        let next = shared.connection.read_datagram();
        tokio::pin!(next);
        let frame = tokio::select! {
            biased;
            frame = &mut next => frame,
            // Nothing waits: the moment to compare what came with what was read.
            () = std::future::ready(()) => {
                shared.settle_received();
                next.await
            }
        };
        let Ok(frame) = frame else { break };
        match shared.deliver(frame) {
            Ok(()) | Err(DatagramError::UnknownContext(_)) => {}
            Err(error @ (DatagramError::Truncated | DatagramError::StreamId)) => {
                shared.connection.close(H3_DATAGRAM_ERROR.into(), error.to_string().as_bytes());
            }
        }
    }
    shared.queues().clear();
}

fn refused(error: &quinn::SendDatagramError) -> SendError {
    match error {
        quinn::SendDatagramError::TooLarge => SendError::TooLarge,
        quinn::SendDatagramError::ConnectionLost(_)
        | quinn::SendDatagramError::UnsupportedByPeer
        | quinn::SendDatagramError::Disabled => SendError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        quic::testbed::{PATH_1280, Pair, pair, pair_over, soon},
        wire::varint,
    };

    fn both(pair: &Pair) -> (Datagrams, Datagrams) {
        (Datagrams::spawn(pair.relay.clone(), Arc::default()), Datagrams::spawn(pair.agent.clone(), Arc::default()))
    }

    /// Sends a packet in a frame of its own.
    fn send(datagrams: &Datagrams, stream_id: u64, packet: &[u8]) -> Result<(), SendError> {
        datagrams.send(&datagram::encode(stream_id, packet))
    }

    fn lost(datagrams: &Datagrams, place: Place, reason: Reason) -> u64 {
        datagrams.ledger().lost(place, reason)
    }

    /// Entered, delivered, lost and waiting at a place.
    fn sums(datagrams: &Datagrams, place: Place) -> [u64; 4] {
        datagrams.settle();
        let sums = datagrams.ledger().sums();
        [sums.entered(place), sums.delivered(place), sums.lost(place), sums.waiting(place)]
    }

    /// Waits until `datagrams` have lost this much for this reason on their way in.
    async fn until_lost(datagrams: &Datagrams, reason: Reason, packets: u64) {
        soon(async {
            while lost(datagrams, Place::QuicReceive, reason) != packets {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn packets_reach_their_own_session_both_ways() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let ids = [0u64, 4, 8, 256, 4 * 20_000];
        let mut at_relay = ids.map(|id| relay.register(id).unwrap());
        let mut at_agent = ids.map(|id| agent.register(id).unwrap());
        for round in 0..20 {
            for id in ids {
                send(&agent, id, format!("up {id} {round}").as_bytes()).unwrap();
                send(&relay, id, format!("down {id} {round}").as_bytes()).unwrap();
            }
            for (i, id) in ids.into_iter().enumerate() {
                assert_eq!(soon(at_relay[i].recv()).await.unwrap(), format!("up {id} {round}"));
                assert_eq!(soon(at_agent[i].recv()).await.unwrap(), format!("down {id} {round}"));
            }
        }
        for end in [&relay, &agent] {
            assert_eq!(sums(end, Place::QuicSend), [100, 100, 0, 0]);
            assert_eq!(sums(end, Place::QuicReceive), [100, 100, 0, 0]);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_delivered_is_counted_by_reason() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let mut session = relay.register(4).unwrap();
        send(&agent, 8, b"nobody's").unwrap();
        pair.agent.send_datagram(Bytes::from_static(&[1, 2, 0])).unwrap();
        send(&agent, 4, b"mine").unwrap();
        assert_eq!(soon(session.recv()).await.unwrap(), "mine");
        assert_eq!(relay.ledger().sums().to_string(), "quic_receive malformed 1, quic_receive no_session 1");
        assert_eq!(sums(&relay, Place::QuicReceive), [3, 1, 2, 0]);
        drop(session);
        send(&agent, 4, b"too late").unwrap();
        until_lost(&relay, Reason::NoSession, 2).await;
        assert_eq!(pair.relay.close_reason(), None);
    }

    #[tokio::test]
    async fn a_datagram_without_a_readable_stream_id_ends_the_connection() {
        for malformed in [&[][..], &[0xff; 8]] {
            let pair = pair().await;
            let (relay, _agent) = both(&pair);
            let mut session = relay.register(0).unwrap();
            pair.agent.send_datagram(Bytes::from_static(malformed)).unwrap();
            let closed = soon(pair.agent.closed()).await;
            assert!(
                matches!(&closed, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 0x33u32.into()),
                "{closed:?}"
            );
            assert_eq!(lost(&relay, Place::QuicReceive, Reason::Malformed), 1);
            assert_eq!(soon(session.recv()).await, None, "the session learns of the end");
        }
    }

    #[tokio::test]
    async fn a_session_that_does_not_read_loses_its_newest_packets_only() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let mut slow = relay.register(0).unwrap();
        let mut quick = relay.register(4).unwrap();
        let total = QUEUE_PACKETS_MAX + 10;
        for n in 0..total {
            send(&agent, 0, &n.to_be_bytes()).unwrap();
            send(&agent, 4, b"tick").unwrap();
            soon(quick.recv()).await.unwrap();
        }
        until_lost(&relay, Reason::QueueFull, 10).await;
        let mut batch = Vec::new();
        assert_eq!(slow.recv_many(&mut batch, total).await, QUEUE_PACKETS_MAX);
        assert_eq!(batch[0][..], 0usize.to_be_bytes());
        assert_eq!(batch[QUEUE_PACKETS_MAX - 1][..], (QUEUE_PACKETS_MAX - 1).to_be_bytes());
    }

    #[tokio::test]
    async fn a_packet_that_does_not_fit_is_given_back() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let mut session = relay.register(4).unwrap();
        let too_large = vec![0; 2000];
        assert_eq!(send(&agent, 4, &too_large), Err(SendError::TooLarge));
        assert_eq!(sums(&agent, Place::QuicSend), [1, 0, 0, 1], "what becomes of it is the caller's to count");
        let fits = agent.packet_bytes_max(4).unwrap();
        assert!(fits >= 1100, "{fits}");
        send(&agent, 4, &too_large[..fits]).unwrap();
        assert_eq!(soon(session.recv()).await.unwrap().len(), fits);
    }

    #[tokio::test]
    async fn a_full_send_queue_drops_the_newest_and_says_so() {
        let pair = pair().await;
        let (_relay, agent) = both(&pair);
        let packet = vec![0; 1000];
        // Nothing is awaited, so that nothing is sent meanwhile.
        let refused = (0..2000).find_map(|_| send(&agent, 4, &packet).err());
        assert_eq!(refused, Some(SendError::Full));
        assert_eq!(lost(&agent, Place::QuicSend, Reason::QueueFull), 1);
        assert!(agent.ledger().sums().entered(Place::QuicSend) > 900);
    }

    #[tokio::test]
    async fn frames_wait_for_room_and_none_is_lost_before_the_wire() {
        let pair = pair().await;
        let (_relay, agent) = both(&pair);
        let total = 2000;
        let mut frames: VecDeque<_> = (0..total).map(|_| datagram::encode(4, &[7; 900])).collect();
        assert_eq!(agent.send_frames(&mut frames), Some(SendError::Full));
        let sums = agent.ledger().sums();
        assert_eq!(sums.entered(Place::QuicSend) + frames.len() as u64, total);
        while let Some(frame) = frames.pop_front() {
            soon(agent.send_when_room(frame)).await.unwrap();
        }
        let sums = agent.ledger().sums();
        assert_eq!((sums.entered(Place::QuicSend), sums.lost(Place::QuicSend)), (total, 0));
        soon(async {
            while pair.agent.stats().frame_tx.datagram < total {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_stops_those_behind_it() {
        let pair = pair().await;
        let (_relay, agent) = both(&pair);
        let mut frames = VecDeque::from([8, 5000, 8].map(|bytes| datagram::encode(4, &vec![0; bytes])));
        assert_eq!(agent.send_frames(&mut frames), Some(SendError::TooLarge));
        assert_eq!(frames.len(), 2);
        assert_eq!(soon(agent.send_when_room(frames.pop_front().unwrap())).await, Err(SendError::TooLarge));
        assert_eq!(agent.send_frames(&mut frames), None);
        assert!(frames.is_empty());
    }

    #[tokio::test]
    async fn registrations_are_single_and_bounded() {
        let pair = pair().await;
        let (relay, _agent) = both(&pair);
        let mut sessions: Vec<_> = (0..SESSIONS_MAX as u64 - 1).map(|n| relay.register(n * 4).unwrap()).collect();
        assert_eq!(relay.register(0).unwrap_err(), RegisterError::Twice(0));
        sessions.push(relay.register(varint::MAX / 4 * 4).unwrap());
        assert_eq!(relay.register(4000).unwrap_err(), RegisterError::TooMany);
        sessions.pop();
        assert!(relay.register(4000).is_ok());
    }

    #[tokio::test]
    async fn the_end_of_the_connection_ends_everything() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let mut session = relay.register(0).unwrap();
        pair.agent.close(0u32.into(), b"bye");
        assert_eq!(soon(session.recv()).await, None);
        assert_eq!(send(&agent, 0, b"packet"), Err(SendError::Closed));
        assert_eq!(lost(&agent, Place::QuicSend, Reason::NoSession), 1);
    }

    #[tokio::test]
    async fn what_quinn_drops_before_it_is_read_is_counted() {
        let pair = pair().await;
        let agent = Datagrams::spawn(pair.agent.clone(), Arc::default());
        let total = 6000;
        for sent in 1..=total {
            send(&agent, 0, &[0; 1000]).unwrap();
            soon(async {
                while pair.relay.stats().frame_rx.datagram < sent {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
        // Only now does anybody read, and quinn has kept the newest four MiB.
        let relay = Datagrams::spawn(pair.relay.clone(), Arc::default());
        soon(async {
            while sums(&relay, Place::QuicReceive)[0] < total {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let overflowed = lost(&relay, Place::QuicReceive, Reason::ReceiveOverflow);
        assert!((1000..3000).contains(&overflowed), "{overflowed}");
        assert_eq!(lost(&relay, Place::QuicReceive, Reason::NoSession), total - overflowed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_longer_fits_when_the_path_shrinks_is_counted() {
        let (pair, path) = pair_over(1452).await;
        let datagrams = Datagrams::spawn(pair.agent.clone(), Arc::default());
        let fits = |datagrams: &Datagrams| datagrams.packet_bytes_max(0).unwrap();
        let before = fits(&datagrams);
        path.set_limit(PATH_1280);
        for step in 0.. {
            if fits(&datagrams) < before {
                break;
            }
            assert!(step < 10_000, "the path never shrank");
            // More than the congestion window takes, so that some wait when the path is found to have shrunk.
            while send(&datagrams, 0, &vec![0; before]).is_ok() {}
            let _ = tokio::time::timeout(Duration::from_millis(50), pair.relay.closed()).await;
        }
        assert!(sums(&datagrams, Place::QuicSend)[1] > 0);
        assert!(lost(&datagrams, Place::QuicSend, Reason::PathShrank) > 0, "{}", datagrams.ledger().sums());
    }
}
