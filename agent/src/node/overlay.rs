//! Where the agent stands in its project's overlay, and what the host must know of it.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use underpass_shared::prefix::{NodePrefix, Place, ProjectPrefix, RELAY_NODE};

/// Where this agent stands in its project's overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlay {
    address: Ipv6Addr,
    project: ProjectPrefix,
}

/// An address that no relay of ours would assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay assigned {0}, which is no agent's address in an overlay")]
pub struct NoAgentAddress(Ipv6Addr);

impl Overlay {
    /// The overlay around an agent's own address.
    ///
    /// # Errors
    /// When the address plan has no such place.
    pub fn around(address: Ipv6Addr) -> Result<Self, NoAgentAddress> {
        let project = ProjectPrefix::of(address).ok_or(NoAgentAddress(address))?;
        match project.locate(address) {
            Some(Place::Agent(..)) => Ok(Self { address, project }),
            _ => Err(NoAgentAddress(address)),
        }
    }

    /// The agent's own address.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// What lies behind the tunnel: the whole project.
    ///
    /// # Panics
    /// Never: 48 bits fit.
    #[must_use]
    pub fn route(&self) -> Ipv6Net {
        Ipv6Net::new(self.project.network(), ProjectPrefix::BITS).expect("48 bits fit")
    }

    /// Where the project's relays are, from which its gateway's flows come.
    ///
    /// # Panics
    /// Never: 64 bits fit.
    #[must_use]
    pub fn relays(&self) -> Ipv6Net {
        Ipv6Net::new(self.project.node(RELAY_NODE).network(), NodePrefix::BITS).expect("64 bits fit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_lies_behind_the_tunnel_and_its_relays_in_node_0() {
        let overlay = Overlay::around("fd12:3456:789a:3::7:0:1".parse().unwrap()).unwrap();
        assert_eq!(overlay.route().to_string(), "fd12:3456:789a::/48");
        assert_eq!(overlay.relays().to_string(), "fd12:3456:789a::/64");
    }

    #[test]
    fn only_an_agents_place_in_an_overlay_is_an_address() {
        for address in ["2001:db8::1", "fd12:3456:789a:3::", "fd12:3456:789a:3:100::1", "fe80::1", "::1"] {
            let address = address.parse().unwrap();
            assert_eq!(Overlay::around(address), Err(NoAgentAddress(address)));
        }
    }
}
