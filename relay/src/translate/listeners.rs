//! One listener, of a Gateway or of a ListenerSet: what it speaks, what it presents, which routes it takes.

use std::{collections::BTreeMap, sync::Arc};

use underpass_shared::resource::{
    gateway::{
        From, FromNamespaces, FrontendTls, FrontendValidation, FrontendValidationMode, Listener, ListenerProtocol,
        RouteGroupKind, TlsMode,
    },
    selector::LabelSelector,
};

use super::{
    ProjectSnapshot,
    backends::Unresolved,
    certificates::{self, Reasons},
    grants::End,
    is_gateway_group, stop,
    unserved::Unserved,
};
use crate::route::{
    client::ClientSettings,
    host::HostPattern,
    table::Speaks,
    tls::{Clients, ServerTls},
};

/// A listener and whether it serves.
#[derive(Debug)]
pub(super) struct PlacedListener<'a> {
    pub listener: &'a Listener,
    /// Index of the ListenerSet among the Gateway's; `None` for the Gateway's own.
    pub set: Option<usize>,
    /// Of the object that has it; what `Same` means to routes.
    pub namespace: &'a str,
    pub serves: Serves,
    pub hostname: HostPattern,
    /// Why it is not accepted.
    pub trouble: Option<Trouble>,
    /// Why what it refers to is not all there.
    pub unresolved: Option<Unresolved>,
    /// How clients are dealt with, where a policy says so.
    pub clients: Option<Arc<ClientSettings>>,
    /// Whether it is told apart by hostname from others that overlap it.
    pub overlaps: bool,
    /// The kinds of routes that may attach, each once.
    kinds: Vec<&'static str>,
    /// Kinds that it allows and that its protocol cannot serve, as they are written.
    wrong_kinds: Vec<String>,
}

/// What a listener does with connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Serves {
    Http,
    Https(Arc<ServerTls>),
    /// TLS ends here, and the bytes go on.
    Terminate(Arc<ServerTls>),
    Passthrough,
    Tcp,
    Udp,
}

impl Serves {
    pub(super) fn speaks(&self) -> Speaks {
        match self {
            Self::Http => Speaks::Http,
            Self::Https(_) | Self::Terminate(_) | Self::Passthrough => Speaks::Tls,
            Self::Tcp => Speaks::Tcp,
            Self::Udp => Speaks::Udp,
        }
    }

    pub(super) fn tls_mut(&mut self) -> Option<&mut ServerTls> {
        match self {
            Self::Https(tls) | Self::Terminate(tls) => Some(Arc::make_mut(tls)),
            Self::Http | Self::Passthrough | Self::Tcp | Self::Udp => None,
        }
    }

    /// The kinds of routes that can be served.
    fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::Https(_) => &["HTTPRoute", "GRPCRoute"],
            Self::Terminate(_) | Self::Passthrough => &["TLSRoute"],
            Self::Tcp => &["TCPRoute"],
            Self::Udp => &["UDPRoute"],
        }
    }
}

/// Why a listener, or a whole Gateway, does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The reason in `Accepted`, and in `Conflicted` when it is a conflict.
    pub reason: &'static str,
    pub message: String,
}

/// The reason of a listener whose clients cannot be verified: it is there and lets nobody in.
const NO_VALID_CA: &str = "NoValidCACertificate";

impl Trouble {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.reason, "HostnameConflict" | "ProtocolConflict")
    }
}

impl<'a> PlacedListener<'a> {
    /// `found` is what the listener says that is not served.
    pub(super) fn new(listener: &'a Listener, set: Option<usize>, namespace: &'a str, found: &[Unserved]) -> Self {
        let mode = listener.tls.as_ref().map_or(TlsMode::Terminate, |tls| tls.mode);
        let serves = match (listener.protocol, mode) {
            (ListenerProtocol::Http | ListenerProtocol::Other, _) => Serves::Http,
            (ListenerProtocol::Https, _) => Serves::Https(Arc::default()),
            (ListenerProtocol::Tls, TlsMode::Terminate) => Serves::Terminate(Arc::default()),
            (ListenerProtocol::Tls, TlsMode::Passthrough) => Serves::Passthrough,
            (ListenerProtocol::Tcp, _) => Serves::Tcp,
            (ListenerProtocol::Udp, _) => Serves::Udp,
        };
        let known = listener.protocol != ListenerProtocol::Other;
        let (kinds, wrong_kinds) = if known { kinds(listener, serves.kinds()) } else { kinds(listener, &[]) };
        let written = match serves.speaks() {
            Speaks::Http | Speaks::Tls => listener.hostname.as_deref().unwrap_or_default(),
            // Upstream: the field is ignored by protocols that have no hostnames.
            Speaks::Tcp | Speaks::Udp => "",
        };
        let hostname = HostPattern::parse(written);
        let trouble = match &hostname {
            _ if !known => Some(Trouble::new("UnsupportedProtocol", "HTTP, HTTPS, TLS, TCP and UDP are served")),
            Err(error) => Some(Trouble::new("UnsupportedValue", format!("hostname: {error}"))),
            Ok(_) if listener.port == 0 => Some(Trouble::new("PortUnavailable", "port 0 cannot be listened on")),
            Ok(_) if listener.protocol == ListenerProtocol::Https && mode == TlsMode::Passthrough => {
                Some(Trouble::new("UnsupportedValue", "tls.mode Passthrough needs protocol TLS"))
            }
            Ok(_) => stop(found).map(|(reason, message)| Trouble::new(reason, message)),
        };
        let hostname = hostname.unwrap_or(HostPattern::Any);
        let (unresolved, clients, overlaps) = (None, None, false);
        Self { listener, set, namespace, serves, hostname, trouble, unresolved, clients, overlaps, kinds, wrong_kinds }
    }

