//! What an agent's CONNECT asks for: a node of its project, or a host outside. Pure.

use underpass_shared::{
    identity::{AgentId, NodeName},
    prefix::{AgentNumber, NodeNumber, Place, ProjectPrefix, RELAY_NODE},
    wire::preface::Host,
};

/// The last four bytes of an agent's own address in its /96.
const SELF: std::net::Ipv4Addr = std::net::Ipv4Addr::new(0, 0, 0, 1);

/// Where a flow is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// `NODE.tun.internal`, or `AGENT.NODE.tun.internal`.
    Named { node: NodeName, agent: Option<AgentId> },
    /// An address of a node, or of one agent, in the project's overlay.
    Numbered { node: NodeNumber, agent: Option<AgentNumber> },
    /// Anything else: an address or a name of the internet.
    Outside(Host),
}

/// Why an authority names no destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoDestination {
    #[error("the authority is not HOST:PORT with a port from 1 to 65535")]
    Malformed,
    #[error("hosts behind a node cannot be reached yet; name the node itself")]
    BehindNode,
    #[error("the name is the tunnels' own: name a node, as NODE before it")]
    NoNode,
    #[error("the address is a relay's own")]
    Relay,
    #[error("no node has the address")]
    NoPlace,
}

/// Reads the authority of a CONNECT (RFC 9110 §9.3.6) from an agent of the project whose overlay is `overlay`; nodes' names
/// end in one of `domains`, which are in lower case.
///
/// # Errors
/// See [`NoDestination`].
pub(super) fn parse(
    authority: &str,
    domains: &[String],
    overlay: ProjectPrefix,
) -> Result<(Destination, u16), NoDestination> {
    let (host, port) = authority.rsplit_once(':').ok_or(NoDestination::Malformed)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|&port: &u16| digits && port != 0).ok_or(NoDestination::Malformed)?;
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host = match bracketed {
        Some(inner) => Host::Address(std::net::IpAddr::V6(inner.parse().map_err(|_| NoDestination::Malformed)?)),
        None => host.strip_suffix('.').unwrap_or(host).parse().map_err(|_| NoDestination::Malformed)?,
    };
    let destination = match host {
        Host::Loopback => return Err(NoDestination::Malformed),
        Host::Address(std::net::IpAddr::V6(_)) if bracketed.is_none() => return Err(NoDestination::Malformed),
        Host::Address(std::net::IpAddr::V6(address)) if address.octets()[..6] == overlay.network().octets()[..6] => {
            numbered(overlay.locate(address).ok_or(NoDestination::NoPlace)?)?
        }
        Host::Address(_) => Destination::Outside(host),
        Host::Name(ref name) => match front(&name.as_str().to_ascii_lowercase(), domains) {
            Some(front) => named(front.as_deref().ok_or(NoDestination::NoNode)?)?,
            None => Destination::Outside(host),
        },
    };
    Ok((destination, port))
}

fn numbered(place: Place) -> Result<Destination, NoDestination> {
    match place {
        Place::AnyAgent(RELAY_NODE) | Place::Agent(RELAY_NODE, ..) => Err(NoDestination::Relay),
        Place::AnyAgent(node) => Ok(Destination::Numbered { node, agent: None }),
        Place::Agent(node, agent, SELF) => Ok(Destination::Numbered { node, agent: Some(agent) }),
        Place::Agent(..) => Err(NoDestination::BehindNode),
    }
}

/// What stands before a tunnel domain in `name`: nothing for the domain itself. `None`: it ends in no such domain.
fn front(name: &str, domains: &[String]) -> Option<Option<String>> {
    domains.iter().find_map(|domain| match name.strip_suffix(domain.as_str())? {
        "" => Some(None),
        front => front.strip_suffix('.').map(|front| Some(front.to_owned())),
    })
}

fn named(front: &str) -> Result<Destination, NoDestination> {
    let (agent, node) = match front.rsplit_once('.') {
        None => (None, front),
        Some((agent, node)) => (Some(agent.parse().map_err(|_| NoDestination::BehindNode)?), node),
    };
    Ok(Destination::Named { node: node.parse().map_err(|_| NoDestination::NoNode)?, agent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlay() -> ProjectPrefix {
        ProjectPrefix::from_global_id([1, 2, 3, 4, 5])
    }

    fn read(authority: &str) -> Result<(Destination, u16), NoDestination> {
        parse(authority, &["tun.internal".to_owned(), "tun.apoxy.net".to_owned()], overlay())
    }

    #[test]
    fn nodes_are_found_by_name() {
        let check = |authority: &str, node: &str, agent: Option<&str>| {
            let agent = agent.map(|agent| agent.parse().unwrap());
            assert_eq!(
                read(authority),
                Ok((Destination::Named { node: node.parse().unwrap(), agent }, 80)),
                "{authority}"
            );
        };
        check("office.tun.internal:80", "office", None);
        check("Office.TUN.Internal.:80", "office", None);
        check("office.tun.apoxy.net:80", "office", None);
        check("a-1234.office.tun.internal:80", "office", Some("a-1234"));
    }

    #[test]
    fn nodes_are_found_by_address() {
        let check = |authority: &str, agent: Option<u32>| {
            let agent = agent.map(|agent| AgentNumber::new(agent).unwrap());
            let want = Destination::Numbered { node: NodeNumber(7), agent };
            assert_eq!(read(authority), Ok((want, 80)), "{authority}");
        };
        check("[fd01:203:405:7::]:80", None);
        check("[fd01:203:405:7:0:1:0:1]:80", Some(1));
    }

    #[test]
    fn everything_else_is_outside() {
        for host in ["example.com", "192.0.2.1", "tun.internal.example.com", "xtun.internal", "notun.apoxy.net.com"] {
            let want = Destination::Outside(host.parse().unwrap());
            assert_eq!(read(&format!("{host}:443")), Ok((want, 443)), "{host}");
        }
        let other_project = read("[fd01:203:406:7::]:80");
        assert!(matches!(other_project, Ok((Destination::Outside(_), 80))), "may_dial knows it: {other_project:?}");
    }

    #[test]
    fn what_is_no_destination_says_why() {
        let check = |authority: &str, want: NoDestination| assert_eq!(read(authority), Err(want), "{authority}");
        for malformed in [
            "",
            ":",
            ":80",
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+80",
            "user@example.com:80",
            "[::1:80",
            "fd00::1:80",
            "[192.0.2.1]:80",
            "[fe80::1%eth0]:80",
            "a b:80",
            "a..b:80",
            "127.1:80",
            "0x7f.1:80",
            "2130706433:80",
        ] {
            check(malformed, NoDestination::Malformed);
        }
        check("tun.internal:80", NoDestination::NoNode);
        check("_x.tun.internal:80", NoDestination::NoNode);
        check("a.b.office.tun.internal:80", NoDestination::BehindNode);
        check("[fd01:203:405:7:0:1:c000:207]:80", NoDestination::BehindNode);
        check("[fd01:203:405:0:0:1:0:1]:80", NoDestination::Relay);
        check("[fd01:203:405::]:80", NoDestination::Relay);
        check("[fd01:203:405:7:ff00::1]:80", NoDestination::NoPlace);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(authority in "[a-z0-9:.\\[\\]@%-]{0,40}|\\PC{0,40}") {
            if let Ok((destination, port)) = read(&authority) {
                prop_assert!(port > 0);
                prop_assert!(destination != Destination::Outside(Host::Loopback));
            }
        }
    }
}
