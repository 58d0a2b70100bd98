//! The route table: immutable, built whole by `translate`, read without locks by every request.
//!
//! Port → owner of the hostname → that project's listener → its hostnames → rules in order. A request never leaves the
//! project that owns its hostname, nor the listener that its hostname selects.

use std::{collections::BTreeMap, sync::Arc};

use underpass_shared::identity::ProjectName;

use super::{
    host::{HostMap, HostPattern},
    matcher::{Head, Matcher},
    rank::Rank,
    target::Rule,
};

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
}

/// Which rule serves a request, for every listener port of every project.
#[derive(Debug, Default)]
pub struct Table {
    ports: BTreeMap<u16, Port>,
}

#[derive(Debug)]
struct Port {
    scheme: Scheme,
    owners: HostMap<ProjectName>,
    /// Listeners by project; each listener's rules by the hostname they serve, best rule first.
    projects: BTreeMap<ProjectName, HostMap<HostMap<Vec<Entry>>>>,
}

#[derive(Debug)]
struct Entry {
    rank: Rank,
    matcher: Matcher,
    rule: Arc<Rule>,
}

/// The rule that serves a request.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    pub rule: &'a Arc<Rule>,
}

/// Why no rule serves a request; the caller answers 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No route serves the host on this port.
    Host,
    /// Routes serve the host, but none this path, method, headers and query.
    Rule,
}

impl Table {
    /// Chooses the rule that serves `head`.
    ///
    /// Order is the Gateway API's, on `HTTPRouteRule.matches`: hostname, exact before longest wildcard; then [`Rank`].
    /// Runs in O(rules of the host), allocates nothing itself.
    ///
    /// # Errors
    /// [`Miss`] says whether the host or only the rest of the request is unknown.
    pub fn select(&self, head: &Head<'_>) -> Result<Selection<'_>, Miss> {
        let port = self.ports.get(&head.port).ok_or(Miss::Host)?;
        let owner = port.owners.covering(head.host).next().ok_or(Miss::Host)?;
        let listeners = port.projects.get(owner).ok_or(Miss::Host)?;
        let hosts = listeners.covering(head.host).next().ok_or(Miss::Host)?;
        let mut miss = Miss::Host;
        for entries in hosts.covering(head.host) {
            miss = Miss::Rule;
            if let Some(entry) = entries.iter().find(|entry| entry.matcher.fits(head)) {
                return Ok(Selection { rule: &entry.rule });
            }
        }
        Err(miss)
    }

    /// The ports that must be listened on, as Gateways name them.
    pub fn ports(&self) -> impl Iterator<Item = (u16, Scheme)> {
        self.ports.iter().map(|(&number, port)| (number, port.scheme))
    }
}

/// Collects what a [`Table`] is made of, in any order.
#[derive(Debug, Default)]
pub struct TableBuilder {
    ports: BTreeMap<u16, PortBuilder>,
}

#[derive(Debug)]
struct PortBuilder {
    scheme: Scheme,
    owners: BTreeMap<HostPattern, ProjectName>,
    listeners: BTreeMap<(ProjectName, HostPattern), BTreeMap<HostPattern, Vec<Entry>>>,
}

/// One match of one rule of a route, as a listener serves it.
#[derive(Debug)]
pub struct Attachment<'a> {
    pub port: u16,
    /// The hostname of the listener that the route attached to.
    pub listener: &'a HostPattern,
    /// The hostname that is served: the listener's and the route's intersected.
    pub host: &'a HostPattern,
    pub matcher: Matcher,
    /// See [`Rank::created`].
    pub created: i64,
    /// See [`Rank::position`].
    pub position: (usize, usize),
    pub rule: &'a Arc<Rule>,
}

impl TableBuilder {
    /// Opens `port` and gives `project` a listener for `hostname` on it.
    ///
    /// The first scheme of a port stays: callers have sorted out conflicts before.
    pub fn listener(&mut self, port: u16, scheme: Scheme, project: &ProjectName, hostname: &HostPattern) {
        let port = self.ports.entry(port).or_insert_with(|| PortBuilder {
            scheme,
            owners: BTreeMap::new(),
            listeners: BTreeMap::new(),
        });
        port.listeners.entry((project.clone(), hostname.clone())).or_default();
    }

    /// Makes `project` the owner of `host` on `port`; the first owner stays.
    pub fn owner(&mut self, port: u16, host: &HostPattern, project: &ProjectName) {
        if let Some(port) = self.ports.get_mut(&port) {
            port.owners.entry(host.clone()).or_insert_with(|| project.clone());
        }
    }

    /// Adds a match of a rule to a listener that was given before; without it, nothing happens.
    pub fn attach(&mut self, attachment: Attachment<'_>) {
        let Attachment { port, listener, host, matcher, created, position, rule } = attachment;
        let Some(port) = self.ports.get_mut(&port) else { return };
        let Some(hosts) = port.listeners.get_mut(&(rule.project.clone(), listener.clone())) else { return };
        let rank = Rank {
            path_kind: matcher.path_kind(),
            path_characters: matcher.path_characters(),
            has_method: matcher.has_method(),
            headers: matcher.header_count(),
            query_params: matcher.query_param_count(),
            created,
            route: rule.route.clone(),
            position,
        };
        hosts.entry(host.clone()).or_default().push(Entry { rank, matcher, rule: rule.clone() });
    }

