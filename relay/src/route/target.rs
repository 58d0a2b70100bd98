//! Where a rule sends requests: backends with weights, their endpoints, and how to speak to them.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use underpass_shared::identity::{NodeName, ProjectName};

use super::{
    balance,
    filter::{Filters, Retry, Timeouts},
    fleet::{Ask, Fleet, Held},
    lookup::Lookup,
    session::Session,
    tls::{Certified, UpstreamTls},
    traffic::Traffic,
};
use crate::{
    proxy_protocol::{Addresses, Header, Version, encode},
    tunnel::FlowTarget,
};

/// One place that serves requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// A service behind an agent.
    Node(FlowTarget),
    Address(SocketAddr),
    /// A DNS name, resolved when a connection is made; with `lookup` one that a request named.
    Host {
        name: Box<str>,
        port: u16,
        lookup: Option<Arc<Lookup>>,
    },
    /// Whatever host a request names, at this port: see [`Upstream::towards`].
    Asked {
        lookup: Arc<Lookup>,
        port: u16,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(target) => write!(f, "node {} port {}", target.node, target.port),
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port, .. } => write!(f, "{name}:{port}"),
            Self::Asked { port, .. } => write!(f, "the request's host, port {port}"),
        }
    }
}

/// How the relay speaks to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http1,
    /// HTTP/2: in the clear with prior knowledge (RFC 9113 §3.3), or over TLS.
    Http2,
    /// Over TLS, whichever of the two the endpoint prefers (ALPN).
    Either,
}

/// What a pooled connection is good for: connections are never shared between projects, endpoints or protocols.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    pub project: ProjectName,
    pub endpoint: Endpoint,
    pub protocol: Protocol,
    /// In the clear without it.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What each connection begins with, to say for whom it is.
    pub announces: Option<Announces>,
    pub link: Link,
}

/// Without what hardly ever tells two apart, such as certificates: it is hashed for each request.
impl Hash for Upstream {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.endpoint, self.protocol, &self.announces).hash(state);
    }
}

/// How connections are made and kept; what is `None` is as the relay does it by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// How long connecting may take, TLS included.
    pub connect: Option<Duration>,
    pub keepalive: Option<Keepalive>,
}

/// How peers that went away without a word are noticed (TCP keep-alive). Services behind agents have no socket here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keepalive {
    /// How long without traffic.
    pub idle: Option<Duration>,
    /// Between two probes.
    pub interval: Option<Duration>,
    /// As many without an answer mean that the peer is gone.
    pub probes: Option<u32>,
}

impl Link {
    /// These settings, and those of `below` where there are none.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self { connect: self.connect.or(below.connect), keepalive: self.keepalive.or(below.keepalive) }
    }
}

/// Backends are told who the client is by the PROXY protocol, so that a connection serves one client only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Announces {
    pub version: Version,
    /// The client, and where it connected to; unknown until there is a client.
    pub of: Option<Addresses>,
}

impl Upstream {
    /// An endpoint behind `node` of `project`.
    #[must_use]
    pub fn node(project: &ProjectName, node: &NodeName, port: u16, protocol: Protocol) -> Self {
        let target = FlowTarget { project: project.clone(), node: node.clone(), agent: None, port };
        Self {
            project: project.clone(),
            endpoint: Endpoint::Node(target),
            protocol,
            tls: None,
            announces: None,
            link: Link::default(),
        }
    }

    /// The same upstream for a connection that `client` made to `local`: another one where clients are announced.
    #[must_use]
    pub fn on_behalf_of(self: &Arc<Self>, client: SocketAddr, local: SocketAddr) -> Arc<Self> {
        match self.announces {
            None => self.clone(),
            Some(Announces { version, .. }) => {
                let announces = Some(Announces { version, of: Addresses::new(client, local) });
                Arc::new(Self { announces, ..Self::clone(self) })
            }
        }
    }
}

