//! What the agent offers to its project's gateway: its own loopback ports, all of them or those that were named.

use std::{collections::BTreeMap, fmt, str::FromStr};

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
    /// Empty: every port is published as itself.
    local_by_port: BTreeMap<u16, u16>,
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
        Ok(Self { local_by_port })
    }

    /// The loopback port behind `port`, `None` when it is not published.
    #[must_use]
    pub fn local(&self, port: u16) -> Option<u16> {
        if port == 0 {
            return None;
        }
        if self.local_by_port.is_empty() { Some(port) } else { self.local_by_port.get(&port).copied() }
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
        assert_eq!((all.local(80), all.local(65_535), all.local(0)), (Some(80), Some(65_535), None));
    }

    #[test]
    fn a_list_narrows_and_maps() {
        let some = published(&["8080", "80=3000"]).unwrap();
        assert_eq!((some.local(8080), some.local(80), some.local(3000)), (Some(8080), Some(3000), None));
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
