//! Private records at rest: AES-256-GCM under `store.key`. Owns the key file; knows nothing of what it seals.
//!
//! ```text
//!  1 byte     12 bytes   n bytes                 16 bytes
//!  format 1 │ nonce    │ ciphertext            │ tag       (additional data: the record's key)
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};

/// The key's file name in the data directory.
pub const KEY_FILE: &str = "store.key";
const KEY_BYTES: usize = 32;
const FORMAT: u8 = 1;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{0} can be read by others (mode {mode:04o}): run `chmod 600 {0}`", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is missing, and without it the store cannot be read: restore it from your backup, or copy it from another relay of this deployment", .0.display())]
    Missing(PathBuf),
    #[error("{} is damaged: it must hold 64 hexadecimal digits; restore it from your backup", .0.display())]
    Damaged(PathBuf),
    #[error("{} is not the key that this store was written with: restore the right one from your backup, or copy it from another relay of this deployment", .0.display())]
    Foreign(PathBuf),
    #[error("cannot read or write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A sealed record that does not open: changed on disk, moved to another key, or sealed under another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed record does not open")]
pub struct Unsealable;

/// The key, ready to use.
pub struct Sealer(RandomizedNonceKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Reads the key in the file `path`; makes one if there is none and `may_create`.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(path: &Path, may_create: bool) -> Result<Self, KeyError> {
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && may_create => {
                create(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
            }
            _ => {}
        }
        let text = Self::read_text(path)?;
        let key = parse(&text).ok_or_else(|| KeyError::Damaged(path.to_owned()))?;
        Ok(Self::new(&key))
    }

    /// What is in the key file `path`, which nobody else may read.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn read_text(path: &Path) -> Result<String, KeyError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
            _ => KeyError::Io { path: path.to_owned(), source },
        };
        let mode = fs::metadata(path).map_err(fail)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        Ok(fs::read_to_string(path).map_err(fail)?.trim().to_owned())
    }

    /// The key that a key file with this text holds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        parse(text.trim()).map(|key| Self::new(&key))
    }

    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
    }

    /// `plain` sealed, bound to `name`.
    #[must_use]
    pub fn seal(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut body)
            .expect("a record is shorter than the 64 GiB that AES-GCM allows");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        sealed
    }

    /// What [`Sealer::seal`] sealed under the same name.
    ///
    /// # Errors
    /// [`Unsealable`].
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, Unsealable> {
        let (&format, rest) = sealed.split_first().ok_or(Unsealable)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealable)?;
        if format != FORMAT {
            return Err(Unsealable);
        }
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.0.open_in_place(nonce, Aad::from(name.as_bytes()), &mut body).map_err(|_| Unsealable)?.len();
        body.truncate(plain);
        Ok(body)
    }
}

/// Writes a new key so that the file, once it has its name, is whole and durable. Of several who do so at once the
/// first makes the key of all.
fn create(path: &Path) -> io::Result<()> {
    let (mut key, mut own) = ([0; KEY_BYTES], [0; 8]);
    for bytes in [&mut key[..], &mut own[..]] {
        rand::fill(bytes).map_err(|_| io::Error::other("the system has no randomness"))?;
    }
    let staging = path.with_extension(format!("{}.new", hex(&own)));
    write_private(&staging, format!("{}\n", hex(&key)).as_bytes())?;
    let named = fs::hard_link(&staging, path);
    fs::remove_file(&staging)?;
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes `path` with mode 0600, whole or not at all, durable.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let staging = PathBuf::from(name);
    match fs::remove_file(&staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staging)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staging, path)
}

fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    if text.len() != 2 * KEY_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_record_opens_under_its_own_name_only() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal("token/a", b"secret");
        assert_eq!(sealer.open("token/a", &sealed), Ok(b"secret".to_vec()));
        assert_eq!(sealer.open("token/b", &sealed), Err(Unsealable));
        assert_eq!(Sealer::new(&[2; 32]).open("token/a", &sealed), Err(Unsealable));
        assert_ne!(sealer.seal("token/a", b"secret"), sealed, "each sealing has a nonce of its own");
    }

    #[test]
    fn every_changed_or_cut_byte_is_noticed() {
        let sealer = Sealer::new(&[1; 32]);
        let sealed = sealer.seal("n", b"secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealer.open("n", &changed), Err(Unsealable), "byte {at}");
            assert_eq!(sealer.open("n", &sealed[..at]), Err(Unsealable), "cut at {at}");
        }
    }

    #[test]
    fn the_key_file_is_private_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let sealed = Sealer::load(&directory.path().join(KEY_FILE), true).unwrap().seal("n", b"x");
        let path = directory.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(
            Sealer::load(&directory.path().join(KEY_FILE), false).unwrap().open("n", &sealed),
            Ok(b"x".to_vec())
        );
    }

    #[test]
    fn an_exposed_missing_or_damaged_key_file_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KEY_FILE);
        assert!(matches!(Sealer::load(&directory.path().join(KEY_FILE), false), Err(KeyError::Missing(_))));
        Sealer::load(&directory.path().join(KEY_FILE), true).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Sealer::load(&directory.path().join(KEY_FILE), true).unwrap_err().to_string();
        assert_eq!(error, format!("{0} can be read by others (mode 0640): run `chmod 600 {0}`", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(Sealer::load(&directory.path().join(KEY_FILE), true), Err(KeyError::Damaged(_))));
    }
}
