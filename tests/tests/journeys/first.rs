//! The main job, and each way in which a request finds nobody: the status and a body that says which.

use std::net::{Ipv6Addr, TcpListener};

use http::StatusCode;
use underpass_tests::{
    agent::{Agent, Settings},
    client,
    eventually::eventually,
    manifest::{self, Target},
    office::{HOST, Office, answers},
    relay::Relay,
    upstream::Upstream,
};

#[tokio::test]
async fn a_request_reaches_a_service_that_has_no_open_port() {
    let office = Office::open().await;
    let before = office.upstream.requests();

    let answer = office.get("/head/with?query=1").await;

    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(office.upstream.requests(), before + 1);
    let seen = answer.text();
    assert!(seen.starts_with("GET /head/with?query=1 HTTP/1.1\n"), "the upstream sees the request as sent: {seen}");
    assert!(seen.to_lowercase().contains(&format!("host: {HOST}\n")), "and for which host: {seen}");
}

#[tokio::test]
async fn a_fresh_project_has_its_default_objects_and_the_cli_shows_them() {
    let office = Office::open().await;
    let api = office.relay.api();
    let gateway = api.get("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/default").await;
    let ports: Vec<_> = gateway["spec"]["listeners"].as_array().unwrap().iter().map(|l| l["port"].clone()).collect();
    assert_eq!(ports, [80, 443]);
    let alias = api.get("/apis/gateway.apoxy.dev/v1/namespaces/default/gateways/default").await;
    assert_eq!(alias["metadata"]["uid"], gateway["metadata"]["uid"], "both groups are views of one object");
    assert_eq!(api.names("/apis/gateway.networking.k8s.io/v1/gatewayclasses").await, ["default"]);
    assert_eq!(api.names("/apis/core.apoxy.dev/v1alpha2/proxies").await, ["default"]);

    let cli = office.relay.cli();
    for (arguments, wanted) in [
        (["gateway", "get", "default"].as_slice(), "app"),
        (&["gateway", "list"], "default"),
        (&["gateway", "routes", "list"], "app"),
        (&["gateway", "routes", "get", "http/app"], HOST),
        (&["get", "httproutes"], "app"),
        (&["get", "tunnelnode", "office"], "office"),
        (&["tunnel", "list"], "office"),
        (&["tunnel", "get", "office"], "office"),
    ] {
        let shown = cli.run(arguments).await.expect_success();
        assert!(shown.contains(wanted), "`underpass {}` shows {wanted}: {shown}", arguments.join(" "));
    }
}

#[tokio::test]
async fn an_agents_address_lies_in_its_nodes_prefix_and_the_status_shows_both() {
    let office = Office::open().await;
    let node = eventually("the agent is in the node's status", async || {
        let node = office.relay.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").await;
        if node["status"]["agents"][0].is_object() { Ok(node) } else { Err(node) }
    })
    .await;
    let prefix = node["status"]["prefix"].as_str().unwrap();
    let network: Ipv6Addr = prefix.strip_suffix("/64").unwrap().parse().unwrap();
    let address = office.connected.address;
    assert_eq!(network.segments()[..4], address.segments()[..4], "{address} in {prefix}");
    assert_eq!(address.octets()[8], 0, "RFC 6052 §2.2");
    assert_ne!(address.octets()[9..12], [0; 3], "an agent's number is never 0");
    assert_eq!(address.octets()[12..], [0, 0, 0, 1]);
    assert_eq!(node["status"]["agents"][0]["agentAddress"], address.to_string());
    let dialled = office.relay.addresses.tunnel;
    assert_eq!((office.connected.relay, &node["status"]["addresses"][0]), (dialled, &dialled.to_string().into()));
}

#[tokio::test]
async fn a_deleted_route_is_served_no_more_and_its_neighbour_still_is() {
    let office = Office::open().await;
    office.add("second", "second.example.com", office.upstream.port()).await;
    office.serves("second.example.com", "office").await;

    let _ = office.relay.cli().run(&["delete", "httproute", "second"]).await.expect_success();

    answers(&office.relay, "second.example.com", 404).await;
    assert_eq!(office.get("/name").await.text(), "office");
}

