//! One request's way to its backend and back: copies for mirrors, time-outs, and further attempts where the route asks.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, request::Parts};
use hyper::body::Body as _;
use tokio::time::{sleep, timeout, timeout_at};

use super::{
    Client, Proxy,
    answer::Failure,
    body::{BodyError, ClientBody, Meter, RequestBody, next_frame},
    forward, mirror, prepare,
    request::Asked,
    session::{self, Pinned},
    upgrade,
    upstream::Received,
};
use crate::{
    clock,
    route::{
        filter::Retry,
        fleet::{Ask, Held, Outcome},
        target::{Backend, Rule, Upstream},
    },
};

/// The longest body that is kept to be sent again, in bytes. Requests with longer ones are sent once.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What the backend is sent, but for the body.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) parts: Parts,
    pub(super) asked: Asked,
}

/// An answer, and when all of it must have passed.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) response: Response<Received>,
    pub(super) deadline: Option<Instant>,
    /// The endpoint, which has it to do as long as this is held.
    pub(super) held: Option<Held>,
    /// Where the endpoint is, if the rule keeps sessions.
    pub(super) place: Option<u64>,
}

/// What does not change between attempts.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) rule: &'a Arc<Rule>,
    pub(super) backend: &'a Backend,
    pub(super) client: &'a Client,
    /// Whether the client takes trailers.
    pub(super) trailers: bool,
    pub(super) meter: Arc<Meter>,
    pub(super) arrived: Instant,
    /// What the request has in common with others that go to the same endpoint.
    pub(super) key: Option<u64>,
    /// Where the client's session is.
    pub(super) pinned: Option<&'a Pinned>,
    /// How long the listener lets neither side say anything.
    pub(super) idle: Option<Duration>,
}

