//! Tokens and certificates that are wrong: the agent ends with a text that says which, and nothing was given away.

use std::time::SystemTime;

use underpass_shared::enrolment::{EnrolmentToken, Secret};
use underpass_tests::{
    agent::{Agent, Settings, StateFolder, run_to_end},
    eventually::eventually,
    manifest,
    office::Office,
    relay::Relay,
};

/// Runs an agent that must be refused with a text that says each of `words`; the office's own agent serves on.
async fn expect_refused(office: &Office, settings: &Settings, state: &StateFolder, words: &[&str]) {
    let outcome = run_to_end(settings, state).await;

    outcome.expect_refusal(words);
    assert!(!outcome.stdout.contains("connected to"), "no session came to be: {outcome:?}");
    assert_eq!(office.get("/name").await.text(), "office", "the healthy agent serves on");
    let node = office.relay.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").await;
    let agents = node["status"]["agents"].as_array().unwrap();
    assert!(agents.iter().all(|agent| agent["name"] == office.connected.agent.as_str()), "{node}");
}

/// The same for an agent with a token and nothing else: nothing is kept that would let it in later.
async fn expect_token_refused(office: &Office, node: &str, token: &str, words: &[&str]) {
    let state = StateFolder::default();
    expect_refused(office, &Settings::node(node).token(token), &state, words).await;
    let kept = state.files().iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect::<String>();
    assert!(!kept.contains("BEGIN CERTIFICATE"), "no certificate was issued");
    run_to_end(&Settings::node(node), &state).await.expect_refusal(&["token"]);
}

#[expect(clippy::disallowed_methods, reason = "the token's expiry is wall time")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let office = Office::open().await;
    let token = office.relay.cli().token_with("office", &["--ttl", "1s"]).await;
    let given = now();
    eventually("the token is two seconds old", async || {
        let age = now().duration_since(given).unwrap_or_default();
        if age.as_secs() >= 2 { Ok(()) } else { Err(age) }
    })
    .await;
    expect_token_refused(&office, "office", &token, &["token", "expired"]).await;
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let office = Office::open().await;
    let mut token: EnrolmentToken = office.relay.cli().token("office").await.parse().unwrap();
    token.secret = Secret::from_bytes([1; 32]);
    expect_token_refused(&office, "office", &token.to_string(), &["token"]).await;
}

#[tokio::test]
async fn a_damaged_token_is_refused_before_anybody_is_asked() {
    let office = Office::open().await;
    let token = office.relay.cli().token("office").await;
    expect_token_refused(&office, "office", &token[..token.len() - 7], &["token", "damaged"]).await;
    expect_token_refused(&office, "office", "eyJhbGciOiJub25lIn0.e30.", &["not an enrolment token"]).await;
}

#[tokio::test]
async fn a_token_is_good_for_one_agent_and_a_replay_is_refused() {
    let office = Office::open().await;
    let token = office.relay.cli().token("office").await;
    let mut second = Agent::start(Settings::node("office").token(&token), StateFolder::default());
    let connected = second.connected().await;
    assert_ne!(connected.address, office.connected.address, "each agent has its own address");
    second.process.kill().await;
    let words = ["token", "used"];
    let outcome = run_to_end(&Settings::node("office").token(&token), &StateFolder::default()).await;
    outcome.expect_refusal(&words);
    assert_eq!(office.get("/name").await.text(), "office");
}

#[tokio::test]
async fn two_agents_that_share_a_one_use_token_at_the_same_moment_are_not_both_let_in() {
    let office = Office::open().await;
    let token = office.relay.cli().token("office").await;
    let mut agents: Vec<_> =
        (0..4).map(|_| Agent::start(Settings::node("office").token(&token), StateFolder::default())).collect();

    let mut refused = 0;
    let mut admitted = 0;
    for agent in &mut agents {
        let (process, mut ended) = (&mut agent.process, false);
        eventually("the agent is let in or gives up", async || {
            if process.lines().iter().any(|line| line.starts_with("connected to ")) {
                return Ok(());
            }
            ended = process.has_ended();
            if ended { Ok(()) } else { Err(process.lines()) }
        })
        .await;
        if ended { refused += 1 } else { admitted += 1 }
    }
    assert_eq!((admitted, refused), (1, 3));
}

#[tokio::test]
async fn a_token_of_another_deployment_is_refused_by_this_relay() {
    let (office, other) = (Office::open().await, Relay::start().await);
    other.cli().apply(&manifest::node("office")).await;
    let ours: EnrolmentToken = office.relay.cli().token("office").await.parse().unwrap();
    let mut foreign: EnrolmentToken = other.cli().token("office").await.parse().unwrap();

    // With our relay's address, the agent sees another deployment's CA and gives nothing away.
    foreign.relays.clone_from(&ours.relays);
    expect_token_refused(&office, "office", &foreign.to_string(), &["deployment"]).await;
    // With our fingerprint too, the relay does not know the secret.
    foreign.ca = ours.ca;
    expect_token_refused(&office, "office", &foreign.to_string(), &["token"]).await;
}

#[tokio::test]
async fn a_token_for_another_node_is_refused() {
    let office = Office::open().await;
    office.relay.cli().apply(&manifest::node("branch")).await;
    let token = office.relay.cli().token("branch").await;
    expect_token_refused(&office, "office", &token, &["branch", "office"]).await;

    // A token rewritten to say what it is not, too.
    let mut token: EnrolmentToken = office.relay.cli().token("branch").await.parse().unwrap();
    token.node = "office".parse().unwrap();
    expect_token_refused(&office, "office", &token.to_string(), &["branch"]).await;
}

#[tokio::test]
async fn a_certificate_of_another_project_is_refused() {
    let office = Office::open().await;
    office.relay.cli().apply(&manifest::project("red")).await;
    office.relay.cli().in_project(Some("red")).apply(&manifest::node("office")).await;
    let stolen = office.agent.state().copy();

    expect_refused(&office, &Settings::node("office").project("red"), &stolen, &["project", "red", "default"]).await;
}

#[tokio::test]
async fn a_certificate_of_another_node_is_refused() {
    let office = Office::open().await;
    office.relay.cli().apply(&manifest::node("branch")).await;
    let stolen = office.agent.state().copy();
    expect_refused(&office, &Settings::node("branch"), &stolen, &["office", "branch"]).await;
}

#[tokio::test]
async fn an_agent_without_token_and_certificate_says_how_to_get_one() {
    let office = Office::open().await;
    let outcome = run_to_end(&Settings::node("office"), &StateFolder::default()).await;
    outcome.expect_refusal(&["underpass tunnel token office"]);
    assert_eq!(office.get("/name").await.text(), "office");
}
