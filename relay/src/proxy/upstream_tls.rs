//! TLS towards backends: who is trusted, by which name, and what is presented (Gateway API, `BackendTLSPolicy`).
//!
//! A configuration is made once for each project and content, so that its sessions are resumed by later connections,
//! and by nobody else's.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use tokio::sync::OnceCell;
use tokio_rustls::{TlsConnector, client::TlsStream};
use underpass_shared::identity::ProjectName;

use super::dial::Transport;
use crate::{
    clock,
    route::{
        target::Protocol,
        tls::{Roots, SubjectName, UpstreamTls},
    },
};

/// The most configurations that are kept; then the one that was used longest ago goes, and its sessions with it.
///
/// One for each kind of backend, not for each endpoint: far more than a deployment has.
const CONFIGS_MAX: usize = 1_024;

/// The server names whose sessions one configuration keeps: it has one. Up to eight sessions of a name are kept.
const SESSION_NAMES: usize = 1;

/// What a connection will carry, which the backend is told by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Carries {
    /// Any bytes: the backend is told nothing.
    Bytes,
    Http(Protocol),
}

impl Carries {
    fn alpn(self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Self::Bytes => Vec::new(),
            Self::Http(Protocol::Http1) => vec![h1],
            Self::Http(Protocol::Http2) => vec![h2],
            Self::Http(Protocol::Either) => vec![h2, h1],
        }
    }
}

/// Why no TLS connection came about. What is shown says no more than a client may know; the source has the rest.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{shown}")]
pub struct TlsFault {
    shown: &'static str,
    source: Arc<io::Error>,
}

impl TlsFault {
    fn new(shown: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { shown, source: Arc::new(io::Error::other(source)) }
    }

    fn of(error: io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        Self { shown: of_tls.map_or("broke off the TLS handshake", describe), source: Arc::new(error) }
    }
}

fn describe(error: &TlsError) -> &'static str {
    use CertificateError::{Expired, ExpiredContext, NotValidForName, NotValidForNameContext};
    match error {
        TlsError::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "presented a certificate for another name"
        }
        TlsError::InvalidCertificate(Expired | ExpiredContext { .. }) => "presented a certificate that has expired",
        TlsError::InvalidCertificate(_) => "presented a certificate that is not trusted",
        TlsError::AlertReceived(_) => "refused the TLS handshake",
        TlsError::InvalidMessage(_) => "answered with something that is not TLS",
        _ => "failed in the TLS handshake",
    }
}

/// What a configuration is made of. The project is part of it, so that no session leads from one to another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    project: ProjectName,
    tls: Arc<UpstreamTls>,
    carries: Carries,
}

/// The client configurations of a relay.
#[derive(Debug, Default)]
pub(super) struct ClientConfigs {
    known: Mutex<HashMap<Key, Known>>,
    /// The host's roots, read when they are first asked for.
    system: OnceCell<Arc<RootCertStore>>,
}

#[derive(Debug)]
struct Known {
    config: Arc<ClientConfig>,
    used: Instant,
}

impl ClientConfigs {
    /// Makes a TLS connection of `transport`, which leads to a backend of `project`.
    ///
    /// # Errors
    /// [`TlsFault`], also when HTTP/2 was wanted and not agreed on.
    pub(super) async fn connect(
        &self,
        project: &ProjectName,
        tls: &Arc<UpstreamTls>,
        carries: Carries,
        transport: Transport,
    ) -> Result<TlsStream<Transport>, TlsFault> {
        let name = ServerName::try_from(tls.server_name.to_string());
        let name = name.map_err(|error| TlsFault::new("has a name that cannot be verified", error))?;
        let config = self.config(Key { project: project.clone(), tls: tls.clone(), carries }).await;
        let config = config.map_err(|error| TlsFault::new("cannot be spoken to over TLS as it is set up", error))?;
        let stream = TlsConnector::from(config).connect(name, transport).await.map_err(TlsFault::of)?;
        if carries == Carries::Http(Protocol::Http2) && agreed(&stream) != Protocol::Http2 {
            return Err(TlsFault::new("does not speak HTTP/2 over TLS", "no ALPN"));
        }
        Ok(stream)
    }

    async fn config(&self, key: Key) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key) {
            known.used = clock::instant();
            return Ok(known.config.clone());
        }
        let roots = match &key.tls.roots {
            Roots::System => self.system.get_or_init(system_roots).await.clone(),
            Roots::These(certificates) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates.iter().map(|der| CertificateDer::from(der.to_vec())));
                Arc::new(roots)
            }
        };
        let made = client_config(&key, roots)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CONFIGS_MAX {
            let oldest = known.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| key.clone());
            oldest.and_then(|key| known.remove(&key));
        }
        // Of two that were made at once the first stays, so that both share its sessions.
        let known = known.entry(key).or_insert_with(|| Known { config: Arc::new(made), used: clock::instant() });
        Ok(known.config.clone())
    }
}

