//! What the statuses of Gateways and ListenerSets say.

use std::collections::{BTreeMap, BTreeSet};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        condition::Condition,
        gateway::{Gateway, GatewayStatus, ListenerSet, ListenerSetStatus, ListenerStatus},
    },
};

use super::{
    Place, ProjectSnapshot, Snapshot, Status, WantedStatus, class_names, conditions,
    gateways::{Placed, PlacedSet, gateway_of},
    generation,
    listeners::{PlacedListener, Serves},
    mention,
    routes::Routes,
};

/// How many routes are attached to each listener, by the indices of Gateway and listener.
type Counts = BTreeMap<(usize, usize), usize>;

/// What must be said of Gateways, ours and those whose class nobody knows, and of their ListenerSets.
pub(super) fn wanted(gateways: &[Placed<'_>], routes: &Routes, snapshot: &Snapshot) -> Vec<WantedStatus> {
    let (mut counts, mut of_route) = (Counts::new(), Vec::new());
    for route in routes.iter() {
        of_route.clear();
        of_route.extend(route.listeners());
        of_route.sort_unstable();
        of_route.dedup();
        of_route.iter().for_each(|&at| *counts.entry(at).or_default() += 1);
    }
    let mut wanted = Vec::new();
    for (index, gateway) in gateways.iter().enumerate() {
        let of_listener = |listener: usize| counts.get(&(index, listener)).copied().unwrap_or_default();
        wanted.push(status_of(gateway.project, gateway.gateway, gateway.status(of_listener)));
        let sets = gateway.sets.iter().enumerate();
        wanted.extend(sets.map(|(set, placed)| {
            status_of_set(gateway.project, placed.set, gateway.set_status(set, placed, of_listener))
        }));
    }
    for (project, objects) in &snapshot.projects {
        let (_, known) = class_names(objects);
        let orphans = objects.gateways.iter().filter(|gateway| !known.contains(&*gateway.spec.gateway_class_name));
        wanted.extend(orphans.map(|gateway| status_of(project, gateway, waiting(gateway))));
        wanted.extend(orphaned_sets(objects).map(|set| status_of_set(project, set, without_gateway(set))));
    }
    wanted
}

/// ListenerSets whose Gateway does not exist.
fn orphaned_sets(objects: &ProjectSnapshot) -> impl Iterator<Item = &ListenerSet> {
    let places: BTreeSet<Place<'_>> = objects.gateways.iter().map(|gateway| Place::of(&gateway.metadata)).collect();
    objects.listener_sets.iter().filter(move |set| gateway_of(set).is_some_and(|place| !places.contains(&place)))
}

fn status_of(project: &ProjectName, gateway: &Gateway, status: GatewayStatus) -> WantedStatus {
    WantedStatus {
        project: project.clone(),
        namespace: Some(Place::of(&gateway.metadata).namespace.to_owned()),
        name: gateway.metadata.name.clone(),
        status: Status::Gateway(status),
    }
}

fn status_of_set(project: &ProjectName, set: &ListenerSet, status: ListenerSetStatus) -> WantedStatus {
    WantedStatus {
        project: project.clone(),
        namespace: Some(Place::of(&set.metadata).namespace.to_owned()),
        name: set.metadata.name.clone(),
        status: Status::ListenerSet(status),
    }
}

fn waiting(gateway: &Gateway) -> GatewayStatus {
    let message = format!("GatewayClass {} does not exist", gateway.spec.gateway_class_name);
    let at = generation(&gateway.metadata);
    let conditions = ["Accepted", "Programmed"].map(|kind| conditions::unknown(at, kind, "Pending", message.clone()));
    GatewayStatus { conditions: conditions.into(), ..GatewayStatus::default() }
}

fn without_gateway(set: &ListenerSet) -> ListenerSetStatus {
    let at = generation(&set.metadata);
    let message = format!("Gateway {} does not exist", set.spec.parent_ref.name);
    let conditions = vec![
        conditions::no(at, "Accepted", "ParentNotAccepted", message.clone()),
        conditions::no(at, "Programmed", "ParentNotProgrammed", message),
    ];
    ListenerSetStatus { conditions, listeners: Vec::new() }
}

impl Placed<'_> {
    fn status(&self, attached: impl Fn(usize) -> usize) -> GatewayStatus {
        let at = generation(&self.gateway.metadata);
        let own = || self.listeners.iter().enumerate().filter(|(_, placed)| placed.set.is_none());
        let (all, accepted) = (own().count(), own().filter(|(_, placed)| placed.trouble.is_none()).count());
        let mut conditions = vec![self.accepted(at, all, accepted), self.programmed(at, all, accepted)];
        match &self.identity {
            None => {}
            Some(Ok(_)) => {
                let message = "the client certificate for backends was found";
                conditions.push(conditions::yes(at, "ResolvedRefs", "ResolvedRefs", message));
            }
            Some(Err(why)) => conditions.push(conditions::no(at, "ResolvedRefs", why.reason, &why.message)),
        }
        if self.is_lax() {
            let message = "clients are let in whatever certificate they present: AllowInsecureFallback";
            conditions.push(conditions::yes(at, "InsecureFrontendValidationMode", "ConfigurationChanged", message));
        }
        let attached_sets = (0..self.sets.len()).filter(|&set| self.accepts(set)).count();
        GatewayStatus {
            addresses: self.addresses.shown.clone(),
            conditions,
            listeners: own().map(|(index, placed)| placed.status(at, attached(index))).collect(),
            attached_listener_sets: i32::try_from(attached_sets).unwrap_or(i32::MAX),
        }
    }

    fn accepted(&self, at: i64, all: usize, accepted: usize) -> Condition {
        let unsupported = self.addresses.trouble.as_ref().filter(|trouble| trouble.reason == "UnsupportedAddress");
        let is_unreached = self.addresses.trouble.is_some() && unsupported.is_none();
        match self.stopped.as_ref().or(unsupported) {
            Some(stopped) => conditions::no(at, "Accepted", stopped.reason, &stopped.message),
            None if all == 0 && self.sets.is_empty() => {
                conditions::no(at, "Accepted", "ListenersNotValid", "the Gateway has no listener")
            }
            None if accepted == 0 && all > 0 && !is_unreached => {
                conditions::no(at, "Accepted", "ListenersNotValid", "no listener can be served")
            }
            None if accepted < all && !is_unreached => {
                let message = format!("{} of {all} listeners cannot be served: see their conditions", all - accepted);
                conditions::yes(at, "Accepted", "ListenersNotValid", mention(&message, &self.unserved))
            }
            None => conditions::yes(at, "Accepted", "Accepted", mention("the Gateway is served", &self.unserved)),
        }
    }

    /// Listeners whose certificates are missing do not count against the Gateway: their own conditions say so.
    fn programmed(&self, at: i64, all: usize, accepted: usize) -> Condition {
        match &self.addresses.trouble {
            Some(trouble) if trouble.reason != "UnsupportedAddress" => {
                conditions::no(at, "Programmed", trouble.reason, &trouble.message)
            }
            _ if self.stopped.is_some() || (accepted == 0 && (all > 0 || self.sets.is_empty())) => {
                conditions::no(at, "Programmed", "Invalid", "no listener can be served")
            }
            _ => conditions::yes(at, "Programmed", "Programmed", "the listeners are open"),
        }
    }

    /// Whether some listener of the set can be served.
    fn accepts(&self, set: usize) -> bool {
        self.listeners.iter().any(|placed| placed.set == Some(set) && placed.is_served())
    }

    fn set_status(&self, index: usize, placed: &PlacedSet<'_>, attached: impl Fn(usize) -> usize) -> ListenerSetStatus {
        let at = generation(&placed.set.metadata);
        let own = || self.listeners.iter().enumerate().filter(|(_, placed)| placed.set == Some(index));
        let (all, served) = (own().count(), own().filter(|(_, placed)| placed.is_served()).count());
        let (accepted, programmed) = match &placed.trouble {
            Some(trouble) => {
                let programmed = if trouble.reason == "NotAllowed" { "NotAllowed" } else { "ParentNotProgrammed" };
                (
                    conditions::no(at, "Accepted", trouble.reason, &trouble.message),
                    conditions::no(at, "Programmed", programmed, &trouble.message),
                )
            }
            None if served == 0 => {
                let no = |kind| conditions::no(at, kind, "ListenersNotValid", "no listener of the set can be served");
                (no("Accepted"), no("Programmed"))
            }
            None => {
                let reason = if served < all { "ListenersNotValid" } else { "Accepted" };
                let message = format!("{served} of {all} listeners are added to Gateway {}", self.place);
                (
                    conditions::yes(at, "Accepted", reason, message),
                    conditions::yes(at, "Programmed", "Programmed", "the listeners are open"),
                )
            }
        };
        ListenerSetStatus {
            conditions: vec![accepted, programmed],
            listeners: own().map(|(index, placed)| placed.status(at, attached(index))).collect(),
        }
    }
}

