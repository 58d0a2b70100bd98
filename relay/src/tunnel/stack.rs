//! The relay's own end of a project's overlay: a netstack at the relay's address, for agents that take packets only, and for datagrams.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{runtime::Handle, sync::OwnedSemaphorePermit, task::AbortHandle};
use underpass_shared::{
    ledger::Ledger,
    netstack::{Config, Netstack, PacketReceiver, PacketSender},
    prefix::ProjectPrefix,
};

use super::datagrams::{DatagramFlow, DatagramFlows};

/// The netstack of one project. Dropping it resets its flows.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) netstack: Netstack,
    pub(super) inbound: PacketSender,
    address: IpAddr,
    flows: DatagramFlows,
    tasks: [AbortHandle; 2],
}

impl Stack {
    /// Starts the netstack on `runtime`; what it sends comes out of the receiver.
    pub(super) fn start(project: ProjectPrefix, ledger: Arc<Ledger>, runtime: &Handle) -> (Self, PacketReceiver) {
        let address = IpAddr::V6(project.relay_address());
        // Agents never dial the relay itself: every SYN is refused.
        let config =
            Config { pending_max: 0, ledger: Arc::clone(&ledger), ..Config::new(vec![address.into()], rand::random()) };
        let (netstack, port, driver) = Netstack::new(config);
        let (inbound, outbound) = port.split();
        let flows = DatagramFlows::default();
        let receiver = netstack.datagrams().expect("a new netstack's are not taken");
        let delivering = flows.clone().deliver(receiver, netstack.datagram_sender(), ledger);
        let tasks = [runtime.spawn(driver.run()).abort_handle(), runtime.spawn(delivering).abort_handle()];
        (Self { netstack, inbound, address, flows, tasks }, outbound)
    }

    /// A way for a client's datagrams to `service`, in the session of `connection`; `None` when no port is free.
    pub(super) fn datagrams(
        &self,
        service: SocketAddr,
        connection: quinn::Connection,
        place: OwnedSemaphorePermit,
    ) -> Option<DatagramFlow> {
        self.flows.open(self.netstack.datagram_sender(), (self.address, service), connection, place)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
