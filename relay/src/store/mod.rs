//! The store: every resource and private record of the deployment, durable before a write is answered.
//!
//! Reads are of an immutable view and never wait; writes run one after the other on the store's thread, in
//! transactions that are committed in groups. Journey C crosses here from `api` to `controller`.

pub mod codec;
pub mod disk;
pub mod journal;
pub mod lifecycle;
pub mod log;
mod migrate;
pub mod object;
pub mod record;
pub mod seal;
pub mod state;
mod writer;

use std::{path::Path, sync::Arc, thread::JoinHandle};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::journal::Unavailable;
use self::{
    codec::Codec,
    disk::{Disk, OpenError},
    journal::Journal,
    lifecycle::Deleted,
    log::{Compacted, Event},
    object::{Draft, Object, ObjectKey, Objects},
    record::Leased,
    state::{Fresh, State, WriteError},
    writer::{Job, Order, Published, QUEUE_MAX},
};

/// The store. Cheap to clone; the last clone that is dropped waits until the file is closed.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    published: Arc<Published>,
    /// `None` only while dropping.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    #[expect(dead_code, reason = "backups are sealed by it")]
    codec: Codec,
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
        let codec = disk.codec().clone();
        Self::start(Box::new(disk), state, codec, mpsc::channel(QUEUE_MAX))
    }

    fn start(
        journal: Box<dyn Journal>,
        state: State,
        codec: Codec,
        (orders, inbox): (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    ) -> Result<Self, OpenError> {
        let published = Arc::new(Published::new(&state));
        let thread = writer::spawn(journal, state, inbox, published.clone())?;
        let store = Self { inner: Arc::new(Inner { published, orders: Some(orders), thread: Some(thread), codec }) };
        store.bootstrap()?;
        Ok(store)
    }

    /// Sees to it that what every deployment has is there.
    fn bootstrap(&self) -> Result<(), OpenError> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let made = |state: &mut State, fresh: &mut Fresh| lifecycle::bootstrap(state, fresh);
        let orders = self.inner.orders.as_ref();
        let job: Box<dyn Job> = Box::new(Transaction { transaction: made, result: None, answer });
        let sent = orders.is_some_and(|orders| orders.try_send(Order::Run(job)).is_ok());
        let outcome = if sent { answered.recv().ok() } else { None };
        outcome.unwrap_or(Err(TransactError::Stopped)).map_err(|error| OpenError::Bootstrap(error.to_string()))
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

    /// As [`Store::snapshot`], but with everything that any relay had committed before this was called.
    ///
    /// # Errors
    /// When that cannot be known, because etcd does not answer; the embedded store always knows.
    #[expect(clippy::unused_async, reason = "only a store that is shared has to wait")]
    pub async fn fresh(&self) -> Result<Arc<Objects>, Unavailable> {
        Ok(self.snapshot())
    }

    /// The records that live as long as a relay, of all relays; wakes when any of them comes, changes or goes.
    #[must_use]
    pub fn leased(&self) -> watch::Receiver<Leased> {
        self.inner.published.leased.subscribe()
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
        let orders = self.inner.orders.as_ref().ok_or(TransactError::Stopped)?;
        orders.send(Order::Run(job)).await.map_err(|_| TransactError::Stopped)?;
        answered.await.unwrap_or(Err(TransactError::Stopped))
    }
}

/// A transaction that waits for its turn, its commit, and its caller.
struct Transaction<F, T, E, A> {
    transaction: F,
    result: Option<Result<T, E>>,
    answer: A,
}

/// Where the answer goes; a caller that went away does not want it.
trait Answer<T, E>: Send {
    fn give(self, answer: Result<T, TransactError<E>>);
}

impl<T: Send, E: Send> Answer<T, E> for oneshot::Sender<Result<T, TransactError<E>>> {
    fn give(self, answer: Result<T, TransactError<E>>) {
        let _ = self.send(answer);
    }
}

impl<T: Send, E: Send> Answer<T, E> for std::sync::mpsc::SyncSender<Result<T, TransactError<E>>> {
    fn give(self, answer: Result<T, TransactError<E>>) {
        let _ = self.try_send(answer);
    }
}

impl<F, T, E, A> Job for Transaction<F, T, E, A>
where
    F: Fn(&mut State, &mut Fresh) -> Result<T, E> + Send,
    T: Send,
    E: Send,
    A: Answer<T, E>,
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
        self.answer.give(match (self.result, outcome) {
            (Some(result), Ok(())) => result.map_err(TransactError::Refused),
            (_, Err(unavailable)) => Err(TransactError::Unavailable(unavailable)),
            (None, Ok(())) => Err(TransactError::Stopped),
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.orders.take());
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