impl Exchange<'_> {
    /// Sends the request, and again as the rule says. `of_rule` is what mirrors of the rule get, if there are any.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub(super) async fn run(
        &self,
        sent: Box<Sent>,
        of_rule: Option<Box<Sent>>,
        incoming: ClientBody,
        upgrades: bool,
    ) -> Result<Answered, Failure> {
        let of_policy = self.backend.traffic().and_then(|traffic| traffic.request_timeout);
        let deadline = self.rule.timeouts.request.or(of_policy).map(|limit| self.arrived + limit);
        let mut attempts = pin!(self.attempts((sent, of_rule), incoming, upgrades, deadline));
        let mut answering = pin!(async {
            match self.idle {
                None => attempts.as_mut().await,
                // Boxed, so that requests without such a limit are no larger for it.
                Some(limit) => Box::pin(unless_silent(limit, &self.meter, attempts)).await,
            }
        });
        let mut answered = match deadline {
            None => answering.as_mut().await?,
            Some(at) => Box::pin(timeout_at(at.into(), answering)).await.unwrap_or(Err(Failure::RouteTimedOut))?,
        };
        self.meter.answered();
        answered.deadline = answered.deadline.into_iter().chain(deadline).min();
        Ok(answered)
    }

    async fn attempts(
        &self,
        (sent, of_rule): (Box<Sent>, Option<Box<Sent>>),
        incoming: ClientBody,
        upgrades: bool,
        until: Option<Instant>,
    ) -> Result<Answered, Failure> {
        let bodiless = incoming.is_end_stream();
        let of_policy = || self.backend.traffic().and_then(|traffic| traffic.retry.as_ref());
        let retry = self.rule.retry.as_ref().or_else(of_policy).filter(|_| !upgrades);
        let mut body = match (bodiless, retry) {
            (true, _) => RequestBody::Empty,
            (false, None) => RequestBody::stream(incoming, self.meter.clone()),
            (false, Some(_)) => Box::pin(gather(incoming, &self.meter)).await?,
        };
        if let Some(of_rule) = &of_rule {
            self.mirror(&self.rule.filters.mirrors, of_rule, &mut body, bodiless);
        }
        self.mirror(&self.backend.filters.mirrors, &sent, &mut body, bodiless);

        match (retry, &body) {
            (None, _) | (_, RequestBody::Stream(_) | RequestBody::Copy(_)) => {
                self.attempt(sent, (body, bodiless), upgrades, (false, until)).await
            }
            (Some(retry), RequestBody::Empty | RequestBody::Whole(_)) => {
                Box::pin(self.several(retry, sent, (body, bodiless), until)).await
            }
        }
    }

    /// As many attempts as it takes, of those that `retry` grants.
    async fn several(
        &self,
        retry: &Retry,
        mut sent: Box<Sent>,
        (mut body, bodiless): (RequestBody, bool),
        until: Option<Instant>,
    ) -> Result<Answered, Failure> {
        let mut tried = 0;
        while tried < retry.attempts {
            let (same, copy) = (sent.clone(), body.copy());
            let answered = self.attempt(sent, (body, bodiless), false, (tried > 0, until)).await;
            if !is_worth_another(&answered, retry) {
                return answered;
            }
            drop(answered);
            sleep(pause(retry, tried)).await;
            tried += 1;
            (sent, body) = (same, copy);
        }
        self.attempt(sent, (body, bodiless), false, (tried > 0, until)).await
    }

    async fn attempt(
        &self,
        mut sent: Box<Sent>,
        (body, bodiless): (RequestBody, bool),
        upgrades: bool,
        (is_retry, until): (bool, Option<Instant>),
    ) -> Result<Answered, Failure> {
        let unresolved = |answer: crate::route::target::Answer| Failure::Unresolved {
            status: answer.status,
            text: answer.text.as_ref().to_owned(),
        };
        let routing = &self.proxy.routing;
        let ask = Ask { seed: rand::random(), key: self.key, now: self.balanced_at(), is_retry };
        let (upstream, held, place) = match &self.rule.session {
            None => self.backend.choose(&ask).map(|(upstream, held)| (upstream, held, None)),
            // Another attempt need not fail where the first one did.
            Some(_) => {
                let (of_rule, pinned) = ((&**self.rule, self.backend), self.pinned.filter(|_| !is_retry));
                session::choose(routing, of_rule, pinned, &ask, self.client).map(|(up, held, at)| (up, held, Some(at)))
            }
        }
        .map_err(unresolved)?;
        if upgrades && upstream.protocol == crate::route::target::Protocol::Http2 {
            return Err(Failure::UpgradeUnsupported);
        }
        let upstream = forward::towards(&routing.pseudonym, upstream, &mut sent)?;
        let upstream = &upstream.on_behalf_of(self.client.address, self.client.local);
        let replay = bodiless && sent.parts.method.is_idempotent();
        let request = self.request(sent, upstream, body, bodiless, upgrades)?;
        let of_policy = self.backend.traffic().and_then(|traffic| traffic.attempt_timeout);
        let limit = self.rule.timeouts.backend_request.or(of_policy);
        let deadline = limit.map(|limit| clock::instant() + limit);
        // An endpoint that takes all the time there is has failed.
        let by = deadline.into_iter().chain(until).min();
        // Few clocks are read for a request that is sent as it came.
        let asked = if bodiless && !is_retry { self.arrived } else { clock::instant() };
        let sending = self.proxy.pool.send(upstream, self.client.address, request, (replay, asked), &self.meter);
        let mut sending = pin!(sending);
        let sent = match by {
            None => sending.as_mut().await,
            // Boxed, so that requests without such a limit are no larger for it.
            Some(at) => Box::pin(timeout_at(at.into(), sending)).await.unwrap_or(Err(Failure::RouteTimedOut)),
        };
        if let (Some(held), Some(outcome)) = (&held, outcome(&sent)) {
            held.report(outcome, routing.now());
        }
        Ok(Answered { response: sent?, deadline, held, place })
    }

    /// The time for the balancers; nobody asks for it without one.
    fn balanced_at(&self) -> Duration {
        self.backend.traffic().map_or(Duration::ZERO, |_| self.proxy.routing.now())
    }

    fn request(
        &self,
        sent: Box<Sent>,
        upstream: &Upstream,
        body: RequestBody,
        bodiless: bool,
        upgrades: bool,
    ) -> Result<Box<Request<RequestBody>>, Failure> {
        let Sent { mut parts, asked } = *sent;
        prepare(&mut parts, &asked, upstream.protocol, bodiless, self.trailers)?;
        if upgrades {
            upgrade::ask(&mut parts.headers);
        }
        Ok(Box::new(Request::from_parts(parts, body)))
    }

    fn mirror(&self, mirrors: &[crate::route::filter::Mirror], sent: &Sent, body: &mut RequestBody, bodiless: bool) {
        for one in mirrors.iter().filter(|one| mirror::is_due(one, rand::random())) {
            // A mirror that leads nowhere says so in the route's status.
            let Ok(upstream) = one.backend.endpoint(rand::random()) else { continue };
            let mut sent = Box::new(sent.clone());
            let towards = forward::towards(&self.proxy.routing.pseudonym, upstream.clone(), &mut sent);
            let Ok(upstream) = towards else { continue };
            if let Ok(request) = self.request(sent, &upstream, body.copy(), bodiless, false) {
                let upstream = upstream.on_behalf_of(self.client.address, self.client.local);
                self.proxy.mirrors.send(upstream, self.client.address, request);
            }
        }
    }
}

