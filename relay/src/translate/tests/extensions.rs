//! `ExtensionRef`: fixed answers and settings of routes, found by name, and never skipped when they are not.

use super::{
    unserved::{json_of, whole, with},
    *,
};
use crate::route::{
    filter::{Algorithm, End, Filters},
    target::Answers,
};

fn reference(group: &str, kind: &str, name: &str) -> Value {
    json!({"type": "ExtensionRef", "extensionRef": {"group": group, "kind": kind, "name": name}})
}

fn extension(kind: &str, name: &str) -> Value {
    reference("extensions.apoxy.dev", kind, name)
}

/// A route for `a.com` with these filters on its rule and these on its backend.
fn filtered(of_rule: &Value, of_backend: &Value) -> (Kind, Value) {
    let backend = json!({"kind": "Backend", "name": "office", "port": 80, "filters": of_backend});
    let rules = json!([{"filters": of_rule, "backendRefs": [backend]}]);
    whole(Kind::HttpRoute, "r", &json!({"parentRefs": [{"name": "default"}], "hostnames": ["a.com"], "rules": rules}))
}

impl Translation {
    /// The filters of the rule and of the backend that serve `a.com`.
    fn filters(&self) -> (Filters, Filters) {
        let headers = HeaderMap::new();
        let at = ListenAddress::shared(80);
        let head = Head { at, host: "a.com", method: &Method::GET, path: "/", query: None, headers: &headers };
        let selection = self.table.select(&head, None).expect("a rule serves a.com");
        (selection.rule.filters.clone(), selection.rule.backends[0].filters.clone())
    }
}

#[test]
fn a_direct_response_answers_for_its_rule_and_for_the_share_of_a_backend() {
    let gone = json!({
        "statusCode": 410, "contentType": "text/html", "headers": [{"name": "X-Why", "value": "moved"}],
        "body": {"type": "Inline", "inline": "<p>gone</p>"},
    });
    for on_rule in [true, false] {
        let (filters, none) = (json!([extension("DirectResponse", "gone")]), json!([]));
        let route = if on_rule { filtered(&filters, &none) } else { filtered(&none, &filters) };
        let translation = with(vec![whole(Kind::DirectResponse, "gone", &gone), route]);
        assert_eq!(translation.route("r"), SERVED);
        let (rule, backend) = translation.filters();
        let Some(End::Direct(direct)) = (if on_rule { rule.end } else { backend.end }) else { panic!("no answer") };
        assert_eq!((direct.status, &direct.body[..]), (410, &b"<p>gone</p>"[..]));
        let headers: HeaderMap = direct.headers.into_iter().collect();
        assert_eq!(
            (&headers["x-why"], &headers["content-type"]),
            (&"moved".parse().unwrap(), &"text/html".parse().unwrap())
        );
        let accepted = &json_of(&translation, Kind::DirectResponse, "gone")["conditions"][0];
        assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));
        assert_eq!(accepted["observedGeneration"], 3);
    }
}

#[test]
fn a_direct_response_that_http_does_not_know_is_refused_and_so_is_whoever_asks_for_it() {
    let body = json!({"type": "Inline", "inline": "x"});
    for (spec, why) in [
        (json!({"statusCode": 101}), "101 does not end a request"),
        (json!({"statusCode": 204, "body": body}), "204 No Content has no body"),
        (json!({"headers": [{"name": "transfer-encoding", "value": "chunked"}]}), "transfer-encoding is not a matter"),
        (json!({"headers": [{"name": "Content-Length", "value": "1"}]}), "content-length is not a matter"),
        (json!({"headers": [{"name": "x", "value": "a\nb"}]}), "`x` is not a header field"),
        (json!({"contentType": "\u{7}", "body": body}), "is not one"),
    ] {
        let route = filtered(&json!([extension("DirectResponse", "odd")]), &json!([]));
        let translation = with(vec![whole(Kind::DirectResponse, "odd", &spec), route]);
        let accepted = &json_of(&translation, Kind::DirectResponse, "odd")["conditions"][0];
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Invalid")), "{spec}");
        assert!(accepted["message"].as_str().unwrap().contains(why), "{accepted}");
        assert_eq!(translation.route("r"), ["Accepted=True/Accepted", "ResolvedRefs=False/InvalidFilter"]);
        let Some(End::Broken(answer)) = translation.filters().0.end else { panic!("{spec} is served") };
        assert_eq!(answer.status, 500);
    }
}

