//! Addresses and routes of a device of ours, by rtnetlink (rtnetlink(7)).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        route::RouteScope,
    },
};
use tokio::task::AbortHandle;

/// What the host refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("the host offers no rtnetlink socket")]
    Socket(#[source] std::io::Error),
    #[error("the device cannot be brought up")]
    Up(#[source] rtnetlink::Error),
    #[error("the address {address} cannot be added; is net.ipv6.conf.all.disable_ipv6 set?")]
    Address { address: Ipv6Addr, source: rtnetlink::Error },
    #[error("the route to {route} cannot be added")]
    Route { route: Ipv6Net, source: rtnetlink::Error },
}

/// A socket to the kernel's routing.
pub struct Netlink {
    handle: Handle,
    driver: AbortHandle,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Netlink(..)")
    }
}

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        Ok(Self { handle, driver: tokio::spawn(connection).abort_handle() })
    }

    /// Brings the device `index` up, with `address` alone on it, from which `routes` are reached through it.
    ///
    /// Addresses and routes that are there already stay.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn assign(&self, index: u32, address: Ipv6Addr, routes: &[Ipv6Net]) -> Result<(), NetlinkError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(NetlinkError::Up)?;
        let mut add = self.handle.address().add(index, IpAddr::V6(address), 128).replace();
        // Nobody else can have it, and until the search for a duplicate ends no route may name it as its source.
        add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        add.execute().await.map_err(|source| NetlinkError::Address { address, source })?;
        for &route in routes {
            let message = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(route.network(), route.prefix_len())
                .output_interface(index)
                .pref_source(address)
                .scope(RouteScope::Universe)
                .build();
            let add = self.handle.route().add(message).replace();
            add.execute().await.map_err(|source| NetlinkError::Route { route, source })?;
        }
        Ok(())
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
