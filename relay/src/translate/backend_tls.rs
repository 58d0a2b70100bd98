//! BackendTLSPolicies: which backends are spoken to over TLS, as whom they are verified, and what their statuses say.
//!
//! A policy that cannot be honoured stops its targets: they are never spoken to in the clear, nor without verification.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};
use underpass_shared::{
    identity::ProjectName,
    resource::{
        backend_tls_policy::{BackendTlsPolicy, BackendTlsValidation, SubjectAltName},
        condition::Condition,
        filter::{Filter, LocalObjectReference},
        gateway::{CONTROLLER_NAME, ObjectReference},
        http_route::{BackendObjectReference, HttpBackendRef},
        kind::Kind,
    },
};

use super::{
    Place, ProjectSnapshot, Snapshot, Status, WantedStatus,
    backends::{self, Referred, Unresolved},
    certificates::{self, Reasons},
    conditions::{self, ANCESTORS_MAX},
    created,
    gateways::Placed,
    generation,
    grants::End,
    mention, policies,
    routes::Routes,
};
use crate::route::tls::{Roots, SubjectName, UpstreamTls};

const GROUP: &str = "gateway.networking.k8s.io";

/// The reasons of `ResolvedRefs`.
const REASONS: Reasons = Reasons { kind: "InvalidKind", content: "InvalidCACertificateRef" };

/// What a policy is for: a backend, or the port of a Service that has this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target<'a> {
    kind: Referred,
    place: Place<'a>,
    port: Option<&'a str>,
}

#[derive(Debug)]
struct Policy<'a> {
    /// `None` of one that cannot be read: that it stops its targets is all that it does.
    written: Option<&'a BackendTlsPolicy>,
    place: Place<'a>,
    created: i64,
    targets: Vec<Target<'a>>,
    /// The first CA reference that leads nowhere.
    unresolved: Option<Unresolved>,
    tls: Result<Arc<UpstreamTls>, Unresolved>,
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
        let readable = objects.backend_tls_policies.iter().map(|policy| Policy::read(objects, policy));
        let unreadable = objects.unreadable.iter().filter(|(kind, _, _)| *kind == Kind::BackendTlsPolicy);
        let mut all: Vec<_> =
            readable.chain(unreadable.filter_map(|(_, object, _)| Policy::unreadable(object))).collect();
        let winners = policies::settle(&mut all, |one| (one.created, one.place.clone()), |one| &one.targets);
        Self { all, winners }
    }

    /// How the backend, or its port of this name, is spoken to over TLS; `None` when no policy says that it is.
    ///
    /// # Errors
    /// The backend must not be spoken to at all: the policy cannot be honoured.
    pub(super) fn find(
        &self,
        kind: Referred,
        place: &Place<'_>,
        port: &str,
    ) -> Option<Result<&Arc<UpstreamTls>, &Unresolved>> {
        // Its keys may live shorter than what they are compared with.
        let winners: &BTreeMap<Target<'_>, usize> = &self.winners;
        let target = |port| Target { kind, place: place.clone(), port };
        let of_port = Some(port).filter(|port| !port.is_empty()).and_then(|port| winners.get(&target(Some(port))));
        let index = of_port.or_else(|| winners.get(&target(None)))?;
        Some(self.all[*index].tls.as_ref())
    }

    fn winner(&self, target: &Target<'_>) -> Option<&Policy<'a>> {
        let winners: &BTreeMap<Target<'_>, usize> = &self.winners;
        winners.get(target).map(|&index| &self.all[index])
    }
}

impl<'a> Policy<'a> {
    fn read(objects: &'a ProjectSnapshot, policy: &'a BackendTlsPolicy) -> Self {
        let place = Place::of(&policy.metadata);
        let references = policy.spec.target_refs.iter();
        let targets = references
            .filter_map(|to| target(place.namespace, &to.group, &to.kind, &to.name, to.section_name.as_deref()))
            .collect();
        let (unresolved, tls) = read_validation(objects, place.namespace, &policy.spec.validation);
        Self { written: Some(policy), created: created(&policy.metadata), place, targets, unresolved, tls }
    }

    /// Of what cannot be read, the targets that can be.
    fn unreadable(object: &'a Value) -> Option<Self> {
        let text = |object: &'a Value, field: &str| object.get(field).and_then(Value::as_str);
        let metadata = object.get("metadata")?;
        let namespace = text(metadata, "namespace").unwrap_or("default");
        let references = object.pointer("/spec/targetRefs").and_then(Value::as_array).into_iter().flatten();
        let targets = references.filter_map(|to| {
            let (group, port) = (text(to, "group").unwrap_or_default(), text(to, "sectionName"));
            target(namespace, group, text(to, "kind")?, text(to, "name")?, port)
        });
        let message = "the policy is not understood".to_owned();
        Some(Self {
            written: None,
            place: Place { namespace, name: text(metadata, "name")? },
            // It comes first: its age, too, may be what cannot be read.
            created: i64::MIN,
            targets: targets.collect(),
            unresolved: None,
            tls: Err(Unresolved { reason: "Invalid", message }),
        })
    }
}

