//! The one place where the relay reads the clock; everything else takes the time as an argument.

use std::time::SystemTime;

use time::OffsetDateTime;

/// The wall clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> OffsetDateTime {
    SystemTime::now().into()
}

/// The monotonic clock.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}
