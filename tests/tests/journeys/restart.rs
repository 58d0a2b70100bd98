//! Everything that ends, ends well or comes back: agents and relays killed, stopped, replaced; routes changed under load.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::{Method, StatusCode};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};
use underpass_tests::{
    agent::{Agent, Settings},
    client::{self, Answer, Connection},
    eventually::{PATIENCE, eventually, within},
    manifest,
    office::{HOST, Office, answers, serves},
    upstream::Upstream,
};

/// A request that the upstream holds until it is released.
async fn hold_one(office: &Office) -> JoinHandle<anyhow::Result<Answer>> {
    let gateway = office.relay.addresses.http;
    let held = tokio::spawn(async move {
        let mut connection = Connection::http1(gateway).await?;
        connection.get(HOST, "/hold").await
    });
    office.upstream.holds(1).await;
    held
}

#[tokio::test]
async fn a_killed_agent_comes_back_under_the_same_addresses_without_a_token() {
    let mut office = Office::open().await;
    let node = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
    let prefix = office.relay.api().get(node).await["status"]["prefix"].clone();

    office.agent.kill_and_restart().await;

    let again = office.agent.connected().await;
    assert_eq!(again, office.connected, "agent id and address are stable");
    serves(&office.relay, HOST, "office").await;
    let status = office.relay.api().get(node).await["status"].clone();
    assert_eq!(status["prefix"], prefix);
    let agents = eventually("one agent in the node's status", async || {
        let status = office.relay.api().get(node).await["status"].clone();
        match status["agents"].as_array().map(Vec::as_slice) {
            Some([one]) => Ok(one.clone()),
            _ => Err(status),
        }
    })
    .await;
    assert_eq!(agents["agentAddress"], again.address.to_string());
    assert_eq!(agents["name"], again.agent);
}

#[tokio::test]
async fn while_the_agent_is_gone_the_gateway_says_so() {
    let mut office = Office::open().await;
    office.agent.process.kill().await;
    let body = answers(&office.relay, HOST, 503).await;
    assert!(body.contains("no agent of node office"), "{body}");
}

#[tokio::test]
async fn a_killed_relay_comes_back_with_its_resources_and_the_agent_returns_by_itself() {
    let mut office = Office::open().await;
    let routes = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/app";
    let before = office.relay.api().get(routes).await;

    office.relay.kill().await;
    let lost = office
        .agent
        .process
        .line("`disconnected: …`", |line| line.starts_with("disconnected: ").then(|| line.to_owned()));
    let lost = lost.await;
    assert!(lost.contains("next try in"), "{lost}");
    office.relay.start_again().await;

    assert_eq!(office.agent.connected().await, office.connected, "the same addresses again");
    serves(&office.relay, HOST, "office").await;
    let after = office.relay.api().get(routes).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"]);
}

#[tokio::test]
async fn a_stopped_relay_finishes_the_request_in_flight_and_takes_no_new_ones() {
    let mut office = Office::open().await;
    let held = hold_one(&office).await;

    office.relay.process.terminate().await;
    let gateway = office.relay.addresses.http;
    eventually("the gateway closes its door", async || match TcpStream::connect(gateway).await {
        Ok(_) => Err("it takes connections"),
        Err(_) => Ok(()),
    })
    .await;
    office.upstream.release();

    let answer = within(PATIENCE, "the answer", held).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "office"));
    assert_eq!(office.relay.process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_relay_and_an_idle_agent_stop_at_once_with_exit_code_0() {
    let mut office = Office::open().await;
    assert_eq!(office.agent.stop().await.code(), Some(0));
    assert_eq!(office.relay.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_stopped_agent_finishes_the_request_in_flight() {
    let mut office = Office::open().await;
    let held = hold_one(&office).await;

    office.agent.process.terminate().await;
    // New requests are no longer given to it, while the old one still runs.
    answers(&office.relay, HOST, 503).await;
    office.upstream.release();

    let answer = within(PATIENCE, "the answer", held).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "office"));
    assert_eq!(office.agent.process.exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_changes_under_load_without_one_failed_request() {
    let office = Office::open().await;
    let (red, blue) = (Upstream::start("red").await, Upstream::start("blue").await);
    let host = "moving.example.com";
    office.add("moving", host, red.port()).await;
    serves(&office.relay, host, "red").await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let (gateway, stop, served) = (office.relay.addresses.http, Arc::clone(&stop), Arc::clone(&served));
        load.spawn(async move {
            let mut connection = Connection::http1(gateway).await?;
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.get(host, "/name").await?;
                let good = answer.status == StatusCode::OK && ["red", "blue"].contains(&answer.text().as_str());
                anyhow::ensure!(good, "{} {}", answer.status, answer.text());
                served.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    for change in 0..20 {
        let (name, port) = if change % 2 == 0 { ("blue", blue.port()) } else { ("red", red.port()) };
        office.relay.cli().apply(&manifest::route("moving", host, "moving", port)).await;
        serves(&office.relay, host, name).await;
    }
    stop.store(true, Ordering::Relaxed);

    for worker in load.join_all().await {
        worker.expect("no request fails");
    }
    let served = served.load(Ordering::Relaxed);
    println!("{served} requests during 20 changes of their route");
    assert!(served > 100, "there was load: {served}");
}

#[tokio::test]
async fn a_request_cut_by_the_agents_death_ends_at_once() {
    let mut office = Office::open().await;
    let mut connection = Connection::http1(office.relay.addresses.http).await.unwrap();
    let request = connection.request(Method::GET, HOST, "/events/5", client::empty());
    office.upstream.allow_event();
    let mut response = connection.begin(request).await.unwrap();
    let first = http_body_util::BodyExt::frame(response.body_mut()).await;
    assert!(first.is_some_and(|frame| frame.is_ok()));

    office.agent.process.kill().await;

    let end = within(PATIENCE, "the end of a cut body", client::whole(response)).await;
    assert!(end.is_err(), "a cut body never looks whole: {end:?}");
}

#[tokio::test]
async fn an_agent_that_dies_without_a_word_costs_no_request_while_another_serves_its_node() {
    let office = Office::open().await;
    let (mut second, connected) = Agent::enrol(&office.relay, Settings::node("office")).await;
    assert_ne!(connected.address, office.connected.address);
    second.process.kill().await;

    // At once, so that each needs a flow of its own, and about half of them would choose the dead agent.
    let mut requests = JoinSet::new();
    for _ in 0..16 {
        let gateway = office.relay.addresses.http;
        requests.spawn(async move { client::get(gateway, HOST, "/name").await });
    }
    for answer in requests.join_all().await {
        let answer = answer.expect("the gateway answers");
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "office"));
    }
}
