//! How a client verifies that it speaks with a relay of its deployment.
//!
//! The chain ends at the deployment's CA, known by its certificate or by its fingerprint; the leaf carries
//! [`SERVER_NAME`](super::tls::SERVER_NAME) and the identity of a relay, so that no agent can pose as one.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::tls::{PeerIdentityError, TlsError, Trust, identity_of, roots};
use crate::{enrolment::Fingerprint, identity::Identity};

/// Why a peer is not the relay it should be.
#[derive(Debug, thiserror::Error)]
pub enum NotARelay {
    #[error(
        "the relay belongs to another deployment: the expected CA has the fingerprint {expected}, \
         the certificates it presented have {presented}; check the address, or get a new token from this relay"
    )]
    OtherDeployment { expected: Fingerprint, presented: String },
    #[error("the peer is {0}, which is no relay")]
    OtherIdentity(Identity),
    #[error(transparent)]
    NoIdentity(#[from] PeerIdentityError),
}

/// Takes certificates of relays that one deployment's CA issued.
#[derive(Debug)]
pub(super) struct RelayVerifier {
    anchor: Anchor,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Anchor {
    Known(RootCertStore),
    Pinned(Fingerprint),
}

impl RelayVerifier {
    pub(super) fn new(trust: Trust, algorithms: WebPkiSupportedAlgorithms) -> Result<Self, TlsError> {
        let anchor = match trust {
            Trust::Ca(ca) => Anchor::Known(roots(ca)?),
            Trust::Pinned(fingerprint) => Anchor::Pinned(fingerprint),
        };
        Ok(Self { anchor, algorithms })
    }
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found;
        let roots = match &self.anchor {
            Anchor::Known(roots) => roots,
            Anchor::Pinned(fingerprint) => {
                found = find_pinned(fingerprint, end_entity, intermediates)?;
                &found
            }
        };
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, self.algorithms.all)?;
        verify_server_name(&leaf, server_name)?;
        match identity_of(end_entity) {
            Ok(Identity::Relay(_)) => Ok(ServerCertVerified::assertion()),
            Ok(other) => Err(refused(NotARelay::OtherIdentity(other))),
            Err(error) => Err(refused(NotARelay::NoIdentity(error))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The presented CA certificate with the fingerprint wanted, as the only trust anchor.
fn find_pinned(
    expected: &Fingerprint,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<RootCertStore, rustls::Error> {
    let Some(ca) = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == *expected) else {
        let all = std::iter::once(end_entity).chain(intermediates);
        let presented = all.map(|certificate| Fingerprint::of(certificate).to_string()).collect::<Vec<_>>().join(", ");
        return Err(refused(NotARelay::OtherDeployment { expected: expected.clone(), presented }));
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}

fn refused(why: NotARelay) -> rustls::Error {
    OtherError(Arc::new(why)).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::quic::{
        endpoint::HandshakeError,
        testbed::{Ca, Pair, agent, join, relay, soon},
        tls::{self, Credential, SERVER_NAME, peer_identity},
    };

    /// An agent with `trust` meets a relay of `ca` that shows `credential`.
    async fn meet(ca: &Ca, credential: Credential, trust: Trust) -> Result<Pair, HandshakeError> {
        join(tls::server(credential, ca.der()).unwrap(), tls::client(trust, None).unwrap()).await
    }

    async fn refusal(ca: &Ca, credential: Credential, trust: Trust) -> String {
        match meet(ca, credential, trust).await {
            Ok(_) => panic!("the relay was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn both_ends_learn_who_the_other_is() {
        let ca = Ca::new();
        let pair = join(ca.relay_tls(), ca.agent_tls()).await.unwrap();
        assert_eq!(peer_identity(&pair.relay).unwrap().unwrap().to_string(), agent());
        assert_eq!(peer_identity(&pair.agent).unwrap().unwrap().to_string(), relay());
    }

    #[tokio::test]
    async fn a_pin_on_the_ca_is_enough_and_a_certificate_is_optional() {
        let ca = Ca::new();
        let credential = ca.issue(&[SERVER_NAME], &[&relay()]);
        let pair = meet(&ca, credential, Trust::Pinned(ca.fingerprint())).await.unwrap();
        assert_eq!(peer_identity(&pair.relay), Ok(None));
        assert_eq!(peer_identity(&pair.agent).unwrap().unwrap().to_string(), relay());
    }

    #[tokio::test]
    async fn a_wrong_pin_names_both_fingerprints() {
        let (ca, other) = (Ca::new(), Ca::new());
        let credential = ca.issue(&[SERVER_NAME], &[&relay()]);
        let text = refusal(&ca, credential, Trust::Pinned(other.fingerprint())).await;
        assert!(text.contains(&other.fingerprint().to_string()), "{text}");
        assert!(text.contains(&ca.fingerprint().to_string()), "{text}");
        assert!(text.contains("another deployment"), "{text}");
    }

    #[tokio::test]
    async fn a_pin_on_the_leaf_makes_no_trust_anchor() {
        let ca = Ca::new();
        let credential = ca.issue(&[SERVER_NAME], &[&relay()]);
        let leaf = Fingerprint::of(&credential.0[0]);
        assert!(refusal(&ca, credential, Trust::Pinned(leaf)).await.contains("another deployment"));
    }

    #[tokio::test]
    async fn a_ca_shown_beside_a_certificate_it_did_not_issue_proves_nothing() {
        let (ca, attacker) = (Ca::new(), Ca::new());
        let credential = attacker.issue(&[SERVER_NAME], &[&relay()]);
        let text = refusal(&ca, credential, Trust::Pinned(ca.fingerprint())).await;
        assert!(text.contains("invalid peer certificate"), "{text}");
    }

    #[tokio::test]
    async fn an_agent_cannot_pose_as_a_relay() {
        let ca = Ca::new();
        for trust in [Trust::Ca(ca.der()), Trust::Pinned(ca.fingerprint())] {
            let text = refusal(&ca, ca.issue(&[SERVER_NAME], &[&agent()]), trust).await;
            assert!(text.contains(&format!("{}, which is no relay", agent())), "{text}");
        }
        let nobody = refusal(&ca, ca.issue(&[SERVER_NAME], &[]), Trust::Ca(ca.der())).await;
        assert!(nobody.contains("carries no identity"), "{nobody}");
    }

    #[tokio::test]
    async fn a_relay_of_another_name_or_ca_is_refused() {
        let (ca, other) = (Ca::new(), Ca::new());
        let text = refusal(&ca, ca.issue(&["relay.example.com"], &[&relay()]), Trust::Ca(ca.der())).await;
        assert!(text.contains("not valid for name"), "{text}");
        let text = refusal(&ca, ca.issue(&[SERVER_NAME], &[&relay()]), Trust::Ca(other.der())).await;
        assert!(text.contains("invalid peer certificate"), "{text}");
    }

    #[tokio::test]
    async fn an_agent_of_another_deployment_is_refused() {
        let (ca, other) = (Ca::new(), Ca::new());
        let agent = tls::client(Trust::Ca(ca.der()), Some(other.issue(&[], &[&agent()]))).unwrap();
        assert!(matches!(join(ca.relay_tls(), agent).await, Err(HandshakeError::Failed(_))));
    }

    #[tokio::test]
    async fn a_resumed_session_keeps_its_identity_without_a_second_check() {
        #[derive(Debug)]
        struct Counting(RelayVerifier, AtomicUsize);
        impl ServerCertVerifier for Counting {
            fn verify_server_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                server_name: &ServerName<'_>,
                ocsp_response: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                self.1.fetch_add(1, Ordering::SeqCst);
                self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            fn verify_tls12_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                self.0.verify_tls12_signature(message, certificate, signature)
            }
            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, rustls::Error> {
                self.0.verify_tls13_signature(message, certificate, signature)
            }
            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                self.0.supported_verify_schemes()
            }
        }
        let ca = Ca::new();
        let (relay_tls, mut agent_tls) = (ca.relay_tls(), ca.agent_tls());
        let algorithms = agent_tls.crypto_provider().signature_verification_algorithms;
        let verifier = RelayVerifier::new(Trust::Ca(ca.der()), algorithms).unwrap();
        let verifier = Arc::new(Counting(verifier, AtomicUsize::new(0)));
        agent_tls.dangerous().set_certificate_verifier(verifier.clone());
        for _ in 0..2 {
            let pair = join(relay_tls.clone(), agent_tls.clone()).await.unwrap();
            assert_eq!(peer_identity(&pair.relay).unwrap().unwrap().to_string(), agent());
            assert_eq!(peer_identity(&pair.agent).unwrap().unwrap().to_string(), relay());
            // What the relay sends after its tickets arrives after them.
            let mut hello = pair.relay.open_uni().await.unwrap();
            hello.write_all(b"hello").await.unwrap();
            let mut heard = soon(pair.agent.accept_uni()).await.unwrap();
            heard.read_exact(&mut [0; 5]).await.unwrap();
        }
        assert_eq!(verifier.1.load(Ordering::SeqCst), 1);
    }
}
