//! Backends whose requests name their hosts.

use std::{sync::Arc, time::Duration};

use super::{
    unserved::{whole, with},
    *,
};
use crate::route::{
    lookup::{Family, Lookup},
    target::Upstream,
};

/// What `a.com` goes to over a Backend of this spec, and the conditions of the Backend and of the route.
fn read(spec: &Value) -> (Option<Arc<Upstream>>, Vec<String>, Vec<String>) {
    let rules = json!([{"backendRefs": [{"kind": "Backend", "name": "any", "port": 443}]}]);
    let route = json!({"parentRefs": [{"name": "default"}], "rules": rules});
    let translation = with(vec![whole(Kind::Backend, "any", spec), whole(Kind::HttpRoute, "r", &route)]);
    let headers = HeaderMap::new();
    let at = ListenAddress::shared(80);
    let head = Head { at, host: "a.com", method: &Method::GET, path: "/", query: None, headers: &headers };
    let selection = translation.table.select(&head, None).unwrap();
    let upstream = selection.rule.backends[0].endpoint(0).ok().cloned();
    let Status::Backend(status) = translation.status("default", Kind::Backend, "any") else { panic!() };
    (upstream, brief(&status.conditions), translation.route("r"))
}

fn lookup(spec: &Value) -> Lookup {
    let (upstream, ..) = read(spec);
    let Endpoint::Asked { lookup, port: 443 } = &upstream.unwrap().endpoint else { panic!("{spec}") };
    Lookup::clone(lookup)
}

#[test]
fn it_needs_no_settings_and_no_endpoints() {
    let secs = Duration::from_secs;
    let want = Lookup {
        project: "default".parse().unwrap(),
        backend: "default/any".into(),
        family: Family::Both,
        unsaid: secs(60),
        least: secs(5),
        unused: secs(300),
        most: 1024,
        timeout: secs(5),
    };
    for spec in [json!({"dynamicProxy": {}}), json!({"dynamicProxy": {"dnsCacheConfig": {}}})] {
        assert_eq!(lookup(&spec), want, "{spec}");
        let (_, backend, route) = read(&spec);
        assert_eq!(backend, ["Accepted=True/Accepted"]);
        assert_eq!(route, ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    }
    let odd = json!({"dynamicProxy": {}, "endpoints": [{"fqdn": "nowhere.tun.internal"}]});
    assert_eq!(lookup(&odd), want, "endpoints beside it are not used");
}

#[test]
fn its_settings_are_read_within_their_limits() {
    let cache = json!({"dnsLookupFamily": "v4_preferred", "dnsRefreshRate": "1m30s", "dnsMinRefreshRate": "999h",
        "hostTTL": "1h", "maxHosts": 1_000_000, "dnsQueryTimeout": "1ms"});
    let read = lookup(&json!({"dynamicProxy": {"dnsCacheConfig": cache}}));
    assert_eq!((read.family, read.unsaid), (Family::V4First, Duration::from_secs(90)));
    assert_eq!((read.least, read.unused), (Duration::from_secs(3600), Duration::from_secs(3600)));
    assert_eq!((read.most, read.timeout), (4096, Duration::from_millis(100)));
    let (upstream, backend, route) = self::read(&json!({"dynamicProxy": {"dnsCacheConfig": {"hostTTL": "soon"}}}));
    assert_eq!(
        (upstream, &*backend[0], &*route[1]),
        (None, "Accepted=False/Invalid", "ResolvedRefs=False/UnsupportedValue")
    );
}

#[test]
fn a_request_goes_to_the_host_that_it_names_which_is_verified_by_that_name() {
    let (upstream, ..) = read(&json!({"dynamicProxy": {}, "protocol": "tls"}));
    let upstream = upstream.unwrap();
    let to = |host: &str| {
        let towards = upstream.clone().towards(host);
        (towards.endpoint.to_string(), towards.tls.as_ref().unwrap().server_name.to_string())
    };
    assert_eq!(to("Api.Example.com."), ("api.example.com:443".into(), "api.example.com".into()));
    assert_eq!(to("192.0.2.7"), ("192.0.2.7:443".into(), "192.0.2.7".into()));
    assert_eq!(to("[2001:db8::7]"), ("[2001:db8::7]:443".into(), "2001:db8::7".into()));
}

#[test]
fn what_names_no_host_cannot_go_there() {
    let rules = json!([{"backendRefs": [{"kind": "Backend", "name": "any", "port": 443}]}]);
    let route = json!({"parentRefs": [{"name": "default"}], "rules": rules});
    let spec = json!({"dynamicProxy": {}});
    let translation = with(vec![whole(Kind::Backend, "any", &spec), whole(Kind::TcpRoute, "r", &route)]);
    let Status::Route(_, status) = translation.status("default", Kind::TcpRoute, "r") else { unreachable!() };
    assert_eq!(brief(&status.parents[0].conditions)[1], "ResolvedRefs=False/UnsupportedValue");
}
