//! What the tests of this folder stand on: a CA, certificates, and a relay and an agent joined over loopback.

use std::{future::Future, net::Ipv4Addr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;

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

/// A relay and an agent of one deployment, joined.
pub(super) async fn pair() -> Pair {
    let ca = Ca::new();
    join(ca.relay_tls(), ca.agent_tls()).await.unwrap()
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
