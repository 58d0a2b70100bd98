use std::{fs, os::unix::fs::PermissionsExt as _};

use rcgen::{CertificateSigningRequest, PKCS_RSA_SHA256};
use rustls::pki_types::{ServerName, UnixTime, pem::PemObject as _};
use underpass_shared::quic::tls::{PeerIdentityError, identity_of};

use super::{
    kubeconfig::{CA_FILE, KUBECONFIG_FILE},
    *,
};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn authority() -> Authority {
    Authority::from_kept(&create(now()).unwrap()).unwrap()
}

fn agent() -> AgentIdentity {
    AgentIdentity { project: "default".parse().unwrap(), node: "office".parse().unwrap(), agent: "a1".parse().unwrap() }
}

fn request(params: &CertificateParams, key: &KeyPair) -> CertificateSigningRequest {
    params.serialize_request(key).unwrap()
}

fn csr() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    request(&CertificateParams::default(), &key).pem().unwrap()
}

/// Whether `certificate` is a client or server certificate of `authority` at `at`.
fn verify(
    authority: &Authority,
    certificate: &CertificateDer<'_>,
    usage: webpki::KeyUsage,
    at: OffsetDateTime,
) -> bool {
    let anchor = webpki::anchor_from_trusted_cert(authority.ca_der()).unwrap();
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unix_timestamp().try_into().unwrap()));
    let parsed = webpki::EndEntityCert::try_from(certificate).unwrap();
    parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], at, usage, None, None).is_ok()
}

#[tokio::test]
async fn the_ca_is_made_once_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let first = {
        let store = Store::open(directory.path()).unwrap();
        Authority::load_or_create(&store, now()).await.unwrap().fingerprint()
    };
    let store = Store::open(directory.path()).unwrap();
    let second = Authority::load_or_create(&store, now() + Duration::days(1)).await.unwrap();
    assert_eq!(second.fingerprint(), first);
    assert_ne!(authority().fingerprint(), first);
}

#[test]
fn an_agents_certificate_is_its_own_for_a_week() {
    let authority = authority();
    let issued = authority.issue_agent(&agent(), &csr(), now()).unwrap();
    let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
    assert_eq!(identity_of(&der), Ok(Identity::Agent(agent())));
    let client = webpki::KeyUsage::client_auth;
    assert!(verify(&authority, &der, client(), now() - Duration::minutes(2)));
    assert!(verify(&authority, &der, client(), now() + Duration::days(7)));
    assert!(!verify(&authority, &der, client(), now() - Duration::minutes(3)));
    assert!(!verify(&authority, &der, client(), now() + Duration::days(7) + Duration::seconds(1)));
    assert!(!verify(&authority, &der, webpki::KeyUsage::server_auth(), now()), "an agent cannot pose as a relay");
    assert!(!verify(&self::authority(), &der, client(), now()), "nor to another deployment");
}

#[test]
fn nothing_but_the_key_of_a_request_is_read() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut greedy = CertificateParams::new(vec![RELAY_NAME.to_owned()]).unwrap();
    greedy.subject_alt_names.push(uri(&Identity::Admin).unwrap());
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr = request(&greedy, &key).pem().unwrap();
    let issued = authority().issue_agent(&agent(), &csr, now()).unwrap();
    let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
    assert_eq!(identity_of(&der), Ok(Identity::Agent(agent())));
    let parsed = webpki::EndEntityCert::try_from(&der).unwrap();
    assert!(parsed.valid_dns_names().next().is_none());
}

#[test]
fn a_request_that_is_forged_foreign_or_too_long_is_refused() {
    let authority = authority();
    let refuse = |csr: &str| authority.issue_agent(&agent(), csr, now()).unwrap_err();
    assert!(matches!(refuse(""), IssueError::BadRequest(_)));
    assert!(matches!(refuse(&"A".repeat(CSR_BYTES_MAX + 1)), IssueError::TooLong));

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut der = request(&CertificateParams::default(), &key).der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let forged =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(der));
    assert!(matches!(refuse(&forged), IssueError::BadRequest(_)));

    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    assert!(matches!(refuse(&request(&CertificateParams::default(), &rsa).pem().unwrap()), IssueError::KeyKind));
}

#[test]
fn a_relays_certificate_serves_its_names_and_is_no_client() {
    let authority = authority();
    let names = ["relay.example.com".to_owned(), "192.0.2.1".to_owned()];
    let certified = authority.relay_certificate(&"r1".parse().unwrap(), &names, now()).unwrap();
    let der = &certified.chain[0];
    assert_eq!(certified.chain[1], *authority.ca_der());
    assert_eq!(identity_of(der), Ok(Identity::Relay("r1".parse().unwrap())));
    let parsed = webpki::EndEntityCert::try_from(der).unwrap();
    for name in [RELAY_NAME, "localhost", "127.0.0.1", "::1", "relay.example.com", "192.0.2.1"] {
        let name = ServerName::try_from(name).unwrap();
        parsed.verify_is_valid_for_subject_name(&name).unwrap();
    }
    assert!(verify(&authority, der, webpki::KeyUsage::server_auth(), now() - Duration::minutes(2)));
    assert!(!verify(&authority, der, webpki::KeyUsage::client_auth(), now()));
    tls::api_config(&authority, &certified).unwrap();
}

#[test]
fn a_gateways_certificate_is_no_relays() {
    let certified = authority().gateway_certificate(&["app.example.com".to_owned()], now()).unwrap();
    assert_eq!(identity_of(&certified.chain[0]), Err(PeerIdentityError::None));
    let parsed = webpki::EndEntityCert::try_from(&certified.chain[0]).unwrap();
    let name = ServerName::try_from("app.example.com").unwrap();
    parsed.verify_is_valid_for_subject_name(&name).unwrap();
    let relay = ServerName::try_from(RELAY_NAME).unwrap();
    assert!(parsed.verify_is_valid_for_subject_name(&relay).is_err());
}

#[test]
fn the_kubeconfig_is_private_and_rewritten_only_when_it_must() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let write = |url: &str, at| {
        let path = kubeconfig::write(directory.path(), url, &authority, at).unwrap();
        fs::read_to_string(path).unwrap()
    };
    let first = write("https://127.0.0.1:1", now());
    let path = directory.path().join(KUBECONFIG_FILE);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(directory.path().join(CA_FILE)).unwrap(), authority.ca_pem());
    assert!(first.contains("    server: https://127.0.0.1:1\n"), "{first}");
    assert!(first.contains("\nusers:\n- name: admin\n  user:\n    client-certificate-data: "), "{first}");

    assert_eq!(write("https://127.0.0.1:1", now() + Duration::days(30)), first);
    let moved = write("https://127.0.0.1:2", now());
    assert_ne!(moved, first);
    assert_ne!(write("https://127.0.0.1:2", now() + Duration::days(200)), moved, "half of its life is over");
}
