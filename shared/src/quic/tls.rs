//! TLS of the tunnel: one deployment CA, TLS 1.3 only, who the peer is by its certificate.
//!
//! The provider is named in each configuration; nothing here reads or sets the process default.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ProducesTickets, WebPkiClientVerifier},
    ticketer::TicketRotator,
};

use super::relay_verifier::RelayVerifier;
use crate::{
    enrolment::Fingerprint,
    identity::{Identity, IdentityError},
};

/// The DNS name in each relay's certificate, sent as SNI whatever address was dialled.
pub const SERVER_NAME: &str = "relay.underpass.internal";

/// HTTP/3 (RFC 9114 §3.1).
const ALPN: &[u8] = b"h3";

/// How long one key seals resumption tickets, in seconds; they are taken for at most twice that.
///
/// A resumed handshake does not look at the certificate again, so this bounds how long an expired one still works.
const TICKET_KEY_SECONDS: u32 = 30 * 60;

/// A certificate with those that lead to the CA, and its key.
pub type Credential = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// How a client knows a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Issued by this CA.
    Ca(CertificateDer<'static>),
    /// Issued by the CA of this fingerprint, which the relay presents.
    Pinned(Fingerprint),
}

/// Why no TLS configuration could be made: a certificate or key is damaged, or they do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA certificate cannot be read")]
    Ca(#[source] rustls::Error),
    #[error("the certificate and its key cannot be used together")]
    Credential(#[source] rustls::Error),
    #[error("the TLS library does not offer what the tunnel needs")]
    Provider(#[source] rustls::Error),
}

/// Why a peer's certificate names no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    #[error("the peer's certificate cannot be read")]
    Unreadable(#[source] webpki::Error),
    #[error("the peer's certificate carries no identity (a URI as subject alternative name)")]
    None,
    #[error("the peer's certificate carries several identities")]
    Several,
    #[error("the peer's certificate carries a foreign identity")]
    Foreign(#[from] IdentityError),
}

/// A relay's configuration: shows `credential` and the CA; a client certificate is optional, but verified when shown.
///
/// # Errors
/// See [`TlsError`].
pub fn server(credential: Credential, ca: CertificateDer<'static>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider());
    let roots = Arc::new(roots(ca.clone())?);
    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Ca(rustls::Error::General(error.to_string())))?;
    let (mut chain, key) = credential;
    if !chain.contains(&ca) {
        chain.push(ca);
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(TlsError::Credential)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.max_early_data_size = 0;
    config.ticketer = Arc::new(TicketRotator::new(TICKET_KEY_SECONDS, ticket_key).map_err(TlsError::Provider)?);
    Ok(config)
}

/// A client's configuration: takes relays by `trust` only, and shows `credential` where there is one.
///
/// Sessions resume between connections of one configuration: keep it, and make a new one for a new certificate.
///
/// # Errors
/// See [`TlsError`].
pub fn client(trust: Trust, credential: Option<Credential>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(provider());
    let verifier = RelayVerifier::new(trust, provider.signature_verification_algorithms)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credential {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(TlsError::Credential)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = false;
    Ok(config)
}

/// Who the peer of `connection` is; `None` when it showed no certificate.
///
/// TLS has verified the certificate against the deployment's CA. A client learns here who the relay is.
///
/// # Errors
/// See [`PeerIdentityError`]: the CA issued a certificate that is not one of ours.
pub fn peer_identity(connection: &quinn::Connection) -> Result<Option<Identity>, PeerIdentityError> {
    let Some(chain) = connection.peer_identity() else {
        return Ok(None);
    };
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().expect("quinn over rustls yields certificates");
    chain.first().map(identity_of).transpose()
}

/// The one identity that `certificate` carries. Says nothing of who issued it.
///
/// # Errors
/// See [`PeerIdentityError`].
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, PeerIdentityError> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(PeerIdentityError::Unreadable)?;
    let mut uris = certificate.valid_uri_names();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.parse()?),
        (None, _) => Err(PeerIdentityError::None),
        (Some(_), Some(_)) => Err(PeerIdentityError::Several),
    }
}

pub(super) fn roots(ca: CertificateDer<'static>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(TlsError::Ca)?;
    Ok(roots)
}

/// What the tunnel offers, best first: hybrid post-quantum key exchange, then AES-128-GCM, which is the fastest here.
fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn ticket_key() -> Result<Box<dyn ProducesTickets>, rustls::crypto::GetRandomFailed> {
    let tickets = aws_lc_rs::Ticketer::new().map_err(|_| rustls::crypto::GetRandomFailed)?;
    Ok(Box::new(TicketKey(tickets)))
}

/// The library's ticketer with our shorter life: [`TicketRotator`] throws it away in time.
#[derive(Debug)]
struct TicketKey(Arc<dyn ProducesTickets>);

impl ProducesTickets for TicketKey {
    fn enabled(&self) -> bool {
        true
    }
    fn lifetime(&self) -> u32 {
        TICKET_KEY_SECONDS
    }
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;
    use crate::quic::testbed::{Ca, agent, relay};

    #[test]
    fn the_post_quantum_hybrid_is_offered_first_and_tls_1_2_never() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups[0], NamedGroup::X25519MLKEM768);
        let client = client(Trust::Pinned(Fingerprint::of(b"")), None).unwrap();
        assert!(!client.enable_early_data);
        assert!(client.crypto_provider().cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    }

    #[test]
    fn a_relay_shows_the_ca_after_its_own_certificate() {
        let ca = Ca::new();
        let (chain, key) = ca.issue(&[SERVER_NAME], &[&relay()]);
        assert_eq!(chain.len(), 1);
        let config = server((chain, key), ca.der()).unwrap();
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.alpn_protocols, [b"h3"]);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ca = Ca::new();
        let (chain, _) = ca.issue(&[SERVER_NAME], &[&relay()]);
        let (_, other) = ca.issue(&[SERVER_NAME], &[&relay()]);
        assert!(matches!(server((chain, other), ca.der()), Err(TlsError::Credential(_))));
        let damaged = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(client(Trust::Ca(damaged), None), Err(TlsError::Ca(_))));
    }

    #[test]
    fn exactly_one_identity_of_ours_must_be_there() {
        let ca = Ca::new();
        let in_certificate = |uris: &[&str]| identity_of(&ca.issue(&["a.test"], uris).0[0]);
        assert_eq!(in_certificate(&[&agent()]).unwrap().to_string(), agent());
        assert_eq!(in_certificate(&[]), Err(PeerIdentityError::None));
        assert_eq!(in_certificate(&[&agent(), &relay()]), Err(PeerIdentityError::Several));
        assert!(matches!(in_certificate(&["spiffe://other/admin"]), Err(PeerIdentityError::Foreign(_))));
        assert!(matches!(identity_of(&vec![0].into()), Err(PeerIdentityError::Unreadable(_))));
    }
}
