//! Routes of all kinds: their rules compiled, their parents as they were found, and what their status says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
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
        metadata::Metadata,
        stream_route::StreamRoute,
    },
};

use super::{
    Place, Settings, Snapshot, Status, WantedStatus,
    backends::{self, Unresolved},
    conditions, created,
    filters::{self, FilterError},
    generation, sessions, stop,
};
use crate::route::{
    host::HostPattern,
    matcher::{MatchError, Matcher, PathMatcher, ValueMatcher},
    table::ListenAddress,
    target::{Answers, Rule},
};

/// A route made ready to be attached.
#[derive(Debug)]
pub(super) struct Compiled<'a> {
    pub project: &'a ProjectName,
    pub place: Place<'a>,
    pub created: i64,
    pub kind: Kind,
    pub metadata: &'a Metadata,
    pub parent_refs: &'a [ParentReference],
    pub body: Arc<Body>,
    /// One per declared parent that is ours.
    pub parents: Vec<Parent<'a>>,
}

/// What does not depend on where a route is attached: it is kept while the route and its targets stay as they are.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// What the route says it serves; never empty, unless every hostname was unreadable.
    pub hostnames: Vec<HostPattern>,
    pub rules: Vec<CompiledRule>,
    problems: Vec<String>,
    unresolved: Vec<Unresolved>,
}

/// The bodies of the last translation, by project, kind and place.
#[derive(Debug, Default)]
pub(super) struct Bodies(BTreeMap<ProjectName, BodiesByPlace>);

type BodiesByPlace = BTreeMap<(Kind, Box<str>, Box<str>), Kept>;

/// A body, and what it was made of: the route's uid and generation, and the version of its possible targets.
#[derive(Debug)]
struct Kept {
    uid: Option<String>,
    generation: Option<i64>,
    targets: u64,
    /// As in [`Compiled::created`], so that the text is read once.
    created: i64,
    body: Arc<Body>,
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
pub(super) struct Parent<'a> {
    pub reference: &'a ParentReference,
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

/// All routes, compiled; their parents are still to be found. Takes from `bodies` what is still right, and leaves there
/// what the next translation may take.
pub(super) fn compile<'a>(snapshot: &'a Snapshot, settings: &'a Settings, bodies: &mut Bodies) -> Vec<Compiled<'a>> {
    let mut routes = Vec::new();
    let mut before = std::mem::take(&mut bodies.0);
    for (project, objects) in &snapshot.projects {
        let before = before.remove(project).unwrap_or_default();
        let mut compiler = Compiler {
            index: backends::Index::new(project, objects, settings),
            before,
            kept: BTreeMap::new(),
            routes: &mut routes,
        };
        for route in &objects.routes {
            let (kind, parents) = (Kind::HttpRoute, &route.spec.parent_refs);
            compiler.add(kind, &route.metadata, parents, |index| http_body(index, route));
        }
        for route in &objects.grpc_routes {
            let (kind, parents) = (Kind::GrpcRoute, &route.spec.parent_refs);
            compiler.add(kind, &route.metadata, parents, |index| grpc_body(index, route));
        }
        let streams = [
            (Kind::TlsRoute, &objects.tls_routes),
            (Kind::TcpRoute, &objects.tcp_routes),
            (Kind::UdpRoute, &objects.udp_routes),
        ];
        for (kind, of_kind) in streams {
            for route in of_kind {
                let body = |index: &_| stream_body(index, kind, route);
                compiler.add(kind, &route.metadata, &route.spec.parent_refs, body);
            }
        }
        let kept = compiler.kept;
        bodies.0.insert(project.clone(), kept);
    }
    routes.sort_by(|a, b| (a.created, a.project, &a.place, a.kind).cmp(&(b.created, b.project, &b.place, b.kind)));
    routes
}

struct Compiler<'a, 'r> {
    index: backends::Index<'a>,
    before: BodiesByPlace,
    kept: BodiesByPlace,
    routes: &'r mut Vec<Compiled<'a>>,
}

impl<'a> Compiler<'a, '_> {
    fn add(
        &mut self,
        kind: Kind,
        metadata: &'a Metadata,
        parent_refs: &'a [ParentReference],
        make: impl FnOnce(&backends::Index<'a>) -> Body,
    ) {
        let place = Place::of(metadata);
        let key = (kind, place.namespace.into(), place.name.into());
        let targets = self.index.objects.targets_version;
        let is_right =
            |kept: &Kept| kept.targets == targets && kept.generation == metadata.generation && kept.uid == metadata.uid;
        let kept = self.before.remove(&key).filter(is_right).unwrap_or_else(|| Kept {
            uid: metadata.uid.clone(),
            generation: metadata.generation,
            targets,
            created: created(metadata),
            body: Arc::new(make(&self.index)),
        });
        let (body, created) = (kept.body.clone(), kept.created);
        self.kept.insert(key, kept);
        let (project, parents) = (self.index.project, Vec::new());
        self.routes.push(Compiled { project, place, created, kind, metadata, parent_refs, body, parents });
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

impl Compiled<'_> {
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

    pub(super) fn wanted(&self) -> WantedStatus {
        let parents = self.parents.iter().map(|parent| self.parent_status(parent)).collect();
        WantedStatus {
            project: self.project.clone(),
            namespace: Some(self.place.namespace.to_owned()),
            name: self.place.name.to_owned(),
            status: Status::Route(self.kind, RouteStatus { parents }),
        }
    }

    fn parent_status(&self, parent: &Parent<'_>) -> RouteParentStatus {
        let at = generation(self.metadata);
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
                group: Some(parent.reference.group.clone().unwrap_or_else(|| "gateway.networking.k8s.io".to_owned())),
                kind: Some(parent.reference.kind.clone().unwrap_or_else(|| "Gateway".to_owned())),
                ..parent.reference.clone()
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
