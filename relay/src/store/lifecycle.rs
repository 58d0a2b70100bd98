//! What else is written when an object comes or goes: a project's network and defaults, a node's number. Pure.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use underpass_shared::{
    identity::{AgentId, AgentIdentity, DEFAULT_PROJECT, NodeName, ProjectName},
    prefix::{AgentNumber, NodeNumber, ProjectPrefix},
    resource::{gateway::CONTROLLER_NAME, kind::Kind},
};

use super::{
    object::{Draft, Object, ObjectKey},
    record::RecordKey,
    state::{Fresh, State, WriteError},
};

/// The name of what every project has from its first moment.
const DEFAULT: &str = "default";

/// A project's overlay network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectRecord {
    pub prefix: ProjectPrefix,
    /// The next node's number; beyond 65535 all were used once, and the lowest free one is taken.
    pub next_node: u32,
}

/// A node's place in its project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    pub number: NodeNumber,
    pub next_agent: u32,
}

/// An agent's place in its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRecord {
    pub number: AgentNumber,
}

/// Makes the `default` project if it is not there.
///
/// # Errors
/// Only when the store is full.
pub fn bootstrap(state: &mut State, fresh: &mut Fresh) -> Result<(), WriteError> {
    let project = ProjectName::default();
    if state.objects().get(&ObjectKey::project(&project)).is_some() {
        return Ok(());
    }
    create(state, draft(ObjectKey::project(&project), json!({})), fresh).map(drop)
}

/// Creates an object with everything that belongs to it.
///
/// # Errors
/// Those of [`State::create`]; [`WriteError::NotFound`] when its project does not exist.
pub fn create(state: &mut State, draft: Draft, fresh: &mut Fresh) -> Result<Arc<Object>, WriteError> {
    let key = draft.key.clone();
    match (&key.project, key.kind) {
        (None, _) => {
            state.create(draft, fresh)?;
            open_project(state, &parse(&key.name)?, fresh)
        }
        (Some(project), kind) => {
            let found = state.objects().get(&ObjectKey::project(project)).is_some();
            if !found {
                return Err(WriteError::NotFound(ObjectKey::project(project)));
            }
            let object = state.create(draft, fresh)?;
            if kind == Kind::TunnelNode { number_node(state, project, &parse(&key.name)?) } else { Ok(object) }
        }
    }
}

/// Deletes an object with everything that belongs to it.
///
/// # Errors
/// Those of [`State::delete`]; [`WriteError::Permanent`], [`WriteError::NotEmpty`].
pub fn delete(state: &mut State, key: &ObjectKey, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
    if state.objects().get(key).is_some() && is_permanent(key) {
        return Err(WriteError::Permanent(key.clone()));
    }
    let object = state.delete(key, expected)?;
    match (&key.project, key.kind) {
        (None, Kind::Project) => close_project(state, &parse(&key.name)?)?,
        (Some(project), Kind::TunnelNode) => forget_node(state, project, &parse(&key.name)?),
        _ => {}
    }
    Ok(object)
}

/// The number of the agent, made on first sight and kept.
///
/// # Errors
/// [`WriteError::NotFound`] when the node does not exist, [`WriteError::Full`] when its numbers are spent.
pub fn number_agent(state: &mut State, agent: &AgentIdentity) -> Result<AgentNumber, WriteError> {
    let AgentIdentity { project, node, agent } = agent;
    if let Some(known) = agent_number(state, project, node, agent)? {
        return Ok(known);
    }
    let key = RecordKey::Node(project.clone(), node.clone());
    let mut record: NodeRecord = state.record(&key)?.ok_or_else(|| no_node(project, node))?;
    let number =
        AgentNumber::new(record.next_agent).map_err(|_| WriteError::Full { what: "agents", max: 0x00ff_ffff })?;
    record.next_agent += 1;
    state.put_record(key, &record)?;
    let key = RecordKey::Agent(project.clone(), node.clone(), agent.clone());
    state.put_record(key, &AgentRecord { number })?;
    Ok(number)
}

/// The number the agent was given, `None` when it never enrolled with this node as it is now.
///
/// # Errors
/// [`WriteError::Record`].
pub fn agent_number(
    state: &State,
    project: &ProjectName,
    node: &NodeName,
    agent: &AgentId,
) -> Result<Option<AgentNumber>, WriteError> {
    let key = RecordKey::Agent(project.clone(), node.clone(), agent.clone());
    Ok(state.record::<AgentRecord>(&key)?.map(|record| record.number))
}

/// The project's /48.
///
/// # Errors
/// [`WriteError::NotFound`] when there is no such project.
pub fn project_prefix(state: &State, project: &ProjectName) -> Result<ProjectPrefix, WriteError> {
    let record: Option<ProjectRecord> = state.record(&RecordKey::Project(project.clone()))?;
    record.map(|record| record.prefix).ok_or_else(|| WriteError::NotFound(ObjectKey::project(project)))
}

/// The node's number.
///
/// # Errors
/// [`WriteError::NotFound`] when there is no such node.
pub fn node_number(state: &State, project: &ProjectName, node: &NodeName) -> Result<NodeNumber, WriteError> {
    let record: Option<NodeRecord> = state.record(&RecordKey::Node(project.clone(), node.clone()))?;
    record.map(|record| record.number).ok_or_else(|| no_node(project, node))
}

