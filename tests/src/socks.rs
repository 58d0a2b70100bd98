//! A SOCKS5 client, and two nodes that may meet: what journeys of flows that begin at an agent need.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    agent::{Agent, Connected, Settings},
    eventually::eventually,
    manifest,
    relay::Relay,
    upstream::Upstream,
};

/// The reply of success (RFC 1928 §6), and those of refusals.
pub const SUCCEEDED: u8 = 0;
pub const NOT_ALLOWED: u8 = 2;
pub const HOST_UNREACHABLE: u8 = 4;
pub const REFUSED: u8 = 5;

/// Asks the proxy for a connection to `host`, which goes as an address where it is one, else as a name.
///
/// # Errors
/// The reply's code.
///
/// # Panics
/// When the proxy breaks the protocol.
pub async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, u8> {
    try_connect(proxy, host, port).await.expect("the proxy speaks SOCKS5")
}

async fn try_connect(proxy: SocketAddr, host: &str, port: u16) -> io::Result<Result<TcpStream, u8>> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    assert_eq!(chosen, [5, 0], "the proxy asks for no password");
    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(std::net::IpAddr::V4(address)) => request.extend([&[1][..], &address.octets()].concat()),
        Ok(std::net::IpAddr::V6(address)) => request.extend([&[4][..], &address.octets()].concat()),
        Err(_) => {
            let length = u8::try_from(host.len()).expect("a name of at most 255 bytes");
            request.extend([&[3, length][..], host.as_bytes()].concat());
        }
    }
    request.extend(port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await?;
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1), "a reply with an IPv4 address: {reply:?}");
    Ok(if reply[1] == SUCCEEDED { Ok(stream) } else { Err(reply[1]) })
}

/// Waits until `host` is answered with this reply, as a change of the resources makes it; gives the connection of a success.
pub async fn replies(proxy: SocketAddr, host: &str, port: u16, reply: u8) -> Option<TcpStream> {
    eventually(&format!("{host}:{port} is answered {reply}"), async || {
        let connected = connect(proxy, host, port).await;
        let code = connected.as_ref().err().copied().unwrap_or(SUCCEEDED);
        if code == reply { Ok(connected.ok()) } else { Err(code) }
    })
    .await
}

/// Node `office` with a service that it publishes, and node `laptop` with proxies; neither may reach anything yet.
#[derive(Debug)]
pub struct Nodes {
    pub laptop: Agent,
    pub office: Agent,
    pub at_office: Connected,
    /// Where the laptop's proxies are.
    pub proxy: SocketAddr,
    pub upstream: Upstream,
    pub relay: Relay,
}

impl Nodes {
    /// Starts everything, on a relay through which nodes may reach loopback when they may reach anything.
    pub async fn open() -> Self {
        Self::open_with(&[]).await
    }

    /// The same, with further flags of the laptop's agent.
    pub async fn open_with(flags: &[&str]) -> Self {
        let relay = Relay::start_with(&["--allow-egress", "127.0.0.0/8"]).await;
        let upstream = Upstream::start("office").await;
        relay.cli().apply(&manifest::documents(&[manifest::node("office"), manifest::node("laptop")])).await;
        let port = upstream.port().to_string();
        let (office, at_office) = Agent::enrol(&relay, Settings::node("office").flags(&["--publish", &port])).await;
        let flags = [&["--socks-addr", "127.0.0.1:0"], flags].concat();
        let (laptop, _) = Agent::enrol(&relay, Settings::node("laptop").flags(&flags)).await;
        let proxy = proxy(&laptop);
        Self { laptop, office, at_office, proxy, upstream, relay }
    }

    /// Makes `office` say this in its `allowFrom`, in YAML's flow style.
    pub async fn office_admits(&self, allow_from: &str) {
        let spec = format!("spec:\n  allowFrom: {allow_from}\n");
        self.relay.cli().apply(&(manifest::node("office") + &spec)).await;
    }

    /// Whether `laptop` may reach the internet.
    pub async fn laptop_may_leave(&self, may: bool) {
        let spec = format!("spec:\n  egressGateway:\n    enabled: {may}\n");
        self.relay.cli().apply(&(manifest::node("laptop") + &spec)).await;
    }
}

/// Where an agent's proxies listen, as it printed it.
///
/// # Panics
/// When it did not.
#[must_use]
pub fn proxy(agent: &Agent) -> SocketAddr {
    let lines = agent.process.lines();
    let line = lines.iter().find_map(|line| line.strip_prefix("listening socks "));
    line.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("`listening socks ADDRESS` in {lines:?}"))
}