/// The protocol that the backend chose. One that does not know ALPN speaks HTTP/1.1.
pub(super) fn agreed(stream: &TlsStream<Transport>) -> Protocol {
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

async fn system_roots() -> Arc<RootCertStore> {
    // Some hundred files; none of them is worth a stall of all connections of a worker.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await.unwrap_or_default();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        tracing::warn!(errors = ?found.errors, "this host has no CA certificates: no backend can be verified by them");
    }
    Arc::new(roots)
}

fn client_config(key: &Key, roots: Arc<RootCertStore>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = if key.tls.names.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        let verifier = NamesVerifier { roots, names: key.tls.names.clone(), algorithms };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
    };
    let mut config = match &key.tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private_key())?,
    };
    config.alpn_protocols = key.carries.alpn();
    config.resumption = Resumption::in_memory_sessions(SESSION_NAMES);
    Ok(config)
}

/// Verifies the chain as usual, and that the certificate holds one of `names`, whatever SNI said.
#[derive(Debug)]
struct NamesVerifier {
    roots: Arc<RootCertStore>,
    names: Vec<SubjectName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NamesVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        let held = webpki::EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let holds = |wanted: &SubjectName| match wanted {
            SubjectName::Dns(wanted) => held.valid_dns_names().any(|name| fits(name, wanted)),
            SubjectName::Uri(wanted) => held.valid_uri_names().any(|name| name == &**wanted),
        };
        if self.names.iter().any(holds) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a name of a certificate is a `wanted` one: either may have `*` as its whole first label, which stands for one
/// label (RFC 6125 §6.4.3).
fn fits(held: &str, wanted: &str) -> bool {
    let (held, wanted) = (held.trim_end_matches('.'), wanted.trim_end_matches('.'));
    let covers = |pattern: &str, name: &str| {
        let parent = name.split_once('.').filter(|(label, _)| !label.is_empty() && *label != "*");
        pattern.strip_prefix("*.").zip(parent).is_some_and(|(suffix, (_, parent))| suffix.eq_ignore_ascii_case(parent))
    };
    held.eq_ignore_ascii_case(wanted) || covers(held, wanted) || covers(wanted, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(project: &str, server_name: &str, carries: Carries) -> Key {
        let (server_name, roots) = (server_name.into(), Roots::These(Vec::new()));
        let tls = Arc::new(UpstreamTls { server_name, roots, names: Vec::new(), identity: None });
        Key { project: project.parse().unwrap(), tls, carries }
    }

    #[tokio::test]
    async fn a_configuration_is_shared_by_its_project_and_the_one_unused_for_longest_goes() {
        let configs = ClientConfigs::default();
        let (h1, bytes) = (Carries::Http(Protocol::Http1), Carries::Bytes);
        let first = configs.config(key("a", "0.example", h1)).await.unwrap();
        let is_first = async |key| Arc::ptr_eq(&first, &configs.config(key).await.unwrap());
        assert!(is_first(key("a", "0.example", h1)).await);
        assert!(!is_first(key("b", "0.example", h1)).await);
        assert!(!is_first(key("a", "0.example", bytes)).await);
        assert!(is_first(key("a", "0.example", h1)).await);
        for name in 3..CONFIGS_MAX {
            configs.config(key("a", &format!("{name}.example"), h1)).await.unwrap();
        }
        let known = |key| {
            let known = configs.known.lock().unwrap();
            (known.len(), known.contains_key(&key))
        };
        assert_eq!(known(key("b", "0.example", h1)), (CONFIGS_MAX, true));
        configs.config(key("a", "one-more.example", h1)).await.unwrap();
        assert_eq!(known(key("b", "0.example", h1)), (CONFIGS_MAX, false));
        assert_eq!(known(key("a", "0.example", h1)), (CONFIGS_MAX, true));
    }

    #[test]
    fn a_wildcard_stands_for_one_whole_label_on_either_side() {
        for (held, wanted) in [
            ("a.example.com", "a.example.com"),
            ("A.Example.com", "a.example.COM."),
            ("*.example.com", "a.example.com"),
            ("a.example.com", "*.example.com"),
            ("*.example.com", "*.example.com"),
        ] {
            assert!(fits(held, wanted), "{held} {wanted}");
        }
        for (held, wanted) in [
            ("*.example.com", "example.com"),
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", "*.b.example.com"),
            ("*.example.com", ".example.com"),
            ("a*.example.com", "ab.example.com"),
            ("*", "com"),
            ("example.com", "a.example.com"),
            ("", "a.example.com"),
        ] {
            assert!(!fits(held, wanted) && !fits(wanted, held), "{held} {wanted}");
        }
    }
}
