//! BackendTrafficPolicies: what each comes to, which of them counts where, and what their statuses say.
//!
//! The most specific one counts: rule, then route, then listener, then ListenerSet, then Gateway. A Backend's policy
//! stands between those of routes and those of Gateways: it fills in what the route's leaves open, and a Gateway's fills
//! in what it leaves open, setting by setting. With a `mergeType` the route's joins the Gateway's field by field. A policy
//! that cannot be honoured changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use underpass_shared::{
    identity::ProjectName,
    resource::{
        backend_tls_policy::PolicyTargetReference, backend_traffic_policy::BackendTrafficPolicy, condition::Condition,
        gateway::CONTROLLER_NAME, kind::Kind,
    },
};

use super::{
    Place, ProjectSnapshot, Snapshot, Status, WantedStatus, backend_tls,
    backends::{self, Referred},
    conditions::{self, ANCESTORS_MAX},
    created,
    gateways::Placed,
    generation,
    grants::End,
    is_gateway_group, mention, policies,
    routes::{Compiled, Routes},
    stop, traffic,
};
use crate::route::{target::Rule, traffic::Traffic};

pub(super) const GROUP: &str = "gateway.networking.k8s.io";

/// What a policy is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target<'a> {
    pub kind: Kind,
    pub place: Place<'a>,
    /// A rule of a route, or a listener.
    pub section: Option<&'a str>,
}

#[derive(Debug)]
struct Policy<'a> {
    written: &'a BackendTrafficPolicy,
    place: Place<'a>,
    created: i64,
    targets: Vec<Target<'a>>,
    /// The reason and the message of one that cannot be honoured.
    traffic: Result<Arc<Traffic>, (&'static str, String)>,
}

/// A project's policies, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Policies<'a> {
    /// Oldest first.
    all: Vec<Policy<'a>>,
    /// The policy that counts for each target: the oldest, then the first by name.
    winners: BTreeMap<Target<'a>, usize>,
}

impl<'a> Policies<'a> {
    pub(super) fn new(objects: &'a ProjectSnapshot) -> Self {
        let mut all: Vec<_> =
            objects.backend_traffic_policies.iter().map(|policy| Policy::read(objects, policy)).collect();
        let winners = policies::settle(&mut all, |one| (one.created, one.place.clone()), |one| &one.targets);
        Self { all, winners }
    }

    /// The policy that counts for this target, if it can be honoured.
    fn find(&self, kind: Kind, place: &Place<'_>, section: Option<&str>) -> Option<&Policy<'a>> {
        // Its keys may live shorter than what they are compared with.
        let winners: &BTreeMap<Target<'_>, usize> = &self.winners;
        let index = *winners.get(&Target { kind, place: place.clone(), section })?;
        Some(&self.all[index]).filter(|policy| policy.traffic.is_ok())
    }

    /// What the policies say of a Backend.
    pub(super) fn of_backend(&self, place: &Place<'_>) -> Option<&Traffic> {
        self.find(Kind::Backend, place, None)?.settings()
    }

    fn of_route(&self, kind: Kind, place: &Place<'_>, rule: Option<&str>) -> Option<&Policy<'a>> {
        let of_rule = rule.and_then(|name| self.find(kind, place, Some(name)));
        of_rule.or_else(|| self.find(kind, place, None))
    }

    fn of_listener(&self, gateway: &Placed<'_>, listener: usize) -> Option<&Policy<'a>> {
        let placed = &gateway.listeners[listener];
        let name = Some(placed.listener.name.as_str());
        let of_set = placed.set.and_then(|set| {
            let place = &gateway.sets[set].place;
            self.find(Kind::ListenerSet, place, name).or_else(|| self.find(Kind::ListenerSet, place, None))
        });
        let own = || placed.set.is_none().then(|| self.find(Kind::Gateway, &gateway.place, name)).flatten();
        of_set.or_else(own).or_else(|| self.find(Kind::Gateway, &gateway.place, None))
    }
}

impl<'a> Policy<'a> {
    fn read(objects: &'a ProjectSnapshot, policy: &'a BackendTrafficPolicy) -> Self {
        let place = Place::of(&policy.metadata);
        let targets = policy.spec.target_refs.iter().filter_map(|to| Target::read(place.namespace, to)).collect();
        let unserved = objects.unserved(Kind::BackendTrafficPolicy, &policy.metadata);
        let traffic = match stop(unserved) {
            Some(trouble) => Err(trouble),
            None => traffic::read(&policy.spec).map(Arc::new).map_err(|error| ("Invalid", error.to_string())),
        };
        Self { written: policy, created: created(&policy.metadata), place, targets, traffic }
    }

    fn settings(&self) -> Option<&Traffic> {
        self.traffic.as_deref().ok()
    }
}

/// What the policy of a route and that of what it is attached to come to where the route's says that it joins it (RFC
/// 7386). Settings that do not fit together leave the route's.
fn merge(of_route: &Policy<'_>, above: &Policy<'_>) -> Option<Traffic> {
    of_route.written.spec.merge_type.as_ref()?;
    let mut spec = given(serde_json::to_value(&above.written.spec).ok()?);
    json_patch::merge(&mut spec, &given(serde_json::to_value(&of_route.written.spec).ok()?));
    traffic::read(&serde_json::from_value(spec).ok()?).ok()
}

/// Without the fields that say nothing.
fn given(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, given(value))).collect()
        }
        other => other,
    }
}

