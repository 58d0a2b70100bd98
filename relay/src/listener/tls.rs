//! TLS of listeners, as rustls takes it: TLS 1.2 and 1.3, sessions resumed by tickets, no early data.
//!
//! [`Configs`] keeps what was made of each [`ServerTls`], so that sessions outlive the tables that ask for it.

mod clients;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    ServerConfig, SignatureAlgorithm, SupportedCipherSuite,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache, VerifierBuilderError},
    sign::CertifiedKey,
};

use crate::{
    authority::tls::provider,
    route::tls::{Certified, Clients, Demands, ServerTls, Sessions, Versions},
};

/// Configurations that are kept; beyond it the one unused for longest goes, and its sessions with it.
///
/// About 10 KiB each. A relay with more certificates than this makes some of them anew for a handshake.
const CONFIGS_MAX: usize = 4096;

/// Sessions that a listener remembers whose policy wants it so; beyond it the oldest is forgotten. About 1 KiB each.
const SESSIONS_MAX: usize = 4096;

/// What passes over a connection once TLS is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    /// HTTP/2 or HTTP/1.1, as ALPN says.
    Http,
    /// Anything: the name of what is spoken is the backend's business, and ALPN is left out.
    Bytes,
}

/// Why no handshake can be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("there is no certificate yet")]
    NoCertificate,
    #[error("the CAs for clients could not be read: nobody is let in")]
    Nobody,
    #[error("the CAs for clients cannot verify anybody")]
    Verifier(#[from] VerifierBuilderError),
    #[error("the certificate cannot be served")]
    Certificate(#[from] rustls::Error),
}

/// What an HTTPS listener without certificates of its own presents.
///
/// # Errors
/// When the key does not fit the certificate.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    finish(config, Carries::Http, Sessions::Tickets).map(Arc::new)
}

/// What all listeners have in common.
fn finish(mut config: ServerConfig, carries: Carries, sessions: Sessions) -> Result<ServerConfig, rustls::Error> {
    if carries == Carries::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    // TLS 1.2 resumes by tickets only, like TLS 1.3, so that no table of sessions grows here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match sessions {
        Sessions::Tickets => config.ticketer = aws_lc_rs::Ticketer::new()?,
        Sessions::Remembered => config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX),
        Sessions::Never => config.send_tls13_tickets = 0,
    }
    Ok(config)
}

/// The configurations of all listeners, by content. Shared by all workers.
#[derive(Debug, Default)]
pub struct Configs {
    known: RwLock<HashMap<(Arc<ServerTls>, Carries), Known>>,
    /// Counts uses.
    uses: AtomicU64,
}

#[derive(Debug)]
struct Known {
    config: Arc<ServerConfig>,
    /// The relay's own one, when the certificate is from there.
    own: Option<Arc<ServerConfig>>,
    /// When it was used last, in uses.
    used: AtomicU64,
}

impl Configs {
    /// The configuration for `tls`; `own` is the relay's, for listeners without certificates of theirs.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn get(
        &self,
        tls: &Arc<ServerTls>,
        carries: Carries,
        own: Option<&Arc<ServerConfig>>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let own = own.filter(|_| tls.certificates.is_empty());
        if let (Some(own), Carries::Http, Clients::Anybody, None) = (own, carries, &tls.clients, &tls.demands) {
            return Ok(own.clone());
        }
        let now = self.uses.fetch_add(1, Relaxed);
        let key = (tls.clone(), carries);
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&key)
            && known.own.as_ref().map(Arc::as_ptr) == own.map(Arc::as_ptr)
        {
            known.used.store(now, Relaxed);
            return Ok(known.config.clone());
        }
        // Made without the lock; of two that are made at once the first stays, so that sessions are not split.
        let made = Known { config: Arc::new(make(tls, carries, own)?), own: own.cloned(), used: now.into() };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = known.get(&key).filter(|other| other.own.as_ref().map(Arc::as_ptr) == own.map(Arc::as_ptr))
        {
            return Ok(other.config.clone());
        }
        if known.len() >= CONFIGS_MAX && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, known)| known.used.load(Relaxed)).map(|(key, _)| key.clone());
            oldest.and_then(|oldest| known.remove(&oldest));
        }
        let config = made.config.clone();
        known.insert(key, made);
        Ok(config)
    }
}

