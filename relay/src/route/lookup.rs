//! How names are resolved that requests name themselves, and how long the answers count (`Backend.spec.dynamicProxy`).

use std::time::Duration;

use underpass_shared::identity::ProjectName;

/// The settings of one Backend, whose answers are kept apart from those of all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lookup {
    pub project: ProjectName,
    /// `namespace/name` of the Backend.
    pub backend: Box<str>,
    pub family: Family,
    /// How long an answer is kept that says 0.
    pub unsaid: Duration,
    /// The shortest that any answer is kept.
    pub least: Duration,
    /// How long an answer is kept that nobody asks for.
    pub unused: Duration,
    /// The most answers that are kept; then the one goes that was asked for longest ago.
    pub most: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// Which addresses of a name are dialled, and which first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Both, IPv6 first.
    #[default]
    Both,
    V4Only,
    V6Only,
    V4First,
}
