//! A peer that does not offer the stream lane gets everything over the packet lane.

use http::{Method, StatusCode};
use tokio_tungstenite::tungstenite::Message;
use underpass_tests::{
    client::{self, Connection},
    digest::{Pieces, Sha256},
    eventually::{PATIENCE, within},
    office::{HOST, Office, answers},
    websocket::WebSocket,
};

const TEN_MEGABYTES: u64 = 10_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_pass_each_way_over_packets() {
    let office = Office::open_with("", &["--lane", "packet"]).await;

    let answer = office.get(&format!("/bytes/{TEN_MEGABYTES}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    let mut sha = Sha256::default();
    sha.update(&answer.body);
    assert_eq!(sha.finish(), Pieces::of(TEN_MEGABYTES).digest());

    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::PUT, HOST, "/digest", client::pieces(Pieces::of(TEN_MEGABYTES)));
    let exchange = async { client::whole(connection.begin(request).await?).await };
    let answer = within(PATIENCE, "ten megabytes up", exchange).await.unwrap();
    assert_eq!(answer.text(), Pieces::of(TEN_MEGABYTES).digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_over_packets_run_side_by_side_and_end_apart() {
    let office = Office::open_with("", &["--lane", "packet"]).await;
    let gateway = office.relay.addresses.http;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(WebSocket::open(gateway, HOST, "/websocket").await.unwrap());
    }
    office.upstream.holds(20).await;
    let last = sockets.pop().unwrap();
    last.close().await.unwrap();
    office.upstream.holds(19).await;
    for (at, socket) in sockets.iter_mut().enumerate() {
        let message = Message::binary(vec![u8::try_from(at).unwrap(); 20_000]);
        assert_eq!(socket.exchange(message.clone()).await.unwrap(), message);
    }
}

#[tokio::test]
async fn a_refused_port_is_refused_over_packets_too() {
    let office = Office::open_with("", &["--lane", "packet"]).await;
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    office.add("refused", "refused.example.com", free).await;
    let body = answers(&office.relay, "refused.example.com", 502).await;
    assert!(body.contains("office") && body.contains(&free.to_string()), "{body}");
}
