//! The table against an obvious quadratic matcher over arbitrary routes and requests.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use underpass_shared::identity::ProjectName;

use super::{
    host::HostPattern,
    matcher::{Head, Matcher, PathMatcher, ValueMatcher},
    table::{Attachment, ListenAddress, TableBuilder},
    target::Rule,
};

const AT: ListenAddress = ListenAddress { address: None, port: 80 };
const HOSTS: &[&str] = &["a.com", "x.a.com", "y.x.a.com", "b.org"];
const PATTERNS: &[&str] = &["", "a.com", "x.a.com", "*.a.com", "*.x.a.com", "*.com"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/ab", "/a/b/", "/a/b/c"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    Prefix,
    /// Everything that begins with the path.
    Expression,
    /// The method `b` of any gRPC service.
    Method,
}

#[derive(Debug, Clone)]
struct Written {
    project: u8,
    listener: usize,
    host: usize,
    form: Form,
    path: usize,
    method: bool,
    header: bool,
    query: bool,
    created: i64,
}

fn written() -> impl Strategy<Value = Written> {
    let path = prop_oneof![Just(0_usize), 0..PATHS.len()];
    let form = prop_oneof![Just(Form::Exact), Just(Form::Prefix), Just(Form::Expression), Just(Form::Method)];
    (0..2_u8, 0..PATTERNS.len(), 0..PATTERNS.len(), form, path, any::<[bool; 3]>(), 0..3_i64).prop_map(
        |(project, listener, host, form, path, [method, header, query], created)| Written {
            project,
            listener,
            host,
            form,
            path,
            method,
            header,
            query,
            created,
        },
    )
}

fn name(project: u8) -> ProjectName {
    ProjectName::parse(&format!("p{project}")).unwrap()
}

fn pattern(index: usize) -> HostPattern {
    HostPattern::parse(PATTERNS[index]).unwrap()
}

impl Written {
    /// What the route serves on its listener; nothing when the hostnames do not meet.
    fn served(&self) -> Option<HostPattern> {
        pattern(self.listener).intersect(&pattern(self.host))
    }

    fn matcher(&self) -> Matcher {
        let path = PATHS[self.path];
        let path = match self.form {
            Form::Exact => PathMatcher::exact(path),
            Form::Prefix => PathMatcher::prefix(path),
            Form::Expression => PathMatcher::regular_expression(&format!("{path}.*")),
            Form::Method => Ok(PathMatcher::method("b")),
        };
        let mut matcher = Matcher::new(path.unwrap());
        if self.method {
            matcher = matcher.method("GET").unwrap();
        }
        if self.header {
            matcher = matcher.header("h", ValueMatcher::exact("1")).unwrap();
        }
        if self.query {
            matcher = matcher.query_param("q", ValueMatcher::exact("1"));
        }
        matcher
    }

    /// Written out again, without any of the engine's code.
    fn fits(&self, head: &Head<'_>) -> bool {
        let wanted = PATHS[self.path];
        let trimmed = wanted.trim_end_matches('/');
        let path = match self.form {
            Form::Exact => head.path == wanted,
            Form::Prefix => head.path == trimmed || head.path.starts_with(&format!("{trimmed}/")),
            Form::Expression => head.path.starts_with(wanted),
            Form::Method => head.path.split('/').count() == 3 && head.path.ends_with("/b"),
        };
        path && (!self.method || head.method == Method::GET)
            && (!self.header || head.headers.get("h").is_some_and(|value| value == "1"))
            && (!self.query || head.query == Some("q=1"))
    }

    /// Sorts as the Gateway API says, smallest first.
    fn key(&self, index: usize) -> impl Ord {
        let (kind, characters) = match self.form {
            Form::Exact => (0, PATHS[self.path].len()),
            Form::Expression => (1, PATHS[self.path].len() + 2),
            Form::Prefix => (2, PATHS[self.path].trim_end_matches('/').len()),
            Form::Method => (2, 0),
        };
        let method = self.method || self.form == Form::Method;
        (kind, usize::MAX - characters, !method, !self.header, !self.query, self.created, index)
    }
}

fn specificity(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Exact(name) => (2, name.len()),
        HostPattern::Wildcard(suffix) => (1, suffix.len()),
        HostPattern::Any => (0, 0),
    }
}

/// The winner's index, found by looking at everything for every question.
fn obvious(routes: &[Written], head: &Head<'_>) -> Option<usize> {
    let covering = |pattern: &HostPattern| pattern.covers(head.host);
    let attached = || routes.iter().enumerate().filter_map(|(index, route)| Some((index, route, route.served()?)));
    let claims = attached().filter(|(.., host)| covering(host));
    let owner = claims.min_by_key(|(index, _, host)| (std::cmp::Reverse(specificity(host)), *index))?.1.project;
    // A listener counts even when no route attached to it.
    let listeners = routes.iter().filter(|route| route.project == owner).map(|route| pattern(route.listener));
    let listener = listeners.filter(covering).max_by_key(specificity)?;
    attached()
        .filter(|(_, route, host)| {
            route.project == owner && pattern(route.listener) == listener && covering(host) && route.fits(head)
        })
        .min_by_key(|(index, route, host)| (std::cmp::Reverse(specificity(host)), route.key(*index)))
        .map(|(index, ..)| index)
}

proptest! {
    #[test]
    fn the_table_agrees_with_the_obvious_matcher(
        routes in prop::collection::vec(written(), 0..24),
        host in 0..HOSTS.len(),
        path in 0..PATHS.len(),
        post: bool, header: bool, query: bool,
    ) {
        let mut builder = TableBuilder::default();
        for (index, route) in routes.iter().enumerate() {
            let rule = Arc::new(Rule::new(name(route.project), format!("r{index:03}").into(), vec![]));
            let listener = pattern(route.listener);
            builder.http(AT, &rule.project, &listener);
            if let Some(host) = route.served() {
                builder.owner(AT, &host, &rule.project);
                builder.attach(Attachment {
                    at: AT, listener: &listener, host: &host, matcher: route.matcher(), created: route.created,
                    position: (0, 0), rule: &rule,
                });
            }
        }
        let table = builder.build();
        let mut headers = HeaderMap::new();
        if header {
            headers.insert(HeaderName::from_static("h"), HeaderValue::from_static("1"));
        }
        let head = Head {
            at: AT, host: HOSTS[host], method: if post { &Method::POST } else { &Method::GET }, path: PATHS[path],
            query: query.then_some("q=1"), headers: &headers,
        };
        let want = obvious(&routes, &head).map(|index| format!("r{index:03}"));
        let got = table.select(&head, None).ok().map(|selection| selection.rule.route.to_string());
        prop_assert_eq!(got, want);
    }
}