impl Upstream {
    /// The same upstream for a request to `host`, a name or an address as it stands in an authority: another one where
    /// requests name their hosts. Over TLS that is the name to be verified, unless a policy has set one.
    #[must_use]
    pub fn towards(self: Arc<Self>, host: &str) -> Arc<Self> {
        let Endpoint::Asked { lookup, port } = &self.endpoint else { return self };
        let name = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let tls = self.tls.as_ref().map(|tls| match &*tls.server_name {
            "" => Arc::new(UpstreamTls { server_name: name.as_str().into(), ..UpstreamTls::clone(tls) }),
            _ => tls.clone(),
        });
        let endpoint = match name.parse::<IpAddr>() {
            Ok(ip) => Endpoint::Address(SocketAddr::new(ip, *port)),
            Err(_) => Endpoint::Host { name: name.into(), port: *port, lookup: Some(lookup.clone()) },
        };
        Arc::new(Self { endpoint, tls, ..Self::clone(&self) })
    }
}

impl Announces {
    /// As bytes.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        encode(self.version, &self.of.map_or(Header::Local, Header::Proxied))
    }
}

/// What one backend reference of a rule turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The endpoints of a Backend, never empty; each is as good as the other.
    Upstreams(Vec<Arc<Upstream>>),
    /// The endpoints of a backend that a policy is for.
    Fleet(Arc<Fleet>),
    /// The reference leads nowhere: its share of the requests gets this answer.
    Answer(Answer),
}

/// A ready answer: the status and what to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub text: Arc<str>,
}

/// A backend reference of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `namespace/name`, for the record.
    pub name: Arc<str>,
    /// 0..=1_000_000; the share of requests is `weight / sum of weights`.
    pub weight: u32,
    pub target: Target,
    /// They act after those of the rule.
    pub filters: Filters,
}

/// Whose language a rule's own answers speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answers {
    #[default]
    Http,
    /// HTTP 200 with `grpc-status` (gRPC over HTTP/2, "Responses").
    Grpc,
}

/// What a rule does with the requests, connections or datagrams it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub project: ProjectName,
    /// `namespace/name` of the route, for the record.
    pub route: Arc<str>,
    pub backends: Vec<Backend>,
    pub answers: Answers,
    pub filters: Filters,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub session: Option<Arc<Session>>,
}

impl Rule {
    /// A rule that does nothing but choose a backend.
    #[must_use]
    pub fn new(project: ProjectName, route: Arc<str>, backends: Vec<Backend>) -> Self {
        let (answers, filters, timeouts) = (Answers::default(), Filters::default(), Timeouts::default());
        Self { project, route, backends, answers, filters, timeouts, retry: None, session: None }
    }

    /// Chooses the backend by weight, by the uniformly random `seed`; `None` without backends, or when all weights are
    /// zero, which is answered 500 (Gateway API, `HTTPRouteRule.backendRefs`).
    #[must_use]
    pub fn backend(&self, seed: u64) -> Option<&Backend> {
        balance::weighted(self.backends.iter().map(|backend| backend.weight), seed).map(|index| &self.backends[index])
    }

    /// The same rule, with `identity` for every backend over TLS that asks who the relay is, mirrors included (Gateway
    /// API, `Gateway.spec.tls.backend.clientCertificateRef`).
    #[must_use]
    pub fn with_identity(&self, identity: &Arc<Certified>) -> Self {
        let mut rule = self.clone();
        rule.filters.mirrors.iter_mut().for_each(|mirror| mirror.backend.present(identity));
        for backend in &mut rule.backends {
            backend.present(identity);
            backend.filters.mirrors.iter_mut().for_each(|mirror| mirror.backend.present(identity));
        }
        rule
    }

    /// The same rule for bytes that the client has encrypted itself: backends get them as they are.
    #[must_use]
    pub fn in_the_clear(&self) -> Self {
        let mut rule = self.clone();
        let in_the_clear = |upstream: &Arc<Upstream>| match &upstream.tls {
            None => upstream.clone(),
            Some(_) => Arc::new(Upstream { tls: None, ..Upstream::clone(upstream) }),
        };
        rule.backends.iter_mut().for_each(|backend| backend.target.change(in_the_clear));
        rule
    }
}

impl Backend {
    fn present(&mut self, identity: &Arc<Certified>) {
        self.target.change(|upstream| match &upstream.tls {
            None => upstream.clone(),
            Some(tls) => {
                let tls = Arc::new(UpstreamTls { identity: Some(identity.clone()), ..UpstreamTls::clone(tls) });
                Arc::new(Upstream { tls: Some(tls), ..Upstream::clone(upstream) })
            }
        });
    }

