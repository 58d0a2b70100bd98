//! What the tests of this folder stand on: a CA, certificates, and a relay and an agent joined over loopback.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use super::{
    endpoint, http3,
    tls::{self, Credential, SERVER_NAME, Trust},
};
use crate::enrolment::Fingerprint;

/// The identity of the testbed's relay.
pub(super) fn relay() -> String {
    "spiffe://underpass/relay/r-1".to_owned()
}

/// The identity of the testbed's agent.
pub(super) fn agent() -> String {
    "spiffe://underpass/project/default/node/office/agent/a-1".to_owned()
}

/// A deployment's CA.
pub(super) struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "testbed CA");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate that may do everything, with these names.
    pub(super) fn issue(&self, dns: &[&str], uris: &[&str]) -> Credential {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let dns = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names = dns.chain(uris).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    pub(super) fn relay_tls(&self) -> rustls::ServerConfig {
        tls::server(self.issue(&[SERVER_NAME], &[&relay()]), self.der()).unwrap()
    }

    pub(super) fn agent_tls(&self) -> rustls::ClientConfig {
        tls::client(Trust::Ca(self.der()), Some(self.issue(&[], &[&agent()]))).unwrap()
    }
}

/// A connection between a relay and an agent, seen from both ends.
pub(super) struct Pair {
    pub(super) relay: quinn::Connection,
    pub(super) agent: quinn::Connection,
    /// Dropping an endpoint's last handle would end its connections.
    _endpoints: (quinn::Endpoint, quinn::Endpoint),
}

/// Joins a relay and an agent; both ends' own errors otherwise.
pub(super) async fn join(
    relay: rustls::ServerConfig,
    agent: rustls::ClientConfig,
) -> Result<Pair, endpoint::HandshakeError> {
    let listening = endpoint::listen((Ipv4Addr::LOCALHOST, 0).into(), relay).unwrap();
    let dialling = endpoint::dialler().unwrap();
    let accept = async {
        let incoming = listening.accept().await.unwrap();
        let connecting = endpoint::admit(incoming, 0).unwrap().unwrap();
        endpoint::handshake(connecting).await
    };
    let config = endpoint::client_config(agent).unwrap();
    let dial = endpoint::connect(&dialling, config, listening.local_addr().unwrap());
    let (accepted, dialled) = soon(async { tokio::join!(accept, dial) }).await;
    let (agent, relay) = (dialled?, accepted?);
    Ok(Pair { relay, agent, _endpoints: (listening, dialling) })
}

/// A relay and an agent joined by a path that passes UDP payloads of at most `limit` bytes.
pub(super) async fn pair_over(limit: usize) -> (Pair, Path) {
    let ca = Ca::new();
    let listening = endpoint::listen((Ipv4Addr::LOCALHOST, 0).into(), ca.relay_tls()).unwrap();
    let path = Path::to(listening.local_addr().unwrap(), limit).await;
    let dialling = endpoint::dialler().unwrap();
    let accept = async { endpoint::handshake(listening.accept().await.unwrap().accept().unwrap()).await.unwrap() };
    let config = endpoint::client_config(ca.agent_tls()).unwrap();
    let (relay, agent) = tokio::join!(accept, endpoint::connect(&dialling, config, path.address()));
    (Pair { relay, agent: agent.unwrap(), _endpoints: (listening, dialling) }, path)
}

/// A relay and an agent of one deployment, joined.
pub(super) async fn pair() -> Pair {
    let ca = Ca::new();
    join(ca.relay_tls(), ca.agent_tls()).await.unwrap()
}

/// The largest UDP payload on an IPv6 path of 1280 bytes.
pub(super) const PATH_1280: usize = 1280 - 40 - 8;

/// A path to a relay that drops what is larger than its limit, and tells nobody: a black hole.
pub(super) struct Path {
    address: SocketAddr,
    limit: Arc<AtomicUsize>,
    too_large: Arc<AtomicUsize>,
    _forwarding: JoinSet<()>,
}

impl Path {
    /// A path to `relay` for one client, for UDP payloads of at most `limit` bytes.
    pub(super) async fn to(relay: SocketAddr, limit: usize) -> Self {
        let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let far = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        far.connect(relay).await.unwrap();
        let (limit, too_large) = (Arc::new(AtomicUsize::new(limit)), Arc::new(AtomicUsize::new(0)));
        let address = near.local_addr().unwrap();
        let passes = {
            let (limit, too_large) = (Arc::clone(&limit), Arc::clone(&too_large));
            move |bytes: usize| bytes <= limit.load(Relaxed) || too_large.fetch_add(1, Relaxed) == usize::MAX
        };
        let mut forwarding = JoinSet::new();
        let (from, to, fits) = (Arc::clone(&near), Arc::clone(&far), passes.clone());
        forwarding.spawn(async move {
            let mut packet = [0; 2048];
            let (mut bytes, client) = from.recv_from(&mut packet).await.unwrap();
            from.connect(client).await.unwrap();
            loop {
                if fits(bytes) {
                    let _ = to.send(&packet[..bytes]).await;
                }
                bytes = from.recv(&mut packet).await.unwrap();
            }
        });
        forwarding.spawn(async move {
            let mut packet = [0; 2048];
            loop {
                let bytes = far.recv(&mut packet).await.unwrap();
                if passes(bytes) {
                    let _ = near.send(&packet[..bytes]).await;
                }
            }
        });
        Self { address, limit, too_large, _forwarding: forwarding }
    }

    /// What the client dials instead of the relay.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on UDP payloads of at most `bytes` pass.
    pub(super) fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
    }

    /// How many packets were too large so far.
    pub(super) fn too_large(&self) -> usize {
        self.too_large.load(Relaxed)
    }
}

/// HTTP/3 over a pair: the relay's server, and the agent's way to send requests, whose driver runs.
pub(super) async fn http3(pair: &Pair) -> (http3::Server, http3::Requests) {
    let (server, client) =
        soon(async { tokio::join!(http3::serve(pair.relay.clone()), http3::connect(pair.agent.clone())) }).await;
    let (mut driver, requests) = client.unwrap();
    tokio::spawn(async move { driver.wait_idle().await });
    (server.unwrap(), requests)
}

/// `future`, or a failed test when it takes absurdly long.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should be done by now")
}

/// Every request that reaches the relay, with its head read; the server is driven until this is dropped.
pub(super) fn requests(
    mut server: http3::Server,
) -> mpsc::Receiver<Result<(http::Request<()>, http3::ServerStream), http3::StreamError>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok(Some(resolver)) = server.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send(resolver.resolve_request().await).await });
        }
    });
    receiver
}
