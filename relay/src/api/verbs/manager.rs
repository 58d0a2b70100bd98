//! Who writes, and how strictly what they write is read. Pure.

use crate::{
    api::{
        options::FieldValidation,
        path::{Place, Subresource},
    },
    apply::Manager,
};

/// The longest name of a field manager in bytes (Kubernetes' limit).
const NAME_BYTES_MAX: usize = 128;
/// Who writes without saying who they are.
const UNKNOWN: &str = "unknown";

/// The writer of one request.
#[derive(Debug, Clone)]
pub(super) struct Writer<'a> {
    /// The field manager.
    pub(super) name: &'a str,
    /// Now: RFC 3339 in UTC, whole seconds.
    pub(super) time: &'a str,
    pub(super) validation: FieldValidation,
    /// Whether an apply takes fields from their owners.
    pub(super) force: bool,
}

impl Writer<'_> {
    /// As the owners of fields are noted at `place`.
    pub(super) fn manager<'b>(&'b self, place: &'b Place) -> Manager<'b> {
        Manager {
            name: self.name,
            api_version: place.api_version,
            subresource: place.subresource.filter(|part| *part == Subresource::Status).map(Subresource::name),
            time: self.time,
        }
    }
}

/// The field manager of who does not name one: the user agent up to its first slash, printable, at most 128 bytes.
#[must_use]
pub(super) fn name_of(user_agent: &str) -> String {
    let product = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for character in product.chars().filter(|character| !character.is_control()) {
        if name.len() + character.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        name.push(character);
    }
    if name.is_empty() { UNKNOWN.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_names_the_manager() {
        for (agent, want) in [
            ("kubectl/v1.32.0 (linux/amd64)", "kubectl"),
            ("kube.rs", "kube.rs"),
            ("", "unknown"),
            ("/x", "unknown"),
            ("a\u{7}b/1", "ab"),
        ] {
            assert_eq!(name_of(agent), want, "{agent}");
        }
        assert_eq!(name_of(&"é".repeat(100)).len(), 128);
    }
}
