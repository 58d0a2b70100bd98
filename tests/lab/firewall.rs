//! The table `inet underpass`: what it lets in, that it stays beside others' rules, and what is left of it.

use std::{fs, path::Path};

use underpass_shared::host::ruleset::{Admitted, Ruleset};
use underpass_tests::{eventually::eventually, process::Process};

use crate::{
    network::Place,
    town::{DEVICE, HOST, OTHER_HOST, OTHER_PORT, PORT, Town},
};

impl Town {
    fn nft(&self, arguments: &str) -> String {
        self.network.run(Place::Office, &format!("nft {arguments}"))
    }

    /// Loads rules as somebody else's tools would.
    fn load(&self, rules: &str) {
        let file = self.folder("rules").join("foreign.nft");
        fs::write(&file, rules).unwrap();
        self.nft(&format!("-f {}", file.display()));
    }
}

#[tokio::test]
async fn a_host_is_reached_only_where_it_publishes() {
    let town = Town::open().await;
    let folder = town.folder("site");
    let _service = town.serve("::", PORT, &folder).await;
    let _hidden = town.serve("::", OTHER_PORT, &folder).await;
    let agent = town.agent(&format!("--mode kernel --lane packet --publish {PORT}")).await;
    town.is_served().await;
    assert_eq!(town.fetch(OTHER_HOST, "/", Path::new("/dev/null")), "504", "its packets are dropped");
    assert_eq!(town.fetch(HOST, "/", Path::new("/dev/null")), "200");
    assert_eq!(town.answered(agent.relay(), 3, ""), 3, "answers to the host's own come in");
    let dropped = town.nft("list chain inet underpass input");
    let counted = dropped.lines().find(|line| line.contains("counter")).unwrap().to_owned();
    assert!(!counted.contains("packets 0 "), "{counted}");
    let want = Ruleset::new(DEVICE, &Admitted::Ports(vec![PORT])).to_string();
    assert_eq!(town.nft("-s list table inet underpass"), want);
}

#[tokio::test]
async fn without_a_list_the_gateway_reaches_every_port() {
    let town = Town::open().await;
    let folder = town.folder("site");
    let _service = town.serve("::", PORT, &folder).await;
    let _other = town.serve("::", OTHER_PORT, &folder).await;
    let _agent = town.agent("--mode kernel --lane packet").await;
    town.is_served().await;
    assert_eq!(town.fetch(OTHER_HOST, "/", Path::new("/dev/null")), "200");
}

#[tokio::test]
async fn the_table_goes_with_the_agent_and_a_killed_ones_is_replaced() {
    let town = Town::open().await;
    assert_eq!(town.nft("list ruleset"), "");
    let mut agent = town.agent(&format!("--mode kernel --publish {OTHER_PORT}")).await;
    agent.process.kill().await;
    assert!(town.nft("list ruleset").contains(&OTHER_PORT.to_string()), "nobody could remove it");
    let agent = town.agent(&format!("--mode kernel --publish {PORT}")).await;
    let want = Ruleset::new(DEVICE, &Admitted::Ports(vec![PORT])).to_string();
    assert_eq!(town.nft("-s list ruleset"), want);
    assert_eq!(town.answered(agent.relay(), 3, ""), 3);
    agent.record().await;
    assert_eq!(town.nft("list ruleset"), "");
}

/// What dockerd leaves in nftables (through iptables-nft), and what people write in /etc/nftables.conf.
const FOREIGN: &str = r#"
table ip filter {
    chain DOCKER { }
    chain DOCKER-USER {
        counter return
    }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
        oifname "docker0" ct state related,established counter accept
        oifname "docker0" counter jump DOCKER
    }
}
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" counter masquerade
    }
}
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        meta l4proto ipv6-icmp accept
        tcp dport 22 accept
    }
}
"#;

#[tokio::test]
async fn rules_of_others_stay_as_they_are_and_the_tunnel_works_beside_them() {
    let town = Town::open().await;
    town.load(FOREIGN);
    let foreign = town.nft("-s list ruleset");
    let _service = town.serve("127.0.0.1", PORT, &town.folder("site")).await;
    let agent = town.agent("--mode kernel").await;
    town.is_served().await;
    assert_eq!(town.answered(agent.relay(), 3, ""), 3);
    assert!(town.nft("-s list ruleset").starts_with(&foreign), "ours comes behind");
    agent.record().await;
    assert_eq!(town.nft("-s list ruleset"), foreign);
}

/// Accepts, says so, and never answers.
const HOLD: &str = "import socket, sys\ns = socket.create_server(('127.0.0.1', 3000))\nheld = []\nwhile True:\n    \
                    held.append(s.accept())\n    print('held', flush=True)\n";

#[tokio::test]
async fn a_second_signal_does_not_wait_and_takes_the_table_along() {
    let town = Town::open().await;
    let script = town.folder("site").join("hold.py");
    fs::write(&script, HOLD).unwrap();
    let mut python = town.network.command(Place::Office, "python3");
    python.arg(&script);
    let mut service = Process::spawn("hold.py", python);
    let mut agent = town.agent("--mode kernel").await;
    let mut curl = town.network.command(Place::Relay, "curl");
    curl.args(["-s", "-H", &format!("Host: {HOST}"), "--retry", "9", "http://127.0.0.1:8080/"]);
    let _client = Process::spawn("curl", curl);
    service.line("a flow", |line| (line == "held").then_some(())).await;
    agent.process.terminate().await;
    eventually("the session ends and the flow does not", async || {
        let log = agent.process.log();
        if log.contains("session ended") { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!agent.process.has_ended());
    agent.process.terminate().await;
    assert_eq!(agent.process.exit().await.code(), Some(130));
    assert_eq!(town.nft("list ruleset"), "");
}
