//! The overlay's address plan: a project's /48, a node's /64, an agent's /96 (RFC 4193, RFC 6052).
//!
//! ```text
//!  bytes 0..6            6..8        8    9..12          12..16
//!  fdXX:XXXX:XXXX        node        0    agent number   IPv4 behind the agent; the agent itself is 0.0.0.1
//!  └─ project /48 ─┘└─ node /64 ─┘└──── agent /96 ────┘
//! ```

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// The node number that relays take their own addresses from.
pub const RELAY_NODE: NodeNumber = NodeNumber(0);

/// The last four bytes of an agent's own address.
const SELF: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 1);

/// A project's overlay network, a /48 in fd00::/8 (RFC 4193 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProjectPrefix([u8; 6]);

/// A node's place in its project: the /64 within the /48. Nodes start at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeNumber(pub u16);

/// An agent's place in its node: the /96 within the /64, 24 bits, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct AgentNumber(u32);

/// A node's overlay network, a /64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePrefix(Ipv6Addr);

/// An agent's overlay network, a /96.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentPrefix(Ipv6Addr);

/// What an overlay address means to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `NODE::`, which stands for any one agent of the node and is never a source.
    AnyAgent(NodeNumber),
    /// An address in one agent's /96.
    Agent(NodeNumber, AgentNumber, Ipv4Addr),
}

/// The agent number 0 or one beyond 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("agent number {0} is not in 1..=16777215")]
pub struct AgentNumberError(u32);

impl ProjectPrefix {
    /// Prefix length in bits.
    pub const BITS: u8 = 48;

    /// The prefix with this random global id (RFC 4193 §3.2).
    #[must_use]
    pub fn from_global_id(id: [u8; 5]) -> Self {
        Self([0xfd, id[0], id[1], id[2], id[3], id[4]])
    }

    /// The project whose overlay `address` lies in; `None` for one that is in no overlay.
    #[must_use]
    pub fn of(address: Ipv6Addr) -> Option<Self> {
        let octets = address.octets();
        let prefix = [octets[0], octets[1], octets[2], octets[3], octets[4], octets[5]];
        (octets[0] == 0xfd).then_some(Self(prefix))
    }

    /// The address that every relay has in this project: the first agent's place in node 0.
    #[must_use]
    pub fn relay_address(self) -> Ipv6Addr {
        self.node(RELAY_NODE).agent(AgentNumber(1)).address()
    }

    /// The first address of the prefix.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets.into()
    }

    /// The /64 of `node`.
    #[must_use]
    pub fn node(self, node: NodeNumber) -> NodePrefix {
        let mut octets = self.network().octets();
        octets[6..8].copy_from_slice(&node.0.to_be_bytes());
        NodePrefix(octets.into())
    }

    /// Where `address` lies in this project, `None` when it is outside or not in the plan.
    #[must_use]
    pub fn locate(self, address: Ipv6Addr) -> Option<Place> {
        let o = address.octets();
        if o[..6] != self.0 || o[8] != 0 {
            return None;
        }
        let node = NodeNumber(u16::from_be_bytes([o[6], o[7]]));
        let agent = u32::from_be_bytes([0, o[9], o[10], o[11]]);
        let inside = Ipv4Addr::new(o[12], o[13], o[14], o[15]);
        match AgentNumber::new(agent) {
            Ok(agent) => Some(Place::Agent(node, agent, inside)),
            Err(_) if inside.is_unspecified() => Some(Place::AnyAgent(node)),
            Err(_) => None,
        }
    }
}

impl AgentNumber {
    /// # Errors
    /// When `number` is 0 or does not fit 24 bits.
    pub fn new(number: u32) -> Result<Self, AgentNumberError> {
        if (1..=0x00ff_ffff).contains(&number) { Ok(Self(number)) } else { Err(AgentNumberError(number)) }
    }

