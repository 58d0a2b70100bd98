//! A writer that knows exactly what must stand at its own keys, and races with others for the shared ones.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use rand::{RngExt, rngs::StdRng};
use underpass_relay::store::{
    Store, StoreError, TransactError,
    lifecycle::Deleted,
    object::{Draft, Object},
    record::RecordKey,
    state::{State, WriteError},
};
use underpass_tests::eventually::eventually;

use crate::{
    fixture::{draft, key, status, value},
    model::Tally,
};

/// Objects of each writer; few, so that they are made and deleted again and again.
const NAMES: u64 = 4;
/// What each writer does in a round.
const STEPS: u64 = 50;
/// The object that all writers count up.
pub(crate) const SHARED: &str = "shared";

/// What a writer knows of one of its objects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Known {
    revision: u64,
    value: u64,
    status: Option<u64>,
    held: bool,
    deleting: bool,
}

impl Known {
    pub(crate) fn of(object: &Arc<Object>) -> Self {
        Self {
            revision: object.body.revision,
            value: value(object),
            status: object.body.status.as_ref().map(|status| status["value"].as_u64().unwrap()),
            held: !object.body.meta.finalizers.is_empty(),
            deleting: object.body.deletion.is_some(),
        }
    }
}

/// The record that all writers count up.
pub(crate) fn counter(state: &State) -> Result<u64, WriteError> {
    Ok(state.record(&RecordKey::Token("counter".to_owned()))?.unwrap_or(0))
}

/// A writer at work.
pub(crate) struct Player {
    pub(crate) writer: u64,
    pub(crate) stores: Vec<Store>,
    pub(crate) known: BTreeMap<String, Known>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) random: StdRng,
}

impl Player {
    /// A round's work; answers who it was and what it knows.
    pub(crate) async fn play(mut self) -> (u64, BTreeMap<String, Known>) {
        for _ in 0..STEPS {
            match self.random.random_range(0..10) {
                0 | 1 => self.count_object().await,
                2 => self.count_record().await,
                3 => self.read().await,
                _ => self.write().await,
            }
            self.tally.steps.fetch_add(1, SeqCst);
        }
        (self.writer, self.known)
    }

    fn store(&mut self) -> Store {
        let at = self.random.random_range(0..self.stores.len());
        self.stores[at].clone()
    }

    fn name(&mut self) -> String {
        format!("w{}-{}", self.writer, self.random.random_range(0..NAMES))
    }

    /// Something to one of its own objects; only this writer touches them, so that the outcome is known beforehand.
    async fn write(&mut self) {
        let (store, name, new) = (self.store(), self.name(), self.random.random_range(0..1_000_000));
        let Some(known) = self.known.get(&name).copied() else {
            let mut draft = draft(&name, new);
            let held = self.random.random_bool(0.3);
            draft.meta.finalizers.extend(held.then(|| "test/held".to_owned()));
            let made = store.create(draft).await;
            let want = Known { revision: 0, value: new, status: None, held, deleting: false };
            return self.note(&name, want, made).await;
        };
        let held = if known.held { vec!["test/held".to_owned()] } else { Vec::new() };
        let mut draft = draft(&name, new);
        draft.meta.finalizers.clone_from(&held);
        draft.status = known.status.map(status);
        match self.random.random_range(0..6) {
            0 => {
                let stale = known.revision - 1;
                match store.replace(draft, Some(stale)).await {
                    Err(TransactError::Refused(WriteError::Conflict { current, .. })) => {
                        assert_eq!(current, known.revision);
                    }
                    Err(TransactError::Unavailable(_)) => self.learn(&name).await,
                    other => panic!("{name} at {stale}: {other:?}"),
                }
            }
            1 => match store.create(draft).await {
                Err(TransactError::Refused(WriteError::AlreadyExists(_))) => {}
                Err(TransactError::Unavailable(_)) => self.learn(&name).await,
                other => panic!("{name} is there already: {other:?}"),
            },
            2 => {
                let written = store.replace_status(key(&name), status(new), Some(known.revision)).await;
                self.note(&name, Known { status: Some(new), ..known }, written).await;
            }
            3 if known.held && known.deleting => self.let_go(&store, &name, draft).await,
            3 => self.delete(&store, &name, known).await,
            _ => {
                let expected = self.random.random_bool(0.5).then_some(known.revision);
                let written = store.replace(draft, expected).await;
                self.note(&name, Known { value: new, ..known }, written).await;
            }
        }
    }

