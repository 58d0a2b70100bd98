//! The store of several relays: etcd. Every commit is one etcd transaction, in turn by one key.
//!
//! ```text
//! PREFIX/meta                                   format, revision, and what the last commit deleted
//! PREFIX/proof                                  a sealed word that proves the key
//! PREFIX/objects/PLURAL/PROJECT/NAMESPACE/NAME  JSON; Secrets sealed
//! PREFIX/records/…                              sealed; those of a relay's life are attached to its lease
//! ```
//!
//! A commit holds only if `meta` is as this relay saw it last, and always writes it, so that whoever comes second
//! is told, takes in what came first, and runs its transactions again. Each commit changes an object once, so that a
//! watcher of etcd sees every change; `meta` carries the revisions of deletions, which their events do not.

mod compact;
mod feed;
mod keys;
mod lease;
mod load;
mod restore;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, Identity, KvClient, LeaseClient,
    PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    time::timeout,
};
use underpass_shared::identity::{NodeName, ProjectName};

pub use self::restore::restore;
use self::{
    feed::{Batch, Fed, Feed},
    keys::{Keys, Meta},
    load::Loaded,
};
use super::{
    codec::Codec,
    disk::OpenError,
    journal::{Failure, Journal, News, Unavailable},
    record::RecordKey,
    state::{Changes, Foreign, State},
    writer::Order,
};

/// How long etcd may take to answer one request.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// An idle connection is asked whether it lives this often; etcd refuses to be asked more often than every 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How many operations one transaction may have by etcd's default (`--max-txn-ops`).
const OPERATIONS_MAX: usize = 128;
/// How many bytes of objects go into one transaction of ours; by default etcd takes 1.5 MiB (`--max-request-bytes`).
const BYTES_MAX: usize = 512 << 10;
/// The largest answer that is read, in bytes: a watch that catches up gets up to 1000 revisions at once.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 30;
/// How many batches of the feed wait for the writer; the watch waits beyond.
const FEED_MAX: usize = 1024;

/// Where and how the deployment is kept in etcd.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub endpoints: Vec<String>,
    /// What all keys begin with; without a slash at its end.
    pub prefix: String,
    pub tls: Option<Tls>,
    /// The key that all relays of the deployment share.
    pub key_file: PathBuf,
    /// How often etcd is made to forget its history; `None`: that is somebody else's.
    pub compaction: Option<Duration>,
}

/// Whom we trust to be etcd, and who we are there. All PEM.
#[derive(Clone)]
pub struct Tls {
    pub ca: Vec<u8>,
    /// Certificate chain and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls(identity: {})", self.identity.is_some())
    }
}

/// Why etcd cannot be written now; `None` when it can.
pub(super) type Health = watch::Sender<Option<Arc<str>>>;

/// etcd as the writer's journal.
pub(super) struct Etcd {
    /// `None` only while dropping.
    runtime: Option<Runtime>,
    kv: KvClient,
    lease: LeaseClient,
    keys: Keys,
    codec: Codec,
    feed: mpsc::Receiver<Fed>,
    /// Where the feed begins again after it was lost.
    restart: watch::Sender<i64>,
    health: Arc<Health>,
    lease_id: watch::Sender<i64>,
    /// The etcd revision of the last commit that is in the state.
    seen: i64,
    /// The commit that came first when a race was lost.
    behind: Option<i64>,
    /// The feed has a gap: everything must be read again.
    lost: bool,
    /// Another version's commit cannot be taken in, and nothing after it.
    stuck: Option<Arc<str>>,
    /// At which etcd revision this relay wrote leased records, until the feed has passed it.
    touched: BTreeMap<RecordKey, i64>,
    shown: watch::Sender<i64>,
}

/// Asks etcd what is newest, for reads that must not be old.
#[derive(Clone)]
pub(super) struct Reader {
    kv: KvClient,
    meta: String,
    shown: watch::Receiver<i64>,
    health: Arc<Health>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader(etcd)")
    }
}

/// What [`open`] makes.
pub(super) struct Opened {
    pub journal: Etcd,
    pub state: State,
    pub codec: Codec,
    pub reader: Reader,
}

