//! The deployment's CA and the certificates it issues. Owns key and names; who may ask is `enrolment`'s matter.
//!
//! The CA's key is made once and lives sealed in the store. The keys of relay, gateway and admin certificates are made
//! anew at each call: relay and gateway keys never touch the disk, the admin's is in `admin.kubeconfig`.

pub mod kubeconfig;
pub mod tls;

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use underpass_shared::{
    enrolment::Fingerprint,
    identity::{AgentIdentity, Identity, RelayId},
};

use crate::store::{Store, TransactError, record::RecordKey, state::WriteError};

/// The name under which agents know every relay of the deployment, whatever they dial.
pub const RELAY_NAME: &str = "relay.underpass.internal";

/// How long the CA lives.
const CA_LIFE: Duration = Duration::days(3650);
/// How long relay and gateway certificates live; each start of the relay makes new ones.
const SERVER_LIFE: Duration = Duration::days(825);
/// How long the admin's certificate lives; the relay renews it at half of that when it starts.
const ADMIN_LIFE: Duration = Duration::days(365);
/// How long an agent's certificate lives; agents renew it inside the session.
const AGENT_LIFE: Duration = Duration::days(7);
/// How far an agent's certificate is dated back, for relays whose clocks are behind.
const AGENT_BACKDATE: Duration = Duration::minutes(2);
/// How far all others are dated back: agents check them against clocks of their own.
const BACKDATE: Duration = Duration::hours(1);
/// The longest certificate request, in bytes of PEM; one for a P-384 key takes 600.
const CSR_BYTES_MAX: usize = 8 << 10;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the CA cannot be read from or kept in the store")]
    Store(#[from] TransactError<WriteError>),
    #[error("the CA in the store is damaged; restore the data directory from your backup")]
    Damaged(#[source] rcgen::Error),
    #[error("no certificate could be made")]
    Make(#[from] rcgen::Error),
}

/// Why no certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate request is longer than {CSR_BYTES_MAX} bytes")]
    TooLong,
    #[error("the certificate request cannot be read, or is not signed by its own key")]
    BadRequest(#[source] rcgen::Error),
    #[error("the certificate request has a key of another kind than ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
    #[error("the certificate could not be made")]
    Make(#[from] rcgen::Error),
}

/// A certificate with its private key.
pub struct Certified {
    /// The certificate, then the CA.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_after: OffsetDateTime,
    certificate_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certified(until {}, ..)", self.not_after)
    }
}

/// An agent's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    pub pem: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// The deployment's CA. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.fingerprint())
    }
}

/// The form in the store.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// DER, base64.
    certificate: String,
    /// PKCS #8, PEM.
    key: String,
}

