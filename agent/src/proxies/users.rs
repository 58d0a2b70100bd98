//! Who may use the proxies: names and passwords of a file, compared without telling by the time what was wrong.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{Digest, SHA256, digest},
};

use super::socks5::Credentials;

/// The longest name and the longest password, in bytes (RFC 1929 §2).
const PART_BYTES_MAX: usize = 255;

/// Those who may use the proxies; only digests of their passwords are kept.
#[derive(Clone)]
pub struct Users(Vec<Digest>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

/// What is wrong with a file of users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    #[error("--socks-user-file {path}: cannot be read")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("--socks-user-file {path}: others can read it: `chmod 600 {path}`")]
    Open { path: PathBuf },
    #[error("--socks-user-file {path}: line {line} is not USER:PASSWORD with 1 to 255 bytes each")]
    Line { path: PathBuf, line: usize },
    #[error("--socks-user-file {path}: names nobody; write USER:PASSWORD, one a line")]
    Nobody { path: PathBuf },
}

impl Users {
    /// Reads a file of `USER:PASSWORD`, one a line, that nobody else can read; empty lines and those from `#` on are passed
    /// over.
    ///
    /// # Errors
    /// See [`UsersError`].
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        let (path, unreadable) = (path.to_owned(), |source| UsersError::Unreadable { path: path.to_owned(), source });
        if fs::metadata(&path).map_err(unreadable)?.permissions().mode() & 0o077 != 0 {
            return Err(UsersError::Open { path });
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        let mut users = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let good = |part: &str| (1..=PART_BYTES_MAX).contains(&part.len());
            let parts = line.split_once(':').filter(|(name, password)| good(name) && good(password));
            let Some((name, password)) = parts else { return Err(UsersError::Line { path, line: index + 1 }) };
            users.push(of(name.as_bytes(), password.as_bytes()));
        }
        if users.is_empty() {
            return Err(UsersError::Nobody { path });
        }
        Ok(Self(users))
    }

    /// Whether these are one user's name and password. Takes as long whoever it is.
    #[must_use]
    pub fn know(&self, credentials: &Credentials) -> bool {
        let shown = of(&credentials.name, &credentials.password);
        // Each is compared: who is found early is answered no earlier.
        let is_it = |user: &Digest| verify_slices_are_equal(user.as_ref(), shown.as_ref()).is_ok();
        self.0.iter().fold(false, |known, user| is_it(user) | known)
    }
}

/// What is kept of a user. Where the name ends is in it, so that no two users are one.
fn of(name: &[u8], password: &[u8]) -> Digest {
    digest(&SHA256, &[&(name.len() as u64).to_be_bytes(), name, password].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, mode: u32) -> Result<Users, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let users = Users::load(&path);
        users.map_err(|error| error.to_string().replace(&path.display().to_string(), "PATH"))
    }

    #[test]
    fn a_user_is_known_by_name_and_password_only() {
        let users = load("# people\n\nme:secret:with:colons\nyou:other\n", 0o600).unwrap();
        let know = |name: &str, password: &str| {
            users.know(&Credentials { name: name.as_bytes().to_vec(), password: password.as_bytes().to_vec() })
        };
        assert!(know("me", "secret:with:colons") && know("you", "other"));
        for (name, password) in [("me", "other"), ("you", ""), ("", ""), ("me:secret", "with:colons"), ("yo", "uother")]
        {
            assert!(!know(name, password), "{name} {password}");
        }
    }

    #[test]
    fn a_file_that_is_no_good_is_refused_with_its_line() {
        let check = |text: &str, mode: u32, want: &str| assert_eq!(load(text, mode).unwrap_err(), want, "{text:?}");
        check("me:secret\n", 0o640, "--socks-user-file PATH: others can read it: `chmod 600 PATH`");
        check("# nobody\n", 0o600, "--socks-user-file PATH: names nobody; write USER:PASSWORD, one a line");
        let line =
            |line: usize| format!("--socks-user-file PATH: line {line} is not USER:PASSWORD with 1 to 255 bytes each");
        check("me:secret\nyou\n", 0o600, &line(2));
        check(":secret\n", 0o600, &line(1));
        check("me:\n", 0o600, &line(1));
        check(&format!("me:{}\n", "x".repeat(256)), 0o600, &line(1));
        assert_eq!(
            Users::load(Path::new("/nonexistent")).unwrap_err().to_string(),
            "--socks-user-file /nonexistent: cannot be read"
        );
    }
}
