use std::{sync::Arc, time::Duration};

use http::HeaderName;
use underpass_shared::identity::ProjectName;

use super::*;
use crate::{
    proxy::may_dial::DialPolicy,
    route::{
        filter::Filters,
        table::ListenAddress,
        target::{Link, Protocol, Target},
    },
    tunnel::Tunnels,
};

fn routing() -> Routing {
    Routing::new(Tunnels::new(tokio::runtime::Handle::current()), DialPolicy::default())
}

fn client() -> Client {
    let address = "192.0.2.1:1".parse().unwrap();
    Client { address, local: address, at: ListenAddress { address: None, port: 80 }, tls: None }
}

fn backend(name: &str, weight: u32, ports: &[u16]) -> Backend {
    let upstream = |&port: &u16| {
        let endpoint = Endpoint::Address(([192, 0, 2, 1], port).into());
        let (project, protocol) = (ProjectName::default(), Protocol::Http1);
        Arc::new(Upstream { project, endpoint, protocol, tls: None, announces: None, link: Link::default() })
    };
    let target = Target::Upstreams(ports.iter().map(upstream).collect());
    Backend { name: name.into(), weight, target, filters: Filters::default() }
}

fn rule(by: By, absolute: Option<u64>, backends: Vec<Backend>) -> Rule {
    let mut rule = Rule::new(ProjectName::default(), "default/r".into(), backends);
    rule.session = Some(Arc::new(Session { by, absolute: absolute.map(Duration::from_secs) }));
    rule
}

fn cookie_named(name: &str) -> By {
    By::Cookie { name: name.into(), is_permanent: false }
}

/// Headers of a request with the token that `rule` gives for an endpoint.
fn with_token(routing: &Routing, rule: &Rule, backend: usize, endpoint: usize, start: u64) -> HeaderMap {
    let session = rule.session.as_ref().unwrap();
    let place = place(rule, backend, &rule.backends[backend].target.upstreams()[endpoint], None);
    let token = routing.sessions.seal(&bound(rule, session), place, start).unwrap();
    let (name, value) = match &session.by {
        By::Cookie { name, .. } => (header::COOKIE, format!("a=b; {name}={token}; c=d")),
        By::Header(name) => (name.clone(), token),
    };
    HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
}

fn found(routing: &Routing, rule: &Rule, headers: &HeaderMap) -> Option<(usize, usize)> {
    find(routing, rule, headers).map(|pinned| (pinned.backend, pinned.endpoint))
}

#[tokio::test]
async fn a_session_is_found_again_wherever_its_endpoint_stands_now_and_whatever_its_weight() {
    let routing = routing();
    for by in [cookie_named("s"), By::Header(HeaderName::from_static("x-session"))] {
        let before = rule(by.clone(), None, vec![backend("default/a", 1, &[1, 2]), backend("default/b", 1, &[3, 4])]);
        let headers = with_token(&routing, &before, 1, 0, seconds());
        assert_eq!(found(&routing, &before, &headers), Some((1, 0)));
        let turned = rule(by.clone(), None, vec![backend("default/b", 0, &[9, 4, 3]), backend("default/a", 1, &[1])]);
        assert_eq!(found(&routing, &turned, &headers), Some((0, 2)));
        let gone = rule(by, None, vec![backend("default/a", 1, &[1, 2, 3]), backend("default/b", 1, &[4])]);
        assert_eq!(found(&routing, &gone, &headers), None, "another backend's endpoint is another one");
    }
}

#[tokio::test]
async fn a_backend_that_is_named_twice_is_two() {
    let routing = routing();
    let twice = rule(cookie_named("s"), None, vec![backend("default/a", 1, &[1]), backend("default/a", 1, &[1])]);
    for index in [0, 1] {
        let headers = with_token(&routing, &twice, index, 0, seconds());
        assert_eq!(found(&routing, &twice, &headers), Some((index, 0)));
    }
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let routing = routing();
    let limited = |limit| rule(cookie_named("s"), limit, vec![backend("default/a", 1, &[1])]);
    let check = |limit, age, is_good: bool| {
        let headers = with_token(&routing, &limited(limit), 0, 0, seconds() - age);
        assert_eq!(found(&routing, &limited(limit), &headers).is_some(), is_good, "{limit:?} {age}");
    };
    check(Some(100), 90, true);
    check(Some(100), 100, false);
    check(Some(100), 1_000_000, false);
    check(None, 1_000_000, true);
}

#[tokio::test]
async fn a_token_is_good_for_its_route_and_name_and_key_only_and_not_when_it_was_changed() {
    let routing = routing();
    let make = |project: &str, route: &str, name: &str| {
        let mut rule = rule(cookie_named(name), None, vec![backend("default/a", 1, &[1])]);
        (rule.project, rule.route) = (project.parse().unwrap(), route.into());
        rule
    };
    let own = make("default", "default/r", "s");
    let headers = with_token(&routing, &own, 0, 0, seconds());
    assert!(found(&routing, &own, &headers).is_some());
    assert!(found(&self::routing(), &own, &headers).is_none(), "another key");
    for other in [("other", "default/r"), ("default", "default/q")] {
        assert!(found(&routing, &make(other.0, other.1, "s"), &headers).is_none(), "{other:?}");
    }
    let text = headers[header::COOKIE].to_str().unwrap().to_owned();
    let token = text.split(['=', ';']).nth(3).unwrap().to_owned();
    assert_eq!(token.len(), 59);
    let renamed = HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from(format!("t={token}")).unwrap())]);
    assert!(found(&routing, &make("default", "default/r", "t"), &renamed).is_none());
    let bad = |token: String| {
        let cookie = HeaderValue::try_from(format!("s={token}")).unwrap();
        assert!(found(&routing, &own, &HeaderMap::from_iter([(header::COOKIE, cookie)])).is_none(), "{token}");
    };
    for at in 0..token.len() - 1 {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        bad(String::from_utf8(changed).unwrap());
    }
    for length in 0..token.len() {
        bad(token[..length].to_owned());
    }
    bad("x".repeat(4096));
    bad(format!("{token}{token}"));
}

#[tokio::test]
async fn a_client_is_told_as_the_rule_says() {
    let (routing, client) = (routing(), client());
    let told = |by, absolute| {
        let rule = rule(by, absolute, vec![backend("default/a", 1, &[1])]);
        let ask = Ask { seed: 1, key: None, now: Duration::ZERO, is_retry: false };
        let (_, _, place) = choose(&routing, (&rule, &rule.backends[0]), None, &ask, &client).unwrap();
        let mut headers = HeaderMap::new();
        tell(&routing, &rule, place, &client, &mut headers);
        (rule, headers)
    };
    let (_, headers) = told(cookie_named("s"), Some(60));
    let cookie = headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("s=") && cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
    let (_, headers) = told(By::Cookie { name: "s".into(), is_permanent: true }, Some(60));
    let cookie = headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.ends_with("; Path=/; Max-Age=60; HttpOnly"), "{cookie}");
    let (rule, headers) = told(By::Header(HeaderName::from_static("x-session")), None);
    assert_eq!(found(&routing, &rule, &headers), Some((0, 0)));
}
