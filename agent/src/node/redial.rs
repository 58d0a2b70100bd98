//! Whom to dial next, and when: the life of a node's session over the sessions it has.
//!
//! Feed it what happened; it answers what to do. It holds no clock, no socket and no randomness.

use std::time::Duration;

use super::backoff::Backoff;

/// A session that lasted this long was a good one: the next wait begins anew.
///
/// Shorter ones count as failures, so that a relay that accepts and drops is not dialled in a tight loop.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// How a session, or the attempt at one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No session came to be: unreachable, refused for now, or timed out.
    Failed,
    /// It stood for this long and then was lost.
    Lost { lasted: Duration },
    /// The relay asked us to go elsewhere: to this one, where it named one.
    Drained { elsewhere: Option<usize> },
}

/// What to do next: wait, then dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub wait: Duration,
    /// Index into the list of relays.
    pub relay: usize,
}

/// The order of attempts over `relays` relays.
#[derive(Debug)]
pub struct Redial {
    relays: usize,
    current: usize,
    backoff: Backoff,
}

impl Redial {
    /// # Panics
    /// When `relays` is 0: an agent without a relay cannot be configured.
    #[must_use]
    pub fn new(relays: usize) -> Self {
        assert!(relays > 0, "an agent has at least one relay");
        Self { relays, current: 0, backoff: Backoff::default() }
    }

    /// The relay to dial first.
    #[must_use]
    pub fn first(&self) -> usize {
        self.current
    }

    /// What follows `end`; `random` is uniform in 0.0..1.0.
    ///
    /// A relay that failed or drains is left for the next one; a lost session is tried again where it was.
    pub fn handle_end(&mut self, end: End, random: f64) -> Next {
        match end {
            End::Lost { lasted } if lasted >= GOOD_SESSION => self.backoff.reset(),
            End::Lost { .. } => {}
            End::Drained { elsewhere: Some(relay) } => self.current = relay % self.relays,
            End::Failed | End::Drained { elsewhere: None } => self.current = (self.current + 1) % self.relays,
        }
        Next { wait: self.backoff.next(random), relay: self.current }
    }

    /// Relays may come and go with each renewal of the certificate.
    ///
    /// # Panics
    /// When `relays` is 0.
    pub fn set_relays(&mut self, relays: usize) {
        assert!(relays > 0, "an agent has at least one relay");
        self.relays = relays;
        self.current %= relays;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn failures_go_round_the_relays_with_growing_waits() {
        let mut redial = Redial::new(3);
        assert_eq!(redial.first(), 0);
        let seen: Vec<_> = (0..4).map(|_| redial.handle_end(End::Failed, 1.0)).collect();
        let want = [(500, 1), (1000, 2), (2000, 0), (4000, 1)];
        assert_eq!(seen, want.map(|(wait, relay)| Next { wait: MS * wait, relay }));
    }

    #[test]
    fn a_good_session_is_resumed_where_it_was_and_soon() {
        let mut redial = Redial::new(2);
        redial.handle_end(End::Failed, 1.0);
        redial.handle_end(End::Failed, 1.0);
        assert_eq!(redial.handle_end(End::Lost { lasted: GOOD_SESSION }, 1.0), Next { wait: MS * 500, relay: 0 });
    }

    #[test]
    fn sessions_that_do_not_last_back_off() {
        let mut redial = Redial::new(1);
        let short = End::Lost { lasted: MS };
        assert_eq!(redial.handle_end(short, 1.0).wait, MS * 500);
        assert_eq!(redial.handle_end(short, 1.0).wait, MS * 1000);
    }

    #[test]
    fn a_draining_relay_is_left_for_the_one_it_names_or_the_next() {
        for (elsewhere, relay) in [(None, 1), (Some(2), 2), (Some(0), 0)] {
            let next = Redial::new(3).handle_end(End::Drained { elsewhere }, 0.0);
            assert_eq!(next, Next { wait: Duration::ZERO, relay });
        }
    }

    #[test]
    fn a_shorter_list_of_relays_keeps_the_index_in_range() {
        let mut redial = Redial::new(3);
        redial.handle_end(End::Failed, 0.0);
        redial.handle_end(End::Failed, 0.0);
        redial.set_relays(1);
        assert_eq!(redial.handle_end(End::Lost { lasted: MS }, 0.0).relay, 0);
    }
}