fn make(tls: &ServerTls, carries: Carries, own: Option<&Arc<ServerConfig>>) -> Result<ServerConfig, TlsError> {
    let demands = tls.demands.as_deref().cloned().unwrap_or_default();
    let provider = demanded(&demands);
    let resolver: Arc<dyn ResolvesServerCert> = if tls.certificates.is_empty() {
        own.ok_or(TlsError::NoCertificate)?.cert_resolver.clone()
    } else {
        Arc::new(ByKey::new(&tls.certificates, &provider)?)
    };
    let verifier = clients::verifier(&tls.clients)?;
    let versions: &[_] = match demands.versions {
        Versions::Both => rustls::ALL_VERSIONS,
        Versions::Tls12 => &[&rustls::version::TLS12],
        Versions::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
    // A resumed session is not verified again, and would outlive the client's certificate.
    let is_checked = matches!(tls.clients, Clients::Valid(_) | Clients::Checked(_));
    let sessions = if is_checked { Sessions::Never } else { demands.sessions };
    let mut config = finish(config, carries, sessions)?;
    if let (Carries::Http, Some(alpn)) = (carries, &demands.alpn) {
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    }
    Ok(config)
}

/// The provider with the ciphers and groups that are demanded, in the order in which they are.
fn demanded(demands: &Demands) -> Arc<CryptoProvider> {
    let mut provider = provider();
    if demands.ciphers.is_empty() && demands.groups.is_empty() {
        return provider;
    }
    let CryptoProvider { cipher_suites, kx_groups, .. } = Arc::make_mut(&mut provider);
    if !demands.ciphers.is_empty() {
        let rank = |suite: &SupportedCipherSuite| {
            demands.ciphers.iter().position(|&cipher| cipher == u16::from(suite.suite()))
        };
        // Those of TLS 1.3 are not chosen by policies.
        cipher_suites.retain(|suite| suite.tls13().is_some() || rank(suite).is_some());
        cipher_suites.sort_by_key(rank);
    }
    if !demands.groups.is_empty() {
        let rank =
            |group: &&dyn SupportedKxGroup| demands.groups.iter().position(|&wanted| wanted == u16::from(group.name()));
        kx_groups.retain(|group| rank(group).is_some());
        kx_groups.sort_by_key(rank);
    }
    provider
}

/// Presents the certificate whose key the client understands; of several, one that is cheap to sign with.
#[derive(Debug)]
struct ByKey(Vec<Arc<CertifiedKey>>);

impl ByKey {
    fn new(certificates: &[Arc<Certified>], provider: &CryptoProvider) -> Result<Self, rustls::Error> {
        let certified =
            |one: &Arc<Certified>| CertifiedKey::from_der(one.chain(), one.private_key(), provider).map(Arc::new);
        let mut keys = certificates.iter().map(certified).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|one| one.key.algorithm() == SignatureAlgorithm::RSA);
        Ok(Self(keys))
    }
}

impl ResolvesServerCert for ByKey {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(hello.signature_schemes()).is_some();
        // Without one the client is told so; with one that does not fit, rustls would hang up without a word.
        self.0.iter().find(fits).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_unused_for_longest_gives_way() {
        let issued = rcgen::generate_simple_self_signed(["a.com".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let own = server_config(vec![issued.cert.der().clone()], key).unwrap();
        let configs = Configs::default();
        let get = |number: usize| {
            // No CA, but content all the same.
            let clients = Clients::ValidOrNot(vec![number.to_be_bytes()[..].into()]);
            configs.get(&Arc::new(ServerTls { clients, ..ServerTls::default() }), Carries::Http, Some(&own)).unwrap()
        };
        let first: Vec<_> = (0..CONFIGS_MAX).map(get).collect();
        assert!(Arc::ptr_eq(&get(0), &first[0]));
        get(CONFIGS_MAX);
        assert_eq!(configs.known.read().unwrap().len(), CONFIGS_MAX);
        assert!(Arc::ptr_eq(&get(0), &first[0]), "it was used since");
        assert!(!Arc::ptr_eq(&get(1), &first[1]));
    }
}
