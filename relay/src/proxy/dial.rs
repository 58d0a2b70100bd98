//! Opens the byte stream to an endpoint: through a tunnel, or from a socket of this host where `may_dial` allows it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;
use underpass_shared::{identity::ProjectName, wire::preface::Host};

use super::{
    Routing,
    answer::Failure,
    may_dial::{Purpose, may_dial, may_dial_here},
    upstream_tls::{self, Carries},
};
use crate::{
    route::{
        lookup::{Family, Lookup},
        target::{Endpoint, Keepalive, Protocol, Upstream},
    },
    tunnel::{DialError, Flow},
};

/// How long a connection to a backend may take, name resolution and TLS handshake included.
///
/// Three SYN retransmissions (1, 3 and 7 seconds) fit; a person still waits for the answer.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// How many of a name's addresses are tried.
pub(super) const ADDRESSES_MAX: usize = 8;

/// How long an address has before the next one is tried as well (RFC 8305 §5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// When a silent peer is asked whether it is still there, and how often before it is given up: after two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 4;

/// How many names of one project's agents are kept, how long those are that nobody asks for, and how long one may take:
/// half of the time to connect.
const EGRESS_NAMES_MAX: usize = 1_024;
const EGRESS_NAMES_UNUSED: Duration = Duration::from_secs(300);
const EGRESS_RESOLVE: Duration = Duration::from_secs(5);

/// A connection to a backend, whatever carries it.
#[derive(Debug)]
pub enum Transport {
    Socket(TcpStream),
    Flow(Flow),
    /// TLS over one of the others.
    Tls(Box<TlsStream<Transport>>),
}

impl Transport {
    /// The socket of this host that carries it, if one does.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Flow(_) => None,
            Self::Tls(stream) => stream.get_ref().0.socket(),
        }
    }

    /// The HTTP that the backend expects, where TLS was to find that out.
    pub(super) fn agreed(&self) -> Protocol {
        match self {
            Self::Socket(_) | Self::Flow(_) => Protocol::Http1,
            Self::Tls(stream) => upstream_tls::agreed(stream),
        }
    }
}

/// Connects to the endpoint of `upstream` on behalf of `client`, over TLS where the upstream says so; before that it is
/// told of the client where it shall be. For bytes of any kind.
///
/// # Errors
/// [`Failure::Tunnel`], [`Failure::Denied`], [`Failure::Unknown`], [`Failure::Connect`], [`Failure::ConnectTimedOut`],
/// [`Failure::Tls`].
pub async fn dial(routing: &Routing, upstream: &Upstream, client: SocketAddr) -> Result<Transport, Failure> {
    connected(routing, upstream, client, Carries::Bytes).await
}

/// As [`dial`], for HTTP: over TLS the backend is told which, or asked where it may choose.
pub(super) async fn dial_http(
    routing: &Routing,
    upstream: &Upstream,
    client: SocketAddr,
    protocol: Protocol,
) -> Result<Transport, Failure> {
    connected(routing, upstream, client, Carries::Http(protocol)).await
}

async fn connected(
    routing: &Routing,
    upstream: &Upstream,
    client: SocketAddr,
    carries: Carries,
) -> Result<Transport, Failure> {
    let attempt = async {
        let mut transport = carrier(routing, upstream, client).await?;
        if let (Some(keepalive), Some(socket)) = (&upstream.link.keepalive, transport.socket()) {
            keep_alive(socket, keepalive);
        }
        if let Some(announces) = &upstream.announces {
            let sent = transport.write_all(&announces.header()).await;
            sent.map_err(|source| Failure::Connect { source })?;
        }
        let Some(tls) = &upstream.tls else { return Ok(transport) };
        let stream = routing.client_configs.connect(&upstream.project, tls, carries, transport).await?;
        Ok(Transport::Tls(Box::new(stream)))
    };
    match timeout(upstream.link.connect.unwrap_or(CONNECT), attempt).await {
        Ok(result) => result,
        Err(_) => Err(match &upstream.endpoint {
            Endpoint::Node(target) => DialError::TimedOut { node: target.node.clone() }.into(),
            Endpoint::Address(_) | Endpoint::Host { .. } | Endpoint::Asked { .. } => Failure::ConnectTimedOut,
        }),
    }
}

/// Finds out about peers that went away without a word. What cannot be set is not needed to pass bytes.
pub(crate) fn keep_alive(socket: &TcpStream, wanted: &Keepalive) {
    let mut keepalive = TcpKeepalive::new().with_time(wanted.idle.unwrap_or(KEEPALIVE));
    keepalive = keepalive.with_interval(wanted.interval.unwrap_or(KEEPALIVE_AGAIN));
    keepalive = keepalive.with_retries(wanted.probes.unwrap_or(KEEPALIVE_TRIES));
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "no keep-alive");
    }
}