    /// The number, 1..=16777215.
    #[must_use]
    pub fn value(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for AgentNumber {
    type Error = AgentNumberError;
    fn try_from(number: u32) -> Result<Self, AgentNumberError> {
        Self::new(number)
    }
}

impl From<AgentNumber> for u32 {
    fn from(number: AgentNumber) -> Self {
        number.0
    }
}

impl NodePrefix {
    /// Prefix length in bits.
    pub const BITS: u8 = 64;

    /// The first address, which stands for any one agent of the node.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        self.0
    }

    /// The /96 of `agent`.
    #[must_use]
    pub fn agent(self, agent: AgentNumber) -> AgentPrefix {
        let mut octets = self.0.octets();
        octets[9..12].copy_from_slice(&agent.0.to_be_bytes()[1..]);
        AgentPrefix(octets.into())
    }
}

impl AgentPrefix {
    /// Prefix length in bits.
    pub const BITS: u8 = 96;

    /// The first address of the prefix.
    #[must_use]
    pub fn network(self) -> Ipv6Addr {
        self.0
    }

    /// The agent's own address: the prefix with 0.0.0.1.
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        self.embed(SELF)
    }

    /// The address that stands for `host` behind the agent (RFC 6052 §2.2).
    #[must_use]
    pub fn embed(self, host: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.0.octets();
        octets[12..].copy_from_slice(&host.octets());
        octets.into()
    }

    /// Whether `address` lies in the prefix.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        self.0.octets()[..12] == address.octets()[..12]
    }
}

macro_rules! show {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.network(), Self::BITS)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
show!(ProjectPrefix NodePrefix AgentPrefix);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn project() -> ProjectPrefix {
        ProjectPrefix::from_global_id([1, 2, 3, 4, 5])
    }

    #[test]
    fn the_plan_reads_as_documented() {
        let node = project().node(NodeNumber(7));
        let agent = node.agent(AgentNumber::new(0x01_0203).unwrap());
        assert_eq!(project().to_string(), "fd01:203:405::/48");
        assert_eq!(node.to_string(), "fd01:203:405:7::/64");
        assert_eq!(agent.to_string(), "fd01:203:405:7:1:203::/96");
        assert_eq!(project().relay_address().to_string(), "fd01:203:405::1:0:1");
        assert_eq!(agent.address().to_string(), "fd01:203:405:7:1:203:0:1");
        assert_eq!(agent.embed(Ipv4Addr::new(192, 0, 2, 7)).to_string(), "fd01:203:405:7:1:203:c000:207");
    }

    #[test]
    fn addresses_outside_the_plan_have_no_place() {
        let mut with_byte_8 = project().node(NodeNumber(1)).network().octets();
        with_byte_8[8] = 1;
        assert_eq!(project().locate(with_byte_8.into()), None);
        assert_eq!(project().locate("fd01:203:406:1::".parse().unwrap()), None);
        assert_eq!(project().locate("fd01:203:405:1::2".parse().unwrap()), None, "agent 0 holds no hosts");
        assert_eq!(AgentNumber::new(0), Err(AgentNumberError(0)));
        assert_eq!(AgentNumber::new(1 << 24), Err(AgentNumberError(1 << 24)));
    }

    proptest! {
        #[test]
        fn every_address_is_found_where_it_was_placed(node: u16, agent in 1u32..1 << 24, host: u32) {
            let (node, agent, host) = (NodeNumber(node), AgentNumber::new(agent).unwrap(), Ipv4Addr::from(host));
            let prefix = project().node(node).agent(agent);
            prop_assert_eq!(project().locate(prefix.embed(host)), Some(Place::Agent(node, agent, host)));
            prop_assert!(prefix.contains(prefix.embed(host)));
            prop_assert_eq!(ProjectPrefix::of(prefix.embed(host)), Some(project()));
            prop_assert_eq!(project().locate(project().node(node).network()), Some(Place::AnyAgent(node)));
        }
    }
}
