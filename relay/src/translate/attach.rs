//! Joins routes to listeners: which parents take a route, for which hostnames, and the table that follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_shared::{identity::ProjectName, resource::http_route::ParentReference};

use super::{
    Place, ProjectSnapshot, Snapshot, class_names,
    gateways::{Placed, PlacedListener},
    is_gateway_group, namespace_of,
    owners::Owners,
    routes::{Attached, Compiled, Outcome, Parent},
    unbuilt::GatewayPlace,
};
use crate::route::{
    host::HostPattern,
    table::{Attachment, ListenAddress, Scheme, TableBuilder},
};

/// Finds what every parent reference of every route leads to.
///
/// Parents of other groups, and Gateways of other controllers, are not ours to speak of.
pub(super) fn find_listeners<'a>(snapshot: &Snapshot, gateways: &[Placed<'_>], routes: &mut [Compiled<'a>]) {
    let others: BTreeMap<&ProjectName, BTreeSet<GatewayPlace<'_>>> =
        snapshot.projects.iter().map(|(project, objects)| (project, foreign_gateways(objects))).collect();
    for route in routes {
        let references: &'a [ParentReference] = route.parent_refs;
        let ours = references.iter().filter(|reference| {
            let place = place_of(reference, route);
            let foreign =
                others.get(route.project).is_some_and(|others| others.contains(&(place.namespace, place.name)));
            is_gateway_group(reference.group.as_deref()) && !foreign
        });
        route.parents =
            ours.map(|reference| Parent { reference, outcome: outcome(gateways, route, reference) }).collect();
    }
}

fn place_of<'a>(reference: &'a ParentReference, route: &Compiled<'a>) -> Place<'a> {
    Place { namespace: reference.namespace.as_deref().unwrap_or(route.place.namespace), name: &reference.name }
}

/// The project's Gateways that another controller serves.
pub(super) fn foreign_gateways(objects: &ProjectSnapshot) -> BTreeSet<GatewayPlace<'_>> {
    let (ours, _) = class_names(objects);
    let others = objects.gateways.iter().filter(|gateway| !ours.contains(&*gateway.spec.gateway_class_name));
    others.map(|gateway| (namespace_of(&gateway.metadata), gateway.metadata.name.as_str())).collect()
}

/// Reasons come in upstream's order: parent, section and port, permission, hostnames.
fn outcome(gateways: &[Placed<'_>], route: &Compiled<'_>, reference: &ParentReference) -> Outcome {
    let refused = |reason, message: String| Outcome::Refused { reason, message };
    let kind = reference.kind.as_deref().unwrap_or("Gateway");
    if kind != "Gateway" {
        return refused("NoMatchingParent", format!("parents of kind {kind} are not supported yet"));
    }
    let place = place_of(reference, route);
    let is_parent = |gateway: &Placed<'_>| gateway.project == route.project && gateway.place == place;
    let Some(index) = gateways.iter().position(is_parent) else {
        return refused("NoMatchingParent", format!("Gateway {place} does not exist"));
    };
    let gateway = &gateways[index];
    let selected: Vec<(usize, &PlacedListener<'_>)> =
        gateway.listeners.iter().enumerate().filter(|(_, placed)| is_selected(placed, reference)).collect();
    if selected.is_empty() {
        let message = format!("Gateway {} has no listener of that sectionName and port", gateway.place);
        return refused("NoMatchingParent", message);
    }
    let allows = |placed: &PlacedListener<'_>| {
        placed.allows(route.kind.info().name, route.place.namespace, gateway.place.namespace, gateway.objects)
    };
    let selected: Vec<_> = selected.into_iter().filter(|(_, placed)| allows(placed)).collect();
    if selected.is_empty() {
        let message = format!(
            "no such listener of Gateway {} takes {}s of this namespace",
            gateway.place,
            route.kind.info().name
        );
        return refused("NotAllowedByListeners", message);
    }
    if route.is_empty() {
        return refused("UnsupportedValue", route.problems());
    }
    let attached: Vec<Attached> = selected
        .iter()
        .flat_map(|(listener, placed)| {
            let hosts = hosts(&route.hostnames, &placed.hostname);
            hosts.into_iter().flat_map(move |host| {
                gateway.addresses.listen.iter().map(move |&address| Attached {
                    gateway: index,
                    listener: *listener,
                    at: ListenAddress { address, port: placed.listener.port },
                    host: host.clone(),
                    owned: true,
                })
            })
        })
        .collect();
    if attached.is_empty() {
        let message = format!("no hostname of the route fits a listener of Gateway {}", gateway.place);
        return refused("NoMatchingListenerHostname", message);
    }
    Outcome::Attached(attached)
}

fn is_selected(placed: &PlacedListener<'_>, reference: &ParentReference) -> bool {
    reference.section_name.as_ref().is_none_or(|name| *name == placed.listener.name)
        && reference.port.is_none_or(|port| port == placed.listener.port)
}

fn hosts(route: &[HostPattern], listener: &HostPattern) -> BTreeSet<HostPattern> {
    route.iter().filter_map(|hostname| hostname.intersect(listener)).collect()
}

/// Puts every serving listener and what is attached to it into the table.
pub(super) fn build(builder: &mut TableBuilder, gateways: &[Placed<'_>], routes: &[Compiled<'_>], owners: &Owners) {
    for gateway in gateways {
        for placed in gateway.listeners.iter().filter(|placed| placed.serves()) {
            for &address in &gateway.addresses.listen {
                let at = ListenAddress { address, port: placed.listener.port };
                match placed.scheme {
                    Scheme::Http => builder.http(at, gateway.project, &placed.hostname),
                    Scheme::Https => builder.https(at, gateway.project, &placed.hostname, Arc::default()),
                }
            }
        }
    }
    for ((at, host), project) in owners {
        builder.owner(*at, host, project);
    }
    for route in routes {
        // Two parents, or two Gateways that share a listener's port and hostname, attach a route once.
        let mut done = BTreeSet::new();
        for at in route.attachments().filter(|at| at.owned) {
            let placed = &gateways[at.gateway].listeners[at.listener];
            if placed.serves() && done.insert((at.at, &placed.hostname, &at.host)) {
                attach_rules(builder, route, placed, at);
            }
        }
    }
}

fn attach_rules(builder: &mut TableBuilder, route: &Compiled<'_>, placed: &PlacedListener<'_>, at: &Attached) {
    for compiled in &route.rules {
        for (position, matcher) in compiled.matchers.iter().enumerate() {
            builder.attach(Attachment {
                at: at.at,
                listener: &placed.hostname,
                host: &at.host,
                matcher: matcher.clone(),
                created: route.created,
                position: (compiled.position, position),
                rule: &compiled.rule,
            });
        }
    }
}
