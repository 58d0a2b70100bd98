//! What both programs ask of the host they run on: where to keep state, how many files may be open; and, with the feature
//! `kernel`, what a privileged one lets them change. Whatever is changed is of this process, or is found and mended later.

#[cfg(feature = "kernel")]
pub mod netlink;
#[cfg(feature = "kernel")]
pub mod nftables;
#[cfg(feature = "kernel")]
pub mod ruleset;
#[cfg(feature = "kernel")]
pub mod tun;

use std::{env, path::PathBuf};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

/// The folder of this user's state (XDG Base Directory Specification); `None` for root, whose programs use the system's.
///
/// `XDG_STATE_HOME` where it is set, else `~/.local/state`.
#[must_use]
pub fn state_home() -> Option<PathBuf> {
    if geteuid().is_root() {
        return None;
    }
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))
}

/// Raises the limit of open files to what the host allows; each connection is one. Says what it is then.
///
/// The usual soft limit of 1024 is there for programs that use `select`, which this one does not.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it may not be raised the old one stays, and accepting waits at it.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}