impl<'a> Target<'a> {
    /// Other kinds are nothing that a policy is for.
    pub(super) fn read(namespace: &'a str, to: &'a PolicyTargetReference) -> Option<Self> {
        let kind = match (to.kind.as_str(), is_gateway_group(Some(&to.group))) {
            ("Gateway", true) => Kind::Gateway,
            ("ListenerSet", true) => Kind::ListenerSet,
            ("HTTPRoute", true) => Kind::HttpRoute,
            ("GRPCRoute", true) => Kind::GrpcRoute,
            ("TLSRoute", true) => Kind::TlsRoute,
            ("TCPRoute", true) => Kind::TcpRoute,
            ("UDPRoute", true) => Kind::UdpRoute,
            ("Backend", false) if to.group == "core.apoxy.dev" => Kind::Backend,
            _ => return None,
        };
        let section = to.section_name.as_deref().filter(|name| !name.is_empty());
        Some(Self { kind, place: Place { namespace, name: &to.name }, section })
    }
}

/// All policies, by project.
#[derive(Debug)]
pub(super) struct AllPolicies<'a>(BTreeMap<&'a ProjectName, Policies<'a>>);

impl<'a> AllPolicies<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let with = snapshot.projects.iter().filter(|(_, objects)| !objects.backend_traffic_policies.is_empty());
        Self(with.map(|(project, objects)| (project, Policies::new(objects))).collect())
    }

    /// Whether the project has any.
    pub(super) fn are_for(&self, project: &ProjectName) -> bool {
        self.0.contains_key(project)
    }

    /// Deals with the backends of `rules` as the policies say that are for the route, and for what it is attached to.
    pub(super) fn apply(&self, route: &Compiled, gateway: &Placed<'_>, listener: usize, rules: &mut [Arc<Rule>]) {
        let Some(policies) = self.0.get(&route.project) else { return };
        let of_listener = policies.of_listener(gateway, listener);
        for (compiled, rule) in route.body.rules.iter().zip(rules) {
            let of_route = policies.of_route(route.kind, &route.place(), compiled.name.as_deref());
            let merged = of_route.zip(of_listener).and_then(|(route, listener)| merge(route, listener));
            let (of_route, of_listener) = (of_route.map(Policy::settings), of_listener.map(Policy::settings));
            let of_route = merged.as_ref().or(of_route.flatten());
            let (traffic, join): (_, fn(&Traffic, &Traffic) -> Traffic) = match (of_route, of_listener.flatten()) {
                (Some(traffic), _) => (traffic, |there, traffic| traffic.over(there)),
                (None, Some(traffic)) => (traffic, |there, traffic| there.over(traffic)),
                (None, None) => continue,
            };
            for backend in &mut Arc::make_mut(rule).backends {
                let name = backend.name.clone();
                backend.target.deal((&route.project, &name), traffic, join);
            }
        }
    }
}

