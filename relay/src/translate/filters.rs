//! Filters, time-outs and retries of a rule as they are written → as `proxy` acts on them.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use underpass_shared::resource::{
    filter::{self as written, FilterType, HeaderModifier, PathModifier},
    http_route::{HttpRouteMatch, PathMatchType},
};

use super::{
    backends::{self, Unresolved},
    extensions::{self, Extension},
    routes::Origin,
};
use crate::route::{
    filter::{
        Cors, End, Filters, HeaderChanges, Listed, Mirror, OriginPattern, PathChange, Redirect, Retry, Rewrite,
        Timeouts,
    },
    table::Scheme,
    target::Answer,
};

/// The pause before a second attempt when the route says none: long enough for a lock to go, too short to be noticed.
const BACKOFF: Duration = Duration::from_millis(25);

/// Why a rule is dropped (Gateway API, `PartiallyInvalid`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    #[error("{0} is not a header field")]
    Header(String),
    #[error("hostname `{0}` is not one")]
    Hostname(String),
    #[error("`{0}` is not an origin")]
    Origin(String),
    #[error("`{0}` is not a duration such as 500ms, 10s or 1h30m")]
    Duration(String),
    #[error("{0} needs one match of type PathPrefix in its rule")]
    NoPrefix(&'static str),
    #[error("`{0}` cannot be the name of a session's cookie or header")]
    SessionName(String),
    #[error("{0} is not served yet")]
    Unserved(String),
    #[error("a redirect and a rewrite exclude each other")]
    Incompatible,
}

/// What the filters of a rule or of a backend reference come to, with the references that lead nowhere.
pub(super) fn compile(
    origin: &Origin<'_>,
    filters: &[written::Filter],
    matches: &[HttpRouteMatch],
) -> Result<(Filters, Vec<Unresolved>), FilterError> {
    let mut compiled = Filters::default();
    let mut unresolved = Vec::new();
    for filter in filters {
        match filter.kind {
            FilterType::RequestHeaderModifier => {
                compiled.request_headers = changes(filter.request_header_modifier.as_ref())?;
            }
            FilterType::ResponseHeaderModifier => {
                compiled.response_headers = changes(filter.response_header_modifier.as_ref())?;
            }
            FilterType::RequestMirror => {
                if let Some(mirror) = &filter.request_mirror {
                    let (mirror, problem) = self::mirror(origin, mirror);
                    unresolved.extend(problem);
                    compiled.mirrors.push(mirror);
                }
            }
            FilterType::RequestRedirect => {
                let redirect = filter.request_redirect.clone().unwrap_or_default();
                end(&mut compiled, End::Redirect(self::redirect(&redirect, matches)?));
            }
            FilterType::UrlRewrite => {
                let rewrite = filter.url_rewrite.clone().unwrap_or_default();
                let path = rewrite.path.as_ref().map(|path| path_change("URLRewrite", path, matches)).transpose()?;
                compiled.rewrite = Some(Rewrite { hostname: hostname(rewrite.hostname.as_deref())?, path });
            }
            FilterType::Cors => compiled.cors = Some(cors(&filter.cors.clone().unwrap_or_default())?),
            FilterType::ExtensionRef => {
                let reference = filter.extension_ref.clone().unwrap_or_default();
                match extensions::resolve(origin, &reference) {
                    Ok(Extension::Direct(direct)) => end(&mut compiled, End::Direct(direct)),
                    Ok(Extension::Compression(one)) => drop(compiled.compression.get_or_insert(one)),
                    Err(problem) => {
                        let text: Arc<str> = format!("a filter of the route is not usable: {}", problem.message).into();
                        end(&mut compiled, End::Broken(Answer { status: 500, text }));
                        unresolved.push(problem);
                    }
                }
            }
            FilterType::Other => return Err(FilterError::Unserved("a filter of this type".to_owned())),
        }
    }
    if compiled.rewrite.is_some() && matches!(compiled.end, Some(End::Redirect(_))) {
        return Err(FilterError::Incompatible);
    }
    Ok((compiled, unresolved))
}

/// Of several filters that answer, the first does; but one that could not be resolved is never skipped.
fn end(compiled: &mut Filters, end: End) {
    if compiled.end.is_none() || matches!(end, End::Broken(_)) {
        compiled.end = Some(end);
    }
}

fn changes(written: Option<&HeaderModifier>) -> Result<HeaderChanges, FilterError> {
    let Some(HeaderModifier { set, add, remove }) = written else { return Ok(HeaderChanges::default()) };
    let name = |text: &str| text.parse::<HeaderName>().map_err(|_| FilterError::Header(text.to_owned()));
    let pairs = |list: &[written::Header]| {
        let mut pairs: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for header in list {
            let name = name(&header.name)?;
            let value = header.value.parse().map_err(|_| FilterError::Header(header.name.clone()))?;
            // Of several entries for one name only the first counts.
            if pairs.iter().all(|(known, _)| *known != name) {
                pairs.push((name, value));
            }
        }
        Ok(pairs)
    };
    let remove = remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
    Ok(HeaderChanges { set: pairs(set)?, add: pairs(add)?, remove })
}

fn mirror(origin: &Origin<'_>, written: &written::RequestMirror) -> (Mirror, Option<Unresolved>) {
    let (backend, problem) = backends::resolve(origin, &written.backend_ref, 1);
    let (numerator, denominator) = match (written.fraction, written.percent) {
        (Some(fraction), _) => (fraction.numerator, fraction.denominator.max(1)),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (1, 1),
    };
    (Mirror { backend, numerator, denominator }, problem)
}

