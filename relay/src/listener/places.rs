//! How many connections an address has, where a policy limits them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{sync::OwnedSemaphorePermit, time::sleep};

use crate::route::{client::ConnectionLimit, table::ListenAddress};

/// Connections of all addresses that wait for their end because they are too many; further ones end at once, so that a
/// crowd that may not come in leaves the places of a worker to others.
const WAITING_MAX: usize = 1024;

/// The connections that are counted, of all workers: those that came while there was a limit, however it is changed.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<BTreeMap<ListenAddress, u64>>,
    waiting: AtomicUsize,
}

/// A connection's own, for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    at: ListenAddress,
}

/// What a connection takes up in its worker, and of its address's number.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _place: Option<Place>,
}

impl Places {
    /// A place at `at`, unless all are taken.
    pub(super) fn take(self: &Arc<Self>, at: ListenAddress, limit: ConnectionLimit) -> Option<Place> {
        let mut all = self.lock();
        let taken = all.entry(at).or_default();
        if *taken >= limit.connections {
            return None;
        }
        *taken += 1;
        Some(Place { places: self.clone(), at })
    }

    /// Rests before a connection too many is closed.
    pub(super) async fn turn_away(&self, limit: ConnectionLimit) {
        if limit.close_delay.is_zero() {
            return;
        }
        let waiting = Waiting::new(&self.waiting);
        if waiting.before < WAITING_MAX {
            sleep(limit.close_delay).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ListenAddress, u64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        if let Some(taken) = all.get_mut(&self.at) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.at);
            }
        }
    }
}

struct Waiting<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn places_come_back_and_a_limit_that_changes_counts_who_is_there() {
        let places = Arc::<Places>::default();
        let at = ListenAddress::shared(80);
        let limit = |connections| ConnectionLimit { connections, close_delay: Duration::ZERO };
        let first = places.take(at, limit(2)).unwrap();
        let second = places.take(at, limit(2));
        assert!(second.is_some() && places.take(at, limit(2)).is_none());
        assert!(places.take(ListenAddress::shared(81), limit(1)).is_some(), "another address");
        drop(second);
        assert!(places.take(at, limit(1)).is_none());
        drop(first);
        assert!(places.take(at, limit(1)).is_some() && places.lock().is_empty());
    }
}
