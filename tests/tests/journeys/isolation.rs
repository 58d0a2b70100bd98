//! Projects never mix: equal names in two projects never exchange a byte.

use underpass_tests::{
    agent::{Agent, Settings},
    client,
    manifest::{self, Target},
    office::{answers, serves},
    relay::Relay,
    upstream::Upstream,
};

/// A hostname that both projects claim; the first keeps it.
const SHARED: &str = "same.example.com";

struct Tenant {
    agent: Agent,
    upstream: Upstream,
}

async fn move_in(relay: &Relay, project: &str) -> Tenant {
    let upstream = Upstream::start(project).await;
    relay.cli().apply(&manifest::project(project)).await;
    let target = Target { node: "office", port: upstream.port(), protocol: "" };
    let own = manifest::service("own", &format!("{project}.example.com"), target);
    let all = [manifest::node("office"), own, manifest::service("app", SHARED, target)];
    relay.cli().in_project(Some(project)).apply(&manifest::documents(&all)).await;
    let (agent, connected) = Agent::enrol(relay, Settings::node("office").project(project)).await;
    assert_eq!(connected.node, "office");
    serves(relay, &format!("{project}.example.com"), project).await;
    Tenant { agent, upstream }
}

#[tokio::test]
async fn two_projects_with_equal_hostnames_and_node_names_never_exchange_a_byte() {
    let relay = Relay::start().await;
    let red = move_in(&relay, "red").await;
    serves(&relay, SHARED, "red").await;
    let mut blue = move_in(&relay, "blue").await;
    let (red_before, blue_before) = (red.upstream.requests(), blue.upstream.requests());

    for _ in 0..50 {
        for (host, wanted) in [(SHARED, "red"), ("red.example.com", "red"), ("blue.example.com", "blue")] {
            let answer = client::get(relay.addresses.http, host, "/name").await.unwrap();
            assert_eq!(answer.text(), wanted, "for {host}");
        }
    }
    assert_eq!(red.upstream.requests(), red_before + 100);
    assert_eq!(blue.upstream.requests(), blue_before + 50);

    // Without its own agent a project is away, however many agents others have on a node of that name.
    blue.agent.process.kill().await;
    let body = answers(&relay, "blue.example.com", 503).await;
    assert!(body.contains("no agent of node office"), "{body}");
    serves(&relay, SHARED, "red").await;
}

#[tokio::test]
async fn objects_of_one_project_are_not_seen_from_another() {
    let relay = Relay::start().await;
    for project in ["red", "blue"] {
        relay.cli().apply(&manifest::project(project)).await;
    }
    relay.cli().in_project(Some("red")).apply(&manifest::node("office")).await;

    let api = relay.api();
    let nodes = "apis/core.apoxy.dev/v1alpha/tunnelnodes";
    assert_eq!(api.names(&format!("/projects/red/{nodes}")).await, ["office"]);
    assert_eq!(api.names(&format!("/projects/blue/{nodes}")).await, [""; 0]);
    assert_eq!(api.names(&format!("/{nodes}")).await, [""; 0], "nor from the default project");
    assert_eq!(api.find(&format!("/projects/green/{nodes}")).await, None, "an unknown project is not found");

    relay.cli().in_project(Some("blue")).apply(&manifest::node("office")).await;
    let prefix = async |project: &str| {
        let node = api.get(&format!("/projects/{project}/{nodes}/office")).await;
        node["status"]["prefix"].as_str().map(str::to_owned).ok_or(node)
    };
    let red = underpass_tests::eventually::eventually("red's prefix", async || prefix("red").await).await;
    let blue = underpass_tests::eventually::eventually("blue's prefix", async || prefix("blue").await).await;
    assert_ne!(red, blue, "each project has an overlay of its own");
}
