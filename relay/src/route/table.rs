//! The route table: immutable, built by `translate`, read without locks by every connection and request.
//!
//! HTTP: listen address → owner of the hostname → that project's listener → its hostnames → rules in order. A request
//! never leaves the project that owns its hostname, nor the listener that its hostname selects. TLS: the same by the name
//! of the handshake (SNI). TCP and UDP: listen address → the one rule.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map},
    net::IpAddr,
    sync::Arc,
};

use underpass_shared::identity::ProjectName;

use super::{
    client::{ClientSettings, FromProxies},
    fleet::Fleet,
    host::{HostMap, HostPattern},
    matcher::{Head, Matcher},
    paths::{Entry, Paths},
    rank::Rank,
    target::{Rule, Target},
    tls::ServerTls,
};

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
}

/// Where clients reach a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenAddress {
    /// A Gateway's own address; `None` for those that all Gateways without one share.
    pub address: Option<IpAddr>,
    /// As Gateways name it, wherever it is bound.
    pub port: u16,
}

impl ListenAddress {
    /// `port` on the addresses that all Gateways share.
    #[must_use]
    pub fn shared(port: u16) -> Self {
        Self { address: None, port }
    }
}

/// What is spoken on a listen address. TCP and UDP may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Speaks {
    Http,
    Tls,
    Tcp,
    Udp,
}

/// Who serves what, for every listener of every project.
#[derive(Debug, Default)]
pub struct Table {
    ports: BTreeMap<ListenAddress, Port>,
    datagrams: BTreeMap<ListenAddress, Option<Arc<Rule>>>,
    clients: BTreeMap<ListenAddress, Arc<ClientSettings>>,
    fleets: Vec<Arc<Fleet>>,
}

/// A TCP port.
#[derive(Debug)]
pub enum Port {
    Http(Http),
    Tls(Box<Tls>),
    /// Connections go to the rule's backends as they are; without a rule they are closed.
    Stream(Option<Arc<Rule>>),
}

/// The HTTP listeners of one listen address.
#[derive(Debug, Default)]
pub struct Http {
    owners: Arc<HostMap<ProjectName>>,
    /// Listeners by project.
    projects: BTreeMap<ProjectName, HostMap<Arc<PathsByHost>>>,
    /// What policies say of the listeners of those projects that have any; in the clear only.
    clients: BTreeMap<ProjectName, HostMap<Option<Arc<ClientSettings>>>>,
}

/// A listener's rules by the hostname they serve. Tables share what did not change from one to the next.
type PathsByHost = HostMap<Arc<Paths>>;

/// The TLS listeners of one listen address.
#[derive(Debug, Default)]
pub struct Tls {
    owners: Arc<HostMap<ProjectName>>,
    projects: BTreeMap<ProjectName, HostMap<Arc<TlsListener>>>,
    /// Of all projects, for names that nobody owns: the first that was built has a hostname.
    all: HostMap<Arc<TlsListener>>,
    https: Http,
    passes_streams: bool,
    has_clients: bool,
}

/// What a handshake's name selects.
#[derive(Debug)]
pub struct TlsListener {
    pub project: ProjectName,
    pub hostname: HostPattern,
    pub serves: TlsServes,
    /// How its clients are dealt with, where a policy says so.
    pub clients: Option<Arc<ClientSettings>>,
}

/// What becomes of a connection after the handshake, or instead of it.
#[derive(Debug)]
pub enum TlsServes {
    /// HTTP: see [`Table::select`].
    Http(Arc<ServerTls>),
    /// Bytes, to the rule that serves the name: after TLS ended here, or as they are when `tls` is `None`.
    Stream { tls: Option<Arc<ServerTls>>, rules: HostMap<Arc<Rule>> },
}

/// The rule that serves a request.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    pub rule: &'a Arc<Rule>,
}

/// Why no rule serves a request; the caller answers 404, or 421.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// No route serves the host here.
    Host,
    /// Routes serve the host, but none this path, method, headers and query.
    Rule,
    /// The host belongs to another listener than the one of the handshake (RFC 9110 §15.5.20).
    Misdirected,
}

