//! TLS towards the relay: whom to trust, who we are, and what went wrong in words that help.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::cli::kubeconfig::Kubeconfig;

pub(super) fn tls_config(config: &Kubeconfig) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&config.ca) {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| format!("`certificate-authority-data` is not a PEM certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("`certificate-authority-data` holds no PEM certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut tls = match &config.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = CertificateDer::pem_slice_iter(&client.certificate)
                .collect::<Result<Vec<_>, _>>()
                .ok()
                .filter(|chain| !chain.is_empty())
                .ok_or("`client-certificate-data` is not a PEM certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&client.key)
                .map_err(|_| "`client-key-data` is not a PEM private key".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the client's certificate and key cannot be used together: {error}"))?
        }
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

/// The rustls error somewhere below `error`, which `io::Error` hides from `source`.
pub(super) fn tls_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<rustls::Error>() {
            return Some(cause);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

pub(super) fn explain_tls(error: &rustls::Error) -> String {
    use rustls::{AlertDescription as Alert, Error};
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the relay's certificate is not of the CA in this kubeconfig: the kubeconfig belongs to another relay, or the \
             relay's data directory was made anew; copy its admin.kubeconfig again"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the relay's certificate has expired: compare the clocks of both machines, then restart the relay".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the relay's certificate is not valid yet: compare the clocks of both machines".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let names = presented.join(", ");
            format!(
                "the relay's certificate is not for {}, but for {names}: use one of these names in `server`, or set \
                 `tls-server-name`",
                expected.to_str()
            )
        }
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::AccessDenied
            | Alert::DecryptError),
        ) => format!(
            "the relay does not accept this kubeconfig's client certificate ({alert:?}): it is of another relay, expired \
             or revoked; copy admin.kubeconfig from the relay's data directory again"
        ),
        Error::InvalidMessage(_) => "it does not speak TLS: is this the relay's API port?".to_owned(),
        other => other.to_string(),
    }
}

/// The operating system's words without its error number.
pub(super) fn reason_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}
