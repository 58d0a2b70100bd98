//! Who owns a hostname on a port when several projects want it: the project that claimed it first keeps it.
//!
//! A listener with a hostname claims it, and a route claims what it serves. A listener without hostname claims nothing,
//! because every project has one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use underpass_shared::identity::ProjectName;

use super::{
    gateways::Placed,
    listeners::{PlacedListener, Trouble},
    routes::Compiled,
};
use crate::route::{
    host::HostPattern,
    table::{ListenAddress, Speaks},
};

/// The owning project by listen address and hostname.
pub type Owners = Arc<BTreeMap<Claimed, ProjectName>>;

type Claimed = (ListenAddress, HostPattern);

type AllClaims<'a> = BTreeMap<Claimed, Claimants<'a>>;

/// Who claims a hostname, and since when. Nearly always that is one project, which takes no memory of its own.
#[derive(Debug)]
struct Claimants<'a> {
    /// The one that asked first: creation time, then project.
    first: (i64, &'a ProjectName),
    others: Vec<(i64, &'a ProjectName)>,
    /// How many listeners and attachments claim it.
    count: usize,
}

impl<'a> Claimants<'a> {
    fn add(claims: &mut AllClaims<'a>, key: Claimed, claim: (i64, &'a ProjectName)) {
        let new = || Self { first: claim, others: Vec::new(), count: 0 };
        let Self { first, others, count } = claims.entry(key).or_insert_with(new);
        *count += 1;
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

/// The claims of the last translation, so that those of a route can come and go.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Claimed, Claim>);

#[derive(Debug)]
struct Claim {
    project: ProjectName,
    count: usize,
    /// Whether another project wants it too.
    is_contested: bool,
}

impl Claims {
    /// Whether the hostnames of `route`, if they are claims, are nobody's but its own project's.
    pub(super) fn are_uncontested(&self, route: &Compiled, gateways: &[Placed<'_>]) -> bool {
        let uncontested = |claim: &Claim| claim.project == route.project && !claim.is_contested;
        of_route(route, gateways).all(|key| self.0.get(&key).is_none_or(uncontested))
    }

    /// Takes the claims of `route` back, and gives out the hostnames that nobody claims any more.
    pub(super) fn remove(&mut self, route: &Compiled, gateways: &[Placed<'_>]) -> Vec<Claimed> {
        let mut free = Vec::new();
        for key in of_route(route, gateways) {
            let Some(claim) = self.0.get_mut(&key) else { continue };
            claim.count -= 1;
            if claim.count == 0 {
                self.0.remove(&key);
                free.push(key);
            }
        }
        free
    }

    /// Takes in the claims of `route`, and gives out the hostnames that nobody claimed before.
    pub(super) fn add(&mut self, route: &Compiled, gateways: &[Placed<'_>]) -> Vec<Claimed> {
        let mut new = Vec::new();
        for key in of_route(route, gateways) {
            let claim = self.0.entry(key.clone()).or_insert_with(|| {
                new.push(key);
                Claim { project: route.project.clone(), count: 0, is_contested: false }
            });
            claim.count += 1;
        }
        new
    }
}

/// Decides every hostname, and marks the listeners and attachments that lost theirs.
///
/// An owner in `before` that still claims a hostname keeps it, so that an older object edited later cannot take it away.
pub(super) fn settle(before: &Owners, gateways: &mut [Placed<'_>], routes: &mut [Compiled]) -> (Owners, Claims) {
    let claims = all_claims(gateways, routes);
    let mut owners = decide(before, &claims);
    let mut kept = keep(&claims);
    drop(claims);
    // Listeners that lost claim nothing any more, nor do the routes on them.
    if mark_lost(&owners, gateways) {
        let claims = all_claims(gateways, routes);
        owners = decide(before, &claims);
        let mut contested = kept;
        kept = keep(&claims);
        for (key, claim) in contested.0.drain().filter(|(_, claim)| claim.is_contested) {
            kept.0.entry(key).or_insert(claim).is_contested = true;
        }
    }
    for route in &mut *routes {
        mark_owned(&owners, route);
    }
    (owners, kept)
}

/// Takes out of service the listeners whose hostnames belong to another project, and says whether there are any.
pub(super) fn mark_lost(owners: &Owners, gateways: &mut [Placed<'_>]) -> bool {
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
    has_lost
}

/// Marks the attachments of `route` whose hostnames are not another project's.
pub(super) fn mark_owned(owners: &Owners, route: &mut Compiled) {
    let project = route.project.clone();
    for at in route.attachments_mut() {
        at.owned = owners.get(&(at.at, at.host.clone())).is_none_or(|owner| *owner == project);
    }
}

/// What a route claims, once for each attachment. TCP and UDP ports have no hostnames to own: the older Gateway has the port.
fn of_route(route: &Compiled, gateways: &[Placed<'_>]) -> impl Iterator<Item = Claimed> {
    let has_names = |placed: &PlacedListener<'_>| matches!(placed.serves.speaks(), Speaks::Http | Speaks::Tls);
    let claimed = route.attachments().filter(move |at| {
        let placed = &gateways[at.gateway].listeners[at.listener];
        placed.is_placed() && has_names(placed)
    });
    claimed.map(|at| (at.at, at.host.clone()))
}

fn all_claims<'a>(gateways: &[Placed<'a>], routes: &'a [Compiled]) -> AllClaims<'a> {
    let mut claims: AllClaims<'a> = BTreeMap::new();
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
        of_route(route, gateways).for_each(|key| Claimants::add(&mut claims, key, (route.created, &route.project)));
    }
    claims
}

fn decide(before: &Owners, claims: &AllClaims<'_>) -> Owners {
    let owner = |key: &Claimed, claimants: &Claimants<'_>| {
        before.get(key).filter(|owner| claimants.has(owner)).unwrap_or(claimants.first.1).clone()
    };
    Arc::new(claims.iter().map(|(key, claimants)| (key.clone(), owner(key, claimants))).collect())
}

fn keep(claims: &AllClaims<'_>) -> Claims {
    let keep = |claimants: &Claimants<'_>| Claim {
        project: claimants.first.1.clone(),
        count: claimants.count,
        is_contested: !claimants.others.is_empty(),
    };
    Claims(claims.iter().map(|(key, claimants)| (key.clone(), keep(claimants))).collect())
}
