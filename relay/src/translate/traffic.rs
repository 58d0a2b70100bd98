//! The settings of a BackendTrafficPolicy → what the route table deals with backends by.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderName, HeaderValue, Method, uri::PathAndQuery};
use underpass_shared::resource::backend_traffic_policy as written;

use crate::{
    proxy_protocol::Version,
    route::{
        filter::Retry,
        maglev::{self, TABLE_SIZE_MAX},
        target::{Keepalive, Link},
        traffic::{Active, Balance, Budget, HashOn, Health, Limits, Passive, Probe, Traffic},
    },
};

/// The shortest interval between two questions to an endpoint: below it, asking would be work of its own.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What a duration may be at most: longer ones mean as much.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What connecting may take at most: whoever waits has given up by then.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// The share of healthy endpoints below which all are used, where the policy names none (Envoy's default).
const PANIC_PERCENT: u8 = 50;

/// The least pause before another attempt (Envoy's default).
const BACKOFF: Duration = Duration::from_millis(25);

/// Why a policy cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TrafficError {
    #[error("{0} is not a duration")]
    Duration(&'static str),
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("loadBalancer.consistentHash.tableSize must be a prime of at most {TABLE_SIZE_MAX}")]
    TableSize,
}

pub(super) fn read(spec: &written::BackendTrafficPolicySpec) -> Result<Traffic, TrafficError> {
    let mut traffic = Traffic {
        balance: spec.load_balancer.as_ref().map(balance).transpose()?,
        health: spec.health_check.as_ref().map(health).transpose()?.map(Arc::new),
        limits: spec.circuit_breaker.as_ref().map(limits),
        ..Traffic::default()
    };
    if let Some(retry) = &spec.retry {
        let of_each = retry.per_retry.as_ref();
        traffic.retry = Some(self::retry(retry)?);
        traffic.attempt_timeout = limit(of_each.and_then(|each| each.timeout.as_deref()), "retry.perRetry.timeout")?;
    }
    let of_http = spec.timeout.as_ref().and_then(|timeout| timeout.http.as_ref());
    let request = of_http.and_then(|http| http.request_timeout.as_deref());
    let of_tcp = spec.timeout.as_ref().and_then(|timeout| timeout.tcp.as_ref());
    let connect = of_tcp.and_then(|tcp| tcp.connect_timeout.as_deref());
    let connect = limit(connect, "timeout.tcp.connectTimeout")?.map(|limit| limit.min(CONNECT_MAX));
    traffic.link = Link { connect, keepalive: spec.tcp_keepalive.as_ref().map(keepalive).transpose()? };
    traffic.announce = match spec.proxy_protocol.as_ref().map(|written| written.version.as_str()) {
        None => None,
        Some("V1") => Some(Version::V1),
        Some("V2") => Some(Version::V2),
        Some(_) => return Err(TrafficError::Invalid("proxyProtocol.version")),
    };
    traffic.request_timeout = limit(request, "timeout.http.requestTimeout")?;
    Ok(traffic)
}

pub(super) fn keepalive(written: &written::TcpKeepalive) -> Result<Keepalive, TrafficError> {
    Ok(Keepalive {
        idle: limit(written.idle_time.as_deref(), "tcpKeepalive.idleTime")?,
        interval: limit(written.interval.as_deref(), "tcpKeepalive.interval")?,
        probes: written.probes.filter(|&probes| probes > 0),
    })
}

fn balance(written: &written::LoadBalancer) -> Result<Balance, TrafficError> {
    let window = written.slow_start.as_ref().map(|slow| slow.window.as_str());
    let slow_start = limit(window, "loadBalancer.slowStart.window")?;
    match written.kind.as_str() {
        "Random" => Ok(Balance::Random),
        "RoundRobin" => Ok(Balance::RoundRobin { slow_start }),
        "LeastRequest" => Ok(Balance::LeastRequest { slow_start }),
        "ConsistentHash" => {
            let hash = written.consistent_hash.as_ref();
            hash.map_or(Err(TrafficError::Missing("loadBalancer.consistentHash")), consistent_hash)
        }
        _ => Err(TrafficError::Invalid("loadBalancer.type")),
    }
}

fn consistent_hash(written: &written::ConsistentHash) -> Result<Balance, TrafficError> {
    let table_size = written.table_size.unwrap_or(65_537);
    if table_size > TABLE_SIZE_MAX || !maglev::is_prime(table_size) {
        return Err(TrafficError::TableSize);
    }
    let on = match (written.kind.as_str(), &written.header, &written.cookie) {
        ("SourceIP", _, _) => HashOn::SourceIp,
        ("Header", Some(header), _) => {
            let name = HeaderName::try_from(&*header.name);
            HashOn::Header(name.map_err(|_| TrafficError::Invalid("loadBalancer.consistentHash.header.name"))?)
        }
        ("Cookie", _, Some(cookie)) => {
            HashOn::Cookie { name: cookie_text(&cookie.name)?.into(), made: cookie_made(cookie)? }
        }
        _ => return Err(TrafficError::Invalid("loadBalancer.consistentHash.type")),
    };
    Ok(Balance::ConsistentHash { on, table_size })
}

