//! What happens in etcd, revision by revision: one watch, opened again from where it broke, and a look at whether
//! etcd still answers.

use std::{sync::Arc, time::Duration};

use etcd_client::{EventType, KvClient, WatchClient, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    ANSWER, AskError, Health, ask,
    keys::{EMPTIED, Keys},
    load::after_all,
};
use crate::store::writer::Order;

/// How often etcd is asked whether it answers, while nothing is written.
const PING: Duration = Duration::from_secs(2);
/// The first pause before the watch is opened again, and the longest; in between they double.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What the writer is fed.
pub(super) enum Fed {
    /// One etcd revision.
    Batch(Batch),
    /// Revisions are missing: read everything again.
    Lost,
    /// The lease with this id has ended.
    LeaseLost(i64),
}

/// What one etcd revision changed under our prefix.
#[derive(Debug, PartialEq)]
pub(super) struct Batch {
    pub revision: i64,
    /// Keys with their new values, `None` for deleted.
    pub events: Vec<(String, Option<Vec<u8>>)>,
}

/// The task that feeds.
pub(super) struct Feed {
    pub watch: WatchClient,
    pub kv: KvClient,
    pub keys: Keys,
    pub fed: mpsc::Sender<Fed>,
    pub orders: mpsc::WeakSender<Order>,
    pub health: Arc<Health>,
}

/// Why a watch ended.
enum End {
    /// The writer is gone.
    Stopped,
    /// What comes next is not there any more, or etcd is older than it was.
    Lost,
    Broken(AskError),
    /// A write failed: the connection is looked after.
    Doubted,
}

impl Feed {
    /// Feeds from the revision in `restart` on, and again from there whenever it changes.
    pub(super) async fn run(mut self, mut restart: watch::Receiver<i64>) {
        let mut seen = *restart.borrow_and_update();
        let mut pause = PAUSE.0;
        loop {
            match self.watch_from(&mut seen, &mut pause).await {
                End::Stopped => return,
                End::Doubted => {}
                End::Broken(error) => {
                    self.say(Some(error.to_string().into()));
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                End::Lost => {
                    if self.fed.send(Fed::Lost).await.is_err() {
                        return;
                    }
                    self.wake();
                    loop {
                        match timeout(PAUSE.1, restart.changed()).await {
                            Ok(Ok(())) => break,
                            Ok(Err(_)) => return,
                            // The writer could not read everything: it tries again.
                            Err(_) => self.wake(),
                        }
                    }
                    seen = *restart.borrow_and_update();
                }
            }
        }
    }

    /// Watches after `seen`, and moves it along.
    async fn watch_from(&mut self, seen: &mut i64, pause: &mut Duration) -> End {
        if let Err(end) = self.ping(*seen).await {
            return end;
        }
        // From what was seen last, which is skipped, and not from what comes next: a watch that begins at the very
        // revision that etcd has compacted to is not refused, and misses its deletions (etcd's issue 18089).
        let options = WatchOptions::new().with_range(after_all(self.keys.prefix())).with_start_revision(*seen);
        let mut stream = match ask(self.watch.watch(self.keys.prefix(), Some(options))).await {
            Ok(stream) => stream,
            Err(error) => return End::Broken(error),
        };
        *pause = PAUSE.0;
        self.say(None);
        self.wake();
        self.pump(&mut stream, seen).await
    }

    async fn pump(&mut self, stream: &mut WatchStream, seen: &mut i64) -> End {
        let mut health = self.health.subscribe();
        health.mark_unchanged();
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = stream.message() => {
                    let answer = match answer {
                        Ok(Some(answer)) => answer,
                        Ok(None) => return End::Broken(AskError::Unreadable("etcd ended the watch".to_owned())),
                        Err(error) => return End::Broken(error.into()),
                    };
                    if answer.compact_revision() > 0 {
                        return End::Lost;
                    }
                    if answer.canceled() {
                        return End::Broken(AskError::Unreadable(format!("etcd: {}", answer.cancel_reason())));
                    }
                    for batch in batches(&answer).into_iter().filter(|batch| batch.revision > *seen).collect::<Vec<_>>() {
                        *seen = batch.revision;
                        if self.fed.send(Fed::Batch(batch)).await.is_err() {
                            return End::Stopped;
                        }
                    }
                    self.wake();
                }
                _ = ping.tick() => if let Err(end) = self.ping(*seen).await { return end },
                _ = health.changed() => return End::Doubted,
                () = self.fed.closed() => return End::Stopped,
            }
        }
    }

    /// Whether etcd answers with what it has committed, and is not older than it was.
    async fn ping(&mut self, seen: i64) -> Result<(), End> {
        let found = timeout(ANSWER, self.kv.get(self.keys.meta(), None)).await;
        let found = found.map_err(|_| End::Broken(AskError::Silent))?.map_err(|error| End::Broken(error.into()))?;
        if found.kvs().is_empty() {
            return Err(End::Broken(AskError::Unreadable(EMPTIED.to_owned())));
        }
        match found.header().map(etcd_client::ResponseHeader::revision) {
            Some(revision) if revision < seen => Err(End::Lost),
            _ => Ok(()),
        }
    }

    fn say(&self, reason: Option<Arc<str>>) {
        let changed = self.health.send_if_modified(|known| std::mem::replace(known, reason.clone()) != reason);
        match reason {
            Some(reason) if changed => {
                tracing::warn!(%reason, "etcd is away; reading goes on, writing resumes with it");
            }
            None if changed => tracing::info!("etcd can be written again"),
            _ => {}
        }
    }

    fn wake(&self) {
        if let Some(orders) = self.orders.upgrade() {
            // A full queue wakes the writer as well.
            let _ = orders.try_send(Order::Refresh);
        }
    }
}

/// The answer's events by revision, in order; etcd never splits a revision.
fn batches(answer: &WatchResponse) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for event in answer.events() {
        let Some(pair) = event.kv() else { continue };
        let Ok(key) = pair.key_str() else { continue };
        let value = (event.event_type() == EventType::Put).then(|| pair.value().to_vec());
        let change = (key.to_owned(), value);
        match batches.last_mut() {
            Some(batch) if batch.revision == pair.mod_revision() => batch.events.push(change),
            _ => batches.push(Batch { revision: pair.mod_revision(), events: vec![change] }),
        }
    }
    batches
}
