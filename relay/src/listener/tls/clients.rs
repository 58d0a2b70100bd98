//! Whose certificates a listener takes.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::TlsError;
use crate::{
    authority::tls::provider,
    route::tls::{CertificateBytes, Check, Clients},
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
            let check = Arc::new(Check { optional: true, ..Check::default() });
            Ok(Arc::new(Checked::new(check, None, roots(cas).subjects())))
        }
        Clients::Checked(check) => {
            let inner = match &check.authorities[..] {
                [] => None,
                cas => Some(WebPkiClientVerifier::builder_with_provider(Arc::new(roots(cas)), provider()).build()?),
            };
            let hints = roots(&check.authorities).subjects();
            Ok(Arc::new(Checked::new(check.clone(), inner, hints)))
        }
    }
}

/// Takes certificates that a CA vouches for, that are known by a hash, or both; with neither it takes any, and whoever
/// presents one must hold its key.
#[derive(Debug)]
struct Checked {
    check: Arc<Check>,
    inner: Option<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Checked {
    fn new(check: Arc<Check>, inner: Option<Arc<dyn ClientCertVerifier>>, hints: Vec<DistinguishedName>) -> Self {
        Self { check, inner, hints, algorithms: provider().signature_verification_algorithms }
    }

    fn is_known(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let hash = |bytes: &[u8]| digest(&SHA256, bytes);
        let is_in = |list: &[[u8; 32]], bytes: &[u8]| list.iter().any(|one| one[..] == *hash(bytes).as_ref());
        let Check { keys, certificates, .. } = &*self.check;
        if (keys.is_empty() && certificates.is_empty()) || is_in(certificates, certificate) {
            return Ok(true);
        }
        Ok(is_in(keys, &ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
    }
}

impl ClientCertVerifier for Checked {
    fn client_auth_mandatory(&self) -> bool {
        !self.check.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(inner) = &self.inner {
            inner.verify_client_cert(end_entity, intermediates, now)?;
        }
        match self.is_known(end_entity)? {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
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

/// A CA that cannot be one is left out: it would vouch for nobody.
fn roots(cas: &[CertificateBytes]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(cas.iter().map(|der| CertificateDer::from(der.to_vec())));
    roots
}
