//! Joins routes to listeners: which parents take a route, for which hostnames, and the table that follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_shared::{
    identity::ProjectName,
    resource::{http_route::ParentReference, kind::Kind},
};

use super::{
    Place, ProjectSnapshot, Snapshot,
    backend_traffic::AllPolicies,
    class_names,
    gateways::{Placed, gateway_of},
    is_gateway_group,
    listeners::{PlacedListener, Serves},
    namespace_of,
    routes::{Attached, Compiled, InTable, Outcome, Parent},
    unbuilt::GatewayPlace,
};
use crate::route::{
    host::HostPattern,
    table::{Attachment, ListenAddress, TableBuilder},
    target::Rule,
};

/// Where routes may attach, by project and place.
struct Parents<'g, 'a> {
    gateways: &'g [Placed<'a>],
    by_place: BTreeMap<(&'a ProjectName, Place<'a>), usize>,
    /// A ListenerSet: index of the Gateway, and among its sets.
    sets: BTreeMap<(&'a ProjectName, Place<'a>), (usize, usize)>,
    /// What another controller serves.
    foreign: BTreeSet<(Kind, &'a ProjectName, Place<'a>)>,
}

impl<'g, 'a> Parents<'g, 'a> {
    fn new(snapshot: &'a Snapshot, gateways: &'g [Placed<'a>]) -> Self {
        let (mut by_place, mut sets, mut foreign) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (index, gateway) in gateways.iter().enumerate() {
            by_place.insert((gateway.project, gateway.place.clone()), index);
            for (set, placed) in gateway.sets.iter().enumerate() {
                sets.insert((gateway.project, placed.place.clone()), (index, set));
            }
        }
        for (project, objects) in &snapshot.projects {
            let theirs: BTreeSet<Place<'_>> =
                foreign_gateways(objects).into_iter().map(|(namespace, name)| Place { namespace, name }).collect();
            let sets = objects.listener_sets.iter();
            let sets = sets.filter(|set| gateway_of(set).is_none_or(|gateway| theirs.contains(&gateway)));
            foreign.extend(sets.map(|set| (Kind::ListenerSet, project, Place::of(&set.metadata))));
            foreign.extend(theirs.iter().map(|place| (Kind::Gateway, project, place.clone())));
        }
        Self { gateways, by_place, sets, foreign }
    }

    /// Whether a reference is ours to speak of: neither of another group, nor to what another controller serves.
    fn are_ours(&self, route: &Compiled, reference: &ParentReference) -> bool {
        let kind = match reference.kind.as_deref() {
            None | Some("Gateway") => Kind::Gateway,
            Some("ListenerSet") => Kind::ListenerSet,
            Some(_) => return is_gateway_group(reference.group.as_deref()),
        };
        // Its keys may live longer than what they are compared with.
        let foreign: &BTreeSet<(Kind, &ProjectName, Place<'_>)> = &self.foreign;
        let place = place_of(reference, route);
        is_gateway_group(reference.group.as_deref()) && !foreign.contains(&(kind, &route.project, place))
    }

    /// The Gateway, and the ListenerSet if it is one, that a reference leads to.
    fn find(&self, route: &Compiled, reference: &ParentReference) -> Result<(usize, Option<usize>), String> {
        let by_place: &BTreeMap<(&ProjectName, Place<'_>), usize> = &self.by_place;
        let sets: &BTreeMap<(&ProjectName, Place<'_>), (usize, usize)> = &self.sets;
        let place = place_of(reference, route);
        let missing = |kind: &str| format!("{kind} {place} does not exist");
        match reference.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" => {
                let found = by_place.get(&(&route.project, place.clone()));
                found.map(|&gateway| (gateway, None)).ok_or_else(|| missing("Gateway"))
            }
            "ListenerSet" => {
                let found = sets.get(&(&route.project, place.clone()));
                let &(gateway, set) = found.ok_or_else(|| missing("ListenerSet"))?;
                match &self.gateways[gateway].sets[set].trouble {
                    Some(trouble) => Err(format!("ListenerSet {place} is not accepted: {}", trouble.message)),
                    None => Ok((gateway, Some(set))),
                }
            }
            kind => Err(format!("parents of kind {kind} are not supported: refer to a Gateway or a ListenerSet")),
        }
    }

    /// Reasons come in upstream's order: parent, section and port, permission, hostnames.
    fn outcome(&self, route: &Compiled, reference: &ParentReference) -> Outcome {
        let refused = |reason, message: String| Outcome::Refused { reason, message };
        let (index, set) = match self.find(route, reference) {
            Ok(found) => found,
            Err(message) => return refused("NoMatchingParent", message),
        };
        let (gateway, parent) = (&self.gateways[index], place_of(reference, route));
        let of_parent = gateway.listeners.iter().enumerate().filter(|(_, placed)| placed.set == set);
        let selected: Vec<(usize, &PlacedListener<'_>)> =
            of_parent.filter(|(_, placed)| is_selected(placed, reference)).collect();
        if selected.is_empty() {
            let message = format!("{parent} has no listener of that sectionName and port");
            return refused("NoMatchingParent", message);
        }
        let kind = route.kind.info().name;
        let allows = |placed: &PlacedListener<'_>| placed.allows(kind, route.place().namespace, gateway.objects);
        let selected: Vec<_> = selected.into_iter().filter(|(_, placed)| allows(placed)).collect();
        if selected.is_empty() {
            let message = format!("no such listener of {parent} takes {kind}s of this namespace");
            return refused("NotAllowedByListeners", message);
        }
        if route.is_empty() {
            return refused("UnsupportedValue", route.problems());
        }
        let mut attached = Vec::new();
        for (listener, placed) in selected {
            for host in hosts(&route.body.hostnames, &placed.hostname) {
                attached.extend(gateway.addresses.listen.iter().map(|&address| Attached {
                    gateway: index,
                    listener,
                    at: ListenAddress { address, port: placed.listener.port },
                    host: host.clone(),
                    owned: true,
                }));
            }
        }
        if attached.is_empty() && !gateway.addresses.listen.is_empty() {
            let message = format!("no hostname of the route fits a listener of {parent}");
            return refused("NoMatchingListenerHostname", message);
        }
        Outcome::Attached(attached)
    }
}

/// Finds what every parent reference of every route leads to.
///
/// Parents of other groups, and Gateways of other controllers, are not ours to speak of.
pub(super) fn find_listeners(snapshot: &Snapshot, gateways: &[Placed<'_>], routes: &mut [Compiled]) {
    let parents = Parents::new(snapshot, gateways);
    for route in routes {
        let references = route.parent_refs.iter().enumerate();
        let ours = references.filter(|(_, reference)| parents.are_ours(route, reference));
        let found = ours.map(|(at, reference)| Parent { reference: at, outcome: parents.outcome(route, reference) });
        let found = found.collect();
        route.set_parents(found);
    }
}

/// Of an HTTPRoute and a GRPCRoute whose hostnames meet on a listener, it takes the older (Gateway API,
/// `GRPCRouteSpec.hostnames`).
///
/// `routes` are ordered by age.
pub(super) fn part_http_from_grpc(routes: &mut [Compiled]) {
    let is_http = |kind: Kind| matches!(kind, Kind::HttpRoute | Kind::GrpcRoute);
    if !routes.iter().any(|route| route.kind == Kind::GrpcRoute) {
        return;
    }
    let mut taken: BTreeMap<(usize, usize, Kind), BTreeSet<HostPattern>> = BTreeMap::new();
    for route in routes.iter_mut().filter(|route| is_http(route.kind)) {
        let other = if route.kind == Kind::HttpRoute { Kind::GrpcRoute } else { Kind::HttpRoute };
        for parent in &mut route.parents {
            let Outcome::Attached(attached) = &mut parent.outcome else { continue };
            let meets = |at: &Attached| {
                let theirs = taken.get(&(at.gateway, at.listener, other));
                theirs.is_some_and(|hosts| hosts.iter().any(|host| host.intersect(&at.host).is_some()))
            };
            let lost: BTreeSet<(usize, usize)> =
                attached.iter().filter(|at| meets(at)).map(|at| (at.gateway, at.listener)).collect();
            attached.retain(|at| !lost.contains(&(at.gateway, at.listener)));
            for at in &*attached {
                taken.entry((at.gateway, at.listener, route.kind)).or_default().insert(at.host.clone());
            }
            if attached.is_empty() && !lost.is_empty() {
                let message = format!("an older {} has hostnames of it", other.info().name);
                parent.outcome = Outcome::Refused { reason: "HostnameConflict", message };
            }
        }
    }
}

fn place_of<'a>(reference: &'a ParentReference, route: &'a Compiled) -> Place<'a> {
    Place { namespace: reference.namespace.as_deref().unwrap_or(route.place().namespace), name: &reference.name }
}

/// The project's Gateways that another controller serves.
pub(super) fn foreign_gateways(objects: &ProjectSnapshot) -> BTreeSet<GatewayPlace<'_>> {
    let (ours, _) = class_names(objects);
    let others = objects.gateways.iter().filter(|gateway| !ours.contains(&*gateway.spec.gateway_class_name));
    others.map(|gateway| (namespace_of(&gateway.metadata), gateway.metadata.name.as_str())).collect()
}

fn is_selected(placed: &PlacedListener<'_>, reference: &ParentReference) -> bool {
    reference.section_name.as_ref().is_none_or(|name| *name == placed.listener.name)
        && reference.port.is_none_or(|port| port == placed.listener.port)
}

fn hosts(route: &[HostPattern], listener: &HostPattern) -> BTreeSet<HostPattern> {
    route.iter().filter_map(|hostname| hostname.intersect(listener)).collect()
}

/// Puts every listener into the table.
pub(super) fn listen(builder: &mut TableBuilder, gateways: &[Placed<'_>]) {
    for gateway in gateways {
        for placed in gateway.listeners.iter().filter(|placed| placed.is_placed()) {
            for &address in &gateway.addresses.listen {
                let (at, project) = (ListenAddress { address, port: placed.listener.port }, gateway.project);
                match &placed.serves {
                    Serves::Http => builder.http(at, project, &placed.hostname),
                    Serves::Https(tls) => builder.https(at, project, &placed.hostname, tls.clone()),
                    Serves::Terminate(tls) => builder.tls(at, project, &placed.hostname, Some(tls.clone())),
                    Serves::Passthrough => builder.tls(at, project, &placed.hostname, None),
                    Serves::Tcp => builder.tcp(at, None),
                    Serves::Udp => builder.udp(at, None),
                }
                if let Some(settings) = &placed.clients {
                    builder.settle(at, project, &placed.hostname, settings);
                }
            }
        }
    }
}

/// Puts the rules of `route` wherever it is attached.
pub(super) fn attach(
    builder: &mut TableBuilder,
    gateways: &[Placed<'_>],
    policies: &AllPolicies<'_>,
    route: &mut Compiled,
) {
    // Two parents, or two Gateways that share a listener's port and hostname, attach a route once.
    let mut done = BTreeSet::new();
    let mut variants: BTreeMap<(usize, bool, Option<usize>), Vec<Arc<Rule>>> = BTreeMap::new();
    let mut in_table = Vec::new();
    for at in route.attachments().filter(|at| at.owned) {
        let gateway = &gateways[at.gateway];
        let placed = &gateway.listeners[at.listener];
        if placed.is_placed() && done.insert((at.at, &placed.hostname, &at.host)) {
            let of_listener = policies.are_for(&route.project).then_some(at.listener);
            let key = (at.gateway, placed.serves == Serves::Passthrough, of_listener);
            let rules = variants.entry(key).or_insert_with(|| {
                let mut rules = rules(route, gateway, placed);
                policies.apply(route, gateway, at.listener, &mut rules);
                rules
            });
            attach_rules(builder, (route, rules), placed, at);
            if matches!(placed.serves, Serves::Http | Serves::Https(_)) {
                let (listener, host, rules) = (placed.hostname.clone(), at.host.clone(), rules.clone());
                in_table.push(InTable { at: at.at, listener, host, rules });
            }
        }
    }
    route.in_table = in_table;
}

/// Takes the HTTP rules of `route` out of the table.
pub(super) fn detach(builder: &mut TableBuilder, route: &Compiled) {
    for InTable { at, listener, host, rules } in &route.in_table {
        rules.iter().for_each(|rule| builder.detach(*at, listener, host, rule));
    }
}

/// The route's rules as a Gateway has them: with the certificate that it shows to backends, or, where TLS passes through,
/// without TLS of the relay's own.
fn rules(route: &Compiled, gateway: &Placed<'_>, placed: &PlacedListener<'_>) -> Vec<Arc<Rule>> {
    let rules = route.body.rules.iter().map(|compiled| &compiled.rule);
    match &gateway.identity {
        _ if placed.serves == Serves::Passthrough => rules.map(|rule| Arc::new(rule.in_the_clear())).collect(),
        Some(Ok(identity)) => rules.map(|rule| Arc::new(rule.with_identity(identity))).collect(),
        Some(Err(_)) | None => rules.cloned().collect(),
    }
}

fn attach_rules(
    builder: &mut TableBuilder,
    (route, rules): (&Compiled, &[Arc<Rule>]),
    placed: &PlacedListener<'_>,
    at: &Attached,
) {
    match &placed.serves {
        Serves::Tcp => rules.iter().for_each(|rule| builder.tcp(at.at, Some(rule.clone()))),
        Serves::Udp => rules.iter().for_each(|rule| builder.udp(at.at, Some(rule.clone()))),
        Serves::Terminate(_) | Serves::Passthrough => {
            rules.iter().for_each(|rule| builder.attach_tls(at.at, &placed.hostname, &at.host, rule));
        }
        Serves::Http | Serves::Https(_) => {
            for (compiled, rule) in route.body.rules.iter().zip(rules) {
                for (position, matcher) in compiled.matchers.iter().enumerate() {
                    builder.attach(Attachment {
                        at: at.at,
                        listener: &placed.hostname,
                        host: &at.host,
                        matcher: matcher.clone(),
                        created: route.created,
                        position: (compiled.position, position),
                        rule,
                    });
                }
            }
        }
    }
}
