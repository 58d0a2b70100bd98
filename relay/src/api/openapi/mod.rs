//! The kinds as OpenAPI documents: v3 has one for each group version, v2 one for all of them.
//!
//! A document is made when it is first asked for, and kept as the bytes that are sent. It does not depend on the
//! project: the paths in it begin below the project's own, where clients look for them.

mod components;
mod operations;
mod proto;
mod v2;
mod v3;

use std::{
    collections::BTreeMap,
    sync::{LazyLock, OnceLock},
};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use underpass_shared::resource::kind::{KINDS, KindInfo, Scope};

use super::{
    exchange::Done,
    negotiate,
    path::{CORE, Reach, api_versions},
    status::Failure,
};

const JSON: &str = "application/json";
/// What clients ask for; `@` may not stand in a media type (RFC 9110 §8.3.1), so the answer names it otherwise.
const PROTOBUF_ASKED: [&str; 2] = ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF];
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Whether documents tell of the kinds outside projects too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breadth {
    Deployment,
    Project,
}

impl Breadth {
    fn of(reach: &Reach) -> Self {
        match reach {
            Reach::Deployment => Self::Deployment,
            Reach::Project(_) => Self::Project,
        }
    }

    fn kinds(self) -> impl Iterator<Item = &'static KindInfo> {
        KINDS.iter().filter(move |info| info.scope != Scope::Deployment || self == Self::Deployment)
    }
}

/// A document as it is sent.
struct Document {
    media: &'static str,
    bytes: Bytes,
    /// A digest of the bytes in hexadecimal digits.
    hash: String,
}

impl Document {
    fn new(media: &'static str, bytes: Vec<u8>) -> Self {
        let hash = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Self { media, bytes: bytes.into(), hash }
    }

    /// The document, or that the client has it already (RFC 9110 §13.1.2).
    fn answer(&self, headers: &HeaderMap) -> Done {
        let tag = format!("\"{}\"", self.hash);
        let done = match is_known(headers, &tag) {
            true => Done::not_modified(self.media),
            false => Done::bytes(self.media, self.bytes.clone()),
        };
        let done = done
            // Kept, and asked after each time: whether the client still belongs to the project is ours to say.
            .header(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"))
            .header(header::VARY, HeaderValue::from_static("accept, authorization"));
        match HeaderValue::from_str(&tag) {
            Ok(tag) => done.header(header::ETAG, tag),
            Err(_) => done,
        }
    }
}

/// Whether `If-None-Match` names `tag`.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}

/// The documents of one breadth.
#[derive(Default)]
struct Documents {
    v2: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    v3: BTreeMap<&'static str, OnceLock<Document>>,
}

impl Documents {
    fn new() -> Self {
        Self { v3: api_versions().map(|version| (version, OnceLock::new())).collect(), ..Self::default() }
    }

    fn of(breadth: Breadth) -> &'static Self {
        static DEPLOYMENT: LazyLock<Documents> = LazyLock::new(Documents::new);
        static PROJECT: LazyLock<Documents> = LazyLock::new(Documents::new);
        match breadth {
            Breadth::Deployment => &DEPLOYMENT,
            Breadth::Project => &PROJECT,
        }
    }
}

fn document_v3(breadth: Breadth, api_version: &str) -> Option<&'static Document> {
    let has_more = KINDS.iter().any(|info| info.scope == Scope::Deployment && info.api_versions.contains(&api_version));
    // Where the two say the same, one is enough.
    let breadth = if has_more { breadth } else { Breadth::Project };
    let (api_version, document) = Documents::of(breadth).v3.get_key_value(api_version)?;
    let make = || Document::new(JSON, v3::document(breadth, api_version).to_string().into_bytes());
    Some(document.get_or_init(make))
}

/// `/openapi/v2`.
///
/// # Errors
/// 406 when the client takes neither JSON nor protobuf.
pub(super) fn v2(reach: &Reach, headers: &HeaderMap) -> Result<Done, Failure> {
    let breadth = Breadth::of(reach);
    let documents = Documents::of(breadth);
    if PROTOBUF_ASKED.iter().any(|media| negotiate::prefers(headers, media)) {
        let make = || Document::new(PROTOBUF, proto::encode(&v2::document(breadth)));
        return Ok(documents.v2_protobuf.get_or_init(make).answer(headers));
    }
    negotiate::shape(headers)?;
    let make = || Document::new(JSON, Value::Object(v2::document(breadth)).to_string().into_bytes());
    Ok(documents.v2.get_or_init(make).answer(headers))
}

/// `/openapi/v3`: where the documents are. Clients take the URLs to begin at the server's root.
///
/// # Errors
/// 406 when the client does not take JSON.
pub(super) fn v3_index(reach: &Reach, headers: &HeaderMap) -> Result<Done, Failure> {
    negotiate::shape(headers)?;
    let prefix = match reach {
        Reach::Deployment => String::new(),
        Reach::Project(project) => format!("/projects/{project}"),
    };
    let mut paths = Map::new();
    for api_version in api_versions() {
        let Some(document) = document_v3(Breadth::of(reach), api_version) else { continue };
        let path = if api_version == CORE { format!("api/{CORE}") } else { format!("apis/{api_version}") };
        let url = format!("{prefix}/openapi/v3/{path}?hash={}", document.hash);
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    Ok(Done::shown(StatusCode::OK, json!({ "paths": paths })))
}

/// `/openapi/v3/apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for a version that is not served, 406 when the client does not take JSON.
pub(super) fn v3(reach: &Reach, api_version: &str, headers: &HeaderMap) -> Result<Done, Failure> {
    negotiate::shape(headers)?;
    let document = document_v3(Breadth::of(reach), api_version).ok_or(super::path::PathError::NoGroup)?;
    Ok(document.answer(headers))
}

/// The group, which is empty for the core group, and the version.
fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// What `x-kubernetes-group-version-kind` says.
fn group_version_kind(api_version: &str, kind: &str) -> Value {
    let (group, version) = split(api_version);
    json!({ "group": group, "version": version, "kind": kind })
}

/// What both forms of document say of themselves.
fn info() -> Value {
    json!({ "title": "Underpass", "version": env!("CARGO_PKG_VERSION") })
}

#[cfg(test)]
mod tests;
