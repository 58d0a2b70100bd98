//! Watches: what changes below a list, as it changes.
//!
//! [`Watch`] is one answer that does not end; [`Follow`] is a list and the watches behind it, made anew whenever one ends.
//! What the objects mean is for the caller.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rand::RngExt as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{Body, Client, ClientError, Connection, REQUEST_TIMEOUT, with_query};
use crate::cli::status::ApiError;

/// The longest line of a watch in bytes: more than the relay accepts as an object, with room for its managed fields.
pub(super) const LINE_BYTES_MAX: usize = 4 << 20;
/// How long the relay is asked to keep a watch open. Ending it now and then moves watchers off a relay that stops.
const WATCH: Duration = Duration::from_secs(300);
/// A watch that says nothing for longer is dead, even if no one closed its connection.
const SILENCE_MAX: Duration = Duration::from_secs(330);
/// How often in a row a watch may fail before the caller is told: with the pauses, about half a minute.
const FAILURES_MAX: u32 = 8;
/// The pause before a watch is made anew; it doubles with each failure in a row.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One thing that a watch tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Added(Value),
    Modified(Value),
    /// With the object as it was last.
    Deleted(Value),
    /// Nothing happened up to this revision.
    Bookmark(Value),
}

impl Event {
    fn object(&self) -> &Value {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) | Self::Bookmark(object) => object,
        }
    }
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    lines: Lines,
    server: String,
    /// Lives as long as the answer.
    _connection: Connection,
}

impl Watch {
    /// The next event; `None` when the relay ended the watch.
    ///
    /// # Errors
    /// [`ClientError::Api`] for an `ERROR` event (410: the revision is too old, list again); the others when the
    /// connection broke, or brought what is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(line) = self.lines.next().map_err(|TooLong| ClientError::LineTooLong)? {
                return self.read(&line).map(Some);
            }
            let broken = |reason: String| ClientError::BrokenOff { server: self.server.clone(), reason };
            match timeout(SILENCE_MAX, self.body.frame()).await {
                Err(_) => return Err(broken(format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(broken(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
            }
        }
    }

    fn read(&self, line: &[u8]) -> Result<Event, ClientError> {
        let strange = || ClientError::NotUnderstood {
            server: self.server.clone(),
            status: http::StatusCode::OK,
            excerpt: String::from_utf8_lossy(line).chars().take(200).collect(),
        };
        let mut event: Value = serde_json::from_slice(line).map_err(|_| strange())?;
        let object = event.get_mut("object").map(Value::take).filter(Value::is_object).ok_or_else(strange)?;
        match event["type"].as_str() {
            Some("ADDED") => Ok(Event::Added(object)),
            Some("MODIFIED") => Ok(Event::Modified(object)),
            Some("DELETED") => Ok(Event::Deleted(object)),
            Some("BOOKMARK") => Ok(Event::Bookmark(object)),
            Some("ERROR") => {
                let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
                Err(ClientError::Api(Box::new(ApiError::from_status(code, &object))))
            }
            _ => Err(strange()),
        }
    }
}

impl Client {
    /// Watches the list at `path` from `revision` on, on a connection of its own.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn watch(
        &mut self,
        path: &str,
        selection: &[(&str, &str)],
        revision: &str,
    ) -> Result<Watch, ClientError> {
        let seconds = WATCH.as_secs().to_string();
        let how = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", revision),
            ("timeoutSeconds", &seconds),
        ];
        let path = with_query(&with_query(path, selection), &how);
        let mut connection = self.connection().await?;
        let request = self.request(Method::GET, &path, Body::None);
        let answer = match timeout(REQUEST_TIMEOUT, connection.sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broken_off(&error)),
            Err(_) => return Err(ClientError::TimedOut { server: self.server.to_string() }),
        };
        let (head, body) = answer.into_parts();
        self.keep_warnings(&head.headers);
        if head.status != http::StatusCode::OK {
            let bytes = match timeout(REQUEST_TIMEOUT, super::read(body)).await {
                Ok(bytes) => bytes.map_err(|error| self.broken_off(error.as_ref()))?,
                Err(_) => return Err(ClientError::TimedOut { server: self.server.to_string() }),
            };
            self.understand(head.status, &bytes)?;
            return Err(ClientError::NotUnderstood {
                server: self.server.to_string(),
                status: head.status,
                excerpt: "a watch that is not one".to_owned(),
            });
        }
        Ok(Watch { body, lines: Lines::default(), server: self.server.to_string(), _connection: connection })
    }

    /// The objects at `path` now, and then what becomes of them, for as long as somebody asks.
    #[must_use]
    pub fn follow<'a>(&'a mut self, path: &str, selection: &[(&str, &str)]) -> Follow<'a> {
        self.follow_from(path, selection, None)
    }

    /// The same, from where a list ended that the caller has read.
    #[must_use]
    pub fn follow_from<'a>(
        &'a mut self,
        path: &str,
        selection: &[(&str, &str)],
        revision: Option<String>,
    ) -> Follow<'a> {
        Follow {
            client: self,
            path: path.to_owned(),
            selection: selection.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            revision,
            watch: None,
            failures: 0,
        }
    }
}

