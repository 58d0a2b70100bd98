//! Which agent is connected where: sessions by project, node and agent. Pure; `S` is the handle to a live session.
//!
//! Owns: the choice of a session for a flow, and whose address a packet may carry. Projects never see each other.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::Ipv6Addr,
};

use underpass_shared::{
    identity::{AgentIdentity, NodeName, ProjectName},
    prefix::{AgentNumber, AgentPrefix, NodeNumber, Place, ProjectPrefix},
};

/// A session of this relay's life; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// Where in the overlay an admitted agent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub project: ProjectPrefix,
    pub node: NodeNumber,
    pub agent: AgentNumber,
}

impl Admission {
    /// The agent's /96.
    #[must_use]
    pub fn prefix(&self) -> AgentPrefix {
        self.project.node(self.node).agent(self.agent)
    }
}

/// One live session.
#[derive(Debug, Clone)]
pub struct Entry<S> {
    pub id: SessionId,
    pub identity: AgentIdentity,
    pub admission: Admission,
    pub session: S,
}

/// The sessions of one relay.
#[derive(Debug)]
pub struct Registry<S> {
    projects: BTreeMap<ProjectName, BTreeMap<(NodeNumber, AgentNumber), Entry<S>>>,
    next: u64,
}

impl<S> Default for Registry<S> {
    fn default() -> Self {
        Self { projects: BTreeMap::new(), next: 0 }
    }
}

impl<S: Clone> Registry<S> {
    /// Enters a session. An agent has one session per relay: an older one of the same agent is returned, to be closed.
    pub fn insert(
        &mut self,
        identity: AgentIdentity,
        admission: Admission,
        session: S,
    ) -> (SessionId, Option<Entry<S>>) {
        let id = SessionId(self.next);
        self.next += 1;
        let agents = self.projects.entry(identity.project.clone()).or_default();
        let replaced = agents.insert((admission.node, admission.agent), Entry { id, identity, admission, session });
        (id, replaced)
    }

    /// Takes a session out, if it is still the one that was entered.
    pub fn remove(&mut self, project: &ProjectName, admission: &Admission, id: SessionId) -> Option<Entry<S>> {
        let agents = self.projects.get_mut(project)?;
        let place = (admission.node, admission.agent);
        agents.get(&place).filter(|entry| entry.id == id)?;
        let removed = agents.remove(&place);
        if agents.is_empty() {
            self.projects.remove(project);
        }
        removed
    }

    /// The session for a flow to `node`: the named agent's, or one of the node's agents by a sticky hash of `flow`; among
    /// those that are `usable` only.
    ///
    /// Rendezvous hashing, so that an agent that comes or goes moves only its own share of the flows.
    #[must_use]
    pub fn select(
        &self,
        project: &ProjectName,
        node: &NodeName,
        agent: Option<AgentNumber>,
        flow: &impl Hash,
        usable: impl Fn(&Entry<S>) -> bool,
    ) -> Option<&Entry<S>> {
        self.of_node(project, node)
            .filter(|entry| agent.is_none_or(|wanted| entry.admission.agent == wanted))
            .filter(|entry| usable(entry))
            .max_by_key(|entry| {
                let mut hasher = DefaultHasher::new();
                (entry.admission.agent, flow).hash(&mut hasher);
                hasher.finish()
            })
    }

    /// The sessions of a node's agents.
    pub fn of_node(&self, project: &ProjectName, node: &NodeName) -> impl Iterator<Item = &Entry<S>> {
        let agents = self.projects.get(project).into_iter().flat_map(BTreeMap::values);
        agents.filter(move |entry| entry.identity.node == *node)
    }

    /// A session of the node of that number: its agent's of that number, or any.
    #[must_use]
    pub fn numbered(&self, project: &ProjectName, node: NodeNumber, agent: Option<AgentNumber>) -> Option<&Entry<S>> {
        let mut agents = self.projects.get(project)?.values().filter(|entry| entry.admission.node == node);
        agents.find(|entry| agent.is_none_or(|agent| entry.admission.agent == agent))
    }

    /// The session that a packet to `destination` belongs to.
    #[must_use]
    pub fn locate(&self, project: &ProjectName, destination: Ipv6Addr) -> Option<&Entry<S>> {
        let agents = self.projects.get(project)?;
        let prefix = agents.values().next()?.admission.project;
        match prefix.locate(destination)? {
            Place::Agent(node, agent, _) => agents.get(&(node, agent)),
            Place::AnyAgent(_) => None,
        }
    }

