//! The relay's own end of a project's overlay: a netstack at the relay's address, for agents that take packets only.

use std::net::{IpAddr, Ipv6Addr};

use tokio::{runtime::Handle, task::AbortHandle};
use underpass_shared::{
    netstack::{Config, Netstack, PacketReceiver, PacketSender},
    prefix::{AgentNumber, ProjectPrefix, RELAY_NODE},
};

/// The netstack of one project. Dropping it resets its flows.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) netstack: Netstack,
    pub(super) inbound: PacketSender,
    driver: AbortHandle,
}

impl Stack {
    /// Starts the netstack on `runtime`; what it sends comes out of the receiver.
    pub(super) fn start(project: ProjectPrefix, runtime: &Handle) -> (Self, PacketReceiver) {
        let address = IpAddr::V6(relay_address(project));
        // Agents never dial the relay itself: every SYN is refused.
        let config = Config { pending_max: 0, ..Config::new(vec![address.into()], rand::random()) };
        let (netstack, port, driver) = Netstack::new(config);
        let driver = runtime.spawn(driver.run()).abort_handle();
        let (inbound, outbound) = port.split();
        (Self { netstack, inbound, driver }, outbound)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The relay's own address in a project: the first agent's place in node 0.
pub(super) fn relay_address(project: ProjectPrefix) -> Ipv6Addr {
    let first = AgentNumber::new(1).expect("1 is a number for an agent");
    project.node(RELAY_NODE).agent(first).address()
}
