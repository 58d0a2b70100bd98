//! The store's one thread: runs transactions in order, commits them in groups, answers when they are durable.
//! With several relays it also takes in what the others committed, between two groups.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::{
    disk::OpenError,
    journal::{Failure, Journal, News, Unavailable},
    log::{Event, Log},
    object::Objects,
    record::Leased,
    state::{Fresh, State},
};
use crate::clock;

/// How many transactions may wait; more callers wait for a place.
pub(super) const QUEUE_MAX: usize = 256;
/// How many transactions share one commit at most: all that may wait.
const BATCH_MAX: usize = QUEUE_MAX;

/// How often a batch is run again because other relays were faster; each of these times another one got through.
const RACES_MAX: usize = 100;

/// A transaction on its way through the writer.
pub(super) trait Job: Send {
    /// Runs it against the state; its changes are there afterwards, or none are.
    fn run(&mut self, state: &mut State, fresh: &mut Fresh);
    /// Whether it only read and found what it wanted, which may be told even when newer may be elsewhere.
    fn is_read(&self) -> bool;
    /// Tells its caller, once its fate is known.
    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>);
}

/// What wakes the writer.
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "only a shared store has news"))]
pub(super) enum Order {
    Run(Box<dyn Job>),
    /// The journal has news.
    Refresh,
}

/// What readers see, changed only after the disk has it.
#[derive(Debug)]
pub(super) struct Published {
    pub objects: ArcSwap<Objects>,
    pub revision: watch::Sender<u64>,
    pub leased: watch::Sender<Leased>,
    log: RwLock<Log>,
}

impl Published {
    pub(super) fn new(state: &State) -> Self {
        let objects = state.objects().clone();
        let log = RwLock::new(Log::starting_at(objects.revision()));
        let revision = watch::Sender::new(objects.revision());
        let leased = watch::Sender::new(state.leased().clone());
        Self { objects: ArcSwap::new(objects), revision, leased, log }
    }

    pub(super) fn log(&self) -> RwLockReadGuard<'_, Log> {
        // The log is whole between any two of its own steps, so that a reader's panic spoils nothing.
        self.log.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_mut(&self) -> RwLockWriteGuard<'_, Log> {
        self.log.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State, events: Vec<Arc<Event>>) {
        self.leased.send_if_modified(|seen| {
            let changed = seen != state.leased();
            if changed {
                *seen = state.leased().clone();
            }
            changed
        });
        let objects = state.objects();
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
    journal: Box<dyn Journal>,
    state: State,
    inbox: mpsc::Receiver<Order>,
    published: Arc<Published>,
) -> Result<JoinHandle<()>, OpenError> {
    let writer = Writer { journal, state, published };
    thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(inbox)).map_err(OpenError::Thread)
}

struct Writer {
    journal: Box<dyn Journal>,
    state: State,
    published: Arc<Published>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut orders = vec![first];
            while orders.len() < BATCH_MAX
                && let Ok(next) = inbox.try_recv()
            {
                orders.push(next);
            }
            let jobs = orders.into_iter().filter_map(|order| match order {
                Order::Run(job) => Some(job),
                Order::Refresh => None,
            });
            self.run_all(jobs.collect());
        }
    }

    /// Runs and commits `jobs` in as many commits as the journal needs, those that lost a race again.
    fn run_all(&mut self, mut jobs: VecDeque<Box<dyn Job>>) {
        let mut races = 0;
        loop {
            let broken = self.refresh();
            let batch = self.run_batch(&mut jobs, broken.as_ref());
            match self.commit(batch.is_empty()) {
                Err(Failure::Raced) if races < RACES_MAX => {
                    races += 1;
                    batch.into_iter().rev().for_each(|job| jobs.push_front(job));
                }
                outcome => {
                    races = 0;
                    let outcome = outcome.map_err(|failure| match failure {
                        Failure::Raced => Unavailable::Away("other relays write without a pause".into()),
                        Failure::Unavailable(unavailable) => unavailable,
                    });
                    for job in batch {
                        let outcome = if job.is_read() { Ok(()) } else { outcome.clone() };
                        job.answer(outcome);
                    }
                }
            }
            if jobs.is_empty() {
                break;
            }
        }
    }

    /// Runs jobs from the front as long as one commit takes them. While the store is broken, those that change
    /// something are refused.
    fn run_batch(&mut self, jobs: &mut VecDeque<Box<dyn Job>>, broken: Option<&Unavailable>) -> Vec<Box<dyn Job>> {
        let mut batch = Vec::with_capacity(jobs.len());
        while let Some(mut job) = jobs.pop_front() {
            let mark = self.state.mark();
            job.run(&mut self.state, &mut Fresh::new(clock::now(), rand::random()));
            if !self.state.changed_since(mark) {
                batch.push(job);
            } else if let Some(error) = broken {
                self.state.roll_back(mark);
                job.answer(Err(error.clone()));
            } else if batch.is_empty() || self.journal.takes(&self.state) {
                batch.push(job);
            } else {
                self.state.roll_back(mark);
                jobs.push_front(job);
                break;
            }
        }
        batch
    }

    /// Takes in and publishes what the journal has learnt.
    fn refresh(&mut self) -> Option<Unavailable> {
        let (news, broken) = self.journal.refresh();
        for one in news {
            match one {
                News::Foreign(foreign) => {
                    let events = self.state.absorb(foreign);
                    self.published.publish(&self.state, events);
                }
                News::Whole(state) => {
                    self.state = *state;
                    // What happened in between is known as a whole only: watchers list again.
                    self.published.log_mut().restart(self.state.objects().revision());
                    self.published.publish(&self.state, Vec::new());
                }
            }
        }
        self.journal.published();
        broken
    }

    /// Makes what the batch did durable, or makes sure that what it saw was the newest.
    fn commit(&mut self, is_empty: bool) -> Result<(), Failure> {
        if self.state.is_committed() {
            return if is_empty { Ok(()) } else { self.journal.confirm() };
        }
        let changes = self.state.changes();
        if let Err(failure) = self.journal.write(&changes) {
            self.state.roll_back_all();
            return Err(failure);
        }
        self.state.commit();
        self.published.publish(&self.state, changes.events);
        self.journal.published();
        Ok(())
    }
}