impl Table {
    /// What is spoken over TCP at `at`.
    #[must_use]
    pub fn port(&self, at: ListenAddress) -> Option<&Port> {
        self.ports.get(&at)
    }

    /// Where datagrams that come to `at` go.
    #[must_use]
    pub fn datagrams(&self, at: ListenAddress) -> Option<&Arc<Rule>> {
        self.datagrams.get(&at)?.as_ref()
    }

    /// Whether connections to `at` begin with a PROXY header; `None` when such a header would be the client's.
    #[must_use]
    pub fn from_proxies(&self, at: ListenAddress) -> Option<FromProxies> {
        self.clients(at)?.arrival.from_proxies
    }

    /// What holds for every connection to `at`, where a policy says something of it. In the clear that is all of
    /// [`ClientSettings::connection`] too; over TLS that is the listener's.
    #[must_use]
    pub fn clients(&self, at: ListenAddress) -> Option<&Arc<ClientSettings>> {
        self.clients.get(&at)
    }

    /// How a request for `host` is dealt with that came to `at`, in the clear or after a handshake for `tls`, where a
    /// policy says something of it.
    #[must_use]
    pub fn requests(&self, at: ListenAddress, host: &str, tls: Option<&TlsListener>) -> Option<&Arc<ClientSettings>> {
        match (self.ports.get(&at), tls) {
            (Some(Port::Http(http)), None) if !http.clients.is_empty() => http.clients(host),
            (Some(Port::Tls(port)), Some(tls)) if port.has_clients => port.clients(host, tls),
            _ => None,
        }
    }

