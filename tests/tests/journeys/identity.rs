//! An agent's standing with the relay while it is connected: renewed inside the session, cut when its node goes.

use std::fs;

use serde_json::Value;
use underpass_tests::{
    agent::{Agent, Settings, StateFolder, run_to_end},
    eventually::eventually,
    manifest,
    office::{HOST, Office, answers, serves},
};

/// What the agent keeps of its certificate.
fn kept(state: &StateFolder) -> Value {
    let text =
        fs::read_to_string(state.path().join("certificate.json")).expect("an enrolled agent keeps its certificate");
    serde_json::from_str(&text).expect("it is kept whole")
}

#[tokio::test]
async fn a_deleted_node_cuts_its_agent_which_says_why_and_ends() {
    let mut office = Office::open().await;
    let deleted = office.relay.cli().run(&["delete", "tunnelnode", "office"]).await.expect_success();
    assert!(deleted.contains("office"), "{deleted}");

    let status = office.agent.process.exit().await;
    assert_eq!(status.code(), Some(1), "an agent that no relay will take ends");
    let why = "there is no node office in project default";
    eventually("the reason on standard error", async || {
        let log = office.agent.process.log();
        if log.contains(why) { Ok(()) } else { Err(log) }
    })
    .await;
    answers(&office.relay, HOST, 503).await;

    // A node of the same name is another node: the old certificate is no good there, a new token is.
    office.relay.cli().apply(&manifest::node("office")).await;
    let refused = run_to_end(&Settings::node("office"), office.agent.state()).await;
    refused.expect_refusal(&["office", "deleted and made anew", "underpass tunnel token office"]);
    let (_agent, _) = Agent::enrol(&office.relay, Settings::node("office")).await;
    serves(&office.relay, HOST, "office").await;
}

#[tokio::test]
async fn a_certificate_that_is_due_is_renewed_inside_the_session() {
    let mut office = Office::open().await;
    office.agent.process.kill().await;
    let state = office.agent.state().copy();
    let mut due = kept(&state);
    // As if it had been issued long ago: the certificate itself is what it was.
    due["not_before"] = 0.into();
    fs::write(state.path().join("certificate.json"), due.to_string()).unwrap();

    let mut agent = Agent::start(Settings::node("office"), state);
    let connected = agent.connected().await;
    assert_eq!(connected, office.connected, "renewal changes neither id nor address");
    let renewed = eventually("a fresh certificate", async || {
        let now = kept(agent.state());
        if now["certificate"] == due["certificate"] { Err(now) } else { Ok(now) }
    })
    .await;
    assert!(renewed["not_before"].as_i64() > Some(0));
    serves(&office.relay, HOST, "office").await;

    // What was renewed is good by itself, without a token.
    agent.kill_and_restart().await;
    assert_eq!(agent.connected().await, office.connected);
}

#[tokio::test]
async fn a_copied_state_directory_replaces_its_agent_and_takes_no_second_place() {
    let mut office = Office::open().await;
    let mut copy = Agent::start(Settings::node("office"), office.agent.state().copy());
    assert_eq!(copy.connected().await, office.connected);

    let lost =
        office.agent.process.line("`disconnected: …`", |line| line.strip_prefix("disconnected: ").map(str::to_owned));
    let reason = lost.await;
    assert!(reason.contains("its agent came back elsewhere"), "{reason}");
    let node = office.relay.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").await;
    assert_eq!(node["status"]["agents"].as_array().map(Vec::len), Some(1));
}
