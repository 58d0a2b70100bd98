//! The smallest whole deployment, which most journeys begin with: a relay, node `office` with one agent, one upstream.

use crate::{
    agent::{Agent, Connected, Settings},
    client::{self, Answer},
    eventually::eventually,
    manifest::{self, Target},
    relay::Relay,
    upstream::Upstream,
};

/// The hostname that the office's route serves.
pub const HOST: &str = "app.example.com";

/// Everything, running and reachable.
#[derive(Debug)]
pub struct Office {
    pub agent: Agent,
    pub connected: Connected,
    pub upstream: Upstream,
    pub relay: Relay,
}

impl Office {
    /// Starts everything, and waits until a request for [`HOST`] reaches the upstream.
    pub async fn open() -> Self {
        Self::open_with("", &[]).await
    }

    /// The same, with the Backend's protocol and further flags of the agent.
    pub async fn open_with(protocol: &str, agent_flags: &[&str]) -> Self {
        Self::open_on(Relay::start().await, protocol, agent_flags).await
    }

    /// The same on a relay that is there.
    pub async fn open_on(relay: Relay, protocol: &str, agent_flags: &[&str]) -> Self {
        let upstream = Upstream::start("office").await;
        let target = Target { node: "office", port: upstream.port(), protocol };
        let app = manifest::service("app", HOST, target);
        relay.cli().apply(&manifest::documents(&[manifest::node("office"), app])).await;
        let (agent, connected) = Agent::enrol(&relay, Settings::node("office").flags(agent_flags)).await;
        let office = Self { agent, connected, upstream, relay };
        office.serves(HOST, "office").await;
        office
    }

    /// Adds a service on the office's agent: `hostname` to `port`.
    pub async fn add(&self, name: &str, hostname: &str, port: u16) {
        let target = Target { node: "office", port, protocol: "" };
        self.relay.cli().apply(&manifest::service(name, hostname, target)).await;
    }

    /// Waits until `hostname` is answered by the upstream of that name.
    pub async fn serves(&self, hostname: &str, upstream: &str) {
        serves(&self.relay, hostname, upstream).await;
    }

    /// GET of the office's own route, which must be answered, with whatever.
    ///
    /// # Panics
    /// When the connection breaks.
    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.relay.addresses.http, HOST, path).await.expect("the gateway answers")
    }
}

/// Waits until `hostname` at a relay is answered by the upstream of that name.
pub async fn serves(relay: &Relay, hostname: &str, upstream: &str) {
    eventually(&format!("{hostname} is served by {upstream}"), async || {
        let answer =
            client::get(relay.addresses.http, hostname, "/name").await.map_err(|error| format!("{error:#}"))?;
        let seen = (answer.status.as_u16(), answer.text());
        if seen == (200, upstream.to_owned()) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// Waits until GET `/name` of `hostname` is answered with `status`; gives the body.
pub async fn answers(relay: &Relay, hostname: &str, status: u16) -> String {
    eventually(&format!("{hostname} is answered {status}"), async || {
        let answer =
            client::get(relay.addresses.http, hostname, "/name").await.map_err(|error| format!("{error:#}"))?;
        if answer.status == status { Ok(answer.text()) } else { Err(format!("{} {}", answer.status, answer.text())) }
    })
    .await
}
