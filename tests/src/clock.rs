//! The clock of the benches. Tests have none: they wait for events.

use std::time::Instant;

/// Now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}
