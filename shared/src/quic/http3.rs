//! HTTP/3 as the tunnel and the gateway use it: its settings, and short names for the library's types.
//!
//! The library's types go no further than this module, `listener`, `tunnel` and `link`. Three of its habits to mind:
//! dropping the last [`Requests`] closes the connection, as does dropping [`Server`]; a request that is wrong in itself
//! closes the whole connection, so build it from checked parts; [`Server::accept`] must always be polled, it drives.

use std::time::Duration;

use bytes::Bytes;
use h3::ConnectionState;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::HeaderName};

use super::adapter::{Bidi, Conn, Deliveries, Opener, PeerBidi, ReceiveHalf, SendHalf};
use crate::wire::connect_ip;

pub use h3::{
    error::{Code, ConnectionError, StreamError},
    ext::Protocol,
};

/// The largest header section taken, in bytes as RFC 9114 §4.2.2 counts them. Without it there is no limit.
pub const FIELD_SECTION_BYTES_MAX: u64 = 16 << 10;

/// How long the relay's SETTINGS may take; they are its first packet after the handshake.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look for them: the library tells nobody when they came.
const SETTINGS_POLL: Duration = Duration::from_millis(2);

/// The relay's end of a connection: yields requests.
pub type Server = h3::server::Connection<Conn, Bytes>;
/// A request whose head is not read yet; resolve it in a task of its own.
pub type Resolver = h3::server::RequestResolver<Conn, Bytes>;
/// A request's stream at the relay.
pub type ServerStream = h3::server::RequestStream<Bidi<Bytes>, Bytes>;
/// The sending half of a [`ServerStream`].
pub type ServerSend = h3::server::RequestStream<SendHalf<Bytes>, Bytes>;
/// The receiving half of a [`ServerStream`].
pub type ServerReceive = h3::server::RequestStream<ReceiveHalf, Bytes>;

/// The agent's end of a connection: must be polled by `wait_idle` for the connection's whole life.
pub type Driver = h3::client::Connection<Conn, Bytes>;
/// Sends requests; cheap to clone, one for each task.
pub type Requests = h3::client::SendRequest<Opener, Bytes>;
/// A request's stream at the agent.
pub type ClientStream = h3::client::RequestStream<Bidi<Bytes>, Bytes>;
/// The sending half of a [`ClientStream`].
pub type ClientSend = h3::client::RequestStream<SendHalf<Bytes>, Bytes>;
/// The receiving half of a [`ClientStream`].
pub type ClientReceive = h3::client::RequestStream<ReceiveHalf, Bytes>;

/// The relay did not say that it takes CONNECT-IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the relay did not offer extended CONNECT within {} seconds", SETTINGS_TIMEOUT.as_secs())]
pub struct NoExtendedConnect;

/// Serves HTTP/3 on `connection`, with extended CONNECT (RFC 9220) and datagrams (RFC 9297).
///
/// # Errors
/// The connection ended.
pub async fn serve(connection: quinn::Connection) -> Result<Server, ConnectionError> {
    let mut builder = h3::server::builder();
    builder.enable_extended_connect(true).enable_datagram(true).max_field_section_size(FIELD_SECTION_BYTES_MAX);
    Box::pin(builder.build(Conn::new(connection, PeerBidi::Http3))).await
}

/// Serves HTTP/3 to the public on `connection`, with extended CONNECT and without datagrams.
///
/// A header section may have `field_section_bytes`, as RFC 9114 §4.2.2 counts them; a longer one is answered 431. QPACK
/// keeps no dynamic table. [`Deliveries::take`] after each [`Server::accept`] tells how that request's answer fares.
///
/// # Errors
/// The connection ended.
pub async fn serve_public(
    connection: quinn::Connection,
    field_section_bytes: u64,
) -> Result<(Server, Deliveries), ConnectionError> {
    let deliveries = Deliveries::default();
    let conn = Conn::new(connection, PeerBidi::Http3).with_deliveries(deliveries.clone());
    let mut builder = h3::server::builder();
    builder.enable_extended_connect(true).max_field_section_size(field_section_bytes);
    Ok((Box::pin(builder.build(conn)).await?, deliveries))
}

/// Begins HTTP/3 on `connection` as a client, whose peer may open streams of the lane.
///
/// # Errors
/// The connection ended.
pub async fn connect(connection: quinn::Connection) -> Result<(Driver, Requests), ConnectionError> {
    let mut builder = h3::client::builder();
    builder.enable_extended_connect(true).enable_datagram(true).max_field_section_size(FIELD_SECTION_BYTES_MAX);
    Box::pin(builder.build(Conn::new(connection, PeerBidi::Foreign))).await
}

/// Tells the client to begin no more requests here (GOAWAY); those under way go on.
///
/// [`Server::accept`] may yet yield one more, which is to be rejected, and never says that the last one is done: count
/// them, then drop the [`Server`].
///
/// # Errors
/// The connection ended.
pub async fn go_away(server: &mut Server) -> Result<(), ConnectionError> {
    // By the RFC the id names the first request that is not served, by the library the last that is: 1 suits both.
    server.shutdown(1).await
}

/// Waits until the relay has said that it takes extended CONNECT, as it must before the first one (RFC 9220 §3).
///
/// The driver must be polled meanwhile.
///
/// # Errors
/// It did not say so in time, or the connection ended.
pub async fn extended_connect_offered(requests: &Requests) -> Result<(), NoExtendedConnect> {
    let offered = async {
        while !requests.settings().enable_extended_connect() {
            if requests.get_conn_error().is_some() {
                return Err(NoExtendedConnect);
            }
            tokio::time::sleep(SETTINGS_POLL).await;
        }
        Ok(())
    };
    tokio::time::timeout(SETTINGS_TIMEOUT, offered).await.unwrap_or(Err(NoExtendedConnect))
}

/// The request for an IP session (RFC 9484 §4.5), to which the caller may add headers.
#[must_use]
pub fn connect_ip_request() -> Request<()> {
    let uri = http::Uri::builder().scheme("https").authority(super::tls::SERVER_NAME).path_and_query(connect_ip::PATH);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri.build().expect("constants make a URI");
    request.extensions_mut().insert(Protocol::CONNECT_IP);
    request.headers_mut().insert(CAPSULE_PROTOCOL, CAPSULES);
    request
}

/// The answer that opens an IP session, to which the caller may add headers.
#[must_use]
pub fn connect_ip_response() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CAPSULE_PROTOCOL, CAPSULES);
    response
}

/// Says that capsules follow (RFC 9297 §3.4).
const CAPSULE_PROTOCOL: HeaderName = HeaderName::from_static("capsule-protocol");
const CAPSULES: HeaderValue = HeaderValue::from_static("?1");
