//! Routes joined to listeners, and kept from one translation to the next: what a changed route costs grows with what is on
//! its hostnames, and hardly with all routes.
//!
//! All are joined anew when anything but routes changed, and when a changed route has its say about others: a stream route,
//! HTTPRoutes and GRPCRoutes on one listener, a hostname that several projects want.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::{
    Settings, Snapshot, attach,
    backend_traffic::AllPolicies,
    clients,
    gateways::{self, Placed},
    owners::{self, Claims, Owners},
    routes::{Changes, Compiled, Routes},
    snapshot::Version,
};
use crate::route::table::{ListenAddress, Table, TableBuilder};

#[derive(Debug, Default)]
pub(super) struct Joined {
    surroundings: Option<Surroundings>,
    routes: Routes,
    builder: TableBuilder,
    claims: Claims,
    owners: Owners,
    kinds: Kinds,
}

/// What the routes were joined under.
#[derive(Debug, PartialEq)]
struct Surroundings {
    projects: Vec<(ProjectName, Version)>,
    ports_unavailable: BTreeMap<ListenAddress, String>,
}

/// The kinds of HTTP routes that attached to each listener, by the indices of Gateway and listener.
#[derive(Debug, Default)]
struct Kinds(BTreeMap<(usize, usize), BTreeSet<Kind>>);

impl Joined {
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// To be handed into the next translation.
    pub(super) fn owners(&self) -> &Owners {
        &self.owners
    }

    pub(super) fn table(&mut self) -> Table {
        self.builder.build()
    }

    /// Joins the routes of `snapshot` to its Gateways, which are told what they lost and what policies say of them.
    pub(super) fn update<'a>(
        &mut self,
        snapshot: &'a Snapshot,
        settings: &Settings,
    ) -> (Vec<Placed<'a>>, clients::Decided<'a>) {
        let mut placed = gateways::place(snapshot, settings);
        let mut changes = self.routes.take_in(snapshot, settings);
        attach::find_listeners(snapshot, &placed, &mut changes.new);
        let surroundings = Surroundings::new(snapshot, settings);
        let is_known = self.surroundings.as_ref() == Some(&surroundings) && Arc::ptr_eq(&self.owners, &snapshot.owners);
        self.surroundings = Some(surroundings);
        if is_known {
            owners::mark_lost(&self.owners, &mut placed);
            if self.settle(&changes, &placed) {
                let clients = clients::decide(snapshot, &mut placed);
                let policies = AllPolicies::new(snapshot);
                for mut route in changes.new {
                    owners::mark_owned(&self.owners, &mut route);
                    attach::attach(&mut self.builder, &placed, &policies, &mut route);
                    self.routes.insert(route);
                }
                return (placed, clients);
            }
            placed = gateways::place(snapshot, settings);
        }
        let clients = self.join_all(changes.new, snapshot, &mut placed);
        (placed, clients)
    }

    /// Takes out what is gone, and gives hostnames to what is new. False when the changes have their say about other routes
    /// or listeners: then all must be joined anew.
    fn settle(&mut self, changes: &Changes, gateways: &[Placed<'_>]) -> bool {
        if !changes.gone.iter().all(|route| self.is_alone(route, gateways)) {
            return false;
        }
        let free: Vec<_> = changes.gone.iter().flat_map(|route| self.claims.remove(route, gateways)).collect();
        let mut new = Vec::new();
        for route in &changes.new {
            // One after another, for they may also be in each other's way.
            if !self.is_alone(route, gateways) {
                return false;
            }
            self.kinds.add(route);
            new.extend(self.claims.add(route, gateways).into_iter().map(|key| (key, route.project.clone())));
        }
        changes.gone.iter().for_each(|route| attach::detach(&mut self.builder, route));
        for key in free {
            Arc::make_mut(&mut self.owners).remove(&key);
            self.builder.disown(key.0, &key.1);
        }
        for (key, project) in new {
            self.builder.owner(key.0, &key.1, &project);
            Arc::make_mut(&mut self.owners).insert(key, project);
        }
        true
    }

    fn is_alone(&self, route: &Compiled, gateways: &[Placed<'_>]) -> bool {
        self.kinds.are_apart(route) && self.claims.are_uncontested(route, gateways)
    }

    fn join_all<'a>(
        &mut self,
        new: Vec<Compiled>,
        snapshot: &'a Snapshot,
        gateways: &mut [Placed<'a>],
    ) -> clients::Decided<'a> {
        let mut routes: Vec<Compiled> = self.routes.drain().chain(new).collect();
        routes.sort_by(|a, b| a.age().cmp(&b.age()));
        attach::find_listeners(snapshot, gateways, &mut routes);
        self.kinds = Kinds::default();
        routes.iter().for_each(|route| self.kinds.add(route));
        attach::part_http_from_grpc(&mut routes);
        (self.owners, self.claims) = owners::settle(&snapshot.owners, gateways, &mut routes);
        let policies = AllPolicies::new(snapshot);
        let clients = clients::decide(snapshot, gateways);
        self.builder = TableBuilder::default();
        attach::listen(&mut self.builder, gateways);
        for ((at, host), project) in &*self.owners {
            self.builder.owner(*at, host, project);
        }
        for mut route in routes {
            attach::attach(&mut self.builder, gateways, &policies, &mut route);
            self.routes.insert(route);
        }
        clients.arrivals().for_each(|(at, settings)| self.builder.arrive(at, settings));
        clients
    }
}

impl Surroundings {
    fn new(snapshot: &Snapshot, settings: &Settings) -> Self {
        let projects = snapshot.projects.iter();
        Self {
            projects: projects.map(|(project, objects)| (project.clone(), objects.surroundings.clone())).collect(),
            ports_unavailable: settings.ports_unavailable.clone(),
        }
    }
}

impl Kinds {
    fn add(&mut self, route: &Compiled) {
        if matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute) {
            for at in route.attachments() {
                self.0.entry((at.gateway, at.listener)).or_default().insert(route.kind);
            }
        }
    }

    /// Whether only routes of its own kind are on the listeners of `route`, and not streams.
    fn are_apart(&self, route: &Compiled) -> bool {
        let is_alone = |kinds: &BTreeSet<Kind>| kinds.iter().all(|&kind| kind == route.kind);
        matches!(route.kind, Kind::HttpRoute | Kind::GrpcRoute)
            && route.attachments().all(|at| self.0.get(&(at.gateway, at.listener)).is_none_or(is_alone))
    }
}