/// The bytes in the clear.
async fn carrier(routing: &Routing, upstream: &Upstream, client: SocketAddr) -> Result<Transport, Failure> {
    match &upstream.endpoint {
        Endpoint::Node(target) => Ok(Transport::Flow(routing.tunnels.dial(target, Some(client)).await?)),
        Endpoint::Address(address) => to_backend(routing, upstream, &[*address]).await,
        // Requests are sent towards the host that they name; what else there is names none.
        Endpoint::Asked { .. } => Err(Failure::Internal),
        Endpoint::Host { name, port, lookup } => {
            let found = routing.names.addresses(name, *port, lookup.as_ref()).await;
            let unknown = |why| Failure::Unknown { name: name.to_string(), why };
            to_backend(routing, upstream, &found.map_err(unknown)?).await
        }
    }
}

async fn to_backend(routing: &Routing, upstream: &Upstream, addresses: &[SocketAddr]) -> Result<Transport, Failure> {
    connect(routing, &upstream.project, Purpose::Backend, addresses).await.map(Transport::Socket)
}

/// Connects to a host of the internet on behalf of a node of `project`, which must be one that may go there.
///
/// Its name is complete as it is. Takes ten seconds at most.
///
/// # Errors
/// [`Failure::Denied`], [`Failure::Unknown`], [`Failure::Connect`], [`Failure::ConnectTimedOut`].
pub async fn egress(routing: &Routing, project: &ProjectName, host: &Host, port: u16) -> Result<TcpStream, Failure> {
    let attempt = async {
        let addresses = match host {
            Host::Address(address) => vec![SocketAddr::new(*address, port)],
            Host::Name(name) => {
                let found = routing.names.addresses(name.as_str(), port, Some(&Arc::new(lookup(project)))).await;
                found.map_err(|why| Failure::Unknown { name: name.as_str().to_owned(), why })?
            }
            Host::Loopback => return Err(Failure::Internal),
        };
        let stream = connect(routing, project, Purpose::Egress, &addresses).await?;
        keep_alive(&stream, &Keepalive::default());
        Ok(stream)
    };
    timeout(CONNECT, attempt).await.unwrap_or(Err(Failure::ConnectTimedOut))
}

/// How names are resolved that the agents of a project name: their answers are kept apart from those of all others.
fn lookup(project: &ProjectName) -> Lookup {
    Lookup {
        project: project.clone(),
        // No Backend is called so: each has a slash in its name.
        backend: "egress".into(),
        family: Family::Both,
        unsaid: Duration::ZERO,
        least: Duration::ZERO,
        unused: EGRESS_NAMES_UNUSED,
        most: EGRESS_NAMES_MAX,
        timeout: EGRESS_RESOLVE,
    }
}

/// Whether `address` is one of this host's: the kernel would send to it from itself. Asks its routing table, sends nothing.
fn is_here(address: SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == address.ip())
}