    /// Sorts everything into its final order.
    #[must_use]
    pub fn build(self) -> Table {
        Table { ports: self.ports.into_iter().map(|(number, port)| (number, port.build())).collect() }
    }
}

impl PortBuilder {
    fn build(self) -> Port {
        let mut projects: BTreeMap<ProjectName, BTreeMap<HostPattern, HostMap<Vec<Entry>>>> = BTreeMap::new();
        for ((project, hostname), mut hosts) in self.listeners {
            for entries in hosts.values_mut() {
                entries.sort_by(|a, b| a.rank.cmp(&b.rank));
            }
            projects.entry(project).or_default().insert(hostname, hosts.into());
        }
        Port {
            scheme: self.scheme,
            owners: self.owners.into(),
            projects: projects.into_iter().map(|(project, listeners)| (project, listeners.into())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::route::matcher::PathMatcher;

    fn project(name: &str) -> ProjectName {
        name.parse().unwrap()
    }

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    /// A route on one listener for one host, whose prefix is `/` unless `path` says more.
    fn attach(builder: &mut TableBuilder, name: &str, owner: &str, listener: &str, host: &str, path: &str) {
        let rule = Arc::new(Rule { project: project(owner), route: name.into(), backends: vec![] });
        builder.listener(80, Scheme::Http, &rule.project, &pattern(listener));
        builder.owner(80, &pattern(host), &rule.project);
        builder.attach(Attachment {
            port: 80,
            listener: &pattern(listener),
            host: &pattern(host),
            matcher: Matcher::new(PathMatcher::prefix(path).unwrap()),
            created: 0,
            position: (0, 0),
            rule: &rule,
        });
    }

    fn select<'a>(table: &'a Table, host: &str, path: &str) -> Result<&'a str, Miss> {
        let headers = HeaderMap::new();
        let head = Head { port: 80, host, method: &Method::GET, path, query: None, headers: &headers };
        table.select(&head).map(|selection| &*selection.rule.route)
    }

    #[test]
    fn exact_hostname_beats_wildcard_and_longer_wildcard_beats_shorter() {
        let mut builder = TableBuilder::default();
        for (name, host) in [("any", ""), ("short", "*.com"), ("long", "*.a.com"), ("exact", "x.a.com")] {
            attach(&mut builder, name, "p", "", host, "/");
        }
        let table = builder.build();
        assert_eq!(select(&table, "x.a.com", "/"), Ok("exact"));
        assert_eq!(select(&table, "y.a.com", "/"), Ok("long"));
        assert_eq!(select(&table, "a.com", "/"), Ok("short"));
        assert_eq!(select(&table, "a.org", "/"), Ok("any"));
    }

    #[test]
    fn a_less_specific_hostname_serves_what_the_more_specific_does_not() {
        let mut builder = TableBuilder::default();
        attach(&mut builder, "exact", "p", "", "x.a.com", "/only");
        attach(&mut builder, "wide", "p", "", "*.a.com", "/");
        let table = builder.build();
        assert_eq!(select(&table, "x.a.com", "/only"), Ok("exact"));
        assert_eq!(select(&table, "x.a.com", "/else"), Ok("wide"));
    }

    #[test]
    fn the_most_specific_listener_never_lends_from_a_broader_one() {
        let mut builder = TableBuilder::default();
        attach(&mut builder, "narrow", "p", "x.a.com", "x.a.com", "/only");
        attach(&mut builder, "wide", "p", "", "*.a.com", "/");
        let table = builder.build();
        assert_eq!(select(&table, "x.a.com", "/else"), Err(Miss::Rule));
        assert_eq!(select(&table, "y.a.com", "/else"), Ok("wide"));
    }

    #[test]
    fn a_request_never_leaves_the_project_that_owns_its_hostname() {
        let mut builder = TableBuilder::default();
        attach(&mut builder, "mine", "p", "", "x.a.com", "/only");
        attach(&mut builder, "theirs", "q", "", "*.a.com", "/");
        attach(&mut builder, "stolen", "q", "", "x.a.com", "/");
        let table = builder.build();
        assert_eq!(select(&table, "x.a.com", "/else"), Err(Miss::Rule));
        assert_eq!(select(&table, "y.a.com", "/else"), Ok("theirs"));
    }

    #[test]
    fn unknown_ports_and_hosts_are_told_from_unknown_paths() {
        let mut builder = TableBuilder::default();
        attach(&mut builder, "r", "p", "", "a.com", "/x");
        let table = builder.build();
        assert_eq!(select(&table, "b.com", "/x"), Err(Miss::Host));
        assert_eq!(select(&table, "a.com", "/y"), Err(Miss::Rule));
        assert_eq!(select(&Table::default(), "a.com", "/x"), Err(Miss::Host));
        assert_eq!(table.ports().collect::<Vec<_>>(), [(80, Scheme::Http)]);
    }
}
