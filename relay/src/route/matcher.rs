//! One match of a rule: path, method, headers and query parameters, all of which must fit (Gateway API, `HTTPRouteMatch`).
//!
//! Regular expressions are those of the `regex` crate (linear time), bounded in size, and must match the whole text.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderName, Method};
use regex::{Regex, RegexBuilder};

use super::{rank::PathKind, table::ListenAddress};

/// The memory one compiled expression may take, in bytes: enough for long alternations, too little to hurt.
const EXPRESSION_BYTES_MAX: usize = 256 * 1024;

/// What the engine sees of a request. `proxy` has checked and normalised every part.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// Where it came in.
    pub at: ListenAddress,
    /// Lower case, without port or trailing dot.
    pub host: &'a str,
    pub method: &'a Method,
    /// Normalised, beginning with `/`, without query.
    pub path: &'a str,
    /// As the client wrote it, without `?`.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

/// Why a match cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error("regular expression `{expression}` is not valid: {reason}")]
    Expression { expression: String, reason: String },
    #[error("path `{0}` must begin with `/`")]
    Path(String),
    #[error("`{0}` is not a header name")]
    HeaderName(String),
    #[error("`{0}` is not a method")]
    Method(String),
}

/// How a request's path must look.
#[derive(Debug, Clone)]
pub enum PathMatcher {
    Exact(Arc<str>),
    /// Whole segments; kept without trailing slash, so that `/` is the empty text.
    Prefix(Arc<str>),
    RegularExpression(Regex),
    /// A method of whatever gRPC service: the second of two segments.
    Method(Arc<str>),
}

/// How a header's or query parameter's value must look.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    Exact(Box<str>),
    RegularExpression(Regex),
}

/// One match of a rule.
#[derive(Debug, Clone)]
pub struct Matcher {
    path: PathMatcher,
    method: Option<Method>,
    headers: Vec<(HeaderName, ValueMatcher)>,
    query_params: Vec<(Box<str>, ValueMatcher)>,
}

impl PathMatcher {
    /// # Errors
    /// [`MatchError::Path`] unless `path` begins with `/`.
    pub fn exact(path: &str) -> Result<Self, MatchError> {
        absolute(path).map(|path| Self::Exact(path.into()))
    }

    /// `/v2` and `/v2/` are the same prefix.
    ///
    /// # Errors
    /// [`MatchError::Path`] unless `path` begins with `/`.
    pub fn prefix(path: &str) -> Result<Self, MatchError> {
        absolute(path).map(|path| Self::Prefix(path.trim_end_matches('/').into()))
    }

    /// # Errors
    /// [`MatchError::Expression`] when it does not compile or is too large.
    pub fn regular_expression(expression: &str) -> Result<Self, MatchError> {
        compile(expression).map(Self::RegularExpression)
    }

    /// `method` of any gRPC service.
    #[must_use]
    pub fn method(method: &str) -> Self {
        Self::Method(method.into())
    }

    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::RegularExpression(expression) => expression.is_match(path),
            Self::Method(method) => {
                let segments = path.strip_prefix('/').and_then(|path| path.split_once('/'));
                segments.is_some_and(|(service, rest)| !service.is_empty() && *rest == **method)
            }
        }
    }

    fn kind(&self) -> PathKind {
        match self {
            Self::Exact(_) => PathKind::Exact,
            Self::RegularExpression(_) => PathKind::RegularExpression,
            Self::Prefix(_) | Self::Method(_) => PathKind::Prefix,
        }
    }

    fn characters(&self) -> usize {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path.chars().count(),
            Self::RegularExpression(expression) => expression.as_str().chars().count(),
            Self::Method(_) => 0,
        }
    }
}

fn absolute(path: &str) -> Result<&str, MatchError> {
    if path.starts_with('/') { Ok(path) } else { Err(MatchError::Path(path.to_owned())) }
}

/// Compiles `expression` so that it must match the whole text.
fn compile(expression: &str) -> Result<Regex, MatchError> {
    let build = |text: &str| {
        RegexBuilder::new(text).size_limit(EXPRESSION_BYTES_MAX).dfa_size_limit(EXPRESSION_BYTES_MAX).build().map_err(
            |error| MatchError::Expression { expression: expression.to_owned(), reason: last_line(&error.to_string()) },
        )
    };
    build(expression)?;
    build(&format!(r"\A(?:{expression})\z"))
}

/// The parser's drawing of the expression spans lines; the last one says what is wrong.
fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ").to_owned()
}

