//! Says in the log which packets were lost, where and why; nothing while none is.

use std::{sync::Arc, time::Duration};

use tokio::time::interval;
use tracing::{info, warn};

use super::socket::{SocketLosses, larger_buffers_hint};
use crate::ledger::{Ledger, Report};

/// Looks every few seconds, for ever. `settle` brings the ledger up to date first, and tells the time since any moment that
/// stays the same.
pub async fn report(
    ledger: Arc<Ledger>,
    mut socket: Option<SocketLosses>,
    settle: impl Fn() -> Duration + Send + 'static,
) {
    let (mut report, mut look) = (Report::new(&ledger), interval(Report::LOOK));
    let mut hinted = false;
    loop {
        look.tick().await;
        let now = settle();
        let dropped = socket.as_mut().map_or(0, |socket| socket.settle(&ledger));
        if dropped > 0 && !hinted {
            hinted = true;
            if let Some(hint) = larger_buffers_hint() {
                warn!("{hint}");
            }
        }
        if let Some(lost) = report.due(&ledger, now) {
            info!(%lost, "packets were lost");
        }
    }
}