    async fn delete(&mut self, store: &Store, name: &str, known: Known) {
        match store.delete(key(name), None).await {
            Ok(Deleted::Gone(was)) => {
                assert!(!known.held);
                assert_eq!(Known::of(&was), known);
                self.known.remove(name);
            }
            Ok(Deleted::Marked(object)) => {
                assert!(known.held);
                self.note(name, Known { deleting: true, ..known }, Ok(object)).await;
            }
            Err(TransactError::Unavailable(_)) => self.learn(name).await,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Takes the finalizer off an object that is being deleted: it goes.
    async fn let_go(&mut self, store: &Store, name: &str, mut draft: Draft) {
        draft.meta.finalizers.clear();
        match store.replace(draft, None).await {
            Ok(_) => drop(self.known.remove(name)),
            Err(TransactError::Unavailable(_)) => self.learn(name).await,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// An acknowledged write of its own object, which must be what was wanted.
    async fn note(&mut self, name: &str, want: Known, written: Result<Arc<Object>, StoreError>) {
        match written {
            Ok(object) => {
                let revision = object.body.revision;
                assert_eq!(Known::of(&object), Known { revision, ..want });
                self.known.insert(name.to_owned(), Known::of(&object));
                self.tally.acknowledged.lock().unwrap().insert(revision);
            }
            Err(TransactError::Unavailable(_)) => self.learn(name).await,
            Err(error) => panic!("{name}, which is nobody else's: {error}"),
        }
    }

    /// After a write of unknown fate: what is there counts from now on.
    async fn learn(&mut self, name: &str) {
        let (store, writer) = (self.store(), self.writer);
        // A write of our own that succeeds makes sure that the lost one does not come late.
        eventually("the store can be written again", async || {
            let barrier = RecordKey::Token(format!("barrier-{writer}"));
            let write = move |state: &mut State, _: &mut _| {
                let count: u64 = state.record(&barrier)?.unwrap_or(0);
                state.put_record(barrier.clone(), &(count + 1))
            };
            store.transact(write).await.map_err(|error| error.to_string())
        })
        .await;
        match store.get(&key(name)) {
            Some(object) => drop(self.known.insert(name.to_owned(), Known::of(&object))),
            None => drop(self.known.remove(name)),
        }
    }

    /// Reads its own object where it may not have written it.
    async fn read(&mut self) {
        let (store, name) = (self.store(), self.name());
        let Ok(snapshot) = store.fresh().await else { return };
        assert_eq!(snapshot.get(&key(&name)).map(Known::of), self.known.get(&name).copied(), "{name}, read fresh");
    }

    /// One up by compare-and-swap, if nobody is faster.
    async fn count_object(&mut self) {
        let store = self.store();
        let counted = match store.get(&key(SHARED)) {
            None => store.create(draft(SHARED, 1)).await,
            Some(object) => store.replace(draft(SHARED, value(&object) + 1), Some(object.body.revision)).await,
        };
        match counted {
            Ok(object) => {
                self.tally.objects.fetch_add(1, SeqCst);
                self.tally.acknowledged.lock().unwrap().insert(object.body.revision);
            }
            Err(TransactError::Refused(WriteError::Conflict { .. } | WriteError::AlreadyExists(_))) => {}
            Err(TransactError::Unavailable(_)) => drop(self.tally.unknown.fetch_add(1, SeqCst)),
            Err(error) => panic!("{error}"),
        }
    }

    async fn count_record(&mut self) {
        let store = self.store();
        let counted = store.transact(|state, _| {
            let count = counter(state)? + 1;
            state.put_record(RecordKey::Token("counter".to_owned()), &count)
        });
        match counted.await {
            Ok(()) => drop(self.tally.records.fetch_add(1, SeqCst)),
            Err(TransactError::Unavailable(_)) => drop(self.tally.unknown.fetch_add(1, SeqCst)),
            Err(error) => panic!("{error}"),
        }
    }
}