/// Connects, makes the deployment if there is none, and reads all of it. `orders` are the writer's, which is woken
/// when other relays commit.
///
/// Blocks on the network; must not be called from a task.
///
/// # Errors
/// See [`OpenError`].
pub(super) fn open(settings: &Settings, orders: mpsc::WeakSender<Order>) -> Result<Opened, OpenError> {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("etcd").enable_all().build();
    let runtime = runtime.map_err(OpenError::Thread)?;
    let keys = Keys::new(&settings.prefix);
    let (client, codec, loaded, lease_id) = runtime.block_on(async {
        let client = connect(settings).await?;
        let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        let codec = load::admit(&mut kv, &keys, settings).await?;
        let loaded = load::load(&mut kv, &keys, &codec).await.map_err(|error| refused(settings, &error))?;
        let lease_id = lease::grant(&mut client.lease_client()).await.map_err(|error| refused(settings, &error))?;
        Ok::<_, OpenError>((client, codec, loaded, lease_id))
    })?;
    let kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
    let (fed, feed) = mpsc::channel(FEED_MAX);
    let (restart, restarted) = watch::channel(loaded.revision);
    let (lease_sender, lease_receiver) = watch::channel(lease_id);
    let health = Arc::new(watch::Sender::new(None));
    let (shown, shown_receiver) = watch::channel(loaded.meta);
    let reader = Reader { kv: kv.clone(), meta: keys.meta(), shown: shown_receiver, health: health.clone() };
    runtime.spawn(lease::keep(client.lease_client(), lease_receiver, fed.clone(), orders.clone()));
    let feeder = Feed {
        watch: client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX),
        kv: kv.clone(),
        keys: keys.clone(),
        fed,
        orders,
        health: health.clone(),
    };
    runtime.spawn(feeder.run(restarted));
    if let Some(every) = settings.compaction {
        runtime.spawn(compact::run(kv.clone(), keys.meta(), every));
    }
    let journal = Etcd {
        runtime: Some(runtime),
        kv,
        lease: client.lease_client(),
        keys,
        codec: codec.clone(),
        feed,
        restart,
        health,
        lease_id: lease_sender,
        seen: loaded.meta,
        behind: None,
        lost: false,
        stuck: None,
        touched: BTreeMap::new(),
        shown,
    };
    Ok(Opened { journal, state: loaded.state, codec, reader })
}

async fn connect(settings: &Settings) -> Result<Client, OpenError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(KEEP_ALIVE, ANSWER)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some(tls) = &settings.tls {
        let mut wanted = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((chain, key)) = &tls.identity {
            wanted = wanted.identity(Identity::from_pem(chain, key));
        }
        options = options.with_tls(wanted);
    }
    Client::connect(&settings.endpoints, Some(options)).await.map_err(|error| refused(settings, &error.into()))
}

/// Why one request had no answer that we could use.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("etcd does not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("etcd: {}", explain(.0))]
    Etcd(#[from] Error),
    #[error("{0}")]
    Unreadable(String),
}

/// One request, with the time it may take.
pub(super) async fn ask<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, AskError> {
    timeout(ANSWER, request).await.map_err(|_| AskError::Silent)?.map_err(AskError::Etcd)
}

