//! Who owns a hostname on a port when several projects want it: the project that claimed it first keeps it.
//!
//! A listener with a hostname claims it, and a route claims what it serves. A listener without hostname claims nothing,
//! because every project has one.

use std::collections::{BTreeMap, BTreeSet};

use underpass_shared::identity::ProjectName;

use super::{gateways::Placed, listeners::Trouble, routes::Compiled};
use crate::route::{
    host::HostPattern,
    table::{ListenAddress, Speaks},
};

/// The owning project by listen address and hostname.
pub type Owners = BTreeMap<(ListenAddress, HostPattern), ProjectName>;

/// The claimants of a hostname, first the one that asked first: creation time, then project.
type Claims<'a> = BTreeMap<(ListenAddress, HostPattern), BTreeSet<(i64, &'a ProjectName)>>;

/// Decides every hostname, and marks the listeners and attachments that lost theirs.
///
/// An owner in `before` that still claims a hostname keeps it, so that an older object edited later cannot take it away.
pub(super) fn settle(before: &Owners, gateways: &mut [Placed<'_>], routes: &mut [Compiled<'_>]) -> Owners {
    let owners = decide(before, &claims(gateways, routes));
    for gateway in &mut *gateways {
        for placed in gateway.listeners.iter_mut().filter(|placed| placed.is_placed()) {
            let lost = gateway.addresses.listen.iter().any(|&address| {
                let at = ListenAddress { address, port: placed.listener.port };
                owners.get(&(at, placed.hostname.clone())).is_some_and(|owner| owner != gateway.project)
            });
            if placed.hostname != HostPattern::Any && lost {
                let message = format!("another project serves {} on port {}", placed.hostname, placed.listener.port);
                placed.trouble = Some(Trouble::new("HostnameConflict", message));
            }
        }
    }
    // Listeners that lost claim nothing any more, nor do the routes on them.
    let owners = decide(before, &claims(gateways, routes));
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
                    let claim = claims.entry((at, placed.hostname.clone())).or_default();
                    claim.insert((gateway.created, gateway.project));
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
            claims.entry((at.at, at.host.clone())).or_default().insert((route.created, route.project));
        }
    }
    claims
}

fn decide(before: &Owners, claims: &Claims<'_>) -> Owners {
    let owner = |key: &(ListenAddress, HostPattern), claimants: &BTreeSet<(i64, &ProjectName)>| {
        let incumbent = before.get(key).filter(|owner| claimants.iter().any(|(_, project)| project == owner));
        incumbent.or_else(|| claimants.first().map(|(_, project)| *project)).cloned()
    };
    claims.iter().filter_map(|(key, claimants)| Some((key.clone(), owner(key, claimants)?))).collect()
}