impl ValueMatcher {
    /// # Errors
    /// [`MatchError::Expression`] when it does not compile or is too large.
    pub fn regular_expression(expression: &str) -> Result<Self, MatchError> {
        compile(expression).map(Self::RegularExpression)
    }

    /// The value that is exactly `text`.
    #[must_use]
    pub fn exact(text: &str) -> Self {
        Self::Exact(text.into())
    }

    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::RegularExpression(expression) => {
                std::str::from_utf8(value).is_ok_and(|text| expression.is_match(text))
            }
        }
    }
}

impl Matcher {
    /// A match of `path` alone.
    #[must_use]
    pub fn new(path: PathMatcher) -> Self {
        Self { path, method: None, headers: Vec::new(), query_params: Vec::new() }
    }

    /// # Errors
    /// [`MatchError::Method`] when `method` is no token.
    pub fn method(mut self, method: &str) -> Result<Self, MatchError> {
        self.method = Some(method.parse().map_err(|_| MatchError::Method(method.to_owned()))?);
        Ok(self)
    }

    /// Asks for a header; of several entries for one name only the first counts.
    ///
    /// # Errors
    /// [`MatchError::HeaderName`] when `name` is no header name.
    pub fn header(mut self, name: &str, value: ValueMatcher) -> Result<Self, MatchError> {
        let name: HeaderName = name.parse().map_err(|_| MatchError::HeaderName(name.to_owned()))?;
        if self.headers.iter().all(|(known, _)| *known != name) {
            self.headers.push((name, value));
        }
        Ok(self)
    }

    /// Asks for a query parameter; of several entries for one name only the first counts.
    #[must_use]
    pub fn query_param(mut self, name: &str, value: ValueMatcher) -> Self {
        if self.query_params.iter().all(|(known, _)| **known != *name) {
            self.query_params.push((name.into(), value));
        }
        self
    }

    /// Whether `head` fits in every respect. Allocates only for encoded or repeated values.
    #[must_use]
    pub fn fits(&self, head: &Head<'_>) -> bool {
        self.path.fits(head.path)
            && self.method.as_ref().is_none_or(|method| method == head.method)
            && self.headers.iter().all(|(name, value)| header_fits(head.headers, name, value))
            && self.query_params.iter().all(|(name, value)| query_param_fits(head.query, name, value))
    }

    pub(super) fn path(&self) -> &PathMatcher {
        &self.path
    }

    pub(super) fn path_kind(&self) -> PathKind {
        self.path.kind()
    }

    pub(super) fn path_characters(&self) -> usize {
        self.path.characters()
    }

    pub(super) fn has_method(&self) -> bool {
        self.method.is_some() || matches!(self.path, PathMatcher::Method(_))
    }

    pub(super) fn header_count(&self) -> usize {
        self.headers.len()
    }

    pub(super) fn query_param_count(&self) -> usize {
        self.query_params.len()
    }
}

/// A header that comes several times has the values joined by commas (RFC 9110 §5.3).
fn header_fits(headers: &HeaderMap, name: &HeaderName, wanted: &ValueMatcher) -> bool {
    let mut values = headers.get_all(name).iter();
    let (Some(first), second) = (values.next(), values.next()) else { return false };
    if second.is_none() {
        return wanted.fits(first.as_bytes());
    }
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    wanted.fits(&all.join(&b","[..]))
}

/// The first occurrence decides; names and values are compared after percent-decoding.
fn query_param_fits(query: Option<&str>, name: &str, wanted: &ValueMatcher) -> bool {
    let pairs = query.unwrap_or_default().split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(key, _)| decode(key) == name.as_bytes());
    found.is_some_and(|(_, value)| wanted.fits(&decode(value)))
}