#[test]
fn what_a_filter_refers_to_in_vain_is_never_skipped() {
    let there = || whole(Kind::DirectResponse, "there", &json!({}));
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}});
    for (filter, reason) in [
        (extension("DirectResponse", "absent"), "BackendNotFound"),
        (extension("HTTPRouteFilter", "there"), "BackendNotFound"),
        (extension("EdgeFunction", "there"), "InvalidKind"),
        (reference("gateway.networking.k8s.io", "DirectResponse", "there"), "InvalidKind"),
        (reference("gateway.envoyproxy.io", "HTTPRouteFilter", "there"), "InvalidKind"),
    ] {
        for filters in
            [json!([filter]), json!([extension("DirectResponse", "there"), filter]), json!([filter, redirect])]
        {
            let translation = with(vec![there(), filtered(&filters, &json!([]))]);
            let resolved = format!("ResolvedRefs=False/{reason}");
            assert_eq!(translation.route("r"), ["Accepted=True/Accepted", resolved.as_str()], "{filters}");
            assert!(matches!(translation.filters().0.end, Some(End::Broken(_))), "{filters}");
        }
    }
    let mut elsewhere = there();
    elsewhere.1["metadata"]["namespace"] = json!("other");
    let translation = with(vec![elsewhere, filtered(&json!([extension("DirectResponse", "there")]), &json!([]))]);
    assert!(matches!(translation.filters().0.end, Some(End::Broken(_))), "a reference stays in its namespace");
}

#[test]
fn a_filter_says_what_is_packed_and_the_backends_word_is_the_nearer_one() {
    let all = whole(Kind::HttpRouteFilter, "all", &json!({"compressor": {}}));
    let spec = json!({"algorithms": ["zstd", "gzip"], "minContentLength": 4096, "contentType": ["Text/X"]});
    let some = whole(Kind::HttpRouteFilter, "some", &json!({ "compressor": spec }));
    let none = whole(Kind::HttpRouteFilter, "none", &json!({"compressor": {"disabled": true}}));
    let filters = |name| json!([extension("HTTPRouteFilter", name)]);
    let translation = with(vec![all.clone(), none, filtered(&filters("all"), &filters("none"))]);
    assert_eq!(translation.route("r"), SERVED);
    let (rule, backend) = translation.filters();
    let rule = rule.compression.unwrap();
    assert_eq!((rule.algorithms, rule.least_bytes), (vec![Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd], 128));
    assert!(rule.content_types.iter().any(|one| &**one == "application/json"));
    assert!(!rule.content_types.iter().any(|one| &**one == "text/event-stream" || one.starts_with("image/p")));
    assert!(backend.compression.unwrap().algorithms.is_empty());
    let accepted = &json_of(&translation, Kind::HttpRouteFilter, "all")["conditions"][0];
    assert_eq!((&accepted["type"], &accepted["status"]), (&json!("Accepted"), &json!("True")));

    let two = json!([extension("HTTPRouteFilter", "some"), extension("HTTPRouteFilter", "all")]);
    let (rule, _) = with(vec![all, some, filtered(&two, &json!([]))]).filters();
    let rule = rule.compression.unwrap();
    assert_eq!((rule.algorithms, rule.least_bytes), (vec![Algorithm::Zstd, Algorithm::Gzip], 4096), "the first counts");
    assert_eq!(rule.content_types, ["text/x".into()]);
}

#[test]
fn a_grpc_route_takes_them_too() {
    let rules = json!([{"filters": [extension("DirectResponse", "gone")]}]);
    let spec = json!({"parentRefs": [{"name": "default"}], "hostnames": ["a.com"], "rules": rules});
    let gone = whole(Kind::DirectResponse, "gone", &json!({"statusCode": 410}));
    let translation = with(vec![gone, whole(Kind::GrpcRoute, "r", &spec)]);
    let headers = HeaderMap::new();
    let at = ListenAddress::shared(80);
    let head = Head { at, host: "a.com", method: &Method::POST, path: "/a.B/C", query: None, headers: &headers };
    let rule = translation.table.select(&head, None).unwrap().rule.clone();
    assert_eq!(rule.answers, Answers::Grpc);
    assert!(matches!(&rule.filters.end, Some(End::Direct(direct)) if direct.status == 410));
}