/// What follows the value of the cookie that is made. A time of zero makes one that goes with the browser.
fn cookie_made(cookie: &written::HashCookie) -> Result<Option<Box<str>>, TrafficError> {
    let Some(ttl) = cookie.ttl.as_deref() else { return Ok(None) };
    let ttl = duration(ttl, "loadBalancer.consistentHash.cookie.ttl")?;
    let mut made = String::new();
    if !ttl.is_zero() {
        made.push_str(&format!("; Max-Age={}", ttl.as_secs().max(1)));
    }
    for (name, value) in &cookie.attributes {
        made.push_str(&format!("; {}", attribute(name)?));
        if !value.is_empty() {
            made.push_str(&format!("={}", attribute(value)?));
        }
    }
    let has = |name: &str| cookie.attributes.keys().any(|one| one.eq_ignore_ascii_case(name));
    made.push_str(if has("HttpOnly") { "" } else { "; HttpOnly" });
    Ok(Some(made.into()))
}

/// RFC 6265 §4.1.1, `av-octet`.
fn attribute(text: &str) -> Result<&str, TrafficError> {
    let fits = text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b';');
    if fits { Ok(text) } else { Err(TrafficError::Invalid("loadBalancer.consistentHash.cookie.attributes")) }
}

/// RFC 6265 §4.1.1, `cookie-name`, which is a token.
fn cookie_text(text: &str) -> Result<&str, TrafficError> {
    let is_token = HeaderName::try_from(text).is_ok();
    if is_token { Ok(text) } else { Err(TrafficError::Invalid("loadBalancer.consistentHash.cookie.name")) }
}

fn health(written: &written::HealthCheck) -> Result<Health, TrafficError> {
    Ok(Health {
        panic_percent: written.panic_threshold.unwrap_or(PANIC_PERCENT).min(100),
        passive: written.passive.as_ref().map(passive).transpose()?,
        active: written.active.as_ref().map(active).transpose()?,
    })
}

fn passive(written: &written::PassiveCheck) -> Result<Passive, TrafficError> {
    let time = |text: &Option<String>, default, name| text.as_deref().map_or(Ok(default), |text| duration(text, name));
    Ok(Passive {
        split: written.split_external_local_origin_errors,
        interval: time(&written.interval, Duration::from_secs(3), "healthCheck.passive.interval")?.max(INTERVAL_MIN),
        local_failures: written.consecutive_local_origin_failures.unwrap_or(5),
        gateway_errors: written.consecutive_gateway_errors.unwrap_or(0),
        server_errors: written.consecutive_5xx_errors.unwrap_or(5),
        base: time(&written.base_ejection_time, Duration::from_secs(30), "healthCheck.passive.baseEjectionTime")?,
        max_percent: written.max_ejection_percent.unwrap_or(10).min(100),
    })
}

fn active(written: &written::ActiveCheck) -> Result<Active, TrafficError> {
    let time = |text: &Option<String>, default, name| text.as_deref().map_or(Ok(default), |text| duration(text, name));
    let second = Duration::from_secs(1);
    Ok(Active {
        probe: probe(written)?,
        timeout: time(&written.timeout, second, "healthCheck.active.timeout")?.max(INTERVAL_MIN),
        interval: time(&written.interval, 3 * second, "healthCheck.active.interval")?.max(INTERVAL_MIN),
        initial_jitter: time(&written.initial_jitter, Duration::ZERO, "healthCheck.active.initialJitter")?,
        unhealthy: written.unhealthy_threshold.unwrap_or(3).max(1),
        healthy: written.healthy_threshold.unwrap_or(1).max(1),
    })
}

