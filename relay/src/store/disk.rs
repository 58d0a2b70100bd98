//! The store's file: one redb database, one durable transaction per batch. Decides nothing.
//!
//! Tables: `meta` (format, revision, a sealed word that proves the key), `objects` (JSON by key, Secrets sealed),
//! `records` (sealed). Records that live only as long as this relay never reach the disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    codec::{Codec, Unreadable, encode_key},
    journal::{Failure, Journal, News, Unavailable},
    migrate::{self, FORMAT},
    object::Object,
    record::Leased,
    seal::{KeyError, Sealer},
    state::{Changes, State},
};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

/// The database's file name in the data directory.
pub const STORE_FILE: &str = "store.redb";
/// The page cache, in bytes. Everything is held in memory besides, so that it serves writes only.
const CACHE_BYTES: usize = 8 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_PROOF: &str = "proof";

/// A file below this is never compacted: little would be won.
const COMPACT_BYTES_MIN: u64 = 32 << 20;
/// A file of which less than one part in this many is used is compacted when it is opened.
const COMPACT_USED: u64 = 2;

/// Why the store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data directory {} is in use by another relay: stop it, or give this one its own --data-dir", .0.display())]
    InUse(PathBuf),
    #[error("the data directory {} cannot be used: check that it exists, is writable and has room", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} has format {found}, and this program reads format {FORMAT}: use the version that wrote it", path.display())]
    Format { path: PathBuf, found: String },
    #[error("{} is damaged ({what}): restore the data directory from your backup", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the store cannot be opened")]
    Database(#[source] redb::Error),
    #[error("the store's thread cannot start")]
    Thread(#[source] io::Error),
    #[error("the store cannot be filled with what every deployment has: {0}")]
    Bootstrap(String),
    /// etcd does not answer, refuses us, or holds what cannot be read.
    #[error("{0}")]
    Etcd(String),
}

/// Why a batch did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{0}")]
    Database(#[from] redb::Error),
    #[error("{0}")]
    Encode(#[from] serde_json::Error),
    #[error("{0}")]
    Reopen(#[from] OpenError),
}

/// Why an older store was not brought to this format; nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Database(#[from] redb::Error),
    #[error("{0}")]
    Damaged(String),
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The open database. After a failed write it is closed until `reload` succeeds.
pub struct Disk {
    path: PathBuf,
    codec: Codec,
    /// What lives only as long as this process.
    leased: Leased,
    open: Opener,
    database: Option<Database>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("open", &self.database.is_some()).finish()
    }
}

impl Disk {
    /// Opens or makes the store in `directory`, and reads all of it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, key_file: &Path) -> Result<(Self, State), OpenError> {
        let fail = |source| OpenError::Directory { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let path = directory.join(STORE_FILE);
        let opener = {
            let path = path.clone();
            Box::new(move || redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path))
        };
        let opened = Self::open_with(directory, key_file, opener)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        Ok(opened)
    }

    fn open_with(directory: &Path, key_file: &Path, open: Opener) -> Result<(Self, State), OpenError> {
        let path = directory.join(STORE_FILE);
        let mut database = open().map_err(|error| refuse(directory, error))?;
        let fresh = is_fresh(&database).map_err(OpenError::Database)?;
        let codec = Codec::new(Sealer::load(key_file, fresh)?);
        if !fresh && is_sparse(&database, &path) {
            // What fails here fails again where it matters, and is told there.
            let _ = database.compact();
        }
        let mut disk = Self { path, codec, leased: Leased::default(), open, database: Some(database) };
        if fresh {
            disk.try_write(&Changes::default()).map_err(|error| match error {
                DiskError::Database(redb::Error::Io(source)) => {
                    OpenError::Directory { path: directory.to_owned(), source }
                }
                DiskError::Database(error) => OpenError::Database(error),
                other => OpenError::Bootstrap(other.to_string()),
            })?;
        }
        disk.migrate(key_file)?;
        let state = disk.load()?;
        Ok((disk, state))
    }

    /// What seals and encodes for this store.
    pub(super) fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Opens the database again after a failed write, and reads what it holds.
    fn reload(&mut self) -> Result<State, DiskError> {
        let directory = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        self.database = Some((self.open)().map_err(|error| refuse(&directory, error))?);
        let loaded = self.load();
        if loaded.is_err() {
            self.database = None;
        }
        Ok(loaded?)
    }

    fn try_write(&self, changes: &Changes) -> Result<(), DiskError> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseClosed.into());
        };
        let transaction = database.begin_write().map_err(redb::Error::from)?;
        {
            let mut meta = transaction.open_table(META).map_err(redb::Error::from)?;
            let mut put = |key: &str, value: &[u8]| meta.insert(key, value).map(drop).map_err(redb::Error::from);
            put(META_FORMAT, &FORMAT.to_be_bytes())?;
            put(META_REVISION, &changes.revision.to_be_bytes())?;
            put(META_PROOF, &self.codec.proof())?;

            let mut objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
            for (key, object) in changes.objects() {
                let (kind, key) = (key.kind, encode_key(key));
                match object {
                    Some(object) => {
                        let body = self.codec.encode_body(kind, &key, &object.body)?;
                        objects.insert(key.as_str(), body.as_slice()).map(drop).map_err(redb::Error::from)?;
                    }
                    None => objects.remove(key.as_str()).map(drop).map_err(redb::Error::from)?,
                }
            }
            let mut records = transaction.open_table(RECORDS).map_err(redb::Error::from)?;
            for (key, value) in changes.records.iter().filter(|(key, _)| !key.is_leased()) {
                let key = key.to_string();
                match value {
                    Some(plain) => {
                        let sealed = self.codec.encode_record(&key, plain);
                        records.insert(key.as_str(), sealed.as_slice()).map(drop).map_err(redb::Error::from)?;
                    }
                    None => records.remove(key.as_str()).map(drop).map_err(redb::Error::from)?,
                }
            }
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// Brings an older store to this format; a store of another deployment or a newer program is refused untouched.
    fn migrate(&mut self, key_file: &Path) -> Result<(), OpenError> {
        let database = self.database.as_ref().ok_or(OpenError::Database(redb::Error::DatabaseClosed))?;
        let (format, proof) = {
            let transaction = database.begin_read().map_err(storage)?;
            let meta = transaction.open_table(META).map_err(storage)?;
            let proof = meta.get(META_PROOF).map_err(storage)?.map(|proof| proof.value().to_vec());
            (number(&meta, META_FORMAT)?, proof)
        };
        let unknown = |found: Option<u64>| {
            let found = found.map_or("unknown".to_owned(), |format| format.to_string());
            OpenError::Format { path: self.path.clone(), found }
        };
        let from = format.filter(|format| *format <= FORMAT).ok_or_else(|| unknown(format))?;
        let proof = proof.ok_or_else(|| self.damaged("no proof of the key"))?;
        if !self.codec.proves(&proof) {
            return Err(KeyError::Foreign(key_file.to_owned()).into());
        }
        if from == FORMAT {
            return Ok(());
        }
        let transaction = database.begin_write().map_err(storage)?;
        let migrated = migrate::migrate(&transaction, &self.codec, from).map_err(|error| match error {
            StepError::Database(error) => OpenError::Database(error),
            StepError::Damaged(what) => self.damaged(&what),
        })?;
        if !migrated {
            return Err(unknown(Some(from)));
        }
        {
            let mut meta = transaction.open_table(META).map_err(storage)?;
            meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice()).map(drop).map_err(storage)?;
        }
        transaction.commit().map_err(storage)?;
        tracing::info!(from, to = FORMAT, "the store was brought to this version's format");
        Ok(())
    }

    fn load(&self) -> Result<State, OpenError> {
        let database = self.database.as_ref().ok_or(OpenError::Database(redb::Error::DatabaseClosed))?;
        let transaction = database.begin_read().map_err(storage)?;
        let meta = transaction.open_table(META).map_err(storage)?;
        let revision = number(&meta, META_REVISION)?.ok_or_else(|| self.damaged("no revision"))?;
        let damaged = |Unreadable(what)| self.damaged(&what);
        let mut objects = Vec::new();
        for entry in transaction.open_table(OBJECTS).map_err(storage)?.iter().map_err(storage)? {
            let (key, body) = entry.map_err(storage)?;
            let (key, body) = self.codec.decode_object(key.value(), body.value()).map_err(damaged)?;
            objects.push(Object::new(Arc::new(key), body));
        }
        let mut records = BTreeMap::new();
        for entry in transaction.open_table(RECORDS).map_err(storage)?.iter().map_err(storage)? {
            let (name, sealed) = entry.map_err(storage)?;
            let (key, plain) = self.codec.decode_record(name.value(), sealed.value()).map_err(damaged)?;
            records.insert(key, plain);
        }
        records.extend(self.leased.iter().map(|(key, value)| (key.clone(), value.clone())));
        Ok(State::loaded(revision, objects, records))
    }

    fn damaged(&self, what: &str) -> OpenError {
        OpenError::Damaged { path: self.path.clone(), what: what.to_owned() }
    }
}

