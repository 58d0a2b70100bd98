//! The garbage collector: what belongs to something that is gone goes, too.
//!
//! One task that follows the store's changes and carries out [`plan`]'s steps, a few at a time, so that others' writes
//! come between. It starts with a look at everything, because the relay may have stopped halfway.

pub mod plan;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::plan::Pending;
use crate::store::{Store, TransactError};

/// How many objects one transaction deletes or changes at most: it holds up every other write while it runs.
const STEPS_MAX: usize = 50;
/// How many changes are read from the store's log at once.
const EVENTS_MAX: usize = 1_000;
/// How long to wait when the store takes no writes.
const RETRY: Duration = Duration::from_secs(2);

/// Starts the collector; it ends with `shutdown`, or with the store.
pub fn spawn(store: Store, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = run(store) => {}
        }
    })
}

async fn run(store: Store) {
    let mut changes = store.changes();
    let mut collector = Collector::new(store);
    loop {
        changes.mark_unchanged();
        match collector.round().await {
            Round::More => {}
            Round::Idle => {
                if changes.changed().await.is_err() {
                    return;
                }
            }
            Round::Unavailable => tokio::time::sleep(RETRY).await,
            Round::Stopped => return,
        }
    }
}

/// How a round went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    More,
    Idle,
    Unavailable,
    Stopped,
}

#[derive(Debug)]
struct Collector {
    store: Store,
    /// Every change up to here was looked at.
    seen: u64,
    pending: Pending,
}

impl Collector {
    fn new(store: Store) -> Self {
        let objects = store.snapshot();
        Self { store, seen: objects.revision(), pending: Pending::of_all(&objects) }
    }

    /// Reads some of what changed, and does some of what there is to do.
    async fn round(&mut self) -> Round {
        let is_behind = self.read();
        if self.pending.is_empty() {
            return if is_behind { Round::More } else { Round::Idle };
        }
        let keys = self.pending.take(STEPS_MAX);
        let work = keys.clone();
        let done = self
            .store
            .transact(move |state, fresh| Ok::<_, std::convert::Infallible>(plan::collect(state, fresh, &work)));
        match done.await {
            Ok(done) => {
                tracing::debug!(done, "objects were collected");
                Round::More
            }
            Err(TransactError::Unavailable(_)) => {
                self.pending.put_back(keys);
                Round::Unavailable
            }
            Err(TransactError::Stopped) => Round::Stopped,
            Err(TransactError::Refused(never)) => match never {},
        }
    }

    /// Whether there is more to read.
    fn read(&mut self) -> bool {
        let objects = self.store.snapshot();
        let Ok(events) = self.store.events_after(self.seen, EVENTS_MAX) else {
            *self = Self::new(self.store.clone());
            return true;
        };
        let full = events.len() == EVENTS_MAX;
        // What is newer than the snapshot is looked at with a newer one.
        let known = events.partition_point(|event| event.revision <= objects.revision());
        self.pending.observe(&objects, events[..known].iter().map(|event| &**event));
        let last = events[..known].last().map(|event| event.revision);
        // The log holds everything up to the snapshot's revision, which may be that of no event.
        self.seen = match last {
            Some(last) if full => last,
            _ => self.seen.max(objects.revision()),
        };
        full
    }
}

#[cfg(test)]
mod tests;