/// Other kinds are no backends of ours.
fn target<'a>(namespace: &'a str, group: &str, kind: &str, name: &'a str, port: Option<&'a str>) -> Option<Target<'a>> {
    let kind = match (group, kind) {
        ("", "Service") => Referred::Service,
        ("core.apoxy.dev", "Backend") => Referred::Backend,
        _ => return None,
    };
    Some(Target { kind, place: Place { namespace, name }, port: port.filter(|port| !port.is_empty()) })
}

type Validation = (Option<Unresolved>, Result<Arc<UpstreamTls>, Unresolved>);

/// The first trouble with a CA reference, and what the validation comes to in spite of it.
fn read_validation(objects: &ProjectSnapshot, namespace: &str, written: &BackendTlsValidation) -> Validation {
    let (roots, unresolved) = match written.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty()) {
        Some("System") => (Ok(Roots::System), None),
        Some(other) => {
            let message = format!("wellKnownCACertificates {other:?} is not supported: System is");
            (Err(Unresolved { reason: "Invalid", message }), None)
        }
        None => read_authorities(objects, namespace, &written.ca_certificate_refs),
    };
    let names = written.subject_alt_names.iter().map(|name| match name {
        SubjectAltName::Hostname { hostname } => SubjectName::Dns(hostname.to_ascii_lowercase().into()),
        SubjectAltName::Uri { uri } => SubjectName::Uri(uri.as_str().into()),
    });
    let server_name = written.hostname.to_ascii_lowercase().into();
    let tls = roots.map(|roots| Arc::new(UpstreamTls { server_name, roots, names: names.collect(), identity: None }));
    (unresolved, tls)
}

fn read_authorities(
    objects: &ProjectSnapshot,
    namespace: &str,
    references: &[LocalObjectReference],
) -> (Result<Roots, Unresolved>, Option<Unresolved>) {
    let from = End { group: GROUP, kind: "BackendTLSPolicy", namespace };
    let (mut authorities, mut unresolved) = (Vec::new(), None);
    for LocalObjectReference { group, kind, name } in references {
        let reference = ObjectReference {
            group: Some(group.clone()),
            kind: Some(kind.clone()),
            name: name.clone(),
            namespace: None,
        };
        match certificates::authorities(objects, from, &reference, REASONS) {
            Ok(some) => authorities.extend(some),
            Err(trouble) => unresolved = unresolved.or(Some(trouble)),
        }
    }
    if authorities.is_empty() {
        let why = unresolved.as_ref().map_or("none is named", |trouble| &trouble.message);
        let message = format!("no CA certificate can be used: {why}");
        (Err(Unresolved { reason: "NoValidCACertificate", message }), unresolved)
    } else {
        (Ok(Roots::These(authorities)), unresolved)
    }
}

