//! User mode: a netstack in this process at the agent's overlay address. No privilege, nothing changed on the host.
//!
//! TCP flows and UDP datagrams that arrive as packets are joined to loopback services, as flows of the stream lane are.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use tokio::io::copy_bidirectional;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use underpass_shared::{
    ledger::Ledger,
    netstack::{Config, Netstack, PacketPort, PendingFlow},
};

use super::datagrams;
use crate::{
    node::publish::{Caller, Published},
    service,
};

/// The netstack at one address. It outlives sessions, so that flows survive a change of relay.
#[derive(Debug)]
pub(super) struct UserDevice {
    port: PacketPort,
    _driver: AbortOnDropHandle<()>,
    _accepting: AbortOnDropHandle<()>,
    _datagrams: AbortOnDropHandle<()>,
}

impl UserDevice {
    /// Starts a netstack at `address` that lets in what is published.
    pub(super) fn start(address: Ipv6Addr, published: Arc<Published>, ledger: Arc<Ledger>) -> Self {
        let config =
            Config { ledger: Arc::clone(&ledger), ..Config::new(vec![IpAddr::V6(address).into()], rand::random()) };
        let (netstack, port, driver) = Netstack::new(config);
        let receiver = netstack.datagrams().expect("a new netstack's are not taken");
        let datagrams = datagrams::serve(address, receiver, netstack.datagram_sender(), Arc::clone(&published), ledger);
        Self {
            port,
            _driver: AbortOnDropHandle::new(tokio::spawn(driver.run())),
            _datagrams: AbortOnDropHandle::new(tokio::spawn(datagrams)),
            _accepting: AbortOnDropHandle::new(tokio::spawn(accept(netstack, address, published))),
        }
    }

    /// Takes a packet from the tunnel. At the queue's limit it is dropped and counted by the netstack.
    pub(super) fn push(&self, packet: Bytes) {
        self.port.push(packet);
    }

    /// The next packet for the tunnel. Cancel-safe.
    pub(super) async fn recv(&mut self) -> BytesMut {
        match self.port.recv().await {
            Some(packet) => packet,
            // The driver ends with us.
            None => std::future::pending().await,
        }
    }
}

async fn accept(netstack: Netstack, own: Ipv6Addr, published: Arc<Published>) {
    while let Some(pending) = netstack.accept().await {
        // The netstack bounds how many flows there are.
        tokio::spawn(serve(pending, own, Arc::clone(&published)));
    }
}

async fn serve(pending: PendingFlow, own: Ipv6Addr, published: Arc<Published>) {
    let port = pending.local().port();
    let caller = Caller::of(Some(pending.remote().ip()), own);
    let mut service = match service::dial(&published, port, caller).await {
        Ok(service) => service,
        Err(refused) => {
            debug!(port, reason = %refused, "flow refused");
            return pending.refuse();
        }
    };
    match pending.accept().await {
        Ok(mut flow) => {
            let copied = copy_bidirectional(&mut flow, &mut service).await;
            debug!(port, ?copied, "flow ended");
        }
        Err(error) => debug!(port, %error, "flow given up"),
    }
}
