//! Certificates, keys and CAs from Secrets and ConfigMaps, as references name them.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use underpass_shared::resource::{
    gateway::ObjectReference,
    metadata::Metadata,
    secret::{ConfigMap, Secret, TLS_SECRET},
};

use super::{
    Place, ProjectSnapshot,
    backends::Unresolved,
    grants::{self, End},
};
use crate::route::tls::{CertificateBytes, Certified, KeyForm};

/// The most certificates of one chain or bundle; a Secret of the API's size holds about a thousand.
const CERTIFICATES_MAX: usize = 1_000;

/// The reasons that a condition gives, which differ by who refers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reasons {
    /// The reference is of a kind that is not supported.
    pub kind: &'static str,
    /// It leads nowhere, or to what is not a certificate.
    pub content: &'static str,
}

/// The certificate and key that `reference` names: a Secret of type `kubernetes.io/tls`.
///
/// # Errors
/// The reason, in upstream's order: kind, permission, existence, content.
pub(super) fn certified(
    objects: &ProjectSnapshot,
    from: End<'_>,
    reference: &ObjectReference,
    reasons: Reasons,
) -> Result<Arc<Certified>, Unresolved> {
    let secret = find(objects, from, reference, ("Secret", reasons), |objects| &objects.secrets)?;
    let place = Place::of(&secret.metadata);
    let read = read_certified(secret);
    read.map(Arc::new).map_err(|why| Unresolved { reason: reasons.content, message: format!("Secret {place}: {why}") })
}

/// The CAs that `reference` names: a ConfigMap with `ca.crt`.
///
/// # Errors
/// As [`certified`].
pub(super) fn authorities(
    objects: &ProjectSnapshot,
    from: End<'_>,
    reference: &ObjectReference,
    reasons: Reasons,
) -> Result<Vec<CertificateBytes>, Unresolved> {
    let map = find(objects, from, reference, ("ConfigMap", reasons), |objects| &objects.config_maps)?;
    let place = Place::of(&map.metadata);
    let read = read_authorities(map);
    read.map_err(|why| Unresolved { reason: reasons.content, message: format!("ConfigMap {place}: {why}") })
}

/// The same of a Secret, where that is what `reference` names, or names no kind.
///
/// # Errors
/// As [`certified`].
pub(super) fn authorities_of_either(
    objects: &ProjectSnapshot,
    from: End<'_>,
    reference: &ObjectReference,
    reasons: Reasons,
) -> Result<Vec<CertificateBytes>, Unresolved> {
    if reference.kind.as_deref() == Some("ConfigMap") {
        return authorities(objects, from, reference, reasons);
    }
    let secret = find(objects, from, reference, ("Secret", reasons), |objects| &objects.secrets)?;
    let place = Place::of(&secret.metadata);
    let text = secret.data.get("ca.crt").ok_or(ContentError::Missing("ca.crt"));
    let pem = text.and_then(|text| BASE64_STANDARD.decode(text).map_err(|_| ContentError::NotBase64("ca.crt")));
    let read = pem.and_then(|pem| trusted(&pem));
    read.map_err(|why| Unresolved { reason: reasons.content, message: format!("Secret {place}: {why}") })
}

fn find<'a, T: Named>(
    objects: &'a ProjectSnapshot,
    from: End<'_>,
    reference: &ObjectReference,
    (kind, reasons): (&str, Reasons),
    list: impl Fn(&'a ProjectSnapshot) -> &'a [T],
) -> Result<&'a T, Unresolved> {
    let ObjectReference { group, kind: asked, name, namespace } = reference;
    let place = Place { namespace: namespace.as_deref().unwrap_or(from.namespace), name };
    if asked.as_deref().unwrap_or(kind) != kind || !group.as_deref().unwrap_or_default().is_empty() {
        let message = format!("{place} must be a {kind} of the core group");
        return Err(Unresolved { reason: reasons.kind, message });
    }
    let to = End { group: "", kind, namespace: place.namespace };
    if !grants::permits(&objects.grants, from, to, name) {
        let message =
            format!("{place} is in another namespace, where no ReferenceGrant lets a {} refer to it", from.kind);
        return Err(Unresolved { reason: "RefNotPermitted", message });
    }
    let found = list(objects).iter().find(|one| Place::of(one.metadata()) == place);
    found.ok_or_else(|| Unresolved { reason: reasons.content, message: format!("{kind} {place} does not exist") })
}

trait Named {
    fn metadata(&self) -> &Metadata;
}

