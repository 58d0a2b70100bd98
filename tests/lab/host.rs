//! The host under a kernel-mode agent: what it may, what it gets, and what is left.

use underpass_tests::eventually::eventually;

use crate::{
    network::Place,
    town::{Agent, DEVICE, Town},
};

/// What a service unit's ambient set of one capability is to `setpriv`.
const NET_ADMIN: &str = "--ambient-caps -all,+net_admin --inh-caps -all,+net_admin --bounding-set -all,+net_admin";
const NOTHING: &str = "--inh-caps -all --bounding-set -all";

#[tokio::test]
async fn a_host_behind_a_nat_pings_the_relay_in_the_overlay() {
    let town = Town::open().await;
    let agent = town.agent("--mode kernel").await;
    assert_eq!(town.answered(agent.relay(), 20, ""), 20);
    assert_eq!(town.answered(agent.relay(), 5, "-s 1232"), 5, "a whole packet of 1280 bytes");
    assert_eq!(town.answered(agent.relay(), 1, "-s 2000"), 0, "fragments are refused");
    let record = agent.record().await;
    assert_eq!((record.of("packets_out"), record.of("packets_in")), (25, 25));
    assert_eq!(record.lost("policy fragment"), 2, "both fragments are counted");
}

#[tokio::test]
async fn a_source_that_is_not_the_agents_is_dropped_and_counted() {
    let town = Town::open().await;
    let agent = town.agent("--mode kernel").await;
    for (foreign, count) in [("fd00::99", 3), ("2001:db8::99", 4)] {
        town.network.ip(Place::Office, &format!("addr add {foreign}/128 dev lo nodad"));
        assert_eq!(town.answered(agent.relay(), count, &format!("-I {foreign}")), 0);
    }
    let record = agent.record().await;
    assert_eq!((record.lost("policy foreign_source"), record.of("packets_out")), (7, 0));
}

#[tokio::test]
async fn one_capability_is_enough() {
    let town = Town::open().await;
    let agent = Agent::connected(town.start(&town.nobody(NET_ADMIN), "agent", "--mode kernel")).await;
    assert_eq!(town.answered(agent.relay(), 3, ""), 3);
}

#[tokio::test]
async fn without_it_kernel_mode_is_refused_and_auto_says_why_it_is_user_mode() {
    let town = Town::open().await;
    let mut refused = town.start(&town.nobody(NOTHING), "refused", "--mode kernel");
    assert_eq!(refused.exit().await.code(), Some(1));
    eventually("the reason is printed", async || {
        let log = refused.log();
        if log.contains("kernel mode cannot start: a TUN device needs CAP_NET_ADMIN") { Ok(()) } else { Err(log) }
    })
    .await;
    let mut auto = town.start(&town.nobody(NOTHING), "auto", "");
    let why = auto.line("its mode", |line| line.strip_prefix("mode ").map(str::to_owned)).await;
    assert_eq!(why, "user: a TUN device needs CAP_NET_ADMIN");
    Agent::connected(auto).await;
}

#[tokio::test]
async fn a_second_agent_of_a_host_leaves_the_device_to_the_first() {
    let town = Town::open().await;
    let first = town.agent("").await;
    let mut second = town.start("", "second", "");
    let why = second.line("its mode", |line| line.strip_prefix("mode ").map(str::to_owned)).await;
    assert_eq!(why, format!("user: {DEVICE} is in use: another agent on this host is in kernel mode"));
    Agent::connected(second).await;
    assert_eq!(town.answered(first.relay(), 3, ""), 3);
}

#[tokio::test]
async fn a_killed_agent_leaves_nothing_and_comes_back() {
    let town = Town::open().await;
    let state = || {
        let of = |what: &str| town.network.ip(Place::Office, what);
        [of("-o link"), of("-o addr"), of("-6 rule"), of("-6 route show table all"), of("route show table all")]
    };
    let before = state();
    let mut agent = town.agent("--mode kernel").await;
    assert_ne!(state(), before);
    agent.process.kill().await;
    // The kernel takes a device apart in its own time.
    eventually("the host is as it was", async || if state() == before { Ok(()) } else { Err(state()) }).await;
    let agent = town.agent("--mode kernel").await;
    assert_eq!(town.answered(agent.relay(), 3, ""), 3);
    agent.record().await;
    eventually("the host is as it was again", async || if state() == before { Ok(()) } else { Err(state()) }).await;
}

#[tokio::test]
async fn a_device_that_somebody_removes_ends_the_agent_with_the_reason() {
    let town = Town::open().await;
    let mut agent = town.agent("--mode kernel").await;
    town.network.ip(Place::Office, &format!("link del {DEVICE}"));
    assert_eq!(agent.process.exit().await.code(), Some(1));
    eventually("the reason is printed", async || {
        let log = agent.process.log();
        if log.contains("the TUN device is gone") { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(town.network.run(Place::Office, "nft list ruleset"), "");
}
