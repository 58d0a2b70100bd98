//! Keys of the private records: what the relay must remember that is no API object. Pure.

use std::fmt;

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use underpass_shared::identity::{AgentId, AgentIdentity, NodeName, ProjectName, RelayId};

/// What a private record is about. Values are JSON, sealed at rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// What signs ServiceAccounts' bearer tokens.
    TokenKey,
    /// What the tokens of clients' sessions with endpoints are made with.
    PersistenceKey,
    /// The deployment's CA: certificate and key.
    Authority,
    /// The global id of a project's /48 and the next node number to try.
    Project(ProjectName),
    /// A node's number and the next agent number.
    Node(ProjectName, NodeName),
    /// An agent's number in its node.
    Agent(ProjectName, NodeName, AgentId),
    /// An enrolment token, by the SHA-256 of its secret in hex.
    Token(String),

    /// Which relay writes what all relays would write alike. This and all below are leased.
    Leader,
    /// A relay that is there, and how agents reach it.
    Relay(RelayId),
    /// An agent's session with a relay.
    Session(AgentIdentity, RelayId),
}

/// The value of [`RecordKey::Leader`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderRecord {
    pub relay: RelayId,
}

/// The value of [`RecordKey::Relay`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// `host:port` of its tunnel port, as agents dial it.
    pub addresses: Vec<String>,
    /// Drawn when its process began: two relays of one name are told apart by it.
    #[serde(default)]
    pub instance: String,
}

/// The value of [`RecordKey::Session`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Seconds since the Unix epoch.
    pub since: i64,
    /// The agent's address in the overlay.
    pub address: std::net::Ipv6Addr,
}

/// The records that live as long as the relay that wrote them. Cloning is cheap and shares everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Leased(RedBlackTreeMapSync<RecordKey, Vec<u8>>);

impl Leased {
    /// The record at `key`, `None` when there is none, or one that another version wrote in another form.
    #[must_use]
    pub fn get<T: DeserializeOwned>(&self, key: &RecordKey) -> Option<T> {
        serde_json::from_slice(self.0.get(key)?).ok()
    }

    /// The relays that are there, in the order of their names.
    pub fn relays(&self) -> impl Iterator<Item = (&RelayId, RelayRecord)> {
        self.0.iter().filter_map(|(key, value)| match key {
            RecordKey::Relay(relay) => Some((relay, serde_json::from_slice(value).ok()?)),
            _ => None,
        })
    }

    /// The sessions of all relays, ordered by project, node, agent and relay.
    pub fn sessions(&self) -> impl Iterator<Item = (&AgentIdentity, &RelayId, SessionRecord)> {
        self.0.iter().filter_map(|(key, value)| match key {
            RecordKey::Session(agent, relay) => Some((agent, relay, serde_json::from_slice(value).ok()?)),
            _ => None,
        })
    }

    /// The relay that leads, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<RelayId> {
        self.get(&RecordKey::Leader).map(|record: LeaderRecord| record.relay)
    }

    pub fn keys(&self) -> impl Iterator<Item = &RecordKey> {
        self.0.keys()
    }

    #[cfg(test)]
    pub(crate) fn of(records: impl IntoIterator<Item = (RecordKey, Vec<u8>)>) -> Self {
        Self(records.into_iter().collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&RecordKey, &Vec<u8>)> {
        self.0.iter()
    }

    pub(super) fn raw(&self, key: &RecordKey) -> Option<&Vec<u8>> {
        self.0.get(key)
    }

    /// Sets what stands at `key`, and answers what stood there.
    pub(super) fn set(&mut self, key: &RecordKey, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let before = self.0.get(key).cloned();
        match value {
            Some(value) => self.0.insert_mut(key.clone(), value),
            None => drop(self.0.remove_mut(key)),
        }
        before
    }
}

impl RecordKey {
    /// Whether the record ends with the relay that wrote it.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        match self {
            Self::Leader | Self::Relay(_) | Self::Session(..) => true,
            Self::TokenKey
            | Self::PersistenceKey
            | Self::Authority
            | Self::Project(_)
            | Self::Node(..)
            | Self::Agent(..)
            | Self::Token(_) => false,
        }
    }

    /// The range of all tokens begins here.
    pub const FIRST_TOKEN: Self = Self::Token(String::new());

    /// Where the nodes of `project` begin in the key order.
    #[must_use]
    pub fn first_node(project: &ProjectName) -> Self {
        Self::Node(project.clone(), "0".parse().expect("`0` is a label, and the first of all"))
    }

    /// Where the agents of a node begin in the key order.
    #[must_use]
    pub fn first_agent(project: &ProjectName, node: &NodeName) -> Self {
        Self::Agent(project.clone(), node.clone(), "0".parse().expect("`0` is a label, and the first of all"))
    }

    /// The key that `text` stands for, `None` for one that another version wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["authority"] => Some(Self::Authority),
            ["project", project] => Some(Self::Project(project.parse().ok()?)),
            ["node", project, node] => Some(Self::Node(project.parse().ok()?, node.parse().ok()?)),
            ["agent", project, node, agent] => {
                Some(Self::Agent(project.parse().ok()?, node.parse().ok()?, agent.parse().ok()?))
            }
            ["token-key"] => Some(Self::TokenKey),
            ["persistence-key"] => Some(Self::PersistenceKey),
            ["token", digest] => Some(Self::Token((*digest).to_owned())),
            ["leader"] => Some(Self::Leader),
            ["relay", relay] => Some(Self::Relay(relay.parse().ok()?)),
            ["session", project, node, agent, relay] => {
                let (project, node) = (project.parse().ok()?, node.parse().ok()?);
                Some(Self::Session(AgentIdentity { project, node, agent: agent.parse().ok()? }, relay.parse().ok()?))
            }
            _ => None,
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authority => f.write_str("authority"),
            Self::Project(project) => write!(f, "project/{project}"),
            Self::Node(project, node) => write!(f, "node/{project}/{node}"),
            Self::Agent(project, node, agent) => write!(f, "agent/{project}/{node}/{agent}"),
            Self::Token(digest) => write!(f, "token/{digest}"),
            Self::TokenKey => f.write_str("token-key"),
            Self::PersistenceKey => f.write_str("persistence-key"),
            Self::Leader => f.write_str("leader"),
            Self::Relay(relay) => write!(f, "relay/{relay}"),
            Self::Session(AgentIdentity { project, node, agent }, relay) => {
                write!(f, "session/{project}/{node}/{agent}/{relay}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_round_trip() {
        let (project, node): (ProjectName, NodeName) = ("p".parse().unwrap(), "n".parse().unwrap());
        for key in [
            RecordKey::Authority,
            RecordKey::Project(project.clone()),
            RecordKey::Node(project.clone(), node.clone()),
            RecordKey::Agent(project.clone(), node.clone(), "a".parse().unwrap()),
            RecordKey::Token("00ff".to_owned()),
            RecordKey::TokenKey,
            RecordKey::PersistenceKey,
            RecordKey::Leader,
            RecordKey::Relay("r".parse().unwrap()),
            RecordKey::Session(AgentIdentity { project, node, agent: "a".parse().unwrap() }, "r".parse().unwrap()),
        ] {
            assert_eq!(RecordKey::parse(&key.to_string()), Some(key));
        }
        assert_eq!(RecordKey::parse("agent/p/n"), None);
    }
}
