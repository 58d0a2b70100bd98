//! How long to wait before the next attempt: exponential, with full jitter.

use std::time::Duration;

/// The bound of the first wait.
///
/// Half a second: a relay that restarts is back in about that time.
const FIRST: Duration = Duration::from_millis(500);

/// The bound of every later wait.
///
/// Thirty seconds: an office host is back within half a minute of its relay, and ten thousand agents spread over it
/// are 330 handshakes a second, a quarter of what one core of a relay takes.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits whose bound grows from half a second to thirty; each is drawn from zero to its bound.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure; `random` is uniform in 0.0..1.0.
    pub fn next(&mut self, random: f64) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let bounds: Vec<_> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        for _ in 0..100 {
            assert_eq!(backoff.next(1.0), LONGEST);
        }
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().next(0.0), Duration::ZERO);
        assert_eq!(Backoff::default().next(0.5), FIRST / 2);
    }

    #[test]
    fn a_success_begins_anew() {
        let mut backoff = Backoff::default();
        backoff.next(1.0);
        backoff.next(1.0);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
    }
}
