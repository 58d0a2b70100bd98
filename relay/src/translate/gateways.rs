//! Gateways with the ListenerSets that add to them: which listeners can be served, and which stand in each other's way.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
    sync::Arc,
};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        gateway::{From, FrontendValidationMode, Gateway, ListenerSet},
        kind::Kind,
        metadata::Metadata,
    },
};

use super::{
    Place, ProjectSnapshot, Settings, Snapshot,
    addresses::{self, Addresses},
    backends::Unresolved,
    certificates::{self, Reasons},
    class_names, created,
    grants::End,
    is_gateway_group,
    listeners::{PlacedListener, Serves, Trouble, permits},
    proxies, stop,
    unserved::Unserved,
};
use crate::route::{
    host::HostPattern,
    table::{ListenAddress, Speaks},
    tls::Certified,
};

/// A Gateway of ours with its listeners.
#[derive(Debug)]
pub(super) struct Placed<'a> {
    pub project: &'a ProjectName,
    pub place: Place<'a>,
    pub created: i64,
    pub gateway: &'a Gateway,
    /// The objects of its project.
    pub objects: &'a ProjectSnapshot,
    /// The Gateway's own, then those of its ListenerSets in their order.
    pub listeners: Vec<PlacedListener<'a>>,
    /// Those that refer to it, oldest first.
    pub sets: Vec<PlacedSet<'a>>,
    pub addresses: Addresses,
    /// What backends are shown, or why there is no such certificate; `None` when none is asked for.
    pub identity: Option<Result<Arc<Certified>, Unresolved>>,
    /// Why none of the listeners serves, where that is the Gateway's own fault.
    pub stopped: Option<Trouble>,
    /// What the Gateway says that is not served.
    pub unserved: Vec<Unserved>,
}

/// A ListenerSet of a Gateway of ours.
#[derive(Debug)]
pub(super) struct PlacedSet<'a> {
    pub place: Place<'a>,
    pub set: &'a ListenerSet,
    /// Why none of its listeners is looked at.
    pub trouble: Option<Trouble>,
}

/// All Gateways of ours, oldest first, with conflicts of ports and protocols found.
///
/// Conflicts of hostnames between projects come later, in [`super::owners`].
pub(super) fn place<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Vec<Placed<'a>> {
    let mut gateways = Vec::new();
    for (project, objects) in &snapshot.projects {
        let (ours, _) = class_names(objects);
        let of_ours = objects.gateways.iter().filter(|gateway| ours.contains(&*gateway.spec.gateway_class_name));
        let mut sets = sets_by_gateway(objects);
        for gateway in of_ours {
            let sets = sets.remove(&Place::of(&gateway.metadata)).unwrap_or_default();
            gateways.push(Placed::new(project, objects, gateway, sets));
        }
    }
    gateways.sort_by(|a, b| (a.created, a.project, &a.place).cmp(&(b.created, b.project, &b.place)));
    let assigned = addresses::assign(gateways.iter().map(|gateway| gateway.gateway), settings);
    for (gateway, addresses) in gateways.iter_mut().zip(assigned) {
        gateway.addresses = addresses;
        gateway.check_addresses(settings);
        find_conflicts_of_own(&mut gateway.listeners);
        find_conflicts_of_sets(&mut gateway.listeners);
        find_overlaps(&mut gateway.listeners);
    }
    find_conflicts_between(&mut gateways);
    gateways
}

/// The ListenerSets by the Gateway that they refer to, oldest first.
fn sets_by_gateway(objects: &ProjectSnapshot) -> BTreeMap<Place<'_>, Vec<&ListenerSet>> {
    let mut by_gateway: BTreeMap<Place<'_>, Vec<&ListenerSet>> = BTreeMap::new();
    for set in &objects.listener_sets {
        if let Some(place) = gateway_of(set) {
            by_gateway.entry(place).or_default().push(set);
        }
    }
    let age = |metadata: &Metadata| (created(metadata), Place::of(metadata).to_string());
    for sets in by_gateway.values_mut() {
        sets.sort_by_cached_key(|set| age(&set.metadata));
    }
    by_gateway
}

/// The Gateway that a ListenerSet adds to, if it is one.
pub(super) fn gateway_of(set: &ListenerSet) -> Option<Place<'_>> {
    let parent = &set.spec.parent_ref;
    let is_gateway =
        is_gateway_group(parent.group.as_deref()) && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway";
    let namespace = parent.namespace.as_deref().unwrap_or(Place::of(&set.metadata).namespace);
    is_gateway.then_some(Place { namespace, name: &parent.name })
}

