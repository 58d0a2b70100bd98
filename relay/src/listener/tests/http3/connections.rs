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

/// Lets every farewell pass.
async fn long_after() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3)).await;
    tokio::time::resume();
}

fn closed_with(end: &quinn::ConnectionError, code: Code) -> bool {
    let code = u32::try_from(code.value()).unwrap().into();
    matches!(end, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == code)
}

#[tokio::test]
async fn stopping_waits_for_what_is_in_flight() {
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
    assert!(closed_with(&end, Code::H3_NO_ERROR), "{end}");
    long_after().await;
    go.send(true).unwrap();
    assert_eq!(soon(told_by(receive)).await.unwrap().body, b"done");
    assert_eq!(soon(drained).await.unwrap(), 0);
    let end = soon(visitor.connection.closed()).await;
    assert!(closed_with(&end, Code::H3_NO_ERROR), "{end}");
}

/// HEADERS of `GET https://a.com/`, out of QPACK's static table (RFC 9204 appendix A).
const GET: &[u8] = &[1, 12, 0, 0, 0xd1, 0xd7, 0xc1, 0x50, 5, b'a', b'.', b'c', b'o', b'm'];

#[tokio::test]
async fn what_begins_after_the_goaway_is_rejected() {
    let (address, mut arrived, _go) = held().await;
    let site = Site::open(&[("a.com", to_address(address))]);
    let (_endpoint, connection) = site.dial("a.com").await.unwrap();
    let begin = async || {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(GET).await.unwrap();
        send.finish().unwrap();
        receive
    };
    let _in_flight = begin().await;
    soon(arrived.recv()).await.unwrap();
    site.gate.stop.cancel();
    long_after().await;
    for _ in 0..2 {
        let mut rejected = begin().await;
        let error = soon(rejected.read(&mut [0; 1])).await.unwrap_err();
        assert_eq!(error, quinn::ReadError::Reset(u32::try_from(Code::H3_REQUEST_REJECTED.value()).unwrap().into()));
    }
    assert!(arrived.try_recv().is_err(), "no backend has seen them");
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
    assert!(tokio::time::timeout(Duration::from_secs(9), send.stopped()).await.is_err(), "it may still come");
    assert!(soon(send.stopped()).await.unwrap().is_some());
    assert!(matches!(receive.read(&mut [0; 1]).await, Ok(None) | Err(_)));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let (upstream, address) = listener().await;
    let (leave, mut left) = tokio::sync::oneshot::channel();
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
    assert!(tokio::time::timeout(Duration::from_secs(55), &mut left).await.is_err(), "it may still read on");
    soon(left).await.unwrap();
}
