//! The shapes that strings may be required to have: DNS names, hostnames, addresses, paths, qualified names.
//!
//! Every function answers with a sentence that says what is wrong and shows the text.

use std::net::IpAddr;

use super::quoted;

/// The longest DNS name in bytes (RFC 1035 §2.3.4).
pub(super) const DNS_NAME_BYTES_MAX: usize = 253;
/// The longest label of a DNS name in bytes (RFC 1035 §2.3.4).
pub(super) const DNS_LABEL_BYTES_MAX: usize = 63;

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let outer = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= DNS_LABEL_BYTES_MAX
        && bytes.first().is_some_and(outer)
        && bytes.last().is_some_and(outer)
        && bytes.iter().all(|byte| outer(byte) || *byte == b'-')
}

/// # Errors
/// When `text` is not a DNS label (RFC 1123 §2.1).
pub fn dns_label(text: &str) -> Result<(), String> {
    if is_label(text) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a DNS label: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
        quoted(text)
    ))
}

/// # Errors
/// When `text` is not a lower-case DNS name (RFC 1123 §2.1).
pub fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() <= DNS_NAME_BYTES_MAX && text.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!("`{}` is not a DNS name: lower-case letters, digits and `-`, in parts joined by `.`", quoted(text)))
}

/// # Errors
/// When `text` is not a hostname as listeners and routes name them: a DNS name, its first label may be `*`.
pub fn hostname(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("`{}` is an IP address; hostnames are DNS names", quoted(text)));
    }
    if text.contains(':') {
        return Err(format!("`{}` has a port or scheme; a hostname is a DNS name alone", quoted(text)));
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.len() <= DNS_NAME_BYTES_MAX && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!("`{}` is not a hostname: a lower-case DNS name, or `*.` and one", quoted(text)))
}

/// A name that an endpoint can be dialled by.
pub(super) fn fqdn(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("`{}` is an IP address: write it as `ip`", quoted(text)));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > DNS_NAME_BYTES_MAX || !name.split('.').all(is_label) {
        return Err(format!("`{}` is not a DNS name: a port belongs to the route's backendRef", quoted(text)));
    }
    let Some((_, last)) = name.rsplit_once('.') else {
        return Err(format!("`{0}` is not fully qualified; the agents of a node are `{0}.tun.internal`", quoted(name)));
    };
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{}` is neither an IP address nor a DNS name", quoted(text)));
    }
    Ok(())
}

pub(super) fn ip_address(text: &str) -> Result<(), String> {
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("`{}` is not an IP address", quoted(text))),
    }
}

/// A token of RFC 9110 §5.6.2.
pub(super) fn header_name(text: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(token) {
        return Ok(());
    }
    Err(format!("`{}` is not a header or parameter name", quoted(text)))
}

/// `prefix/name` or `name` (Kubernetes label and annotation keys).
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if prefix.is_some_and(|prefix| dns_subdomain(prefix).is_err()) || !is_qualified_part(name) {
        return Err(format!("`{}` is not a key: `name` or `dns.name/name`", quoted(text)));
    }
    Ok(())
}

pub(super) fn label_value(text: &str) -> Result<(), String> {
    if text.is_empty() || is_qualified_part(text) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a label value: at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit",
        quoted(text)
    ))
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= DNS_LABEL_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

pub(super) fn annotation_value(_: &str) -> Result<(), String> {
    Ok(())
}

/// `dns.name/path`, the form of `GatewayClass.spec.controllerName`.
pub(super) fn controller_name(text: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    match text.split_once('/') {
        Some((domain, path)) if dns_subdomain(domain).is_ok() && !path.is_empty() && path.bytes().all(allowed) => {
            Ok(())
        }
        _ => Err(format!("`{}` is not a controller name: `dns.name/path`", quoted(text))),
    }
}

/// A group of the API: empty for the core group.
pub(super) fn group(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { dns_subdomain(text) }
}

pub(super) fn kind_name(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    if bytes.len() <= DNS_LABEL_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    {
        return Ok(());
    }
    Err(format!("`{}` is not the name of a kind", quoted(text)))
}

/// The value of an exact or prefix path match (`HTTPPathMatch`'s rules upstream).
pub(super) fn match_path(text: &str) -> Result<(), String> {
    let problem = if !text.starts_with('/') {
        "must begin with `/`"
    } else if text.contains("//") {
        "must not contain `//`"
    } else if text.split('/').any(|segment| segment == "." || segment == "..") {
        "must not contain the segments `.` and `..`"
    } else if ["%2f", "%2F"].iter().any(|escape| text.contains(escape)) {
        "must not contain an escaped `/`"
    } else if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(&byte)) {
        "has a character that a path cannot hold (RFC 3986 §3.3); escape it as %XX"
    } else {
        return Ok(());
    };
    Err(format!("`{}` {problem}", quoted(text)))
}
