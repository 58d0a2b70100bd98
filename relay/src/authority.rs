//! The deployment's certificate authority: what it signs, for whom and for how long.
//!
//! Owns the CA's key in memory. Does not own where the key is kept (the store, sealed), nor who may ask (`enrolment`).

use std::{fmt, net::IpAddr};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use underpass_shared::identity::{AgentIdentity, Identity, RelayId};

/// The name every relay's certificate carries, so that agents may dial any address of it.
pub const RELAY_NAME: &str = "relay.underpass.internal";

/// How long the CA lives: longer than any host it was pinned on.
const CA_LIFE: Duration = Duration::days(3650);

/// How long an agent's certificate lives; it is renewed inside the session after a third of it.
///
/// A week, so that an office host that was off for a long weekend comes back by itself.
pub const AGENT_LIFE: Duration = Duration::days(7);

/// How long the administrator's certificate in `admin.kubeconfig` lives; it is made anew at each start of the relay.
const ADMIN_LIFE: Duration = Duration::days(365);

/// How long a relay's own certificates live; made anew at each start, so the keys are never on disk.
const RELAY_LIFE: Duration = Duration::days(365);

/// Certificates begin this much in the past, for hosts whose clock is behind.
const SKEW: Duration = Duration::minutes(2);

/// Why no certificate came to be.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the certificate request cannot be read or is not signed by its key")]
    Request(#[source] rcgen::Error),
    #[error("the deployment's CA cannot be read from the store")]
    Damaged(#[source] rcgen::Error),
    #[error("the certificate cannot be signed")]
    Sign(#[source] rcgen::Error),
}

/// A certificate and the moments it begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCertificate {
    pub pem: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// A certificate with its key.
pub struct Credential {
    /// The certificate first, then the CA's.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Credential {
    /// The certificate alone, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.chain.first().map(|der| pem(der)).unwrap_or_default()
    }

    /// The key as rustls takes it.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} certificates, ..)", self.chain.len())
    }
}

/// The CA of one deployment.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

impl Authority {
    /// A fresh CA and the PEM texts, certificate and key, that [`Authority::from_pem`] takes.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(now: OffsetDateTime) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let mut params = params("Underpass CA", now, CA_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The CA that was kept as two PEM texts.
    ///
    /// # Errors
    /// When either is damaged.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        use rustls::pki_types::pem::PemObject as _;
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Damaged)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| AuthorityError::Damaged(rcgen::Error::CouldNotParseCertificate))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(AuthorityError::Damaged)?;
        Ok(Self { issuer, certificate: der })
    }

    /// The CA's certificate, which agents pin and clients trust.
    #[must_use]
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The same as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        pem(&self.certificate)
    }

    /// The certificate of a relay's tunnel port and API, good for `names` and `addresses` besides the fixed ones.
    ///
    /// # Errors
    /// When it cannot be signed, as with a name that is not ASCII.
    pub fn relay(
        &self,
        relay: &RelayId,
        names: &[String],
        addresses: &[IpAddr],
        now: OffsetDateTime,
    ) -> Result<Credential, AuthorityError> {
        let mut params = params("Underpass relay", now, RELAY_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(uri(&Identity::Relay(relay.clone()))?);
        for name in [RELAY_NAME, "localhost"].into_iter().chain(names.iter().map(String::as_str)) {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(AuthorityError::Sign)?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.issue(&params)
    }

    /// The administrator's certificate.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn admin(&self, now: OffsetDateTime) -> Result<Credential, AuthorityError> {
        let mut params = params("Underpass admin", now, ADMIN_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(uri(&Identity::Admin)?);
        self.issue(&params)
    }

    /// An agent's certificate on the key of its request; every name in the request is ignored.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] when the request is malformed or not signed by the key it carries.
    pub fn agent(
        &self,
        agent: &AgentIdentity,
        request_pem: &str,
        now: OffsetDateTime,
    ) -> Result<AgentCertificate, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(AuthorityError::Request)?;
        let mut params = params("Underpass agent", now, AGENT_LIFE);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names.push(uri(&Identity::Agent(agent.clone()))?);
        let (not_before, not_after) = (params.not_before, params.not_after);
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok(AgentCertificate { pem: certificate.pem(), not_before, not_after })
    }

    fn issue(&self, params: &CertificateParams) -> Result<Credential, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Sign)?;
        Ok(Credential { chain: vec![certificate.der().clone(), self.certificate.clone()], key })
    }
}

