//! The store's file: one redb database, one durable transaction per batch. Decides nothing.
//!
//! Tables: `meta` (format, revision, a sealed word that proves the key), `objects` (JSON by key), `records` (sealed).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use underpass_shared::resource::kind::KINDS;

use super::{
    object::{Object, ObjectKey},
    record::RecordKey,
    seal::{KEY_FILE, KeyError, Sealer},
    state::{Changes, State},
};

/// The database's file name in the data directory.
pub const STORE_FILE: &str = "store.redb";
/// The layout that this program reads and writes.
const FORMAT: u64 = 2;
/// The page cache, in bytes. Everything is held in memory besides, so that it serves writes only.
const CACHE_BYTES: usize = 8 << 20;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_PROOF: &str = "proof";
const PROOF: &[u8] = b"underpass";

/// Separates the parts of an object's key; no name can hold it.
const SEPARATOR: char = '/';

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

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The open database. After a failed write it is closed until [`Disk::reload`] succeeds.
pub struct Disk {
    path: PathBuf,
    sealer: Sealer,
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
    pub fn open(directory: &Path) -> Result<(Self, State), OpenError> {
        let fail = |source| OpenError::Directory { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let path = directory.join(STORE_FILE);
        let opener = {
            let path = path.clone();
            Box::new(move || redb::Builder::new().set_cache_size(CACHE_BYTES).create(&path))
        };
        let opened = Self::open_with(directory, path.clone(), opener)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        Ok(opened)
    }

    fn open_with(directory: &Path, path: PathBuf, open: Opener) -> Result<(Self, State), OpenError> {
        let database = open().map_err(|error| refuse(directory, error))?;
        let fresh = is_fresh(&database).map_err(OpenError::Database)?;
        let sealer = Sealer::load(directory, fresh)?;
        let mut disk = Self { path, sealer, open, database: Some(database) };
        if fresh {
            disk.write(&Changes::default()).map_err(|error| match error {
                DiskError::Database(error) => OpenError::Database(error),
                other => OpenError::Bootstrap(other.to_string()),
            })?;
        }
        let state = disk.load()?;
        Ok((disk, state))
    }

    /// Whether writes reach the disk, as far as is known.
    pub fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Makes `changes` durable, all or none. After an error, which of the two is unknown until [`Disk::reload`].
    ///
    /// # Errors
    /// [`DiskError`]; the database is then closed.
    pub fn write(&mut self, changes: &Changes) -> Result<(), DiskError> {
        let written = self.try_write(changes);
        if written.is_err() {
            self.database = None;
        }
        written
    }

    /// Opens the database again after a failed write, and reads what it holds.
    ///
    /// # Errors
    /// [`DiskError`]; the database stays closed.
    pub fn reload(&mut self) -> Result<State, DiskError> {
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
            put(META_PROOF, &self.sealer.seal(META_PROOF, PROOF))?;

            let mut objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
            for (key, object) in changes.objects() {
                let key = encode(key);
                match object {
                    Some(object) => {
                        let body = serde_json::to_vec(&object.body)?;
                        objects.insert(key.as_str(), body.as_slice()).map(drop).map_err(redb::Error::from)?;
                    }
                    None => objects.remove(key.as_str()).map(drop).map_err(redb::Error::from)?,
                }
            }
            let mut records = transaction.open_table(RECORDS).map_err(redb::Error::from)?;
            for (key, value) in &changes.records {
                let key = key.to_string();
                match value {
                    Some(plain) => {
                        let sealed = self.sealer.seal(&key, plain);
                        records.insert(key.as_str(), sealed.as_slice()).map(drop).map_err(redb::Error::from)?;
                    }
                    None => records.remove(key.as_str()).map(drop).map_err(redb::Error::from)?,
                }
            }
        }
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    fn load(&self) -> Result<State, OpenError> {
        let database = self.database.as_ref().ok_or(OpenError::Database(redb::Error::DatabaseClosed))?;
        let transaction = database.begin_read().map_err(storage)?;
        let meta = transaction.open_table(META).map_err(storage)?;
        let number = |key: &str| -> Result<Option<u64>, OpenError> {
            let value = meta.get(key).map_err(storage)?;
            Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_be_bytes)))
        };
        let format = number(META_FORMAT)?;
        if format != Some(FORMAT) {
            let found = format.map_or("unknown".to_owned(), |format| format.to_string());
            return Err(OpenError::Format { path: self.path.clone(), found });
        }
        let revision = number(META_REVISION)?.ok_or_else(|| self.damaged("no revision"))?;
        let proof = meta.get(META_PROOF).map_err(storage)?.ok_or_else(|| self.damaged("no proof of the key"))?;
        if self.sealer.open(META_PROOF, proof.value()).as_deref() != Ok(PROOF) {
            return Err(KeyError::Foreign(self.path.with_file_name(KEY_FILE)).into());
        }

        let mut objects = Vec::new();
        for entry in transaction.open_table(OBJECTS).map_err(storage)?.iter().map_err(storage)? {
            let (key, body) = entry.map_err(storage)?;
            let key = decode(key.value()).ok_or_else(|| self.damaged(&format!("object {:?}", key.value())))?;
            let body =
                serde_json::from_slice(body.value()).map_err(|error| self.damaged(&format!("{key}: {error}")))?;
            objects.push(Object::new(Arc::new(key), body));
        }
        let mut records = BTreeMap::new();
        for entry in transaction.open_table(RECORDS).map_err(storage)?.iter().map_err(storage)? {
            let (name, sealed) = entry.map_err(storage)?;
            let name = name.value();
            let key = RecordKey::parse(name).ok_or_else(|| self.damaged(&format!("record {name:?}")))?;
            let plain =
                self.sealer.open(name, sealed.value()).map_err(|_| self.damaged(&format!("record {name:?}")))?;
            records.insert(key, plain);
        }
        Ok(State::loaded(revision, objects, records))
    }

    fn damaged(&self, what: &str) -> OpenError {
        OpenError::Damaged { path: self.path.clone(), what: what.to_owned() }
    }
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

/// `plural/project/namespace/name`, absent parts empty.
fn encode(key: &ObjectKey) -> String {
    let project = key.project.as_ref().map_or("", |project| project.as_str());
    let namespace = key.namespace.as_deref().unwrap_or("");
    format!("{}{SEPARATOR}{project}{SEPARATOR}{namespace}{SEPARATOR}{}", key.kind.info().plural, key.name)
}

fn decode(text: &str) -> Option<ObjectKey> {
    let parts: Vec<&str> = text.split(SEPARATOR).collect();
    let [plural, project, namespace, name] = parts.as_slice() else { return None };
    let kind = KINDS.iter().find(|info| info.plural == *plural)?.kind;
    let project = if project.is_empty() { None } else { Some(project.parse().ok()?) };
    let namespace = if namespace.is_empty() { None } else { Some((*namespace).to_owned()) };
    Some(ObjectKey { kind, project, namespace, name: (*name).to_owned() })
}

#[cfg(test)]
pub(super) mod faults;
