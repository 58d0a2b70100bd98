//! What the agent offers: its own loopback ports, to its project's gateway all of them or those that were named, to other
//! nodes only those that were named.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// One `--publish`: a port of the node, and the loopback port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// The port that Backend references name.
    pub port: u16,
    /// The port on the agent's loopback.
    pub local: u16,
}

/// Why a text is no publication.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not PORT or PORT=LOCALPORT with ports from 1 to 65535")]
pub struct PublicationError(String);

impl FromStr for Publication {
    type Err = PublicationError;

    fn from_str(text: &str) -> Result<Self, PublicationError> {
        let refuse = || PublicationError(text.to_owned());
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refuse);
        match text.split_once('=') {
            Some((outer, local)) => Ok(Self { port: port(outer)?, local: port(local)? }),
            None => port(text).map(|port| Self { port, local: port }),
        }
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.port, self.local)
    }
}

/// Which loopback port serves which port of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Empty: every port is published to the gateway as itself, and none to other nodes.
    local_by_port: BTreeMap<u16, u16>,
    /// Loopback ports of the agent's own, which nobody may reach through the tunnel.
    own: BTreeSet<u16>,
}

/// Who wants to reach a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A Gateway of the agent's project.
    Gateway,
    /// Another node, whom the TunnelNode admits, or it would not have come so far.
    Node,
}

impl Caller {
    /// Who `client` is to the agent at `own`: what has a node's address in the same overlay is a node. Relays are not: they
    /// dial for the gateway (see `prefix`).
    #[must_use]
    pub fn of(client: Option<IpAddr>, own: Ipv6Addr) -> Self {
        let Some(IpAddr::V6(client)) = client else { return Self::Gateway };
        let (client, own) = (client.octets(), own.octets());
        match client[..6] == own[..6] && client[6..8] != [0, 0] {
            true => Self::Node,
            false => Self::Gateway,
        }
    }
}

/// Two publications that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {port} is published twice, as {first} and as {second}: leave one out")]
pub struct PublishedTwice {
    port: u16,
    first: u16,
    second: u16,
}

impl Published {
    /// No publication at all publishes every loopback port.
    ///
    /// # Errors
    /// When one port is given two loopback ports.
    pub fn new(publications: &[Publication]) -> Result<Self, PublishedTwice> {
        let mut local_by_port = BTreeMap::new();
        for &Publication { port, local } in publications {
            match local_by_port.insert(port, local) {
                Some(first) if first != local => return Err(PublishedTwice { port, first, second: local }),
                _ => {}
            }
        }
        Ok(Self { local_by_port, own: BTreeSet::new() })
    }

    /// Keeps everybody from `port` of loopback, where the agent itself listens.
    #[must_use]
    pub fn without(mut self, port: u16) -> Self {
        self.own.insert(port);
        self
    }

    /// Whether no list narrows what is offered.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.local_by_port.is_empty()
    }

    /// The listed ports that are published as themselves: packets that reach the host's own address meet no mapping.
    pub fn unmapped(&self) -> impl Iterator<Item = u16> {
        self.local_by_port.iter().filter(|(port, local)| port == local).map(|(port, _)| *port)
    }

    /// The loopback port behind `port`, `None` when it is not published to `caller`.
    #[must_use]
    pub fn local(&self, port: u16, caller: Caller) -> Option<u16> {
        let local = match self.local_by_port.get(&port) {
            Some(&local) => local,
            None if caller == Caller::Gateway && self.is_everything() && port != 0 => port,
            None => return None,
        };
        (!self.own.contains(&local)).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(texts: &[&str]) -> Result<Published, PublishedTwice> {
        Published::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn without_a_list_every_port_is_published() {
        let all = published(&[]).unwrap();
        let local = |port| all.local(port, Caller::Gateway);
        assert_eq!((local(80), local(65_535), local(0)), (Some(80), Some(65_535), None));
    }

    #[test]
    fn other_nodes_reach_only_what_was_named() {
        assert_eq!(published(&[]).unwrap().local(80, Caller::Node), None);
        let some = published(&["8080", "80=3000"]).unwrap();
        let local = |port| some.local(port, Caller::Node);
        assert_eq!((local(8080), local(80), local(3000)), (Some(8080), Some(3000), None));
    }

    #[test]
    fn nobody_reaches_where_the_agent_itself_listens() {
        for publications in [&[][..], &["1080"], &["80=1080"]] {
            let published = published(publications).unwrap().without(1080);
            for caller in [Caller::Gateway, Caller::Node] {
                assert_eq!(
                    (published.local(1080, caller), published.local(80, caller).filter(|&at| at == 1080)),
                    (None, None)
                );
            }
        }
    }

    #[test]
    fn a_node_is_known_by_its_address() {
        let own = "fd01:203:405:7:0:1:0:1".parse().unwrap();
        for (client, want) in [
            (None, Caller::Gateway),
            (Some("192.0.2.1"), Caller::Gateway),
            (Some("2001:db8::1"), Caller::Gateway),
            (Some("fd01:203:406:7:0:1:0:1"), Caller::Gateway),
            (Some("fd01:203:405:0:0:1:0:1"), Caller::Gateway),
            (Some("fd01:203:405:8:0:1:0:1"), Caller::Node),
            (Some("fd01:203:405:7:0:2:0:1"), Caller::Node),
        ] {
            assert_eq!(Caller::of(client.map(|client| client.parse().unwrap()), own), want, "{client:?}");
        }
    }

    #[test]
    fn a_list_narrows_and_maps() {
        let some = published(&["8080", "80=3000"]).unwrap();
        let local = |port| some.local(port, Caller::Gateway);
        assert_eq!((local(8080), local(80), local(3000)), (Some(8080), Some(3000), None));
        assert_eq!(some.unmapped().collect::<Vec<_>>(), [8080]);
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        assert_eq!(published(&["80=1", "80=2"]), Err(PublishedTwice { port: 80, first: 1, second: 2 }));
        assert!(published(&["80=1", "80=1"]).is_ok());
        for bad in ["", "0", "80=0", "65536", "80=x", "a", "80=1=2", "-1"] {
            assert_eq!(bad.parse::<Publication>(), Err(PublicationError(bad.to_owned())));
        }
    }
}
