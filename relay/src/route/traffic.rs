//! How a backend's endpoints are dealt with: what a BackendTrafficPolicy comes to.
//!
//! Plain data, compiled by `translate`; [`super::fleet`] and `proxy` act on it.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};

use super::{filter::Retry, target::Link};
use crate::proxy_protocol::Version;

/// The settings for a backend. What is `None` stays as it is without a policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    pub balance: Option<Balance>,
    pub health: Option<Arc<Health>>,
    pub limits: Option<Limits>,
    pub retry: Option<Retry>,
    /// From the request's head to the end of the response, where the route sets no limit.
    pub request_timeout: Option<Duration>,
    /// Of each attempt, until the head of the answer, where the route sets no limit.
    pub attempt_timeout: Option<Duration>,
    /// Whether endpoints are told who the client is.
    pub announce: Option<Version>,
    pub link: Link,
}

impl Traffic {
    /// These settings, and those of `below` where there are none.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self {
            balance: self.balance.clone().or_else(|| below.balance.clone()),
            health: self.health.clone().or_else(|| below.health.clone()),
            limits: self.limits.or(below.limits),
            retry: self.retry.clone().or_else(|| below.retry.clone()),
            request_timeout: self.request_timeout.or(below.request_timeout),
            attempt_timeout: self.attempt_timeout.or(below.attempt_timeout),
            announce: self.announce.or(below.announce),
            link: self.link.over(below.link),
        }
    }
}

/// How an endpoint is chosen; without any, by chance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Balance {
    Random,
    RoundRobin {
        /// How long until a new endpoint has its full share.
        slow_start: Option<Duration>,
    },
    /// The one of two, taken by chance, that has less to do.
    LeastRequest {
        slow_start: Option<Duration>,
    },
    ConsistentHash {
        on: HashOn,
        /// Size of the Maglev table, a prime.
        table_size: u32,
    },
}

/// What requests have in common that go to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashOn {
    SourceIp,
    Header(HeaderName),
    Cookie {
        name: Box<str>,
        /// What follows `NAME=VALUE` in the cookie that is made for requests without one; `None`: none is made.
        made: Option<Box<str>>,
    },
}

/// How it is known which endpoints may get requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Health {
    /// Below this share of healthy endpoints all are used again.
    pub panic_percent: u8,
    pub passive: Option<Passive>,
    pub active: Option<Active>,
}

/// Endpoints are judged by how they answer requests. A threshold of zero is never reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Passive {
    /// Whether connections that failed count for themselves, and not as answers 503.
    pub split: bool,
    /// How long a good endpoint needs to live down one ejection.
    pub interval: Duration,
    pub local_failures: u32,
    /// 502, 503, 504.
    pub gateway_errors: u32,
    /// 500 and above.
    pub server_errors: u32,
    /// How long an endpoint stays out, times how often it was.
    pub base: Duration,
    pub max_percent: u8,
}

/// Endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Active {
    pub probe: Probe,
    pub timeout: Duration,
    pub interval: Duration,
    /// By how much the first time is spread.
    pub initial_jitter: Duration,
    /// Failures in a row that take an endpoint out, and successes in a row that bring it back. At least 1.
    pub unhealthy: u32,
    pub healthy: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probe {
    Http {
        method: Method,
        /// With the query.
        path: Box<str>,
        /// `None`: the endpoint's own name.
        host: Option<HeaderValue>,
        /// Good answers, ascending.
        statuses: Vec<u16>,
        /// What must be in the answer's body; empty: anything.
        body: Arc<[u8]>,
    },
    /// Both empty: connecting is enough.
    Tcp { send: Arc<[u8]>, receive: Arc<[u8]> },
    /// `grpc.health.v1.Health/Check` of this service; empty: the whole server.
    Grpc { service: Box<str> },
}

/// How much a backend may have to do at once at this relay; what is more is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limits {
    /// Requests, or connections of streams.
    pub requests: u32,
    pub retries: u32,
    /// Connections in use, of those that serve one request or stream at a time.
    pub connections: u32,
    /// The same of each endpoint.
    pub per_endpoint: u32,
    pub budget: Option<Budget>,
}

/// How many of the requests in flight may be retries: a backend in trouble is not asked for a multiple of what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Budget {
    /// Of all that are in flight, 0..=100.
    pub percent: u8,
    /// So many may be in any case.
    pub least: u32,
}

impl Limits {
    /// The most retries among `requests` in flight.
    #[must_use]
    pub fn retries_of(&self, requests: u32) -> u32 {
        let share = |percent: u8| u64::from(requests) * u64::from(percent.min(100)) / 100;
        let budget = |budget: Budget| u32::try_from(share(budget.percent)).unwrap_or(u32::MAX).max(budget.least);
        self.budget.map_or(self.retries, |one| budget(one).min(self.retries))
    }
}
