//! Gateways: which of their listeners can be served, which stand in each other's way, and what their status says.

use std::collections::{BTreeMap, BTreeSet};

use underpass_shared::{
    identity::ProjectName,
    resource::{
        condition::Condition,
        gateway::{From, Gateway, GatewayStatus, Listener, ListenerProtocol, ListenerStatus, RouteGroupKind},
        kind::Kind,
    },
};

use super::{
    Place, ProjectSnapshot, Settings, Snapshot, Status, WantedStatus,
    addresses::{self, Addresses},
    class_names, conditions, created, generation, is_gateway_group, mention,
    routes::Compiled,
    stop,
    unserved::Unserved,
};
use crate::route::{
    host::HostPattern,
    table::{ListenAddress, Scheme},
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
    pub listeners: Vec<PlacedListener<'a>>,
    pub addresses: Addresses,
    /// Why none of the listeners serves, where that is the Gateway's own fault.
    stopped: Option<Trouble>,
    /// What the Gateway says that is not served.
    unserved: Vec<Unserved>,
}

/// A listener and whether it serves.
#[derive(Debug)]
pub(super) struct PlacedListener<'a> {
    pub listener: &'a Listener,
    pub scheme: Scheme,
    pub hostname: HostPattern,
    pub trouble: Option<Trouble>,
    /// The kinds of routes that may attach, each once.
    kinds: Vec<&'static str>,
    /// Kinds that it allows and that its protocol cannot serve, as they are written.
    wrong_kinds: Vec<String>,
    /// Whether the listener asks for what is not served, so that what it refers to was not looked at.
    asks_too_much: bool,
}

/// Why a listener does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The reason in `Accepted`, and in `Conflicted` when it is a conflict.
    pub reason: &'static str,
    pub message: String,
}

impl Trouble {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    fn is_conflict(&self) -> bool {
        matches!(self.reason, "HostnameConflict" | "ProtocolConflict")
    }
}

/// All Gateways of ours, oldest first, with conflicts of ports and protocols found.
///
/// Conflicts of hostnames between projects come later, in [`super::owners`].
pub(super) fn place<'a>(snapshot: &'a Snapshot, settings: &Settings) -> Vec<Placed<'a>> {
    let mut gateways = Vec::new();
    for (project, objects) in &snapshot.projects {
        let (ours, _) = class_names(objects);
        let of_ours = objects.gateways.iter().filter(|gateway| ours.contains(&*gateway.spec.gateway_class_name));
        gateways.extend(of_ours.map(|gateway| Placed::new(project, objects, gateway)));
    }
    gateways.sort_by(|a, b| (a.created, a.project, &a.place).cmp(&(b.created, b.project, &b.place)));
    let assigned = addresses::assign(gateways.iter().map(|gateway| gateway.gateway), settings);
    for (gateway, addresses) in gateways.iter_mut().zip(assigned) {
        gateway.addresses = addresses;
        gateway.check_addresses(settings);
    }
    for gateway in &mut gateways {
        find_conflicts_within(&mut gateway.listeners);
    }
    find_protocol_conflicts(&mut gateways);
    gateways
}

impl<'a> Placed<'a> {
    fn new(project: &'a ProjectName, objects: &'a ProjectSnapshot, gateway: &'a Gateway) -> Self {
        let found = objects.unserved(Kind::Gateway, &gateway.metadata);
        let (of_listeners, unserved): (Vec<_>, Vec<_>) =
            found.iter().cloned().partition(|field| field.path.starts_with("spec.listeners["));
        let of_class = || {
            let name = &gateway.spec.gateway_class_name;
            let class = objects.gateway_classes.iter().find(|class| class.metadata.name == *name)?;
            let (reason, message) = stop(objects.unserved(Kind::GatewayClass, &class.metadata))?;
            Some(Trouble::new(reason, format!("GatewayClass {name} is not accepted: {message}")))
        };
        let own = stop(&unserved).map(|(reason, message)| Trouble::new(reason, message));
        let stopped = own.or_else(of_class);
        let listeners = gateway.spec.listeners.iter().enumerate().map(|(index, listener)| {
            let found: Vec<_> = of_listeners.iter().filter(|field| field.item == Some(index)).cloned().collect();
            let mut placed = PlacedListener::new(listener, &found);
            if let (Some(stopped), None) = (&stopped, &placed.trouble) {
                placed.trouble = Some(Trouble::new("UnsupportedValue", format!("the Gateway: {}", stopped.message)));
            }
            placed
        });
        let (place, created) = (Place::of(&gateway.metadata), created(&gateway.metadata));
        let listeners = listeners.collect();
        let addresses = Addresses { listen: Vec::new(), shown: Vec::new(), trouble: None };
        Self { project, place, created, gateway, objects, listeners, addresses, stopped, unserved }
    }