/// The sentence of an error and of what caused it, without what nests in gRPC's own words.
fn explain(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().trim_start_matches("etcdserver: ").to_owned(),
        other => other.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) && !next_text.contains(&text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

fn refused(settings: &Settings, error: &AskError) -> OpenError {
    let hint = "check --etcd-endpoint, the TLS flags, and that etcd runs";
    OpenError::Etcd(format!("the store in etcd at {} does not open: {error}; {hint}", settings.endpoints.join(", ")))
}

impl Reader {
    /// Waits until everything is shown that any relay had committed when this was called.
    pub(super) async fn wait(&self) -> Result<(), Unavailable> {
        if let Some(reason) = self.health.borrow().clone() {
            return Err(Unavailable::Away(reason));
        }
        let mut kv = self.kv.clone();
        let away = |error: &AskError| Unavailable::Away(error.to_string().into());
        let newest = ask(kv.get(self.meta.as_str(), None)).await.map_err(|error| away(&error))?;
        let Some(revision) = newest.kvs().first().map(etcd_client::KeyValue::mod_revision) else {
            return Err(Unavailable::Away(keys::EMPTIED.into()));
        };
        let mut shown = self.shown.clone();
        let waited = timeout(ANSWER, shown.wait_for(|shown| *shown >= revision)).await;
        waited.map(drop).map_err(|_| Unavailable::Away("what other relays wrote has not arrived from etcd".into()))
    }
}

impl Etcd {
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("the runtime lives until the journal is dropped").block_on(work)
    }

    fn reason(&self) -> Option<Arc<str>> {
        self.stuck.clone().or_else(|| self.health.borrow().clone())
    }

    /// Notes that nothing can be written, and has the feed look after the connection.
    fn fail(&self, reason: &str) -> Unavailable {
        tracing::warn!(%reason, "etcd is away; reading goes on, writing resumes with it");
        let reason: Arc<str> = reason.into();
        self.health.send_replace(Some(reason.clone()));
        Unavailable::Away(reason)
    }

    /// Reads everything again after a gap in the feed, and has the feed go on from there.
    fn reload(&mut self) -> Result<News, Unavailable> {
        let (mut kv, keys, codec) = (self.kv.clone(), self.keys.clone(), self.codec.clone());
        let Loaded { state, meta, revision } = self
            .block_on(load::load(&mut kv, &keys, &codec))
            .map_err(|error| Unavailable::Away(error.to_string().into()))?;
        self.lost = false;
        self.behind = None;
        self.seen = meta;
        self.touched.clear();
        while self.feed.try_recv().is_ok() {}
        self.restart.send_replace(revision);
        Ok(News::Whole(Box::new(state)))
    }

    fn take_in(&mut self, fed: Fed, news: &mut Vec<News>) {
        match fed {
            Fed::Batch(batch) if !self.lost && self.stuck.is_none() => match self.read(batch) {
                Ok(Some(foreign)) => news.push(News::Foreign(foreign)),
                Ok(None) => {}
                Err(reason) => {
                    let reason =
                        format!("{reason}: update this relay, or restore what was damaged, and start it again");
                    tracing::error!(%reason, "another relay's commit cannot be read");
                    self.stuck = Some(reason.into());
                }
            },
            Fed::Batch(_) => {}
            Fed::Lost => self.lost = true,
            Fed::LeaseLost(id) => self.renew(id),
        }
    }

    /// What one etcd revision changed, `None` when it is known already.
    fn read(&mut self, batch: Batch) -> Result<Option<Foreign>, String> {
        let Batch { revision, events } = batch;
        let meta = events.iter().find(|(key, _)| *key == self.keys.meta());
        let (is_commit, meta) = match meta {
            None => (false, Meta::default()),
            Some((_, None)) => return Err(keys::EMPTIED.to_owned()),
            Some((_, Some(bytes))) => (true, Meta::parse(bytes)?),
        };
        let touched = std::mem::take(&mut self.touched);
        let known = |key: &RecordKey| touched.get(key).is_some_and(|at| *at > revision);
        let mut foreign = Foreign::default();
        if !is_commit || revision > self.seen {
            for (key, value) in &events {
                if let Some(name) = self.keys.object(key).filter(|_| is_commit) {
                    match value {
                        Some(bytes) => {
                            foreign.written.push(self.codec.decode_object(name, bytes).map_err(|e| e.to_string())?);
                        }
                        None => foreign.deleted.extend(meta.deletion(name)?),
                    }
                } else if let Some((name, record)) =
                    self.keys.record(key).and_then(|name| Some((name, RecordKey::parse(name)?)))
                    && (is_commit || record.is_leased() && !known(&record))
                {
                    let opened = value.as_ref().map(|sealed| self.codec.decode_record(name, sealed));
                    let plain = opened.transpose().map_err(|error| error.to_string())?.map(|(_, plain)| plain);
                    foreign.records.push((record, plain));
                }
            }
        }
        self.touched = touched.into_iter().filter(|(_, at)| *at > revision).collect();
        if is_commit && revision > self.seen {
            self.seen = revision;
            foreign.revision = Some(meta.revision);
        }
        Ok((foreign != Foreign::default()).then_some(foreign))
    }

    /// A new lease instead of the one that ended. What ended with it is written again by whom it concerns, who sees it
    /// go.
    fn renew(&mut self, ended: i64) {
        if *self.lease_id.borrow() != ended {
            return;
        }
        let mut lease = self.lease.clone();
        match self.block_on(lease::grant(&mut lease)) {
            Ok(id) => {
                self.lease_id.send_replace(id);
                tracing::warn!("this relay's lease in etcd had ended; it has another");
            }
            Err(error) => drop(self.fail(&error.to_string())),
        }
    }

    fn operations(&self, changes: &Changes) -> Result<Vec<TxnOp>, serde_json::Error> {
        let mut meta = Meta::at(changes.revision);
        let mut operations = Vec::new();
        for event in &changes.events {
            let name = super::codec::encode_key(event.key());
            operations.push(match &event.after {
                Some(object) => {
                    let body = self.codec.encode_body(event.key().kind, &name, &object.body)?;
                    TxnOp::put(self.keys.of_object(&name), body, None)
                }
                None => {
                    meta.delete(&name, event.revision);
                    TxnOp::delete(self.keys.of_object(&name), None)
                }
            });
        }
        for (key, value) in &changes.records {
            let name = key.to_string();
            match (key, value) {
                (RecordKey::Agent(project, node, _), None) if forgets_node(changes, project, node) => {}
                (_, None) => operations.push(TxnOp::delete(self.keys.of_record(&name), None)),
                (_, Some(plain)) => {
                    let options = key.is_leased().then(|| PutOptions::new().with_lease(*self.lease_id.borrow()));
                    let sealed = self.codec.encode_record(&name, plain);
                    operations.push(TxnOp::put(self.keys.of_record(&name), sealed, options));
                }
            }
            if let (RecordKey::Node(project, node), None) = (key, value) {
                let agents = DeleteOptions::new().with_prefix();
                let first = self.keys.of_record(&format!("agent/{project}/{node}/"));
                operations.push(TxnOp::delete(first, Some(agents)));
            }
        }
        operations.push(TxnOp::put(self.keys.meta(), meta.encode()?, None));
        Ok(operations)
    }

    fn commit(&mut self, changes: &Changes) -> Result<Outcome, AskError> {
        let operations = self.operations(changes).map_err(|error| AskError::Unreadable(error.to_string()))?;
        let transaction = Txn::new()
            .when([Compare::mod_revision(self.keys.meta(), CompareOp::Equal, self.seen)])
            .and_then(operations)
            .or_else([TxnOp::get(self.keys.meta(), None)]);
        let mut kv = self.kv.clone();
        let response = self.block_on(ask(kv.txn(transaction)))?;
        if response.succeeded() {
            let revision = response.header().map(etcd_client::ResponseHeader::revision);
            return revision.map(Outcome::Committed).ok_or(AskError::Unreadable("no revision in the answer".into()));
        }
        let first = match response.op_responses().as_slice() {
            [TxnOpResponse::Get(found)] => found.kvs().first().map(etcd_client::KeyValue::mod_revision),
            _ => None,
        };
        first.map(Outcome::Raced).ok_or(AskError::Unreadable(keys::EMPTIED.to_owned()))
    }

    fn note_own(&mut self, changes: &Changes, revision: i64) {
        self.seen = revision;
        let leased = changes.records.iter().filter(|(key, _)| key.is_leased());
        self.touched.extend(leased.map(|(key, _)| (key.clone(), revision)));
    }
}

