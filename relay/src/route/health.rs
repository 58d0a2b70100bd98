//! Whether an endpoint may get requests: what its answers say of it, and what it says when it is asked.
//!
//! Lock-free but for the ejections themselves. Times are counted from one start that is the same for all.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::traffic::{Active, Passive};

/// The longest time that an endpoint stays out for its answers, unless the base is longer (Envoy's default).
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// How an exchange with an endpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Answered(u16),
    /// No connection, or it broke, or nothing came in time.
    Failed,
}

/// One endpoint's state, which all workers share.
#[derive(Debug, Default)]
pub struct Member {
    /// When it was first seen.
    pub(super) since: Duration,
    pub(super) in_flight: AtomicU32,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    /// Milliseconds.
    ejected_until: AtomicU64,
    ejections: Mutex<Ejections>,
    /// Whether it fails when it is asked.
    failing: AtomicBool,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Ejections {
    /// How often, less what was lived down.
    times: u32,
    until: Duration,
}

/// The last answers when it was asked.
#[derive(Debug, Default)]
struct Asked {
    is_known: bool,
    good: u32,
    bad: u32,
}

impl Member {
    #[must_use]
    pub fn new(since: Duration) -> Self {
        Self { since, ..Self::default() }
    }

    /// Whether it is out for its answers.
    #[must_use]
    pub fn is_ejected(&self, now: Duration) -> bool {
        millis(now) < self.ejected_until.load(Relaxed)
    }

    #[must_use]
    pub fn is_healthy(&self, now: Duration) -> bool {
        !self.failing.load(Relaxed) && !self.is_ejected(now)
    }

    /// Counts an outcome; says whether it is one too many.
    pub(super) fn count(&self, passive: &Passive, outcome: Outcome) -> bool {
        let (local, status) = match outcome {
            Outcome::Failed if passive.split => (true, None),
            Outcome::Failed => (false, Some(503)),
            Outcome::Answered(status) => (false, Some(status)),
        };
        if local {
            return reaches(&self.local_failures, passive.local_failures);
        }
        let status = status.unwrap_or_default();
        if status < 500 {
            // Read first: what many workers write at once is slow, and it is nearly always zero.
            for counter in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
                if counter.load(Relaxed) != 0 {
                    counter.store(0, Relaxed);
                }
            }
            return false;
        }
        self.local_failures.store(0, Relaxed);
        let gateway = if matches!(status, 502..=504) {
            reaches(&self.gateway_errors, passive.gateway_errors)
        } else {
            self.gateway_errors.store(0, Relaxed);
            false
        };
        reaches(&self.server_errors, passive.server_errors) || gateway
    }

    /// Takes it out from `now` on, for the longer the more often it was.
    pub(super) fn eject(&self, passive: &Passive, now: Duration) {
        let mut ejections = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
        if now < ejections.until {
            return;
        }
        let good = now.saturating_sub(ejections.until).as_nanos();
        let lived_down = good.checked_div(passive.interval.as_nanos()).unwrap_or_default();
        ejections.times =
            ejections.times.saturating_sub(u32::try_from(lived_down).unwrap_or(u32::MAX)).saturating_add(1);
        let longest = EJECTION_MAX.max(passive.base);
        ejections.until = now + passive.base.saturating_mul(ejections.times).min(longest);
        self.ejected_until.store(millis(ejections.until), Relaxed);
        for counter in [&self.server_errors, &self.gateway_errors, &self.local_failures] {
            counter.store(0, Relaxed);
        }
    }

    /// Notes what came when it was asked. The first answer decides at once, the later ones when enough are alike.
    ///
    /// Returns whether it is healthy now, when that has changed.
    pub fn asked(&self, active: &Active, is_good: bool) -> Option<bool> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        (asked.good, asked.bad) =
            if is_good { (asked.good.saturating_add(1), 0) } else { (0, asked.bad.saturating_add(1)) };
        let decides =
            !asked.is_known || asked.good >= active.healthy && is_good || asked.bad >= active.unhealthy && !is_good;
        asked.is_known = true;
        let was_good = !self.failing.load(Relaxed);
        if !decides || was_good == is_good {
            return None;
        }
        self.failing.store(!is_good, Relaxed);
        Some(is_good)
    }
}

