//! Routes of all kinds: their rules compiled, their parents as they were found, and what their status says.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        filter::Filter,
        gateway::CONTROLLER_NAME,
        grpc_route::{GrpcRoute, GrpcRouteMatch, GrpcRouteRule},
        http_route::{
            HttpBackendRef, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpValueMatch, ParentReference, PathMatchType,
            RouteParentStatus, RouteStatus, ValueMatchType,
        },
        kind::Kind,
        metadata::{Metadata, Resource},
        stream_route::StreamRoute,
    },
};

use super::{
    Place, ProjectSnapshot, Settings, Snapshot, Status, WantedStatus,
    backends::{self, Unresolved},
    conditions, created,
    filters::{self, FilterError},
    sessions,
    snapshot::Version,
    stop,
};
use crate::route::{
    host::HostPattern,
    matcher::{MatchError, Matcher, PathMatcher, ValueMatcher},
    table::ListenAddress,
    target::{Answers, Rule},
};

/// A route made ready to be attached, and where it is.
#[derive(Debug)]
pub(super) struct Compiled {
    pub project: ProjectName,
    pub kind: Kind,
    namespace: Box<str>,
    name: Box<str>,
    /// What it was made of.
    version: RouteVersion,
    pub created: i64,
    pub parent_refs: Vec<ParentReference>,
    pub body: Body,
    /// One per declared parent that is ours.
    pub parents: Vec<Parent>,
    /// The HTTP rules that the table has of it.
    pub in_table: Vec<InTable>,
    /// What must be said of it, once somebody has asked.
    status: OnceLock<Arc<WantedStatus>>,
    /// The last time that it was seen in a snapshot: see [`Routes::taken`].
    seen: u64,
}

/// The route as it was written, and everything that its rules may refer to.
#[derive(Debug, PartialEq)]
struct RouteVersion {
    uid: Option<String>,
    generation: Option<i64>,
    targets: Version,
}

/// Rules as they stand in the table, for one hostname of one listener.
#[derive(Debug)]
pub(super) struct InTable {
    pub at: ListenAddress,
    pub listener: HostPattern,
    pub host: HostPattern,
    pub rules: Vec<Arc<Rule>>,
}

/// What does not depend on where a route is attached.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// What the route says it serves; never empty, unless every hostname was unreadable.
    pub hostnames: Vec<HostPattern>,
    pub rules: Vec<CompiledRule>,
    problems: Vec<String>,
    unresolved: Vec<Unresolved>,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    /// Position in the route as it was written.
    pub position: usize,
    pub name: Option<Box<str>>,
    pub matchers: Vec<Matcher>,
    pub rule: Arc<Rule>,
}

/// A parent reference of a route and what became of it.
#[derive(Debug)]
pub(super) struct Parent {
    /// Index among the route's references.
    pub reference: usize,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    Attached(Vec<Attached>),
    Refused { reason: &'static str, message: String },
}

/// One listener that a route attached to, and one hostname that it serves there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attached {
    /// Index among the placed Gateways.
    pub gateway: usize,
    /// Index among the Gateway's listeners.
    pub listener: usize,
    pub at: ListenAddress,
    pub host: HostPattern,
    /// False when another project owns the hostname.
    pub owned: bool,
}

/// The routes of the last translation, which the next one goes on from.
#[derive(Debug, Default)]
pub(super) struct Routes {
    all: BTreeMap<(ProjectName, Kind), ByPlace>,
    /// Counts the snapshots.
    taken: u64,
}

/// By namespace and name.
type ByPlace = HashMap<Box<str>, HashMap<Box<str>, Compiled>>;

/// How a snapshot differs from the one before: of a route that is another now, both versions.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub gone: Vec<Compiled>,
    /// Compiled, and not in [`Routes`] yet; their parents are still to be found.
    pub new: Vec<Compiled>,
}