fn redirect(written: &written::RequestRedirect, matches: &[HttpRouteMatch]) -> Result<Redirect, FilterError> {
    let scheme = written.scheme.as_deref().and_then(|scheme| match scheme {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    });
    let path = written.path.as_ref().map(|path| path_change("RequestRedirect", path, matches)).transpose()?;
    let hostname = hostname(written.hostname.as_deref())?;
    Ok(Redirect { scheme, hostname, path, port: written.port, status: written.status_code.unwrap_or(302) })
}

fn hostname(written: Option<&str>) -> Result<Option<Box<str>>, FilterError> {
    let read = |text: &str| crate::route::host::parse_name(text).map_err(|_| FilterError::Hostname(text.to_owned()));
    Ok(written.map(read).transpose()?.map(|name| (*name).into()))
}

/// A prefix is replaced only where every match of the rule has the same one; no match is one of `/`.
fn path_change(
    filter: &'static str,
    written: &PathModifier,
    matches: &[HttpRouteMatch],
) -> Result<PathChange, FilterError> {
    if let Some(full) = &written.replace_full_path {
        return Ok(PathChange::Full(full.as_str().into()));
    }
    let replacement = written.replace_prefix_match.as_deref().unwrap_or_default().into();
    let mut prefixes = matches.iter().map(|one| one.path.clone().unwrap_or_default());
    let first = prefixes.next().unwrap_or_default();
    if first.kind != PathMatchType::PathPrefix || prefixes.any(|other| other != first) {
        return Err(FilterError::NoPrefix(filter));
    }
    Ok(PathChange::Prefix { matched: first.value.as_str().into(), replacement })
}

fn cors(written: &written::Cors) -> Result<Cors, FilterError> {
    fn listed<T>(list: &[String], read: impl Fn(&str) -> Option<T>) -> Result<Listed<T>, FilterError> {
        if list.iter().any(|item| item == "*") {
            return Ok(Listed::All);
        }
        let items = list.iter().map(|item| read(item).ok_or_else(|| FilterError::Header(item.clone())));
        items.collect::<Result<_, _>>().map(Listed::These)
    }
    let origins = written.allow_origins.iter();
    let origins = origins.map(|text| OriginPattern::parse(text).ok_or_else(|| FilterError::Origin(text.clone())));
    Ok(Cors {
        origins: origins.collect::<Result<_, _>>()?,
        credentials: written.allow_credentials,
        methods: listed(&written.allow_methods, |text| text.parse::<Method>().ok())?,
        headers: listed(&written.allow_headers, |text| text.parse::<HeaderName>().ok())?,
        expose: listed(&written.expose_headers, |text| text.parse::<HeaderName>().ok())?,
        max_age: written.max_age.unwrap_or(5),
    })
}

/// Zero means that there is no limit.
pub(super) fn timeouts(written: Option<&written::Timeouts>) -> Result<Timeouts, FilterError> {
    let Some(written) = written else { return Ok(Timeouts::default()) };
    let read = |text: &Option<String>| {
        let read = text.as_deref().map(|text| duration(text).ok_or_else(|| FilterError::Duration(text.to_owned())));
        read.transpose().map(|limit| limit.filter(|limit| !limit.is_zero()))
    };
    Ok(Timeouts { request: read(&written.request)?, backend_request: read(&written.backend_request)? })
}

pub(super) fn retry(written: Option<&written::Retry>) -> Result<Option<Retry>, FilterError> {
    let Some(written) = written else { return Ok(None) };
    let backoff = match &written.backoff {
        None => BACKOFF,
        Some(text) => duration(text).ok_or_else(|| FilterError::Duration(text.clone()))?.max(BACKOFF),
    };
    let mut codes = written.codes.clone();
    codes.sort_unstable();
    Ok(Some(Retry { attempts: written.attempts.unwrap_or(1), codes, backoff }))
}

/// A duration of the Gateway API (GEP-2257): up to four of `5h`, `5m`, `5s`, `5ms`, each up to 99999, without fractions.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for count in 0.. {
        if rest.is_empty() {
            return (count > 0).then_some(total);
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if count == 4 || digits == 0 || digits > 5 {
            return None;
        }
        let (number, unit) = rest.split_at(digits);
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = unit.split_at(letters);
        let number: u64 = number.parse().ok()?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_gep_2257_writes_them() {
        for (text, want) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("0s", Some(0)),
            ("1m1s1ms", Some(61_001)),
            ("", None),
            ("1", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("100000s", None),
            ("1s1s1s1s1s", None),
        ] {
            assert_eq!(duration(text), want.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn zero_is_no_limit() {
        let written = written::Timeouts { request: Some("0s".into()), backend_request: Some("2s".into()) };
        let want = Timeouts { request: None, backend_request: Some(Duration::from_secs(2)) };
        assert_eq!(timeouts(Some(&written)), Ok(want));
    }

    #[test]
    fn a_prefix_is_replaced_only_where_all_matches_have_it() {
        let matching = |path: &str| HttpRouteMatch {
            path: Some(underpass_shared::resource::http_route::HttpPathMatch {
                kind: PathMatchType::PathPrefix,
                value: path.to_owned(),
            }),
            ..HttpRouteMatch::default()
        };
        let modifier = PathModifier { replace_prefix_match: Some("/x".into()), ..PathModifier::default() };
        let change = |matches: &[HttpRouteMatch]| path_change("URLRewrite", &modifier, matches);
        let want = PathChange::Prefix { matched: "/a".into(), replacement: "/x".into() };
        assert_eq!(change(&[matching("/a")]), Ok(want));
        assert_eq!(change(&[matching("/a"), matching("/b")]), Err(FilterError::NoPrefix("URLRewrite")));
        assert!(change(&[]).is_ok());
    }
}