/// A certificate that nobody but itself vouches for, for HTTPS listeners until one is configured.
///
/// # Errors
/// When it cannot be signed.
pub fn self_issued(now: OffsetDateTime) -> Result<Credential, AuthorityError> {
    let key = KeyPair::generate().map_err(AuthorityError::Sign)?;
    let mut params = params("Underpass gateway", now, RELAY_LIFE);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let localhost = "localhost".try_into().map_err(AuthorityError::Sign)?;
    params.subject_alt_names.push(SanType::DnsName(localhost));
    let certificate = params.self_signed(&key).map_err(AuthorityError::Sign)?;
    Ok(Credential { chain: vec![certificate.der().clone()], key })
}

fn params(name: &str, now: OffsetDateTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - SKEW;
    params.not_after = now + life;
    params
}

fn uri(identity: &Identity) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(identity.to_string().try_into().map_err(AuthorityError::Sign)?))
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
    use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn authority() -> Authority {
        let (certificate, key) = Authority::generate(NOW).unwrap();
        Authority::from_pem(&certificate, &key).unwrap()
    }

    fn agent() -> AgentIdentity {
        AgentIdentity {
            project: "default".parse().unwrap(),
            node: "office".parse().unwrap(),
            agent: "a-1".parse().unwrap(),
        }
    }

    fn request() -> String {
        let key = KeyPair::generate().unwrap();
        let foreign = CertificateParams::new(vec!["spiffe://underpass/admin".to_owned()]).unwrap();
        foreign.serialize_request(&key).unwrap().pem().unwrap()
    }

    fn verified(ca: &Authority, certificate: &CertificateDer<'_>, at: OffsetDateTime, usage: KeyUsage) -> bool {
        let anchor = anchor_from_trusted_cert(ca.ca_der()).unwrap();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().unsigned_abs()));
        EndEntityCert::try_from(certificate)
            .unwrap()
            .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], at, usage, None, None)
            .is_ok()
    }

    fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
        EndEntityCert::try_from(certificate).unwrap().valid_uri_names().map(str::to_owned).collect()
    }

    #[test]
    fn an_agents_certificate_carries_the_name_we_gave_and_none_it_asked_for() {
        let ca = authority();
        let issued = ca.agent(&agent(), &request(), NOW).unwrap();
        let certificate = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        assert_eq!(names(&certificate), ["spiffe://underpass/project/default/node/office/agent/a-1"]);
        assert!(verified(&ca, &certificate, NOW, KeyUsage::client_auth()));
        assert!(!verified(&ca, &certificate, NOW, KeyUsage::server_auth()));
        assert!(!verified(&authority(), &certificate, NOW, KeyUsage::client_auth()), "another deployment's CA");
    }

    #[test]
    fn certificates_end_and_begin_early_enough_for_slow_clocks() {
        let ca = authority();
        let issued = ca.agent(&agent(), &request(), NOW).unwrap();
        let certificate = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        let valid = |at| verified(&ca, &certificate, at, KeyUsage::client_auth());
        assert!(valid(NOW - Duration::seconds(119)) && valid(NOW + AGENT_LIFE - Duration::seconds(1)));
        assert!(!valid(NOW - Duration::seconds(121)) && !valid(NOW + AGENT_LIFE + Duration::seconds(1)));
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let ca = authority();
        assert!(matches!(ca.agent(&agent(), "nonsense", NOW), Err(AuthorityError::Request(_))));
        let good = request();
        let body: String = good.lines().filter(|line| !line.starts_with('-')).collect();
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let mut der = STANDARD.decode(body).unwrap();
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(der)
        );
        assert!(matches!(ca.agent(&agent(), &forged, NOW), Err(AuthorityError::Request(_))));
    }

    #[test]
    fn relays_and_admins_are_told_apart() {
        let ca = authority();
        let relay = ca.relay(&"r-1".parse().unwrap(), &["relay.example.com".to_owned()], &[], NOW).unwrap();
        assert_eq!(names(&relay.chain[0]), ["spiffe://underpass/relay/r-1"]);
        assert!(verified(&ca, &relay.chain[0], NOW, KeyUsage::server_auth()));
        let admin = ca.admin(NOW).unwrap();
        assert_eq!(names(&admin.chain[0]), ["spiffe://underpass/admin"]);
        assert!(!verified(&ca, &admin.chain[0], NOW, KeyUsage::server_auth()));
        assert_eq!(CertificateDer::from_pem_slice(admin.certificate_pem().as_bytes()).unwrap(), admin.chain[0]);
    }
}
