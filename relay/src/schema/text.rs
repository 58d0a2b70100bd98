//! The forms that texts may be required to have: names, formats, and what to say of one that does not fit.
//!
//! Every check answers with a sentence that says what is wrong and shows the text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{node::Format, problem::quoted};

/// The longest DNS name in bytes (RFC 1035 §2.3.4).
const DNS_NAME_BYTES_MAX: usize = 253;
/// The longest label of a DNS name in bytes (RFC 1035 §2.3.4).
const DNS_LABEL_BYTES_MAX: usize = 63;

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
/// When `text` is not a DNS label that begins with a letter (RFC 1035 §2.3.1), as names of Services are.
pub(super) fn dns_label_of_letters(text: &str) -> Result<(), String> {
    if is_label(text) && text.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(format!(
        "`{}` is not a Service's name: at most 63 lower-case letters, digits and `-`, beginning with a letter and ending with a letter or digit",
        quoted(text)
    ))
}

/// # Errors
/// When `text` is not a lower-case DNS name (RFC 1123 §2.1).
pub fn dns_subdomain(text: &str) -> Result<(), String> {
    // As Kubernetes has it, a part may be longer than a label of the DNS.
    let outer = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(outer)
            && bytes.last().is_some_and(outer)
            && bytes.iter().all(|byte| outer(byte) || *byte == b'-')
    };
    if text.len() <= DNS_NAME_BYTES_MAX && text.split('.').all(is_part) {
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

/// A name that can stand in the path of a URL.
pub(super) fn path_segment(text: &str) -> Result<(), String> {
    if [".", ".."].contains(&text) || text.contains(['/', '%']) {
        return Err(format!("`{}` is not a name: it must not be `.` or `..`, nor hold `/` or `%`", quoted(text)));
    }
    Ok(())
}

/// `prefix/name` or `name` (Kubernetes label and annotation keys, finalizers).
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

/// Whether `text` has the form that `format` names.
pub(super) fn format(format: Format, text: &str) -> Result<(), String> {
    let (fits, form) = match format {
        Format::DateTime => {
            (OffsetDateTime::parse(text, &Rfc3339).is_ok(), "a time such as 2006-01-02T15:04:05Z (RFC 3339)")
        }
        Format::Duration => (is_duration(text), "a length of time such as 1h30m or 250ms"),
        Format::Byte => (base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "base64 (RFC 4648 §4)"),
        Format::Ip => (text.parse::<IpAddr>().is_ok(), "an IP address"),
        Format::Ipv4 => (text.parse::<Ipv4Addr>().is_ok(), "an IPv4 address"),
        Format::Ipv6 => (text.parse::<Ipv6Addr>().is_ok(), "an IPv6 address"),
        Format::Cidr => (text.parse::<ipnet::IpNet>().is_ok(), "a block of addresses such as 10.0.0.0/8"),
        Format::Hostname => return hostname(text),
        Format::Uri => (is_uri(text), "a URI with a scheme, such as https://example.com/"),
        Format::Int32 | Format::Int64 => (true, ""),
    };
    if fits { Ok(()) } else { Err(format!("`{}` is not {form}", quoted(text))) }
}

/// As Go's `time.ParseDuration` reads them: numbers with units, one after another, such as `-1.5h`.
fn is_duration(text: &str) -> bool {
    /// No sensible length of time is longer.
    const BYTES_MAX: usize = 64;
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() || rest.len() > BYTES_MAX {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let numeric = digits.bytes().any(|byte| byte.is_ascii_digit()) && digits.matches('.').count() <= 1;
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].into_iter().find_map(|unit| after.strip_prefix(unit));
        match unit {
            Some(after) if numeric => rest = after,
            _ => return false,
        }
    }
    true
}

/// A scheme, `:` and characters that a URI may hold (RFC 3986 §3).
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let in_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && scheme.bytes().all(in_scheme)
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Patterns of the definitions that people meet most, and what they mean.
const MEANINGS: &[(&str, &str)] = &[
    (SUBDOMAIN, "a DNS name: lower-case letters, digits and `-`, in parts joined by `.`"),
    (
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        "a DNS label: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
    ),
    (
        r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "a group of the API: empty, or a lower-case DNS name",
    ),
    (r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", "the name of a kind"),
    (
        r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        "a hostname: a lower-case DNS name, or `*.` and one",
    ),
    (r"^([0-9]{1,5}(h|m|s|ms)){1,4}$", "a length of time such as 10s or 1m30s, in h, m, s and ms"),
    (
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$",
        "a controller name: `dns.name/path`",
    ),
    (r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$", "a header or parameter name"),
];

/// What to say of `text`, which does not match `pattern`.
pub(super) fn mismatch(pattern: &str, text: &str) -> String {
    match MEANINGS.iter().find(|(known, _)| *known == pattern) {
        Some((_, meaning)) if meaning.starts_with("a hostname") => match hostname(text) {
            Err(message) => message,
            Ok(()) => format!("`{}` is not {meaning}", quoted(text)),
        },
        Some((_, meaning)) => format!("`{}` is not {meaning}", quoted(text)),
        None => format!("`{}` does not match `{pattern}`", quoted(text)),
    }
}
