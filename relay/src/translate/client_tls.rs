//! What a ClientTrafficPolicy says of TLS → what handshakes of its listeners are held to.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rustls::{CipherSuite, NamedGroup};
use underpass_shared::resource::client_traffic_policy as written;

use super::{
    ProjectSnapshot,
    certificates::{self, Reasons},
    grants::End,
};
use crate::route::tls::{Check, Clients, Demands, ServerTls, Sessions, Versions};

/// What the handshakes of a listener are held to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asks {
    demands: Option<Arc<Demands>>,
    check: Option<Arc<Check>>,
}

impl Asks {
    /// Holds a listener to it; says whether that can be: a Gateway may say whose certificates it takes, and then the
    /// policy must not.
    pub(super) fn hold(&self, tls: &mut ServerTls) -> bool {
        match (&self.check, &tls.clients) {
            (Some(_), Clients::Valid(_) | Clients::ValidOrNot(_) | Clients::Checked(_)) => return false,
            (Some(check), Clients::Anybody) => tls.clients = Clients::Checked(check.clone()),
            (Some(_), Clients::Nobody) | (None, _) => {}
        }
        tls.demands = self.demands.clone();
        true
    }
}

/// OpenSSL's names of the ciphers that there are.
const CIPHERS: &[(&str, CipherSuite)] = &[
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The groups that there are.
const GROUPS: &[(&str, NamedGroup)] = &[
    ("X25519MLKEM768", NamedGroup::X25519MLKEM768),
    ("X25519", NamedGroup::X25519),
    ("P-256", NamedGroup::secp256r1),
    ("P-384", NamedGroup::secp384r1),
];

/// What `tls` comes to, of a policy that refers from `from`.
///
/// # Errors
/// The reason and the message of one that cannot be honoured.
pub(super) fn read(
    objects: &ProjectSnapshot,
    from: End<'_>,
    tls: &written::ClientTls,
) -> Result<Asks, (&'static str, String)> {
    let demands = demands(tls).map_err(|message| ("Invalid", message))?;
    let demands = (demands != Demands::default()).then(|| Arc::new(demands));
    let check = tls.client_validation.as_ref().map(|written| check(objects, from, written)).transpose()?;
    Ok(Asks { demands, check: check.map(Arc::new) })
}

/// What HTTP/3 could not be held to, as a field of the policy.
pub(super) fn not_over_http3(tls: &written::ClientTls) -> Option<&'static str> {
    let session = || tls.session.as_ref().is_some_and(|session| sessions(session) != Sessions::Tickets);
    [
        (tls.client_validation.is_some(), "tls.clientValidation"),
        (tls.max_version.as_deref() == Some("1.2"), "tls.maxVersion"),
        (!tls.ecdh_curves.is_empty(), "tls.ecdhCurves"),
        (session(), "tls.session"),
    ]
    .into_iter()
    .find_map(|(is_asked, field)| is_asked.then_some(field))
}

fn demands(tls: &written::ClientTls) -> Result<Demands, String> {
    let versions = match (tls.min_version.as_deref(), tls.max_version.as_deref()) {
        (Some("1.3"), _) => Versions::Tls13,
        (_, Some("1.2")) => Versions::Tls12,
        _ => Versions::Both,
    };
    // Envoy's way of saying that several are liked equally; the first is liked best here.
    let ciphers = tls.ciphers.iter().flat_map(|one| one.trim_matches(['[', ']']).split('|'));
    Ok(Demands {
        versions,
        ciphers: numbers("tls.ciphers", ciphers, CIPHERS)?,
        groups: numbers("tls.ecdhCurves", tls.ecdh_curves.iter().map(String::as_str), GROUPS)?,
        alpn: tls.alpn_protocols.as_ref().map(|all| all.iter().map(|one| one.as_str().into()).collect()),
        sessions: tls.session.as_ref().map(sessions).unwrap_or_default(),
    })
}

fn numbers<'a, T: Copy>(
    field: &str,
    names: impl Iterator<Item = &'a str>,
    known: &[(&str, T)],
) -> Result<Vec<u16>, String>
where
    u16: From<T>,
{
    let number = |name: &str| {
        let found = known.iter().find(|(known, _)| *known == name).map(|&(_, one)| u16::from(one));
        found.ok_or_else(|| {
            let served: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            format!("{field}: {name:?} is not served; these are: {}", served.join(", "))
        })
    };
    names.map(number).collect()
}

/// Who says nothing of how wants none (Envoy Gateway).
fn sessions(written: &written::TlsSession) -> Sessions {
    match written.resumption.as_ref() {
        Some(written::TlsResumption { stateless: Some(_), .. }) => Sessions::Tickets,
        Some(written::TlsResumption { stateful: Some(_), .. }) => Sessions::Remembered,
        _ => Sessions::Never,
    }
}

fn check(
    objects: &ProjectSnapshot,
    from: End<'_>,
    written: &written::ClientValidation,
) -> Result<Check, (&'static str, String)> {
    let reasons = Reasons { kind: "InvalidCACertificateKind", content: "InvalidCACertificateRef" };
    let mut authorities = Vec::new();
    for reference in &written.ca_certificate_refs {
        let found = certificates::authorities_of_either(objects, from, reference, reasons);
        authorities.extend(found.map_err(|why| (why.reason, why.message))?);
    }
    let bad = |field: &str| ("Invalid", format!("tls.clientValidation.{field} must be SHA-256 hashes"));
    let key = |text: &String| BASE64.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let keys = written.spki_hashes.iter().map(key).collect::<Option<Vec<_>>>();
    let certificates = written.certificate_hashes.iter().map(|text| hexadecimal(text)).collect::<Option<Vec<_>>>();
    let check = Check {
        optional: written.optional,
        authorities,
        keys: keys.ok_or_else(|| bad("spkiHashes"))?,
        certificates: certificates.ok_or_else(|| bad("certificateHashes"))?,
    };
    if check.authorities.is_empty() && check.keys.is_empty() && check.certificates.is_empty() {
        let message = "tls.clientValidation names neither CAs nor hashes, so that nobody could be verified";
        return Err(("Invalid", message.to_owned()));
    }
    Ok(check)
}

/// 64 digits, which may stand in pairs with colons between.
fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
    bytes.try_into().ok()
}
