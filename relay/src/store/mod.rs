//! The store: every resource and private record of the deployment, durable before a write is answered.
//!
//! Reads are of an immutable view and never wait; writes run one after the other on the store's thread, in
//! transactions that are committed in groups. Journey C crosses here from `api` to `controller`.

pub mod backup;
pub mod codec;
pub mod disk;
#[cfg(feature = "etcd")]
pub mod etcd;
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
    codec: Codec,
    #[cfg(feature = "etcd")]
    reader: Option<etcd::Reader>,
}

/// What [`Store::start`] joins.
struct Parts {
    journal: Box<dyn Journal>,
    state: State,
    codec: Codec,
    orders: mpsc::Sender<Order>,
    inbox: mpsc::Receiver<Order>,
    #[cfg(feature = "etcd")]
    reader: Option<etcd::Reader>,
}

impl Parts {
    fn embedded(journal: Box<dyn Journal>, state: State, codec: Codec) -> Self {
        let (orders, inbox) = mpsc::channel(QUEUE_MAX);
        Self {
            journal,
            state,
            codec,
            orders,
            inbox,
            #[cfg(feature = "etcd")]
            reader: None,
        }
    }
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
        Self::open_with_key(directory, &directory.join(seal::KEY_FILE))
    }

    /// The same, with the key elsewhere.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with_key(directory: &Path, key_file: &Path) -> Result<Self, OpenError> {
        let (disk, state) = Disk::open(directory, key_file)?;
        let codec = disk.codec().clone();
        Self::start(Parts::embedded(Box::new(disk), state, codec))
    }

    /// Opens the store in etcd, makes it on first start, and sees to it that project `default` is there.
    ///
    /// Blocks on the network.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[cfg(feature = "etcd")]
    pub fn open_etcd(settings: &etcd::Settings) -> Result<Self, OpenError> {
        let (orders, inbox) = mpsc::channel(QUEUE_MAX);
        // On a thread of its own, because the caller's may be one that runs tasks.
        let opened = std::thread::scope(|scope| {
            scope.spawn(|| etcd::open(settings, orders.downgrade())).join().expect("opening does not panic")
        });
        let etcd::Opened { journal, state, codec, reader } = opened?;
        Self::start(Parts { journal: Box::new(journal), state, codec, orders, inbox, reader: Some(reader) })
    }

    fn start(parts: Parts) -> Result<Self, OpenError> {
        let published = Arc::new(Published::new(&parts.state));
        let thread = writer::spawn(parts.journal, parts.state, parts.inbox, published.clone())?;
        let inner = Inner {
            published,
            orders: Some(parts.orders),
            thread: Some(thread),
            codec: parts.codec,
            #[cfg(feature = "etcd")]
            reader: parts.reader,
        };
        let store = Self { inner: Arc::new(inner) };
        store.bootstrap()?;
        Ok(store)
    }

    /// Sees to it that what every deployment has is there.
    fn bootstrap(&self) -> Result<(), OpenError> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let made = |state: &mut State, fresh: &mut Fresh| lifecycle::bootstrap(state, fresh);
        let orders = self.inner.orders.as_ref();
        let job: Box<dyn Job> =
            Box::new(Transaction { transaction: made, purpose: Purpose::Write, result: None, answer });
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
    #[cfg_attr(not(feature = "etcd"), expect(clippy::unused_async, reason = "only a shared store has to wait"))]
    pub async fn fresh(&self) -> Result<Arc<Objects>, Unavailable> {
        #[cfg(feature = "etcd")]
        if let Some(reader) = &self.inner.reader {
            reader.wait().await?;
        }
        Ok(self.snapshot())
    }

    /// The records that live as long as a relay, of all relays; wakes when any of them comes, changes or goes.
    ///
    /// Whoever wrote one and sees it gone writes it again: this relay may have been away for longer than its lease.
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
    /// something and the disk takes no writes, or etcd does not answer.
    pub async fn transact<T, E>(
        &self,
        transaction: impl Fn(&mut State, &mut Fresh) -> Result<T, E> + Send + 'static,
    ) -> Result<T, TransactError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.run(transaction, Purpose::Write).await
    }

    /// Reads the state in one piece, as of now; while etcd is away, as it was last. What `read` then refuses is
    /// [`TransactError::Unavailable`] instead, because newer may be elsewhere.
    ///
    /// Waits while 256 others are queued.
    ///
    /// # Errors
    /// [`TransactError::Refused`] with the error of `read`.
    pub async fn inspect<T, E>(
        &self,
        read: impl Fn(&State) -> Result<T, E> + Send + 'static,
    ) -> Result<T, TransactError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.run(move |state, _| read(state), Purpose::Read).await
    }

    /// Everything as it is now, to be written out (see [`backup`]).
    ///
    /// # Errors
    /// Only when the store has stopped.
    pub async fn backup(&self) -> Result<backup::Snapshot, TransactError<std::convert::Infallible>> {
        let codec = self.inner.codec.clone();
        self.inspect(move |state| Ok(backup::Snapshot::of(state, &codec))).await
    }

    async fn run<T, E>(
        &self,
        transaction: impl Fn(&mut State, &mut Fresh) -> Result<T, E> + Send + 'static,
        purpose: Purpose,
    ) -> Result<T, TransactError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Box<dyn Job> = Box::new(Transaction { transaction, purpose, result: None, answer });
        let orders = self.inner.orders.as_ref().ok_or(TransactError::Stopped)?;
        orders.send(Order::Run(job)).await.map_err(|_| TransactError::Stopped)?;
        answered.await.unwrap_or(Err(TransactError::Stopped))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read,
    Write,
}

/// A transaction that waits for its turn, its commit, and its caller.
struct Transaction<F, T, E, A> {
    transaction: F,
    purpose: Purpose,
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

    fn is_read(&self) -> bool {
        self.purpose == Purpose::Read && matches!(self.result, Some(Ok(_)))
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
