//! HTTPRoutes: their rules compiled, their parents as they were found, and what their status says.

use std::{collections::BTreeSet, sync::Arc};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        gateway::CONTROLLER_NAME,
        http_route::{
            HttpRoute, HttpRouteMatch, HttpRouteRule, HttpValueMatch, ParentReference, PathMatchType,
            RouteParentStatus, RouteStatus, ValueMatchType,
        },
        kind::Kind,
    },
};

use super::{
    Place, Settings, Snapshot, Status, WantedStatus,
    backends::{self, Unresolved},
    conditions, created,
    filters::{self, FilterError},
    generation, stop,
};
use crate::route::{
    host::HostPattern,
    matcher::{MatchError, Matcher, PathMatcher, ValueMatcher},
    target::{Answers, Rule},
};

/// A route made ready to be attached.
#[derive(Debug)]
pub(super) struct Compiled<'a> {
    pub project: &'a ProjectName,
    pub place: Place<'a>,
    pub created: i64,
    pub route: &'a HttpRoute,
    /// What the route says it serves; never empty, unless every hostname was unreadable.
    pub hostnames: Vec<HostPattern>,
    pub rules: Vec<CompiledRule>,
    /// One per declared parent that is ours.
    pub parents: Vec<Parent<'a>>,
    problems: Vec<String>,
    unresolved: Vec<Unresolved>,
}

#[derive(Debug)]
pub(super) struct CompiledRule {
    /// Position in the route as it was written.
    pub position: usize,
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
    pub port: u16,
    pub host: HostPattern,
    /// False when another project owns the hostname.
    pub owned: bool,
}

/// All routes, compiled; their parents are still to be found.
pub(super) fn compile<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Vec<Compiled<'a>> {
    let mut routes = Vec::new();
    for (project, objects) in &snapshot.projects {
        let index = backends::Index::new(project, objects, settings);
        routes.extend(objects.routes.iter().map(|route| {
            let stop = stop(objects.unserved(Kind::HttpRoute, &route.metadata));
            compile_route(project, &index, route, stop.map(|(_, message)| message))
        }));
    }
    routes.sort_by(|a, b| (a.created, a.project, &a.place).cmp(&(b.created, b.project, &b.place)));
    routes
}

/// A route with a `stop` has no rules: what it says in vain could be what protects its backends.
fn compile_route<'a>(
    project: &'a ProjectName,
    index: &backends::Index<'_>,
    route: &'a HttpRoute,
    stop: Option<String>,
) -> Compiled<'a> {
    let place = Place::of(&route.metadata);
    let mut problems = Vec::new();
    let mut hostnames = Vec::new();
    for (index, hostname) in route.spec.hostnames.iter().enumerate() {
        match HostPattern::parse(hostname) {
            Ok(pattern) => hostnames.push(pattern),
            Err(error) => problems.push(format!("Dropped Hostname spec.hostnames[{index}]: {error}")),
        }
    }
    if route.spec.hostnames.is_empty() {
        hostnames.push(HostPattern::Any);
    }
    let name: Arc<str> = place.to_string().into();
    let mut rules = Vec::new();
    let mut unresolved = Vec::new();
    let default = [HttpRouteRule::default()];
    let written = if route.spec.rules.is_empty() { &default[..] } else { &route.spec.rules };
    let origin = Origin { index, kind: "HTTPRoute", namespace: place.namespace, answers: Answers::Http };
    for (position, rule) in written.iter().enumerate() {
        match compile_rule(&origin, rule, Rule::new(project.clone(), name.clone(), Vec::new())) {
            Ok((matchers, rule, troubles)) => {
                unresolved.extend(troubles);
                rules.push(CompiledRule { position, matchers, rule: Arc::new(rule) });
            }
            Err(error) => problems.push(format!("Dropped Rule spec.rules[{position}]: {error}")),
        }
    }
    if let Some(stop) = stop {
        rules.clear();
        problems.insert(0, stop);
    }
    let created = created(&route.metadata);
    Compiled { project, place, created, route, hostnames, rules, parents: Vec::new(), problems, unresolved }
}

/// Where a reference is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub index: &'a backends::Index<'a>,
    /// Of the route: kind and namespace.
    pub kind: &'static str,
    pub namespace: &'a str,
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

/// Completes `rule`, with what it takes to be chosen and the references that lead nowhere.
fn compile_rule(
    origin: &Origin<'_>,
    written: &HttpRouteRule,
    mut rule: Rule,
) -> Result<(Vec<Matcher>, Rule, Vec<Unresolved>), RuleError> {
    let matchers = compile_matches(&written.matches)?;
    let (of_rule, mut unresolved) = filters::compile(origin, &written.filters, &written.matches)?;
    rule.filters = of_rule;
    rule.timeouts = filters::timeouts(written.timeouts.as_ref())?;
    rule.retry = filters::retry(written.retry.as_ref())?;
    for reference in &written.backend_refs {
        let (mut backend, trouble) = backends::resolve(origin, &reference.to, reference.weight);
        let (of_backend, troubles) = filters::compile(origin, &reference.filters, &written.matches)?;
        backend.filters = of_backend;
        unresolved.extend(trouble.into_iter().chain(troubles));
        rule.backends.push(backend);
    }
    Ok((matchers, rule, unresolved))
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
        self.rules.is_empty() || self.hostnames.is_empty()
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

    /// Whether the route counts as attached to the listener, which it does even when the listener does not serve.
    pub(super) fn is_attached(&self, gateway: usize, listener: usize) -> bool {
        self.parents.iter().any(|parent| {
            matches!(&parent.outcome, Outcome::Attached(attached)
                if attached.iter().any(|at| at.owned)
                    && attached.iter().any(|at| at.gateway == gateway && at.listener == listener))
        })
    }

    /// Every problem of the parts that were dropped, if any.
    pub(super) fn problems(&self) -> String {
        self.problems.join("; ")
    }

    pub(super) fn wanted(&self) -> WantedStatus {
        let parents = self.parents.iter().map(|parent| self.parent_status(parent)).collect();
        WantedStatus {
            project: self.project.clone(),
            namespace: Some(self.place.namespace.to_owned()),
            name: self.place.name.to_owned(),
            status: Status::HttpRoute(RouteStatus { parents }),
        }
    }

    fn parent_status(&self, parent: &Parent<'_>) -> RouteParentStatus {
        let at = generation(&self.route.metadata);
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
        let resolved = match self.unresolved.first() {
            None => conditions::yes(at, "ResolvedRefs", "ResolvedRefs", "every backend was found"),
            Some(first) => {
                let messages: BTreeSet<&str> = self.unresolved.iter().map(|one| one.message.as_str()).collect();
                let messages: Vec<&str> = messages.into_iter().collect();
                conditions::no(at, "ResolvedRefs", first.reason, messages.join("; "))
            }
        };
        let mut conditions = vec![accepted, resolved];
        if !self.problems.is_empty() && !self.is_empty() {
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