fn no_node(project: &ProjectName, node: &NodeName) -> WriteError {
    WriteError::NotFound(ObjectKey::cluster(project, Kind::TunnelNode, node.as_str()))
}

fn parse<T: std::str::FromStr<Err = underpass_shared::identity::NameError>>(name: &str) -> Result<T, WriteError> {
    name.parse().map_err(|error: underpass_shared::identity::NameError| WriteError::Name {
        name: name.to_owned(),
        reason: error.to_string(),
    })
}

fn draft(key: ObjectKey, spec: Value) -> Draft {
    Draft { key, labels: Default::default(), annotations: Default::default(), spec }
}

/// What every project has and keeps.
fn defaults(project: &ProjectName) -> [Draft; 3] {
    let own_namespace = json!({ "namespaces": { "from": "Same" } });
    let listeners = json!([
        { "name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": own_namespace },
        { "name": "https", "protocol": "HTTPS", "port": 443, "allowedRoutes": own_namespace },
    ]);
    [
        draft(ObjectKey::cluster(project, Kind::GatewayClass, DEFAULT), json!({ "controllerName": CONTROLLER_NAME })),
        draft(ObjectKey::cluster(project, Kind::Proxy, DEFAULT), json!({ "provider": "unmanaged" })),
        draft(
            ObjectKey::namespaced(project, Kind::Gateway, DEFAULT, DEFAULT),
            json!({ "gatewayClassName": DEFAULT, "listeners": listeners }),
        ),
    ]
}

fn default_keys(project: &ProjectName) -> [ObjectKey; 3] {
    defaults(project).map(|draft| draft.key)
}

fn is_permanent(key: &ObjectKey) -> bool {
    match &key.project {
        None => key.name == DEFAULT_PROJECT,
        Some(project) => default_keys(project).contains(key),
    }
}

fn open_project(state: &mut State, project: &ProjectName, fresh: &mut Fresh) -> Result<Arc<Object>, WriteError> {
    let mut taken = BTreeSet::new();
    let projects = state.record_keys(RecordKey::Authority).filter(|key| **key != RecordKey::Authority);
    for key in projects.take_while(|key| matches!(key, RecordKey::Project(_))) {
        taken.extend(state.record::<ProjectRecord>(key)?.map(|record| record.prefix));
    }
    let prefix = loop {
        let prefix = ProjectPrefix::from_global_id(fresh.bytes());
        if !taken.contains(&prefix) {
            break prefix;
        }
    };
    state.put_record(RecordKey::Project(project.clone()), &ProjectRecord { prefix, next_node: 1 })?;
    for draft in defaults(project) {
        state.create(draft, fresh)?;
    }
    state.replace_status(&ObjectKey::project(project), json!({ "prefix": prefix.to_string(), "conditions": [] }), None)
}

fn close_project(state: &mut State, project: &ProjectName) -> Result<(), WriteError> {
    let own = default_keys(project);
    let held: Vec<ObjectKey> = state
        .objects()
        .iter()
        .filter(|object| object.key.project.as_ref() == Some(project) && !own.contains(&object.key))
        .map(|object| (*object.key).clone())
        .collect();
    if let Some(first) = held.first() {
        return Err(WriteError::NotEmpty { project: project.to_string(), count: held.len(), first: first.clone() });
    }
    for key in own {
        state.delete(&key, None)?;
    }
    state.remove_record(&RecordKey::Project(project.clone()));
    Ok(())
}

fn number_node(state: &mut State, project: &ProjectName, node: &NodeName) -> Result<Arc<Object>, WriteError> {
    let key = RecordKey::Project(project.clone());
    let mut record: ProjectRecord =
        state.record(&key)?.ok_or_else(|| WriteError::NotFound(ObjectKey::project(project)))?;
    let number = match u16::try_from(record.next_node) {
        Ok(next) => {
            record.next_node += 1;
            next
        }
        Err(_) => lowest_free_number(state, project)?,
    };
    let number = NodeNumber(number);
    let prefix = record.prefix.node(number);
    state.put_record(key, &record)?;
    state.put_record(RecordKey::Node(project.clone(), node.clone()), &NodeRecord { number, next_agent: 1 })?;
    let status = json!({ "addresses": [], "prefix": prefix.to_string(), "agents": [], "conditions": [] });
    state.replace_status(&ObjectKey::cluster(project, Kind::TunnelNode, node.as_str()), status, None)
}

fn lowest_free_number(state: &State, project: &ProjectName) -> Result<u16, WriteError> {
    let mut taken = BTreeSet::new();
    let nodes = state.record_keys(RecordKey::first_node(project));
    for key in nodes.take_while(|key| matches!(key, RecordKey::Node(of, _) if of == project)) {
        taken.extend(state.record::<NodeRecord>(key)?.map(|record| record.number.0));
    }
    (1..=u16::MAX)
        .find(|number| !taken.contains(number))
        .ok_or(WriteError::Full { what: "nodes in a project", max: u16::MAX.into() })
}

fn forget_node(state: &mut State, project: &ProjectName, node: &NodeName) {
    let agents: Vec<RecordKey> = state
        .record_keys(RecordKey::first_agent(project, node))
        .take_while(|key| matches!(key, RecordKey::Agent(p, n, _) if p == project && n == node))
        .cloned()
        .collect();
    state.remove_record(&RecordKey::Node(project.clone(), node.clone()));
    agents.iter().for_each(|agent| state.remove_record(agent));
}

#[cfg(test)]
mod tests;