    /// Stops the listeners of a Gateway that is not reached, and those whose sockets could not be had.
    fn check_addresses(&mut self, settings: &Settings) {
        for placed in self.listeners.iter_mut().filter(|placed| placed.serves()) {
            let port = placed.listener.port;
            let mut at = self.addresses.listen.iter().map(|&address| ListenAddress { address, port });
            placed.trouble = match &self.addresses.trouble {
                Some(trouble) => Some(trouble.clone()),
                None => at
                    .find_map(|at| settings.ports_unavailable.get(&at))
                    .map(|why| Trouble::new("PortUnavailable", why)),
            };
        }
    }
}

impl<'a> PlacedListener<'a> {
    fn new(listener: &'a Listener, found: &[Unserved]) -> Self {
        // The scheme of a listener that is not served is never looked at.
        let (scheme, known) = match listener.protocol {
            ListenerProtocol::Http => (Scheme::Http, true),
            ListenerProtocol::Https => (Scheme::Https, true),
            ListenerProtocol::Other => (Scheme::Http, false),
        };
        if let Some((reason, message)) = stop(found) {
            return Self::not_served(listener, scheme, Trouble::new(reason, message));
        }
        if !known {
            let trouble = Trouble::new("UnsupportedProtocol", "only HTTP and HTTPS are served yet");
            return Self::not_served(listener, scheme, trouble);
        }
        let hostname = HostPattern::parse(listener.hostname.as_deref().unwrap_or_default());
        let trouble = match &hostname {
            Err(error) => Some(Trouble::new("UnsupportedValue", format!("hostname: {error}"))),
            Ok(_) if listener.port == 0 => Some(Trouble::new("PortUnavailable", "port 0 cannot be listened on")),
            Ok(_) => None,
        };
        let (kinds, wrong_kinds) = kinds(listener);
        let hostname = hostname.unwrap_or(HostPattern::Any);
        Self { listener, scheme, hostname, trouble, kinds, wrong_kinds, asks_too_much: false }
    }

    /// Whether a route of `kind` in `namespace` may attach, on a Gateway in `own`.
    pub(super) fn allows(&self, kind: &str, namespace: &str, own: &str, objects: &ProjectSnapshot) -> bool {
        let allowed = self.listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let from_there = match allowed.map_or(From::Same, |namespaces| namespaces.from) {
            From::All => true,
            From::Same => namespace == own,
            From::None => false,
            From::Selector => {
                let labels = objects.namespaces.get(namespace);
                let selector = allowed.and_then(|namespaces| namespaces.selector.as_ref());
                labels.zip(selector).is_some_and(|(labels, selector)| selector.chooses(labels))
            }
        };
        from_there && self.kinds.contains(&kind)
    }

    fn not_served(listener: &'a Listener, scheme: Scheme, trouble: Trouble) -> Self {
        // Nothing is served under it, but routes are told whether their hostnames would fit.
        let hostname = HostPattern::parse(listener.hostname.as_deref().unwrap_or_default());
        let hostname = hostname.unwrap_or(HostPattern::Any);
        let (kinds, wrong_kinds) = kinds(listener);
        Self { listener, scheme, hostname, trouble: Some(trouble), kinds, wrong_kinds, asks_too_much: true }
    }

    pub(super) fn serves(&self) -> bool {
        self.trouble.is_none()
    }
}

