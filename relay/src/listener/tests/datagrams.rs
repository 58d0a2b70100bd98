//! UDP listeners: clients, their sessions, and what ends these.

use std::{collections::BTreeSet, time::Duration};

use tokio::{net::UdpSocket, time::timeout};

use super::{
    tls::{rule, to_backend},
    *,
};
use crate::{listener::datagrams::SESSIONS_MAX, route::target::Answer};

const AT: ListenAddress = ListenAddress { address: None, port: 53 };

fn udp(rule: Option<Arc<Rule>>) -> Arc<Table> {
    let mut builder = TableBuilder::default();
    builder.udp(AT, rule);
    Arc::new(builder.build())
}

/// A gateway with a port for datagrams, and room for so many sessions.
struct UdpGate {
    gate: Gate,
    address: SocketAddr,
    sessions: u32,
}

impl UdpGate {
    fn open(table: Arc<Table>, sessions: usize) -> Self {
        let mut gate = Gate::open(&[]);
        gate.gateway.routing.table.store(table);
        gate.worker = Worker::with_sessions(gate.gateway.clone(), sessions);
        let socket = bind::bind_datagrams((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        tokio::spawn(gate.worker.clone().serve_datagrams(socket, AT, gate.stop.clone()));
        Self { gate, address, sessions: sessions.try_into().unwrap() }
    }

    fn publish(&self, table: Arc<Table>) {
        self.gate.gateway.routing.table.store(table);
    }

    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    /// Waits until there is no session.
    async fn emptied(&self) {
        drop(self.gate.worker.datagrams.room.acquire_many(self.sessions).await.unwrap());
    }
}

/// A backend that answers each datagram with `word`, where it came from, and what it was.
async fn answering(word: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let said = String::from_utf8_lossy(&buffer[..length]);
            let answer = format!("{word} {} {said}", from.port());
            let _ = socket.send_to(answer.as_bytes(), from).await;
        }
    });
    address
}

/// Sends `said`; returns who answered, and to which port of the gateway.
async fn ask(client: &UdpSocket, said: &str) -> (String, u16) {
    client.send(said.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let length = client.recv(&mut buffer).await.unwrap();
    let answer = std::str::from_utf8(&buffer[..length]).unwrap();
    let mut words = answer.splitn(3, ' ');
    let (word, port) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
    assert_eq!(words.next(), Some(said));
    (word, port)
}

fn to(backends: &[SocketAddr]) -> Option<Arc<Rule>> {
    Some(rule(backends.iter().map(|&backend| to_backend(backend, 1)).collect()))
}

#[tokio::test]
async fn each_client_has_an_endpoint_and_keeps_it() {
    let backends = [answering("a").await, answering("b").await];
    let gate = UdpGate::open(udp(to(&backends)), SESSIONS_MAX);
    let mut ports = BTreeSet::new();
    let mut words = BTreeSet::new();
    for _ in 0..32 {
        let client = gate.client().await;
        let first = ask(&client, "one").await;
        assert_eq!(ask(&client, "two").await, first);
        ports.insert(first.1);
        words.insert(first.0);
    }
    assert_eq!(ports.len(), 32, "each client is known by a port of its own");
    assert_eq!(words.len(), 2, "both backends are used");
}

#[tokio::test]
async fn all_that_comes_before_the_endpoint_is_known_is_passed_in_order() {
    let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gate = UdpGate::open(udp(to(&[backend.local_addr().unwrap()])), SESSIONS_MAX);
    let client = gate.client().await;
    for number in 0..16_u8 {
        client.send(&[number]).await.unwrap();
    }
    for number in 0..16_u8 {
        let mut buffer = [0; 2];
        assert_eq!(backend.recv(&mut buffer).await.unwrap(), 1);
        assert_eq!(buffer[0], number);
    }
}

#[tokio::test]
async fn the_longest_and_the_shortest_datagram_pass() {
    let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gate = UdpGate::open(udp(to(&[backend.local_addr().unwrap()])), SESSIONS_MAX);
    let client = gate.client().await;
    let mut buffer = vec![0; 65_535];
    for length in [65_507, 0, 1] {
        client.send(&vec![7; length]).await.unwrap();
        let (got, from) = backend.recv_from(&mut buffer).await.unwrap();
        assert_eq!(got, length);
        backend.send_to(&buffer[..got], from).await.unwrap();
        assert_eq!(client.recv(&mut buffer).await.unwrap(), length);
    }
}

#[tokio::test]
async fn only_the_endpoint_is_heard() {
    let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gate = UdpGate::open(udp(to(&[backend.local_addr().unwrap()])), SESSIONS_MAX);
    let client = gate.client().await;
    client.send(b"who is there").await.unwrap();
    let (_, session) = backend.recv_from(&mut [0; 64]).await.unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stranger.send_to(b"a stranger", session).await.unwrap();
    backend.send_to(b"the backend", session).await.unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"the backend");
}

