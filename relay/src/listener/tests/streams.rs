//! TCP listeners: connections go to a backend as they are.

use tokio::time::timeout;

use super::{
    tls::{Issued, anonymous, pattern, rule, to_backend},
    *,
};
use crate::route::target::Answer;

const AT: ListenAddress = ListenAddress { address: None, port: 443 };

fn tcp(rule: Option<Arc<Rule>>) -> Table {
    let mut builder = TableBuilder::default();
    builder.tcp(AT, rule);
    builder.build()
}

/// A backend that says `word` to each connection and closes.
async fn saying(word: &'static str) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(word.as_bytes()).await.unwrap();
        }
    });
    address
}

async fn all(mut stream: TcpStream) -> std::io::Result<String> {
    let mut said = String::new();
    stream.read_to_string(&mut said).await.map(|_| said)
}

#[tokio::test]
async fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let (listener, address) = listener().await;
    let backend = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        // More than all buffers on the way hold.
        let answer = said.repeat(1 << 18);
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        // Nothing comes any more, and nothing breaks.
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    });
    let gate = Gate::serving(tcp(Some(rule(vec![to_backend(address, 1)]))));
    let mut stream = gate.connect().await;
    stream.write_all(b"0123456789abcdef").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(all(stream).await.unwrap(), "0123456789abcdef".repeat(1 << 18));
    backend.await.unwrap();
}

#[tokio::test]
async fn what_leads_nowhere_is_reset() {
    let answer = Target::Answer(Answer { status: 500, text: "no such backend".into() });
    let broken = target::Backend { target: answer, ..to_backend(([127, 0, 0, 1], 1).into(), 1) };
    let (closed, nobody) = listener().await;
    drop(closed);
    let rules = [
        None,
        Some(rule(vec![])),
        Some(rule(vec![broken])),
        Some(rule(vec![to_backend(nobody, 1)])),
        Some(rule(vec![to_backend(saying("never").await, 0)])),
        // Not allowed by the operator.
        Some(rule(vec![to_backend(([10, 0, 0, 1], 80).into(), 1)])),
    ];
    for rule in rules {
        let gate = Gate::serving(tcp(rule.clone()));
        let mut stream = gate.connect().await;
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{rule:?}");
    }
}

#[tokio::test]
async fn connections_are_spread_by_weight() {
    let backends =
        vec![to_backend(saying("a").await, 3), to_backend(saying("b").await, 3), to_backend(saying("c").await, 0)];
    let gate = Gate::serving(tcp(Some(rule(backends))));
    let mut seen = String::new();
    for _ in 0..64 {
        seen.push_str(&all(gate.connect().await).await.unwrap());
    }
    assert_eq!(seen.len(), 64);
    assert!(seen.contains('a') && seen.contains('b') && !seen.contains('c'), "{seen}");
}

#[tokio::test]
async fn a_broken_end_breaks_the_other() {
    let (listener, address) = listener().await;
    let gate = Gate::serving(tcp(Some(rule(vec![to_backend(address, 1)]))));
    let mut client = gate.connect().await;
    let (mut backend, _) = listener.accept().await.unwrap();
    backend.write_all(b"half").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    backend.set_zero_linger().unwrap();
    drop(backend);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let client = gate.connect().await;
    let (mut backend, _) = listener.accept().await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(backend.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn open_connections_outlive_their_route_and_end_when_cut() {
    let (listener, address) = listener().await;
    let gate = Gate::serving(tcp(Some(rule(vec![to_backend(address, 1)]))));
    let mut client = gate.connect().await;
    let (mut backend, _) = listener.accept().await.unwrap();
    gate.gateway.routing.table.store(Arc::default());
    gate.stop.cancel();
    backend.write_all(b"still").await.unwrap();
    let mut said = [0; 5];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"still");
    assert_eq!(gate.worker.drain(crate::clock::instant()).await, 1);
    assert!(client.read(&mut said).await.is_err());
    assert!(backend.read(&mut said).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_silent_for_an_hour_ends() {
    let (listener, address) = listener().await;
    let gate = Gate::serving(tcp(Some(rule(vec![to_backend(address, 1)]))));
    let mut client = gate.connect().await;
    let (mut backend, _) = listener.accept().await.unwrap();
    client.write_all(b"x").await.unwrap();
    backend.read_exact(&mut [0; 1]).await.unwrap();
    let seconds = std::time::Duration::from_secs;
    assert!(timeout(seconds(3599), client.read(&mut [0; 1])).await.is_err(), "it is open for an hour");
    assert!(timeout(seconds(3602), client.read(&mut [0; 1])).await.unwrap().is_err());
    assert!(backend.read(&mut [0; 1]).await.is_err());
}

#[tokio::test]
async fn http_on_the_same_gateway_is_as_before() {
    let issued = Issued::new("a.com");
    let mut builder = TableBuilder::default();
    builder.https(AT, &ProjectName::default(), &pattern("a.com"), issued.tls());
    builder.tls(AT, &ProjectName::default(), &pattern("b.com"), None);
    let address = saying("from the backend").await;
    builder.attach_tls(AT, &pattern("b.com"), &pattern("b.com"), &rule(vec![to_backend(address, 1)]));
    let gate = Gate::serving(builder.build());
    let mut stream = gate.tls("a.com", &anonymous(&[&issued])).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: b.com\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    // What the backend says is no TLS, and reaches the client as it is.
    assert!(gate.tls("b.com", &anonymous(&[&issued])).await.is_err());
}
