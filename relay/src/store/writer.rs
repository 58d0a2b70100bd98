//! The store's one thread: runs transactions in order, commits them in groups, answers when they are durable.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::{
    disk::{Disk, DiskError, OpenError},
    object::Objects,
    state::{Fresh, State},
};
use crate::clock;

/// How many transactions may wait; more callers wait for a place.
pub(super) const QUEUE_MAX: usize = 256;
/// How many transactions share one commit at most.
const BATCH_MAX: usize = 64;

/// Runs against the state and says how to answer, once its fate is known.
pub(super) type Job = Box<dyn FnOnce(&mut State, &mut Fresh) -> Answer + Send>;
/// Called with whether the job's changes are durable.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Unavailable>) + Send>;

/// The disk takes no writes: full, read-only or broken. What was stored before is still served.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the store cannot be written ({0}): free space or repair the disk; reading goes on, and writing resumes by itself"
)]
pub struct Unavailable(Arc<DiskError>);

/// What readers see, changed only after the disk has it.
#[derive(Debug)]
pub(super) struct Published {
    pub objects: ArcSwap<Objects>,
    pub revision: watch::Sender<u64>,
}

impl Published {
    pub(super) fn new(objects: Arc<Objects>) -> Self {
        let revision = watch::Sender::new(objects.revision());
        Self { objects: ArcSwap::new(objects), revision }
    }

    fn publish(&self, objects: &Arc<Objects>) {
        if Arc::ptr_eq(&self.objects.load(), objects) {
            return;
        }
        self.objects.store(objects.clone());
        let revision = objects.revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

/// Starts the thread; it ends when every sender of `inbox` is gone.
pub(super) fn spawn(
    disk: Disk,
    state: State,
    inbox: mpsc::Receiver<Job>,
    published: Arc<Published>,
) -> Result<JoinHandle<()>, OpenError> {
    let writer = Writer { disk, state, published };
    thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(inbox)).map_err(OpenError::Thread)
}

struct Writer {
    disk: Disk,
    state: State,
    published: Arc<Published>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Job>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH_MAX
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            self.run_batch(batch);
        }
    }

    fn run_batch(&mut self, batch: Vec<Job>) {
        let broken = self.reopen().err();
        let mut answers = Vec::with_capacity(batch.len());
        for job in batch {
            let mark = self.state.mark();
            let mut fresh = Fresh::new(clock::now(), rand::random());
            let answer = job(&mut self.state, &mut fresh);
            match &broken {
                Some(error) if self.state.mark() != mark => {
                    self.state.roll_back(mark);
                    answer(Err(error.clone()));
                }
                _ => answers.push(answer),
            }
        }
        let outcome = self.commit();
        for answer in answers {
            answer(outcome.clone());
        }
    }

    /// After a failed write: what the disk holds is the truth, whether or not the failed write reached it.
    fn reopen(&mut self) -> Result<(), Unavailable> {
        if self.disk.is_open() {
            return Ok(());
        }
        self.state = self.disk.reload().map_err(|error| Unavailable(Arc::new(error)))?;
        self.published.publish(self.state.objects());
        tracing::info!("the store can be written again");
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Unavailable> {
        if self.state.is_committed() {
            return Ok(());
        }
        if let Err(error) = self.disk.write(&self.state.changes()) {
            tracing::error!(%error, "the store cannot be written; reading goes on");
            self.state.roll_back_all();
            return Err(Unavailable(Arc::new(error)));
        }
        self.state.commit();
        self.published.publish(self.state.objects());
        Ok(())
    }
}
