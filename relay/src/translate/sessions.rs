//! A rule's `sessionPersistence` → how it keeps clients at their endpoints.

use std::sync::Arc;

use http::{HeaderName, header};
use underpass_shared::resource::http_route::{CookieLifetime, SessionPersistence, SessionType};

use super::{
    filters::{FilterError, duration},
    routes::Origin,
};
use crate::route::{
    maglev::hash,
    session::{By, Session},
};

/// Header fields that say something else already; a session in one of them would break messages, or give it away.
const TAKEN: &[HeaderName] = &[
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::HOST,
    header::LOCATION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::WWW_AUTHENTICATE,
];

/// `position` is the rule's in its route.
pub(super) fn read(
    origin: &Origin<'_>,
    position: usize,
    written: Option<&SessionPersistence>,
) -> Result<Option<Arc<Session>>, FilterError> {
    let Some(written) = written else { return Ok(None) };
    let name = match written.session_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => {
            let Origin { index, kind, namespace, route, .. } = origin;
            let rule = format!("{} {} {namespace}/{route} {position}", index.project, kind.info().name);
            format!("session-{:016x}", hash(rule.as_bytes()))
        }
    };
    // A cookie's name is a token, as a header's is (RFC 6265 §4.1.1).
    let header = HeaderName::try_from(&name).map_err(|_| FilterError::SessionName(name.clone()))?;
    let absolute = written.absolute_timeout.as_deref();
    let absolute = absolute.map(|text| duration(text).ok_or_else(|| FilterError::Duration(text.to_owned())));
    let absolute = absolute.transpose()?.filter(|limit| !limit.is_zero());
    let lifetime = written.cookie_config.as_ref().map(|config| config.lifetime_type).unwrap_or_default();
    let by = match written.kind {
        SessionType::Header if TAKEN.contains(&header) => return Err(FilterError::SessionName(name)),
        SessionType::Header => By::Header(header),
        SessionType::Cookie => {
            By::Cookie { name: name.into(), is_permanent: lifetime == CookieLifetime::Permanent && absolute.is_some() }
        }
    };
    Ok(Some(Arc::new(Session { by, absolute })))
}
