//! From resources to what is served: changed → snapshot → translate → publish → write statuses back if they changed.
//!
//! The one writer of the route table, of the Gateways' sockets and of statuses. Runs off the data cores.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use underpass_shared::{
    identity::{AgentIdentity, ProjectName, RelayId},
    resource::{
        condition::{Condition, ConditionStatus},
        kind::Kind,
        tunnel_node::{AgentStatus, TunnelNodeStatus},
    },
};

use crate::{
    clock,
    cluster::{self, Announced, Presence},
    enrolment::Enrolment,
    infrastructure,
    listener::{self, Gateway},
    ports::Ports,
    store::{
        Store,
        object::{Object, ObjectKey, Objects},
        record::{Leased, SessionRecord},
    },
    translate::{self, ProjectSnapshot, Settings, Snapshot, Status, WantedStatus},
    tunnel::Tunnels,
};

/// When something could not be done, such as binding a port, it is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// How many changes are looked at to find one that concerns the controller; more do without looking.
const EVENTS_MAX: usize = 1_000;

/// The parts that the controller joins, and what it remembers between two rounds.
#[derive(Debug)]
pub struct Controller {
    store: Store,
    enrolment: Enrolment,
    tunnels: Tunnels,
    gateway: Arc<Gateway>,
    ports: Ports,
    settings: Settings,
    presence: Presence,
    /// Whether the other relays know what is connected here.
    announced: bool,
    owners: translate::Owners,
    /// The store's revision up to which everything was taken in, or was of no concern.
    seen: u64,
    /// The nodes of the last round; a session is checked again only when one has gone.
    nodes: BTreeSet<String>,
}

/// What [`Controller::new`] joins.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub enrolment: Enrolment,
    pub tunnels: Tunnels,
    pub gateway: Arc<Gateway>,
    pub ports: Ports,
    pub settings: Settings,
    pub presence: Presence,
}

/// How [`Controller::run`] ended.
#[derive(Debug)]
pub struct Ended {
    /// The sockets' workers, to be drained.
    pub ports: Ports,
    /// The name that another relay has taken.
    pub replaced: Option<RelayId>,
}