/// The kinds of routes that a listener takes, and those that it names in vain.
fn kinds(listener: &Listener) -> (Vec<&'static str>, Vec<String>) {
    let served: &[&'static str] = match listener.protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => &["HTTPRoute", "GRPCRoute"],
        ListenerProtocol::Other => &[],
    };
    let written = listener.allowed_routes.as_ref().map_or(&[][..], |allowed| &allowed.kinds);
    if written.is_empty() {
        return (served.to_vec(), Vec::new());
    }
    let is_named = |kind: &&&str| written.iter().any(|one| one.kind == **kind && is_group(&one.group));
    let kinds: Vec<&'static str> = served.iter().filter(is_named).copied().collect();
    let is_wrong = |one: &&RouteGroupKind| !served.contains(&one.kind.as_str()) || !is_group(&one.group);
    let wrong = written.iter().filter(is_wrong).map(|one| format!("{}/{}", one.group, one.kind)).collect();
    (kinds, wrong)
}

fn is_group(group: &str) -> bool {
    group.is_empty() || is_gateway_group(Some(group))
}

/// Inside one Gateway all listeners that cannot be told apart lose.
fn find_conflicts_within(listeners: &mut [PlacedListener<'_>]) {
    let mut schemes: BTreeMap<u16, BTreeSet<Scheme>> = BTreeMap::new();
    let mut hostnames: BTreeMap<(u16, HostPattern), usize> = BTreeMap::new();
    for placed in listeners.iter().filter(|placed| placed.serves()) {
        schemes.entry(placed.listener.port).or_default().insert(placed.scheme);
        *hostnames.entry((placed.listener.port, placed.hostname.clone())).or_default() += 1;
    }
    for placed in listeners.iter_mut().filter(|placed| placed.serves()) {
        let port = placed.listener.port;
        if schemes[&port].len() > 1 {
            let message = format!("listeners of this Gateway want both HTTP and HTTPS on port {port}");
            placed.trouble = Some(Trouble::new("ProtocolConflict", message));
        } else if hostnames[&(port, placed.hostname.clone())] > 1 {
            let message = format!("another listener of this Gateway has port {port} and the same hostname");
            placed.trouble = Some(Trouble::new("HostnameConflict", message));
        }
    }
}

/// Between Gateways, the oldest decides what is spoken on a port.
fn find_protocol_conflicts(gateways: &mut [Placed<'_>]) {
    let mut schemes: BTreeMap<ListenAddress, Scheme> = BTreeMap::new();
    for Placed { listeners, addresses, .. } in gateways {
        for placed in listeners.iter_mut().filter(|placed| placed.serves()) {
            let port = placed.listener.port;
            let mut at = addresses.listen.iter().map(|&address| ListenAddress { address, port });
            if at.any(|at| *schemes.entry(at).or_insert(placed.scheme) != placed.scheme) {
                let message = format!("an older Gateway speaks another protocol on port {port}");
                placed.trouble = Some(Trouble::new("ProtocolConflict", message));
            }
        }
    }
}

/// What the Gateways' statuses must say: ours, and those whose class nobody knows.
pub(super) fn wanted(gateways: &[Placed<'_>], routes: &[Compiled<'_>], snapshot: &Snapshot) -> Vec<WantedStatus> {
    let mut wanted: Vec<_> = gateways
        .iter()
        .enumerate()
        .map(|(index, gateway)| {
            let attached = |listener: usize| routes.iter().filter(|route| route.is_attached(index, listener)).count();
            status_of(gateway.project, gateway.gateway, gateway.status(attached))
        })
        .collect();
    for (project, objects) in &snapshot.projects {
        let (_, known) = class_names(objects);
        let orphans = objects.gateways.iter().filter(|gateway| !known.contains(&*gateway.spec.gateway_class_name));
        wanted.extend(orphans.map(|gateway| status_of(project, gateway, waiting(gateway))));
    }
    wanted
}

fn status_of(project: &ProjectName, gateway: &Gateway, status: GatewayStatus) -> WantedStatus {
    WantedStatus {
        project: project.clone(),
        namespace: Some(Place::of(&gateway.metadata).namespace.to_owned()),
        name: gateway.metadata.name.clone(),
        status: Status::Gateway(status),
    }
}

fn waiting(gateway: &Gateway) -> GatewayStatus {
    let message = format!("GatewayClass {} does not exist", gateway.spec.gateway_class_name);
    let at = generation(&gateway.metadata);
    let conditions = ["Accepted", "Programmed"].map(|kind| conditions::unknown(at, kind, "Pending", message.clone()));
    GatewayStatus { conditions: conditions.into(), ..GatewayStatus::default() }
}

impl Placed<'_> {
    fn status(&self, attached: impl Fn(usize) -> usize) -> GatewayStatus {
        let at = generation(&self.gateway.metadata);
        let serving = self.listeners.iter().filter(|placed| placed.serves()).count();
        let unsupported = self.addresses.trouble.as_ref().filter(|trouble| trouble.reason == "UnsupportedAddress");
        let unreached = self.addresses.trouble.as_ref().filter(|trouble| trouble.reason != "UnsupportedAddress");
        let accepted = match (self.listeners.len(), self.stopped.as_ref().or(unsupported)) {
            (_, Some(stopped)) => conditions::no(at, "Accepted", stopped.reason, &stopped.message),
            (0, None) => conditions::no(at, "Accepted", "ListenersNotValid", "the Gateway has no listener"),
            (_, None) if serving == 0 && unreached.is_none() => {
                conditions::no(at, "Accepted", "ListenersNotValid", "no listener can be served")
            }
            (all, None) if serving < all => {
                let message = format!("{} of {all} listeners cannot be served: see their conditions", all - serving);
                conditions::yes(at, "Accepted", "ListenersNotValid", mention(&message, &self.unserved))
            }
            (_, None) => conditions::yes(at, "Accepted", "Accepted", mention("the Gateway is served", &self.unserved)),
        };
        let programmed = match (serving, unreached) {
            (0, Some(trouble)) => conditions::no(at, "Programmed", trouble.reason, &trouble.message),
            (0, None) => conditions::no(at, "Programmed", "Invalid", "no listener can be served"),
            _ => conditions::yes(at, "Programmed", "Programmed", "the listeners are open"),
        };
        let listeners = self.listeners.iter().enumerate();
        GatewayStatus {
            addresses: self.addresses.shown.clone(),
            conditions: vec![accepted, programmed],
            listeners: listeners.map(|(index, placed)| placed.status(at, attached(index))).collect(),
        }
    }
}

impl PlacedListener<'_> {
    fn status(&self, generation: i64, attached_routes: usize) -> ListenerStatus {
        let group = "gateway.networking.k8s.io";
        let kinds = self.kinds.iter().map(|kind| RouteGroupKind { group: group.to_owned(), kind: (*kind).to_owned() });
        ListenerStatus {
            name: self.listener.name.clone(),
            supported_kinds: kinds.collect(),
            attached_routes: i32::try_from(attached_routes).unwrap_or(i32::MAX),
            conditions: self.conditions(generation),
        }
    }

    fn conditions(&self, at: i64) -> Vec<Condition> {
        let resolved = match self.scheme {
            Scheme::Http => "there is nothing to resolve",
            Scheme::Https => "TLS is served with the relay's self-issued certificate",
        };
        let resolved = if self.asks_too_much {
            conditions::unknown(
                at,
                "ResolvedRefs",
                "Pending",
                "not looked at: the listener asks for what is not served",
            )
        } else if !self.wrong_kinds.is_empty() {
            let message = format!("allowedRoutes.kinds: the listener cannot serve {}", self.wrong_kinds.join(", "));
            conditions::no(at, "ResolvedRefs", "InvalidRouteKinds", message)
        } else {
            conditions::yes(at, "ResolvedRefs", "ResolvedRefs", resolved)
        };
        let no_conflict = || conditions::no(at, "Conflicted", "NoConflicts", "the listener stands in nobody's way");
        match &self.trouble {
            None => vec![
                conditions::yes(at, "Accepted", "Accepted", "the listener is served"),
                conditions::yes(at, "Programmed", "Programmed", "the listener is open"),
                resolved,
                no_conflict(),
            ],
            Some(trouble) => vec![
                conditions::no(at, "Accepted", trouble.reason, &trouble.message),
                conditions::no(at, "Programmed", "Invalid", &trouble.message),
                resolved,
                if trouble.is_conflict() {
                    conditions::yes(at, "Conflicted", trouble.reason, &trouble.message)
                } else {
                    no_conflict()
                },
            ],
        }
    }
}
