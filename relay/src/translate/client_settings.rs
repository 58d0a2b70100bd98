//! The settings of a ClientTrafficPolicy → what listeners and the proxy act on.

use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde_json::Value;
use underpass_shared::resource::client_traffic_policy as written;

use super::{
    client_tls,
    traffic::{self, TrafficError},
};
use crate::route::client::{
    Arrival, ClientSettings, Connection, ConnectionLimit, FromProxies, Http2, Origin, Requests,
};

/// The longest that a connection too many may wait for its end; each takes a place that another could have.
const CLOSE_DELAY_MAX: Duration = Duration::from_secs(10);

/// The most requests at once on one connection: ten times what browsers use.
const STREAMS_MAX: u32 = 1000;

/// What a client may send ahead: RFC 9113 begins with 64 KiB less one, and this much the relay may have to hold.
const WINDOW_BYTES_MIN: u32 = 65_535;
const WINDOW_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// The most proxies that may stand before the relay; more addresses than this nobody writes into one header.
const HOPS_MAX: u32 = 32;

/// Why a policy cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingsError {
    #[error("{0}")]
    Traffic(#[from] TrafficError),
    #[error("{0} must be longer than 0s: the relay does not wait without an end")]
    Endless(&'static str),
    #[error("{field} must be {bounds}")]
    Bounds { field: &'static str, bounds: String },
    #[error("{0} is not valid")]
    Invalid(&'static str),
    #[error("{0} cannot be had over HTTP/3: leave it or `http3` out")]
    NotOverHttp3(&'static str),
}

pub(super) fn read(spec: &written::ClientTrafficPolicySpec) -> Result<ClientSettings, SettingsError> {
    let beyond_http3 = spec.http3.as_ref().and(spec.tls.as_ref()).and_then(client_tls::not_over_http3);
    if let Some(field) = beyond_http3 {
        return Err(SettingsError::NotOverHttp3(field));
    }
    Ok(ClientSettings {
        arrival: arrival(spec)?,
        connection: connection(spec)?,
        requests: requests(spec)?,
        http3: spec.http3.is_some(),
    })
}

fn arrival(spec: &written::ClientTrafficPolicySpec) -> Result<Arrival, SettingsError> {
    let from_proxies = match (&spec.proxy_protocol, spec.enable_proxy_protocol) {
        (Some(written::ProxyProtocol { optional: true }), _) => Some(FromProxies::OrNot),
        (Some(_), _) | (None, Some(true)) => Some(FromProxies::Always),
        (None, None | Some(false)) => None,
    };
    let keepalive = spec.tcp_keepalive.as_ref().map(traffic::keepalive).transpose()?;
    let limit = spec.connection.as_ref().and_then(|connection| connection.connection_limit.as_ref());
    Ok(Arrival { from_proxies, limit: limit.map(connection_limit).transpose()?.flatten(), keepalive })
}

fn connection_limit(written: &written::ConnectionLimit) -> Result<Option<ConnectionLimit>, SettingsError> {
    let field = "connection.connectionLimit.closeDelay";
    let close_delay = traffic::limit(written.close_delay.as_deref(), field)?.unwrap_or_default();
    if close_delay > CLOSE_DELAY_MAX {
        return Err(SettingsError::Bounds { field, bounds: format!("at most {}s", CLOSE_DELAY_MAX.as_secs()) });
    }
    Ok(written.value.map(|connections| ConnectionLimit { connections, close_delay }))
}

fn connection(spec: &written::ClientTrafficPolicySpec) -> Result<Connection, SettingsError> {
    let timeout = spec.timeout.clone().unwrap_or_default();
    let (http, tcp) = (timeout.http.unwrap_or_default(), timeout.tcp.unwrap_or_default());
    let limit = spec.connection.clone().unwrap_or_default().connection_limit.unwrap_or_default();
    let field = "connection.connectionLimit.maxConnectionDuration";
    let http2 = spec.http2.clone().unwrap_or_default();
    Ok(Connection {
        idle: positive(http.idle_timeout.as_deref(), "timeout.http.idleTimeout")?,
        stream_idle: positive(tcp.idle_timeout.as_deref(), "timeout.tcp.idleTimeout")?,
        duration: traffic::limit(limit.max_connection_duration.as_deref(), field)?,
        requests: limit.max_requests_per_connection.filter(|&requests| requests > 0),
        http2: Http2 {
            streams: within(http2.max_concurrent_streams, "http2.maxConcurrentStreams", 1, STREAMS_MAX)?,
            stream_window: window(http2.initial_stream_window_size.as_ref(), "http2.initialStreamWindowSize")?,
            connection_window: window(
                http2.initial_connection_window_size.as_ref(),
                "http2.initialConnectionWindowSize",
            )?,
        },
    })
}

fn requests(spec: &written::ClientTrafficPolicySpec) -> Result<Requests, SettingsError> {
    let http = spec.timeout.clone().unwrap_or_default().http.unwrap_or_default();
    let (received, field) = (http.request_received_timeout.as_deref(), "timeout.http.requestReceivedTimeout");
    Ok(Requests {
        origin: spec.client_ip_detection.as_ref().map(origin).transpose()?.flatten(),
        received_within: traffic::limit(received, field)?,
        idle: positive(http.stream_idle_timeout.as_deref(), "timeout.http.streamIdleTimeout")?,
    })
}

/// No hops are none to believe.
fn origin(written: &written::ClientIpDetection) -> Result<Option<Origin>, SettingsError> {
    if let Some(header) = &written.custom_header {
        let name = HeaderName::try_from(&*header.name);
        let name = name.map_err(|_| SettingsError::Invalid("clientIPDetection.customHeader.name"))?;
        return Ok(Some(Origin::Header { name, fail_closed: header.fail_closed }));
    }
    let Some(forwarded) = &written.x_forwarded_for else { return Ok(None) };
    let hops = within(forwarded.num_trusted_hops, "clientIPDetection.xForwardedFor.numTrustedHops", 0, HOPS_MAX)?;
    if let Some(hops) = hops {
        return Ok((hops > 0).then_some(Origin::Hops(hops as usize)));
    }
    let networks = forwarded.trusted_cidrs.iter().map(|text| text.parse()).collect::<Result<Vec<IpNet>, _>>();
    let networks = networks.map_err(|_| SettingsError::Invalid("clientIPDetection.xForwardedFor.trustedCIDRs"))?;
    Ok(Some(Origin::Networks(networks)))
}

/// The relay ends what is silent, so that zero, which means for ever, cannot be had.
fn positive(text: Option<&str>, field: &'static str) -> Result<Option<Duration>, SettingsError> {
    match (text, traffic::limit(text, field)?) {
        (Some(_), None) => Err(SettingsError::Endless(field)),
        (_, limit) => Ok(limit),
    }
}

fn within(value: Option<u32>, field: &'static str, min: u32, max: u32) -> Result<Option<u32>, SettingsError> {
    match value {
        Some(value) if value < min || value > max => {
            Err(SettingsError::Bounds { field, bounds: format!("from {min} to {max}") })
        }
        value => Ok(value),
    }
}

fn window(written: Option<&Value>, field: &'static str) -> Result<Option<u32>, SettingsError> {
    let Some(written) = written else { return Ok(None) };
    let bytes = bytes(written).ok_or(SettingsError::Invalid(field))?;
    within(Some(u32::try_from(bytes).unwrap_or(u32::MAX)), field, WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
}

/// A number, or a text such as `64Ki` (Kubernetes quantity without a fraction).
fn bytes(written: &Value) -> Option<u64> {
    let Value::String(text) = written else { return written.as_u64() };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let unit = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}