impl Controller {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, enrolment, tunnels, gateway, ports, settings, presence } = parts;
        let (owners, nodes) = (translate::Owners::default(), BTreeSet::new());
        Self { store, enrolment, tunnels, gateway, ports, settings, presence, announced: false, owners, seen: 0, nodes }
    }

    /// One round now, so that everything is served when this returns.
    pub async fn start(&mut self) {
        self.reconcile().await;
    }

    /// A round after each change, until `stop` is cancelled or another relay has taken this one's name.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let (mut objects, mut agents) = (self.store.changes(), self.tunnels.changes());
        let mut leased = self.presence.leased();
        // A change between `start` and here would be missed otherwise.
        objects.mark_changed();
        loop {
            let retries = !self.announced || !self.settings.ports_unavailable.is_empty();
            tokio::select! {
                changed = objects.changed() => match changed {
                    Ok(()) if retries || self.is_concerned() => {}
                    Ok(()) => continue,
                    Err(_) => break,
                },
                changed = agents.changed() => if changed.is_err() { break },
                changed = leased.changed() => if changed.is_err() { break },
                () = sleep(RETRY), if retries => {}
                () = stop.cancelled() => break,
            }
            objects.mark_unchanged();
            agents.mark_unchanged();
            leased.mark_unchanged();
            if self.reconcile().await == Announced::Replaced {
                return Ended { ports: self.ports, replaced: Some(self.presence.relay().clone()) };
            }
        }
        Ended { ports: self.ports, replaced: None }
    }

    /// Whether what has changed in the store is anything that a round looks at.
    fn is_concerned(&mut self) -> bool {
        let Ok(events) = self.store.events_after(self.seen, EVENTS_MAX) else { return true };
        let Some(last) = events.last() else { return self.seen != self.store.snapshot().revision() };
        let is_looked_at = |kind: Kind| kind == Kind::Project || translate::KINDS_READ.contains(&kind);
        if events.len() >= EVENTS_MAX || events.iter().any(|event| is_looked_at(event.key().kind)) {
            return true;
        }
        self.seen = last.revision;
        false
    }

    async fn reconcile(&mut self) -> Announced {
        let objects = self.store.snapshot();
        self.seen = objects.revision();
        let snapshot = Snapshot { projects: typed(&objects), owners: std::mem::take(&mut self.owners) };
        // What is wanted does not depend on what could be had, or the two would take turns.
        self.settings.ports_unavailable.clear();
        let mut translation = translate::translate(&snapshot, &self.settings);
        let unavailable = self.ports.apply(&listener::wanted(&translation.table));
        if !unavailable.is_empty() {
            self.settings.ports_unavailable = unavailable;
            translation = translate::translate(&snapshot, &self.settings);
        }
        self.owners = translation.owners;
        self.publish_policy(&objects);
        self.gateway.routing.table.store(Arc::new(translation.table));
        self.cut_deleted(&objects).await;
        let announced = self.presence.announce(&self.tunnels.connected()).await;
        self.announced = announced == Announced::Whole;
        // All relays would write the same, but for what each sees of its own host: one of them does.
        if self.presence.leads() && announced != Announced::Replaced {
            self.write_statuses(&objects, translation.wanted).await;
            infrastructure::apply(&self.store, &objects, &translation.services).await;
        }
        announced
    }

    /// What backends may not be: the relay itself and any project's overlay.
    fn publish_policy(&self, objects: &Objects) {
        let current = self.gateway.routing.dial_policy.load();
        let mut policy = self.settings.dial_policy.clone();
        policy.own.extend(self.ports.addresses());
        let overlays = objects.of(None, Kind::Project).filter_map(|project| prefix_of(project)?.parse().ok());
        policy.overlays.extend(overlays.map(IpNet::V6));
        if **current != policy {
            self.gateway.routing.dial_policy.store(Arc::new(policy));
        }
    }

    /// Cuts the sessions of agents that the store does not know any more.
    async fn cut_deleted(&mut self, objects: &Objects) {
        let nodes: BTreeSet<String> = objects.of_kind(Kind::TunnelNode).map(|object| object.body.uid.clone()).collect();
        if !self.nodes.is_subset(&nodes) {
            let connected = self.tunnels.connected();
            let checks = connected.iter().map(|agent| self.enrolment.admit(&agent.identity));
            let admitted: BTreeMap<_, _> = connected
                .iter()
                .map(|agent| agent.identity.clone())
                .zip(join_all(checks).await)
                .filter_map(|(identity, admission)| Some((identity, admission.ok()?)))
                .collect();
            self.tunnels.cut_unless(|identity| admitted.get(identity).copied());
        }
        self.nodes = nodes;
    }

    async fn write_statuses(&self, objects: &Objects, wanted: Vec<WantedStatus>) {
        let now = timestamp(clock::now());
        let leased = self.presence.leased().borrow().clone();
        let mut writes = Vec::new();
        for wanted in wanted {
            let key = ObjectKey {
                kind: wanted.status.kind(),
                project: Some(wanted.project.clone()),
                namespace: wanted.namespace.clone(),
                name: wanted.name.clone(),
            };
            let Some(object) = objects.get(&key) else { continue };
            let mut status = wanted.status;
            if let Status::TunnelNode(conditions) = &mut status {
                let agents = of_node(&leased, &wanted.project, &wanted.name).count();
                conditions.push(ready(&wanted.name, agents, object.body.generation));
            }
            let current = object.body.status.as_ref();
            status.keep_times(current.and_then(|current| stored(&status, current)).as_ref(), &now);
            let status = match status {
                Status::TunnelNode(conditions) => node_status(object, &wanted.project, conditions, &leased),
                Status::GatewayClass(status) => json(&status),
                Status::Gateway(status) => json(&status),
                Status::ListenerSet(status) => json(&status),
                Status::Route(_, status) => json(&status),
                Status::Backend(status) => json(&status),
                Status::Other(_, status) => status,
            };
            if object.body.status.as_ref() != Some(&status) {
                writes.push(self.store.replace_status(key, status, Some(object.body.revision)));
            }
        }
        for written in join_all(writes).await {
            // A conflict means that the object changed meanwhile: another round follows.
            if let Err(error) = written {
                tracing::debug!(%error, "a status was not written");
            }
        }
    }
}

