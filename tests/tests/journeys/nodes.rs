//! Packets from one node to another through the relay: what consent allows, what comes back, what is told.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::UdpSocket, time::timeout};
use underpass_tests::{
    agent::{Agent, Connected, Settings},
    eventually::{PATIENCE, eventually, within},
    host::Host,
    manifest,
    packets::{icmp_of, ping, udp},
    relay::Relay,
};

const ECHO_REPLY: (u8, u8) = (129, 0);
const NO_ROUTE: (u8, u8) = (1, 0);
const PROHIBITED: (u8, u8) = (1, 1);
const AWAY: (u8, u8) = (1, 3);
const PORT_UNREACHABLE: (u8, u8) = (1, 4);
const TOO_BIG: (u8, u8) = (2, 0);
const TIME_EXCEEDED: (u8, u8) = (3, 0);

/// How long a packet is waited for before the next is sent.
const ANSWER: Duration = Duration::from_secs(1);

/// A relay, node `office` with a real agent, and node `laptop`, whose packets are written by hand.
struct Nodes {
    laptop: Host,
    office: Connected,
    _agent: Agent,
    relay: Relay,
}

impl Nodes {
    async fn open() -> Self {
        Self::with(Settings::node("office")).await
    }

    async fn with(settings: Settings) -> Self {
        let relay = Relay::start().await;
        relay.cli().apply(&manifest::documents(&[manifest::node("office"), manifest::node("laptop")])).await;
        let (agent, office) = Agent::enrol(&relay, settings).await;
        let laptop = Host::join(&relay, None, "laptop").await;
        Self { laptop, office, _agent: agent, relay }
    }

    /// Lets the office admit the laptop to these ports, or with `None` nobody.
    async fn admit(&self, ports: Option<&str>) {
        self.relay.cli().apply(&office(ports)).await;
    }

    /// Sends a packet to the office until `kind` comes back, as what was applied takes a moment to count.
    async fn answered(&mut self, packet: &[u8], kind: (u8, u8)) -> Bytes {
        let laptop = &mut self.laptop;
        eventually(&format!("the packet is answered {kind:?}"), async || {
            laptop.send(packet);
            // One that comes before the other end knows of its sender is lost, as packets may be.
            let Ok(answer) = timeout(ANSWER, laptop.receive()).await else { return Err(None) };
            match icmp_of(&answer) {
                Some(seen) if seen == kind => Ok(answer),
                seen => Err(seen),
            }
        })
        .await
    }

    /// Waits for an answer of `kind`.
    async fn told(&mut self, kind: (u8, u8)) -> Bytes {
        loop {
            let answer = self.laptop.receive().await;
            if icmp_of(&answer) == Some(kind) {
                return answer;
            }
        }
    }

    fn ping(&self) -> Vec<u8> {
        ping((self.laptop.address, self.office.address), 7, b"are you there?")
    }
}

fn office(ports: Option<&str>) -> String {
    let node = manifest::node("office");
    match ports {
        Some(ports) => format!("{node}spec:\n  allowFrom:\n  - node: laptop\n    ports: {ports}\n"),
        None => format!("{node}spec:\n  allowFrom: []\n"),
    }
}

fn source_of(packet: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(&packet[8..24]).expect("a whole header").into()
}

#[tokio::test]
async fn a_node_is_reached_as_soon_and_as_long_as_it_allows_it() {
    let mut nodes = Nodes::open().await;
    let (request, office) = (nodes.ping(), nodes.office.address);
    assert!(!nodes.laptop.has_route_to(office));
    nodes.answered(&request, PROHIBITED).await;

    nodes.admit(Some("[7000]")).await;
    nodes.laptop.until("a route to the office", |laptop| laptop.has_route_to(office)).await;
    let reply = nodes.answered(&request, ECHO_REPLY).await;
    assert_eq!(source_of(&reply), office);
    assert_eq!(reply[44..], request[44..], "the reply has the bytes of the request");

    let socket = |address, port| SocketAddrV6::new(address, port, 0, 0);
    let to = |port| udp(socket(nodes.laptop.address, 5000), socket(office, port), b"hello");
    let (allowed, denied) = (to(7000), to(7001));
    // Nothing is served there: the office says so, of the port that is allowed only.
    let unreachable = nodes.answered(&allowed, PORT_UNREACHABLE).await;
    assert_eq!(source_of(&unreachable), office);
    let prohibited = nodes.answered(&denied, PROHIBITED).await;
    assert_ne!(source_of(&prohibited), office);

    nodes.admit(None).await;
    nodes.laptop.until("no route to the office", |laptop| !laptop.has_route_to(office)).await;
    nodes.answered(&request, PROHIBITED).await;
}

