//! What filters make of headers, paths and targets.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    filter::{HeaderChanges, PathChange, Redirect},
    table::Scheme,
};

impl HeaderChanges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Sets, then adds, then removes. What is added to a field that is there is appended to its value.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            add(headers, name, value);
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// One line, `old,new` (RFC 9110 §5.3), but for the field that may not be joined.
fn add(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let joined = headers.get(name).filter(|_| name != http::header::SET_COOKIE).map(|old| {
        let text = [old.as_bytes(), b",", value.as_bytes()].concat();
        HeaderValue::from_bytes(&text)
    });
    match joined {
        Some(Ok(joined)) => drop(headers.insert(name.clone(), joined)),
        _ => drop(headers.append(name.clone(), value.clone())),
    }
}

impl PathChange {
    /// The new path of `path`, which begins with `/` and has no query.
    ///
    /// A prefix is replaced by whole segments, with exactly one `/` where the two meet (Gateway API,
    /// `HTTPPathModifier.replacePrefixMatch`). A path that does not begin with the prefix stays.
    #[must_use]
    pub fn apply(&self, path: &str) -> String {
        match self {
            Self::Full(new) => absolute(new),
            Self::Prefix { matched, replacement } => {
                let Some(rest) = path.strip_prefix(matched.trim_end_matches('/')) else { return path.to_owned() };
                if !rest.is_empty() && !rest.starts_with('/') {
                    return path.to_owned();
                }
                absolute(&format!("{}{rest}", replacement.trim_end_matches('/')))
            }
        }
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// What a redirect is made from.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub scheme: Scheme,
    /// As the client wrote it, without port.
    pub host: &'a str,
    /// The listener's, as Gateways name it.
    pub port: u16,
    /// Begins with `/`, without query.
    pub path: &'a str,
    pub query: Option<&'a str>,
}

impl Redirect {
    /// The `Location` of the answer: absolute, without a port that its scheme implies.
    #[must_use]
    pub fn location(&self, asked: Target<'_>) -> String {
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let (name, well_known) = match scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let port = self.port.unwrap_or(if self.scheme.is_some() { well_known } else { asked.port });
        let host = self.hostname.as_deref().unwrap_or(asked.host);
        let path = self.path.as_ref().map_or_else(|| asked.path.to_owned(), |change| change.apply(asked.path));
        let mut location = format!("{name}://{host}");
        if port != well_known {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&path);
        if let Some(query) = asked.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &HeaderChanges, before: &[(&str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        changes.apply(&mut headers);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    fn pair(name: &str, value: &str) -> (HeaderName, HeaderValue) {
        (name.parse().unwrap(), value.parse().unwrap())
    }

    #[test]
    fn set_replaces_add_appends_and_remove_deletes_in_that_order() {
        let changes = HeaderChanges {
            set: vec![pair("x-set", "new"), pair("x-both", "set")],
            add: vec![pair("x-add", "b"), pair("x-both", "added"), pair("x-fresh", "1")],
            remove: vec![HeaderName::from_static("x-gone")],
        };
        let before = [("X-Set", "old"), ("x-set", "older"), ("x-add", "a"), ("x-gone", "1"), ("x-kept", "1")];
        let want = ["x-add: a,b", "x-both: set,added", "x-fresh: 1", "x-kept: 1", "x-set: new"];
        assert_eq!(changed(&changes, &before), want);
    }

    #[test]
    fn cookies_that_are_set_stay_apart() {
        let changes = HeaderChanges { add: vec![pair("set-cookie", "b=2")], ..HeaderChanges::default() };
        assert_eq!(changed(&changes, &[("set-cookie", "a=1")]), ["set-cookie: a=1", "set-cookie: b=2"]);
    }

    #[test]
    fn prefixes_are_replaced_by_segments_with_one_slash_between() {
        let check = |matched: &str, replacement: &str, path: &str, want: &str| {
            let change = PathChange::Prefix { matched: matched.into(), replacement: replacement.into() };
            assert_eq!(change.apply(path), want, "{matched} to {replacement} of {path}");
        };
        for matched in ["/foo", "/foo/"] {
            for replacement in ["/xyz", "/xyz/"] {
                check(matched, replacement, "/foo/bar", "/xyz/bar");
                check(matched, replacement, "/foo/", "/xyz/");
                check(matched, replacement, "/foo", "/xyz");
            }
            for replacement in ["", "/"] {
                check(matched, replacement, "/foo/bar", "/bar");
                check(matched, replacement, "/foo", "/");
                check(matched, replacement, "/foo/", "/");
            }
            check(matched, "/x", "/foobar", "/foobar");
        }
        check("/", "/x", "/a", "/x/a");
        assert_eq!(PathChange::Full("/new".into()).apply("/old/path"), "/new");
    }

    #[test]
    fn a_location_has_what_the_redirect_says_and_else_what_was_asked() {
        let plain = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
        let asked = |scheme, port| Target { scheme, host: "a.example", port, path: "/p/q", query: Some("x=1&y") };
        let check = |redirect: &Redirect, scheme, port, want: &str| {
            assert_eq!(redirect.location(asked(scheme, port)), want, "{redirect:?} {scheme:?} {port}");
        };
        check(&plain, Scheme::Http, 80, "http://a.example/p/q?x=1&y");
        check(&plain, Scheme::Http, 8080, "http://a.example:8080/p/q?x=1&y");
        check(&plain, Scheme::Https, 443, "https://a.example/p/q?x=1&y");
        let secure = Redirect { scheme: Some(Scheme::Https), ..plain.clone() };
        check(&secure, Scheme::Http, 8080, "https://a.example/p/q?x=1&y");
        let secure = Redirect { port: Some(8443), ..secure };
        check(&secure, Scheme::Http, 80, "https://a.example:8443/p/q?x=1&y");
        let prefix = PathChange::Prefix { matched: "/p".into(), replacement: "/n".into() };
        let elsewhere = Redirect { hostname: Some("b.example".into()), path: Some(prefix), ..plain };
        check(&elsewhere, Scheme::Https, 443, "https://b.example/n/q?x=1&y");
    }
}