impl PlacedListener<'_> {
    fn status(&self, generation: i64, attached_routes: usize) -> ListenerStatus {
        ListenerStatus {
            name: self.listener.name.clone(),
            supported_kinds: self.kinds().collect(),
            attached_routes: i32::try_from(attached_routes).unwrap_or(i32::MAX),
            conditions: self.conditions(generation),
        }
    }

    fn conditions(&self, at: i64) -> Vec<Condition> {
        let resolved = match (self.reference_trouble(), &self.serves) {
            (Some((reason, message)), _) => conditions::no(at, "ResolvedRefs", reason, message),
            (None, Serves::Https(tls) | Serves::Terminate(tls)) if tls.certificates.is_empty() => {
                let message = "TLS is served with the relay's self-issued certificate";
                conditions::yes(at, "ResolvedRefs", "ResolvedRefs", message)
            }
            (None, _) => conditions::yes(at, "ResolvedRefs", "ResolvedRefs", "everything was found"),
        };
        let mut all = match &self.trouble {
            None => vec![conditions::yes(at, "Accepted", "Accepted", "the listener is served")],
            Some(trouble) => vec![conditions::no(at, "Accepted", trouble.reason, &trouble.message)],
        };
        all.push(self.programmed(at));
        all.push(resolved);
        all.push(match self.trouble.as_ref().filter(|trouble| trouble.is_conflict()) {
            Some(trouble) => conditions::yes(at, "Conflicted", trouble.reason, &trouble.message),
            None => conditions::no(at, "Conflicted", "NoConflicts", "the listener stands in nobody's way"),
        });
        if self.overlaps {
            let message = "its hostname overlaps that of another listener: clients may be answered 421";
            all.push(conditions::yes(at, "OverlappingTLSConfig", "OverlappingHostnames", message));
        }
        all
    }

    fn programmed(&self, at: i64) -> Condition {
        match &self.trouble {
            // Upstream names the conflict again in ListenerSets, and not in Gateways.
            Some(trouble) if self.set.is_some() && trouble.is_conflict() => {
                conditions::no(at, "Programmed", trouble.reason, &trouble.message)
            }
            Some(trouble) => conditions::no(at, "Programmed", "Invalid", &trouble.message),
            None if !self.is_served() => {
                let message = "there is no certificate to serve: see ResolvedRefs";
                conditions::no(at, "Programmed", "Invalid", message)
            }
            None => conditions::yes(at, "Programmed", "Programmed", "the listener is open"),
        }
    }
}
