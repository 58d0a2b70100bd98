//! Requests on their way to hosts that they name themselves, and never in a circle.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use super::{answer::Failure, exchange::Sent};
use crate::route::target::{Endpoint, Upstream};

/// What this relay is called in `Via` (RFC 9110 §7.6.3), drawn when it starts.
#[derive(Debug)]
pub(super) struct Pseudonym {
    name: String,
    field: HeaderValue,
}

impl Default for Pseudonym {
    fn default() -> Self {
        let name = format!("underpass-{:016x}", rand::random::<u64>());
        let field = HeaderValue::try_from(format!("1.1 {name}")).expect("letters and digits are a field value");
        Self { name, field }
    }
}

/// The upstream for this very request. One that names its host is signed: it must not come back, or one request
/// would keep the relay busy with itself.
///
/// # Errors
/// [`Failure::Loop`]: it came back.
pub(super) fn towards(
    pseudonym: &Pseudonym,
    upstream: Arc<Upstream>,
    sent: &mut Sent,
) -> Result<Arc<Upstream>, Failure> {
    if !matches!(upstream.endpoint, Endpoint::Asked { .. }) {
        return Ok(upstream);
    }
    if has_passed(pseudonym, &sent.parts.headers) {
        return Err(Failure::Loop);
    }
    sent.parts.headers.append(header::VIA, pseudonym.field.clone());
    Ok(upstream.towards(sent.asked.authority.host()))
}

fn has_passed(pseudonym: &Pseudonym, headers: &HeaderMap) -> bool {
    let name = pseudonym.name.as_bytes();
    headers.get_all(header::VIA).iter().any(|via| via.as_bytes().windows(name.len()).any(|part| part == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_was_here_is_known_and_one_that_was_elsewhere_is_not() {
        let (here, elsewhere) = (Pseudonym::default(), Pseudonym::default());
        let via = |fields: &[&str]| {
            HeaderMap::from_iter(fields.iter().map(|field| (header::VIA, HeaderValue::try_from(*field).unwrap())))
        };
        assert!(!has_passed(&here, &HeaderMap::new()));
        let there = elsewhere.field.to_str().unwrap();
        assert!(!has_passed(&here, &via(&["1.1 vegur", there])));
        let joined = format!("2 a, {}, 1.0 b", here.field.to_str().unwrap());
        assert!(has_passed(&here, &via(&[there, &joined])));
    }
}
