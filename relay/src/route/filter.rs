//! What a rule does to requests and responses on their way, beside choosing a backend (Gateway API, `HTTPRouteFilter`).
//!
//! Plain data, compiled by `translate`; `proxy` acts on it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

use super::{
    table::Scheme,
    target::{Answer, Backend},
};

/// All filters of a rule, or of one backend reference, in the order in which they act: header changes first, so that
/// copies and redirects see them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub cors: Option<Cors>,
    pub mirrors: Vec<Mirror>,
    pub rewrite: Option<Rewrite>,
    /// Answers instead of a backend.
    pub end: Option<End>,
    /// Packs responses that are worth it.
    pub compression: Option<Compression>,
}

/// A filter that answers the request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Redirect(Redirect),
    Direct(Direct),
    /// A filter that could not be resolved: it is never skipped.
    Broken(Answer),
}

/// Set, then add, then remove. A name occurs at most once in each list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// `RequestRedirect`: what is `None` is the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub hostname: Option<Box<str>>,
    pub path: Option<PathChange>,
    /// None: the port of a given scheme, else the listener's.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// `URLRewrite`: what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<Box<str>>,
    pub path: Option<PathChange>,
}

/// How a path is changed; the query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathChange {
    Full(Box<str>),
    /// The segments of `matched`, which every match of the rule begins with, become `replacement`.
    Prefix {
        matched: Box<str>,
        replacement: Box<str>,
    },
}

/// `RequestMirror`: a copy of some requests, whose answer nobody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub backend: Backend,
    /// Share of the requests: `numerator / denominator`, the latter not 0.
    pub numerator: u32,
    pub denominator: u32,
}

/// `CORS`: preflights are answered here, and other answers are marked for the browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<OriginPattern>,
    pub credentials: bool,
    pub methods: Listed<Method>,
    pub headers: Listed<HeaderName>,
    pub expose: Listed<HeaderName>,
    /// Seconds that a browser may remember a preflight.
    pub max_age: u32,
}

/// A list that may also say "all".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed<T> {
    All,
    These(Vec<T>),
}

/// An origin as the Gateway API writes it: `*`, or scheme, host with `*` in front, port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    Any,
    One {
        /// Lower case, such as `https`.
        scheme: Box<str>,
        /// Lower case; with `is_wildcard`, what the host must end in.
        host: Box<str>,
        is_wildcard: bool,
        /// None: the scheme's own.
        port: Option<u16>,
    },
}

/// A fixed answer (`DirectResponse` of `extensions.apoxy.dev`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

/// Which responses are packed, and how: the first of `algorithms` that the client takes. Without algorithms, none, also
/// where the rule around it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    pub algorithms: Vec<Algorithm>,
    /// Shorter responses of known length are left as they are, in bytes.
    pub least_bytes: u64,
    /// Media types without parameters, such as `text/html`.
    pub content_types: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Gzip,
    Brotli,
    Zstd,
}

/// How long a request may take (Gateway API, `HTTPRouteTimeouts`); `None` leaves the relay's own limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the response; zero in the resource means none, which is `None` here.
    pub request: Option<Duration>,
    /// Of each attempt, until the head of the answer.
    pub backend_request: Option<Duration>,
}

/// When a request is sent again (Gateway API, `HTTPRouteRetry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Times after the first.
    pub attempts: u32,
    /// Answers that are tried again, 400 to 599, ascending.
    pub codes: Vec<u16>,
    /// The least pause before each attempt after the first.
    pub backoff: Duration,
}
