//! HTTP datagrams of one connection: one reader hands them to sessions, senders put them into one buffer each.
//!
//! Nothing is lost in silence: whatever is not delivered is counted by reason.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::AbortHandle};

use crate::wire::datagram::{self, DatagramError};

/// How many packets wait for one session; beyond it the newest is dropped, as the queue is in order.
pub const QUEUE_PACKETS_MAX: usize = 512;

/// How many sessions one connection may have.
pub const SESSIONS_MAX: usize = 64;

/// `H3_DATAGRAM_ERROR` (RFC 9297 §5.2).
const H3_DATAGRAM_ERROR: u32 = 0x33;

/// The datagrams of one connection. Clones are the same; with the last one, receivers included, the reader stops.
#[derive(Debug, Clone)]
pub struct Datagrams {
    shared: Arc<Shared>,
    _reader: Arc<Reader>,
}

/// The packets of one session. Dropping it ends the registration.
#[derive(Debug)]
pub struct Receiver {
    stream_id: u64,
    packets: mpsc::Receiver<Bytes>,
    owner: Datagrams,
}

/// How many datagrams of a connection met which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handed to a session.
    pub received: u64,
    /// Taken by quinn to be sent.
    pub sent: u64,
    /// Dropped: the session's queue was full.
    pub queue_full: u64,
    /// Dropped: no session has that stream id.
    pub unknown_stream: u64,
    /// Dropped: the context id was never registered.
    pub unknown_context: u64,
    /// Dropped: too short for its header.
    pub malformed: u64,
    /// Not sent: as many bytes wait as may.
    pub send_queue_full: u64,
    /// Not sent as datagram: larger than the path takes.
    pub too_large: u64,
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
    /// Send it as a DATAGRAM capsule, or answer with Packet Too Big.
    #[error("the packet is larger than the path takes as a datagram")]
    TooLarge,
    /// The packet is dropped.
    #[error("the queue to the path is full")]
    Full,
    #[error("the peer takes no datagrams")]
    Unsupported,
    #[error("the connection has ended")]
    Lost,
}

#[derive(Debug)]
struct Shared {
    connection: quinn::Connection,
    queue_by_stream: Mutex<BTreeMap<u64, mpsc::Sender<Bytes>>>,
    counters: Counters,
}

#[derive(Debug)]
struct Reader(AbortHandle);

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
    queue_full: AtomicU64,
    unknown_stream: AtomicU64,
    unknown_context: AtomicU64,
    malformed: AtomicU64,
    send_queue_full: AtomicU64,
    too_large: AtomicU64,
}

impl Datagrams {
    /// Starts the connection's one reader. It ends with the connection or with the last clone.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn spawn(connection: quinn::Connection) -> Self {
        let shared = Arc::new(Shared { connection, queue_by_stream: Mutex::default(), counters: Counters::default() });
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

    /// Sends `packet` for the session on request stream `stream_id`; never waits.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, stream_id: u64, packet: &[u8]) -> Result<(), SendError> {
        let Shared { connection, counters, .. } = &*self.shared;
        let frame = datagram::encode(stream_id, packet);
        if connection.datagram_send_buffer_space() < frame.len() {
            // quinn would make room by dropping the oldest, and tell nobody.
            return match connection.max_datagram_size() {
                None => Err(self.unsendable()),
                Some(max) if frame.len() > max => Err(count(&counters.too_large, SendError::TooLarge)),
                Some(_) => Err(count(&counters.send_queue_full, SendError::Full)),
            };
        }
        match connection.send_datagram(frame) {
            Ok(()) => {
                counters.sent.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(quinn::SendDatagramError::TooLarge) => Err(count(&counters.too_large, SendError::TooLarge)),
            Err(quinn::SendDatagramError::ConnectionLost(_)) => Err(SendError::Lost),
            Err(quinn::SendDatagramError::UnsupportedByPeer | quinn::SendDatagramError::Disabled) => {
                Err(SendError::Unsupported)
            }
        }
    }

    /// The largest packet that now fits a datagram of the session on `stream_id`, in bytes; it moves with the path.
    /// `None`: the peer takes no datagrams.
    #[must_use]
    pub fn packet_bytes_max(&self, stream_id: u64) -> Option<usize> {
        self.shared.connection.max_datagram_size().map(|max| max.saturating_sub(datagram::header_bytes(stream_id)))
    }

    /// What became of the connection's datagrams so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            received: read(&counters.received),
            sent: read(&counters.sent),
            queue_full: read(&counters.queue_full),
            unknown_stream: read(&counters.unknown_stream),
            unknown_context: read(&counters.unknown_context),
            malformed: read(&counters.malformed),
            send_queue_full: read(&counters.send_queue_full),
            too_large: read(&counters.too_large),
        }
    }

    fn unsendable(&self) -> SendError {
        match self.shared.connection.close_reason() {
            Some(_) => SendError::Lost,
            None => SendError::Unsupported,
        }
    }
}