fn reaches(counter: &AtomicU32, threshold: u32) -> bool {
    threshold > 0 && counter.fetch_add(1, Relaxed).saturating_add(1) >= threshold
}

/// Rounded up, so that a time is over when it says so.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::traffic::Probe;

    const PASSIVE: Passive = Passive {
        split: false,
        interval: Duration::from_secs(10),
        local_failures: 2,
        gateway_errors: 3,
        server_errors: 5,
        base: Duration::from_secs(30),
        max_percent: 100,
    };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn first_too_many(passive: &Passive, outcomes: &[Outcome]) -> Option<usize> {
        let member = Member::default();
        outcomes.iter().position(|&outcome| member.count(passive, outcome))
    }

    #[test]
    fn only_failures_in_a_row_count_and_each_sort_has_its_own_threshold() {
        use Outcome::{Answered, Failed};
        let check = |passive: &Passive, outcomes: &[Outcome], want| {
            assert_eq!(first_too_many(passive, outcomes), want, "{outcomes:?}");
        };
        check(&PASSIVE, &[Answered(500); 6], Some(4));
        check(&PASSIVE, &[Answered(502); 6], Some(2));
        check(&PASSIVE, &[Failed; 6], Some(2));
        check(&PASSIVE, &[Answered(404); 60], None);
        let broken = [Answered(500), Answered(500), Answered(500), Answered(500), Answered(200), Answered(500)];
        check(&PASSIVE, &broken, None);
        let mixed = [Answered(503), Answered(503), Answered(500), Answered(503), Answered(503)];
        check(&PASSIVE, &mixed, Some(4));
        let split = Passive { split: true, ..PASSIVE };
        check(&split, &[Failed; 6], Some(1));
        check(&split, &[Failed, Answered(500), Failed, Answered(200), Failed], None);
        let never = Passive { server_errors: 0, gateway_errors: 0, ..PASSIVE };
        check(&never, &[Answered(503); 60], None);
    }

    #[test]
    fn each_ejection_is_longer_until_it_is_lived_down() {
        let member = Member::default();
        assert!(member.is_healthy(secs(0)));
        member.eject(&PASSIVE, secs(100));
        assert!(!member.is_healthy(secs(129)) && member.is_healthy(secs(130)));
        member.eject(&PASSIVE, secs(110));
        assert!(member.is_healthy(secs(130)), "it is out already: nothing is added");
        member.eject(&PASSIVE, secs(131));
        assert!(!member.is_healthy(secs(190)) && member.is_healthy(secs(191)));
        // Good for one interval: one is forgotten.
        member.eject(&PASSIVE, secs(202));
        assert!(!member.is_healthy(secs(261)) && member.is_healthy(secs(262)));
        // Good for long: all are.
        member.eject(&PASSIVE, secs(1000));
        assert!(!member.is_healthy(secs(1029)) && member.is_healthy(secs(1030)));
        let mut now = 1030;
        for _ in 0..20 {
            member.eject(&PASSIVE, secs(now));
            assert!(member.is_healthy(secs(now + 300)), "never longer than {EJECTION_MAX:?}");
            now += 300;
        }
    }

    #[test]
    fn the_first_answer_decides_and_then_enough_of_one_sort() {
        let probe = Probe::Tcp { send: Arc::default(), receive: Arc::default() };
        let (timeout, interval, initial_jitter) = (secs(1), secs(3), secs(0));
        let active = Active { probe, timeout, interval, initial_jitter, unhealthy: 3, healthy: 2 };
        let member = Member::default();
        assert!(member.is_healthy(secs(0)), "before it was ever asked");
        assert_eq!(member.asked(&active, false), Some(false));
        assert!(!member.is_healthy(secs(0)));
        let told = [true, false, true, true, false, false, true, false, false, false];
        let changes: Vec<_> = told.into_iter().map(|is_good| member.asked(&active, is_good)).collect();
        let mut want = vec![None; 10];
        (want[3], want[9]) = (Some(true), Some(false));
        assert_eq!(changes, want);
    }
}
