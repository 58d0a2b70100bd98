//! What TLS needs to know of a listener or a backend, as plain data: `listener` and `proxy` make configurations of it.
//!
//! Compared and hashed by content, so that a configuration, with its sessions, outlives the tables that ask for it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};

/// A certificate chain, end entity first, with its private key, which belongs to it: that was checked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Certified {
    pub chain: Vec<CertificateBytes>,
    /// PKCS #8, PKCS #1 or SEC 1, DER, as [`KeyForm`] says.
    pub key: Box<[u8]>,
    pub form: KeyForm,
}

/// DER.
pub type CertificateBytes = Arc<[u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyForm {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certified({} certificates, ..)", self.chain.len())
    }
}

impl Certified {
    /// The chain as rustls takes it.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
    }

    /// The key as rustls takes it.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        let der = self.key.to_vec();
        match self.form {
            KeyForm::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
            KeyForm::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
            KeyForm::Sec1 => PrivateSec1KeyDer::from(der).into(),
        }
    }
}

/// What a listener that ends TLS presents and asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerTls {
    /// One for each kind of key at most; empty means the relay's own, self-issued one.
    pub certificates: Vec<Arc<Certified>>,
    pub clients: Clients,
    /// What a policy demands of the handshake.
    pub demands: Option<Arc<Demands>>,
}

/// What a policy demands of the handshake; what is empty or `None` is the relay's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Demands {
    pub versions: Versions,
    /// Of TLS 1.2, by their IANA numbers, the one that is liked best first.
    pub ciphers: Vec<u16>,
    /// For the key exchange, by their IANA numbers, the one that is liked best first.
    pub groups: Vec<u16>,
    /// Protocols that are offered for HTTP (RFC 7301).
    pub alpn: Option<Vec<Box<str>>>,
    pub sessions: Sessions,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Versions {
    #[default]
    Both,
    Tls12,
    Tls13,
}

/// How sessions are taken up again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sessions {
    /// By tickets that clients keep.
    #[default]
    Tickets,
    /// The relay remembers the latest ones.
    Remembered,
    Never,
}

/// What a policy checks of clients' certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Check {
    /// Whether a client may do without.
    pub optional: bool,
    /// Any of them must vouch for it; without any, the hashes are enough.
    pub authorities: Vec<CertificateBytes>,
    /// SHA-256 of keys (SPKI, DER). With any hash at all, one of either list must fit.
    pub keys: Vec<[u8; 32]>,
    /// SHA-256 of certificates (DER).
    pub certificates: Vec<[u8; 32]>,
}

/// Whose certificates a listener asks for (Gateway API, `FrontendTLSValidation`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Clients {
    #[default]
    Anybody,
    /// Only those that one of these CAs vouches for.
    Valid(Vec<CertificateBytes>),
    /// They are asked, and let in whatever they present.
    ValidOrNot(Vec<CertificateBytes>),
    /// As a ClientTrafficPolicy says.
    Checked(Arc<Check>),
    /// The CAs could not be read: nobody is let in.
    Nobody,
}

/// How a backend is spoken to over TLS (Gateway API, `BackendTLSPolicy`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UpstreamTls {
    /// What SNI says; also the name that is verified unless `names` says otherwise.
    pub server_name: Box<str>,
    pub roots: Roots,
    /// Any of these must be in the certificate; empty means `server_name`.
    pub names: Vec<SubjectName>,
    /// What the relay presents when it is asked.
    pub identity: Option<Arc<Certified>>,
}

/// The hash is taken with every request, so that of a certificate it reads only the end, which is its signature.
impl Hash for UpstreamTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut ends = |certificates: &[CertificateBytes]| {
            certificates.len().hash(state);
            certificates.iter().for_each(|der| der.last_chunk::<8>().hash(state));
        };
        if let Roots::These(certificates) = &self.roots {
            ends(certificates);
        }
        if let Some(identity) = &self.identity {
            ends(&identity.chain);
        }
        (&self.server_name, &self.names).hash(state);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Roots {
    /// Those of the host.
    System,
    These(Vec<CertificateBytes>),
}

/// A subject alternative name (RFC 5280 §4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectName {
    /// May be a wildcard, `*.example.com`.
    Dns(Box<str>),
    Uri(Box<str>),
}