/// Undoes `application/x-www-form-urlencoded`; what is not well encoded stays as it is.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', tail),
            },
            _ => (*first, tail),
        };
        decoded.push(byte);
        rest = tail;
    }
    Cow::Owned(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(matcher: &Matcher, target: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        matcher.fits(&Head {
            at: ListenAddress::shared(80),
            host: "a.com",
            method: &Method::GET,
            path,
            query,
            headers: &map,
        })
    }

    fn any_path() -> Matcher {
        Matcher::new(PathMatcher::prefix("/").unwrap())
    }

    #[test]
    fn prefixes_match_whole_segments() {
        for prefix in ["/v2", "/v2/"] {
            let matcher = Matcher::new(PathMatcher::prefix(prefix).unwrap());
            for path in ["/v2", "/v2/", "/v2/x"] {
                assert!(fits(&matcher, path, &[]), "{prefix} {path}");
            }
            for path in ["/v2example", "/", "/V2", "/x/v2"] {
                assert!(!fits(&matcher, path, &[]), "{prefix} {path}");
            }
        }
        assert!(fits(&any_path(), "/", &[]) && fits(&any_path(), "/x", &[]));
    }

    #[test]
    fn exact_paths_are_literal() {
        let matcher = Matcher::new(PathMatcher::exact("/one").unwrap());
        assert!(fits(&matcher, "/one", &[]));
        for path in ["/one/", "/One", "/one/two", "/"] {
            assert!(!fits(&matcher, path, &[]), "{path}");
        }
    }

    #[test]
    fn expressions_match_the_whole_path() {
        let matcher = Matcher::new(PathMatcher::regular_expression("/tasks/[0-9]+|/t").unwrap());
        assert!(fits(&matcher, "/tasks/12", &[]) && fits(&matcher, "/t", &[]));
        assert!(!fits(&matcher, "/tasks/12/x", &[]) && !fits(&matcher, "/x/tasks/12", &[]));
    }

    #[test]
    fn a_method_is_the_second_of_two_segments() {
        let matcher = Matcher::new(PathMatcher::method("Get"));
        assert!(fits(&matcher, "/a.Service/Get", &[]));
        for path in ["/a.Service/get", "/Get", "/a/b/Get", "//Get", "/a/Get/"] {
            assert!(!fits(&matcher, path, &[]), "{path}");
        }
        assert!(matcher.has_method(), "more than a match of everything");
    }

    #[test]
    fn broken_and_oversized_expressions_are_refused() {
        for bad in ["(", "a)(b", "x{1000}{1000}{1000}", "(?x) a # "] {
            assert!(matches!(PathMatcher::regular_expression(bad), Err(MatchError::Expression { .. })), "{bad}");
        }
    }

    #[test]
    fn header_values_are_compared_with_case_and_names_without() {
        let matcher = any_path().header("X-Version", ValueMatcher::exact("Two")).unwrap();
        assert!(fits(&matcher, "/", &[("x-version", "Two")]));
        assert!(!fits(&matcher, "/", &[("x-version", "two")]));
        assert!(!fits(&matcher, "/", &[]));
    }

    #[test]
    fn repeated_headers_are_joined() {
        let matcher = any_path().header("x-v", ValueMatcher::exact("1,2")).unwrap();
        assert!(fits(&matcher, "/", &[("x-v", "1"), ("x-v", "2")]));
        assert!(!fits(&matcher, "/", &[("x-v", "1")]));
    }

    #[test]
    fn all_headers_must_fit() {
        let expression = ValueMatcher::regular_expression("a+").unwrap();
        let matcher = any_path().header("a", ValueMatcher::exact("1")).unwrap().header("b", expression).unwrap();
        assert!(fits(&matcher, "/", &[("a", "1"), ("b", "aaa")]));
        assert!(!fits(&matcher, "/", &[("a", "1"), ("b", "aab")]));
        assert!(!fits(&matcher, "/", &[("a", "1")]));
    }

    #[test]
    fn the_first_entry_of_a_name_counts() {
        let matcher = any_path().header("a", ValueMatcher::exact("1")).unwrap();
        let matcher = matcher.header("A", ValueMatcher::exact("2")).unwrap();
        assert!(fits(&matcher, "/", &[("a", "1")]));
        assert_eq!(matcher.header_count(), 1);
    }

    #[test]
    fn the_first_query_parameter_of_a_name_decides() {
        let matcher = any_path().query_param("animal", ValueMatcher::exact("whale"));
        assert!(fits(&matcher, "/?x=1&animal=whale", &[]));
        assert!(fits(&matcher, "/?animal=whale&animal=dolphin", &[]));
        assert!(!fits(&matcher, "/?animal=dolphin&animal=whale", &[]));
        assert!(!fits(&matcher, "/?Animal=whale", &[]));
        assert!(!fits(&matcher, "/", &[]));
    }

    #[test]
    fn query_parameters_are_decoded_before_they_are_compared() {
        let matcher = any_path().query_param("a b", ValueMatcher::exact("x&y"));
        assert!(fits(&matcher, "/?a+b=x%26y", &[]) && fits(&matcher, "/?a%20b=x%26y", &[]));
        assert_eq!(&*decode("%zz%4"), b"%zz%4");
    }
}
