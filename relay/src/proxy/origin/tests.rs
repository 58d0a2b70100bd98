use super::*;
use crate::route::table::ListenAddress;

fn client(address: &str) -> Client {
    let address = SocketAddr::new(address.parse().unwrap(), 5);
    Client { address, local: address, at: ListenAddress::shared(80), tls: None }
}

fn found(origin: &Origin, peer: &str, fields: &[(&str, &str)]) -> Result<Found, NoOrigin> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    find(origin, &headers, &client(peer))
}

/// The client's address, and what is passed on as `X-Forwarded-For`.
fn check(origin: &Origin, peer: &str, fields: &[(&str, &str)], want: (&str, &str)) {
    let found = found(origin, peer, fields).unwrap();
    let chain = found.chain(peer.parse().unwrap());
    assert_eq!((found.address.to_string().as_str(), chain.as_str()), want, "{origin:?} {fields:?}");
}

fn networks(texts: &[&str]) -> Origin {
    Origin::Networks(texts.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn hops_are_counted_from_the_right() {
    let list = [("x-forwarded-for", "6.6.6.6, 1.1.1.1, 2.2.2.2")];
    check(&Origin::Hops(1), "10.0.0.1", &list, ("2.2.2.2", "2.2.2.2, 10.0.0.1"));
    check(&Origin::Hops(2), "10.0.0.1", &list, ("1.1.1.1", "1.1.1.1, 2.2.2.2, 10.0.0.1"));
    // It came around one of the proxies, so that nothing of it was written by them.
    check(&Origin::Hops(4), "10.0.0.1", &list, ("10.0.0.1", "10.0.0.1"));
    check(&Origin::Hops(1), "10.0.0.1", &[], ("10.0.0.1", "10.0.0.1"));
    let fields = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "[2001:db8::1]:443")];
    check(&Origin::Hops(1), "10.0.0.1", &fields, ("2001:db8::1", "2001:db8::1, 10.0.0.1"));
    check(&Origin::Hops(1), "10.0.0.1", &[("x-forwarded-for", "unknown")], ("10.0.0.1", "10.0.0.1"));
}

#[test]
fn the_first_address_that_is_not_trusted_is_the_clients() {
    let ours = networks(&["10.0.0.0/8", "fd00::/8"]);
    let list = [("x-forwarded-for", "6.6.6.6, 1.1.1.1, 10.2.2.2")];
    check(&ours, "10.0.0.1", &list, ("1.1.1.1", "1.1.1.1, 10.2.2.2, 10.0.0.1"));
    check(&ours, "::ffff:10.0.0.1", &list, ("1.1.1.1", "1.1.1.1, 10.2.2.2, 10.0.0.1"));
    // Whoever connects from elsewhere has written it all himself.
    check(&ours, "9.9.9.9", &list, ("9.9.9.9", "9.9.9.9"));
    check(&ours, "10.0.0.1", &[("x-forwarded-for", "10.3.3.3")], ("10.3.3.3", "10.3.3.3, 10.0.0.1"));
    check(&ours, "10.0.0.1", &[("x-forwarded-for", "1.1.1.1, x, 10.2.2.2")], ("10.2.2.2", "10.2.2.2, 10.0.0.1"));
    check(&ours, "10.0.0.1", &[], ("10.0.0.1", "10.0.0.1"));
}

#[test]
fn forwarded_is_read_where_there_is_no_older_field() {
    let fields = [("forwarded", "for=6.6.6.6;by=x"), ("forwarded", "proto=HTTPS; For=\"[2001:db8::7]:4711\"")];
    check(&Origin::Hops(1), "10.0.0.1", &fields, ("2001:db8::7", "2001:db8::7, 10.0.0.1"));
    assert_eq!(found(&Origin::Hops(1), "10.0.0.1", &fields).unwrap().proto.unwrap(), "https");
    check(&Origin::Hops(1), "10.0.0.1", &[("forwarded", "for=_hidden")], ("10.0.0.1", "10.0.0.1"));
    let both = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "1.1.1.1")];
    check(&Origin::Hops(1), "10.0.0.1", &both, ("1.1.1.1", "1.1.1.1, 10.0.0.1"));
}

#[test]
fn scheme_and_host_are_believed_of_trusted_proxies_only() {
    let fields = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.com")];
    let ours = networks(&["10.0.0.0/8"]);
    let trusted = found(&ours, "10.0.0.1", &fields).unwrap();
    assert_eq!(
        (trusted.proto.unwrap(), trusted.host.unwrap()),
        ("https".parse().unwrap(), "shop.com".parse().unwrap())
    );
    for (origin, peer) in [(&ours, "9.9.9.9"), (&Origin::Hops(2), "10.0.0.1")] {
        let stranger = found(origin, peer, &fields).unwrap();
        assert_eq!((stranger.proto, stranger.host), (None, None));
    }
    let odd = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b")];
    let odd = found(&ours, "10.0.0.1", &odd).unwrap();
    assert_eq!((odd.proto, odd.host), (None, None));
}

#[test]
fn a_header_of_another_name_may_be_demanded() {
    let by = |fail_closed| Origin::Header { name: HeaderName::from_static("x-real"), fail_closed };
    check(&by(true), "10.0.0.1", &[("x-real", "1.1.1.1")], ("1.1.1.1", "1.1.1.1, 10.0.0.1"));
    for bad in [&[][..], &[("x-real", "me")], &[("x-real", "1.1.1.1"), ("x-real", "2.2.2.2")]] {
        check(&by(false), "10.0.0.1", bad, ("10.0.0.1", "10.0.0.1"));
        assert_eq!(found(&by(true), "10.0.0.1", bad), Err(NoOrigin), "{bad:?}");
    }
}
