//! The store's one thread: runs transactions in order, commits them in groups, answers when they are durable.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::{
    disk::{Disk, DiskError, OpenError},
    log::{Event, Log},
    object::Objects,
    state::{Fresh, State},
};
use crate::clock;

/// How many transactions may wait; more callers wait for a place.
pub(super) const QUEUE_MAX: usize = 256;
/// How many transactions share one commit at most.
const BATCH_MAX: usize = 64;

/// A transaction on its way through the writer.
pub(super) trait Job: Send {
    /// Runs it against the state; its changes are there afterwards, or none are.
    fn run(&mut self, state: &mut State, fresh: &mut Fresh);
    /// Tells its caller, once its fate is known.
    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>);
}

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
    log: RwLock<Log>,
}

impl Published {
    pub(super) fn new(objects: Arc<Objects>) -> Self {
        let log = RwLock::new(Log::starting_at(objects.revision()));
        let revision = watch::Sender::new(objects.revision());
        Self { objects: ArcSwap::new(objects), revision, log }
    }

    pub(super) fn log(&self) -> RwLockReadGuard<'_, Log> {
        // The log is whole between any two of its own steps, so that a reader's panic spoils nothing.
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_mut(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, objects: &Arc<Objects>, events: Vec<Arc<Event>>) {
        if Arc::ptr_eq(&self.objects.load(), objects) {
            return;
        }
        self.log_mut().append(events);
        self.objects.store(objects.clone());
        let revision = objects.revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
    }
}

/// Starts the thread; it ends when every sender of `inbox` is gone.
pub(super) fn spawn(
    disk: Disk,
    state: State,
    inbox: mpsc::Receiver<Box<dyn Job>>,
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
    fn run(mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
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

    fn run_batch(&mut self, batch: Vec<Box<dyn Job>>) {
        let broken = self.reopen().err();
        let mut done = Vec::with_capacity(batch.len());
        for mut job in batch {
            let mark = self.state.mark();
            job.run(&mut self.state, &mut Fresh::new(clock::now(), rand::random()));
            match &broken {
                Some(error) if self.state.changed_since(mark) => {
                    self.state.roll_back(mark);
                    job.answer(Err(error.clone()));
                }
                _ => done.push(job),
            }
        }
        let outcome = self.commit();
        for job in done {
            job.answer(outcome.clone());
        }
    }

    /// After a failed write: what the disk holds is the truth, whether or not the failed write reached it.
    fn reopen(&mut self) -> Result<(), Unavailable> {
        if self.disk.is_open() {
            return Ok(());
        }
        self.state = self.disk.reload().map_err(|error| Unavailable(Arc::new(error)))?;
        // What the failed write did, if it did anything, is known as a whole only: watchers list again.
        let revision = self.state.objects().revision();
        self.published.log_mut().compact(revision);
        self.published.publish(self.state.objects(), Vec::new());
        tracing::info!("the store can be written again");
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Unavailable> {
        if self.state.is_committed() {
            return Ok(());
        }
        let changes = self.state.changes();
        if let Err(error) = self.disk.write(&changes) {
            tracing::error!(%error, "the store cannot be written; reading goes on");
            self.state.roll_back_all();
            return Err(Unavailable(Arc::new(error)));
        }
        self.state.commit();
        self.published.publish(self.state.objects(), changes.events);
        Ok(())
    }
}
