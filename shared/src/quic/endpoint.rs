//! Sockets and transport settings of the tunnel, each with its reason; handshakes with their time limit.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::tls::SERVER_NAME;

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle connection is probed: below the shortest NAT mapping (RFC 4787 §4.3 forbids under two minutes, home
/// routers do 30 s), and four times within [`IDLE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// When a silent peer is given up: a restarted relay or a lost path is noticed while people still wait.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How many requests an agent may have open with a relay: sessions and flows that it starts itself.
pub const CLIENT_STREAMS: u32 = 128;

/// How many flows a relay may open to an agent at first; [`StreamLimit`](super::streams::StreamLimit) raises it.
pub const RELAY_STREAMS: u32 = 256;

/// Three streams of HTTP/3 each way, and room for those it must ignore (RFC 9114 §6.2).
const UNI_STREAMS: u32 = 16;

/// How much of one stream may lie unread, in bytes: 160 Mbit/s at a round trip of 50 ms, and all that a stalled flow holds.
const STREAM_WINDOW: u32 = 1 << 20;

/// How much of all streams may lie unread, in bytes: a thousand stalled flows do not stop the next one.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// How much may be sent and not acknowledged on a connection, in bytes: 2.6 Gbit/s at a round trip of 50 ms.
const SEND_WINDOW: u64 = 16 << 20;

/// How many bytes of datagrams wait for the reader; the oldest go first. A burst at 1 Gbit/s for 32 ms.
const DATAGRAMS_RECEIVED: usize = 4 << 20;

/// How many bytes of datagrams wait for the congestion window; more only adds delay (measured at 8 MiB).
const DATAGRAMS_TO_SEND: usize = 1 << 20;

/// The largest UDP payload sent before the path is known, in bytes: a packet of IPv6's minimum (1280) fits a datagram of it,
/// and every path of today's access networks takes it. On a narrower one the handshake's full packets are lost once, and
/// their repetitions are of 1200 bytes.
const FIRST_MTU: u16 = 1350;

/// The largest UDP payload that discovery looks for, in bytes: Ethernet's 1500 less IPv6 and UDP.
const MTU_MAX: u16 = 1452;

/// How often a path that once refused larger packets is asked again, as a route may have become wider.
const MTU_AGAIN: Duration = Duration::from_secs(60);

/// How long a path is left at 1200 bytes after larger packets vanished: a burst of loss looks the same, and must not cost a
/// minute.
const BLACK_HOLE: Duration = Duration::from_secs(10);

/// What the sockets ask for, in bytes; the defaults lose 2 % of datagrams under load. The kernel may grant less.
pub(super) const SOCKET_BUFFER: usize = 8 << 20;

/// How many handshakes may be half open before a new address must show that it receives (RFC 9000 §8.1.2).
const HALF_OPEN_UNVALIDATED_MAX: usize = 64;

/// How many handshakes may be half open at all.
const HALF_OPEN_MAX: usize = 1024;

/// How many bytes unaccepted handshakes may hold.
const INCOMING_BYTES_MAX: u64 = 8 << 20;

/// Why no connection to a relay came to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    #[error("no answer within {} seconds: is UDP to this address open?", HANDSHAKE_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the address cannot be dialled")]
    Address(#[from] quinn::ConnectError),
    #[error("the handshake failed: {0}")]
    Failed(#[from] quinn::ConnectionError),
}

/// Opens the relay's tunnel port. `[::]` takes IPv4 too, and IPv4 alone on a host without IPv6.
///
/// # Errors
/// When the port is taken or the address is not this host's; when `tls` cannot serve QUIC.
pub fn listen(address: SocketAddr, tls: rustls::ServerConfig) -> io::Result<quinn::Endpoint> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.max_incoming(HALF_OPEN_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES_MAX);
    config.transport_config(Arc::new(transport(CLIENT_STREAMS)));
    endpoint(bind(address)?, Some(config))
}

/// Opens the agent's socket, from which every relay is dialled, whichever IP version it has.
///
/// # Errors
/// When the host has no network stack to speak of.
pub fn dialler() -> io::Result<quinn::Endpoint> {
    endpoint(bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?, None)
}

/// What a connection is made with; `tls` comes from [`client`](super::tls::client).
///
/// # Errors
/// When `tls` cannot serve QUIC.
pub fn client_config(tls: rustls::ClientConfig) -> io::Result<quinn::ClientConfig> {
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(RELAY_STREAMS)));
    Ok(config)
}

