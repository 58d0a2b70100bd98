//! Makes etcd forget: each commit leaves the values before it behind, and by default etcd keeps them for ever.

use std::time::Duration;

use etcd_client::{KvClient, ResponseHeader};
use tokio::time::{MissedTickBehavior, interval};

use super::ask;

/// Has etcd forget, at each interval, what was overwritten before the last one: a relay that was away for less than
/// that misses nothing. Every relay does; who comes second has nothing to do.
pub(super) async fn run(mut kv: KvClient, meta: String, every: Duration) {
    let mut before = 0;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // While etcd is away its history does not grow.
        let Ok(found) = ask(kv.get(meta.as_str(), None)).await else { continue };
        let newest = found.header().map_or(0, ResponseHeader::revision);
        let forgotten = std::mem::replace(&mut before, newest);
        if forgotten > 0
            && let Err(error) = ask(kv.compact(forgotten, None)).await
        {
            tracing::debug!(%error, revision = forgotten, "etcd was not compacted");
        }
    }
}