impl<'a> Placed<'a> {
    fn new(
        project: &'a ProjectName,
        objects: &'a ProjectSnapshot,
        gateway: &'a Gateway,
        sets: Vec<&'a ListenerSet>,
    ) -> Self {
        let found = objects.unserved(Kind::Gateway, &gateway.metadata);
        let (of_listeners, unserved): (Vec<_>, Vec<_>) =
            found.iter().cloned().partition(|field| field.path.starts_with("spec.listeners["));
        let of_class = || {
            let name = &gateway.spec.gateway_class_name;
            let class = objects.gateway_classes.iter().find(|class| class.metadata.name == *name)?;
            let missing =
                || Some(("InvalidParameters", proxies::missing(objects, class.spec.parameters_ref.as_ref())?));
            let (reason, message) = stop(objects.unserved(Kind::GatewayClass, &class.metadata)).or_else(missing)?;
            Some(Trouble::new(reason, format!("GatewayClass {name} is not accepted: {message}")))
        };
        let own = stop(&unserved).map(|(reason, message)| Trouble::new(reason, message));
        let reference = gateway.spec.infrastructure.as_ref().and_then(|of| of.parameters_ref.as_ref());
        let missing = || Some(Trouble::new("InvalidParameters", proxies::missing(objects, reference)?));
        let mut placed = Self {
            project,
            place: Place::of(&gateway.metadata),
            created: created(&gateway.metadata),
            gateway,
            objects,
            listeners: Vec::new(),
            sets: Vec::new(),
            addresses: Addresses::none(),
            identity: None,
            stopped: own.or_else(missing).or_else(of_class),
            unserved,
        };
        for (index, listener) in gateway.spec.listeners.iter().enumerate() {
            let found: Vec<_> = of_listeners.iter().filter(|field| field.item == Some(index)).cloned().collect();
            placed.listeners.push(PlacedListener::new(listener, None, placed.place.namespace, &found));
        }
        sets.into_iter().for_each(|set| placed.add_set(set));
        placed.resolve();
        placed
    }

    /// Adds the listeners of `set` if the Gateway lets it.
    fn add_set(&mut self, set: &'a ListenerSet) {
        let (place, index) = (Place::of(&set.metadata), self.sets.len());
        let allowed = self.gateway.spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let namespaces = (place.namespace, self.place.namespace);
        let trouble = if let Some(stopped) = &self.stopped {
            Some(Trouble::new("ParentNotAccepted", format!("Gateway {}: {}", self.place, stopped.message)))
        } else if permits(allowed, From::None, namespaces, &self.objects.namespaces) {
            None
        } else {
            let message =
                format!("Gateway {} takes no ListenerSets of this namespace: see its allowedListeners", self.place);
            Some(Trouble::new("NotAllowed", message))
        };
        if trouble.is_none() {
            let found = self.objects.unserved(Kind::ListenerSet, &set.metadata);
            for (item, listener) in set.spec.listeners.iter().enumerate() {
                let found: Vec<_> = found.iter().filter(|field| field.item == Some(item)).cloned().collect();
                self.listeners.push(PlacedListener::new(listener, Some(index), place.namespace, &found));
            }
        }
        self.sets.push(PlacedSet { place, set, trouble });
    }

    /// Finds the certificates of all listeners, and the Gateway's own.
    fn resolve(&mut self) {
        let group = "gateway.networking.k8s.io";
        let own = End { group, kind: "Gateway", namespace: self.place.namespace };
        let tls = self.gateway.spec.tls.as_ref();
        let frontend = tls.and_then(|tls| tls.frontend.as_ref());
        for placed in &mut self.listeners {
            placed.resolve(self.objects, own, frontend);
            if let (Some(stopped), None) = (&self.stopped, &placed.trouble) {
                placed.trouble = Some(Trouble::new("UnsupportedValue", format!("the Gateway: {}", stopped.message)));
            }
        }
        let reference = tls.and_then(|tls| tls.backend.as_ref()).and_then(|tls| tls.client_certificate_ref.as_ref());
        let reasons = Reasons { kind: "InvalidClientCertificateRef", content: "InvalidClientCertificateRef" };
        self.identity = reference.map(|reference| certificates::certified(self.objects, own, reference, reasons));
    }

    /// Stops the listeners of a Gateway that is not reached, and those whose sockets could not be had.
    fn check_addresses(&mut self, settings: &Settings) {
        for placed in self.listeners.iter_mut().filter(|placed| placed.is_placed()) {
            let port = placed.listener.port;
            let mut at = self.addresses.listen.iter().map(|&address| ListenAddress { address, port });
            let unavailable = match &self.addresses.trouble {
                Some(trouble) => Some(trouble.clone()),
                None => at
                    .find_map(|at| settings.ports_unavailable.get(&at))
                    .map(|why| Trouble::new("PortUnavailable", why)),
            };
            placed.trouble = unavailable.or_else(|| placed.trouble.take());
        }
    }

    /// Whether some port lets in clients whose certificates nobody vouches for, though it asks for them.
    pub(super) fn is_lax(&self) -> bool {
        let frontend = self.gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
        let every = frontend.iter().map(|frontend| &frontend.every_port);
        let per_port = frontend.iter().flat_map(|frontend| &frontend.per_port).map(|one| &one.tls);
        let mut modes = every.chain(per_port).filter_map(|one| Some(one.validation.as_ref()?.mode));
        modes.any(|mode| mode == FrontendValidationMode::AllowInsecureFallback)
    }
}