fn node_status(node: &Object, project: &ProjectName, conditions: Vec<Condition>, leased: &Leased) -> Value {
    let agents = of_node(leased, project, &node.key.name).map(|(agent, relay, session)| AgentStatus {
        name: agent.agent.to_string(),
        connected_at: timestamp(
            OffsetDateTime::from_unix_timestamp(session.since).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        ),
        agent_address: session.address.to_string(),
        relay: relay.to_string(),
    });
    json(&TunnelNodeStatus {
        addresses: cluster::addresses(&[], leased),
        prefix: prefix_of(node).map(str::to_owned),
        agents: agents.collect(),
        conditions,
    })
}

/// The overlay prefix that a project or node was given when it was made, and keeps.
fn prefix_of(object: &Object) -> Option<&str> {
    object.body.status.as_ref()?.get("prefix")?.as_str()
}

/// The sessions of a node with all relays.
fn of_node<'a>(
    leased: &'a Leased,
    project: &'a ProjectName,
    node: &'a str,
) -> impl Iterator<Item = (&'a AgentIdentity, &'a RelayId, SessionRecord)> {
    leased.sessions().filter(move |(agent, ..)| agent.project == *project && agent.node.as_str() == node)
}

/// Whether a node's services can be reached.
fn ready(node: &str, agents: usize, generation: i64) -> Condition {
    let (status, reason, message) = match agents {
        0 => (
            ConditionStatus::False,
            "NoAgents",
            format!("no agent is connected; `underpass tunnel token {node}` invites one"),
        ),
        1 => (ConditionStatus::True, "AgentsConnected", "1 agent is connected".to_owned()),
        many => (ConditionStatus::True, "AgentsConnected", format!("{many} agents are connected")),
    };
    Condition {
        kind: "Ready".to_owned(),
        status,
        observed_generation: generation,
        last_transition_time: String::new(),
        reason: reason.to_owned(),
        message,
    }
}

/// A project's resources as `translate` takes them.
fn typed(objects: &Objects) -> BTreeMap<ProjectName, ProjectSnapshot> {
    let of_kind = |project: &ProjectName, kind: Kind| -> Vec<(Kind, Value)> {
        objects.of(Some(project), kind).map(|object| (kind, object.to_value())).collect()
    };
    let read = |project: &ProjectName| {
        ProjectSnapshot::read(translate::KINDS_READ.iter().flat_map(|&kind| of_kind(project, kind)))
    };
    objects.projects().map(|project| (project.clone(), read(&project))).collect()
}

/// A stored status in the form of the wanted one, as far as it is ours.
fn stored(wanted: &Status, status: &Value) -> Option<Status> {
    fn read<T: DeserializeOwned>(status: &Value) -> Option<T> {
        serde_json::from_value(status.clone()).ok()
    }
    match wanted {
        Status::GatewayClass(_) => read(status).map(Status::GatewayClass),
        Status::Gateway(_) => read(status).map(Status::Gateway),
        Status::ListenerSet(_) => read(status).map(Status::ListenerSet),
        Status::Route(kind, _) => read(status).map(|status| Status::Route(*kind, status)),
        Status::Backend(_) => read(status).map(Status::Backend),
        Status::TunnelNode(_) => read::<TunnelNodeStatus>(status).map(|status| Status::TunnelNode(status.conditions)),
        Status::Other(kind, _) => Some(Status::Other(*kind, status.clone())),
    }
}

fn json(status: &impl Serialize) -> Value {
    serde_json::to_value(status).expect("plain structs always serialise")
}

fn timestamp(at: OffsetDateTime) -> String {
    let seconds = at.replace_nanosecond(0).expect("0 is a nanosecond");
    seconds.format(&Rfc3339).expect("the clock's year has four digits")
}
