//! The Gateways' ports, as sockets: bound where `--gateway-address` and `--port-map` say, one per worker, while a Gateway wants them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::GatewayConfig,
    listener::{self, Worker},
    route::table::{ListenAddress, Speaks},
};

/// The listening sockets of all Gateways.
#[derive(Debug)]
pub struct Ports {
    config: GatewayConfig,
    workers: Vec<(Handle, Arc<Worker>)>,
    bound: BTreeMap<ListenAddress, Bound>,
    /// Why a listen address could not be had when it was last tried; said once.
    unavailable: BTreeMap<ListenAddress, String>,
}

#[derive(Debug)]
struct Bound {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
}

impl Ports {
    /// No port yet; each will have a socket on every one of `workers`.
    #[must_use]
    pub fn new(config: GatewayConfig, workers: Vec<(Handle, Arc<Worker>)>) -> Self {
        Self { config, workers, bound: BTreeMap::new(), unavailable: BTreeMap::new() }
    }

    /// Binds what is wanted and was not bound, gives up what is not wanted any more, and says what cannot be had.
    ///
    /// Each newly bound address is printed, for people and for whatever started the relay.
    pub fn apply(&mut self, wanted: &BTreeSet<(ListenAddress, Speaks)>) -> BTreeMap<ListenAddress, String> {
        self.bound.retain(|at, bound| {
            let keep = wanted.iter().any(|(wanted, _)| wanted == at);
            if !keep {
                info!(port = at.port, "gateway port closed");
                bound.stop.cancel();
            }
            keep
        });
        let mut unavailable = BTreeMap::new();
        for &(at, speaks) in wanted {
            if self.bound.contains_key(&at) {
                continue;
            }
            match self.open(at) {
                Ok(bound) => {
                    for address in &bound.addresses {
                        println!("listening gateway {} {}://{address}", at.port, name(speaks));
                    }
                    self.bound.insert(at, bound);
                }
                Err(reason) => {
                    if self.unavailable.get(&at) != Some(&reason) {
                        warn!(port = at.port, %reason, "gateway port unavailable");
                    }
                    unavailable.insert(at, reason);
                }
            }
        }
        self.unavailable.clone_from(&unavailable);
        unavailable
    }

    /// Every address that is bound.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.values().flat_map(|bound| &bound.addresses).copied()
    }

    /// Stops accepting on every port, and says who has connections to finish.
    pub fn close(self) -> Vec<(Handle, Arc<Worker>)> {
        for bound in self.bound.values() {
            bound.stop.cancel();
        }
        self.workers
    }

    fn open(&self, at: ListenAddress) -> Result<Bound, String> {
        let port = at.port;
        let bound_port = self.config.port_map.get(&port).copied().unwrap_or(port);
        let mut sockets: Vec<Vec<TcpListener>> = Vec::new();
        let shared = if at.address.is_none() { &self.config.addresses[..] } else { &[] };
        if at.address.is_none() && shared.is_empty() {
            let wildcard = self
                .bind(Ipv6Addr::UNSPECIFIED.into(), bound_port)
                .or_else(|_| self.bind(Ipv4Addr::UNSPECIFIED.into(), bound_port));
            sockets.push(wildcard.map_err(|error| explain(&error, port, bound_port))?);
        }
        for &address in shared.iter().chain(&at.address) {
            sockets.push(self.bind(address, bound_port).map_err(|error| explain(&error, port, bound_port))?);
        }
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        for per_worker in sockets {
            addresses.extend(per_worker.first().and_then(|socket| socket.local_addr().ok()));
            for (socket, (runtime, worker)) in per_worker.into_iter().zip(&self.workers) {
                let serving = Arc::clone(worker).serve(socket, at, stop.clone());
                runtime.spawn(async move {
                    if let Err(error) = serving.await {
                        warn!(port, %error, "gateway port lost");
                    }
                });
            }
        }
        Ok(Bound { addresses, stop })
    }

    fn bind(&self, address: IpAddr, port: u16) -> io::Result<Vec<TcpListener>> {
        listener::bind::bind((address, port).into(), self.workers.len())
    }
}

/// As a URL's scheme.
fn name(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Http => "http",
        Speaks::Tls => "https",
        Speaks::Tcp => "tcp",
        Speaks::Udp => "udp",
    }
}

fn explain(error: &io::Error, port: u16, bound_port: u16) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "port {bound_port} needs a privilege: map it with `--port-map {port}={}`, or give the relay CAP_NET_BIND_SERVICE",
            u32::from(port) + 8000
        ),
        io::ErrorKind::AddrInUse => {
            format!(
                "port {bound_port} is in use: stop the other program, or choose another with `--port-map {port}=PORT`"
            )
        }
        _ => format!("port {bound_port} cannot be bound: {error}"),
    }
}
