//! The task that turns a netstack: the only place that waits, and the only one that reads the clock.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smoltcp::time::Instant;
use tokio::sync::mpsc;

use super::flow::{PendingFlow, Shared};
use super::stack::Stack;
use super::udp::Wanted;
use super::{Dial, TcpFlow};

/// Packets that are taken in before the flows get their turns.
const BATCH_PACKETS: usize = 64;

/// Dials that are begun before the flows get their turns.
const BATCH_DIALS: usize = 32;

/// Signals that are taken before the flows get their turns.
const BATCH_SIGNALS: usize = 1024;

/// Does all the work of a [`super::Netstack`]. Nothing moves unless [`Self::run`] is polled.
///
/// Dropping it ends every flow with an error.
#[derive(Debug)]
pub struct Driver {
    pub(super) stack: Stack,
    pub(super) shared: Arc<Shared>,
    pub(super) inbound: mpsc::Receiver<Bytes>,
    pub(super) outbound: mpsc::Sender<BytesMut>,
    pub(super) dials: mpsc::Receiver<Dial>,
    pub(super) wanted: mpsc::Receiver<Wanted>,
    pub(super) arrivals: mpsc::Sender<PendingFlow>,
    pub(super) started: tokio::time::Instant,
}

/// Why a wait ended.
enum Woken {
    /// Look at everything again.
    Work,
    /// No handle is left.
    Unattended,
    /// The packet port is gone.
    Unplugged,
}

impl Driver {
    /// Runs until the packet port is dropped, or all handles are dropped and the last flow has ended.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_PACKETS);
        let mut attended = true;
        loop {
            let busy = self.work(&mut batch);
            if !attended && self.stack.is_idle() {
                return;
            }
            if busy {
                // There is more to do, and others have waited long enough.
                tokio::task::yield_now().await;
                continue;
            }
            match self.wait(&mut batch, attended).await {
                Woken::Work => {}
                Woken::Unattended => {
                    attended = false;
                    self.stack.stop_accepting();
                }
                Woken::Unplugged => return,
            }
        }
    }

    /// One round. True if there is more to do at once.
    fn work(&mut self, batch: &mut Vec<Bytes>) -> bool {
        let now = self.now();
        let signals = self.take_signals(now);
        self.begin_dials(now);
        let datagrams = self.send_datagrams(now);
        self.stack.handle_timeout(now);
        while batch.len() < BATCH_PACKETS {
            let Ok(packet) = self.inbound.try_recv() else { break };
            batch.push(packet);
        }
        let full = batch.len() >= BATCH_PACKETS;
        for packet in batch.drain(..) {
            self.stack.handle_packet(packet, now);
        }
        self.stack.poll_flows(now);
        self.announce();
        while self.stack.has_output()
            && let Ok(permit) = self.outbound.try_reserve()
        {
            if let Some(packet) = self.stack.poll_transmit() {
                permit.send(packet);
            }
        }
        full || signals || datagrams || (self.stack.has_ready() && !self.stack.is_blocked())
    }

    /// True if the most one round takes were taken.
    fn take_signals(&mut self, now: Instant) -> bool {
        for _ in 0..BATCH_SIGNALS {
            let Some(cell) = self.shared.take_signal() else { return false };
            self.stack.handle_signal(&cell, now);
        }
        true
    }

    /// Tells the application of SYNs, as long as it takes them.
    fn announce(&mut self) {
        while self.stack.has_pending() {
            let permit = match self.arrivals.try_reserve() {
                Ok(permit) => Some(permit),
                Err(mpsc::error::TrySendError::Full(())) => return,
                // Nobody listens any more: dropping a pending flow refuses it.
                Err(mpsc::error::TrySendError::Closed(())) => None,
            };
            let pending = self.stack.poll_pending().map(PendingFlow::new);
            if let (Some(permit), Some(pending)) = (permit, pending) {
                permit.send(pending);
            }
        }
    }

    /// True if the most one round takes were taken. While nobody fetches packets they wait in their queue.
    fn send_datagrams(&mut self, now: Instant) -> bool {
        for _ in 0..BATCH_PACKETS {
            if self.stack.is_blocked() {
                return false;
            }
            let Ok(wanted) = self.wanted.try_recv() else { return false };
            self.stack.handle_wanted(wanted, now);
        }
        true
    }

    fn begin_dials(&mut self, now: Instant) {
        for _ in 0..BATCH_DIALS {
            let Ok(dial) = self.dials.try_recv() else { return };
            self.begin(dial, now);
        }
    }

    fn begin(&mut self, dial: Dial, now: Instant) {
        if dial.reply.is_closed() {
            return;
        }
        // A caller that went away in between drops the flow with the answer, which resets it.
        let _ = dial.reply.send(self.stack.handle_dial(dial.remote, now).map(TcpFlow::new));
    }

    async fn wait(&mut self, batch: &mut Vec<Bytes>, attended: bool) -> Woken {
        let due = self.stack.poll_timeout().map(|at| self.instant(at));
        let output = self.stack.has_output();
        let outbound = self.outbound.clone();
        let arrivals = self.arrivals.clone();
        let pending = self.stack.has_pending();
        let blocked = self.stack.is_blocked();
        tokio::select! {
            biased;
            room = outbound.reserve(), if output => match (room, self.stack.poll_transmit()) {
                (Ok(room), Some(packet)) => {
                    room.send(packet);
                    Woken::Work
                }
                (Ok(_), None) => Woken::Work,
                (Err(_), _) => Woken::Unplugged,
            },
            () = outbound.closed() => Woken::Unplugged,
            taken = self.inbound.recv_many(batch, BATCH_PACKETS) => match taken {
                0 => Woken::Unplugged,
                _ => Woken::Work,
            },
            () = self.shared.wake.notified() => Woken::Work,
            Some(wanted) = self.wanted.recv(), if !blocked => {
                let now = self.now();
                self.stack.handle_wanted(wanted, now);
                Woken::Work
            }
            _ = arrivals.reserve(), if pending => Woken::Work,
            dial = self.dials.recv(), if attended => match dial {
                Some(dial) => {
                    self.begin(dial, self.now());
                    Woken::Work
                }
                None => Woken::Unattended,
            },
            () = sleep_until(due) => Woken::Work,
        }
    }

    /// The time since the netstack was made, as smoltcp counts it.
    fn now(&self) -> Instant {
        let elapsed = tokio::time::Instant::now() - self.started;
        Instant::from_micros(i64::try_from(elapsed.as_micros()).expect("a process runs for less than 292,000 years"))
    }

    fn instant(&self, at: Instant) -> tokio::time::Instant {
        let since = std::time::Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
        // Tokio's clock counts milliseconds; a rounded-down deadline would be woken for in vain.
        self.started + since + std::time::Duration::from_millis(1)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stack.abort();
        while let Some(cell) = self.shared.take_signal() {
            self.stack.handle_signal(&cell, Instant::ZERO);
        }
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