enum Outcome {
    Committed(i64),
    /// The etcd revision of the commit that came first.
    Raced(i64),
}

impl Journal for Etcd {
    fn refresh(&mut self) -> (Vec<News>, Option<Unavailable>) {
        let mut news = Vec::new();
        while let Ok(fed) = self.feed.try_recv() {
            self.take_in(fed, &mut news);
        }
        while let Some(behind) = self.behind
            && self.seen < behind
            && !self.lost
            && self.stuck.is_none()
        {
            let runtime = self.runtime.as_ref().expect("the runtime lives until the journal is dropped");
            let feed = &mut self.feed;
            match runtime.block_on(async { timeout(ANSWER, feed.recv()).await }) {
                Ok(Some(fed)) => self.take_in(fed, &mut news),
                _ => return (news, Some(self.fail("what other relays wrote has not arrived from etcd"))),
            }
        }
        self.behind = None;
        if self.lost {
            match self.reload() {
                Ok(whole) => news.push(whole),
                Err(unavailable) => return (news, Some(unavailable)),
            }
        }
        (news, self.reason().map(Unavailable::Away))
    }

    fn takes(&self, state: &State) -> bool {
        let changes = state.changes();
        let weight: usize = changes.events.iter().filter_map(|event| Some(event.after.as_ref()?.weight)).sum();
        let operations = changes.events.len() + changes.records.len() + 1;
        operations <= OPERATIONS_MAX && weight <= BYTES_MAX && !changes.is_layered()
    }