impl Routes {
    /// Takes out the routes that are not in `snapshot` as they are here, and compiles those that are new there.
    pub(super) fn take_in(&mut self, snapshot: &Snapshot, settings: &Settings) -> Changes {
        self.taken += 1;
        let mut changes = Changes::default();
        for (project, objects) in &snapshot.projects {
            let mut taker = Taker { routes: self, project, objects, settings, index: None, new: &mut changes.new };
            taker.take(Kind::HttpRoute, &objects.routes, |spec| &spec.parent_refs, http_body);
            taker.take(Kind::GrpcRoute, &objects.grpc_routes, |spec| &spec.parent_refs, grpc_body);
            let streams = [
                (Kind::TlsRoute, &objects.tls_routes),
                (Kind::TcpRoute, &objects.tcp_routes),
                (Kind::UdpRoute, &objects.udp_routes),
            ];
            for (kind, of_kind) in streams {
                taker.take(kind, of_kind, |spec| &spec.parent_refs, |index, route| stream_body(index, kind, route));
            }
        }
        let taken = self.taken;
        for of_namespace in self.all.values_mut().flat_map(HashMap::values_mut) {
            let gone = of_namespace.extract_if(|_, route| route.seen != taken);
            changes.gone.extend(gone.map(|(_, route)| route));
        }
        changes
    }

    pub(super) fn insert(&mut self, mut route: Compiled) {
        route.seen = self.taken;
        let of_kind = self.all.entry((route.project.clone(), route.kind)).or_default();
        of_kind.entry(route.namespace.clone()).or_default().insert(route.name.clone(), route);
    }

    /// Takes all routes out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Compiled> {
        std::mem::take(&mut self.all).into_values().flat_map(HashMap::into_values).flat_map(HashMap::into_values)
    }

    /// In any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Compiled> {
        self.all.values().flat_map(HashMap::values).flat_map(HashMap::values)
    }
}

/// Takes in the routes of one project.
struct Taker<'a, 'r> {
    routes: &'r mut Routes,
    project: &'a ProjectName,
    objects: &'a ProjectSnapshot,
    settings: &'a Settings,
    /// Made for the first route that is compiled.
    index: Option<backends::Index<'a>>,
    new: &'r mut Vec<Compiled>,
}

impl<'a> Taker<'a, '_> {
    fn take<Spec, Status>(
        &mut self,
        kind: Kind,
        written: &'a [Resource<Spec, Status>],
        parent_refs: impl Fn(&Spec) -> &[ParentReference],
        make: impl Fn(&backends::Index<'a>, &'a Resource<Spec, Status>) -> Body,
    ) {
        if written.is_empty() {
            return;
        }
        let known = self.routes.all.entry((self.project.clone(), kind)).or_default();
        for route in written {
            let (metadata, Place { namespace, name }) = (&route.metadata, Place::of(&route.metadata));
            let known = known.get_mut(namespace).and_then(|of_namespace| of_namespace.get_mut(name));
            if let Some(known) = known.filter(|known| known.version.is(metadata, &self.objects.targets)) {
                known.seen = self.routes.taken;
                continue;
            }
            let index =
                self.index.get_or_insert_with(|| backends::Index::new(self.project, self.objects, self.settings));
            self.new.push(Compiled {
                project: self.project.clone(),
                kind,
                namespace: namespace.into(),
                name: name.into(),
                version: RouteVersion::of(metadata, &self.objects.targets),
                created: created(metadata),
                parent_refs: parent_refs(&route.spec).to_vec(),
                body: make(index, route),
                parents: Vec::new(),
                in_table: Vec::new(),
                status: OnceLock::new(),
                seen: 0,
            });
        }
    }
}

impl RouteVersion {
    fn of(metadata: &Metadata, targets: &Version) -> Self {
        Self { uid: metadata.uid.clone(), generation: metadata.generation, targets: targets.clone() }
    }

    fn is(&self, metadata: &Metadata, targets: &Version) -> bool {
        self.generation == metadata.generation && self.uid == metadata.uid && self.targets == *targets
    }
}

/// A rule ready to be chosen: by what, and the references of it that lead nowhere.
type Ready = (Vec<Matcher>, Rule, Vec<Unresolved>);

fn http_body(index: &backends::Index<'_>, route: &HttpRoute) -> Body {
    let mut body = Body::default();
    body.read_hostnames(&route.spec.hostnames);
    let Place { namespace, name } = Place::of(&route.metadata);
    let origin = Origin { index, kind: Kind::HttpRoute, namespace, route: name, answers: Answers::Http };
    let default = [HttpRouteRule::default()];
    let written = if route.spec.rules.is_empty() { &default[..] } else { &route.spec.rules };
    let rules = written.iter().enumerate().map(|(at, rule)| (&rule.name, http_rule(&origin, at, rule)));
    body.read_rules(&origin, &route.metadata, rules);
    body
}

