//! The relay's own end of a project's overlay: a netstack at the relay's address, for agents that take packets only.

use std::{net::IpAddr, sync::Arc};

use tokio::{runtime::Handle, task::AbortHandle};
use underpass_shared::{
    ledger::Ledger,
    netstack::{Config, Netstack, PacketReceiver, PacketSender},
    prefix::ProjectPrefix,
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
    pub(super) fn start(project: ProjectPrefix, ledger: Arc<Ledger>, runtime: &Handle) -> (Self, PacketReceiver) {
        let address = IpAddr::V6(project.relay_address());
        // Agents never dial the relay itself: every SYN is refused.
        let config = Config { pending_max: 0, ledger, ..Config::new(vec![address.into()], rand::random()) };
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