    /// The settings of the policies for it, if there are any.
    #[must_use]
    pub fn traffic(&self) -> Option<&Traffic> {
        match &self.target {
            Target::Fleet(fleet) => Some(&fleet.traffic),
            Target::Upstreams(_) | Target::Answer(_) => None,
        }
    }

    /// Chooses an endpoint as its policies say, by chance without any.
    ///
    /// # Errors
    /// The answer of a backend that cannot be asked.
    pub fn choose(&self, ask: &Ask) -> Result<(Arc<Upstream>, Option<Held>), Answer> {
        match &self.target {
            Target::Fleet(fleet) => fleet.choose(ask).map(|(upstream, held)| (upstream, Some(held))),
            Target::Upstreams(_) | Target::Answer(_) => {
                self.endpoint(ask.seed).map(|upstream| (upstream.clone(), None))
            }
        }
    }

    /// The endpoint at `index`, whoever's turn it is, within the limits of the policies.
    ///
    /// # Errors
    /// 503: it has enough to do, or is not there.
    pub fn hold(&self, index: usize, ask: &Ask) -> Result<(Arc<Upstream>, Option<Held>), Answer> {
        if let Target::Fleet(fleet) = &self.target {
            return fleet.hold(index, ask).map(|(upstream, held)| (upstream, Some(held)));
        }
        let gone = || Answer { status: 503, text: "the endpoint of the session is gone".into() };
        self.target.upstreams().get(index).map(|upstream| (upstream.clone(), None)).ok_or_else(gone)
    }

    /// Whether the endpoint at `index` may get requests at the time `now`, as far as its policies know.
    #[must_use]
    pub fn is_well(&self, index: usize, now: Duration) -> bool {
        match &self.target {
            Target::Fleet(fleet) => fleet.is_well(index, now),
            Target::Upstreams(_) | Target::Answer(_) => true,
        }
    }

    /// Chooses one of the endpoints by the uniformly random `seed` alone.
    ///
    /// # Errors
    /// The answer of a backend that cannot be asked.
    pub fn endpoint(&self, seed: u64) -> Result<&Arc<Upstream>, Answer> {
        match &self.target {
            Target::Answer(answer) => Err(answer.clone()),
            Target::Upstreams(_) | Target::Fleet(_) => {
                let upstreams = self.target.upstreams();
                balance::uniform(upstreams.len(), seed)
                    .map(|index| &upstreams[index])
                    .ok_or_else(|| Answer { status: 503, text: "the backend has no endpoint".into() })
            }
        }
    }
}