fn grpc_body(index: &backends::Index<'_>, route: &GrpcRoute) -> Body {
    let mut body = Body::default();
    body.read_hostnames(&route.spec.hostnames);
    let Place { namespace, name } = Place::of(&route.metadata);
    let origin = Origin { index, kind: Kind::GrpcRoute, namespace, route: name, answers: Answers::Grpc };
    let default = [GrpcRouteRule::default()];
    let written = if route.spec.rules.is_empty() { &default[..] } else { &route.spec.rules };
    let rules = written.iter().enumerate().map(|(at, rule)| (&rule.name, grpc_rule(&origin, at, rule)));
    body.read_rules(&origin, &route.metadata, rules);
    body
}

/// Of the rules, of which the API allows one, the first takes all connections of a listener, or of a name.
fn stream_body(index: &backends::Index<'_>, kind: Kind, route: &StreamRoute) -> Body {
    let mut body = Body::default();
    body.read_hostnames(if kind == Kind::TlsRoute { &route.spec.hostnames } else { &[] });
    let Place { namespace, name } = Place::of(&route.metadata);
    let origin = Origin { index, kind, namespace, route: name, answers: Answers::Http };
    let rules = route.spec.rules.iter().take(1).map(|written| {
        let mut rule = Rule::new(index.project.clone(), "".into(), Vec::new());
        let unresolved = read_backends(&origin, &mut rule, &[], &written.backend_refs, &[]);
        (&written.name, unresolved.map(|unresolved| (Vec::new(), rule, unresolved)))
    });
    body.read_rules(&origin, &route.metadata, rules);
    if route.spec.rules.is_empty() {
        body.problems.push("spec.rules is empty".to_owned());
    }
    body
}

impl Body {
    fn read_hostnames(&mut self, written: &[String]) {
        for (index, hostname) in written.iter().enumerate() {
            match HostPattern::parse(hostname) {
                Ok(pattern) => self.hostnames.push(pattern),
                Err(error) => self.problems.push(format!("Dropped Hostname spec.hostnames[{index}]: {error}")),
            }
        }
        if written.is_empty() {
            self.hostnames.push(HostPattern::Any);
        }
    }

    /// A route that says what is not served has no rules: what it says in vain could be what protects its backends.
    fn read_rules<'a>(
        &mut self,
        origin: &Origin<'_>,
        metadata: &Metadata,
        rules: impl Iterator<Item = (&'a Option<String>, Result<Ready, RuleError>)>,
    ) {
        let name: Arc<str> = Place::of(metadata).to_string().into();
        for (position, (written, rule)) in rules.enumerate() {
            match rule {
                Ok((matchers, mut rule, troubles)) => {
                    rule.route = name.clone();
                    self.unresolved.extend(troubles);
                    let written = written.as_deref().map(Box::from);
                    self.rules.push(CompiledRule { position, name: written, matchers, rule: Arc::new(rule) });
                }
                Err(error) => self.problems.push(format!("Dropped Rule spec.rules[{position}]: {error}")),
            }
        }
        if let Some((_, message)) = stop(origin.index.objects.unserved(origin.kind, metadata)) {
            self.rules.clear();
            self.problems.insert(0, message);
        }
    }
}

/// Where a reference is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub index: &'a backends::Index<'a>,
    /// Of the route: kind, namespace and name.
    pub kind: Kind,
    pub namespace: &'a str,
    pub route: &'a str,
    pub answers: Answers,
}

