//! Listeners behind proxies that say for whom they connect.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::{
    proxy_protocol::{Addresses, Header, Version, encode},
    route::table::FromProxies,
};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 80\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.com\r\nconnection: close\r\n\r\n";

async fn gate(from: FromProxies) -> Gate {
    let gate = Gate::open(&[]);
    let (at, project) = (ListenAddress::shared(80), ProjectName::default());
    let mut builder = TableBuilder::default();
    builder.http(at, &project, &HostPattern::Any);
    let backend = target::Backend {
        name: "default/b".into(),
        weight: 1,
        target: to_address(echo().await),
        filters: Filters::default(),
    };
    attach(&mut builder, at, "a.com", Rule::new(project, "default/r".into(), vec![backend]));
    builder.from_proxies(at, from);
    gate.gateway.routing.table.store(Arc::new(builder.build()));
    gate
}

/// Whose request the backend saw, after `pieces` were sent one by one.
async fn whose(gate: &Gate, pieces: &[&[u8]]) -> String {
    let mut stream = gate.connect().await;
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find_map(|line| line.strip_prefix("x-forwarded-for: "));
    line.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn the_client_is_who_the_proxy_says() {
    let gate = gate(FromProxies::Always).await;
    let addresses = Addresses::new("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap()).unwrap();
    let mut v2 = encode(Version::V2, &Header::Proxied(addresses));
    assert_eq!(whose(&gate, &[V1, REQUEST]).await, "192.0.2.1");
    assert_eq!(whose(&gate, &[&[V1, REQUEST].concat()]).await, "192.0.2.1");
    assert_eq!(whose(&gate, &[&v2, REQUEST]).await, "2001:db8::1");
    // Fields beyond the addresses, more than one step takes.
    let more = [0x04; 3000];
    let length = u16::from_be_bytes([v2[14], v2[15]]) + 3000;
    v2[14..16].copy_from_slice(&length.to_be_bytes());
    assert_eq!(whose(&gate, &[&v2, &more, REQUEST]).await, "2001:db8::1");
    let local = encode(Version::V2, &Header::Local);
    assert_eq!(whose(&gate, &[&local, REQUEST]).await, "127.0.0.1");
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    for from in [FromProxies::Always, FromProxies::OrNot] {
        let gate = gate(from).await;
        let pieces: Vec<&[u8]> = V1.chunks(1).chain([REQUEST]).collect();
        assert_eq!(whose(&gate, &pieces).await, "192.0.2.1");
    }
}

#[tokio::test]
async fn without_a_header_only_those_are_served_that_may_do_without() {
    let may = gate(FromProxies::OrNot).await;
    assert_eq!(whose(&may, &[REQUEST]).await, "127.0.0.1");
    assert_eq!(whose(&may, &[b"G", &REQUEST[1..]]).await, "127.0.0.1");
    let must = gate(FromProxies::Always).await;
    assert_eq!(must.raw(std::str::from_utf8(REQUEST).unwrap()).await, "");
    for from in [FromProxies::Always, FromProxies::OrNot] {
        let gate = gate(from).await;
        assert_eq!(gate.raw("PROXY TCP4 nonsense\r\n").await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let gate = gate(FromProxies::Always).await;
    for begun in ["", "PRO", "PROXY TCP4 192."] {
        let mut stream = gate.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let end = timeout(Duration::from_secs(11), stream.read(&mut [0; 16])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{begun:?}");
    }
}
