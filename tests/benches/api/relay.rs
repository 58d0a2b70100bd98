//! The relay's side: its API over HTTP/2, with the administrator's certificate.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use serde_json::Value;
use underpass_tests::relay::Relay;

use crate::side::{Listed, Place, Side, object};

static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// How many requests were answered 429 until now.
#[must_use]
pub(crate) fn refused() -> usize {
    REFUSED.load(Ordering::Relaxed)
}

/// One HTTP/2 connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    authority: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// `count` connections to `relay`.
    pub(crate) async fn several(relay: &Relay, count: usize) -> Vec<Self> {
        let api = relay.api();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let sender = api.http2().await.expect("the relay takes a connection");
            clients.push(Self { authority: api.address().to_string(), sender });
        }
        clients
    }

    /// The stream of events after `revision` in one namespace.
    ///
    /// # Errors
    /// When the relay refuses.
    pub(crate) async fn watch(&mut self, namespace: &str, revision: u64) -> anyhow::Result<Incoming> {
        let path = format!("{}?watch=1&resourceVersion={revision}", collection(Some(namespace)));
        Ok(self.begin(Method::GET, &path, String::new()).await?.into_body())
    }

    async fn begin(&mut self, method: Method, path: &str, body: String) -> anyhow::Result<Response<Incoming>> {
        let body = Bytes::from(body);
        loop {
            let request = Request::builder()
                .method(method.clone())
                .uri(format!("https://{}{path}", self.authority))
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::USER_AGENT, "bench")
                .body(Full::new(body.clone()))?;
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                REFUSED.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                continue;
            }
            if !response.status().is_success() {
                let (head, body) = response.into_parts();
                let text = body.collect().await?.to_bytes();
                anyhow::bail!("{method} {path}: {}: {}", head.status, String::from_utf8_lossy(&text));
            }
            return Ok(response);
        }
    }

    async fn write(&mut self, method: Method, path: &str, body: String) -> anyhow::Result<u64> {
        let response = self.begin(method, path, body).await?;
        let answer: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
        let revision = answer["metadata"]["resourceVersion"].as_str().context("an object has a revision")?;
        Ok(revision.parse()?)
    }
}

impl Side for Client {
    async fn create(&mut self, place: &Place) -> anyhow::Result<u64> {
        self.write(Method::POST, &collection(Some(&place.namespace)), object(place, 0)).await
    }

    async fn update(&mut self, place: &Place, revision: u64) -> anyhow::Result<u64> {
        let path = format!("{}/{}", collection(Some(&place.namespace)), place.name);
        self.write(Method::PUT, &path, object(place, revision)).await
    }

    async fn list(&mut self, namespace: Option<&str>, limit: Option<usize>) -> anyhow::Result<Listed> {
        let (path, mut listed, mut next) = (collection(namespace), Listed::default(), String::new());
        loop {
            let query = limit.map_or(String::new(), |limit| format!("?limit={limit}{next}"));
            let response = self.begin(Method::GET, &format!("{path}{query}"), String::new()).await?;
            let bytes = response.into_body().collect().await?.to_bytes();
            listed.bytes += bytes.len();
            listed.objects += count(&bytes, b"\"uid\":\"");
            match after(&bytes, b"\"continue\":\"") {
                Some(token) if !token.is_empty() => next = format!("&continue={}", std::str::from_utf8(token)?),
                _ => return Ok(listed),
            }
        }
    }
}

fn collection(namespace: Option<&str>) -> String {
    namespace.map_or("/api/v1/configmaps".to_owned(), |name| format!("/api/v1/namespaces/{name}/configmaps"))
}

/// How often `what`, which begins with a quote, stands in `text`. Cheaper than parsing, which no figure should hold.
fn count(text: &[u8], what: &[u8]) -> usize {
    let quotes = text.iter().enumerate().filter(|(_, byte)| **byte == b'"');
    quotes.filter(|(at, _)| text[*at..].starts_with(what)).count()
}

/// The text between the last `what` and the next quote.
fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    // Metadata stands at one of the two ends.
    let at = text.windows(what.len()).take(1024).position(|window| window == what);
    let at = at.or_else(|| {
        let from = text.len().saturating_sub(1024);
        text[from..].windows(what.len()).position(|window| window == what).map(|at| at + from)
    })?;
    let rest = &text[at + what.len()..];
    Some(&rest[..rest.iter().position(|byte| *byte == b'"')?])
}
