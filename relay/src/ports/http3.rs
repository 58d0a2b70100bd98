//! HTTP/3 beside HTTPS: the UDP ports of the same numbers. A port that cannot be had costs HTTP/3, never HTTPS.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    listener::{Worker, bind},
    route::table::{ListenAddress, Speaks},
};

/// Where HTTP/3 is served, and where it could not be.
#[derive(Debug, Default)]
pub(super) struct Http3Ports {
    bound: BTreeMap<ListenAddress, CancellationToken>,
    /// Said once.
    unavailable: BTreeSet<ListenAddress>,
}

impl Http3Ports {
    /// Gives up what is not wanted any more: HTTPS went, or a UDP listener wants the port, which comes first.
    pub(super) fn release(&mut self, wanted: &BTreeSet<(ListenAddress, Speaks)>) {
        self.bound.retain(|&at, stop| {
            let keep = is_wanted(at, wanted);
            if !keep {
                stop.cancel();
            }
            keep
        });
        self.unavailable.retain(|&at| is_wanted(at, wanted));
    }

    /// Serves HTTP/3 at `at`, whose HTTPS is bound to `addresses`, unless it is served or cannot be.
    pub(super) fn open(
        &mut self,
        at: ListenAddress,
        addresses: &[SocketAddr],
        wanted: &BTreeSet<(ListenAddress, Speaks)>,
        workers: &[(Handle, Arc<Worker>)],
    ) {
        if self.bound.contains_key(&at) || !is_wanted(at, wanted) {
            return;
        }
        let bind_all = || addresses.iter().map(|&address| bind::bind_datagrams(address, workers.len())).collect();
        let sockets: Vec<Vec<UdpSocket>> = match bind_all() {
            Ok(sockets) => sockets,
            Err(error) => {
                let error: std::io::Error = error;
                if self.unavailable.insert(at) {
                    warn!(port = at.port, %error, "no HTTP/3: its UDP port cannot be had");
                }
                return;
            }
        };
        let stop = CancellationToken::new();
        for per_worker in sockets {
            for (socket, (runtime, worker)) in per_worker.into_iter().zip(workers) {
                let serving = Arc::clone(worker).serve_http3(socket, at, stop.clone());
                runtime.spawn(async move {
                    if let Err(error) = serving.await {
                        warn!(port = at.port, %error, "no HTTP/3");
                    }
                });
            }
        }
        for address in addresses {
            info!(port = at.port, %address, "HTTP/3 served");
        }
        self.unavailable.remove(&at);
        self.bound.insert(at, stop);
    }

    /// Stops accepting on every port.
    pub(super) fn close(&self) {
        self.bound.values().for_each(CancellationToken::cancel);
    }
}

fn is_wanted(at: ListenAddress, wanted: &BTreeSet<(ListenAddress, Speaks)>) -> bool {
    wanted.contains(&(at, Speaks::Tls)) && !wanted.contains(&(at, Speaks::Udp))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn served(ports: &Http3Ports) -> Vec<u16> {
        ports.bound.keys().map(|at| at.port).collect()
    }

    #[test]
    fn http3_follows_https_and_yields_to_udp_listeners() {
        let mut ports = Http3Ports::default();
        let at = ListenAddress::shared(443);
        let free = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let (tls, udp) = ((at, Speaks::Tls), (at, Speaks::Udp));
        ports.open(at, &free, &[(at, Speaks::Http)].into(), &[]);
        assert_eq!(served(&ports), [0; 0]);
        ports.open(at, &free, &[tls, udp].into(), &[]);
        assert_eq!(served(&ports), [0; 0]);
        ports.open(at, &free, &[tls].into(), &[]);
        assert_eq!(served(&ports), [443]);
        let stop = ports.bound[&at].clone();
        ports.release(&[tls].into());
        assert_eq!(served(&ports), [443]);
        ports.release(&[tls, udp].into());
        assert!(served(&ports).is_empty() && stop.is_cancelled());
    }

    #[test]
    fn a_port_that_is_taken_is_tried_again() {
        let mut ports = Http3Ports::default();
        let at = ListenAddress::shared(443);
        let wanted = [(at, Speaks::Tls)].into();
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = [other.local_addr().unwrap()];
        ports.open(at, &address, &wanted, &[]);
        assert!(served(&ports).is_empty() && ports.unavailable.contains(&at));
        drop(other);
        ports.open(at, &address, &wanted, &[]);
        assert!(served(&ports) == [443] && ports.unavailable.is_empty());
    }
}
