//! `admin.kubeconfig` and `ca.crt` in the data directory: what a person takes away to use the API.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ADMIN_LIFE, Authority, Certified};
use crate::store::{seal::write_private, state::timestamp};

/// The kubeconfig's file name in the data directory.
pub const KUBECONFIG_FILE: &str = "admin.kubeconfig";
/// The CA certificate's file name in the data directory.
pub const CA_FILE: &str = "ca.crt";

const EXPIRES: &str = "# expires ";
const SERVER: &str = "    server: ";
const CA_DATA: &str = "    certificate-authority-data: ";

/// Why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("the admin's certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    #[error("{} could not be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes both files into `directory`, private and whole. A kubeconfig that still fits (same `url`, same CA, more than
/// half of its life ahead) is left as it is, so that copies of it stay good.
///
/// `url` is where the API is reached, as `https://127.0.0.1:6443`. Blocks on the disk.
///
/// # Errors
/// See [`KubeconfigError`].
pub fn write(
    directory: &Path,
    url: &str,
    authority: &Authority,
    now: OffsetDateTime,
) -> Result<PathBuf, KubeconfigError> {
    let put = |name: &str, content: &str| {
        let path = directory.join(name);
        write_private(&path, content.as_bytes()).map_err(|source| KubeconfigError::Write { path, source })
    };
    put(CA_FILE, authority.ca_pem())?;
    let path = directory.join(KUBECONFIG_FILE);
    let fits = fs::read_to_string(&path).is_ok_and(|text| still_fits(&text, url, authority, now));
    if !fits {
        put(KUBECONFIG_FILE, &text(url, authority, &authority.admin_certificate(now)?))?;
    }
    Ok(path)
}

fn text(url: &str, authority: &Authority, admin: &Certified) -> String {
    let expires = timestamp(admin.not_after);
    let ca = STANDARD.encode(authority.ca_pem());
    let certificate = STANDARD.encode(&admin.certificate_pem);
    let key = STANDARD.encode(&admin.key_pem);
    format!(
        "# Full access to this deployment's API. Keep it private.\n\
         {EXPIRES}{expires}; the relay writes a new one when it starts in the second half of its life\n\
         apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: underpass\n  \
           cluster:\n\
         {SERVER}{url}\n\
         {CA_DATA}{ca}\n\
         users:\n\
         - name: admin\n  \
           user:\n    \
             client-certificate-data: {certificate}\n    \
             client-key-data: {key}\n\
         contexts:\n\
         - name: underpass\n  \
           context:\n    \
             cluster: underpass\n    \
             user: admin\n\
         current-context: underpass\n"
    )
}

fn still_fits(text: &str, url: &str, authority: &Authority, now: OffsetDateTime) -> bool {
    let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    let expires = line(EXPIRES).and_then(|rest| rest.split(';').next());
    let expires = expires.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
    line(SERVER) == Some(url)
        && line(CA_DATA) == Some(STANDARD.encode(authority.ca_pem()).as_str())
        && expires.is_some_and(|expires| expires - now > ADMIN_LIFE / 2)
}