/// What the status of every policy must say: an entry for each Gateway with a route that refers to one of its targets.
pub(super) fn wanted(gateways: &[Placed<'_>], routes: &Routes, snapshot: &Snapshot) -> Vec<WantedStatus> {
    let mut wanted = Vec::new();
    for (project, objects) in &snapshot.projects {
        if objects.backend_tls_policies.is_empty() {
            continue;
        }
        let policies = Policies::new(objects);
        let users = users(project, objects, &policies, routes);
        for policy in &policies.all {
            let Some(written) = policy.written else { continue };
            let mut by_gateway: BTreeMap<usize, Vec<&Target<'_>>> = BTreeMap::new();
            for target in &policy.targets {
                for &gateway in users.get(&(target.kind, target.place.clone())).into_iter().flatten() {
                    by_gateway.entry(gateway).or_default().push(target);
                }
            }
            let entries = by_gateway.iter().take(ANCESTORS_MAX);
            let entries = entries.map(|(&gateway, targets)| {
                let conditions = [accepted(objects, &policies, policy, (written, targets)), resolved(policy, written)];
                let Place { namespace, name } = gateways[gateway].place;
                let ancestor = json!({"group": GROUP, "kind": "Gateway", "namespace": namespace, "name": name});
                json!({"ancestorRef": ancestor, "controllerName": CONTROLLER_NAME, "conditions": conditions})
            });
            let status = json!({ "ancestors": entries.collect::<Vec<_>>() });
            wanted.push(WantedStatus {
                project: project.clone(),
                namespace: Some(policy.place.namespace.to_owned()),
                name: policy.place.name.to_owned(),
                status: Status::Other(Kind::BackendTlsPolicy, status),
            });
        }
    }
    wanted
}

/// The Gateways, by index, of each target of a policy: those with a route that refers to it and is attached.
fn users<'a>(
    project: &ProjectName,
    objects: &'a ProjectSnapshot,
    policies: &'a Policies<'a>,
    routes: &Routes,
) -> BTreeMap<(Referred, Place<'a>), BTreeSet<usize>> {
    let mut users: BTreeMap<_, BTreeSet<usize>> =
        policies.winners.keys().map(|target| ((target.kind, target.place.clone()), BTreeSet::new())).collect();
    let mut gateways: BTreeMap<(Kind, Place<'_>), BTreeSet<usize>> = BTreeMap::new();
    for route in routes.iter().filter(|route| route.project == *project) {
        let of_route = route.listeners().map(|(gateway, _)| gateway).collect();
        gateways.insert((route.kind, route.place()), of_route);
    }
    for (kind, place, reference) in references(objects) {
        let Some(of_route) = gateways.get(&(kind, place.clone())).filter(|of_route| !of_route.is_empty()) else {
            continue;
        };
        let from = End { group: GROUP, kind: kind.info().name, namespace: place.namespace };
        let Ok((kind, place)) = backends::referred(objects, from, reference) else { continue };
        if let Some(known) = users.get_mut(&(kind, place)) {
            known.extend(of_route);
        }
    }
    users
}

/// Every reference to a backend of every route, mirrors included.
pub(super) fn references(objects: &ProjectSnapshot) -> Vec<(Kind, Place<'_>, &BackendObjectReference)> {
    fn of_rule<'a>(backends: &'a [HttpBackendRef], filters: &'a [Filter]) -> Vec<&'a BackendObjectReference> {
        let of_backends = backends.iter().flat_map(|backend| &backend.filters);
        let mirrors = filters.iter().chain(of_backends).filter_map(|filter| filter.request_mirror.as_ref());
        backends.iter().map(|backend| &backend.to).chain(mirrors.map(|mirror| &mirror.backend_ref)).collect()
    }
    let mut all = Vec::new();
    let mut add = |kind, metadata, found: Vec<_>| {
        all.extend(found.into_iter().map(|reference| (kind, Place::of(metadata), reference)));
    };
    for route in &objects.routes {
        let rules = route.spec.rules.iter().flat_map(|rule| of_rule(&rule.backend_refs, &rule.filters));
        add(Kind::HttpRoute, &route.metadata, rules.collect());
    }
    for route in &objects.grpc_routes {
        let rules = route.spec.rules.iter().flat_map(|rule| of_rule(&rule.backend_refs, &rule.filters));
        add(Kind::GrpcRoute, &route.metadata, rules.collect());
    }
    for (kind, routes) in [(Kind::TlsRoute, &objects.tls_routes), (Kind::TcpRoute, &objects.tcp_routes)] {
        for route in routes {
            let rules = route.spec.rules.iter().flat_map(|rule| of_rule(&rule.backend_refs, &[]));
            add(kind, &route.metadata, rules.collect());
        }
    }
    all
}

fn accepted(
    objects: &ProjectSnapshot,
    policies: &Policies<'_>,
    policy: &Policy<'_>,
    (written, targets): (&BackendTlsPolicy, &[&Target<'_>]),
) -> Condition {
    let at = generation(&written.metadata);
    let winner = |target: &Target<'_>| policies.winner(target).filter(|winner| winner.place != policy.place);
    let lost: Vec<String> = targets
        .iter()
        .filter_map(|target| winner(target).map(|winner| format!("{} is for {} too", winner.place, target.place)))
        .collect();
    if lost.len() == targets.len() {
        return conditions::no(at, "Accepted", "Conflicted", format!("an older policy counts: {}", lost.join("; ")));
    }
    if let Err(trouble) = &policy.tls {
        return conditions::no(at, "Accepted", trouble.reason, &*trouble.message);
    }
    if !targets.iter().any(|target| exists(objects, target)) {
        return conditions::no(at, "Accepted", "TargetNotFound", "no target exists, or has a port of that name");
    }
    let found = objects.unserved(Kind::BackendTlsPolicy, &written.metadata);
    let message = match lost.is_empty() {
        true => "the relay speaks TLS to the targets".to_owned(),
        false => format!("the relay speaks TLS to the targets, but for those of an older policy: {}", lost.join("; ")),
    };
    conditions::yes(at, "Accepted", "Accepted", mention(&message, found))
}

fn exists(objects: &ProjectSnapshot, target: &Target<'_>) -> bool {
    match target.kind {
        Referred::Backend => {
            target.port.is_none() && objects.backends.iter().any(|one| Place::of(&one.metadata) == target.place)
        }
        Referred::Service => {
            let service = objects.services.iter().find(|one| Place::of(&one.metadata) == target.place);
            let has_port = |name| service.is_some_and(|one| one.spec.ports.iter().any(|port| port.name == name));
            target.port.map_or(service.is_some(), has_port)
        }
    }
}

fn resolved(policy: &Policy<'_>, written: &BackendTlsPolicy) -> Condition {
    let at = generation(&written.metadata);
    match &policy.unresolved {
        None => conditions::yes(at, "ResolvedRefs", "ResolvedRefs", "every CA certificate was found"),
        Some(trouble) => conditions::no(at, "ResolvedRefs", trouble.reason, &*trouble.message),
    }
}
