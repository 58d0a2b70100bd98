//! Listeners as a whole: TLS, tables that change under load, and stopping.

use std::time::Duration;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{clock, listener::tls};

#[tokio::test]
async fn https_speaks_what_the_client_prefers() {
    let gate = Gate::open_with(&[("a.com", to_address(echo().await))], Scheme::Https, &["127.0.0.0/8"]);
    let issued = rcgen::generate_simple_self_signed(["a.com".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    gate.gateway.tls.store(Some(tls::server_config(vec![issued.cert.der().clone()], key).unwrap()));

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for protocol in ["h2", "http/1.1"] {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = TlsConnector::from(Arc::new(config.clone()));
        let name = ServerName::try_from("a.com").unwrap();
        let stream = connector.connect(name, gate.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let (status, seen) = if protocol == "h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = Request::get("https://a.com/").body(Full::<Bytes>::default()).unwrap();
            told(sender.send_request(request).await.unwrap()).await
        } else {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            told(sender.send_request(get("a.com", "/")).await.unwrap()).await
        };
        assert_eq!(status, 200);
        assert!(seen.contains("x-forwarded-proto: https"), "{seen}");
    }
}

#[tokio::test]
async fn a_route_changes_under_load_without_a_failed_request() {
    let say = async |word: &'static str| {
        to_address(server(move |_| async move { Response::new(Full::new(Bytes::from(word))) }).await)
    };
    let (old, new) = (say("old").await, say("new").await);
    let gate = Arc::new(Gate::open(&[("a.com", old.clone())]));
    let (halfway, reached) = tokio::sync::oneshot::channel();
    let mut halfway = Some(halfway);
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (gate, halfway) = (gate.clone(), halfway.take());
            tokio::spawn(async move {
                let mut sender = gate.http1().await;
                let mut words = Vec::new();
                let mut halfway = halfway;
                for index in 0..100 {
                    if index == 50
                        && let Some(halfway) = halfway.take()
                    {
                        halfway.send(()).unwrap();
                    }
                    let (status, word) = told(sender.send_request(get("a.com", "/")).await.unwrap()).await;
                    assert_eq!(status, 200);
                    words.push(word);
                    sender.ready().await.unwrap();
                }
                words
            })
        })
        .collect();
    reached.await.unwrap();
    gate.publish(&[("a.com", new)]);
    for client in clients {
        let words = client.await.unwrap();
        assert!(words.is_sorted_by(|a, b| !(a == "new" && b == "old")), "{words:?}");
        assert_eq!(words.last().unwrap(), "new");
    }
}

#[tokio::test]
async fn draining_waits_for_what_is_in_flight() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let (arrive, mut arrived) = tokio::sync::mpsc::channel(1);
    let address = server(move |_| {
        let (mut gone, arrive) = (gone.clone(), arrive.clone());
        async move {
            arrive.send(()).await.unwrap();
            gone.wait_for(|gone| *gone).await.unwrap();
            Response::new(Full::new(Bytes::from("done")))
        }
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut idle = gate.connect().await;
    let mut busy = gate.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    arrived.recv().await.unwrap();
    gate.stop.cancel();
    let worker = gate.worker.clone();
    let drained = tokio::spawn(async move { worker.drain(clock::instant() + Duration::from_secs(60)).await });
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0, "idle connections end at once");
    go.send(true).unwrap();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(drained.await.unwrap(), 0);
    assert!(TcpStream::connect(gate.address).await.is_err(), "nothing new is accepted");
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_cut() {
    let (arrive, mut arrived) = tokio::sync::mpsc::channel(1);
    let address = server(move |_| {
        let arrive = arrive.clone();
        async move {
            arrive.send(()).await.unwrap();
            std::future::pending::<Response<Full<Bytes>>>().await
        }
    })
    .await;
    let gate = Gate::open(&[("a.com", to_address(address))]);
    let mut busy = gate.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    arrived.recv().await.unwrap();
    gate.stop.cancel();
    assert_eq!(gate.worker.drain(clock::instant()).await, 1);
    assert!(matches!(busy.read(&mut [0; 16]).await, Ok(0) | Err(_)));
}
