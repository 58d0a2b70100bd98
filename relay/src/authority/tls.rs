//! The TLS settings of the API port.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{Authority, Certified};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the CA cannot verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("the certificate cannot be served")]
    Certificate(#[from] rustls::Error),
}

/// The one cryptographic provider of this program.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Verifies client certificates against the CA, where a client shows one.
///
/// # Errors
/// [`TlsError::Verifier`], which a CA of ours does not cause.
pub fn optional_clients(authority: &Authority) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.ca_der().clone())?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    Ok(builder.allow_unauthenticated().build()?)
}

/// TLS for the API port: HTTP/1.1 and HTTP/2, client certificates verified where shown, no tickets across starts.
///
/// # Errors
/// [`TlsError`], when `certified` does not fit together.
pub fn api_config(authority: &Authority, certified: &Certified) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(optional_clients(authority)?)
        .with_single_cert(certified.chain.clone(), certified.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