#[tokio::test]
async fn at_the_limit_the_client_silent_for_longest_gives_way() {
    let gate = UdpGate::open(udp(to(&[answering("a").await])), 2);
    let (one, two, three) = (gate.client().await, gate.client().await, gate.client().await);
    let (first, second) = (ask(&one, "x").await, ask(&two, "x").await);
    assert_eq!(ask(&one, "x").await, first);
    let third = ask(&three, "x").await;
    assert_eq!(ask(&one, "x").await, first);
    assert_eq!(ask(&three, "x").await, third);
    assert_ne!(ask(&two, "x").await, second, "it has begun anew");
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends_after_a_minute() {
    let gate = UdpGate::open(udp(to(&[answering("a").await])), SESSIONS_MAX);
    let client = gate.client().await;
    ask(&client, "x").await;
    let seconds = Duration::from_secs;
    assert!(timeout(seconds(50), gate.emptied()).await.is_err());
    ask(&client, "still here").await;
    assert!(timeout(seconds(59), gate.emptied()).await.is_err(), "it was used since");
    assert!(timeout(seconds(17), gate.emptied()).await.is_ok());
    ask(&client, "again").await;
}

#[tokio::test]
async fn sessions_follow_the_table() {
    let (a, b) = (answering("a").await, answering("b").await);
    let gate = UdpGate::open(udp(to(&[a])), SESSIONS_MAX);
    let client = gate.client().await;
    let before = ask(&client, "x").await;
    gate.publish(udp(to(&[a, b])));
    assert_eq!(ask(&client, "x").await, before, "its endpoint is served still");
    gate.publish(udp(to(&[b])));
    assert_eq!(ask(&client, "x").await.0, "b");
    gate.publish(Arc::default());
    client.send(b"nobody is there").await.unwrap();
    gate.emptied().await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_only_sends_is_stopped_when_its_rule_goes() {
    let backend = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gate = UdpGate::open(udp(to(&[backend.local_addr().unwrap()])), SESSIONS_MAX);
    let client = gate.client().await;
    client.send(b"begin").await.unwrap();
    let (_, session) = backend.recv_from(&mut [0; 64]).await.unwrap();
    backend.send_to(b"more", session).await.unwrap();
    client.recv(&mut [0; 64]).await.unwrap();
    gate.publish(Arc::default());
    assert!(timeout(Duration::from_secs(16), gate.emptied()).await.is_ok());
}

#[tokio::test]
async fn what_leads_nowhere_is_dropped() {
    let node = Upstream::node(&ProjectName::default(), &"office".parse().unwrap(), 53, Protocol::Http1);
    let answer = Target::Answer(Answer { status: 500, text: "no such backend".into() });
    let with = |target| target::Backend { target, ..to_backend(([127, 0, 0, 1], 1).into(), 1) };
    let word = answering("a").await;
    let rules = [
        None,
        Some(rule(vec![])),
        Some(rule(vec![with(answer)])),
        Some(rule(vec![with(Target::Upstreams(vec![Arc::new(node)]))])),
        // Not allowed by the operator.
        Some(rule(vec![to_backend(([10, 0, 0, 1], 53).into(), 1)])),
        Some(rule(vec![to_backend(word, 0)])),
    ];
    let gate = UdpGate::open(udp(None), SESSIONS_MAX);
    let (client, beside) = (gate.client().await, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    beside.connect(word).await.unwrap();
    for rule in rules {
        gate.publish(udp(rule));
        client.send(b"lost").await.unwrap();
        // A way there and back beside the gateway: meanwhile it has taken the datagram.
        ask(&beside, "x").await;
        gate.emptied().await;
    }
    gate.publish(udp(to(&[word])));
    assert_eq!(ask(&client, "found").await.0, "a");
}

#[tokio::test]
async fn sessions_end_with_their_port() {
    let gate = UdpGate::open(udp(to(&[answering("a").await])), SESSIONS_MAX);
    ask(&gate.client().await, "x").await;
    gate.gate.stop.cancel();
    gate.emptied().await;
    assert!(bind::bind_datagrams(gate.address, 1).is_ok(), "the socket is closed");
}
