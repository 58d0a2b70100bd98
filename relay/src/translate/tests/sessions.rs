//! `sessionPersistence` of a rule.

use std::time::Duration;

use super::{unserved::rule, *};
use crate::route::session::{By, Session};

/// What the only rule of a route comes to that is written in `spec.rules[0].sessionPersistence`; or its conditions.
fn read(written: &Value) -> Result<Session, Vec<String>> {
    let mut rule = rule();
    rule["sessionPersistence"] = written.clone();
    let spec = json!({"parentRefs": [{"name": "default"}], "hostnames": ["a.com"], "rules": [rule]});
    let mut objects = project();
    objects.routes = vec![route("r", 0, &spec)];
    let translation = one(objects);
    let headers = HeaderMap::new();
    let at = ListenAddress::shared(80);
    let head = Head { at, host: "a.com", method: &Method::GET, path: "/", query: None, headers: &headers };
    match translation.table.select(&head, None) {
        Ok(selection) => Ok(Session::clone(selection.rule.session.as_ref().unwrap())),
        Err(_) => Err(translation.route("r")),
    }
}

#[test]
fn sessions_are_read_with_their_defaults() {
    let cookie = |name: &str, is_permanent| By::Cookie { name: name.into(), is_permanent };
    let minute = Some(Duration::from_secs(60));
    let named = |name: &str| json!({"sessionName": name});
    assert_eq!(read(&named("s")), Ok(Session { by: cookie("s", false), absolute: None }));
    let permanent = json!({"sessionName": "s", "type": "Cookie", "absoluteTimeout": "1m",
        "cookieConfig": {"lifetimeType": "Permanent"}});
    assert_eq!(read(&permanent), Ok(Session { by: cookie("s", true), absolute: minute }));
    let header = json!({"sessionName": "X-Session", "type": "Header", "absoluteTimeout": "1m"});
    let by = By::Header(http::HeaderName::from_static("x-session"));
    assert_eq!(read(&header), Ok(Session { by, absolute: minute }));
    let unnamed = read(&json!({})).unwrap();
    assert_eq!(unnamed, read(&json!({"absoluteTimeout": "0s"})).unwrap(), "always the same name");
    let By::Cookie { name, .. } = unnamed.by else { panic!("no cookie") };
    assert!(name.starts_with("session-") && name.len() == 24, "{name}");
}

#[test]
fn names_that_would_break_messages_are_refused() {
    for bad in [
        json!({"sessionName": "a b"}),
        json!({"sessionName": "a=b;Path=/"}),
        json!({"sessionName": "Content-Length", "type": "Header"}),
        json!({"sessionName": "set-cookie", "type": "Header"}),
        json!({"sessionName": "s", "absoluteTimeout": "1d"}),
    ] {
        let conditions = read(&bad).unwrap_err();
        assert!(conditions[0].starts_with("Accepted=False"), "{bad}: {conditions:?}");
    }
}