#[tokio::test]
async fn a_service_that_speaks_udp_is_reached_from_another_node() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let hidden = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let [port, other] = [&service, &hidden].map(|socket| socket.local_addr().unwrap().port());
    let mut nodes = Nodes::with(Settings::node("office").flags(&["--publish", &port.to_string()])).await;
    nodes.admit(Some(&format!("[{port}, {other}]"))).await;
    let (laptop, office) = (nodes.laptop.address, nodes.office.address);
    nodes.answered(&nodes.ping(), ECHO_REPLY).await;
    let mut asked = [0; 2048];
    for client in 5000..5020 {
        let ends = (SocketAddrV6::new(laptop, client, 0, 0), SocketAddrV6::new(office, port, 0, 0));
        nodes.laptop.send(&udp(ends.0, ends.1, &client.to_be_bytes()));
        let (length, peer) = within(PATIENCE, "the service is asked", service.recv_from(&mut asked)).await.unwrap();
        assert_eq!(asked[..length], client.to_be_bytes());
        service.send_to(&[&asked[..length], &[9; 1000]].concat(), peer).await.unwrap();
        let wanted = udp(ends.1, ends.0, &[&client.to_be_bytes()[..], &[9; 1000]].concat());
        let answer = nodes.laptop.receive().await;
        // But for the hop limit, of which the relay took one.
        assert_eq!((&answer[..7], &answer[8..]), (&wanted[..7], &wanted[8..]));
        assert_eq!(answer[7], 63);
    }
    // The office's node admits the laptop to it; its agent does not name it.
    let to_hidden = udp(SocketAddrV6::new(laptop, 5000, 0, 0), SocketAddrV6::new(office, other, 0, 0), b"hello");
    nodes.answered(&to_hidden, PORT_UNREACHABLE).await;
    assert!(hidden.try_recv(&mut asked).is_err(), "what is not published hears nothing");
}

#[tokio::test]
async fn a_udproute_leads_to_a_service_behind_an_agent() {
    let relay = Relay::start().await;
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listener = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ports = (listener.port(), service.local_addr().unwrap().port());
    let parts = [manifest::node("office"), manifest::backend("clock", "office", ""), udp_route(ports)];
    relay.cli().apply(&manifest::documents(&parts)).await;
    let (_agent, _) = Agent::enrol(&relay, Settings::node("office")).await;
    tokio::spawn(async move {
        let mut asked = [0; 2048];
        loop {
            let (length, peer) = service.recv_from(&mut asked).await.unwrap();
            asked[..length].reverse();
            service.send_to(&asked[..length], peer).await.unwrap();
        }
    });
    for number in 0..20u8 {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(listener).await.unwrap();
        let asked: Vec<u8> = (0..=number).collect();
        let answer = eventually("the service answers", async || {
            // What it did not hear as yet was refused by the kernel, or is lost.
            let _ = client.send(&asked).await;
            let mut answer = vec![0; 2048];
            match timeout(ANSWER, client.recv(&mut answer)).await {
                Ok(Ok(length)) => Ok(answer[..length].to_vec()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(answer, (0..=number).rev().collect::<Vec<_>>());
    }
}

/// A Gateway with a UDP listener, and a route from it to a port of Backend `clock`.
fn udp_route((listener, service): (u16, u16)) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: udp\nspec:\n  gatewayClassName: \
         default\n  listeners:\n  - name: clock\n    port: {listener}\n    protocol: UDP\n---\napiVersion: \
         gateway.networking.k8s.io/v1alpha2\nkind: UDPRoute\nmetadata:\n  name: clock\nspec:\n  parentRefs:\n  - name: \
         udp\n  rules:\n  - backendRefs:\n    - group: core.apoxy.dev\n      kind: Backend\n      name: clock\n      port: \
         {service}\n"
    )
}

#[tokio::test]
async fn whoever_sends_what_goes_nowhere_is_told_why() {
    let mut nodes = Nodes::open().await;
    nodes.admit(Some("[7000]")).await;
    let request = nodes.ping();
    nodes.answered(&request, ECHO_REPLY).await;

    let mut last_hop = request.clone();
    last_hop[7] = 1;
    nodes.answered(&last_hop, TIME_EXCEEDED).await;

    // Larger than any datagram: it comes by the stream, and would have to leave as a datagram.
    let ends = (nodes.laptop.address, nodes.office.address);
    let large = ping(ends, 7, &[1; 4000]);
    nodes.laptop.send_capsule(&large).await;
    let too_big = nodes.told(TOO_BIG).await;
    let takes = usize::from(u16::from_be_bytes([too_big[46], too_big[47]]));
    assert!((1280..1500).contains(&takes), "{takes}");
    // What it says fits does.
    let fits = ping(ends, 7, &vec![1; takes - 48]);
    nodes.laptop.send_capsule(&fits).await;
    let reply = nodes.told(ECHO_REPLY).await;
    assert_eq!(reply.len(), takes);

    let outside = ping((ends.0, "2001:db8::1".parse().unwrap()), 7, b"");
    nodes.answered(&outside, NO_ROUTE).await;
    let mut stranger = ends.1.octets();
    stranger[11] = 99;
    nodes.answered(&ping((ends.0, stranger.into()), 7, b""), AWAY).await;
    nodes.laptop.send(&ping((ends.1, ends.1), 7, b"forged"));
    eventually("the relay's log says what was lost", async || {
        let log = nodes.relay.process.log();
        if log.contains("packets were lost") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test]
async fn nodes_of_two_projects_never_meet_whatever_they_allow() {
    let mut nodes = Nodes::open().await;
    nodes.admit(Some("[7000]")).await;
    nodes.answered(&nodes.ping(), ECHO_REPLY).await;
    let relay = &nodes.relay;
    relay.cli().apply(&manifest::project("red")).await;
    let red = relay.cli().in_project(Some("red"));
    red.apply(&manifest::documents(&[office(Some("[7000]")), manifest::node("laptop")])).await;
    let mut stranger = Host::join(relay, Some("red"), "laptop").await;
    assert!(!stranger.has_route_to(nodes.office.address));
    let forged = ping((nodes.laptop.address, nodes.office.address), 7, b"forged");
    stranger.send(&forged);
    stranger.send(&ping((stranger.address, nodes.office.address), 7, b"hello"));
    assert_eq!(icmp_of(&stranger.receive().await), Some(NO_ROUTE), "the forged one was not even answered");
}