/// TCP and UDP may share a port number.
fn socket(placed: &PlacedListener<'_>) -> (u16, bool) {
    (placed.listener.port, placed.serves.speaks() == Speaks::Udp)
}

/// Of a Gateway's own listeners, all that cannot be told apart lose.
fn find_conflicts_of_own(listeners: &mut [PlacedListener<'_>]) {
    let is_own = |placed: &PlacedListener<'_>| placed.set.is_none() && placed.is_placed();
    let mut spoken: BTreeMap<(u16, bool), BTreeSet<Speaks>> = BTreeMap::new();
    let mut hostnames: BTreeMap<((u16, bool), HostPattern), usize> = BTreeMap::new();
    for placed in listeners.iter().filter(|placed| is_own(placed)) {
        spoken.entry(socket(placed)).or_default().insert(placed.serves.speaks());
        *hostnames.entry((socket(placed), placed.hostname.clone())).or_default() += 1;
    }
    for placed in listeners.iter_mut().filter(|placed| is_own(placed)) {
        let port = placed.listener.port;
        if spoken[&socket(placed)].len() > 1 {
            let message = format!("listeners of this Gateway want different protocols on port {port}");
            placed.trouble = Some(Trouble::new("ProtocolConflict", message));
        } else if hostnames[&(socket(placed), placed.hostname.clone())] > 1 {
            let message = format!("another listener of this Gateway has port {port} and the same hostname");
            placed.trouble = Some(Trouble::new("HostnameConflict", message));
        }
    }
}

/// Listeners of ListenerSets lose against the Gateway's own and against those before them.
fn find_conflicts_of_sets(listeners: &mut [PlacedListener<'_>]) {
    let mut spoken: BTreeMap<(u16, bool), Speaks> = BTreeMap::new();
    let mut hostnames: BTreeSet<((u16, bool), HostPattern)> = BTreeSet::new();
    for placed in listeners.iter_mut().filter(|placed| placed.is_placed()) {
        let (port, speaks) = (placed.listener.port, placed.serves.speaks());
        if *spoken.entry(socket(placed)).or_insert(speaks) != speaks {
            let message = format!("a listener that comes before speaks another protocol on port {port}");
            placed.trouble = Some(Trouble::new("ProtocolConflict", message));
        } else if !hostnames.insert((socket(placed), placed.hostname.clone())) {
            let message = format!("a listener that comes before has port {port} and the same hostname");
            placed.trouble = Some(Trouble::new("HostnameConflict", message));
        }
    }
}

/// Marks listeners over TLS whose hostnames overlap: one connection may carry requests for both (RFC 9113 §9.1.1).
fn find_overlaps(listeners: &mut [PlacedListener<'_>]) {
    let mut by_port: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, placed) in listeners.iter().enumerate() {
        if placed.is_placed() && placed.serves.speaks() == Speaks::Tls {
            by_port.entry(placed.listener.port).or_default().push(index);
        }
    }
    for group in by_port.into_values() {
        for (at, &one) in group.iter().enumerate() {
            for &other in &group[at + 1..] {
                if listeners[one].hostname.intersect(&listeners[other].hostname).is_some() {
                    (listeners[one].overlaps, listeners[other].overlaps) = (true, true);
                }
            }
        }
    }
}

/// Between Gateways that share an address, the oldest decides what is spoken on a port, and of a name over TLS what for.
fn find_conflicts_between(gateways: &mut [Placed<'_>]) {
    let mut spoken: BTreeMap<(ListenAddress, bool), (usize, Speaks)> = BTreeMap::new();
    let mut names: BTreeMap<(ListenAddress, HostPattern), Serves> = BTreeMap::new();
    for (index, Placed { listeners, addresses, .. }) in gateways.iter_mut().enumerate() {
        for placed in listeners.iter_mut().filter(|placed| placed.is_placed()) {
            let (port, speaks) = (placed.listener.port, placed.serves.speaks());
            for at in addresses.listen.iter().map(|&address| ListenAddress { address, port }) {
                let (first, other) = *spoken.entry((at, speaks == Speaks::Udp)).or_insert((index, speaks));
                if other != speaks {
                    let message = format!("an older Gateway speaks another protocol on port {port}");
                    placed.trouble = Some(Trouble::new("ProtocolConflict", message));
                } else if matches!(speaks, Speaks::Tcp | Speaks::Udp) && first != index {
                    let message = format!("an older Gateway has port {port}, which cannot be shared without hostnames");
                    placed.trouble = Some(Trouble::new("HostnameConflict", message));
                } else if speaks == Speaks::Tls {
                    let known = names.entry((at, placed.hostname.clone())).or_insert_with(|| placed.serves.clone());
                    if discriminant(known) != discriminant(&placed.serves) {
                        let message = format!("an older Gateway serves {} otherwise on port {port}", placed.hostname);
                        placed.trouble = Some(Trouble::new("HostnameConflict", message));
                    }
                }
            }
        }
    }
}