/// Tries the addresses, the families in turn, each a head start after the one before or when that has failed; the first
/// connection wins (RFC 8305 §5).
async fn connect(
    routing: &Routing,
    project: &ProjectName,
    purpose: Purpose,
    addresses: &[SocketAddr],
) -> Result<TcpStream, Failure> {
    let mut last = Failure::ConnectTimedOut;
    let mut allowed = Vec::new();
    let policy = routing.dial_policy.load_full();
    for address in in_turn(addresses) {
        let judged = match purpose {
            Purpose::Egress if is_here(address) => may_dial_here(&policy, project, purpose, address),
            Purpose::Egress | Purpose::Backend => may_dial(&policy, project, purpose, address),
        };
        match judged {
            Ok(()) => allowed.push(address),
            Err(denied) => last = denied.into(),
        }
    }
    let mut waiting = allowed.into_iter();
    let mut trying = FuturesUnordered::new();
    loop {
        trying.extend(waiting.next().map(TcpStream::connect));
        tokio::select! {
            tried = trying.next() => match tried {
                None => return Err(last),
                Some(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(|source| Failure::Connect { source })?;
                    return Ok(stream);
                }
                Some(Err(source)) => last = Failure::Connect { source },
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => {}
        }
    }
}

/// The addresses of the two families in turn, each in the resolver's order, which has the preferred one first.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::with_capacity(addresses.len());
    while all.len() < addresses.len() {
        all.extend(one.next().into_iter().chain(other.next()));
    }
    all.truncate(ADDRESSES_MAX);
    all
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Flow(flow) => Pin::new(flow).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Flow(flow) => Pin::new(flow).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Self::Flow(flow) => Pin::new(flow).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Flow(flow) => Pin::new(flow).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Flow(flow) => Pin::new(flow).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Socket(stream) => stream.is_write_vectored(),
            Self::Flow(flow) => flow.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpSocket, time::Instant};

    use super::*;
    use crate::route::target::Link;
    use crate::{proxy::may_dial::DialPolicy, tunnel::Tunnels};

    fn routing() -> Routing {
        let allow_backends = vec!["127.0.0.0/8".parse().unwrap()];
        let policy = DialPolicy { allow_backends, ..DialPolicy::default() };
        Routing::new(Tunnels::new(tokio::runtime::Handle::current()), policy)
    }

    fn upstream() -> Upstream {
        let endpoint = Endpoint::Host { name: "a.example".into(), port: 80, lookup: None };
        Upstream {
            project: ProjectName::default(),
            endpoint,
            protocol: Protocol::Http1,
            tls: None,
            announces: None,
            link: Link::default(),
        }
    }

    /// A listener that takes no more connections: further ones wait until the kernel gives up.
    async fn stuck() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let filler = TcpStream::connect(address).await.unwrap();
        (address, (listener, filler))
    }

    async fn open() -> (SocketAddr, impl Sized) {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    async fn connect(routing: &Routing, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        super::connect(routing, &ProjectName::default(), Purpose::Backend, addresses).await
    }

    fn peer(connected: Result<TcpStream, Failure>) -> SocketAddr {
        connected.unwrap().peer_addr().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_holds_the_next_one_up_for_its_head_start_only() {
        let (silent, _a) = stuck().await;
        let (good, _b) = open().await;
        let before = Instant::now();
        let routing = routing();
        assert_eq!(peer(connect(&routing, &[silent, good]).await), good);
        assert_eq!(before.elapsed(), HEAD_START);
        let before = Instant::now();
        assert_eq!(peer(connect(&routing, &[silent, silent, good]).await), good);
        assert_eq!(before.elapsed(), HEAD_START * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_holds_nothing_up_and_one_that_is_denied_is_not_tried() {
        let (gone, listener) = open().await;
        drop(listener);
        let denied: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let (good, _b) = open().await;
        let routing = routing();
        let before = Instant::now();
        assert_eq!(peer(connect(&routing, &[gone, denied, good]).await), good);
        // A refusal comes by the kernel, and while it is waited for the clock may run ahead by one head start.
        assert!(before.elapsed() <= HEAD_START);
        assert!(matches!(connect(&routing, &[denied]).await, Err(Failure::Denied(_))));
        assert!(matches!(connect(&routing, &[denied, gone]).await, Err(Failure::Connect { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn connecting_takes_no_longer_than_the_upstream_allows() {
        let (silent, _a) = stuck().await;
        let upstream = |connect| Upstream {
            endpoint: Endpoint::Address(silent),
            link: Link { connect, ..Link::default() },
            ..upstream()
        };
        for (connect, want) in [(Some(Duration::from_secs(2)), Duration::from_secs(2)), (None, CONNECT)] {
            let before = Instant::now();
            let dialled = dial(&routing(), &upstream(connect), silent).await;
            assert!(matches!(dialled, Err(Failure::ConnectTimedOut)));
            assert_eq!(before.elapsed(), want);
        }
    }

    #[tokio::test]
    async fn sockets_are_kept_alive_as_the_upstream_says() {
        let (address, _listener) = open().await;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let keepalive = Keepalive { idle: seconds(7), interval: seconds(3), probes: Some(2) };
        let link = Link { keepalive: Some(keepalive), ..Link::default() };
        let upstream = Upstream { endpoint: Endpoint::Address(address), link, ..upstream() };
        let transport = dial(&routing(), &upstream, address).await.unwrap();
        let socket = SockRef::from(transport.socket().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().ok(), seconds(7));
    }

    #[test]
    fn the_families_take_turns_and_the_preferred_one_is_first() {
        let check = |given: &[&str], want: &[&str]| {
            let parse = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
            assert_eq!(in_turn(&parse(given)), parse(want));
        };
        check(&[], &[]);
        check(
            &["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"],
            &["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"],
        );
        check(&["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"], &["1.0.0.1:1", "[::1]:1", "1.0.0.2:1"]);
        let many: Vec<String> = (1..=20).map(|last| format!("1.0.0.{last}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&many, &many[..ADDRESSES_MAX]);
    }
}
