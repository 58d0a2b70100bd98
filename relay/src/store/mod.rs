//! The store: every resource and private record of the deployment, durable before a write is answered.
//!
//! Reads are of an immutable view and never wait; writes run one after the other on the store's thread, in
//! transactions that are committed in groups. Journey C crosses here from `api` to `controller`.

pub mod disk;
pub mod lifecycle;
pub mod log;
pub mod object;
pub mod record;
pub mod seal;
pub mod state;
mod writer;

use std::{path::Path, sync::Arc, thread::JoinHandle};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::writer::Unavailable;
use self::{
    disk::{Disk, OpenError},
    lifecycle::Deleted,
    log::{Compacted, Event},
    object::{Draft, Object, ObjectKey, Objects},
    state::{Fresh, State, WriteError},
    writer::{Job, Published, QUEUE_MAX},
};
use crate::clock;

/// The store. Cheap to clone; the last clone that is dropped waits until the file is closed.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    published: Arc<Published>,
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a transaction had no effect.
#[derive(Debug, thiserror::Error)]
pub enum TransactError<E> {
    /// The transaction itself said no.
    #[error(transparent)]
    Refused(E),
    #[error(transparent)]
    Unavailable(Unavailable),
    #[error("the store has stopped")]
    Stopped,
}

/// Why a write of an object had no effect.
pub type StoreError = TransactError<WriteError>;

impl Store {
    /// Opens the store in `directory`, makes it on first start, and sees to it that project `default` is there.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let (disk, state) = Disk::open(directory)?;
        Self::start(disk, state)
    }

    fn start(mut disk: Disk, mut state: State) -> Result<Self, OpenError> {
        let mut fresh = Fresh::new(clock::now(), rand::random());
        lifecycle::bootstrap(&mut state, &mut fresh).map_err(|error| OpenError::Bootstrap(error.to_string()))?;
        if !state.is_committed() {
            disk.write(&state.changes()).map_err(|error| OpenError::Bootstrap(error.to_string()))?;
            state.commit();
        }
        let published = Arc::new(Published::new(state.objects().clone()));
        let (jobs, inbox) = mpsc::channel(QUEUE_MAX);
        let thread = writer::spawn(disk, state, inbox, published.clone())?;
        Ok(Self { inner: Arc::new(Inner { published, jobs: Some(jobs), thread: Some(thread) }) })
    }

    /// A consistent view of all objects, which never changes.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Objects> {
        self.inner.published.objects.load_full()
    }

    /// The object at `key`, as of now.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Object>> {
        self.inner.published.objects.load().get(key).cloned()
    }

    /// Wakes when any object changed; the value is the revision of the newest [`Store::snapshot`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.published.revision.subscribe()
    }

    /// At most `max` changes after `revision`, oldest first: what a watch shows.
    ///
    /// # Errors
    /// [`Compacted`] when the changes after `revision` are not kept any more.
    pub fn events_after(&self, revision: u64, max: usize) -> Result<Vec<Arc<Event>>, Compacted> {
        self.inner.published.log().after(revision, max)
    }

    /// Creates an object, with everything that belongs to it (see [`lifecycle::create`]).
    ///
    /// # Errors
    /// [`WriteError::AlreadyExists`]; [`WriteError::NotFound`] of its project; [`WriteError::Full`].
    pub async fn create(&self, draft: Draft) -> Result<Arc<Object>, StoreError> {
        self.transact(move |state, fresh| lifecycle::create(state, draft.clone(), fresh)).await
    }

    /// Replaces what clients write of an object (see [`lifecycle::replace`]); the same content changes nothing.
    ///
    /// # Errors
    /// [`WriteError::NotFound`]; [`WriteError::Conflict`] when `expected` is not the object's revision.
    pub async fn replace(&self, draft: Draft, expected: Option<u64>) -> Result<Arc<Object>, StoreError> {
        self.transact(move |state, _| lifecycle::replace(state, draft.clone(), expected)).await
    }

    /// Replaces an object's status alone; the same status changes nothing.
    ///
    /// # Errors
    /// As [`Store::replace`].
    pub async fn replace_status(
        &self,
        key: ObjectKey,
        status: Value,
        expected: Option<u64>,
    ) -> Result<Arc<Object>, StoreError> {
        self.transact(move |state, _| state.replace_status(&key, status.clone(), expected)).await
    }

    /// Deletes an object, with everything that belongs to it (see [`lifecycle::delete`]).
    ///
    /// # Errors
    /// As [`Store::replace`]; [`WriteError::Permanent`], [`WriteError::NotEmpty`].
    pub async fn delete(&self, key: ObjectKey, expected: Option<u64>) -> Result<Deleted, StoreError> {
        self.transact(move |state, fresh| lifecycle::delete(state, &key, expected, &[], fresh)).await
    }

    /// Runs `transaction` alone against the state; its changes are durable when this returns `Ok`, and undone when
    /// it says `Err`. It must not block, sees every change made before it, and may be run again from the start when
    /// somebody else's write came first: what it answers is all that leaves it.
    ///
    /// Waits while 256 others are queued.
    ///
    /// # Errors
    /// [`TransactError::Refused`] with the transaction's own error; [`TransactError::Unavailable`] when it changed
    /// something and the disk takes no writes.
    pub async fn transact<T, E>(
        &self,
        transaction: impl Fn(&mut State, &mut Fresh) -> Result<T, E> + Send + 'static,
    ) -> Result<T, TransactError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Transaction { transaction, result: None, answer });
        let jobs = self.inner.jobs.as_ref().ok_or(TransactError::Stopped)?;
        jobs.send(job).await.map_err(|_| TransactError::Stopped)?;
        answered.await.unwrap_or(Err(TransactError::Stopped))
    }
}

/// A transaction that waits for its turn, its commit, and its caller.
struct Transaction<F, T, E> {
    transaction: F,
    result: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, TransactError<E>>>,
}

impl<F, T, E> Job for Transaction<F, T, E>
where
    F: Fn(&mut State, &mut Fresh) -> Result<T, E> + Send,
    T: Send,
    E: Send,
{
    fn run(&mut self, state: &mut State, fresh: &mut Fresh) {
        let mark = state.mark();
        let result = (self.transaction)(state, fresh);
        if result.is_err() {
            state.roll_back(mark);
        }
        state.end(mark);
        self.result = Some(result);
    }

    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>) {
        let result = match (self.result, outcome) {
            (Some(result), Ok(())) => result.map_err(TransactError::Refused),
            (_, Err(unavailable)) => Err(TransactError::Unavailable(unavailable)),
            (None, Ok(())) => Err(TransactError::Stopped),
        };
        // A caller that went away does not want the answer.
        let _ = self.answer.send(result);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A transaction that holds the last clone drops it on the store's own thread, which cannot wait for itself.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread))
            && thread.join().is_err()
        {
            tracing::error!("the store's thread has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
