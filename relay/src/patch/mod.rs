//! The three forms of a patch: JSON Patch (RFC 6902), JSON Merge Patch (RFC 7386) and Kubernetes' strategic merge.
//!
//! Pure. Each takes an object and what the client sent, and gives the new object; both are JSON of at most 128 levels,
//! as the API reads it. Whether the result may be stored is for the schema to say.

mod json;
mod merge;
mod strategic;

pub use self::{
    json::{COPIED_BYTES_MAX, OPERATIONS_MAX, json},
    merge::merge,
    strategic::strategic,
};

/// How many levels a patched object may have, its innermost values included: as many as JSON is read to.
const LEVELS_MAX: usize = 128;
/// The most characters of a client's text that an error repeats.
const QUOTED_MAX: usize = 200;

/// Why a patch is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is no patch of this form (400).
    #[error("{0}")]
    Malformed(String),
    /// It is a patch, but not of this object: a `test` fails, a path is not there (422).
    #[error("{0}")]
    Inapplicable(String),
    /// It is larger, deeper or longer than is allowed (413).
    #[error("{0}")]
    TooLarge(String),
}

/// The beginning of `text`, in one line.
fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
