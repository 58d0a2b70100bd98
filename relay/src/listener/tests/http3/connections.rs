//! Connections over HTTP/3: limits, slow clients, stopping.

use tokio::sync::{mpsc, watch};

use super::*;
use crate::{clock, listener::STREAMS_MAX};

/// A backend that answers when it is told to, and says when it was asked.
async fn held() -> (SocketAddr, mpsc::Receiver<()>, watch::Sender<bool>) {
    let (go, gone) = watch::channel(false);
    let (arrive, arrived) = mpsc::channel(1000);
    let address = server(move |_| {
        let (mut gone, arrive) = (gone.clone(), arrive.clone());
        async move {
            arrive.send(()).await.unwrap();
            gone.wait_for(|gone| *gone).await.unwrap();
            Response::new(Full::new(Bytes::from("done")))
        }
    })
    .await;
    (address, arrived, go)
}

#[tokio::test]
async fn stopping_waits_for_what_is_in_flight_and_lets_nothing_new_begin() {
    let (address, mut arrived, go) = held().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let idle = site.visit("a.com").await;
    let mut visitor = site.visit("a.com").await;
    let (mut send, receive) = visitor.begin(get3("a.com", "/")).await;
    send.finish().await.unwrap();
    soon(arrived.recv()).await.unwrap();
    site.gate.stop.cancel();
    let worker = site.gate.worker.clone();
    let drained = tokio::spawn(async move { worker.drain(clock::instant() + Duration::from_secs(60)).await });
    let end = soon(idle.connection.closed()).await;
    assert!(
        matches!(&end, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 0x100_u32.into()),
        "{end}"
    );
    // Once the GOAWAY is there, the client itself begins nothing more; before, the gateway rejects it.
    let refused = soon(visitor.requests.send_request(get3("a.com", "/"))).await;
    if let Ok(mut stream) = refused {
        let _ = stream.finish().await;
        let error = soon(stream.recv_response()).await.unwrap_err();
        assert_eq!(code_of(&error), Some(Code::H3_REQUEST_REJECTED), "{error}");
    }
    go.send(true).unwrap();
    assert_eq!(soon(told_by(receive)).await.unwrap().body, b"done");
    assert_eq!(soon(drained).await.unwrap(), 0);
    soon(visitor.connection.closed()).await;
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_cut() {
    let (address, mut arrived, _go) = held().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, receive) = visitor.begin(get3("a.com", "/")).await;
    send.finish().await.unwrap();
    soon(arrived.recv()).await.unwrap();
    site.gate.stop.cancel();
    assert_eq!(soon(site.gate.worker.drain(clock::instant())).await, 1);
    soon(told_by(receive)).await.unwrap_err();
}

#[tokio::test]
async fn a_client_has_so_many_requests_at_once_and_no_more() {
    let (address, mut arrived, go) = held().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let mut answers = Vec::new();
    for _ in 0..STREAMS_MAX {
        let (mut send, receive) = visitor.begin(get3("a.com", "/")).await;
        send.finish().await.unwrap();
        answers.push(receive);
        soon(arrived.recv()).await.unwrap();
    }
    let mut requests = visitor.requests.clone();
    let mut more = Box::pin(requests.send_request(get3("a.com", "/")));
    assert!(futures_util::poll!(&mut more).is_pending());
    go.send(true).unwrap();
    for answer in answers {
        assert_eq!(soon(told_by(answer)).await.unwrap().status, 200);
    }
    soon(more).await.unwrap();
}

#[tokio::test]
async fn a_full_worker_refuses_connections() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let room = site.gate.worker.room.clone();
    let all = room.acquire_many(u32::try_from(room.available_permits()).unwrap()).await.unwrap();
    let refused = soon(site.dial("a.com")).await;
    assert!(matches!(refused, Err(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    drop(all);
    let mut visitor = site.visit("a.com").await;
    assert_eq!(soon(visitor.get("a.com", "/")).await.status, 200);
}

#[tokio::test]
async fn a_client_that_only_begins_requests_to_give_them_up_is_sent_away() {
    let (address, _arrived, _go) = held().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let visitor = site.visit("a.com").await;
    let flood = async {
        loop {
            let mut requests = visitor.requests.clone();
            let Ok(mut stream) = requests.send_request(get3("a.com", "/")).await else { break };
            stream.stop_sending(Code::H3_REQUEST_CANCELLED);
            stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    };
    let end = soon(async { tokio::join!(flood, visitor.connection.closed()) }).await.1;
    let code = u32::try_from(Code::H3_EXCESSIVE_LOAD.value()).unwrap();
    assert!(
        matches!(&end, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == code.into()),
        "{end}"
    );
}

#[tokio::test]
async fn a_head_must_come_in_time() {
    let site = Site::open(&[("a.com", to_address(echo().await))]);
    let (_endpoint, connection) = site.dial("a.com").await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    // A HEADERS frame of 32 bytes, of which none follow.
    send.write_all(&[1, 32]).await.unwrap();
    let mut control = connection.accept_uni().await.unwrap();
    control.read(&mut [0; 1]).await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert!(send.stopped().await.unwrap().is_some());
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(matches!(receive.read(&mut [0; 1]).await, Ok(None) | Err(_)));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let (upstream, address) = listener().await;
    let (leave, left) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        let _ = read_until(&mut stream, "\r\n\r\n").await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
        leave.send(()).unwrap();
    });
    let site = Site::open(&[("a.com", to_address(address))]);
    let mut visitor = site.visit("a.com").await;
    let (mut send, mut receive) = visitor.begin(get3("a.com", "/")).await;
    send.finish().await.unwrap();
    receive.recv_response().await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    left.await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(55), "{:?}", start.elapsed());
}
