//! A log that is followed: what is kept, then what is written, until the pod or the reader goes.
//!
//! A reader has a place in the log and no queue of its own: one that is too slow misses the lines that gave way.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Sleep, sleep},
};

use super::lines::{Window, cut};
use crate::{
    api::{
        Api,
        exchange::{Call, Done},
        status::Failure,
    },
    store::object::Object,
};

/// How long a log is followed at most, as of watches.
const LIFE: Duration = Duration::from_hours(24);

/// Answers with what `window` shows of the pod's `container`, and all that comes after.
///
/// # Errors
/// 429 when too many watch or follow.
pub(super) fn follow(call: &Call<'_>, pod: Arc<Object>, container: String, window: Window) -> Result<Done, Failure> {
    let room = call.api.watches.clone().try_acquire_owned().map_err(|_| Failure::too_many())?;
    let follower = Follower {
        written: call.api.logs.written.subscribe(),
        changes: call.api.store.changes(),
        api: call.api.clone(),
        pod,
        container,
        left: window.limit().unwrap_or(usize::MAX),
        window,
        place: None,
        deadline: Box::pin(sleep(LIFE)),
        _room: room,
    };
    let frames = stream::unfold(follower, |mut follower| async move {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), follower))
    });
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(Done::stream(StreamBody::new(frames).boxed_unsync()).header(header::CONTENT_TYPE, text))
}

struct Follower {
    api: Arc<Api>,
    written: watch::Receiver<u64>,
    changes: watch::Receiver<u64>,
    pod: Arc<Object>,
    container: String,
    window: Window,
    /// How many bytes it may still have.
    left: usize,
    /// Up to where it was told; `None` before the first time.
    place: Option<u64>,
    deadline: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Follower {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        while self.left > 0 {
            self.written.mark_unchanged();
            self.changes.mark_unchanged();
            let is_there = self.api.store.get(&self.pod.key).is_some_and(|pod| pod.body.uid == self.pod.body.uid);
            let (text, place) = self.api.logs.read_from(&self.pod.body.uid, &self.container, &self.window, self.place);
            self.place = Some(place);
            if !text.is_empty() {
                let text = cut(text, self.left);
                self.left = if text.is_empty() { 0 } else { self.left - text.len() };
                return Some(text).filter(|text| !text.is_empty());
            }
            if !is_there {
                return None;
            }
            tokio::select! {
                written = self.written.changed() => written.ok()?,
                changed = self.changes.changed() => changed.ok()?,
                () = self.api.shutdown.cancelled() => return None,
                () = &mut self.deadline => return None,
            }
        }
        None
    }
}