/// Dials a relay.
///
/// With a certificate that the relay refuses this still succeeds; the connection then ends with the reason.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    relay: SocketAddr,
) -> Result<quinn::Connection, HandshakeError> {
    handshake(endpoint.connect_with(config, relay, SERVER_NAME)?).await
}

/// Waits for a handshake, at most [`HANDSHAKE_TIMEOUT`].
///
/// # Errors
/// [`HandshakeError::TimedOut`] and [`HandshakeError::Failed`].
pub async fn handshake(connecting: quinn::Connecting) -> Result<quinn::Connection, HandshakeError> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await {
        Ok(connection) => Ok(connection?),
        Err(_) => Err(HandshakeError::TimedOut),
    }
}

/// Begins a handshake that a client asked for, while `half_open` others are under way. `None`: the client must come again.
///
/// Under load an address that has not shown that it receives is sent a Retry, so that none can be made to amplify.
///
/// # Errors
/// The client's first packet was no good.
pub fn admit(incoming: quinn::Incoming, half_open: usize) -> Result<Option<quinn::Connecting>, quinn::ConnectionError> {
    if half_open >= HALF_OPEN_MAX {
        incoming.refuse();
        return Ok(None);
    }
    if half_open >= HALF_OPEN_UNVALIDATED_MAX && incoming.may_retry() && !incoming.remote_address_validated() {
        // The only error is that a retry is not allowed here, which was just asked.
        let _ = incoming.retry();
        return Ok(None);
    }
    incoming.accept().map(Some)
}

/// Where the peer of `connection` is now: an IPv4 address as such, though the socket may be of both versions.
#[must_use]
pub fn peer_address(connection: &quinn::Connection) -> SocketAddr {
    let address = connection.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The settings of both ends; `streams` bidirectional ones may be opened by the peer.
fn transport(streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("20 s fit")))
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(UNI_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(Some(DATAGRAMS_RECEIVED))
        .datagram_send_buffer_size(DATAGRAMS_TO_SEND)
        .initial_mtu(FIRST_MTU)
        // Discovery stays on, as it alone undoes a false black hole.
        .mtu_discovery_config(Some(discovery()))
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

fn discovery() -> MtuDiscoveryConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX).interval(MTU_AGAIN).black_hole_cooldown(BLACK_HOLE);
    discovery
}