impl Receiver {
    /// The next packet; `None` when the connection has ended. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.packets.recv().await
    }

    /// Adds up to `limit` packets to `batch` and says how many; 0 when the connection has ended. Cancel-safe.
    pub async fn recv_many(&mut self, batch: &mut Vec<Bytes>, limit: usize) -> usize {
        self.packets.recv_many(batch, limit).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.owner.shared.queues().remove(&self.stream_id);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    fn queues(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, mpsc::Sender<Bytes>>> {
        self.queue_by_stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands `frame` to its session, or says what becomes of it.
    fn deliver(&self, frame: Bytes) -> Result<(), DatagramError> {
        let counters = &self.counters;
        let (stream_id, payload) = datagram::decode(frame)?;
        let Some(queue) = self.queues().get(&stream_id).cloned() else {
            counters.unknown_stream.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        };
        let outcome = match queue.try_send(datagram::decode_payload(payload)?) {
            Ok(()) => &counters.received,
            Err(mpsc::error::TrySendError::Full(_)) => &counters.queue_full,
            Err(mpsc::error::TrySendError::Closed(_)) => &counters.unknown_stream,
        };
        outcome.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

async fn read(shared: Arc<Shared>) {
    while let Ok(frame) = shared.connection.read_datagram().await {
        match shared.deliver(frame) {
            Ok(()) => {}
            Err(DatagramError::UnknownContext(_)) => {
                shared.counters.unknown_context.fetch_add(1, Ordering::Relaxed);
            }
            Err(error @ (DatagramError::Truncated | DatagramError::StreamId)) => {
                shared.counters.malformed.fetch_add(1, Ordering::Relaxed);
                shared.connection.close(H3_DATAGRAM_ERROR.into(), error.to_string().as_bytes());
            }
        }
    }
    shared.queues().clear();
}

fn count(counter: &AtomicU64, error: SendError) -> SendError {
    counter.fetch_add(1, Ordering::Relaxed);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        quic::testbed::{Pair, pair, soon},
        wire::varint,
    };

    fn both(pair: &Pair) -> (Datagrams, Datagrams) {
        (Datagrams::spawn(pair.relay.clone()), Datagrams::spawn(pair.agent.clone()))
    }

    /// Waits until the counts of `datagrams` satisfy `enough`.
    async fn counted(datagrams: &Datagrams, enough: impl Fn(&Counts) -> bool) -> Counts {
        soon(async {
            loop {
                let counts = datagrams.counts();
                if enough(&counts) {
                    return counts;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
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
                agent.send(id, format!("up {id} {round}").as_bytes()).unwrap();
                relay.send(id, format!("down {id} {round}").as_bytes()).unwrap();
            }
            for (i, id) in ids.into_iter().enumerate() {
                assert_eq!(soon(at_relay[i].recv()).await.unwrap(), format!("up {id} {round}"));
                assert_eq!(soon(at_agent[i].recv()).await.unwrap(), format!("down {id} {round}"));
            }
        }
        let want = Counts { received: 100, sent: 100, ..Counts::default() };
        assert_eq!((relay.counts(), agent.counts()), (want, want));
    }

    #[tokio::test]
    async fn what_cannot_be_delivered_is_counted_by_reason() {
        let pair = pair().await;
        let (relay, agent) = both(&pair);
        let mut session = relay.register(4).unwrap();
        agent.send(8, b"nobody's").unwrap();
        pair.agent.send_datagram(Bytes::from_static(&[1, 2, 0])).unwrap();
        agent.send(4, b"mine").unwrap();
        assert_eq!(soon(session.recv()).await.unwrap(), "mine");
        let want = Counts { received: 1, unknown_stream: 1, unknown_context: 1, ..Counts::default() };
        assert_eq!(relay.counts(), want);
        drop(session);
        agent.send(4, b"too late").unwrap();
        counted(&relay, |counts| counts.unknown_stream == 2).await;
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
            assert_eq!(relay.counts().malformed, 1);
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
            agent.send(0, &n.to_be_bytes()).unwrap();
            agent.send(4, b"tick").unwrap();
            soon(quick.recv()).await.unwrap();
        }
        let counts = counted(&relay, |counts| counts.queue_full == 10).await;
        assert_eq!(counts.received as usize, total + QUEUE_PACKETS_MAX);
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
        assert_eq!(agent.send(4, &too_large), Err(SendError::TooLarge));
        assert_eq!(agent.counts().too_large, 1);
        let fits = agent.packet_bytes_max(4).unwrap();
        assert!(fits >= 1100, "{fits}");
        agent.send(4, &too_large[..fits]).unwrap();
        assert_eq!(soon(session.recv()).await.unwrap().len(), fits);
    }

    #[tokio::test]
    async fn a_full_send_queue_drops_the_newest_and_says_so() {
        let pair = pair().await;
        let (_relay, agent) = both(&pair);
        let packet = vec![0; 1000];
        // Nothing is awaited, so that nothing is sent meanwhile.
        let refused = (0..2000).find_map(|_| agent.send(4, &packet).err());
        assert_eq!(refused, Some(SendError::Full));
        let counts = agent.counts();
        assert_eq!(counts.send_queue_full, 1);
        assert!(counts.sent > 900, "{counts:?}");
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
        assert_eq!(agent.send(0, b"packet"), Err(SendError::Lost));
    }
}
