//! `DirectResponse` and `HTTPRouteFilter`: what a route's `ExtensionRef` stands for, and what their statuses say.

use std::{cell::OnceCell, collections::BTreeMap};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use underpass_shared::{
    identity::ProjectName,
    resource::{
        extension::{self, Compressor, DirectResponse, DirectResponseSpec, HttpRouteFilter},
        filter::LocalObjectReference,
        kind::Kind,
        metadata::Metadata,
    },
};

use super::{
    Place, ProjectSnapshot, Status, WantedStatus, backends::Unresolved, conditions, generation, namespace_of,
    routes::Origin,
};
use crate::route::filter::{Algorithm, Compression, Direct};

/// The media types that are packed where a filter lists none: text, and what is as wordy. Images, video and archives
/// are packed already.
const WORDY: &[&str] = &[
    "text/html",
    "text/plain",
    "text/css",
    "text/csv",
    "text/xml",
    "text/markdown",
    "text/javascript",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/problem+json",
    "application/manifest+json",
    "application/x-ndjson",
    "application/xml",
    "application/xhtml+xml",
    "application/rss+xml",
    "application/atom+xml",
    "application/graphql-response+json",
    "application/wasm",
    "image/svg+xml",
];

/// Header fields of a fixed answer that would speak for the connection, or contradict its body.
const OURS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TRAILER,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Why a fixed answer cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum DirectError {
    #[error("{0} does not end a request, so it answers none")]
    Interim(u16),
    #[error("{0} has no body")]
    NoBody(StatusCode),
    #[error("content type `{0}` is not one")]
    ContentType(String),
    #[error("`{0}` is not a header field")]
    Header(String),
    #[error("header field {0} is not a matter of the answer")]
    OfConnection(HeaderName),
}

/// What an `ExtensionRef` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extension {
    Direct(Direct),
    Compression(Compression),
}

/// One project's extensions by place.
#[derive(Debug, Default)]
pub(super) struct Extensions<'a> {
    direct: BTreeMap<Place<'a>, Answering<'a>>,
    filters: BTreeMap<Place<'a>, &'a HttpRouteFilter>,
}

/// Made once, when the first route asks: all that refer to it share its body.
#[derive(Debug)]
struct Answering<'a> {
    written: &'a DirectResponse,
    made: OnceCell<Result<Direct, DirectError>>,
}

impl<'a> Extensions<'a> {
    pub(super) fn new(objects: &'a ProjectSnapshot) -> Self {
        let direct = objects.direct_responses.iter();
        let filters = objects.route_filters.iter();
        Self {
            direct: direct
                .map(|written| (Place::of(&written.metadata), Answering { written, made: OnceCell::new() }))
                .collect(),
            filters: filters.map(|written| (Place::of(&written.metadata), written)).collect(),
        }
    }
}

/// What `reference`, written in `origin`, stands for; it is of the same namespace.
pub(super) fn resolve(origin: &Origin<'_>, reference: &LocalObjectReference) -> Result<Extension, Unresolved> {
    let LocalObjectReference { group, kind, name } = reference;
    let extensions: &Extensions<'_> = &origin.index.extensions;
    let place = Place { namespace: origin.namespace, name };
    let missing =
        || Unresolved { reason: "BackendNotFound", message: format!("{kind} {place}, a filter, does not exist") };
    match (group.as_str(), kind.as_str()) {
        (extension::GROUP, "DirectResponse") => {
            // Its keys may live shorter than what they are compared with.
            let all: &BTreeMap<Place<'_>, Answering<'_>> = &extensions.direct;
            let found = all.get(&place).ok_or_else(missing)?;
            let made = found.made.get_or_init(|| direct(&found.written.spec));
            made.clone().map(Extension::Direct).map_err(|error| Unresolved {
                reason: "InvalidFilter",
                message: format!("{kind} {place} cannot be used: {error}"),
            })
        }
        (extension::GROUP, "HTTPRouteFilter") => {
            let all: &BTreeMap<Place<'_>, &HttpRouteFilter> = &extensions.filters;
            let found = all.get(&place).ok_or_else(missing)?;
            // The schema asks for one; without it, the filter does nothing.
            let compressor = found.spec.compressor.clone();
            let compressor = compressor.unwrap_or(Compressor { disabled: true, ..Compressor::default() });
            Ok(Extension::Compression(compression(&compressor)))
        }
        _ => {
            let message = format!("{group}/{kind} {name} is no filter that is served");
            Err(Unresolved { reason: "InvalidKind", message })
        }
    }
}

