//! Cross-origin requests (Fetch Standard §3.2; Gateway API, `HTTPCORSFilter`): which header fields browsers are told.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::filter::{Cors, Listed, OriginPattern};

impl OriginPattern {
    /// Reads `*`, or `scheme://host[:port]` with `*` for the front of the host.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let (scheme, authority) = text.split_once("://")?;
        let (host, port) = split_port(authority)?;
        let (host, is_wildcard) = host.strip_prefix('*').map_or((host, false), |rest| (rest, true));
        if scheme.is_empty() || (host.is_empty() && !is_wildcard) {
            return None;
        }
        let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
        Some(Self::One { scheme: scheme.into(), host: host.into(), is_wildcard, port })
    }

    fn fits(&self, origin: &str) -> bool {
        let Self::One { scheme, host, is_wildcard, port } = self else { return true };
        let Some((its_scheme, authority)) = origin.split_once("://") else { return false };
        let Some((its_host, its_port)) = split_port(authority) else { return false };
        let its_host = its_host.to_ascii_lowercase();
        let well_known = well_known(scheme);
        its_scheme.eq_ignore_ascii_case(scheme)
            && port.or(well_known) == its_port.or(well_known)
            && if *is_wildcard {
                its_host.len() > host.len() && its_host.ends_with(&**host)
            } else {
                *its_host == **host
            }
    }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority; an address in brackets keeps them.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end_of_address = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[end_of_address..].rfind(':') {
        None => Some((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at(end_of_address + at);
            Some((host, Some(port[1..].parse().ok()?)))
        }
    }
}

