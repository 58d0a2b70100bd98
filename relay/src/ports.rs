//! The Gateways' ports, as sockets: bound where `--gateway-address` and `--port-map` say, one per worker, while a Gateway wants them.

mod http3;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::http3::Http3Ports;
use crate::{
    config::GatewayConfig,
    listener::{Worker, bind},
    route::table::{ListenAddress, Speaks},
};

/// The listening sockets of all Gateways.
#[derive(Debug)]
pub struct Ports {
    config: GatewayConfig,
    workers: Vec<(Handle, Arc<Worker>)>,
    bound: BTreeMap<(ListenAddress, Transport), Bound>,
    /// Why a listen address could not be had when it was last tried; said once.
    unavailable: BTreeMap<ListenAddress, String>,
    http3: Http3Ports,
}

/// TCP and UDP have ports of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn of(speaks: Speaks) -> Self {
        match speaks {
            Speaks::Http | Speaks::Tls | Speaks::Tcp => Self::Tcp,
            Speaks::Udp => Self::Udp,
        }
    }
}

/// One address, bound once for each worker.
enum Sockets {
    Tcp(Vec<TcpListener>),
    Udp(Vec<UdpSocket>),
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
        Self { config, workers, bound: BTreeMap::new(), unavailable: BTreeMap::new(), http3: Http3Ports::default() }
    }

    /// Binds what is wanted and was not bound, gives up what is not wanted any more, and says what cannot be had.
    /// What is said of an address concerns TCP and UDP there, even when one of them is bound.
    ///
    /// Each newly bound address is printed, for people and for whatever started the relay.
    pub fn apply(&mut self, wanted: &BTreeSet<(ListenAddress, Speaks)>) -> BTreeMap<ListenAddress, String> {
        self.bound.retain(|at, bound| {
            let keep = wanted.iter().any(|&(wanted, speaks)| (wanted, Transport::of(speaks)) == *at);
            if !keep {
                info!(port = at.0.port, transport = ?at.1, "gateway port closed");
                bound.stop.cancel();
            }
            keep
        });
        self.http3.release(wanted);
        let mut unavailable = BTreeMap::new();
        for &(at, speaks) in wanted {
            let transport = Transport::of(speaks);
            if self.bound.contains_key(&(at, transport)) {
                continue;
            }
            match self.open(at, transport) {
                Ok(bound) => {
                    for address in &bound.addresses {
                        println!("listening gateway {} {}://{address}", at.port, name(speaks));
                    }
                    self.bound.insert((at, transport), bound);
                }
                Err(reason) => {
                    if self.unavailable.get(&at) != Some(&reason) {
                        warn!(port = at.port, %reason, "gateway port unavailable");
                    }
                    unavailable.insert(at, reason);
                }
            }
        }
        for ((at, _), bound) in self.bound.iter().filter(|((_, transport), _)| *transport == Transport::Tcp) {
            self.http3.open(*at, &bound.addresses, wanted, &self.workers);
        }
        self.unavailable.clone_from(&unavailable);
        unavailable
    }

    /// Every address that is bound.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.bound.values().flat_map(|bound| &bound.addresses).copied()
    }

    /// Asks the connections that are there to finish; further ones are taken as before.
    pub fn say_goodbye(&self) {
        self.workers.iter().for_each(|(_, worker)| worker.say_goodbye());
    }

    /// Stops accepting on every port, and says who has connections to finish.
    pub fn close(self) -> Vec<(Handle, Arc<Worker>)> {
        self.http3.close();
        for bound in self.bound.values() {
            bound.stop.cancel();
        }
        self.workers
    }

    fn open(&self, at: ListenAddress, transport: Transport) -> Result<Bound, String> {
        let port = at.port;
        let bound_port = self.config.port_map.get(&port).copied().unwrap_or(port);
        let bind = |address: IpAddr| Sockets::bind((address, bound_port).into(), transport, self.workers.len());
        let mut sockets = Vec::new();
        let shared = if at.address.is_none() { &self.config.addresses[..] } else { &[] };
        if at.address.is_none() && shared.is_empty() {
            let wildcard = bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()));
            sockets.push(wildcard.map_err(|error| explain(&error, port, bound_port))?);
        }
        for &address in shared.iter().chain(&at.address) {
            sockets.push(bind(address).map_err(|error| explain(&error, port, bound_port))?);
        }
        let stop = CancellationToken::new();
        let mut addresses = Vec::new();
        for per_worker in sockets {
            addresses.extend(per_worker.address());
            match per_worker {
                Sockets::Tcp(sockets) => {
                    self.spawn(port, sockets, |worker, socket| worker.serve(socket, at, stop.clone()));
                }
                Sockets::Udp(sockets) => {
                    self.spawn(port, sockets, |worker, socket| worker.serve_datagrams(socket, at, stop.clone()));
                }
            }
        }
        Ok(Bound { addresses, stop })
    }

    /// Lets each worker serve the socket that is its own.
    fn spawn<S, F>(&self, port: u16, sockets: Vec<S>, serve: impl Fn(Arc<Worker>, S) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        for (socket, (runtime, worker)) in sockets.into_iter().zip(&self.workers) {
            let serving = serve(Arc::clone(worker), socket);
            runtime.spawn(async move {
                if let Err(error) = serving.await {
                    warn!(port, %error, "gateway port lost");
                }
            });
        }
    }
}

impl Sockets {
    fn bind(address: SocketAddr, transport: Transport, count: usize) -> io::Result<Self> {
        match transport {
            Transport::Tcp => bind::bind(address, count).map(Self::Tcp),
            Transport::Udp => bind::bind_datagrams(address, count).map(Self::Udp),
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(sockets) => sockets.first()?.local_addr().ok(),
            Self::Udp(sockets) => sockets.first()?.local_addr().ok(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_and_udp_of_one_address_come_and_go_alone() {
        let config = GatewayConfig {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            pool: None,
            port_map: [(53, 0)].into(),
            allowed_backends: Vec::new(),
        };
        let mut ports = Ports::new(config, Vec::new());
        let at = ListenAddress::shared(53);
        let bound = |ports: &Ports| ports.bound.keys().map(|(_, transport)| *transport).collect::<Vec<_>>();
        assert!(ports.apply(&[(at, Speaks::Tcp), (at, Speaks::Udp)].into()).is_empty());
        assert_eq!(bound(&ports), [Transport::Tcp, Transport::Udp]);
        assert_eq!(ports.addresses().count(), 2);
        // What is spoken over TCP is looked up for each connection; the socket stays.
        let before: Vec<_> = ports.addresses().collect();
        assert!(ports.apply(&[(at, Speaks::Http), (at, Speaks::Udp)].into()).is_empty());
        assert_eq!(ports.addresses().collect::<Vec<_>>(), before);
        assert!(ports.apply(&[(at, Speaks::Udp)].into()).is_empty());
        assert_eq!(bound(&ports), [Transport::Udp]);
    }
}
