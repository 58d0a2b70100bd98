//! Waiting: for one future with a deadline, or for a state that nobody announces.

use std::{fmt::Debug, time::Duration};

/// How long anything may take that is not a bulk transfer. Generous: the machine may be building beside us.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a state that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits for `future`, at most `limit`.
///
/// # Panics
/// At the limit, naming `what` was awaited.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing within {limit:?}"),
    }
}

/// Looks until `look` gives `Ok`, and returns that; `Err` says what was seen instead.
///
/// # Panics
/// After [`PATIENCE`], naming `what` was awaited and what was seen last.
pub async fn eventually<T, E: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut seen = None;
    let looking = async {
        let mut ticks = tokio::time::interval(LOOK_AGAIN);
        loop {
            ticks.tick().await;
            match look().await {
                Ok(found) => return found,
                Err(other) => seen = Some(other),
            }
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("{what}: not within {PATIENCE:?}; last seen: {seen:?}"),
    }
}
