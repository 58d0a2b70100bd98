//! How a rule keeps each client at the endpoint that served it first (Gateway API, `sessionPersistence`, GEP-1619).

use std::time::Duration;

use http::HeaderName;

/// What a rule's `sessionPersistence` comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub by: By,
    /// When a session ends at the latest, counted from its start.
    pub absolute: Option<Duration>,
}

/// What a client says its session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    Cookie {
        name: Box<str>,
        /// Whether it outlives the client's program: then it says how long it counts.
        is_permanent: bool,
    },
    Header(HeaderName),
}

impl Session {
    /// The cookie's or header's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.by {
            By::Cookie { name, .. } => name,
            By::Header(name) => name.as_str(),
        }
    }
}
