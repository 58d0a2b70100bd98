//! The one mapping from what went wrong to what the client is told: a status and a line of plain text.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};

use super::{
    body::ResponseBody, http1::Http1Error, may_dial::Denied, names::Unresolved, origin::NoOrigin, request::Refusal,
    upstream_tls::TlsFault,
};
use crate::tunnel::DialError;

/// What a client understands an answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Http,
    Grpc,
}

impl Language {
    /// By the content type of the request (gRPC over HTTP/2, "Requests").
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let rest = kind.strip_prefix(b"application/grpc");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";")) {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

/// Why a request was not answered by a backend.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    NoOrigin(#[from] NoOrigin),
    #[error("no route for host {host:?}")]
    UnknownHost { host: String },
    #[error("no route for path {path:?} of host {host:?} with this method and these headers")]
    NoRule { host: String, path: String },
    #[error("host {host:?} is not served on this connection: make another one for it")]
    Misdirected { host: String },
    /// A rule whose backend reference leads nowhere; `status` is the rule's.
    #[error("{text}")]
    Unresolved { status: u16, text: String },
    #[error("{0}")]
    Tunnel(#[from] DialError),
    #[error("the backend may not be reached: {0}")]
    Denied(#[from] Denied),
    #[error("the backend's name {name} {why}")]
    Unknown { name: String, why: Unresolved },
    #[error("the backend does not accept connections: {}", source.kind())]
    Connect { source: io::Error },
    #[error("the backend did not accept a connection in time")]
    ConnectTimedOut,
    #[error("the backend {0}")]
    Tls(#[from] TlsFault),
    #[error("the backend {}", source.describe())]
    Exchange { source: ExchangeError },
    #[error("the backend did not answer in time")]
    AnswerTimedOut,
    #[error("the backend did not answer within the time that the route allows")]
    RouteTimedOut,
    #[error("the request's body stopped coming")]
    UploadStalled,
    #[error("the request's body is malformed, or was broken off")]
    UploadBroken,
    #[error("the backend's answer has two lengths")]
    Framing,
    #[error("the backend switched protocols without being asked to")]
    UnaskedUpgrade,
    #[error("the backend did not take the WebSocket as it should")]
    Handshake,
    #[error("the backend speaks HTTP/2, over which WebSockets are not supported yet")]
    UpgradeUnsupported,
    #[error("the request has come back to the gateway that sent it to the host it names")]
    Loop,
    #[error("the gateway could not forward the request")]
    Internal,
}

/// What broke an exchange, in the words of the protocol that it was over.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("{0}")]
    Http1(#[from] Http1Error),
    #[error("{0}")]
    Http2(#[from] hyper::Error),
}

impl ExchangeError {
    /// What it looks like from outside.
    fn describe(&self) -> &'static str {
        let is_malformed = match self {
            Self::Http1(error) => error.is_malformed(),
            Self::Http2(error) => error.is_parse() || error.is_parse_too_large() || error.is_parse_status(),
        };
        if is_malformed {
            "answered with something that is not valid HTTP"
        } else {
            "closed the connection before it answered"
        }
    }
}

impl From<Http1Error> for Failure {
    fn from(error: Http1Error) -> Self {
        match error {
            Http1Error::Upload(error) if error.is_late() => Self::UploadStalled,
            Http1Error::Upload(_) => Self::UploadBroken,
            error => Self::Exchange { source: error.into() },
        }
    }
}

impl Failure {
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Refused(Refusal::TooManyHeaders) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Refused(Refusal::Connect | Refusal::Protocol) | Self::UpgradeUnsupported => {
                StatusCode::NOT_IMPLEMENTED
            }
            Self::Refused(_) | Self::UploadBroken => StatusCode::BAD_REQUEST,
            Self::NoOrigin(_) => StatusCode::FORBIDDEN,
            Self::UnknownHost { .. } | Self::NoRule { .. } => StatusCode::NOT_FOUND,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Unresolved { status, .. } => {
                StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Self::Tunnel(DialError::NodeAway { .. } | DialError::Overloaded { .. }) | Self::Unknown { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Tunnel(DialError::TimedOut { .. })
            | Self::ConnectTimedOut
            | Self::AnswerTimedOut
            | Self::RouteTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Tunnel(
                DialError::Refused { .. }
                | DialError::NotPublished { .. }
                | DialError::Unreachable { .. }
                | DialError::PacketsOnly { .. },
            )
            | Self::Denied(_)
            | Self::Connect { .. }
            | Self::Tls(_)
            | Self::Exchange { .. }
            | Self::Framing
            | Self::UnaskedUpgrade
            | Self::Handshake => StatusCode::BAD_GATEWAY,
            Self::UploadStalled => StatusCode::REQUEST_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether nothing more on the client's connection can be trusted.
    fn is_suspicious(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::UploadStalled | Self::UploadBroken)
    }

    /// Whether the backend could not be reached, or broke off before it answered.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(
            self,
            Self::Tunnel(_)
                | Self::Unknown { .. }
                | Self::Connect { .. }
                | Self::ConnectTimedOut
                | Self::Tls(_)
                | Self::Exchange { .. }
        )
    }

    /// What gRPC calls it (grpc-status of the HTTP mapping in the gRPC core documentation).
    fn grpc_status(&self) -> u16 {
        match self.status().as_u16() {
            404 => 12,
            400 | 431 => 13,
            504 | 408 => 4,
            500..=599 => 14,
            _ => 2,
        }
    }

    /// The answer in the words of gRPC: only header fields, which say what would stand in trailers.
    fn grpc_response(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", self.grpc_status().into());
        // What is not plain ASCII is written as `%XX` (gRPC over HTTP/2, "Percent-Byte").
        let encoded: String = self.to_string().bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
            text
        });
        headers
            .extend(HeaderValue::from_str(&encoded).ok().map(|text| (HeaderName::from_static("grpc-message"), text)));
        response
    }

    /// The answer: plain text, never cached, never sniffed.
    pub(super) fn response(&self, version: Version, language: Language) -> Response<ResponseBody> {
        if language == Language::Grpc {
            return self.grpc_response();
        }
        let text = Bytes::from(format!("{self}\n"));
        let mut response = Response::new(ResponseBody::text(text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.is_suspicious() && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnel_failures_have_their_own_status_and_keep_their_text() {
        let node = || "office".parse().unwrap();
        let check = |error: DialError, status: u16| {
            let text = error.to_string();
            let failure = Failure::from(error);
            assert_eq!(failure.status().as_u16(), status, "{text}");
            assert_eq!(failure.to_string(), text);
        };
        check(DialError::NodeAway { node: node() }, 503);
        check(DialError::Overloaded { node: node() }, 503);
        check(DialError::Refused { node: node(), port: 1 }, 502);
        check(DialError::NotPublished { node: node(), port: 1 }, 502);
        check(DialError::Unreachable { node: node(), port: 1, reason: "x".into() }, 502);
        check(DialError::TimedOut { node: node() }, 504);
    }

    #[test]
    fn hosts_are_quoted_in_the_answer() {
        let failure = Failure::UnknownHost { host: "a.com".into() };
        assert_eq!(failure.to_string(), "no route for host \"a.com\"");
        assert_eq!(failure.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn refused_requests_end_their_http1_connection() {
        let refused = Failure::from(Refusal::NoHost);
        assert_eq!(refused.response(Version::HTTP_11, Language::Http).headers()[header::CONNECTION], "close");
        assert!(!refused.response(Version::HTTP_2, Language::Http).headers().contains_key(header::CONNECTION));
    }
}
