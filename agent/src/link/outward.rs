//! Flows from this host outwards, by the session that is live: CONNECT to the relay (RFC 9114 §4.4).
//!
//! The relay decides where they may go, and says why not in `Proxy-Status` (RFC 9209).

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Buf as _;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use underpass_shared::{
    quic::{
        connect::ConnectStream,
        http3::{ClientStream, Code, Requests, StreamError},
    },
    wire::preface::{Host, Reason},
};

use super::Link;

/// How long a flow waits for a session when there is none: a relay that was restarted is back by then.
const SESSION: Duration = Duration::from_secs(5);

/// How long the relay may take to connect: it tries three of a node's agents for seven seconds each, or ten to a host
/// outside.
const CONNECT: Duration = Duration::from_secs(25);

/// The longest reason that is read, in bytes; what is longer is cut.
const REASON_BYTES_MAX: usize = 512;

/// Where a flow is to go: a name is resolved by the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// The way outwards: through the session of the moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outward {
    route: watch::Sender<Option<Route>>,
}

/// The session of the moment.
#[derive(Clone)]
struct Route {
    /// Locked to be cloned only: it can be used by one task at a time.
    requests: Arc<Mutex<Requests>>,
    flows: TaskTracker,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Route")
    }
}

/// A flow that stands.
#[derive(Debug)]
pub struct OutwardFlow {
    stream: ConnectStream,
    /// One of the flows that a session that ends in good order waits for.
    _counted: TaskTrackerToken,
}

/// Why there is no flow.
#[derive(Debug, thiserror::Error)]
pub enum NotConnected {
    #[error("the agent has no session with a relay")]
    NoSession,
    #[error("the relay did not connect in time")]
    TimedOut,
    #[error("the relay broke off: {0}")]
    Broke(#[from] StreamError),
    #[error("{reason}")]
    Refused { status: StatusCode, cause: Cause, reason: Reason },
}

/// What failed, as `Proxy-Status` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    NotAllowed,
    /// The name has no address, or nobody is there.
    HostUnreachable,
    NetworkUnreachable,
    ConnectionRefused,
    TimedOut,
    Other,
}

impl NotConnected {
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::NoSession => Cause::NetworkUnreachable,
            Self::TimedOut => Cause::TimedOut,
            Self::Broke(_) => Cause::Other,
            Self::Refused { cause, .. } => *cause,
        }
    }
}

impl Link {
    /// Leads what goes outwards through this link until what is returned is dropped; `flows` counts it.
    #[must_use]
    pub fn lead<'a>(&self, outward: &'a Outward, flows: TaskTracker) -> Led<'a> {
        outward.route.send_replace(Some(Route { requests: Arc::new(Mutex::new(self.requests.clone())), flows }));
        Led(outward)
    }
}

/// Ends with the session.
#[derive(Debug)]
pub struct Led<'a>(&'a Outward);

impl Drop for Led<'_> {
    fn drop(&mut self) {
        self.0.route.send_replace(None);
    }
}

impl Outward {
    /// Has the relay connect to `target`.
    ///
    /// # Errors
    /// See [`NotConnected`]; none of them leaves anything open.
    pub async fn connect(&self, target: &Target) -> Result<OutwardFlow, NotConnected> {
        let mut changes = self.route.subscribe();
        let route = timeout(SESSION, changes.wait_for(Option::is_some)).await.ok();
        let route = route.and_then(|route| route.ok()?.clone()).ok_or(NotConnected::NoSession)?;
        timeout(CONNECT, route.connect(target)).await.unwrap_or(Err(NotConnected::TimedOut))
    }
}