/// Waits for the answer as long as something of the request comes within each `limit`.
async fn unless_silent<T>(
    limit: Duration,
    meter: &Meter,
    mut answered: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    loop {
        let before = meter.bytes();
        match timeout(limit, answered.as_mut()).await {
            Ok(answered) => return answered,
            Err(_) if meter.bytes() == before => return Err(Failure::AnswerTimedOut),
            Err(_) => {}
        }
    }
}

/// What an exchange says of the endpoint; nothing where the client broke it off.
fn outcome(sent: &Result<Response<Received>, Failure>) -> Option<Outcome> {
    match sent {
        Ok(response) => Some(Outcome::Answered(response.status().as_u16())),
        Err(failure) if failure.is_of_connection() => Some(Outcome::Failed),
        Err(Failure::RouteTimedOut | Failure::AnswerTimedOut) => Some(Outcome::Failed),
        Err(_) => None,
    }
}

/// Answers that the route lists, connections that failed, and attempts that took too long.
fn is_worth_another(answered: &Result<Answered, Failure>, retry: &Retry) -> bool {
    match answered {
        Ok(answered) => retry.codes.binary_search(&answered.response.status().as_u16()).is_ok(),
        Err(failure) => failure.is_of_connection() || matches!(failure, Failure::RouteTimedOut),
    }
}

/// At least the route's pause, doubled each time, up to ten times it, and up to half as much again by chance.
fn pause(retry: &Retry, tried: u32) -> Duration {
    let base = (retry.backoff * 2_u32.saturating_pow(tried)).min(retry.backoff * 10);
    base + base.mul_f64(rand::random::<f64>() / 2.0)
}

/// Reads the body whole when it is short enough.
async fn gather(mut incoming: ClientBody, meter: &Arc<Meter>) -> Result<RequestBody, Failure> {
    let mut parts = VecDeque::new();
    let mut length = 0;
    while let Some(frame) = next_frame(&mut incoming).await {
        let frame = frame.map_err(|error| match error {
            BodyError::Stalled(_) | BodyError::Late(_) => Failure::UploadStalled,
            _ => Failure::UploadBroken,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        parts.push_back(data);
        if length > KEPT_BYTES_MAX {
            return Ok(RequestBody::rest(parts, incoming, meter.clone()));
        }
    }
    meter.add(length as u64);
    let mut whole = BytesMut::with_capacity(length);
    parts.iter().for_each(|part: &Bytes| whole.extend_from_slice(part));
    Ok(RequestBody::Whole(Some(whole.freeze())))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
    use hyper::body::Frame;

    use super::*;

    fn body(frames: impl futures_util::Stream<Item = Result<Frame<Bytes>, BodyError>> + Send + 'static) -> ClientBody {
        ClientBody::Other(UnsyncBoxBody::new(StreamBody::new(frames)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_kept_for_retries_is_not_waited_for_without_end() {
        let stalled = body(futures_util::stream::pending());
        assert!(matches!(gather(stalled, &Arc::default()).await, Err(Failure::UploadStalled)));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_before_it_is_sent_is_the_clients_fault() {
        let parts = [Ok(Frame::data(Bytes::from_static(b"abc"))), Err(BodyError::Length)];
        let broken = gather(body(futures_util::stream::iter(parts)), &Arc::default()).await;
        assert!(matches!(broken, Err(Failure::UploadBroken)));
        let parts = [Ok(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::data(Bytes::from_static(b"de")))];
        let whole = gather(body(futures_util::stream::iter(parts)), &Arc::default()).await.unwrap();
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abcde");
    }
}