/// What [`Follow`] tells.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// All that is there now: comes first, and again whenever the relay no longer knows what happened since.
    Listed(Vec<Value>),
    Added(Value),
    Modified(Value),
    Deleted(Value),
}

/// A list, then a watch from where the list ended, then the next watch from where that one ended.
#[derive(Debug)]
pub struct Follow<'a> {
    client: &'a mut Client,
    path: String,
    selection: Vec<(String, String)>,
    /// Where the next watch begins; `None` when a list has to tell.
    revision: Option<String>,
    watch: Option<Watch>,
    /// In a row.
    failures: u32,
}

impl Follow<'_> {
    /// The next news; waits for as long as there is none.
    ///
    /// # Errors
    /// When the list is refused, and when watches fail too often in a row.
    pub async fn next(&mut self) -> Result<News, ClientError> {
        loop {
            let Some(revision) = self.revision.clone() else {
                let selection = pairs(&self.selection);
                let list = self.client.list(&self.path, &selection).await?;
                self.revision = Some(list.revision);
                return Ok(News::Listed(list.items));
            };
            let result = match &mut self.watch {
                Some(watch) => watch.next().await,
                None => match self.client.watch(&self.path, &pairs(&self.selection), &revision).await {
                    Ok(watch) => {
                        self.watch = Some(watch);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match result {
                Ok(Some(event)) => {
                    self.failures = 0;
                    if let Some(revision) = event.object()["metadata"]["resourceVersion"].as_str() {
                        self.revision = Some(revision.to_owned());
                    }
                    match event {
                        Event::Added(object) => return Ok(News::Added(object)),
                        Event::Modified(object) => return Ok(News::Modified(object)),
                        Event::Deleted(object) => return Ok(News::Deleted(object)),
                        Event::Bookmark(_) => {}
                    }
                }
                Ok(None) => {
                    self.watch = None;
                    pause(0).await;
                }
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// The news as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<News, ClientError>> {
        stream::try_unfold(self, |mut follow| async move {
            let news = follow.next().await?;
            Ok(Some((news, follow)))
        })
    }

    async fn recover(&mut self, error: ClientError) -> Result<(), ClientError> {
        self.watch = None;
        self.failures += 1;
        let is_expired = error.as_api().is_some_and(|error| error.code == 410);
        let is_passing = match &error {
            ClientError::Api(error) => is_expired || error.code == 429 || error.code >= 500,
            ClientError::Unreachable { .. } | ClientError::BrokenOff { .. } | ClientError::TimedOut { .. } => true,
            _ => false,
        };
        if !is_passing || self.failures > FAILURES_MAX {
            return Err(error);
        }
        if is_expired {
            self.revision = None;
        }
        pause(self.failures - 1).await;
        Ok(())
    }
}

fn pairs(selection: &[(String, String)]) -> Vec<(&str, &str)> {
    selection.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Between half and all of what is due, so that many watchers of one relay do not come back at once.
async fn pause(failures: u32) {
    let longest = PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(PAUSE_MAX);
    sleep(longest.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)).await;
}

/// Bytes as they come → lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: BytesMut,
    /// So far no line ends within these.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line that is not blank, without its end.
    ///
    /// # Errors
    /// When a line is longer than [`LINE_BYTES_MAX`], whether it has ended or not.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            let Some(more) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return if self.searched > LINE_BYTES_MAX { Err(TooLong) } else { Ok(None) };
            };
            let length = self.searched + more;
            if length > LINE_BYTES_MAX {
                return Err(TooLong);
            }
            let line = self.buffer.split_to(length).freeze();
            self.buffer.advance(1);
            self.searched = 0;
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

/// A line is longer than any may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;