    fn write(&mut self, changes: &Changes) -> Result<(), Failure> {
        for last in [false, true] {
            match self.commit(changes) {
                Ok(Outcome::Committed(revision)) => {
                    self.note_own(changes, revision);
                    return Ok(());
                }
                Ok(Outcome::Raced(first)) => {
                    self.behind = Some(first);
                    return Err(Failure::Raced);
                }
                Err(AskError::Etcd(error)) if explain(&error).contains("lease not found") && !last => {
                    let ended = *self.lease_id.borrow();
                    self.renew(ended);
                }
                Err(AskError::Etcd(error)) if is_too_large(&error) => {
                    let text = format!(
                        "too large for one etcd transaction ({}): write less at once, or raise etcd's \
                         --max-txn-ops and --max-request-bytes",
                        explain(&error)
                    );
                    return Err(Failure::Unavailable(Unavailable::TooLarge(text.into())));
                }
                Err(error) => return Err(Failure::Unavailable(self.fail(&error.to_string()))),
            }
        }
        Err(Failure::Unavailable(self.fail("etcd: this relay's lease is lost again and again")))
    }

    fn confirm(&mut self) -> Result<(), Failure> {
        if let Some(reason) = self.reason() {
            return Err(Failure::Unavailable(Unavailable::Away(reason)));
        }
        let mut kv = self.kv.clone();
        match self.block_on(ask(kv.get(self.keys.meta(), None))) {
            Ok(found) => match found.kvs().first().map(etcd_client::KeyValue::mod_revision) {
                Some(newest) if newest > self.seen => {
                    self.behind = Some(newest);
                    Err(Failure::Raced)
                }
                _ => Ok(()),
            },
            Err(error) => Err(Failure::Unavailable(self.fail(&error.to_string()))),
        }
    }

    fn published(&mut self) {
        let seen = self.seen;
        self.shown.send_if_modified(|shown| std::mem::replace(shown, seen) != seen);
    }
}

/// Whether a node goes, and with it all its agents at once: there may be more than one transaction may name.
fn forgets_node(changes: &Changes, project: &ProjectName, node: &NodeName) -> bool {
    let node = RecordKey::Node(project.clone(), node.clone());
    changes.records.iter().any(|(key, value)| *key == node && value.is_none())
}

fn is_too_large(error: &Error) -> bool {
    let text = explain(error);
    ["too many operations", "request is too large", "larger than max"].iter().any(|sign| text.contains(sign))
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let (mut lease, id) = (self.lease.clone(), *self.lease_id.borrow());
        let Some(runtime) = self.runtime.take() else { return };
        // What is not revoked in time ends by itself, as after a crash.
        let _ = runtime.block_on(async { timeout(CONNECT, lease.revoke(id)).await });
        runtime.shutdown_background();
    }
}
