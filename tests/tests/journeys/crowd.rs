//! Many at once: held requests and open flows, beyond the session's first stream limit.

use std::fs;

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use underpass_tests::{
    client::{self, Connection},
    office::{HOST, Office},
    websocket::WebSocket,
};

/// Above QUIC's first allowance of streams on a session, which is 256 here.
const FLOWS: usize = 600;
const REQUESTS: usize = 1_000;

/// Client and upstream ends both live in the test's process, and some more.
fn assert_file_limit(files: u64) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let soft = line.split_whitespace().next().unwrap();
    let enough = soft == "unlimited" || soft.parse::<u64>().unwrap() >= files;
    assert!(enough, "this test opens {files} files, and {soft} are allowed: run `ulimit -n {files}` first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_are_held_open_at_once_and_each_is_answered() {
    assert_file_limit(4_096);
    let office = Office::open().await;
    let gateway = office.relay.addresses.http;
    let mut requests = JoinSet::new();
    for _ in 0..REQUESTS {
        requests.spawn(async move {
            let mut connection = Connection::http1(gateway).await?;
            let request = connection.request(Method::GET, HOST, "/hold", client::empty());
            client::whole(connection.begin(request).await?).await
        });
    }

    office.upstream.holds(REQUESTS).await;
    office.upstream.release();

    let answers = requests.join_all().await;
    let good = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::OK));
    assert_eq!(good.count(), REQUESTS, "{:?}", answers.iter().find(|answer| answer.is_err()));
    println!(
        "{REQUESTS} held requests: peak memory of the relay {} MiB, of the agent {} MiB",
        office.relay.process.peak_memory() >> 20,
        office.agent.process.peak_memory() >> 20
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_websockets_than_the_first_stream_limit_are_open_at_once() {
    assert_file_limit(4_096);
    let office = Office::open().await;
    let gateway = office.relay.addresses.http;
    let mut opening = JoinSet::new();
    for at in 0..FLOWS {
        opening.spawn(async move {
            let mut socket = WebSocket::open(gateway, HOST, "/websocket").await?;
            socket.exchange(Message::text(format!("first of {at}"))).await?;
            anyhow::Ok((at, socket))
        });
    }
    let sockets: Vec<_> = opening.join_all().await.into_iter().collect::<Result<_, _>>().unwrap();
    office.upstream.holds(FLOWS).await;

    for (at, mut socket) in sockets {
        let message = Message::text(format!("second of {at}"));
        assert_eq!(socket.exchange(message.clone()).await.unwrap(), message, "each still answers its own client");
    }

    office.upstream.holds(0).await;
    assert_eq!(office.get("/name").await.text(), "office");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_http2_connection_run_side_by_side() {
    let office = Office::open().await;
    let mut connection = Connection::http2(office.relay.addresses.http).await.unwrap();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let request = connection.request(Method::GET, HOST, "/hold", client::empty());
        let begun = connection.start(request).await.unwrap();
        requests.spawn(async move { client::whole(begun.await?).await });
    }
    office.upstream.holds(50).await;
    office.upstream.release();
    for answer in requests.join_all().await {
        assert_eq!(answer.unwrap().text(), "office");
    }
}
