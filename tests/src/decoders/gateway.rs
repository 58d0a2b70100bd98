//! What the gateway reads: PROXY headers, backends' answers, and resources that routing is decided from.

use bytes::BytesMut;
use http::{HeaderMap, Method};
use serde_json::Value;
use underpass_relay::{
    proxy::http1,
    proxy_protocol::{Decoded, Header, Version, decode, encode},
    route::{matcher::Head, table::ListenAddress},
    translate::{ProjectSnapshot, Settings, Snapshot, translate},
};
use underpass_shared::{identity::ProjectName, resource::kind::KINDS};

/// PROXY protocol, versions 1 and 2: what is read is written and read again as the same.
pub fn proxy_protocol(bytes: &[u8]) {
    let Ok(Decoded::Header(header, length)) = decode(bytes) else { return };
    assert!(length <= bytes.len(), "a header lies within what was read");
    if matches!(header, Header::Proxied(_)) {
        for version in [Version::V1, Version::V2] {
            let written = encode(version, &header);
            assert_eq!(decode(&written), Ok(Decoded::Header(header, written.len())));
        }
    }
}

/// A backend's answer over HTTP/1.1: it is the same however its bytes come.
pub fn http1_answer(bytes: &[u8]) {
    let whole = answer(bytes.chunks(bytes.len().max(1)));
    let pieces = answer(bytes.chunks(1));
    assert_eq!(whole.is_ok(), pieces.is_ok());
    if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
        assert_eq!(whole, pieces);
        assert!(whole.1.len() <= bytes.len(), "a body lies within what was read");
    }
}

/// Status and fields, data, trailers, and whether the body ended. What comes behind the first error does not count.
type Answer = (Option<(u16, HeaderMap)>, Vec<u8>, Option<HeaderMap>, bool);

fn answer<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Answer, http1::Http1Error> {
    let (mut buffer, mut head, mut answer) = (BytesMut::new(), None, (None, Vec::new(), None, false));
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            head = http1::answer(&mut buffer, &Method::GET)?;
        }
        let Some(head) = &mut head else { continue };
        answer.0 = Some((head.status.as_u16(), head.headers.clone()));
        while !answer.3 {
            match head.body.decode(&mut buffer)? {
                http1::Decoded::Data(data) => answer.1.extend_from_slice(&data),
                http1::Decoded::Trailers(trailers) => answer.2 = Some(trailers),
                http1::Decoded::End => answer.3 = true,
                http1::Decoded::More => break,
            }
        }
        if answer.3 {
            break;
        }
    }
    Ok(answer)
}

/// A JSON list of objects of any kinds, however odd: each gets at most one status, order does not matter, and requests
/// find an answer.
pub fn translation(bytes: &[u8]) {
    let Ok(Value::Array(objects)) = serde_json::from_slice(bytes) else { return };
    let mut objects: Vec<_> = objects.into_iter().filter_map(|object| Some((kind_of(&object)?, object))).collect();
    // Two objects of one place do not come from a store.
    let place = |object: &Value| {
        let text = |field: &str| object.pointer(field).and_then(Value::as_str).unwrap_or("default").to_owned();
        (text("/metadata/namespace"), text("/metadata/name"))
    };
    objects.sort_by_key(|(kind, object)| (*kind, place(object)));
    objects.dedup_by_key(|(kind, object)| (*kind, place(object)));
    let translated = |objects: Vec<_>| {
        let projects = [(ProjectName::default(), ProjectSnapshot::read(objects))].into_iter().collect();
        translate(&Snapshot { projects, ..Snapshot::default() }, &Settings::default())
    };
    let forwards = translated(objects.clone());
    let backwards = translated(objects.into_iter().rev().collect());
    assert_eq!(forwards.wanted, backwards.wanted);
    let places: Vec<_> = forwards.wanted.iter().map(|one| (one.status.kind(), &one.namespace, &one.name)).collect();
    assert!(places.windows(2).all(|two| two[0] < two[1]), "statuses are in order, each once: {places:?}");
    let headers = HeaderMap::new();
    for (at, _) in forwards.table.listens() {
        let at = ListenAddress { ..at };
        let head = Head { at, host: "a.example", method: &Method::GET, path: "/a/b", query: None, headers: &headers };
        let route = |table: &underpass_relay::route::table::Table| {
            table.select(&head, None).ok().map(|selection| selection.rule.route.clone())
        };
        assert_eq!(route(&forwards.table), route(&backwards.table));
    }
}

fn kind_of(object: &Value) -> Option<underpass_shared::resource::kind::Kind> {
    let name = object.get("kind")?.as_str()?;
    KINDS.iter().find(|info| info.name == name).map(|info| info.kind)
}
