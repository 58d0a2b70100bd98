//! Everything that ends, ends well or comes back: agents and relays killed, stopped, replaced; routes changed under load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
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
    closes(gateway).await;
    office.upstream.release();

    let answer = within(PATIENCE, "the answer", held).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "office"));
    assert_eq!(office.relay.process.exit().await.code(), Some(0));
}

/// Waits until the gateway takes no more connections.
async fn closes(gateway: SocketAddr) {
    eventually("the gateway closes its door", async || match TcpStream::connect(gateway).await {
        Ok(_) => Err("it takes connections"),
        Err(_) => Ok(()),
    })
    .await;
}

/// Makes the project's Proxy say how the relay ends, and waits until the relay knows.
async fn shuts_down(office: &Office, shutdown: &Value) {
    let (api, path) = (office.relay.api(), "/apis/core.apoxy.dev/v1alpha2/proxies/default");
    let body = Full::new(json!({"spec": {"shutdown": shutdown}}).to_string().into());
    let request = Request::patch(path).header(header::CONTENT_TYPE, "application/merge-patch+json");
    let answer = api.ask(request.body(body).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.body());
    let generation = &answer.body()["metadata"]["generation"];
    eventually("the Proxy is accepted", async || {
        let status = api.get(path).await["status"].clone();
        let accepted = &status["conditions"][0];
        let is_known = accepted["status"] == "True" && accepted["observedGeneration"] == *generation;
        if is_known { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_relay_that_stops_takes_connections_for_as_long_as_its_proxy_says() {
    let mut office = Office::open().await;
    shuts_down(&office, &json!({"minimumDrainTime": "8s", "drainTimeout": "60s"})).await;
    let (held, gateway) = (hold_one(&office).await, office.relay.addresses.http);
    let mut old = Connection::http1(gateway).await.unwrap();
    assert_eq!(old.get(HOST, "/name").await.unwrap().status, StatusCode::OK);
    let ready = async || office.relay.api().call(Method::GET, "/readyz", None).await.unwrap().0;
    assert_eq!(ready().await, StatusCode::OK);

    office.relay.process.terminate().await;
    eventually("load balancers are told", async || {
        let status = ready().await;
        if status == StatusCode::SERVICE_UNAVAILABLE { Ok(()) } else { Err(status) }
    })
    .await;
    eventually("the connection that was there ends", async || match old.get(HOST, "/name").await {
        Ok(_) => Err("it serves"),
        Err(_) => Ok(()),
    })
    .await;
    assert_eq!(client::get(gateway, HOST, "/name").await.unwrap().status, StatusCode::OK, "new ones are taken");

    closes(gateway).await;
    office.upstream.release();
    let answer = within(PATIENCE, "the answer", held).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK, "what is in flight has longer");
    assert_eq!(office.relay.process.exit().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_in_flight_is_cut_when_the_proxy_says_so() {
    let mut office = Office::open().await;
    shuts_down(&office, &json!({"minimumDrainTime": "0s", "drainTimeout": "1s"})).await;
    let held = hold_one(&office).await;
    office.relay.process.terminate().await;
    assert!(within(PATIENCE, "the end of the request", held).await.unwrap().is_err(), "nobody released it");
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
