//! Whose certificates a listener takes.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::TlsError;
use crate::{
    authority::tls::provider,
    route::tls::{CertificateBytes, Clients},
};

/// What verifies the clients of a listener.
///
/// # Errors
/// [`TlsError::Nobody`], [`TlsError::Verifier`] when no CA can be used.
pub(super) fn verifier(clients: &Clients) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    match clients {
        Clients::Anybody => Ok(WebPkiClientVerifier::no_client_auth()),
        Clients::Nobody => Err(TlsError::Nobody),
        Clients::Valid(cas) => {
            Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots(cas)), provider()).build()?)
        }
        Clients::ValidOrNot(cas) => {
            let hints = roots(cas).subjects();
            Ok(Arc::new(Whatever { hints, algorithms: provider().signature_verification_algorithms }))
        }
    }
}

/// A CA that cannot be one is left out: it would vouch for nobody.
fn roots(cas: &[CertificateBytes]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(cas.iter().map(|der| CertificateDer::from(der.to_vec())));
    roots
}

/// Asks for a certificate, and takes any and none; whoever presents one must hold its key.
#[derive(Debug)]
struct Whatever {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Whatever {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