fn endpoint(socket: Socket, server: Option<quinn::ServerConfig>) -> io::Result<quinn::Endpoint> {
    quinn::Endpoint::new(EndpointConfig::default(), server, socket.into(), Arc::new(quinn::TokioRuntime))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    match bind_to(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            bind_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

/// Whether the host has IPv6 switched off, as a kernel option or for all its interfaces.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(ADDRESS_FAMILY_UNSUPPORTED)
}

/// `EAFNOSUPPORT` on Linux, which has no [`io::ErrorKind`].
const ADDRESS_FAMILY_UNSUPPORTED: i32 = 97;

fn bind_to(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Best effort: a smaller buffer loses packets under load, and works.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::quic::testbed::{Ca, PATH_1280, pair, pair_over, soon};

    fn relay(ca: &Ca, address: &str) -> quinn::Endpoint {
        listen(address.parse().unwrap(), ca.relay_tls()).unwrap()
    }

    /// Dials `relay` on IPv4's loopback, whatever it listens on.
    async fn dial(ca: &Ca, relay: &quinn::Endpoint) -> Result<quinn::Connection, HandshakeError> {
        let port = relay.local_addr().unwrap().port();
        let config = client_config(ca.agent_tls()).unwrap();
        connect(&dialler().unwrap(), config, (Ipv4Addr::LOCALHOST, port).into()).await
    }

    #[tokio::test]
    async fn the_unspecified_address_takes_ipv4_and_says_so() {
        let ca = Ca::new();
        let relay = relay(&ca, "[::]:0");
        let accept = async { handshake(relay.accept().await.unwrap().accept().unwrap()).await.unwrap() };
        let (accepted, dialled) = soon(async { tokio::join!(accept, dial(&ca, &relay)) }).await;
        for connection in [accepted, dialled.unwrap()] {
            assert_eq!(peer_address(&connection).ip(), Ipv4Addr::LOCALHOST);
        }
    }

    #[tokio::test]
    async fn under_load_an_address_must_show_that_it_receives() {
        let ca = Ca::new();
        let relay = relay(&ca, "127.0.0.1:0");
        let accept = async {
            let first = relay.accept().await.unwrap();
            assert!(!first.remote_address_validated());
            assert!(admit(first, HALF_OPEN_UNVALIDATED_MAX).unwrap().is_none());
            let second = relay.accept().await.unwrap();
            assert!(second.remote_address_validated());
            handshake(admit(second, HALF_OPEN_UNVALIDATED_MAX).unwrap().unwrap()).await.unwrap()
        };
        let (_accepted, dialled) = soon(async { tokio::join!(accept, dial(&ca, &relay)) }).await;
        dialled.unwrap();
    }

    #[tokio::test]
    async fn a_full_relay_refuses_at_once() {
        let ca = Ca::new();
        let relay = relay(&ca, "127.0.0.1:0");
        let refuse = async { admit(relay.accept().await.unwrap(), HALF_OPEN_MAX).unwrap().is_none() };
        let (refused, dialled) = soon(async { tokio::join!(refuse, dial(&ca, &relay)) }).await;
        assert!(refused);
        assert!(matches!(dialled, Err(HandshakeError::Failed(quinn::ConnectionError::ConnectionClosed(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_answers_times_out() {
        let ca = Ca::new();
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let config = client_config(ca.agent_tls()).unwrap();
        let dialled = connect(&dialler().unwrap(), config, silent.local_addr().unwrap()).await;
        assert!(matches!(dialled, Err(HandshakeError::TimedOut)));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error() {
        let ca = Ca::new();
        let first = relay(&ca, "127.0.0.1:0");
        let second = listen(first.local_addr().unwrap(), ca.relay_tls());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn an_inner_packet_of_1280_bytes_fits_from_the_first_moment() {
        let pair = pair().await;
        for connection in [&pair.agent, &pair.relay] {
            assert!(connection.max_datagram_size().unwrap() >= 1282, "{:?}", connection.max_datagram_size());
        }
    }

    /// Lets time pass for `connection`, as long as `again` says so of its largest datagram.
    async fn follow(connection: &quinn::Connection, again: impl Fn(usize) -> bool) {
        for step in 0.. {
            if !again(connection.max_datagram_size().unwrap()) {
                return;
            }
            assert!(step < 100_000, "still {:?}", connection.max_datagram_size());
            let _ = connection.send_datagram(vec![0; connection.max_datagram_size().unwrap()].into());
            let step = connection.rtt().max(Duration::from_millis(10));
            if let Ok(end) = tokio::time::timeout(step, connection.closed()).await {
                panic!("{end}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_of_1280_bytes_completes_the_handshake_and_carries_what_fits_it() {
        let (pair, path) = pair_over(PATH_1280).await;
        let (mut send, mut receive) = pair.agent.open_bi().await.unwrap();
        send.write_all(&[7; 100_000]).await.unwrap();
        send.finish().unwrap();
        let (mut answer, mut asked) = pair.relay.accept_bi().await.unwrap();
        assert_eq!(asked.read_to_end(100_000).await.unwrap(), [7; 100_000]);
        answer.write_all(&[8; 100_000]).await.unwrap();
        answer.finish().unwrap();
        assert_eq!(receive.read_to_end(100_000).await.unwrap(), [8; 100_000]);
        assert!(path.too_large() > 0, "the first packets are larger than this path takes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_shrinks_to_1280_bytes_and_widens_again_is_followed() {
        let (pair, path) = pair_over(usize::from(MTU_MAX)).await;
        follow(&pair.agent, |now| now < 1400).await;
        path.set_limit(PATH_1280);
        follow(&pair.agent, |now| now > PATH_1280).await;
        path.set_limit(usize::from(MTU_MAX));
        follow(&pair.agent, |now| now < 1400).await;
    }
}
