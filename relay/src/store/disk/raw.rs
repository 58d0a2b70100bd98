//! The store's tables as they are, of whatever format: for backups and their restoration. Decodes nothing.

use std::path::Path;

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _};

use super::{CACHE_BYTES, META, META_FORMAT, META_PROOF, META_REVISION, OBJECTS, OpenError, RECORDS, STORE_FILE};
use super::{number, refuse, storage};
use crate::store::backup::{BackupError, Entry, Header};

/// All entries of a store that is not open elsewhere.
pub(in crate::store) struct Entries(ReadTransaction);

/// The store in `directory`; it must be there.
pub(in crate::store) fn read(directory: &Path) -> Result<(Header, Entries), BackupError> {
    let path = directory.join(STORE_FILE);
    let database = redb::Builder::new().set_cache_size(CACHE_BYTES).open(&path);
    let database = database.map_err(|error| refuse(directory, error))?;
    let transaction = database.begin_read().map_err(storage)?;
    let meta = transaction.open_table(META).map_err(storage)?;
    let damaged = |what: &str| OpenError::Damaged { path: path.clone(), what: what.to_owned() };
    let format = number(&meta, META_FORMAT)?.ok_or_else(|| damaged("no format"))?;
    let revision = number(&meta, META_REVISION)?.ok_or_else(|| damaged("no revision"))?;
    let proof = meta.get(META_PROOF).map_err(storage)?.ok_or_else(|| damaged("no proof of the key"))?;
    let header = Header::new(format, revision, proof.value().to_vec());
    Ok((header, Entries(transaction)))
}

impl Entries {
    /// Hands every entry to `take`.
    pub(in crate::store) fn each(
        &self,
        mut take: impl FnMut(Entry) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        for entry in self.0.open_table(OBJECTS).map_err(storage)?.iter().map_err(storage)? {
            let (name, value) = entry.map_err(storage)?;
            take(Entry::Object { object: name.value().to_owned(), value: value.value().to_vec() })?;
        }
        for entry in self.0.open_table(RECORDS).map_err(storage)?.iter().map_err(storage)? {
            let (name, value) = entry.map_err(storage)?;
            take(Entry::Record { record: name.value().to_owned(), value: value.value().to_vec() })?;
        }
        Ok(())
    }
}

/// A new store's file at `path`, with everything that `next` gives, in one transaction.
pub(in crate::store) fn write(
    path: &Path,
    header: &Header,
    mut next: impl FnMut() -> Result<Option<Entry>, BackupError>,
) -> Result<(), BackupError> {
    let database = Database::create(path).map_err(|error| refuse(path.parent().unwrap_or(path), error))?;
    let transaction = database.begin_write().map_err(storage)?;
    {
        let mut meta = transaction.open_table(META).map_err(storage)?;
        let mut put = |key: &str, value: &[u8]| meta.insert(key, value).map(drop).map_err(storage);
        put(META_FORMAT, &header.format.to_be_bytes())?;
        put(META_REVISION, &header.revision.to_be_bytes())?;
        put(META_PROOF, &header.proof)?;
        let mut objects = transaction.open_table(OBJECTS).map_err(storage)?;
        let mut records = transaction.open_table(RECORDS).map_err(storage)?;
        while let Some(entry) = next()? {
            match entry {
                Entry::Object { object, value } => objects.insert(object.as_str(), value.as_slice()),
                Entry::Record { record, value } => records.insert(record.as_str(), value.as_slice()),
            }
            .map(drop)
            .map_err(storage)?;
        }
    }
    Ok(transaction.commit().map_err(storage)?)
}
