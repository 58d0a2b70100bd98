//! Keys of the private records: what the relay must remember that is no API object. Pure.

use std::fmt;

use underpass_shared::identity::{AgentId, NodeName, ProjectName};

/// What a private record is about. Values are JSON, sealed at rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// What signs ServiceAccounts' bearer tokens.
    TokenKey,
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
}

impl RecordKey {
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
            ["token", digest] => Some(Self::Token((*digest).to_owned())),
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
            RecordKey::Agent(project, node, "a".parse().unwrap()),
            RecordKey::Token("00ff".to_owned()),
            RecordKey::TokenKey,
        ] {
            assert_eq!(RecordKey::parse(&key.to_string()), Some(key));
        }
        assert_eq!(RecordKey::parse("agent/p/n"), None);
    }
}