impl Route {
    async fn connect(self, target: &Target) -> Result<OutwardFlow, NotConnected> {
        let uri = Uri::builder().authority(target.to_string()).build();
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri.expect("a host's name or address and a port make an authority");
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut asked = Asked(Some(requests.send_request(request).await?));
        let stream = asked.0.as_mut().expect("it is taken below only");
        let response = stream.recv_response().await?;
        if response.status() != StatusCode::OK {
            let (status, cause) = (response.status(), cause(response.status(), response.headers()));
            return Err(NotConnected::Refused { status, cause, reason: reason(stream).await? });
        }
        let stream = asked.0.take().expect("it was there above");
        Ok(OutwardFlow { stream: ConnectStream::of_agent(stream), _counted: self.flows.token() })
    }
}

/// A request that is reset when nobody waits for its answer any more; by itself it would look like one that is whole.
struct Asked(Option<ClientStream>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    }
}

/// What the relay says for people, as far as it is read.
async fn reason(stream: &mut ClientStream) -> Result<Reason, StreamError> {
    let mut text = Vec::new();
    while let Some(mut data) = stream.recv_data().await? {
        let room = (REASON_BYTES_MAX - text.len()).min(data.remaining());
        text.extend_from_slice(&data.copy_to_bytes(room));
        if text.len() == REASON_BYTES_MAX {
            break;
        }
    }
    Ok(Reason::new(&String::from_utf8_lossy(&text)))
}

/// The error type of the proxy that was last on the way, ours (RFC 9209 §2.3); of one that gives none, by its status.
fn cause(status: StatusCode, headers: &HeaderMap) -> Cause {
    let told = headers.get_all("proxy-status").iter().next_back().and_then(|value| value.to_str().ok());
    let mut parameters = told.unwrap_or_default().split([';', ',']).map(str::trim);
    match parameters.find_map(|parameter| parameter.strip_prefix("error=")).unwrap_or_default() {
        "http_request_denied" | "destination_ip_prohibited" => Cause::NotAllowed,
        "dns_error" | "dns_timeout" | "destination_not_found" | "destination_unavailable" => Cause::HostUnreachable,
        "destination_ip_unroutable" => Cause::NetworkUnreachable,
        "connection_refused" => Cause::ConnectionRefused,
        "connection_timeout" => Cause::TimedOut,
        _ => match status {
            StatusCode::FORBIDDEN => Cause::NotAllowed,
            StatusCode::GATEWAY_TIMEOUT => Cause::TimedOut,
            _ => Cause::Other,
        },
    }
}

impl OutwardFlow {
    /// Joins the flow to a program's connection until both directions have ended, or either side is reset.
    pub async fn copy(self, program: TcpStream) -> underpass_shared::quic::lane::Copied {
        self.stream.copy(program, std::future::pending()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_authorities() {
        for (host, want) in [
            ("fd00::1", "[fd00::1]:80"),
            ("192.0.2.1", "192.0.2.1:80"),
            ("under_score.example", "under_score.example:80"),
        ] {
            let target = Target { host: host.parse().unwrap(), port: 80 };
            assert_eq!(target.to_string(), want);
            assert!(Uri::builder().authority(target.to_string()).build().is_ok(), "{want}");
        }
    }

    #[test]
    fn the_cause_is_read_from_proxy_status() {
        let check = |value: &str, want: Cause| {
            let headers = HeaderMap::from_iter([("proxy-status".parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(cause(StatusCode::BAD_GATEWAY, &headers), want, "{value}");
        };
        check("underpass; error=connection_refused", Cause::ConnectionRefused);
        check("underpass; details=\"no\"; error=http_request_denied", Cause::NotAllowed);
        check("underpass;error=connection_timeout", Cause::TimedOut);
        check("underpass; error=of_another_kind", Cause::Other);
        check("", Cause::Other);
        assert_eq!(cause(StatusCode::FORBIDDEN, &HeaderMap::new()), Cause::NotAllowed);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_session_a_flow_waits_a_while() {
        let target = Target { host: "example.com".parse().unwrap(), port: 80 };
        let refused = Outward::default().connect(&target).await.unwrap_err();
        assert!(matches!(refused, NotConnected::NoSession), "{refused:?}");
    }
}
