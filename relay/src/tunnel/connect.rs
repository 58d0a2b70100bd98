//! Flows that agents open: CONNECT inside a session (RFC 9114 §4.4), to services of other nodes and to the internet.
//!
//! Owns one flow from the request to its end: what is asked for (`destination`), whether it may be (`consent`, `may_dial`),
//! who connects (`proxy::dial`, or the node's own agent), and the answer, whose `Proxy-Status` (RFC 9209) says what failed.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, watch},
    time::timeout,
};
use tracing::debug;
use underpass_shared::{
    identity::{AgentIdentity, NodeName},
    quic::{
        connect::ConnectStream,
        http3::{ServerStream, StreamError},
        lane::LaneStream,
    },
    wire::preface::Host,
};

use super::{
    DialError, FlowTarget,
    accept::{Acceptor, Peer, REQUEST},
    consent::{Consent, Service},
    destination::{self, Destination, NoDestination},
    session::Session,
};
use crate::proxy::{answer::Failure, dial};

/// What failed, and where (RFC 9209 §2).
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why an agent gets no flow.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Destination(#[from] NoDestination),
    #[error("node {from} may not reach port {port} of node {to}: allowFrom of TunnelNode {to} does not say so")]
    NotAdmitted { from: NodeName, to: NodeName, port: u16 },
    #[error("node {0} may not reach the internet: egressGateway of TunnelNode {0} is not enabled")]
    NoEgress(NodeName),
    #[error("no agent has the address, or none that is connected")]
    NobodyThere,
    #[error("{0}")]
    Tunnel(#[from] DialError),
    #[error("{}", outside(.0))]
    Outside(#[from] Failure),
    #[error("too many flows are open")]
    Overloaded,
}

/// What permits a flow; when it does no more, the flow is cut.
#[derive(Debug)]
enum Grant {
    Egress,
    Service { node: NodeName, port: u16 },
}

/// What is at the far end.
enum Far {
    Socket(TcpStream),
    Flow(LaneStream),
}

/// A flow that stands, and the places that it takes.
struct Open {
    far: Far,
    grant: Grant,
    _places: [OwnedSemaphorePermit; 2],
}

/// Answers a CONNECT of the peer, and carries its bytes until either side ends it or the node loses its permission.
///
/// # Errors
/// The agent went away.
pub(super) async fn serve(
    acceptor: &Acceptor,
    peer: &Peer,
    request: &Request<()>,
    mut stream: ServerStream,
) -> Result<(), StreamError> {
    let Some((identity, session)) = peer.live() else {
        let answer = refusal(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "http_request_denied");
        return say(stream, answer, "a session comes first".to_owned()).await;
    };
    // The agent names no port of its own: the stream's number serves, so that its flows spread over a node's agents.
    let port = (stream.send_id().into_inner() / 4 % u64::from(u16::MAX)) as u16 + 1;
    let origin = SocketAddr::from((session.admission.prefix().address(), port));
    let authority = request.uri().authority().map_or("", http::uri::Authority::as_str);
    let opened = open(acceptor, (&identity, origin), &session, authority).await;
    drop(session);
    let Open { far, grant, _places } = match opened {
        Ok(opened) => opened,
        Err(refused) => {
            debug!(node = %identity.node, dst = authority, reason = %refused, "flow refused");
            return say(stream, refused.answer(), refused.to_string()).await;
        }
    };
    let _counted = acceptor.tunnels.outbound().token();
    stream.send_response(Response::new(())).await?;
    let stream = ConnectStream::of_relay(stream);
    let cut = revoked(acceptor.tunnels.consent(), &identity, &grant);
    let copied = match far {
        Far::Socket(socket) => stream.copy(socket, cut).await,
        Far::Flow(flow) => stream.join(flow, cut).await,
    };
    debug!(
        node = %identity.node,
        dst = authority,
        bytes_in = copied.bytes_to_lane,
        bytes_out = copied.bytes_to_tcp,
        error = ?copied.error,
        "flow ended"
    );
    Ok(())
}

/// Connects where `authority` says, on behalf of an agent whose own address is `origin`'s.
async fn open(
    acceptor: &Acceptor,
    (identity, origin): (&AgentIdentity, SocketAddr),
    session: &Session,
    authority: &str,
) -> Result<Open, Refused> {
    let place = session.reserve_outbound().ok_or(Refused::Overloaded)?;
    let (asked, port) = destination::parse(authority, &acceptor.tunnel_domains, session.admission.project)?;
    let (node, agent) = match asked {
        Destination::Outside(host) => return outwards(acceptor, identity, (&host, port), place).await,
        Destination::Named { node, agent } => (node, agent),
        Destination::Numbered { node, agent } => {
            let named = acceptor.tunnels.named(&identity.project, node, agent);
            named.ok_or(Refused::NobodyThere)?
        }
    };
    let grant = Grant::Service { node: node.clone(), port };
    if !grant.holds(&acceptor.tunnels.consent().borrow(), identity) {
        return Err(Refused::NotAdmitted { from: identity.node.clone(), to: node, port });
    }
    let agent = match agent {
        None => None,
        Some(agent) => Some(acceptor.tunnels.number_of(&identity.project, &node, &agent).ok_or(Refused::NobodyThere)?),
    };
    let target = FlowTarget { project: identity.project.clone(), node, agent, port };
    let (flow, there) = acceptor.tunnels.dial_for_node(&target, origin).await?;
    Ok(Open { far: Far::Flow(flow), grant, _places: [place, there] })
}

async fn outwards(
    acceptor: &Acceptor,
    identity: &AgentIdentity,
    (host, port): (&Host, u16),
    place: OwnedSemaphorePermit,
) -> Result<Open, Refused> {
    if !Grant::Egress.holds(&acceptor.tunnels.consent().borrow(), identity) {
        return Err(Refused::NoEgress(identity.node.clone()));
    }
    let socket = acceptor.tunnels.reserve_egress().ok_or(Refused::Overloaded)?;
    let far = dial::egress(&acceptor.routing, &identity.project, host, port).await?;
    Ok(Open { far: Far::Socket(far), grant: Grant::Egress, _places: [place, socket] })
}

/// Returns when what permits the flow does so no more.
async fn revoked(mut consent: watch::Receiver<Arc<Consent>>, identity: &AgentIdentity, grant: &Grant) {
    // Without a sender the relay is gone, and nothing is permitted either.
    let _ = consent.wait_for(|consent| !grant.holds(consent, identity)).await;
}

impl Grant {
    fn holds(&self, consent: &Consent, AgentIdentity { project, node: from, .. }: &AgentIdentity) -> bool {
        match self {
            Self::Egress => consent.may_leave(project, from),
            Self::Service { node, port } => consent.may_send(project, from, node, Service::Tcp(*port)),
        }
    }
}

impl Refused {
    /// Status and error type (RFC 9209 §2.3).
    fn answer(&self) -> Response<()> {
        let (status, error) = match self {
            Self::Destination(NoDestination::Malformed) => (StatusCode::BAD_REQUEST, "http_request_error"),
            Self::Destination(NoDestination::BehindNode | NoDestination::Relay) => {
                (StatusCode::FORBIDDEN, "destination_ip_prohibited")
            }
            Self::Destination(NoDestination::NoNode | NoDestination::NoPlace) => (StatusCode::BAD_GATEWAY, "dns_error"),
            Self::NotAdmitted { .. } | Self::NoEgress(_) => (StatusCode::FORBIDDEN, "http_request_denied"),
            Self::NobodyThere => (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
            Self::Tunnel(error) => by_tunnel(error),
            Self::Outside(failure) => by_failure(failure),
        };
        refusal(status, error)
    }
}

fn by_tunnel(error: &DialError) -> (StatusCode, &'static str) {
    match error {
        DialError::NodeAway { .. } => (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable"),
        DialError::Refused { .. } => (StatusCode::BAD_GATEWAY, "connection_refused"),
        DialError::NotPublished { .. } => (StatusCode::FORBIDDEN, "http_request_denied"),
        DialError::Unreachable { .. } | DialError::PacketsOnly { .. } => {
            (StatusCode::BAD_GATEWAY, "destination_ip_unroutable")
        }
        DialError::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        DialError::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached"),
    }
}

fn by_failure(failure: &Failure) -> (StatusCode, &'static str) {
    match failure {
        Failure::Denied(_) => (StatusCode::FORBIDDEN, "destination_ip_prohibited"),
        Failure::Unknown { .. } => (StatusCode::BAD_GATEWAY, "dns_error"),
        Failure::ConnectTimedOut => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
        Failure::Connect { source } => match source.kind() {
            io::ErrorKind::ConnectionRefused => (StatusCode::BAD_GATEWAY, "connection_refused"),
            io::ErrorKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "connection_timeout"),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
                (StatusCode::BAD_GATEWAY, "destination_ip_unroutable")
            }
            _ => (StatusCode::BAD_GATEWAY, "destination_unavailable"),
        },
        _ => (StatusCode::BAD_GATEWAY, "proxy_internal_error"),
    }
}

/// What an agent is told of a connection that the relay could not make.
fn outside(failure: &Failure) -> String {
    match failure {
        Failure::Denied(denied) => format!("the host may not be reached: {denied}"),
        Failure::Unknown { name, why } => format!("the name {name} {why}"),
        Failure::Connect { source } => format!("the host cannot be reached: {}", source.kind()),
        Failure::ConnectTimedOut => "the host did not answer in time".to_owned(),
        other => other.to_string(),
    }
}

fn refusal(status: StatusCode, error: &'static str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let value = HeaderValue::try_from(format!("underpass; error={error}")).expect("error types are plain ASCII");
    response.headers_mut().insert(PROXY_STATUS, value);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Sends the whole answer, unless the agent takes too long to read it.
async fn say(mut stream: ServerStream, answer: Response<()>, text: String) -> Result<(), StreamError> {
    let said = async {
        stream.send_response(answer).await?;
        stream.send_data(Bytes::from(text)).await?;
        stream.finish().await
    };
    timeout(REQUEST, said).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(refused: &Refused) -> (u16, String) {
        let answer = refused.answer();
        let status = answer.headers()[PROXY_STATUS].to_str().unwrap();
        (answer.status().as_u16(), status.strip_prefix("underpass; error=").unwrap().to_owned())
    }

    #[test]
    fn each_refusal_has_a_status_and_an_error_type() {
        let node = || "office".parse().unwrap();
        let connect = |kind: io::ErrorKind| Refused::Outside(Failure::Connect { source: kind.into() });
        for (refused, status, error) in [
            (NoDestination::Malformed.into(), 400, "http_request_error"),
            (Refused::NoEgress(node()), 403, "http_request_denied"),
            (Refused::NotAdmitted { from: node(), to: node(), port: 1 }, 403, "http_request_denied"),
            (DialError::NotPublished { node: node(), port: 1 }.into(), 403, "http_request_denied"),
            (DialError::Refused { node: node(), port: 1 }.into(), 502, "connection_refused"),
            (DialError::TimedOut { node: node() }.into(), 504, "connection_timeout"),
            (DialError::NodeAway { node: node() }.into(), 503, "destination_unavailable"),
            (Failure::ConnectTimedOut.into(), 504, "connection_timeout"),
            (connect(io::ErrorKind::ConnectionRefused), 502, "connection_refused"),
            (connect(io::ErrorKind::TimedOut), 504, "connection_timeout"),
            (connect(io::ErrorKind::NetworkUnreachable), 502, "destination_ip_unroutable"),
            (connect(io::ErrorKind::Other), 502, "destination_unavailable"),
            (Refused::Overloaded, 503, "connection_limit_reached"),
        ] {
            assert_eq!(said(&refused), (status, error.to_owned()), "{refused:?}");
        }
    }
}
