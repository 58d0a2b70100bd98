//! When each flow wants to be looked at next. One entry a flow at most, so it is as bounded as the flow table.

use std::collections::{BTreeSet, HashMap};

use smoltcp::time::Instant;

use super::flow::FlowKey;

/// Deadlines by flow, earliest first.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(Instant, FlowKey)>,
    deadline_by_flow: HashMap<FlowKey, Instant>,
}

impl Timers {
    /// Sees to it that `key` comes up no later than `at`.
    ///
    /// A deadline that moved later is left where it is: the flow comes up early once and is scheduled again. That
    /// spares the queue an update for each packet of a busy flow.
    pub(super) fn schedule(&mut self, key: FlowKey, at: Instant) {
        match self.deadline_by_flow.get_mut(&key) {
            Some(scheduled) if *scheduled <= at => {}
            Some(scheduled) => {
                self.queue.remove(&(*scheduled, key));
                *scheduled = at;
                self.queue.insert((at, key));
            }
            None => {
                self.deadline_by_flow.insert(key, at);
                self.queue.insert((at, key));
            }
        }
    }

    pub(super) fn cancel(&mut self, key: FlowKey) {
        if let Some(scheduled) = self.deadline_by_flow.remove(&key) {
            self.queue.remove(&(scheduled, key));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest entry that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<FlowKey> {
        let &(at, key) = self.queue.first()?;
        if at > now {
            return None;
        }
        self.queue.pop_first();
        self.deadline_by_flow.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey { local: ([10, 0, 0, 1], 80).into(), remote: ([10, 0, 0, 2], port).into() }
    }

    #[test]
    fn flows_come_up_in_order_of_their_earliest_deadline() {
        let at = Instant::from_secs;
        let mut timers = Timers::default();
        timers.schedule(key(1), at(9));
        timers.schedule(key(2), at(5));
        timers.schedule(key(1), at(3));
        timers.schedule(key(1), at(7));
        timers.schedule(key(3), at(1));
        timers.cancel(key(3));
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop_due(at(2)), None);
        assert_eq!(timers.pop_due(at(5)), Some(key(1)));
        assert_eq!(timers.pop_due(at(5)), Some(key(2)));
        assert_eq!(timers.pop_due(at(99)), None);
        assert_eq!(timers.next(), None);
    }
}