/// Why a rule is dropped.
#[derive(Debug, thiserror::Error)]
enum RuleError {
    #[error(transparent)]
    Match(#[from] MatchError),
    #[error(transparent)]
    Filter(#[from] FilterError),
}

fn http_rule(origin: &Origin<'_>, position: usize, written: &HttpRouteRule) -> Result<Ready, RuleError> {
    let matchers = compile_matches(&written.matches)?;
    let mut rule = Rule::new(origin.index.project.clone(), "".into(), Vec::new());
    let unresolved = read_backends(origin, &mut rule, &written.filters, &written.backend_refs, &written.matches)?;
    rule.timeouts = filters::timeouts(written.timeouts.as_ref())?;
    rule.retry = filters::retry(written.retry.as_ref())?;
    rule.session = sessions::read(origin, position, written.session_persistence.as_ref())?;
    Ok((matchers, rule, unresolved))
}

fn grpc_rule(origin: &Origin<'_>, position: usize, written: &GrpcRouteRule) -> Result<Ready, RuleError> {
    let matchers = match &written.matches[..] {
        [] => vec![Matcher::new(PathMatcher::prefix("/")?)],
        matches => matches.iter().map(grpc_match).collect::<Result<_, _>>()?,
    };
    let mut rule = Rule::new(origin.index.project.clone(), "".into(), Vec::new());
    rule.answers = Answers::Grpc;
    rule.session = sessions::read(origin, position, written.session_persistence.as_ref())?;
    let unresolved = read_backends(origin, &mut rule, &written.filters, &written.backend_refs, &[])?;
    Ok((matchers, rule, unresolved))
}

/// Gives `rule` its filters and backends.
fn read_backends(
    origin: &Origin<'_>,
    rule: &mut Rule,
    of_rule: &[Filter],
    references: &[HttpBackendRef],
    matches: &[HttpRouteMatch],
) -> Result<Vec<Unresolved>, RuleError> {
    let (compiled, mut unresolved) = filters::compile(origin, of_rule, matches)?;
    rule.filters = compiled;
    for reference in references {
        let (mut backend, trouble) = backends::resolve(origin, &reference.to, reference.weight);
        let (of_backend, troubles) = filters::compile(origin, &reference.filters, matches)?;
        backend.filters = of_backend;
        unresolved.extend(trouble.into_iter().chain(troubles));
        rule.backends.push(backend);
    }
    Ok(unresolved)
}

/// A method of gRPC is a path of two segments (gRPC over HTTP/2, "Requests").
fn grpc_match(written: &GrpcRouteMatch) -> Result<Matcher, MatchError> {
    let method = written.method.clone().unwrap_or_default();
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let path = match (method.kind, named(&method.service), named(&method.method)) {
        (_, None, None) => PathMatcher::prefix("/")?,
        (ValueMatchType::Exact, Some(service), Some(method)) => PathMatcher::exact(&format!("/{service}/{method}"))?,
        (ValueMatchType::Exact, Some(service), None) => PathMatcher::prefix(&format!("/{service}"))?,
        (ValueMatchType::Exact, None, Some(method)) => PathMatcher::method(&method),
        (ValueMatchType::RegularExpression, service, method) => {
            let any = || "[^/]+".to_owned();
            let (service, method) = (service.unwrap_or_else(any), method.unwrap_or_else(any));
            PathMatcher::regular_expression(&format!("/(?:{service})/(?:{method})"))?
        }
    };
    let mut matcher = Matcher::new(path);
    for header in &written.headers {
        matcher = matcher.header(&header.name, compile_value(header)?)?;
    }
    Ok(matcher)
}

fn compile_matches(matches: &[HttpRouteMatch]) -> Result<Vec<Matcher>, MatchError> {
    if matches.is_empty() {
        return Ok(vec![Matcher::new(PathMatcher::prefix("/")?)]);
    }
    matches.iter().map(compile_match).collect()
}

fn compile_match(written: &HttpRouteMatch) -> Result<Matcher, MatchError> {
    let path = written.path.clone().unwrap_or_default();
    let mut matcher = Matcher::new(match path.kind {
        PathMatchType::Exact => PathMatcher::exact(&path.value)?,
        PathMatchType::PathPrefix => PathMatcher::prefix(&path.value)?,
        PathMatchType::RegularExpression => PathMatcher::regular_expression(&path.value)?,
    });
    if let Some(method) = &written.method {
        matcher = matcher.method(method)?;
    }
    for header in &written.headers {
        matcher = matcher.header(&header.name, compile_value(header)?)?;
    }
    for param in &written.query_params {
        matcher = matcher.query_param(&param.name, compile_value(param)?);
    }
    Ok(matcher)
}

fn compile_value(written: &HttpValueMatch) -> Result<ValueMatcher, MatchError> {
    match written.kind {
        ValueMatchType::Exact => Ok(ValueMatcher::exact(&written.value)),
        ValueMatchType::RegularExpression => ValueMatcher::regular_expression(&written.value),
    }
}

impl Compiled {
    pub(super) fn place(&self) -> Place<'_> {
        Place { namespace: &self.namespace, name: &self.name }
    }

    /// Of two routes, the older counts; of two of one age, the first by this.
    pub(super) fn age(&self) -> (i64, &ProjectName, Place<'_>, Kind) {
        (self.created, &self.project, self.place(), self.kind)
    }

    /// Sets what was found of the parents, from which all else follows that is said of the route.
    pub(super) fn set_parents(&mut self, parents: Vec<Parent>) {
        self.parents = parents;
        self.status = OnceLock::new();
    }

    /// Whether nothing of the route can be served.
    pub(super) fn is_empty(&self) -> bool {
        self.body.rules.is_empty() || self.body.hostnames.is_empty()
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = &Attached> {
        self.parents.iter().flat_map(|parent| match &parent.outcome {
            Outcome::Attached(attached) => &attached[..],
            Outcome::Refused { .. } => &[],
        })
    }

    pub(super) fn attachments_mut(&mut self) -> impl Iterator<Item = &mut Attached> {
        self.parents.iter_mut().flat_map(|parent| match &mut parent.outcome {
            Outcome::Attached(attached) => &mut attached[..],
            Outcome::Refused { .. } => &mut [],
        })
    }

    /// The listeners, by Gateway, that the route counts as attached to, even when they do not serve; some more than once.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (usize, usize)> {
        let attached = self.parents.iter().filter_map(|parent| match &parent.outcome {
            Outcome::Attached(attached) if attached.iter().any(|at| at.owned) => Some(attached),
            Outcome::Attached(_) | Outcome::Refused { .. } => None,
        });
        attached.flatten().map(|at| (at.gateway, at.listener))
    }

    /// Every problem of the parts that were dropped, if any.
    pub(super) fn problems(&self) -> String {
        self.body.problems.join("; ")
    }

    pub(super) fn wanted(&self) -> Arc<WantedStatus> {
        let make = || {
            let parents = self.parents.iter().map(|parent| self.parent_status(parent)).collect();
            Arc::new(WantedStatus {
                project: self.project.clone(),
                namespace: Some((*self.namespace).to_owned()),
                name: (*self.name).to_owned(),
                status: Status::Route(self.kind, RouteStatus { parents }),
            })
        };
        self.status.get_or_init(make).clone()
    }

    fn parent_status(&self, parent: &Parent) -> RouteParentStatus {
        let (at, reference) = (self.version.generation.unwrap_or_default(), &self.parent_refs[parent.reference]);
        let accepted = match &parent.outcome {
            Outcome::Refused { reason, message } => conditions::no(at, "Accepted", reason, message),
            Outcome::Attached(attached) => match foreign_hosts(attached) {
                Some((all, hosts)) if all => {
                    conditions::no(at, "Accepted", "HostnameConflict", format!("another project serves {hosts}"))
                }
                Some((_, hosts)) => {
                    let message = format!("the route is served, but for {hosts}, which another project serves");
                    conditions::yes(at, "Accepted", "Accepted", message)
                }
                None => conditions::yes(at, "Accepted", "Accepted", "the route is served"),
            },
        };
        let resolved = match self.body.unresolved.first() {
            None => conditions::yes(at, "ResolvedRefs", "ResolvedRefs", "every backend was found"),
            Some(first) => {
                let messages: BTreeSet<&str> = self.body.unresolved.iter().map(|one| one.message.as_str()).collect();
                let messages: Vec<&str> = messages.into_iter().collect();
                conditions::no(at, "ResolvedRefs", first.reason, messages.join("; "))
            }
        };
        let mut conditions = vec![accepted, resolved];
        if !self.body.problems.is_empty() && !self.is_empty() {
            conditions.push(conditions::yes(at, "PartiallyInvalid", "UnsupportedValue", self.problems()));
        }
        RouteParentStatus {
            parent_ref: ParentReference {
                group: Some(reference.group.clone().unwrap_or_else(|| "gateway.networking.k8s.io".to_owned())),
                kind: Some(reference.kind.clone().unwrap_or_else(|| "Gateway".to_owned())),
                ..reference.clone()
            },
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions,
        }
    }
}

/// The hostnames that another project owns, and whether these are all.
fn foreign_hosts(attached: &[Attached]) -> Option<(bool, String)> {
    let foreign: BTreeSet<&HostPattern> = attached.iter().filter(|at| !at.owned).map(|at| &at.host).collect();
    let names: Vec<String> = foreign.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| (attached.iter().all(|at| !at.owned), names.join(", ")))
}
