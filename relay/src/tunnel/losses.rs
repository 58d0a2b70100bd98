//! Says in the log which packets were lost, where and why; nothing while none is.

use tokio::time::interval;
use tracing::{info, warn};
use underpass_shared::{
    ledger::Report,
    quic::socket::{SocketLosses, larger_buffers_hint},
};

use super::Tunnels;
use crate::clock;

/// Looks every few seconds, for ever.
pub(crate) async fn report(tunnels: Tunnels, mut socket: Option<SocketLosses>) {
    let ledger = &**tunnels.ledger();
    let since = clock::instant();
    let (mut report, mut look) = (Report::new(ledger), interval(Report::LOOK));
    let mut hinted = false;
    loop {
        look.tick().await;
        tunnels.settle(clock::instant());
        let dropped = socket.as_mut().map_or(0, |socket| socket.settle(ledger));
        if dropped > 0 && !hinted {
            hinted = true;
            if let Some(hint) = larger_buffers_hint() {
                warn!("{hint}");
            }
        }
        if let Some(lost) = report.due(ledger, since.elapsed()) {
            info!(%lost, "packets were lost");
        }
    }
}