fn direct(written: &DirectResponseSpec) -> Result<Direct, DirectError> {
    let status = StatusCode::from_u16(written.status_code).map_err(|_| DirectError::Interim(written.status_code))?;
    if status.is_informational() {
        return Err(DirectError::Interim(written.status_code));
    }
    let body = written.body.as_ref().map(|body| body.inline.as_bytes()).unwrap_or_default();
    // RFC 9110 §15.3.5, §15.3.6 and §15.4.5.
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::NOT_MODIFIED];
    if bodiless.contains(&status) && !body.is_empty() {
        return Err(DirectError::NoBody(status));
    }
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for one in &written.headers {
        let name: HeaderName = one.name.parse().map_err(|_| DirectError::Header(one.name.clone()))?;
        if OURS.contains(&name) {
            return Err(DirectError::OfConnection(name));
        }
        let value = one.value.parse().map_err(|_| DirectError::Header(one.name.clone()))?;
        headers.push((name, value));
    }
    if !body.is_empty() && headers.iter().all(|(name, _)| name != header::CONTENT_TYPE) {
        let value = written.content_type.parse();
        let value = value.map_err(|_| DirectError::ContentType(written.content_type.clone()))?;
        headers.push((header::CONTENT_TYPE, value));
    }
    Ok(Direct { status: written.status_code, headers, body: Bytes::copy_from_slice(body) })
}

fn compression(written: &Compressor) -> Compression {
    let all = [Algorithm::Gzip, Algorithm::Brotli, Algorithm::Zstd];
    let algorithms = written.algorithms.iter().map(|algorithm| match algorithm {
        extension::Algorithm::Gzip => Algorithm::Gzip,
        extension::Algorithm::Brotli => Algorithm::Brotli,
        extension::Algorithm::Zstd => Algorithm::Zstd,
    });
    let content_types: Vec<Box<str>> = match &written.content_type[..] {
        [] => WORDY.iter().map(|&one| one.into()).collect(),
        listed => listed.iter().map(|one| one.trim().to_ascii_lowercase().into()).collect(),
    };
    Compression {
        algorithms: match (written.disabled, written.algorithms.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => all.to_vec(),
            (false, false) => algorithms.collect(),
        },
        least_bytes: written.min_content_length,
        content_types,
    }
}

/// What the statuses of both kinds must say.
pub(super) fn wanted<'a>(
    project: &'a ProjectName,
    objects: &'a ProjectSnapshot,
) -> impl Iterator<Item = WantedStatus> + 'a {
    let answers = objects.direct_responses.iter();
    let answers = answers.map(|one| wanted_of(project, Kind::DirectResponse, &one.metadata, direct(&one.spec).err()));
    let filters = objects.route_filters.iter();
    answers.chain(filters.map(|one| wanted_of(project, Kind::HttpRouteFilter, &one.metadata, None)))
}

fn wanted_of(project: &ProjectName, kind: Kind, metadata: &Metadata, why: Option<DirectError>) -> WantedStatus {
    let at = generation(metadata);
    let accepted = match why {
        None => conditions::yes(at, "Accepted", "Accepted", "routes can use it"),
        Some(error) => conditions::no(at, "Accepted", "Invalid", error.to_string()),
    };
    WantedStatus {
        project: project.clone(),
        namespace: Some(namespace_of(metadata).to_owned()),
        name: metadata.name.clone(),
        status: Status::Other(kind, json!({ "conditions": [accepted] })),
    }
}