impl Journal for Disk {
    fn refresh(&mut self) -> (Vec<News>, Option<Unavailable>) {
        if self.database.is_some() {
            return (Vec::new(), None);
        }
        match self.reload() {
            Ok(state) => {
                tracing::info!("the store can be written again");
                (vec![News::Whole(Box::new(state))], None)
            }
            Err(error) => (Vec::new(), Some(error.into())),
        }
    }

    fn takes(&self, _: &State) -> bool {
        true
    }

    fn write(&mut self, changes: &Changes) -> Result<(), Failure> {
        let (leased, kept): (Vec<_>, Vec<_>) = changes.records.iter().partition(|(key, _)| key.is_leased());
        if !changes.events.is_empty() || !kept.is_empty() {
            self.try_write(changes).map_err(|error| {
                tracing::error!(%error, "the store cannot be written; reading goes on");
                // Whether the disk has it is known once it was read again.
                self.database = None;
                Failure::Unavailable(error.into())
            })?;
        }
        for (key, value) in leased {
            self.leased.set(key, value.clone());
        }
        Ok(())
    }
}

fn number(meta: &impl redb::ReadableTable<&'static str, &'static [u8]>, key: &str) -> Result<Option<u64>, OpenError> {
    let value = meta.get(key).map_err(storage)?;
    Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_be_bytes)))
}