impl Target {
    /// The endpoints; empty without any.
    #[must_use]
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        match self {
            Self::Upstreams(upstreams) => upstreams,
            Self::Fleet(fleet) => &fleet.upstreams,
            Self::Answer(_) => &[],
        }
    }

    fn change(&mut self, change: impl Fn(&Arc<Upstream>) -> Arc<Upstream>) {
        let changed = self.upstreams().iter().map(change).collect();
        match self {
            Self::Upstreams(upstreams) => *upstreams = changed,
            Self::Fleet(fleet) => {
                *fleet = Fleet::new(fleet.project.clone(), fleet.name.clone(), fleet.traffic.clone(), changed);
            }
            Self::Answer(_) => {}
        }
    }

    /// Deals with the endpoints as `traffic` says, which joins the settings that are there by `join(there, traffic)`.
    pub fn deal(
        &mut self,
        (project, name): (&ProjectName, &Arc<str>),
        traffic: &Traffic,
        join: impl Fn(&Traffic, &Traffic) -> Traffic,
    ) {
        let joined = match self {
            Self::Answer(_) => return,
            Self::Upstreams(_) => traffic.clone(),
            Self::Fleet(fleet) => join(&fleet.traffic, traffic),
        };
        let mut joined = joined;
        if self.upstreams().iter().any(|upstream| matches!(upstream.endpoint, Endpoint::Asked { .. })) {
            // One host that fails says nothing of the others.
            joined.health = None;
        }
        let announces = joined.announce.map(|version| Announces { version, of: None });
        let told = |upstream: &Arc<Upstream>| {
            let link = joined.link.over(upstream.link);
            Arc::new(Upstream { announces, link, ..Upstream::clone(upstream) })
        };
        let upstreams: Vec<_> = self.upstreams().iter().map(told).collect();
        if !upstreams.is_empty() {
            *self = Self::Fleet(Fleet::new(project.clone(), name.clone(), Arc::new(joined), upstreams));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{
        filter::Mirror,
        tls::{KeyForm, Roots},
    };

    fn backend(name: &str, weight: u32, target: Target) -> Backend {
        Backend { name: name.into(), weight, target, filters: Filters::default() }
    }

    fn upstream(port: u16) -> Arc<Upstream> {
        let endpoint = Endpoint::Address(SocketAddr::from(([192, 0, 2, 1], port)));
        Arc::new(Upstream {
            project: ProjectName::default(),
            endpoint,
            protocol: Protocol::Http1,
            tls: None,
            announces: None,
            link: Link::default(),
        })
    }

    fn rule(backends: Vec<Backend>) -> Rule {
        Rule::new(ProjectName::default(), "default/r".into(), backends)
    }

    #[test]
    fn a_rule_without_backends_or_weight_chooses_none() {
        assert_eq!(rule(vec![]).backend(7), None);
        let zero = rule(vec![backend("a", 0, Target::Upstreams(vec![upstream(1)]))]);
        assert_eq!(zero.backend(u64::MAX), None);
    }

    #[test]
    fn an_unresolved_reference_takes_its_share_only() {
        let answer = Answer { status: 500, text: "backend default/b does not exist".into() };
        let broken = Target::Answer(answer.clone());
        let rule = rule(vec![backend("a", 1, Target::Upstreams(vec![upstream(1)])), backend("b", 1, broken)]);
        let seeds = (0..1000_u64).map(|step| step * (u64::MAX / 1000));
        let refused = seeds.filter(|&seed| rule.backend(seed).unwrap().endpoint(seed) == Err(answer.clone())).count();
        assert!((499..=501).contains(&refused), "{refused}");
    }

    #[test]
    fn an_identity_is_for_all_backends_over_tls_and_their_mirrors() {
        let secure = |name: &str| {
            let tls = UpstreamTls { server_name: name.into(), roots: Roots::System, names: Vec::new(), identity: None };
            let secure = Upstream { tls: Some(Arc::new(tls)), ..Upstream::clone(&upstream(1)) };
            backend(name, 1, Target::Upstreams(vec![Arc::new(secure), upstream(2)]))
        };
        let mirrored = |name: &str, to: &str| {
            let mut backend = secure(name);
            backend.filters.mirrors.push(Mirror { backend: secure(to), numerator: 1, denominator: 1 });
            backend
        };
        let mut all = rule(vec![mirrored("a", "b"), secure("c")]);
        all.filters.mirrors.push(Mirror { backend: secure("d"), numerator: 1, denominator: 1 });
        let identity = Arc::new(Certified { chain: Vec::new(), key: [1].into(), form: KeyForm::Pkcs8 });
        let changed = all.with_identity(&identity);
        let [a, c] = &changed.backends[..] else { panic!("{changed:?}") };
        for backend in [a, &a.filters.mirrors[0].backend, c, &changed.filters.mirrors[0].backend] {
            let Target::Upstreams(upstreams) = &backend.target else { panic!("{backend:?}") };
            let tls = upstreams[0].tls.as_ref().unwrap();
            assert_eq!((&*tls.server_name, &tls.identity), (&*backend.name, &Some(identity.clone())));
            assert_eq!(upstreams[1], upstream(2), "in the clear as it was");
        }
        for backend in &changed.in_the_clear().backends {
            let Target::Upstreams(upstreams) = &backend.target else { panic!("{backend:?}") };
            assert!(upstreams.iter().all(|upstream| upstream.tls.is_none()));
        }
    }

    #[test]
    fn every_endpoint_of_a_backend_is_used() {
        let all = backend("a", 1, Target::Upstreams((0..3).map(upstream).collect()));
        let seeds = (0..100_u64).map(|seed| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let seen: std::collections::BTreeSet<_> =
            seeds.map(|seed| all.endpoint(seed).unwrap().endpoint.clone()).collect();
        assert_eq!(seen.len(), 3);
        let none = backend("b", 1, Target::Upstreams(vec![]));
        assert_eq!(none.endpoint(1).unwrap_err().status, 503);
    }
}