    /// Finds what the listener refers to, and what the Gateway says of its clients' certificates.
    ///
    /// A listener whose certificates are missing, or whose clients nobody can vouch for, takes the place of its hostname
    /// and lets nobody in: a broader listener must not serve what is its.
    pub(super) fn resolve(&mut self, objects: &ProjectSnapshot, gateway: End<'_>, frontend: Option<&FrontendTls>) {
        let own = End {
            kind: if self.set.is_some() { "ListenerSet" } else { "Gateway" },
            namespace: self.namespace,
            ..gateway
        };
        let validation = frontend.filter(|_| matches!(self.serves, Serves::Https(_))).and_then(|frontend| {
            let of_port = frontend.per_port.iter().find(|one| one.port == self.listener.port);
            of_port.map_or(&frontend.every_port, |one| &one.tls).validation.as_ref()
        });
        let references = self.listener.tls.as_ref().map_or(&[][..], |tls| &tls.certificate_refs);
        let Some(tls) = self.serves.tls_mut() else { return };
        let reasons = Reasons { kind: "InvalidCertificateRef", content: "InvalidCertificateRef" };
        for reference in references {
            match certificates::certified(objects, own, reference, reasons) {
                Ok(certified) => tls.certificates.push(certified),
                Err(why) => drop(self.unresolved.get_or_insert(why)),
            }
        }
        let is_bare = tls.certificates.is_empty() && !references.is_empty();
        if let Some(validation) = validation {
            let (clients, why) = clients(objects, gateway, validation);
            if clients == Clients::Nobody && self.trouble.is_none() {
                let message = why.as_ref().map_or("no CA to verify clients with", |why| &*why.message);
                self.trouble = Some(Trouble::new(NO_VALID_CA, message));
            }
            tls.clients = clients;
            self.unresolved = self.unresolved.take().or(why);
        }
        if is_bare {
            tls.clients = Clients::Nobody;
        }
    }

    /// Whether a route of `kind` in `namespace` may attach.
    pub(super) fn allows(&self, kind: &str, namespace: &str, objects: &ProjectSnapshot) -> bool {
        let allowed = self.listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        self.kinds.contains(&kind) && permits(allowed, From::Same, (namespace, self.namespace), &objects.namespaces)
    }

    /// Whether clients get what they ask for.
    pub(super) fn is_served(&self) -> bool {
        let refuses = |tls: &ServerTls| tls.clients == Clients::Nobody;
        let is_closed = matches!(&self.serves, Serves::Https(tls) | Serves::Terminate(tls) if refuses(tls));
        self.trouble.is_none() && !is_closed
    }

    /// Whether it takes its place among the listeners, be it to let nobody in.
    pub(super) fn is_placed(&self) -> bool {
        self.trouble.as_ref().is_none_or(|trouble| trouble.reason == NO_VALID_CA)
    }

    pub(super) fn kinds(&self) -> impl Iterator<Item = RouteGroupKind> {
        let group = "gateway.networking.k8s.io";
        self.kinds.iter().map(|kind| RouteGroupKind { group: group.to_owned(), kind: (*kind).to_owned() })
    }

    /// Why `ResolvedRefs` is false, if it is.
    pub(super) fn reference_trouble(&self) -> Option<(&'static str, String)> {
        if let Some(why) = &self.unresolved {
            return Some((why.reason, why.message.clone()));
        }
        let wrong = self.wrong_kinds.join(", ");
        (!wrong.is_empty())
            .then(|| ("InvalidRouteKinds", format!("allowedRoutes.kinds: the listener cannot serve {wrong}")))
    }
}

/// Whether something in the first of `namespaces` may attach to something in the second.
pub(super) fn permits(
    allowed: Option<&FromNamespaces>,
    default: From,
    (namespace, own): (&str, &str),
    labels: &BTreeMap<String, BTreeMap<String, String>>,
) -> bool {
    match allowed.map_or(default, |namespaces| namespaces.from) {
        From::All => true,
        From::Same => namespace == own,
        From::None => false,
        From::Selector => {
            let selector: Option<&LabelSelector> = allowed.and_then(|namespaces| namespaces.selector.as_ref());
            labels.get(namespace).zip(selector).is_some_and(|(labels, selector)| selector.chooses(labels))
        }
    }
}

/// Whom the CAs of `validation` let in, and what is wrong with them.
fn clients(
    objects: &ProjectSnapshot,
    gateway: End<'_>,
    validation: &FrontendValidation,
) -> (Clients, Option<Unresolved>) {
    let reasons = Reasons { kind: "InvalidCACertificateKind", content: "InvalidCACertificateRef" };
    let (mut all, mut trouble) = (Vec::new(), None);
    for reference in &validation.ca_certificate_refs {
        match certificates::authorities(objects, gateway, reference, reasons) {
            Ok(found) => all.extend(found),
            Err(why) => drop(trouble.get_or_insert(why)),
        }
    }
    let clients = match validation.mode {
        _ if all.is_empty() => Clients::Nobody,
        FrontendValidationMode::AllowValidOnly => Clients::Valid(all),
        FrontendValidationMode::AllowInsecureFallback => Clients::ValidOrNot(all),
    };
    (clients, trouble)
}

/// The kinds of routes that a listener takes of those that it can serve, and those that it names in vain.
fn kinds(listener: &Listener, served: &'static [&'static str]) -> (Vec<&'static str>, Vec<String>) {
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
