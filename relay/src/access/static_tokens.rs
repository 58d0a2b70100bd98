//! Bearer tokens that the operator keeps in a file: `TOKEN,NAME,ROLE[,PROJECT]`, one a line.
//!
//! The file is looked at again when it changed, so that a line that is taken out is good no longer.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, digest};
use underpass_shared::identity::ProjectName;

use super::role::Role;

/// The longest file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The fewest characters of a token: fewer can be guessed.
const TOKEN_CHARS_MIN: usize = 16;

/// What a token of the file stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    pub name: String,
    pub role: Role,
    /// `None`: every project.
    pub project: Option<ProjectName>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the token file {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the token file {} can be read by others than its owner: `chmod 600` it", .0.display())]
    Open(PathBuf),
    #[error("the token file {} is longer than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    #[error("the token file {}, line {line}: {reason}; a line is TOKEN,NAME,ROLE[,PROJECT]", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
}

/// A digest in place of the token: what is compared tells nothing of how much of a guess was right.
type Digest = [u8; 32];

/// The tokens of a file.
#[derive(Debug)]
pub struct StaticTokens {
    path: PathBuf,
    loaded: Mutex<(Option<SystemTime>, HashMap<Digest, Fixed>)>,
}

impl StaticTokens {
    /// # Errors
    /// See [`FileError`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let loaded = read(path)?;
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(loaded) })
    }

    /// What `token` stands for, as the file says now. A file that cannot be read any more has no tokens.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Fixed> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if changed != loaded.0 || changed.is_none() {
            *loaded = read(&self.path).unwrap_or_else(|error| {
                tracing::warn!(error = %error, "no token of the token file is good until this is mended");
                (None, HashMap::new())
            });
        }
        loaded.1.get(&of(token)).cloned()
    }
}

fn of(token: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

fn read(path: &Path) -> Result<(Option<SystemTime>, HashMap<Digest, Fixed>), FileError> {
    let fail = |source| FileError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(fail)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(FileError::Open(path.to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLong(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(fail)?;
    Ok((metadata.modified().ok(), parse(path, &text)?))
}

fn parse(path: &Path, text: &str) -> Result<HashMap<Digest, Fixed>, FileError> {
    let mut tokens = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |reason: String| FileError::Line { path: path.to_owned(), line: index + 1, reason };
        let parts: Vec<&str> = line.split(',').map(str::trim).collect();
        let (token, name, role, project) = match parts.as_slice() {
            [token, name, role] => (*token, *name, *role, None),
            [token, name, role, project] => {
                let project = project.parse().map_err(|error| wrong(format!("{error}")))?;
                (*token, *name, *role, Some(project))
            }
            _ => return Err(wrong(format!("{} parts", parts.len()))),
        };
        if token.len() < TOKEN_CHARS_MIN {
            return Err(wrong(format!("the token has fewer than {TOKEN_CHARS_MIN} characters")));
        }
        if name.is_empty() || name.starts_with("system:") {
            return Err(wrong("the name is empty or begins with `system:`".to_owned()));
        }
        let role = Role::parse(role).ok_or_else(|| wrong("the role is not admin, editor or viewer".to_owned()))?;
        tokens.insert(of(token), Fixed { name: name.to_owned(), role, project });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_token_is_good_as_long_as_its_line_is_there() {
        let file = file("# of the CI\n0123456789abcdef,ci,editor,shop\nfedcba9876543210, ops ,admin\n", 0o600);
        let tokens = StaticTokens::load(file.path()).unwrap();
        let ci = Fixed { name: "ci".to_owned(), role: Role::Editor, project: Some("shop".parse().unwrap()) };
        assert_eq!(tokens.find("0123456789abcdef"), Some(ci));
        assert_eq!(tokens.find("fedcba9876543210").unwrap().project, None);
        assert_eq!(tokens.find("0123456789abcdeg"), None);

        fs::write(file.path(), "fedcba9876543210,ops,viewer\n").unwrap();
        fs::File::open(file.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(tokens.find("0123456789abcdef"), None);
        assert_eq!(tokens.find("fedcba9876543210").unwrap().role, Role::Viewer);

        fs::remove_file(file.path()).unwrap();
        assert_eq!(tokens.find("fedcba9876543210"), None, "a file that is gone has no tokens");
    }

    #[test]
    fn a_file_that_cannot_be_trusted_or_understood_is_refused_with_the_line() {
        for (text, want) in [
            ("short,ci,editor", "line 1: the token has fewer"),
            ("\n0123456789abcdef,ci", "line 2: 2 parts"),
            ("0123456789abcdef,ci,root", "line 1: the role is not"),
            ("0123456789abcdef,system:x,viewer", "line 1: the name"),
            ("0123456789abcdef,ci,viewer,Shop", "line 1: "),
        ] {
            let error = StaticTokens::load(file(text, 0o600).path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let error = StaticTokens::load(file("", 0o640).path()).unwrap_err();
        assert!(matches!(error, FileError::Open(_)), "{error}");
    }
}