fn probe(written: &written::ActiveCheck) -> Result<Probe, TrafficError> {
    match (written.kind.as_str(), &written.http) {
        ("HTTP", Some(http)) => {
            let path = PathAndQuery::try_from(&*http.path).ok().filter(|path| path.as_str().starts_with('/'));
            let path = path.ok_or(TrafficError::Invalid("healthCheck.active.http.path"))?;
            let method = Method::try_from(http.method.as_deref().unwrap_or("GET"));
            let host = http.hostname.as_deref().map(HeaderValue::try_from).transpose();
            let mut statuses = http.expected_statuses.clone();
            statuses.sort_unstable();
            Ok(Probe::Http {
                method: method.map_err(|_| TrafficError::Invalid("healthCheck.active.http.method"))?,
                path: path.as_str().into(),
                host: host.map_err(|_| TrafficError::Invalid("healthCheck.active.http.hostname"))?,
                statuses: if statuses.is_empty() { vec![200] } else { statuses },
                body: payload(http.expected_response.as_ref())?,
            })
        }
        ("TCP", _) => {
            let tcp = written.tcp.clone().unwrap_or_default();
            Ok(Probe::Tcp { send: payload(tcp.send.as_ref())?, receive: payload(tcp.receive.as_ref())? })
        }
        ("GRPC", _) => {
            let service = written.grpc.as_ref().and_then(|grpc| grpc.service.as_deref()).unwrap_or_default();
            Ok(Probe::Grpc { service: service.into() })
        }
        _ => Err(TrafficError::Invalid("healthCheck.active.type")),
    }
}

fn payload(written: Option<&written::Payload>) -> Result<Arc<[u8]>, TrafficError> {
    let invalid = |_| TrafficError::Invalid("a payload of healthCheck.active");
    Ok(match written.map(|one| (&one.text, &one.binary)) {
        Some((Some(text), _)) => text.as_bytes().into(),
        Some((None, Some(binary))) => BASE64.decode(binary).map_err(invalid)?.into(),
        Some((None, None)) | None => Arc::default(),
    })
}

/// What is more than may be at once is refused and never waits, so that `maxPendingRequests` holds whatever it is.
fn limits(written: &written::CircuitBreaker) -> Limits {
    let budget = |budget: &written::RetryBudget| Budget {
        percent: budget.percent.unwrap_or(20).min(100),
        least: budget.min_retry_concurrency.unwrap_or(3),
    };
    Limits {
        budget: written.retry_budget.as_ref().map(budget),
        requests: written.max_parallel_requests.unwrap_or(1024),
        retries: written.max_parallel_retries.unwrap_or(1024),
        connections: written.max_connections.unwrap_or(1024),
        per_endpoint: written.per_endpoint.as_ref().and_then(|each| each.max_connections).unwrap_or(u32::MAX),
    }
}

/// Connections that failed are always tried again; triggers add answers.
fn retry(written: &written::Retry) -> Result<Retry, TrafficError> {
    let on = written.retry_on.clone().unwrap_or_default();
    let mut codes: Vec<u16> = Vec::new();
    for trigger in &on.triggers {
        match trigger.as_str() {
            "5xx" => codes.extend(500..=599),
            "gateway-error" => codes.extend(502..=504),
            "retriable-4xx" => codes.push(409),
            "retriable-status-codes" => codes.extend(&on.http_status_codes),
            _ => {}
        }
    }
    codes.sort_unstable();
    codes.dedup();
    let back_off = written.per_retry.as_ref().and_then(|each| each.back_off.as_ref());
    let base = back_off.and_then(|back_off| back_off.base_interval.as_deref());
    let backoff = limit(base, "retry.perRetry.backOff.baseInterval")?.unwrap_or(BACKOFF);
    Ok(Retry { attempts: written.num_retries.unwrap_or(2), codes, backoff })
}

/// Zero is no limit.
pub(super) fn limit(text: Option<&str>, name: &'static str) -> Result<Option<Duration>, TrafficError> {
    let read = text.map(|text| duration(text, name)).transpose()?;
    Ok(read.filter(|limit| !limit.is_zero()))
}

fn duration(text: &str, name: &'static str) -> Result<Duration, TrafficError> {
    go_duration(text).ok_or(TrafficError::Duration(name))
}

