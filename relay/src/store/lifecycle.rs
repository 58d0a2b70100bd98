//! What else is written when an object comes or goes: a project's network and defaults, a node's number. Pure.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use underpass_shared::{
    identity::{AgentId, AgentIdentity, DEFAULT_PROJECT, NodeName, ProjectName},
    prefix::{AgentNumber, NodeNumber, ProjectPrefix},
    resource::{
        gateway::CONTROLLER_NAME,
        kind::{KINDS, Kind, Scope},
    },
};

use super::{
    object::{Draft, Object, ObjectKey, Objects},
    record::RecordKey,
    state::{Fresh, State, WriteError},
};

/// The name of what every project has from its first moment.
const DEFAULT: &str = "default";
/// The label by which a namespace is selected by name (Kubernetes well-known labels).
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

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

/// Makes the `default` project if it is not there, and the namespaces that hold something or belong to every
/// project and are not there, as in stores of a time when namespaces were no objects.
///
/// # Errors
/// Only when the store is full.
pub fn bootstrap(state: &mut State, fresh: &mut Fresh) -> Result<(), WriteError> {
    let default = ObjectKey::project(&ProjectName::default());
    if state.objects().get(&default).is_none() {
        create(state, Draft::of_spec(default, json!({})), fresh)?;
    }
    let used = state
        .objects()
        .iter()
        .filter_map(|object| Some((object.key.project.as_ref()?, object.key.namespace.as_ref()?)));
    let mut wanted: BTreeSet<ObjectKey> =
        used.map(|(project, name)| ObjectKey::cluster(project, Kind::Namespace, name)).collect();
    wanted.extend(state.objects().projects().map(|project| ObjectKey::cluster(&project, Kind::Namespace, DEFAULT)));
    wanted.retain(|key| state.objects().get(key).is_none());
    wanted.into_iter().try_for_each(|key| state.create(namespace_draft(key), fresh).map(drop))
}

/// Creates an object with everything that belongs to it; a namespace that is not there is made.
///
/// # Errors
/// Those of [`State::create`]; [`WriteError::NotFound`] when its project does not exist; [`WriteError::Terminating`].
pub fn create(state: &mut State, draft: Draft, fresh: &mut Fresh) -> Result<Arc<Object>, WriteError> {
    let key = draft.key.clone();
    let Some(project) = &key.project else {
        state.create(draft, fresh)?;
        return open_project(state, &parse(&key.name)?, fresh);
    };
    if state.objects().get(&ObjectKey::project(project)).is_none() {
        return Err(WriteError::NotFound(ObjectKey::project(project)));
    }
    if let Some(namespace) = &key.namespace {
        open_namespace(state, project, namespace, fresh)?;
    }
    match key.kind {
        Kind::Namespace => state.create(with_own_name(draft), fresh),
        Kind::TunnelNode => {
            state.create(draft, fresh)?;
            number_node(state, project, &parse(&key.name)?)
        }
        _ => state.create(draft, fresh),
    }
}

/// Replaces what clients write of an object; one that is being deleted goes with its last finalizer.
///
/// # Errors
/// Those of [`State::replace`]; [`WriteError::Deleting`].
pub fn replace(state: &mut State, draft: Draft, expected: Option<u64>) -> Result<Arc<Object>, WriteError> {
    let Some(object) = state.objects().get(&draft.key).cloned() else {
        return Err(WriteError::NotFound(draft.key));
    };
    let draft = if draft.key.kind == Kind::Namespace { with_own_name(draft) } else { draft };
    if object.body.deletion.is_none() {
        return state.replace(draft, expected);
    }
    if draft.meta.finalizers.iter().any(|name| !object.body.meta.finalizers.contains(name)) {
        return Err(WriteError::Deleting(draft.key));
    }
    let key = draft.key.clone();
    let written = state.replace(draft, expected)?;
    if !is_held(state, &written) {
        remove(state, &key)?;
    }
    Ok(written)
}

/// What became of an object that was to be deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// It is gone; this is what it was.
    Gone(Arc<Object>),
    /// Finalizers, or what is in the namespace, hold it.
    Marked(Arc<Object>),
}

/// Deletes an object with everything that belongs to it, or marks it as long as something holds it.
///
/// `finalizers` are added first: `foregroundDeletion` or `orphan`, which the garbage collector takes off.
///
/// # Errors
/// Those of [`State::delete`]; [`WriteError::Permanent`], [`WriteError::NotEmpty`].
pub fn delete(
    state: &mut State,
    key: &ObjectKey,
    expected: Option<u64>,
    finalizers: &[&str],
    fresh: &Fresh,
) -> Result<Deleted, WriteError> {
    let Some(object) = state.objects().get(key).cloned() else { return Err(WriteError::NotFound(key.clone())) };
    if is_permanent(key) {
        return Err(WriteError::Permanent(key.clone()));
    }
    if let (None, Kind::Project) = (&key.project, key.kind) {
        require_empty(state, &parse(&key.name)?)?;
    }
    let missing = finalizers.iter().filter(|name| !object.body.meta.finalizers.iter().any(|held| held == *name));
    let missing: Vec<String> = missing.map(|name| (*name).to_owned()).collect();
    let mut expected = expected;
    if !missing.is_empty() && object.body.deletion.is_none() {
        let mut draft = object.draft();
        draft.meta.finalizers.extend(missing);
        expected = Some(state.replace(draft, expected)?.body.revision);
    }
    let object = state.objects().get(key).cloned().unwrap_or(object);
    if is_held(state, &object) {
        let marked = state.mark_deleted(key, expected, fresh)?;
        return Ok(Deleted::Marked(terminating(state, marked)?));
    }
    match expected {
        Some(revision) if revision != object.body.revision => {
            Err(WriteError::Conflict { key: key.clone(), current: object.body.revision, expected: revision })
        }
        _ => remove(state, key).map(Deleted::Gone),
    }
}

