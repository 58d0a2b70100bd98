//! Writes what the objects' statuses must say, where they do not say it yet.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use underpass_shared::{
    identity::{AgentIdentity, ProjectName, RelayId},
    resource::{
        condition::{Condition, ConditionStatus},
        tunnel_node::{AgentStatus, TunnelNodeStatus},
    },
};

use super::prefix_of;
use crate::{
    clock, cluster,
    store::{
        Store,
        object::{Object, ObjectKey, Objects},
        record::{Leased, SessionRecord},
    },
    translate::{Status, WantedStatus},
};

/// The statuses that are known to be as they must.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    /// What was wanted, and the revision at which the object said it.
    settled: HashMap<ObjectKey, (Arc<WantedStatus>, u64)>,
}

impl Statuses {
    /// Brings the statuses of `objects` to what is wanted.
    pub(super) async fn write(
        &mut self,
        store: &Store,
        objects: &Objects,
        wanted: &[Arc<WantedStatus>],
        leased: &Leased,
    ) {
        let now = timestamp(clock::now());
        let mut settled = HashMap::with_capacity(wanted.len());
        let mut writes = Vec::new();
        for wanted in wanted {
            let key = ObjectKey {
                kind: wanted.status.kind(),
                project: Some(wanted.project.clone()),
                namespace: wanted.namespace.clone(),
                name: wanted.name.clone(),
            };
            let Some(object) = objects.get(&key) else { continue };
            let revision = object.body.revision;
            if let Some((known, at)) = self.settled.remove(&key)
                && at == revision
                && (Arc::ptr_eq(&known, wanted) || known == *wanted)
            {
                settled.insert(key, (known, revision));
                continue;
            }
            let status = whole(wanted, object, leased, &now);
            if object.body.status.as_ref() != Some(&status) {
                writes.push(store.replace_status(key, status, Some(revision)));
            } else if !matches!(wanted.status, Status::TunnelNode(_)) {
                settled.insert(key, (wanted.clone(), revision));
            }
        }
        self.settled = settled;
        for written in join_all(writes).await {
            // A conflict means that the object changed meanwhile: another round follows.
            if let Err(error) = written {
                tracing::debug!(%error, "a status was not written");
            }
        }
    }
}

/// The status with its times, and with what is known of a node's agents.
fn whole(wanted: &WantedStatus, object: &Arc<Object>, leased: &Leased, now: &str) -> Value {
    let mut status = wanted.status.clone();
    if let Status::TunnelNode(conditions) = &mut status {
        let agents = of_node(leased, &wanted.project, &wanted.name).count();
        conditions.push(ready(&wanted.name, agents, object.body.generation));
    }
    let current = object.body.status.as_ref();
    status.keep_times(current.and_then(|current| stored(&status, current)).as_ref(), now);
    match status {
        Status::TunnelNode(conditions) => node_status(object, &wanted.project, conditions, leased),
        Status::GatewayClass(status) => json(&status),
        Status::Gateway(status) => json(&status),
        Status::ListenerSet(status) => json(&status),
        Status::Route(_, status) => json(&status),
        Status::Backend(status) => json(&status),
        Status::Other(_, status) => status,
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
