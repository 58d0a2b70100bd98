//! Hostnames as listeners and routes write them, and maps keyed by them with the most specific entry first.
//!
//! Does not know requests: `proxy` hands in hosts already in lower case, without port or trailing dot.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

/// The longest hostname in bytes (RFC 1035 §3.1, as text).
pub const HOST_BYTES_MAX: usize = 253;

/// A hostname of a listener or route: any, a wildcard, or one name. All text is in lower case.
///
/// The order is the order in which patterns are tried: one name, then wildcards by falling length, then any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Arc<str>),
    /// `*.suffix`: one or more labels before the suffix. The suffix is kept without `*.`.
    Wildcard(Arc<str>),
    Any,
}

/// Why a text is no hostname pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("a hostname must not be empty")]
    Empty,
    #[error("`{0}` is longer than {HOST_BYTES_MAX} characters")]
    TooLong(String),
    #[error("`{0}` is an address: a hostname is needed")]
    Address(String),
    #[error("`{0}` is not a hostname: labels of letters, digits and `-`, with `*.` only in front")]
    NotAHostname(String),
}

impl HostPattern {
    /// Reads `name`, `*.suffix`, or the empty text, which means any.
    ///
    /// # Errors
    /// When `text` is neither a hostname (RFC 1123 §2.1) nor a wildcard over one.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => parse_name(suffix).map(Self::Wildcard),
            None => parse_name(text).map(Self::Exact),
        }
    }

    /// Whether `host` (lower case) is one of the pattern's names.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            Self::Any => true,
        }
    }

    /// The names that both patterns cover, as one pattern, or `None` when there is none.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let narrower = match (self, other) {
            (Self::Any, narrow) | (narrow, Self::Any) => narrow,
            (Self::Exact(name), wide) if wide.covers(name) => self,
            (wide, Self::Exact(name)) if wide.covers(name) => other,
            (Self::Wildcard(a), Self::Wildcard(b)) if a == b || other.covers(a) => self,
            (Self::Wildcard(_), Self::Wildcard(b)) if self.covers(b) => other,
            _ => return None,
        };
        Some(narrower.clone())
    }

    fn precedence(&self) -> (u8, std::cmp::Reverse<usize>, &str) {
        match self {
            Self::Exact(name) => (0, std::cmp::Reverse(0), name),
            Self::Wildcard(suffix) => (1, std::cmp::Reverse(suffix.len()), suffix),
            Self::Any => (2, std::cmp::Reverse(0), ""),
        }
    }
}

impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.precedence().cmp(&other.precedence())
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A hostname in lower case without trailing dot (RFC 1123 §2.1; `_` is tolerated, as DNS does).
///
/// # Errors
/// See [`HostError`]; an IP address in text form is no hostname.
pub fn parse_name(text: &str) -> Result<Arc<str>, HostError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(HostError::TooLong(text.to_owned()));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Err(HostError::Address(text.to_owned()));
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if !name.split('.').all(label) {
        return Err(HostError::NotAHostname(text.to_owned()));
    }
    Ok(name.to_ascii_lowercase().into())
}

/// Values by hostname pattern, looked up from the most specific pattern to the least.
#[derive(Debug, Clone)]
pub struct HostMap<T> {
    exact: HashMap<Arc<str>, T>,
    wildcard: HashMap<Arc<str>, T>,
    any: Option<T>,
}

impl<T> Default for HostMap<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<T> HostMap<T> {
    /// The values whose patterns cover `host`: exact, wildcards with the longest suffix first, any.
    ///
    /// One look-up per label of `host`; allocates nothing.
    pub fn covering<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a T> {
        let suffixes = host.match_indices('.').map(|(at, _)| &host[at + 1..]);
        self.exact.get(host).into_iter().chain(suffixes.filter_map(|suffix| self.wildcard.get(suffix))).chain(&self.any)
    }

    /// The value of this very pattern.
    #[must_use]
    pub fn get(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard(suffix) => self.wildcard.get(suffix),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// Gives back the value that the pattern had.
    pub fn insert(&mut self, pattern: HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, value),
            HostPattern::Wildcard(suffix) => self.wildcard.insert(suffix, value),
            HostPattern::Any => self.any.replace(value),
        }
    }

    /// Gives back the value that the pattern had.
    pub fn remove(&mut self, pattern: &HostPattern) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.remove(name),
            HostPattern::Wildcard(suffix) => self.wildcard.remove(suffix),
            HostPattern::Any => self.any.take(),
        }
    }
}

impl<T> FromIterator<(HostPattern, T)> for HostMap<T> {
    fn from_iter<I: IntoIterator<Item = (HostPattern, T)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (pattern, value) in entries {
            map.insert(pattern, value);
        }
        map
    }
}

impl<T> From<BTreeMap<HostPattern, T>> for HostMap<T> {
    fn from(map: BTreeMap<HostPattern, T>) -> Self {
        map.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn wildcards_cover_one_or_more_labels_but_never_the_suffix_itself() {
        let wildcard = pattern("*.example.com");
        assert!(wildcard.covers("a.example.com"));
        assert!(wildcard.covers("a.b.example.com"));
        assert!(!wildcard.covers("example.com"));
        assert!(!wildcard.covers(".example.com"));
        assert!(!wildcard.covers("badexample.com"));
    }

    #[test]
    fn intersection_is_the_narrower_pattern() {
        let check = |a: &str, b: &str, want: Option<&str>| {
            let want = want.map(pattern);
            assert_eq!(pattern(a).intersect(&pattern(b)), want, "{a} with {b}");
            assert_eq!(pattern(b).intersect(&pattern(a)), want, "{b} with {a}");
        };
        check("", "", Some(""));
        check("", "a.com", Some("a.com"));
        check("", "*.a.com", Some("*.a.com"));
        check("a.com", "a.com", Some("a.com"));
        check("a.com", "b.com", None);
        check("*.a.com", "x.a.com", Some("x.a.com"));
        check("*.a.com", "a.com", None);
        check("*.a.com", "*.x.a.com", Some("*.x.a.com"));
        check("*.a.com", "*.a.com", Some("*.a.com"));
        check("*.a.com", "*.b.com", None);
        check("*.example.com", "very.specific.com", None);
    }

    #[test]
    fn hostnames_are_read_without_case_and_trailing_dot() {
        assert_eq!(pattern("A.Example.COM."), HostPattern::Exact("a.example.com".into()));
        assert_eq!(pattern("*.Example.COM").to_string(), "*.example.com");
    }

    #[test]
    fn what_is_no_hostname_is_refused() {
        for bad in ["*", "*.", "a..b", "-a.com", "a-.com", "a b", "a.*.com", "*a.com", "a/b", "ä.com"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(HostPattern::parse("192.0.2.1"), Err(HostError::Address("192.0.2.1".into())));
        assert_eq!(HostPattern::parse(&"a.".repeat(127)).map(|pattern| pattern.to_string().len()), Ok(253));
        assert!(matches!(HostPattern::parse(&"a.".repeat(128)), Err(HostError::TooLong(_))));
    }

    #[test]
    fn the_most_specific_entry_comes_first() {
        let map: HostMap<u8> = [("", 4), ("*.com", 3), ("*.a.com", 2), ("x.a.com", 1)]
            .into_iter()
            .map(|(text, value)| (pattern(text), value))
            .collect();
        assert_eq!(map.covering("x.a.com").copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(map.covering("a.com").copied().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(map.covering("localhost").copied().collect::<Vec<_>>(), [4]);
    }
}