impl Named for Secret {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Named for ConfigMap {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Why what was referred to cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ContentError {
    #[error("its type is {0:?}, not {TLS_SECRET}")]
    Type(String),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("{0} is not base64")]
    NotBase64(&'static str),
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(&'static str),
    #[error("{0} holds more than {CERTIFICATES_MAX} certificates")]
    TooMany(&'static str),
    #[error("tls.key holds no private key in PEM")]
    NoKey,
    #[error("tls.key cannot be used: {0}")]
    BadKey(String),
    #[error("tls.key does not belong to the first certificate of tls.crt, or that cannot be read: {0}")]
    Mismatch(String),
    #[error("{0} holds a certificate that cannot be trusted as a CA: {1}")]
    NotAnAuthority(&'static str, String),
}

fn read_certified(secret: &Secret) -> Result<Certified, ContentError> {
    if secret.kind != TLS_SECRET {
        return Err(ContentError::Type(secret.kind.clone()));
    }
    let data = |name: &'static str| {
        let text = secret.data.get(name).ok_or(ContentError::Missing(name))?;
        BASE64_STANDARD.decode(text).map_err(|_| ContentError::NotBase64(name))
    };
    let (chain, key) = (data("tls.crt")?, data("tls.key")?);
    let chain = certificates("tls.crt", &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| ContentError::NoKey)?;
    let form = match &key {
        PrivateKeyDer::Pkcs1(_) => KeyForm::Pkcs1,
        PrivateKeyDer::Sec1(_) => KeyForm::Sec1,
        _ => KeyForm::Pkcs8,
    };
    let signing = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| ContentError::BadKey(error.to_string()))?;
    let bytes = chain.iter().map(|der| CertificateBytes::from(der.as_ref())).collect();
    let whole = CertifiedKey::new(chain, signing);
    whole.keys_match().map_err(|error| ContentError::Mismatch(error.to_string()))?;
    Ok(Certified { chain: bytes, key: key.secret_der().into(), form })
}

fn read_authorities(map: &ConfigMap) -> Result<Vec<CertificateBytes>, ContentError> {
    let text = map.data.get("ca.crt").ok_or(ContentError::Missing("ca.crt"))?;
    trusted(text.as_bytes())
}

fn trusted(pem: &[u8]) -> Result<Vec<CertificateBytes>, ContentError> {
    let all = certificates("ca.crt", pem)?;
    let mut roots = rustls::RootCertStore::empty();
    for one in &all {
        roots.add(one.clone()).map_err(|error| ContentError::NotAnAuthority("ca.crt", error.to_string()))?;
    }
    Ok(all.iter().map(|der| CertificateBytes::from(der.as_ref())).collect())
}

fn certificates(name: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ContentError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX + 1).collect();
    let all = read.map_err(|_| ContentError::NoCertificate(name))?;
    match all.len() {
        0 => Err(ContentError::NoCertificate(name)),
        count if count > CERTIFICATES_MAX => Err(ContentError::TooMany(name)),
        _ => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const REASONS: Reasons = Reasons { kind: "InvalidKind", content: "InvalidCertificateRef" };

    fn pair() -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["a.example".into()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    fn secret(kind: &str, data: &[(&str, &str)]) -> Secret {
        let data = data.iter().map(|(name, text)| ((*name).to_owned(), BASE64_STANDARD.encode(text)));
        let metadata = Metadata { name: "s".into(), namespace: Some("n".into()), ..Metadata::default() };
        Secret { metadata, kind: kind.into(), data: data.collect() }
    }

    #[test]
    fn a_secret_is_read_only_when_its_key_belongs_to_its_certificate() {
        let ((cert, key), (_, other)) = (pair(), pair());
        let read = |kind: &str, data: &[(&str, &str)]| read_certified(&secret(kind, data));
        let good = read(TLS_SECRET, &[("tls.crt", &cert), ("tls.key", &key)]).unwrap();
        assert_eq!((good.chain.len(), good.form), (1, KeyForm::Pkcs8));
        assert!(matches!(read("Opaque", &[]), Err(ContentError::Type(_))));
        assert_eq!(read(TLS_SECRET, &[("tls.crt", &cert)]), Err(ContentError::Missing("tls.key")));
        let wrong = read(TLS_SECRET, &[("tls.crt", &cert), ("tls.key", &other)]);
        assert!(matches!(wrong, Err(ContentError::Mismatch(_))));
        assert_eq!(
            read(TLS_SECRET, &[("tls.crt", "Hello"), ("tls.key", &key)]),
            Err(ContentError::NoCertificate("tls.crt"))
        );
        assert_eq!(read(TLS_SECRET, &[("tls.crt", &cert), ("tls.key", "Hello")]), Err(ContentError::NoKey));
        let damaged = secret(TLS_SECRET, &[("tls.crt", &cert), ("tls.key", &key)]);
        let damaged = Secret { data: damaged.data.into_keys().map(|name| (name, "*".into())).collect(), ..damaged };
        assert_eq!(read_certified(&damaged), Err(ContentError::NotBase64("tls.crt")));
    }

    #[test]
    fn a_config_map_is_read_only_when_all_of_it_are_certificates() {
        let read = |text: &str| {
            let data = BTreeMap::from([("ca.crt".to_owned(), text.to_owned())]);
            read_authorities(&ConfigMap { data, ..ConfigMap::default() })
        };
        let (one, two) = (pair().0, pair().0);
        assert_eq!(read(&format!("{one}{two}")).map(|all| all.len()), Ok(2));
        assert_eq!(read(""), Err(ContentError::NoCertificate("ca.crt")));
        assert_eq!(read(&one.replace('\n', "\n*")), Err(ContentError::NoCertificate("ca.crt")));
        assert_eq!(read_authorities(&ConfigMap::default()), Err(ContentError::Missing("ca.crt")));
    }

    #[test]
    fn reasons_come_in_the_order_of_kind_permission_existence_and_content() {
        let objects = ProjectSnapshot { secrets: vec![secret("Opaque", &[])], ..ProjectSnapshot::default() };
        let reason = |reference: ObjectReference| {
            let from = End { group: "gateway.networking.k8s.io", kind: "Gateway", namespace: "n" };
            certified(&objects, from, &reference, REASONS).unwrap_err().reason
        };
        let to = |name: &str| ObjectReference { name: name.into(), ..ObjectReference::default() };
        let elsewhere = ObjectReference { namespace: Some("m".into()), ..to("s") };
        assert_eq!(reason(ObjectReference { kind: Some("Pod".into()), ..elsewhere.clone() }), "InvalidKind");
        assert_eq!(reason(ObjectReference { group: Some("x".into()), ..to("s") }), "InvalidKind");
        assert_eq!(reason(elsewhere), "RefNotPermitted");
        assert_eq!(reason(to("absent")), "InvalidCertificateRef");
        assert_eq!(reason(to("s")), "InvalidCertificateRef");
    }
}