#[tokio::test]
async fn an_unknown_host_is_404_and_says_so() {
    let office = Office::open().await;
    let answer = client::get(office.relay.addresses.http, "nobody.example.com", "/").await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.text().contains("nobody.example.com") || answer.text().contains("route"), "{}", answer.text());
}

#[tokio::test]
async fn a_node_without_an_agent_is_503_and_the_body_names_the_node() {
    let relay = Relay::start().await;
    let upstream = Upstream::start("office").await;
    let target = Target { node: "office", port: upstream.port(), protocol: "" };
    let all = manifest::documents(&[manifest::node("office"), manifest::service("app", HOST, target)]);
    relay.cli().apply(&all).await;

    let body = answers(&relay, HOST, 503).await;

    assert!(body.contains("no agent of node office"), "{body}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_port_on_which_nothing_listens_is_502_and_the_body_names_node_and_port() {
    let office = Office::open().await;
    let free = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    office.add("refused", "refused.example.com", free).await;

    let body = answers(&office.relay, "refused.example.com", 502).await;

    assert!(body.contains("office") && body.contains(&free.to_string()) && body.contains("refused"), "{body}");
    assert_eq!(office.get("/name").await.text(), "office", "the neighbour is not disturbed");
}

#[tokio::test]
async fn publish_narrows_and_maps_what_the_agent_offers() {
    let relay = Relay::start().await;
    let (open, hidden) = (Upstream::start("open").await, Upstream::start("hidden").await);
    let service = |name: &str, port| {
        manifest::service(name, &format!("{name}.example.com"), Target { node: "office", port, protocol: "" })
    };
    let mapped = 18_080;
    let all = [
        manifest::node("office"),
        service("open", open.port()),
        service("mapped", mapped),
        service("hidden", hidden.port()),
    ];
    relay.cli().apply(&manifest::documents(&all)).await;
    let (plain, map) = (open.port().to_string(), format!("{mapped}={}", open.port()));
    let settings = Settings::node("office").flags(&["--publish", &plain, "--publish", &map]);
    let (_agent, _) = Agent::enrol(&relay, settings).await;

    underpass_tests::office::serves(&relay, "open.example.com", "open").await;
    underpass_tests::office::serves(&relay, "mapped.example.com", "open").await;
    let body = answers(&relay, "hidden.example.com", 502).await;

    assert!(body.contains(&format!("does not publish port {}", hidden.port())), "{body}");
    assert_eq!(hidden.connections(), 0, "the agent never dialled it");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_once_and_served_when_it_is_free() {
    let office = Office::open().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: side}}\nspec:\n  \
         gatewayClassName: default\n  listeners: [{{name: side, port: {}, protocol: HTTP}}]\n",
        address.port()
    );
    office.relay.cli().apply(&gateway).await;
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/side";
    let programmed = async |wanted: &str| {
        eventually(&format!("the listener's Programmed is {wanted}"), async || {
            let gateway = office.relay.api().get(path).await;
            let conditions = gateway["status"]["listeners"][0]["conditions"].clone();
            let programmed = conditions.as_array().into_iter().flatten().find(|one| one["type"] == "Programmed");
            match programmed.cloned() {
                Some(condition) if condition["status"] == wanted => Ok((gateway, condition)),
                _ => Err(gateway),
            }
        })
        .await
    };
    let (before, condition) = programmed("False").await;
    assert!(condition["message"].as_str().is_some_and(|message| message.contains("in use")), "{condition}");

    // Ten rounds of the controller later nothing has been written about it again.
    for round in 0..10 {
        office.relay.cli().apply(&manifest::node(&format!("other-{round}"))).await;
    }
    assert_eq!(office.relay.api().get(path).await, before, "a port that cannot be had is no reason to write");

    drop(taken);
    programmed("True").await;
    let answer = client::get(address, HOST, "/name").await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "it is served, and no route is attached to it");
}