impl Cors {
    /// Whether a request is a preflight, which the gateway answers itself.
    #[must_use]
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The fields of the answer to a preflight; none of them when the origin is not allowed.
    #[must_use]
    pub fn preflight(&self, asked: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        self.vary(&mut answer);
        let Some(origin) = self.origin(asked.get(header::ORIGIN)) else { return answer };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        self.allow_credentials(&mut answer);
        let methods = self.listed(&self.methods, Method::as_str, asked.get(header::ACCESS_CONTROL_REQUEST_METHOD));
        let headers = self.listed(&self.headers, HeaderName::as_str, asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS));
        answer.extend(methods.map(|methods| (header::ACCESS_CONTROL_ALLOW_METHODS, methods)));
        answer.extend(headers.map(|headers| (header::ACCESS_CONTROL_ALLOW_HEADERS, headers)));
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.into());
        // Fetch reads it from the answer to the request itself only; upstream's suite wants it here, too.
        self.expose(&mut answer);
        answer
    }

    /// Marks the answer to a request of this `Origin`. What the backend said of the matter goes.
    pub fn mark(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            answer.remove(name);
        }
        self.vary(answer);
        let Some(origin) = self.origin(origin) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        self.allow_credentials(answer);
        self.expose(answer);
    }

    fn expose(&self, answer: &mut HeaderMap) {
        let expose = match &self.expose {
            // With credentials browsers would take `*` for a name.
            Listed::All => (!self.credentials).then(|| HeaderValue::from_static("*")),
            Listed::These(names) => joined(names, HeaderName::as_str),
        };
        answer.extend(expose.map(|expose| (header::ACCESS_CONTROL_EXPOSE_HEADERS, expose)));
    }

    fn is_constant(&self) -> bool {
        !self.credentials && self.origins.contains(&OriginPattern::Any)
    }

    fn vary(&self, answer: &mut HeaderMap) {
        if !self.is_constant() {
            answer.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// What the browser is told of its origin, if it is allowed.
    fn origin(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let origin = origin?;
        let text = origin.to_str().ok()?;
        if self.is_constant() {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.iter().any(|pattern| pattern.fits(text)).then(|| origin.clone())
    }

    fn allow_credentials(&self, answer: &mut HeaderMap) {
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// A list as it is; "all" as `*`, or with credentials, for which `*` means nothing, as what was asked for.
    fn listed<T>(
        &self,
        list: &Listed<T>,
        name: impl Fn(&T) -> &str,
        asked: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        match list {
            Listed::These(items) => joined(items, name),
            Listed::All if self.credentials => asked.cloned(),
            Listed::All => Some(HeaderValue::from_static("*")),
        }
    }
}

fn joined<T>(items: &[T], name: impl Fn(&T) -> &str) -> Option<HeaderValue> {
    let text = items.iter().map(name).collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then(|| HeaderValue::from_str(&text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: origins.iter().map(|text| OriginPattern::parse(text).unwrap()).collect(),
            credentials: false,
            methods: Listed::These(vec![Method::GET, Method::PUT]),
            headers: Listed::These(vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")]),
            expose: Listed::These(vec![]),
            max_age: 5,
        }
    }

    fn asked(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("DELETE"));
        headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-c"));
        headers
    }

    fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        let check = |pattern: &str, origin: &str, want: bool| {
            assert_eq!(OriginPattern::parse(pattern).unwrap().fits(origin), want, "{pattern} {origin}");
        };
        check("*", "https://anything", true);
        check("https://a.com", "https://a.com", true);
        check("https://a.com", "https://A.com:443", true);
        check("https://a.com", "http://a.com", false);
        check("https://a.com", "https://a.com:8443", false);
        check("https://a.com:8443", "https://a.com:8443", true);
        check("https://*.a.com", "https://x.y.a.com", true);
        check("https://*.a.com", "https://a.com", false);
        check("https://*.a.com", "https://bad-a.com", false);
        check("https://*", "https://x.y", true);
        check("https://[::1]:8", "https://[::1]:8", true);
        check("https://a.com", "null", false);
        for bad in ["a.com", "://a", "https://", "https://a:port"] {
            assert_eq!(OriginPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_preflight_is_told_the_lists_as_they_are_written() {
        let answer = cors(&["https://a.com"]).preflight(&asked("https://a.com"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("https://a.com"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_METHODS), Some("GET, PUT"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_HEADERS), Some("x-a, x-b"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_MAX_AGE), Some("5"));
        assert_eq!(text(&answer, header::VARY), Some("Origin"));
        assert_eq!(answer.get(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
    }

    #[test]
    fn a_foreign_origin_is_told_nothing() {
        let answer = cors(&["https://a.com"]).preflight(&asked("https://b.com"));
        assert_eq!(answer.keys().collect::<Vec<_>>(), [header::VARY]);
        let mut answer = HeaderMap::new();
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        cors(&["https://a.com"]).mark(asked("https://b.com").get(header::ORIGIN), &mut answer);
        assert_eq!(answer.keys().collect::<Vec<_>>(), [header::VARY]);
    }

    #[test]
    fn all_is_a_star_without_credentials_and_what_was_asked_with_them() {
        let all = Cors { methods: Listed::All, headers: Listed::All, expose: Listed::All, ..cors(&["*"]) };
        let answer = all.preflight(&asked("https://b.com"));
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_METHODS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ] {
            assert_eq!(text(&answer, name), Some("*"));
        }
        assert_eq!(answer.get(header::VARY), None);
        let with = Cors { credentials: true, ..all };
        let answer = with.preflight(&asked("https://b.com"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("https://b.com"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_METHODS), Some("DELETE"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_HEADERS), Some("x-c"));
        assert_eq!(text(&answer, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), Some("true"));
        let mut marked = HeaderMap::new();
        with.mark(asked("https://b.com").get(header::ORIGIN), &mut marked);
        assert_eq!(marked.get(header::ACCESS_CONTROL_EXPOSE_HEADERS), None);
    }

    #[test]
    fn only_a_whole_preflight_is_one() {
        assert!(Cors::is_preflight(&Method::OPTIONS, &asked("https://a.com")));
        assert!(!Cors::is_preflight(&Method::GET, &asked("https://a.com")));
        assert!(!Cors::is_preflight(&Method::OPTIONS, &HeaderMap::new()));
    }
}