    /// All sessions, by project, node and agent.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<S>> {
        self.projects.values().flat_map(BTreeMap::values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFICE: NodeNumber = NodeNumber(1);

    fn project(name: &str) -> ProjectName {
        name.parse().unwrap()
    }

    fn identity(project_name: &str, node: &str, agent: &str) -> AgentIdentity {
        AgentIdentity { project: project(project_name), node: node.parse().unwrap(), agent: agent.parse().unwrap() }
    }

    fn admission(global: u8, agent: u32) -> Admission {
        Admission {
            project: ProjectPrefix::from_global_id([global; 5]),
            node: OFFICE,
            agent: AgentNumber::new(agent).unwrap(),
        }
    }

    fn with_agents(count: u32) -> Registry<u32> {
        let mut registry = Registry::default();
        for agent in 1..=count {
            registry.insert(identity("default", "office", &format!("a{agent}")), admission(1, agent), agent);
        }
        registry
    }

    fn chosen(registry: &Registry<u32>, flow: u32) -> Option<u32> {
        registry
            .select(&project("default"), &"office".parse().unwrap(), None, &flow, |_| true)
            .map(|entry| entry.session)
    }

    #[test]
    fn a_flow_stays_with_its_agent_while_others_come_and_go() {
        let mut registry = with_agents(4);
        let before: Vec<_> = (0..100).map(|flow| chosen(&registry, flow)).collect();
        assert_eq!(before, (0..100).map(|flow| chosen(&registry, flow)).collect::<Vec<_>>());
        let gone = registry.iter().find(|entry| entry.session == 2).unwrap().clone();
        registry.remove(&gone.identity.project, &gone.admission, gone.id).unwrap();
        for (flow, before) in (0..100).zip(before) {
            let now = chosen(&registry, flow);
            assert!(now.is_some() && (before == Some(2) || now == before), "flow {flow}: {before:?} became {now:?}");
        }
    }

    #[test]
    fn every_agent_gets_flows() {
        let registry = with_agents(4);
        for agent in 1..=4 {
            assert!((0..200).any(|flow| chosen(&registry, flow) == Some(agent)), "agent {agent} was never chosen");
        }
    }

    #[test]
    fn what_is_not_usable_is_not_chosen() {
        let registry = with_agents(3);
        for flow in 0..50 {
            let office = "office".parse().unwrap();
            let only_two = |entry: &Entry<u32>| entry.session == 2;
            let chosen = registry.select(&project("default"), &office, None, &flow, only_two);
            assert_eq!(chosen.map(|entry| entry.session), Some(2));
            assert!(registry.select(&project("default"), &office, None, &flow, |_| false).is_none());
        }
    }

    #[test]
    fn a_named_agent_gets_the_flow_or_nobody_does() {
        let registry = with_agents(2);
        let select = |agent| {
            let agent = Some(AgentNumber::new(agent).unwrap());
            registry
                .select(&project("default"), &"office".parse().unwrap(), agent, &0, |_| true)
                .map(|entry| entry.session)
        };
        assert_eq!((select(1), select(2), select(3)), (Some(1), Some(2), None));
    }

    #[test]
    fn a_node_is_found_by_its_number() {
        let registry = with_agents(2);
        let find = |name: &str, node: u16, agent: Option<u32>| {
            let agent = agent.map(|agent| AgentNumber::new(agent).unwrap());
            registry.numbered(&project(name), NodeNumber(node), agent).map(|entry| entry.session)
        };
        assert!(find("default", 1, None).is_some());
        assert_eq!((find("default", 1, Some(2)), find("default", 1, Some(3))), (Some(2), None));
        assert_eq!((find("default", 2, None), find("other", 1, None)), (None, None));
    }

    #[test]
    fn a_new_session_of_an_agent_replaces_the_old_one_whose_end_changes_nothing() {
        let mut registry = Registry::default();
        let who = identity("default", "office", "a1");
        let (old, none) = registry.insert(who.clone(), admission(1, 1), "old");
        assert!(none.is_none());
        let (_, replaced) = registry.insert(who.clone(), admission(1, 1), "new");
        assert_eq!(replaced.map(|entry| entry.session), Some("old"));
        assert!(registry.remove(&who.project, &admission(1, 1), old).is_none());
        assert_eq!(registry.iter().map(|entry| entry.session).collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn projects_with_equal_names_never_meet() {
        let mut registry = Registry::default();
        registry.insert(identity("one", "office", "a1"), admission(1, 1), "one");
        registry.insert(identity("two", "office", "a1"), admission(2, 1), "two");
        let office: NodeName = "office".parse().unwrap();
        let select =
            |name: &str| registry.select(&project(name), &office, None, &0, |_| true).map(|entry| entry.session);
        assert_eq!((select("one"), select("two"), select("three")), (Some("one"), Some("two"), None));
        let of_two = admission(2, 1).prefix().address();
        assert_eq!(registry.locate(&project("two"), of_two).map(|entry| entry.session), Some("two"));
        assert!(registry.locate(&project("one"), of_two).is_none());
    }
}