/// What the status of every policy must say: an entry for each Gateway that one of its targets is, or is used by.
pub(super) fn wanted(gateways: &[Placed<'_>], routes: &Routes, snapshot: &Snapshot) -> Vec<WantedStatus> {
    let mut wanted = Vec::new();
    for (project, policies) in AllPolicies::new(snapshot).0 {
        let objects = &snapshot.projects[project];
        let users = users(project, objects, gateways, routes);
        for policy in &policies.all {
            let mut by_gateway: BTreeMap<usize, Vec<&Target<'_>>> = BTreeMap::new();
            for target in &policy.targets {
                for &gateway in users.get(&(target.kind, target.place.clone())).into_iter().flatten() {
                    by_gateway.entry(gateway).or_default().push(target);
                }
            }
            let entries = by_gateway.iter().take(ANCESTORS_MAX).map(|(&gateway, targets)| {
                let conditions = [accepted(objects, &policies, policy, targets)];
                let Place { namespace, name } = gateways[gateway].place;
                let ancestor = json!({"group": GROUP, "kind": "Gateway", "namespace": namespace, "name": name});
                json!({"ancestorRef": ancestor, "controllerName": CONTROLLER_NAME, "conditions": conditions})
            });
            wanted.push(WantedStatus {
                project: project.clone(),
                namespace: Some(policy.place.namespace.to_owned()),
                name: policy.place.name.to_owned(),
                status: Status::Other(Kind::BackendTrafficPolicy, json!({ "ancestors": entries.collect::<Vec<_>>() })),
            });
        }
    }
    wanted
}

/// The Gateways, by index, that each possible target is, belongs to, or is used by.
fn users<'a>(
    project: &ProjectName,
    objects: &'a ProjectSnapshot,
    gateways: &'a [Placed<'_>],
    routes: &'a Routes,
) -> BTreeMap<(Kind, Place<'a>), BTreeSet<usize>> {
    let mut users: BTreeMap<(Kind, Place<'_>), BTreeSet<usize>> = BTreeMap::new();
    for (index, gateway) in gateways.iter().enumerate().filter(|(_, gateway)| gateway.project == project) {
        users.entry((Kind::Gateway, gateway.place.clone())).or_default().insert(index);
        for set in &gateway.sets {
            users.entry((Kind::ListenerSet, set.place.clone())).or_default().insert(index);
        }
    }
    for route in routes.iter().filter(|route| route.project == *project) {
        let of_route = route.listeners().map(|(gateway, _)| gateway);
        users.entry((route.kind, route.place())).or_default().extend(of_route);
    }
    for (kind, place, reference) in backend_tls::references(objects) {
        let from = End { group: GROUP, kind: kind.info().name, namespace: place.namespace };
        let of_route = users.get(&(kind, place)).cloned().unwrap_or_default();
        if let Ok((Referred::Backend, place)) = backends::referred(objects, from, reference) {
            users.entry((Kind::Backend, place)).or_default().extend(of_route);
        }
    }
    users
}

fn accepted(
    objects: &ProjectSnapshot,
    policies: &Policies<'_>,
    policy: &Policy<'_>,
    targets: &[&Target<'_>],
) -> Condition {
    let at = generation(&policy.written.metadata);
    let winner = |target: &Target<'_>| {
        let winners: &BTreeMap<Target<'_>, usize> = &policies.winners;
        winners.get(target).map(|&index| &policies.all[index]).filter(|winner| winner.place != policy.place)
    };
    let lost: Vec<String> = targets
        .iter()
        .filter_map(|target| winner(target).map(|winner| format!("{} is for {} too", winner.place, target.place)))
        .collect();
    if lost.len() == targets.len() {
        return conditions::no(at, "Accepted", "Conflicted", format!("an older policy counts: {}", lost.join("; ")));
    }
    if let Err((reason, message)) = &policy.traffic {
        return conditions::no(at, "Accepted", reason, &**message);
    }
    if !targets.iter().any(|target| has_section(objects, target)) {
        return conditions::no(at, "Accepted", "TargetNotFound", "no target has a part of that sectionName");
    }
    let message = match lost.is_empty() {
        true => "the relay deals with the backends as the policy says".to_owned(),
        false => format!("the policy counts, but for the targets of an older one: {}", lost.join("; ")),
    };
    let found = objects.unserved(Kind::BackendTrafficPolicy, &policy.written.metadata);
    conditions::yes(at, "Accepted", "Accepted", mention(&message, found))
}

/// Whether the rule or listener that is meant exists.
pub(super) fn has_section(objects: &ProjectSnapshot, target: &Target<'_>) -> bool {
    let Some(section) = target.section else { return true };
    let is_it = |metadata| Place::of(metadata) == target.place;
    let is_named = |name: Option<&str>| name == Some(section);
    match target.kind {
        Kind::Gateway => objects
            .gateways
            .iter()
            .any(|one| is_it(&one.metadata) && one.spec.listeners.iter().any(|one| one.name == section)),
        Kind::ListenerSet => objects
            .listener_sets
            .iter()
            .any(|one| is_it(&one.metadata) && one.spec.listeners.iter().any(|one| one.name == section)),
        Kind::HttpRoute => objects
            .routes
            .iter()
            .any(|one| is_it(&one.metadata) && one.spec.rules.iter().any(|one| is_named(one.name.as_deref()))),
        Kind::GrpcRoute => objects
            .grpc_routes
            .iter()
            .any(|one| is_it(&one.metadata) && one.spec.rules.iter().any(|one| is_named(one.name.as_deref()))),
        Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
            let all = [&objects.tls_routes, &objects.tcp_routes, &objects.udp_routes].into_iter().flatten();
            let mut of_place = all.filter(|one| is_it(&one.metadata));
            of_place.any(|one| one.spec.rules.iter().any(|one| is_named(one.name.as_deref())))
        }
        _ => false,
    }
}