fn is_held(state: &State, object: &Object) -> bool {
    if !object.body.meta.finalizers.is_empty() {
        return true;
    }
    match (object.key.kind, &object.key.project) {
        (Kind::Namespace, Some(project)) => contents(state.objects(), project, &object.key.name).next().is_some(),
        _ => false,
    }
}

/// A namespace says in its status that it is going.
fn terminating(state: &mut State, object: Arc<Object>) -> Result<Arc<Object>, WriteError> {
    if object.key.kind != Kind::Namespace {
        return Ok(object);
    }
    state.replace_status(&object.key, json!({ "phase": "Terminating" }), None)
}

/// Everything in a namespace.
pub fn contents<'a>(
    objects: &'a Objects,
    project: &'a ProjectName,
    namespace: &'a str,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let kinds = KINDS.iter().filter(|info| info.scope == Scope::Namespaced);
    kinds.flat_map(move |info| objects.in_namespace(Some(project), info.kind, namespace))
}

/// Removes an object that nothing holds, what belongs to it, and the namespace that waited for it.
fn remove(state: &mut State, key: &ObjectKey) -> Result<Arc<Object>, WriteError> {
    let object = state.delete(key, None)?;
    match (&key.project, key.kind) {
        (None, Kind::Project) => close_project(state, &parse(&key.name)?)?,
        (Some(project), Kind::TunnelNode) => forget_node(state, project, &parse(&key.name)?),
        _ => {}
    }
    if let (Some(project), Some(namespace)) = (&key.project, &key.namespace) {
        let namespace = ObjectKey::cluster(project, Kind::Namespace, namespace);
        let waits = state.objects().get(&namespace).filter(|namespace| namespace.body.deletion.is_some()).cloned();
        if waits.is_some_and(|waits| !is_held(state, &waits)) {
            state.delete(&namespace, None)?;
        }
    }
    Ok(object)
}

/// Sees to it that the namespace is there and not going.
fn open_namespace(
    state: &mut State,
    project: &ProjectName,
    namespace: &str,
    fresh: &mut Fresh,
) -> Result<(), WriteError> {
    let key = ObjectKey::cluster(project, Kind::Namespace, namespace);
    match state.objects().get(&key) {
        Some(object) if object.body.deletion.is_some() => {
            Err(WriteError::Terminating { namespace: namespace.to_owned() })
        }
        Some(_) => Ok(()),
        None => state.create(namespace_draft(key), fresh).map(drop),
    }
}

/// A namespace carries its name as a label, by which selectors find it, and says that it is there.
fn with_own_name(mut draft: Draft) -> Draft {
    draft.meta.labels.insert(NAMESPACE_NAME_LABEL.to_owned(), draft.key.name.clone());
    draft.status.get_or_insert_with(|| json!({ "phase": "Active" }));
    draft
}

fn namespace_draft(key: ObjectKey) -> Draft {
    with_own_name(Draft::of_spec(key, json!({ "finalizers": ["kubernetes"] })))
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

/// What every project has and keeps.
fn defaults(project: &ProjectName) -> [Draft; 4] {
    let own_namespace = json!({ "namespaces": { "from": "Same" } });
    let listeners = json!([
        { "name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": own_namespace },
        { "name": "https", "protocol": "HTTPS", "port": 443, "allowedRoutes": own_namespace },
    ]);
    let class = json!({ "controllerName": CONTROLLER_NAME });
    [
        namespace_draft(ObjectKey::cluster(project, Kind::Namespace, DEFAULT)),
        Draft::of_spec(ObjectKey::cluster(project, Kind::GatewayClass, DEFAULT), class),
        Draft::of_spec(ObjectKey::cluster(project, Kind::Proxy, DEFAULT), json!({ "provider": "unmanaged" })),
        Draft::of_spec(
            ObjectKey::namespaced(project, Kind::Gateway, DEFAULT, DEFAULT),
            json!({ "gatewayClassName": DEFAULT, "listeners": listeners }),
        ),
    ]
}

fn default_keys(project: &ProjectName) -> [ObjectKey; 4] {
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

/// What a project holds beside what it always has; namespaces do not count, their contents do.
fn require_empty(state: &State, project: &ProjectName) -> Result<(), WriteError> {
    let own = default_keys(project);
    let held = |object: &&Arc<Object>| object.key.kind != Kind::Namespace && !own.contains(&object.key);
    let of_project = KINDS.iter().flat_map(|info| state.objects().of(Some(project), info.kind));
    let mut held = of_project.filter(held);
    let Some(first) = held.next() else { return Ok(()) };
    let first = (*first.key).clone();
    Err(WriteError::NotEmpty { project: project.to_string(), count: held.count() + 1, first })
}

fn close_project(state: &mut State, project: &ProjectName) -> Result<(), WriteError> {
    let namespaces = state.objects().of(Some(project), Kind::Namespace).map(|object| (*object.key).clone());
    let namespaces: Vec<ObjectKey> = namespaces.collect();
    for key in default_keys(project).iter().filter(|key| key.kind != Kind::Namespace).chain(&namespaces) {
        state.delete(key, None)?;
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