/// Whether most of the file is free.
fn is_sparse(database: &Database, path: &Path) -> bool {
    let file = fs::metadata(path).map_or(0, |metadata| metadata.len());
    file >= COMPACT_BYTES_MIN && used(database).is_some_and(|used| used < file / COMPACT_USED)
}

fn used(database: &Database) -> Option<u64> {
    let stats = database.begin_write().ok()?.stats().ok()?;
    Some(stats.stored_bytes() + stats.metadata_bytes())
}

fn storage(error: impl Into<redb::Error>) -> OpenError {
    OpenError::Database(error.into())
}

fn refuse(directory: &Path, error: DatabaseError) -> OpenError {
    let path = directory.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path),
        DatabaseError::UpgradeRequired(found) => {
            OpenError::Format { path: path.join(STORE_FILE), found: format!("redb {found}") }
        }
        DatabaseError::Storage(redb::StorageError::Io(source)) if source.kind() == io::ErrorKind::InvalidData => {
            OpenError::Damaged { path: path.join(STORE_FILE), what: source.to_string() }
        }
        DatabaseError::Storage(redb::StorageError::Io(source)) => OpenError::Directory { path, source },
        DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
            OpenError::Damaged { path: path.join(STORE_FILE), what }
        }
        other => OpenError::Database(other.into()),
    }
}

/// Whether nothing was ever written: a start that was cut short before the first commit counts as none.
fn is_fresh(database: &Database) -> Result<bool, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(_) => Ok(false),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

pub(super) mod raw;

#[cfg(test)]
pub(super) mod faults;
#[cfg(test)]
mod tests;
