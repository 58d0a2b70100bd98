//! Who owns a hostname on a port when several projects want it: the project that claimed it first keeps it.
//!
//! A listener with a hostname claims it, and a route claims what it serves. A listener without hostname claims nothing,
//! because every project has one.

use std::collections::BTreeMap;

use underpass_shared::identity::ProjectName;

use super::{gateways::Placed, listeners::Trouble, routes::Compiled};
use crate::route::{
    host::HostPattern,
    table::{ListenAddress, Speaks},
};

/// The owning project by listen address and hostname.
pub type Owners = BTreeMap<(ListenAddress, HostPattern), ProjectName>;

type Claims<'a> = BTreeMap<(ListenAddress, HostPattern), Claimants<'a>>;

/// Who claims a hostname, and since when. Nearly always that is one project, which takes no memory of its own.
#[derive(Debug)]
struct Claimants<'a> {
    /// The one that asked first: creation time, then project.
    first: (i64, &'a ProjectName),
    others: Vec<(i64, &'a ProjectName)>,
}

impl<'a> Claimants<'a> {
    fn add(claims: &mut Claims<'a>, key: (ListenAddress, HostPattern), claim: (i64, &'a ProjectName)) {
        let Self { first, others } = claims.entry(key).or_insert_with(|| Self { first: claim, others: Vec::new() });
        if claim < *first {
            let before = std::mem::replace(first, claim);
            if before.1 != claim.1 {
                others.push(before);
            }
        } else if claim.1 != first.1 {
            others.push(claim);
        }
    }

    fn has(&self, project: &ProjectName) -> bool {
        self.first.1 == project || self.others.iter().any(|(_, other)| *other == project)
    }
}

/// Decides every hostname, and marks the listeners and attachments that lost theirs.
///
/// An owner in `before` that still claims a hostname keeps it, so that an older object edited later cannot take it away.
pub(super) fn settle(before: &Owners, gateways: &mut [Placed<'_>], routes: &mut [Compiled<'_>]) -> Owners {
    let mut owners = decide(before, &claims(gateways, routes));
    let mut has_lost = false;
    for gateway in &mut *gateways {
        for placed in gateway.listeners.iter_mut().filter(|placed| placed.is_placed()) {
            let lost = gateway.addresses.listen.iter().any(|&address| {
                let at = ListenAddress { address, port: placed.listener.port };
                owners.get(&(at, placed.hostname.clone())).is_some_and(|owner| owner != gateway.project)
            });
            if placed.hostname != HostPattern::Any && lost {
                let message = format!("another project serves {} on port {}", placed.hostname, placed.listener.port);
                placed.trouble = Some(Trouble::new("HostnameConflict", message));
                has_lost = true;
            }
        }
    }
    // Listeners that lost claim nothing any more, nor do the routes on them.
    if has_lost {
        owners = decide(before, &claims(gateways, routes));
    }
    for route in &mut *routes {
        let project = route.project;
        for at in route.attachments_mut() {
            at.owned = owners.get(&(at.at, at.host.clone())).is_none_or(|owner| owner == project);
        }
    }
    owners
}

fn claims<'a>(gateways: &[Placed<'a>], routes: &[Compiled<'a>]) -> Claims<'a> {
    let mut claims: Claims<'a> = BTreeMap::new();
    for gateway in gateways {
        for placed in gateway.listeners.iter().filter(|placed| placed.is_placed()) {
            if placed.hostname != HostPattern::Any {
                for &address in &gateway.addresses.listen {
                    let at = ListenAddress { address, port: placed.listener.port };
                    let claim = (gateway.created, gateway.project);
                    Claimants::add(&mut claims, (at, placed.hostname.clone()), claim);
                }
            }
        }
    }
    for route in routes {
        // TCP and UDP ports have no hostnames to own: the older Gateway has the port.
        for at in route.attachments().filter(|at| {
            let placed = &gateways[at.gateway].listeners[at.listener];
            placed.is_placed() && matches!(placed.serves.speaks(), Speaks::Http | Speaks::Tls)
        }) {
            Claimants::add(&mut claims, (at.at, at.host.clone()), (route.created, route.project));
        }
    }
    claims
}

fn decide(before: &Owners, claims: &Claims<'_>) -> Owners {
    let owner = |key: &(ListenAddress, HostPattern), claimants: &Claimants<'_>| {
        before.get(key).filter(|owner| claimants.has(owner)).unwrap_or(claimants.first.1).clone()
    };
    claims.iter().map(|(key, claimants)| (key.clone(), owner(key, claimants))).collect()
}