/// A duration as Go writes it, such as `1h30m` or `1.5s`, without a sign.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, unit) = rest.split_at(digits);
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = unit.split_at(letters);
        let number: f64 = number.parse().ok()?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.saturating_add(Duration::try_from_secs_f64(number * seconds).unwrap_or(DURATION_MAX));
        rest = after;
    }
    (!text.is_empty()).then_some(total.min(DURATION_MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value) -> Result<Traffic, TrafficError> {
        super::read(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let millis = |text| go_duration(text).map(|read| read.as_millis());
        assert_eq!((millis("1h30m"), millis("1.5s"), millis("250ms")), (Some(5_400_000), Some(1500), Some(250)));
        assert_eq!((millis("0s"), millis("999999999h")), (Some(0), Some(DURATION_MAX.as_millis())));
        for bad in ["", "1", "s", "-1s", "1d", "1..5s", "1s "] {
            assert_eq!(millis(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ways_to_choose_are_read() {
        let check = |spec: Value, want| assert_eq!(read(json!({ "loadBalancer": spec })).map(|one| one.balance), want);
        check(json!({"type": "Random"}), Ok(Some(Balance::Random)));
        check(json!({"type": "RoundRobin"}), Ok(Some(Balance::RoundRobin { slow_start: None })));
        let slow = Balance::LeastRequest { slow_start: Some(Duration::from_secs(60)) };
        check(json!({"type": "LeastRequest", "slowStart": {"window": "1m"}}), Ok(Some(slow)));
        let hash = |on: Value| json!({"type": "ConsistentHash", "consistentHash": on});
        let by = |on| Ok(Some(Balance::ConsistentHash { on, table_size: 65_537 }));
        check(hash(json!({"type": "SourceIP"})), by(HashOn::SourceIp));
        let header = HashOn::Header(HeaderName::from_static("x-user"));
        check(hash(json!({"type": "Header", "header": {"name": "X-User"}})), by(header));
        let attributes = json!({"Path": "/", "Secure": ""});
        let cookie = json!({"type": "Cookie", "cookie": {"name": "Pin", "ttl": "1m", "attributes": attributes}});
        let made = Some("; Max-Age=60; Path=/; Secure; HttpOnly".into());
        check(hash(cookie), by(HashOn::Cookie { name: "Pin".into(), made }));
        check(hash(json!({"type": "SourceIP", "tableSize": 65_536})), Err(TrafficError::TableSize));
        check(hash(json!({"type": "SourceIP", "tableSize": 5_000_011})), Err(TrafficError::TableSize));
        let split = json!({"type": "Cookie", "cookie": {"name": "a", "ttl": "0s", "attributes": {"a": "b; c\r\n"}}});
        let error = TrafficError::Invalid("loadBalancer.consistentHash.cookie.attributes");
        check(hash(split), Err(error));
    }

    #[test]
    fn health_limits_and_times_are_read_with_their_defaults() {
        let traffic = read(json!({
            "healthCheck": {"passive": {}, "active": {"type": "HTTP", "http": {"path": "/up?x=1"}}},
            "circuitBreaker": {"maxParallelRequests": 7, "maxConnections": 5},
            "retry": {"retryOn": {"triggers": ["gateway-error", "retriable-status-codes"], "httpStatusCodes": [429]},
                "perRetry": {"timeout": "2s", "backOff": {"baseInterval": "1s"}}},
            "timeout": {"http": {"requestTimeout": "30s"}, "tcp": {"connectTimeout": "500ms"}},
            "tcpKeepalive": {"idleTime": "1m", "probes": 3},
            "proxyProtocol": {"version": "V2"},
        }))
        .unwrap();
        let health = traffic.health.unwrap();
        let passive = health.passive.clone().unwrap();
        assert_eq!((health.panic_percent, passive.server_errors, passive.max_percent), (50, 5, 10));
        let active = health.active.clone().unwrap();
        assert_eq!((active.interval, active.unhealthy, active.healthy), (Duration::from_secs(3), 3, 1));
        assert!(matches!(active.probe, Probe::Http { statuses, .. } if statuses == [200]));
        let keepalive = Keepalive { idle: Some(Duration::from_secs(60)), interval: None, probes: Some(3) };
        let link = Link { connect: Some(Duration::from_millis(500)), keepalive: Some(keepalive) };
        assert_eq!(traffic.link, link);
        assert_eq!(traffic.announce, Some(Version::V2));
        assert_eq!(
            traffic.limits,
            Some(Limits { requests: 7, retries: 1024, connections: 5, per_endpoint: u32::MAX, budget: None })
        );
        let retry = Retry { attempts: 2, codes: vec![429, 502, 503, 504], backoff: Duration::from_secs(1) };
        assert_eq!(traffic.retry, Some(retry));
        assert_eq!(traffic.attempt_timeout, Some(Duration::from_secs(2)));
        assert_eq!(traffic.request_timeout, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_question_that_cannot_be_asked_is_refused() {
        let check = |active: Value, want| {
            assert_eq!(read(json!({"healthCheck": {"active": active}})).unwrap_err(), TrafficError::Invalid(want));
        };
        let path = "healthCheck.active.http.path";
        check(json!({"type": "HTTP", "http": {"path": "up"}}), path);
        check(json!({"type": "HTTP", "http": {"path": "/a b"}}), path);
        check(json!({"type": "HTTP", "http": {"path": "/", "hostname": "a\nb"}}), "healthCheck.active.http.hostname");
        check(json!({"type": "TCP", "tcp": {"send": {"binary": "?"}}}), "a payload of healthCheck.active");
        check(json!({"type": "ICMP"}), "healthCheck.active.type");
    }
}
