//! `Accept` and `Content-Type` → the form of the answer and of the body (RFC 9110 §12.5.1, §8.3). Pure.

use http::{HeaderMap, header};

use super::status::Failure;

/// The form in which objects are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    Full,
    /// `meta.k8s.io/v1` `Table`: what `kubectl get` prints.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`, or a list of them.
    Partial,
}

/// The form of a discovery answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discovery {
    Legacy,
    /// `apidiscovery.k8s.io` in this version.
    Aggregated(&'static str),
}

/// The form of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Yaml,
    /// Kubernetes' protocol buffers.
    Protobuf,
    Text,
    /// RFC 6902.
    JsonPatch,
    /// RFC 7386.
    MergePatch,
    StrategicMergePatch,
    /// Server-side apply, in YAML or JSON.
    ApplyPatch,
}

/// The most media ranges looked at.
const RANGES_MAX: usize = 32;

/// A media range with its lower-case parameters.
struct Range {
    media: String,
    parameters: Vec<(String, String)>,
}

impl Range {
    fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        let media = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| {
            part.split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        });
        Self { media, parameters: parameters.collect() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn is_json(&self) -> bool {
        ["application/json", "application/*", "*/*"].contains(&self.media.as_str()) && self.get("q") != Some("0")
    }
}

fn ranges(headers: &HeaderMap) -> Vec<Range> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).take(RANGES_MAX).map(Range::parse).collect()
}

/// The first form that the client takes and we have.
///
/// # Errors
/// 406 when it takes none.
pub(super) fn shape(headers: &HeaderMap) -> Result<Shape, Failure> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Shape::Full);
    }
    let shapes = ranges(headers).into_iter().filter(Range::is_json).find_map(|range| match range.get("as") {
        None => Some(Shape::Full),
        Some("table") if range.get("g") == Some("meta.k8s.io") => Some(Shape::Table),
        Some("partialobjectmetadata" | "partialobjectmetadatalist") if range.get("g") == Some("meta.k8s.io") => {
            Some(Shape::Partial)
        }
        Some(_) => None,
    });
    shapes.ok_or_else(Failure::not_acceptable)
}

/// As [`shape`], for `/api` and `/apis`.
///
/// # Errors
/// 406.
pub(super) fn discovery(headers: &HeaderMap) -> Result<Discovery, Failure> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Discovery::Legacy);
    }
    let forms = ranges(headers).into_iter().filter(Range::is_json).find_map(|range| match range.get("as") {
        None => Some(Discovery::Legacy),
        Some("apigroupdiscoverylist") if range.get("g") == Some("apidiscovery.k8s.io") => match range.get("v") {
            Some("v2") => Some(Discovery::Aggregated("v2")),
            Some("v2beta1") => Some(Discovery::Aggregated("v2beta1")),
            _ => None,
        },
        Some(_) => None,
    });
    forms.ok_or_else(Failure::not_acceptable)
}

/// Whether the client would rather have protobuf of `media` than JSON.
pub(super) fn prefers(headers: &HeaderMap, media: &str) -> bool {
    ranges(headers)
        .into_iter()
        .find(|range| range.media == media || range.is_json())
        .is_some_and(|range| range.media == media)
}

/// The form of the body by its `Content-Type`; none is taken for JSON, as Kubernetes does.
///
/// # Errors
/// 415 for a form that is not read.
pub(super) fn media(headers: &HeaderMap) -> Result<Media, Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Media::Json) };
    let text = value.to_str().unwrap_or_default();
    let media = Range::parse(text).media;
    Ok(match media.as_str() {
        "application/json" => Media::Json,
        "application/yaml" | "application/x-yaml" | "text/yaml" => Media::Yaml,
        "application/vnd.kubernetes.protobuf" => Media::Protobuf,
        "text/plain" => Media::Text,
        "application/json-patch+json" => Media::JsonPatch,
        "application/merge-patch+json" => Media::MergePatch,
        "application/strategic-merge-patch+json" => Media::StrategicMergePatch,
        "application/apply-patch+yaml" | "application/apply-patch+json" => Media::ApplyPatch,
        _ => {
            let shown: String = media.chars().take(64).flat_map(char::escape_debug).collect();
            let message = format!(
                "the body of media type `{shown}` is not read here: send application/json or application/yaml, and for a \
                 PATCH application/json-patch+json, merge-patch+json, strategic-merge-patch+json or apply-patch+yaml"
            );
            return Err(Failure::unsupported_media_type(message));
        }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_first_form_that_we_have_is_shown() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        for (value, want) in [
            ("application/json", Some(Shape::Full)),
            ("*/*", Some(Shape::Full)),
            ("application/vnd.kubernetes.protobuf, */*", Some(Shape::Full)),
            (table, Some(Shape::Table)),
            ("application/json;as=Table;v=v1;g=example.com, application/json", Some(Shape::Full)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Shape::Partial)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(shape(&accept(value)).ok(), want, "{value}");
        }
        assert_eq!(shape(&HeaderMap::new()), Ok(Shape::Full));
    }

    #[test]
    fn discovery_is_aggregated_when_asked_for() {
        let value = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(&accept(value)), Ok(Discovery::Aggregated("v2")));
        let value = "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(&accept(value)), Ok(Discovery::Legacy));
    }

    #[test]
    fn bodies_are_told_apart_by_their_type() {
        let of = |value: &'static str| {
            media(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))])).ok()
        };
        assert_eq!(of("application/json; charset=utf-8"), Some(Media::Json));
        assert_eq!(of("application/apply-patch+yaml"), Some(Media::ApplyPatch));
        assert_eq!(of("application/merge-patch+json"), Some(Media::MergePatch));
        assert_eq!(of("application/vnd.kubernetes.protobuf"), Some(Media::Protobuf));
        assert_eq!(media(&HeaderMap::new()), Ok(Media::Json));
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_panic(text in "[ -~]{0,80}") {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(&text).unwrap());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(&text).unwrap());
            let _ = (shape(&headers), discovery(&headers), media(&headers), prefers(&headers, "a/b"));
        }
    }
}