impl Authority {
    /// The deployment's CA out of `store`; made and kept there on the first start.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub async fn load_or_create(store: &Store, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let offered = create(now)?;
        let kept = store
            .transact(move |state, _| match state.record::<Kept>(&RecordKey::Authority)? {
                Some(kept) => Ok(kept),
                None => state.put_record(RecordKey::Authority, &offered).map(|()| offered.clone()),
            })
            .await?;
        Self::from_kept(&kept)
    }

    fn from_kept(kept: &Kept) -> Result<Self, AuthorityError> {
        let der = STANDARD
            .decode(&kept.certificate)
            .map_err(|_| AuthorityError::Damaged(rcgen::Error::CouldNotParseCertificate))?;
        let der = CertificateDer::from(der);
        let key = KeyPair::from_pem(&kept.key).map_err(AuthorityError::Damaged)?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(AuthorityError::Damaged)?;
        let pem = pem(&der);
        Ok(Self { inner: Arc::new(Inner { issuer, der, pem }) })
    }

    #[must_use]
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.inner.der
    }

    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.inner.pem
    }

    /// What enrolment tokens carry, so that an agent knows the CA when it sees it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.inner.der)
    }

    /// A certificate for the relay's tunnel port and API, with a new key. It names [`RELAY_NAME`], `localhost`, the
    /// loopback addresses and `names`: host names or IP addresses.
    ///
    /// # Errors
    /// When one of `names` cannot be in a certificate.
    pub fn relay_certificate(
        &self,
        relay: &RelayId,
        names: &[String],
        now: OffsetDateTime,
    ) -> Result<Certified, rcgen::Error> {
        let own = [RELAY_NAME, "localhost", "127.0.0.1", "::1"];
        let mut sans =
            own.into_iter().chain(names.iter().map(String::as_str)).map(san).collect::<Result<Vec<_>, _>>()?;
        sans.push(uri(&Identity::Relay(relay.clone()))?);
        self.certify(relay.as_str(), sans, ExtendedKeyUsagePurpose::ServerAuth, now, SERVER_LIFE)
    }

    /// A certificate for HTTPS listeners that have none of their own, with a new key. It carries no identity.
    ///
    /// # Errors
    /// When one of `names` cannot be in a certificate.
    pub fn gateway_certificate(&self, names: &[String], now: OffsetDateTime) -> Result<Certified, rcgen::Error> {
        let sans = ["gateway.underpass.internal", "localhost"];
        let sans = sans.into_iter().chain(names.iter().map(String::as_str)).map(san).collect::<Result<Vec<_>, _>>()?;
        self.certify("Underpass gateway", sans, ExtendedKeyUsagePurpose::ServerAuth, now, SERVER_LIFE)
    }

    /// A certificate that may do everything at the API, with a new key.
    ///
    /// # Errors
    /// Only when the system has no randomness.
    pub fn admin_certificate(&self, now: OffsetDateTime) -> Result<Certified, rcgen::Error> {
        let sans = vec![uri(&Identity::Admin)?];
        self.certify("admin", sans, ExtendedKeyUsagePurpose::ClientAuth, now, ADMIN_LIFE)
    }

    /// A certificate for `agent` on the key of the request `csr` (PKCS #10, PEM), of which nothing else is read.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue_agent(
        &self,
        agent: &AgentIdentity,
        csr: &str,
        now: OffsetDateTime,
    ) -> Result<AgentCertificate, IssueError> {
        if csr.len() > CSR_BYTES_MAX {
            return Err(IssueError::TooLong);
        }
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(IssueError::BadRequest)?;
        let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        if !kinds.contains(&request.public_key.algorithm()) {
            return Err(IssueError::KeyKind);
        }
        let sans = vec![uri(&Identity::Agent(agent.clone()))?];
        let mut params = leaf(agent.agent.as_str(), sans, ExtendedKeyUsagePurpose::ClientAuth);
        params.not_before = whole_seconds(now - AGENT_BACKDATE);
        params.not_after = whole_seconds(now + AGENT_LIFE);
        let certificate = params.signed_by(&request.public_key, &self.inner.issuer)?;
        Ok(AgentCertificate { pem: pem(certificate.der()), not_before: params.not_before, not_after: params.not_after })
    }

    fn certify(
        &self,
        name: &str,
        sans: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<Certified, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf(name, sans, usage);
        params.not_before = whole_seconds(now - BACKDATE);
        params.not_after = whole_seconds(now + life);
        let certificate = params.signed_by(&key, &self.inner.issuer)?;
        Ok(Certified {
            chain: vec![certificate.der().clone(), self.inner.der.clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            not_after: params.not_after,
            certificate_pem: pem(certificate.der()),
            key_pem: key.serialize_pem(),
        })
    }
}

fn create(now: OffsetDateTime) -> Result<Kept, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let mark = Fingerprint::of(&key.subject_public_key_info()).to_string();
    params.distinguished_name = common_name(&format!("Underpass CA {}", &mark[..8]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = whole_seconds(now - BACKDATE);
    params.not_after = whole_seconds(now + CA_LIFE);
    let certificate = params.self_signed(&key)?;
    Ok(Kept { certificate: STANDARD.encode(certificate.der()), key: key.serialize_pem() })
}

fn leaf(name: &str, sans: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.subject_alt_names = sans;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

fn san(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

fn uri(identity: &Identity) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(identity.to_string().try_into()?))
}

/// Certificates count in seconds; what is told of them must agree.
fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).expect("0 is a valid nanosecond")
}

/// RFC 7468 §5.
fn pem(der: &CertificateDer<'_>) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests;