    /// Chooses the rule that serves `head`, which came in the clear, or over TLS after a handshake for `tls`.
    ///
    /// Order is the Gateway API's, on `HTTPRouteRule.matches`: hostname, exact before longest wildcard; then [`Rank`].
    /// Runs in O(labels of the host + rules of its path + lengths of its prefixes), allocates nothing itself.
    ///
    /// # Errors
    /// [`Miss`] says what is unknown.
    pub fn select(&self, head: &Head<'_>, tls: Option<&TlsListener>) -> Result<Selection<'_>, Miss> {
        match (self.ports.get(&head.at), tls) {
            (Some(Port::Http(http)), None) => http.select(head),
            (Some(Port::Tls(port)), Some(tls)) => port.select(head, tls),
            _ => Err(Miss::Host),
        }
    }

    /// Every fleet that a rule may choose from, each once.
    #[must_use]
    pub fn fleets(&self) -> &[Arc<Fleet>] {
        &self.fleets
    }

    /// What must be listened on.
    pub fn listens(&self) -> impl Iterator<Item = (ListenAddress, Speaks)> {
        let tcp = self.ports.iter().map(|(&at, port)| {
            let speaks = match port {
                Port::Http(_) => Speaks::Http,
                Port::Tls(_) => Speaks::Tls,
                Port::Stream(_) => Speaks::Tcp,
            };
            (at, speaks)
        });
        tcp.chain(self.datagrams.keys().map(|&at| (at, Speaks::Udp)))
    }
}

impl Http {
    fn select(&self, head: &Head<'_>) -> Result<Selection<'_>, Miss> {
        let owner = self.owners.covering(head.host).next().ok_or(Miss::Host)?;
        self.select_of(owner, head)
    }

    /// By the listener that takes requests for `host`.
    fn clients(&self, host: &str) -> Option<&Arc<ClientSettings>> {
        let owner = self.owners.covering(host).next()?;
        self.clients.get(owner)?.covering(host).next()?.as_ref()
    }

    fn select_of(&self, project: &ProjectName, head: &Head<'_>) -> Result<Selection<'_>, Miss> {
        let listeners = self.projects.get(project).ok_or(Miss::Host)?;
        let hosts = listeners.covering(head.host).next().ok_or(Miss::Host)?;
        let mut miss = Miss::Host;
        for paths in hosts.covering(head.host) {
            miss = Miss::Rule;
            if let Some(rule) = paths.select(head) {
                return Ok(Selection { rule });
            }
        }
        Err(miss)
    }
}

impl Tls {
    /// The listener that a handshake for `name` (lower case) selects; without a name, one without hostname.
    #[must_use]
    pub fn listener(&self, name: Option<&str>) -> Option<&Arc<TlsListener>> {
        let name = name.unwrap_or_default();
        let owned = self.owners.covering(name).next().and_then(|project| self.projects.get(project));
        match owned {
            Some(listeners) => listeners.covering(name).next(),
            None => self.all.covering(name).next(),
        }
    }

    /// Whether one of the listeners passes bytes on instead of serving HTTP.
    #[must_use]
    pub fn passes_streams(&self) -> bool {
        self.passes_streams
    }

    /// As of now: the listener of the handshake may have been given others since.
    fn clients(&self, host: &str, tls: &TlsListener) -> Option<&Arc<ClientSettings>> {
        let mut listeners = self.projects.get(&tls.project)?.covering(host);
        listeners.find(|listener| listener.hostname == tls.hostname)?.clients.as_ref()
    }

    fn select(&self, head: &Head<'_>, tls: &TlsListener) -> Result<Selection<'_>, Miss> {
        let owned = self.owners.covering(head.host).next().and_then(|project| self.projects.get(project));
        let listeners = owned.unwrap_or(&self.all);
        let speaks_http = |listener: &&Arc<TlsListener>| matches!(listener.serves, TlsServes::Http(_));
        let chosen = listeners.covering(head.host).find(speaks_http).ok_or(Miss::Host)?;
        if chosen.project != tls.project || chosen.hostname != tls.hostname {
            return Err(Miss::Misdirected);
        }
        self.https.select_of(&chosen.project, head)
    }
}

/// Collects what a [`Table`] is made of, in any order, but for listeners: of those that want the same, the first has it.
///
/// It makes one table after another: HTTP rules and owners of hostnames come and go between them, and what they leave
/// alone is shared.
#[derive(Debug, Default)]
pub struct TableBuilder {
    ports: BTreeMap<ListenAddress, PortBuilder>,
    datagrams: BTreeMap<ListenAddress, Option<Arc<Rule>>>,
    clients: BTreeMap<ListenAddress, Arc<ClientSettings>>,
    /// By address in memory, which tells them apart while they are held here; with how many matches and streams use each.
    fleets: BTreeMap<usize, (Arc<Fleet>, usize)>,
}

/// Listeners by project and hostname; what each serves by the hostname of the route.
type Listeners<T> = BTreeMap<(ProjectName, HostPattern), T>;

#[derive(Debug)]
struct PortBuilder {
    speaks: Speaks,
    stream: Option<Arc<Rule>>,
    owners: Arc<HostMap<ProjectName>>,
    http: Listeners<HttpBuilder>,
    tls: Vec<TlsBuilder>,
    clients: Listeners<Arc<ClientSettings>>,
}

/// The rules of an HTTP listener, and what the last table had of them.
#[derive(Debug, Default)]
struct HttpBuilder {
    entries: HashMap<HostPattern, Vec<Entry>>,
    changed: BTreeSet<HostPattern>,
    built: Arc<PathsByHost>,
}

#[derive(Debug)]
struct TlsBuilder {
    project: ProjectName,
    hostname: HostPattern,
    tls: Option<Arc<ServerTls>>,
    /// `None` for HTTP.
    rules: Option<BTreeMap<HostPattern, Arc<Rule>>>,
}

/// One match of one rule of a route, as a listener serves it.
#[derive(Debug)]
pub struct Attachment<'a> {
    pub at: ListenAddress,
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
    /// Callers have sorted out conflicts of protocols before: what is said first of an address stays.
    fn port(&mut self, at: ListenAddress, speaks: Speaks) -> &mut PortBuilder {
        self.ports.entry(at).or_insert_with(|| PortBuilder {
            speaks,
            stream: None,
            owners: Arc::default(),
            http: BTreeMap::new(),
            tls: Vec::new(),
            clients: BTreeMap::new(),
        })
    }

    /// Gives `project` an HTTP listener for `hostname`.
    pub fn http(&mut self, at: ListenAddress, project: &ProjectName, hostname: &HostPattern) {
        self.port(at, Speaks::Http).http.entry((project.clone(), hostname.clone())).or_default();
    }

    /// Gives `project` an HTTPS listener for `hostname`.
    pub fn https(&mut self, at: ListenAddress, project: &ProjectName, hostname: &HostPattern, tls: Arc<ServerTls>) {
        let port = self.port(at, Speaks::Tls);
        port.http.entry((project.clone(), hostname.clone())).or_default();
        port.tls.push(TlsBuilder { project: project.clone(), hostname: hostname.clone(), tls: Some(tls), rules: None });
    }

    /// Gives `project` a TLS listener for `hostname` that passes bytes on: TLS ends here, or at the backend without `tls`.
    pub fn tls(
        &mut self,
        at: ListenAddress,
        project: &ProjectName,
        hostname: &HostPattern,
        tls: Option<Arc<ServerTls>>,
    ) {
        let (project, hostname, rules) = (project.clone(), hostname.clone(), Some(BTreeMap::new()));
        self.port(at, Speaks::Tls).tls.push(TlsBuilder { project, hostname, tls, rules });
    }

    /// Listens for TCP connections, and sends them to `rule`.
    pub fn tcp(&mut self, at: ListenAddress, rule: Option<Arc<Rule>>) {
        rule.iter().for_each(|rule| self.note(rule));
        let port = self.port(at, Speaks::Tcp);
        port.stream = port.stream.take().or(rule);
    }

    /// Listens for datagrams, and sends them to `rule`.
    pub fn udp(&mut self, at: ListenAddress, rule: Option<Arc<Rule>>) {
        rule.iter().for_each(|rule| self.note(rule));
        let datagrams = self.datagrams.entry(at).or_default();
        *datagrams = datagrams.take().or(rule);
    }

    /// Lets `settings` hold for every connection to `at`; the first word stays.
    pub fn arrive(&mut self, at: ListenAddress, settings: &Arc<ClientSettings>) {
        self.clients.entry(at).or_insert_with(|| settings.clone());
    }

    /// Lets `settings` hold for a listener that was given before; without it, nothing happens.
    pub fn settle(
        &mut self,
        at: ListenAddress,
        project: &ProjectName,
        hostname: &HostPattern,
        settings: &Arc<ClientSettings>,
    ) {
        if let Some(port) = self.ports.get_mut(&at) {
            let listener = (project.clone(), hostname.clone());
            port.clients.entry(listener).or_insert_with(|| settings.clone());
        }
    }

    /// Makes `project` the owner of `host` at `at`; the first owner stays.
    pub fn owner(&mut self, at: ListenAddress, host: &HostPattern, project: &ProjectName) {
        if let Some(port) = self.ports.get_mut(&at)
            && port.owners.get(host).is_none()
        {
            Arc::make_mut(&mut port.owners).insert(host.clone(), project.clone());
        }
    }

    /// Nobody owns `host` at `at` any more.
    pub fn disown(&mut self, at: ListenAddress, host: &HostPattern) {
        if let Some(port) = self.ports.get_mut(&at) {
            Arc::make_mut(&mut port.owners).remove(host);
        }
    }

    /// Adds a match of a rule to an HTTP or HTTPS listener that was given before; without it, nothing happens.
    pub fn attach(&mut self, attachment: Attachment<'_>) {
        let Attachment { at, listener, host, matcher, created, position, rule } = attachment;
        let Some(http) = self.listener(at, &rule.project, listener) else { return };
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
        http.entries.entry(host.clone()).or_default().push(Entry { rank, matcher, rule: rule.clone() });
        http.changed.insert(host.clone());
        self.note(rule);
    }

    /// Takes back every match of `rule`, this very one, that was added for `host`.
    pub fn detach(&mut self, at: ListenAddress, listener: &HostPattern, host: &HostPattern, rule: &Arc<Rule>) {
        let Some(http) = self.listener(at, &rule.project, listener) else { return };
        let Some(entries) = http.entries.get_mut(host) else { return };
        let before = entries.len();
        entries.retain(|entry| !Arc::ptr_eq(&entry.rule, rule));
        let gone = before - entries.len();
        if entries.is_empty() {
            http.entries.remove(host);
        }
        http.changed.insert(host.clone());
        for id in fleets(rule).map(id_of) {
            if let btree_map::Entry::Occupied(mut known) = self.fleets.entry(id) {
                known.get_mut().1 = known.get().1.saturating_sub(gone);
                if known.get().1 == 0 {
                    known.remove();
                }
            }
        }
    }

    fn listener(
        &mut self,
        at: ListenAddress,
        project: &ProjectName,
        hostname: &HostPattern,
    ) -> Option<&mut HttpBuilder> {
        self.ports.get_mut(&at)?.http.get_mut(&(project.clone(), hostname.clone()))
    }

    /// Lets `rule` serve `host` on a TLS listener that was given before; the first rule of a host stays.
    pub fn attach_tls(&mut self, at: ListenAddress, listener: &HostPattern, host: &HostPattern, rule: &Arc<Rule>) {
        self.note(rule);
        let Some(port) = self.ports.get_mut(&at) else { return };
        let is_it = |tls: &&mut TlsBuilder| tls.project == rule.project && tls.hostname == *listener;
        let Some(tls) = port.tls.iter_mut().find(is_it) else { return };
        if let Some(rules) = &mut tls.rules {
            rules.entry(host.clone()).or_insert_with(|| rule.clone());
        }
    }

    fn note(&mut self, rule: &Rule) {
        for fleet in fleets(rule) {
            self.fleets.entry(id_of(fleet)).or_insert_with(|| (fleet.clone(), 0)).1 += 1;
        }
    }

    /// The table as of now. Costs what has changed since the last one, and little for each hostname of a listener that has.
    pub fn build(&mut self) -> Table {
        let ports = self.ports.iter_mut().map(|(&at, port)| (at, port.build())).collect();
        let fleets = self.fleets.values().map(|(fleet, _)| fleet.clone()).collect();
        Table { ports, datagrams: self.datagrams.clone(), clients: self.clients.clone(), fleets }
    }
}

fn fleets(rule: &Rule) -> impl Iterator<Item = &Arc<Fleet>> {
    rule.backends.iter().filter_map(|backend| match &backend.target {
        Target::Fleet(fleet) => Some(fleet),
        _ => None,
    })
}

fn id_of(fleet: &Arc<Fleet>) -> usize {
    Arc::as_ptr(fleet).addr()
}

impl HttpBuilder {
    fn build(&mut self) -> Arc<PathsByHost> {
        if !self.changed.is_empty() {
            let built = Arc::make_mut(&mut self.built);
            for host in std::mem::take(&mut self.changed) {
                match self.entries.get(&host) {
                    Some(entries) => drop(built.insert(host, Arc::new(Paths::new(entries.clone())))),
                    None => drop(built.remove(&host)),
                }
            }
        }
        self.built.clone()
    }
}

impl PortBuilder {
    fn build(&mut self) -> Port {
        let mut projects: BTreeMap<ProjectName, BTreeMap<HostPattern, Arc<PathsByHost>>> = BTreeMap::new();
        for ((project, hostname), http) in &mut self.http {
            projects.entry(project.clone()).or_default().insert(hostname.clone(), http.build());
        }
        let clients = of_hosts(&projects, &self.clients);
        let projects = projects.into_iter().map(|(project, listeners)| (project, listeners.into())).collect();
        let owners = self.owners.clone();
        match self.speaks {
            Speaks::Tcp | Speaks::Udp => Port::Stream(self.stream.clone()),
            Speaks::Http => Port::Http(Http { owners, projects, clients }),
            Speaks::Tls => {
                let passes_streams = self.tls.iter().any(|tls| tls.rules.is_some());
                let (mut of_project, mut all) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::new());
                for tls in &self.tls {
                    let (project, hostname) = (tls.project.clone(), tls.hostname.clone());
                    let settings = self.clients.get(&(project.clone(), hostname.clone())).cloned();
                    let listener = Arc::new(tls.build(settings));
                    all.entry(hostname.clone()).or_insert_with(|| listener.clone());
                    of_project.entry(project).or_default().entry(hostname).or_insert(listener);
                }
                let of_project = of_project.into_iter().map(|(project, listeners)| (project, listeners.into()));
                let https = Http { owners: Arc::default(), projects, clients: BTreeMap::new() };
                let (projects, has_clients) = (of_project.collect(), !self.clients.is_empty());
                Port::Tls(Box::new(Tls { owners, projects, all: all.into(), https, passes_streams, has_clients }))
            }
        }
    }
}

/// The settings of each listener of the projects that have any: a listener without must not get those of a broader one.
fn of_hosts<T>(
    projects: &BTreeMap<ProjectName, BTreeMap<HostPattern, T>>,
    clients: &Listeners<Arc<ClientSettings>>,
) -> BTreeMap<ProjectName, HostMap<Option<Arc<ClientSettings>>>> {
    let with: BTreeSet<&ProjectName> = clients.keys().map(|(project, _)| project).collect();
    let of_project = |project: &ProjectName| {
        let listeners = projects.get(project).into_iter().flat_map(BTreeMap::keys);
        let settings = |host: &HostPattern| clients.get(&(project.clone(), host.clone())).cloned();
        listeners.map(|host| (host.clone(), settings(host))).collect::<BTreeMap<_, _>>().into()
    };
    with.into_iter().map(|project| (project.clone(), of_project(project))).collect()
}

impl TlsBuilder {
    fn build(&self, clients: Option<Arc<ClientSettings>>) -> TlsListener {
        let serves = match &self.rules {
            None => TlsServes::Http(self.tls.clone().unwrap_or_default()),
            Some(rules) => TlsServes::Stream { tls: self.tls.clone(), rules: rules.clone().into() },
        };
        TlsListener { project: self.project.clone(), hostname: self.hostname.clone(), serves, clients }
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
        let rule = Arc::new(Rule::new(project(owner), name.into(), vec![]));
        builder.http(ListenAddress::shared(80), &rule.project, &pattern(listener));
        builder.owner(ListenAddress::shared(80), &pattern(host), &rule.project);
        builder.attach(Attachment {
            at: ListenAddress::shared(80),
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
        let head =
            Head { at: ListenAddress::shared(80), host, method: &Method::GET, path, query: None, headers: &headers };
        table.select(&head, None).map(|selection| &*selection.rule.route)
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
        assert_eq!(table.listens().collect::<Vec<_>>(), [(ListenAddress::shared(80), Speaks::Http)]);
    }
    #[test]
    fn rules_and_owners_come_and_go_between_tables_and_the_rest_is_shared() {
        let at = ListenAddress::shared(80);
        let mut builder = TableBuilder::default();
        attach(&mut builder, "stays", "p", "", "a.com", "/");
        let first = builder.build();
        let rule = Arc::new(Rule::new(project("p"), "comes".into(), vec![]));
        let matcher = Matcher::new(PathMatcher::prefix("/").unwrap());
        for host in ["b.com", "c.com"] {
            builder.owner(at, &pattern(host), &rule.project);
            builder.attach(Attachment {
                at,
                listener: &pattern(""),
                host: &pattern(host),
                matcher: matcher.clone(),
                created: 0,
                position: (0, 0),
                rule: &rule,
            });
        }
        let second = builder.build();
        builder.detach(at, &pattern(""), &pattern("b.com"), &rule);
        builder.disown(at, &pattern("b.com"));
        let third = builder.build();
        let seen = |table| ["a.com", "b.com", "c.com"].map(|host| select(table, host, "/").map(str::to_owned).ok());
        let (stays, comes) = (Some("stays".to_owned()), Some("comes".to_owned()));
        assert_eq!(seen(&first), [stays.clone(), None, None]);
        assert_eq!(seen(&second), [stays.clone(), comes.clone(), comes.clone()]);
        assert_eq!(seen(&third), [stays, None, comes]);
        let paths = |table: &Table| {
            let Some(Port::Http(http)) = table.port(at) else { panic!("no HTTP") };
            let listener = http.projects[&project("p")].get(&HostPattern::Any).unwrap();
            listener.get(&pattern("a.com")).unwrap().clone()
        };
        assert!(Arc::ptr_eq(&paths(&first), &paths(&third)), "nothing of a.com was made again");
    }
}
