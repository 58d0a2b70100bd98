//! Who is who: the names of projects, nodes, agents and relays, and the identity a certificate carries.
//!
//! A certificate carries exactly one identity, as a URI subject alternative name (RFC 5280 §4.2.1.6).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// The project every deployment has from its first moment.
pub const DEFAULT_PROJECT: &str = "default";

/// The longest name in bytes: a DNS label (RFC 1123 §2.1).
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("`{0}` is longer than {NAME_BYTES_MAX} characters")]
    TooLong(String),
    #[error(
        "`{0}` is not a DNS label: lower-case letters, digits and `-` only, beginning and ending with a letter or digit"
    )]
    NotALabel(String),
}

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.to_owned()));
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let outer = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if bytes.iter().all(|&b| inner(b)) && outer(bytes[0]) && outer(bytes[bytes.len() - 1]) {
        return Ok(());
    }
    Err(NameError::NotALabel(text.to_owned()))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When `text` is not a DNS label (RFC 1123 §2.1).
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check_label(text).map(|()| Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A project: an isolated set of resources with an overlay network of its own.
    ProjectName
);
name!(
    /// A `TunnelNode`'s name: the thing that owns an overlay prefix.
    NodeName
);
name!(
    /// One running agent's stable id within its node.
    AgentId
);
name!(
    /// One relay of the deployment.
    RelayId
);

impl Default for ProjectName {
    fn default() -> Self {
        Self(DEFAULT_PROJECT.into())
    }
}

/// The agent a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentIdentity {
    pub project: ProjectName,
    pub node: NodeName,
    pub agent: AgentId,
}

/// What a certificate of the deployment's CA says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// May speak for one node.
    Agent(AgentIdentity),
    /// May be dialled as a relay.
    Relay(RelayId),
    /// May do everything at the API.
    Admin,
}

const SCHEME: &str = "spiffe://underpass/";

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(AgentIdentity { project, node, agent }) => {
                write!(f, "{SCHEME}project/{project}/node/{node}/agent/{agent}")
            }
            Self::Relay(relay) => write!(f, "{SCHEME}relay/{relay}"),
            Self::Admin => write!(f, "{SCHEME}admin"),
        }
    }
}

/// Why a URI is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Underpass identity")]
pub struct IdentityError(pub String);

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let refuse = || IdentityError(uri.to_owned());
        let path = uri.strip_prefix(SCHEME).ok_or_else(refuse)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["project", project, "node", node, "agent", agent] => Ok(Self::Agent(AgentIdentity {
                project: project.parse().map_err(|_| refuse())?,
                node: node.parse().map_err(|_| refuse())?,
                agent: agent.parse().map_err(|_| refuse())?,
            })),
            ["relay", relay] => Ok(Self::Relay(relay.parse().map_err(|_| refuse())?)),
            ["admin"] => Ok(Self::Admin),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_the_round_trip() {
        for uri in [
            "spiffe://underpass/project/default/node/office/agent/a1",
            "spiffe://underpass/relay/r-1",
            "spiffe://underpass/admin",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn foreign_and_malformed_identities_are_refused() {
        for uri in [
            "",
            "spiffe://other/admin",
            "spiffe://underpass/",
            "spiffe://underpass/admin/x",
            "spiffe://underpass/project/default/node/Office/agent/a1",
            "spiffe://underpass/project/default/node//agent/a1",
        ] {
            assert_eq!(uri.parse::<Identity>(), Err(IdentityError(uri.to_owned())));
        }
    }

    #[test]
    fn names_are_dns_labels() {
        assert!(NodeName::parse("office-2").is_ok());
        assert_eq!(NodeName::parse(""), Err(NameError::Empty));
        assert!(matches!(NodeName::parse(&"a".repeat(64)), Err(NameError::TooLong(_))));
        for bad in ["-a", "a-", "A", "a.b", "a_b", "ä"] {
            assert_eq!(NodeName::parse(bad), Err(NameError::NotALabel(bad.to_owned())));
        }
    }
}
