//! A backup: everything of a store as lines of JSON, sealed where the store seals, with a checksum at the end.
//!
//! ```text
//! {"underpass":"backup","format":2,"revision":7,"proof":"…"}   what follows; the proof tells whether a key is the right one
//! {"key":"…"}                                                  the key, only when it was asked for
//! {"object":"NAME","value":"…"}  {"record":"NAME","value":"…"} as the store keeps them, base64
//! {"entries":2,"sha256":"…"}                                   of all lines before
//! ```
//!
//! Without the key a backup is worth nothing to a thief but for what is not secret, and nothing to its owner at all.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Write},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{
    codec::{Codec, encode_key},
    disk::{Disk, OpenError, STORE_FILE, raw},
    migrate::FORMAT,
    object::Objects,
    seal::{KEY_FILE, KeyError, Sealer, write_private},
    state::State,
};

/// How far a restored store's revision jumps ahead: clients that saw later revisions than the backup's are told that
/// theirs are too old, instead of being shown others under the same numbers.
pub const RESTORE_STEP: u64 = 1 << 32;
/// The longest line that is read, in bytes; an object takes less than a tenth.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Why there is no backup, or why one is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the backup cannot be read or written: {0}")]
    Io(#[from] io::Error),
    #[error("this is no whole backup: {0}")]
    Damaged(String),
    #[error("the backup has format {0}, and this program reads formats up to {FORMAT}: use the version that wrote it")]
    Format(u64),
    #[error(
        "the backup has the older format {0}: restore it into a directory, start a relay of this version there once, and \
         restore a backup of that one"
    )]
    Older(u64),
    #[error("etcd holds keys under {0} already: restore under another --etcd-prefix, or delete what is there first")]
    PrefixInUse(String),
    #[error("{} is not empty: restore into a new directory, or one that holds nothing but {KEY_FILE}", .0.display())]
    NotEmpty(PathBuf),
    #[error("the backup does not hold its key: put {KEY_FILE} of the relay that wrote it to {} first", .0.display())]
    NoKey(PathBuf),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("the store's file cannot be read or written")]
    Database(#[source] redb::Error),
    #[error("an object cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    underpass: Backup,
    pub format: u64,
    pub revision: u64,
    #[serde(with = "base64_bytes")]
    pub proof: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backup {
    Backup,
}

impl Header {
    pub(super) fn new(format: u64, revision: u64, proof: Vec<u8>) -> Self {
        Self { underpass: Backup::Backup, format, revision, proof }
    }
}

/// A line between the first and the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase", untagged)]
pub(super) enum Entry {
    Object {
        object: String,
        #[serde(with = "base64_bytes")]
        value: Vec<u8>,
    },
    Record {
        record: String,
        #[serde(with = "base64_bytes")]
        value: Vec<u8>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyLine {
    key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    entries: u64,
    sha256: String,
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub revision: u64,
    pub entries: u64,
}

/// One state of a running store, to be written out.
pub struct Snapshot {
    pub(super) codec: Codec,
    pub(super) objects: std::sync::Arc<Objects>,
    pub(super) records: std::collections::BTreeMap<super::record::RecordKey, Vec<u8>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({} objects)", self.objects.len())
    }
}

impl Snapshot {
    pub(super) fn of(state: &State, codec: &Codec) -> Self {
        Self { codec: codec.clone(), objects: state.objects().clone(), records: state.records().clone() }
    }

    /// Writes the backup to `out`; blocks as `out` does.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn write(&self, out: impl Write) -> Result<Summary, BackupError> {
        let mut lines = Lines::new(out);
        lines.header(&Header::new(FORMAT, self.objects.revision(), self.codec.proof()))?;
        for object in self.objects.iter() {
            let name = encode_key(&object.key);
            let value = self.codec.encode_body(object.key.kind, &name, &object.body)?;
            lines.entry(&Entry::Object { object: name, value })?;
        }
        for (key, plain) in &self.records {
            let name = key.to_string();
            let value = self.codec.encode_record(&name, plain);
            lines.entry(&Entry::Record { record: name, value })?;
        }
        lines.end()
    }
}

/// Writes the backup of the store in `directory`, which no relay has open, to `out`. Older formats are left as they are.
///
/// # Errors
/// [`OpenError::InUse`] when a relay has it open; see [`BackupError`].
pub fn of_directory(directory: &Path, out: impl Write) -> Result<Summary, BackupError> {
    let mut lines = Lines::new(out);
    let (header, entries) = raw::read(directory)?;
    lines.header(&header)?;
    entries.each(|entry| lines.entry(&entry))?;
    lines.end()
}

/// Writes the backup in `from` once more, with the key, to `out`.
///
/// # Errors
/// See [`BackupError`].
pub fn with_key(from: &Path, key_file: &Path, out: impl Write) -> Result<Summary, BackupError> {
    let text = Sealer::read_text(key_file)?;
    let mut read = Reader::open(from)?;
    let mut lines = Lines::new(out);
    lines.header(&read.header)?;
    lines.line(&KeyLine { key: text })?;
    while let Some(entry) = read.next()? {
        lines.entry(&entry)?;
    }
    lines.end()
}

/// Reads the backup in `from` to its end.
///
/// # Errors
/// See [`BackupError`].
pub fn verify(from: &Path) -> Result<Summary, BackupError> {
    let mut read = Reader::open(from)?;
    while read.next()?.is_some() {}
    Ok(Summary { revision: read.header.revision, entries: read.entries })
}

/// Makes a store in `directory` out of the backup in `from`. Nothing is there under the store's name before all of it
/// was read and found good.
///
/// # Errors
/// See [`BackupError`].
pub fn restore(from: &Path, directory: &Path) -> Result<Summary, BackupError> {
    let mut read = Reader::open(from)?;
    let revision = read.restored_revision()?;
    verify(from)?;
    let staging = directory.join(format!("{STORE_FILE}.restoring"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name != KEY_FILE && Some(name.as_os_str()) != staging.file_name() {
            return Err(BackupError::NotEmpty(directory.to_owned()));
        }
    }
    let key_file = directory.join(KEY_FILE);
    read.settle_key(&key_file)?;
    match fs::remove_file(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let header = Header { revision, ..read.header.clone() };
    if let Err(error) = raw::write(&staging, &header, || read.next()) {
        // What is not whole is no store; that it may stay behind is told by the error.
        let _ = fs::remove_file(&staging);
        return Err(error);
    }
    let path = directory.join(STORE_FILE);
    fs::rename(&staging, &path)?;
    if let Err(error) = Disk::open(directory, &key_file) {
        fs::remove_file(&path)?;
        return Err(error.into());
    }
    File::open(directory)?.sync_all()?;
    Ok(Summary { revision: header.revision, entries: read.entries })
}

/// Writes lines and remembers their checksum.
struct Lines<W> {
    out: W,
    digest: Context,
    revision: u64,
    entries: u64,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Self { out, digest: Context::new(&SHA256), revision: 0, entries: 0 }
    }

    fn header(&mut self, header: &Header) -> Result<(), BackupError> {
        self.revision = header.revision;
        self.line(header)
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), BackupError> {
        self.entries += 1;
        self.line(entry)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), BackupError> {
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        self.digest.update(&line);
        Ok(self.out.write_all(&line)?)
    }

    fn end(mut self) -> Result<Summary, BackupError> {
        let trailer = Trailer { entries: self.entries, sha256: hex(self.digest.clone()) };
        self.line(&trailer)?;
        self.out.flush()?;
        Ok(Summary { revision: self.revision, entries: self.entries })
    }
}

/// Reads a backup line by line; at its end it is whole, or there is an error.
pub(super) struct Reader {
    from: BufReader<File>,
    digest: Context,
    pub header: Header,
    key: Option<String>,
    /// A line that was read too early.
    ahead: Option<Vec<u8>>,
    pub entries: u64,
    ended: bool,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, BackupError> {
        let mut from = BufReader::new(File::open(path)?);
        let mut digest = Context::new(&SHA256);
        let first = read_line(&mut from)?;
        let header: Header = serde_json::from_slice(&first).map_err(|_| damaged("it does not begin as one"))?;
        digest.update(&first);
        let second = read_line(&mut from)?;
        let key = serde_json::from_slice(&second).ok().map(|line: KeyLine| line.key);
        let mut ahead = Some(second);
        if key.is_some() {
            ahead.take().iter().for_each(|line| digest.update(line));
        }
        Ok(Self { from, digest, header, key, ahead, entries: 0, ended: false })
    }

    /// At which revision a store goes on that is made out of this.
    pub(super) fn restored_revision(&self) -> Result<u64, BackupError> {
        if self.header.format > FORMAT {
            return Err(BackupError::Format(self.header.format));
        }
        self.header.revision.checked_add(RESTORE_STEP).ok_or_else(|| damaged("its revision is none that a store has"))
    }

    /// Sees to it that `key_file` holds the backup's key, which is written there if it is not and the backup has it.
    pub(super) fn settle_key(&self, key_file: &Path) -> Result<(), BackupError> {
        let sealer = match (&self.key, key_file.exists()) {
            (_, true) => Sealer::load(key_file, false)?,
            (Some(key), false) => Sealer::parse(key).ok_or_else(|| damaged("its key is none"))?,
            (None, false) => return Err(BackupError::NoKey(key_file.to_owned())),
        };
        if !Codec::new(sealer).proves(&self.header.proof) {
            return Err(KeyError::Foreign(key_file.to_owned()).into());
        }
        match &self.key {
            Some(key) if !key_file.exists() => Ok(write_private(key_file, format!("{key}\n").as_bytes())?),
            _ => Ok(()),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Entry>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let line = match self.ahead.take() {
            Some(line) => line,
            None => read_line(&mut self.from)?,
        };
        if let Ok(entry) = serde_json::from_slice(&line) {
            self.digest.update(&line);
            self.entries += 1;
            return Ok(Some(entry));
        }
        let trailer: Trailer = serde_json::from_slice(&line).map_err(|_| damaged("it is cut, or was changed"))?;
        if trailer.entries != self.entries || trailer.sha256 != hex(self.digest.clone()) {
            return Err(damaged("its checksum is not right"));
        }
        if !read_line(&mut self.from)?.is_empty() {
            return Err(damaged("something follows its end"));
        }
        self.ended = true;
        Ok(None)
    }
}

fn read_line(from: &mut impl BufRead) -> Result<Vec<u8>, BackupError> {
    let mut line = Vec::new();
    from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn damaged(what: &str) -> BackupError {
    BackupError::Damaged(what.to_owned())
}

fn hex(digest: Context) -> String {
    digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes as base64 in JSON.
mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::Deserialize as _;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
