//! ClientTrafficPolicies: which of them counts for which listener, and what their statuses say.
//!
//! The most specific one counts, whole: listener, then ListenerSet, then Gateway; of several for one target the oldest.
//! What must be known of a connection before anybody knows whom it is for, all listeners of an address share: the first
//! one decides (the oldest Gateway's, as of what is spoken there), and a policy of another that says otherwise does not
//! count there. A policy that cannot be honoured changes nothing, but for one that checks clients' certificates: without
//! it nobody gets in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::json;
use underpass_shared::{
    identity::ProjectName,
    resource::{
        client_traffic_policy::ClientTrafficPolicy, condition::Condition, gateway::CONTROLLER_NAME, kind::Kind,
    },
};

use super::{
    Place, ProjectSnapshot, Snapshot, Status, WantedStatus,
    backend_traffic::{GROUP, Target, has_section},
    client_settings,
    client_tls::{self, Asks},
    conditions::{self, ANCESTORS_MAX},
    created,
    gateways::Placed,
    generation,
    grants::End,
    listeners::PlacedListener,
    mention, policies, stop,
};
use crate::route::{
    client::ClientSettings,
    table::{ListenAddress, Speaks},
    tls::Clients,
};

#[derive(Debug)]
struct Policy<'a> {
    written: &'a ClientTrafficPolicy,
    place: Place<'a>,
    created: i64,
    targets: Vec<Target<'a>>,
    /// The reason and the message of one that cannot be honoured.
    settings: Result<(Arc<ClientSettings>, Asks), (&'static str, String)>,
}

impl<'a> Policy<'a> {
    fn read(objects: &ProjectSnapshot, policy: &'a ClientTrafficPolicy) -> Self {
        let place = Place::of(&policy.metadata);
        let targets = policy.spec.target_refs.iter().filter_map(|to| Target::read(place.namespace, to)).collect();
        let settings = match stop(objects.unserved(Kind::ClientTrafficPolicy, &policy.metadata)) {
            Some(trouble) => Err(trouble),
            None => read(objects, policy),
        };
        Self { written: policy, created: created(&policy.metadata), place, targets, settings }
    }
}

fn read(
    objects: &ProjectSnapshot,
    policy: &ClientTrafficPolicy,
) -> Result<(Arc<ClientSettings>, Asks), (&'static str, String)> {
    let settings = client_settings::read(&policy.spec).map_err(|error| ("Invalid", error.to_string()))?;
    let (kind, namespace) = (Kind::ClientTrafficPolicy.info().name, Place::of(&policy.metadata).namespace);
    let from = End { group: "policy.apoxy.dev", kind, namespace };
    let asks = policy.spec.tls.as_ref().map(|tls| client_tls::read(objects, from, tls)).transpose()?;
    Ok((Arc::new(settings), asks.unwrap_or_default()))
}

/// A project's policies, by what they are for.
#[derive(Debug)]
struct Policies<'a> {
    /// Oldest first.
    all: Vec<Policy<'a>>,
    /// The policy that counts for each target: the oldest, then the first by name.
    winners: BTreeMap<Target<'a>, usize>,
}

impl<'a> Policies<'a> {
    fn new(objects: &'a ProjectSnapshot) -> Self {
        let policies = objects.client_traffic_policies.iter();
        let mut all: Vec<_> = policies.map(|policy| Policy::read(objects, policy)).collect();
        let winners = policies::settle(&mut all, |one| (one.created, one.place.clone()), |one| &one.targets);
        Self { all, winners }
    }

    /// The policies that are for a listener, the most specific one first.
    fn of_listener(&self, gateway: &Placed<'_>, placed: &PlacedListener<'_>) -> Vec<usize> {
        // Its keys may live longer than what they are compared with.
        let winners: &BTreeMap<Target<'_>, usize> = &self.winners;
        let (own, section) = ((Kind::Gateway, &gateway.place), Some(placed.listener.name.as_str()));
        let of_set = placed.set.map(|set| (Kind::ListenerSet, &gateway.sets[set].place));
        let (first, second) = (of_set.unwrap_or(own), (of_set.is_some()).then_some(own));
        let targets = [(first, section), (first, None)].into_iter().chain(second.map(|own| (own, None)));
        let found = targets.filter_map(|((kind, place), section)| {
            winners.get(&Target { kind, place: place.clone(), section }).copied()
        });
        let mut seen = BTreeSet::new();
        found.filter(|&index| seen.insert(index)).collect()
    }
}

/// A listener whose clients were to be verified is not opened to everybody because of something else that the policy says.
fn let_nobody_in(placed: &mut PlacedListener<'_>) {
    if let Some(tls) = placed.serves.tls_mut() {
        tls.clients = Clients::Nobody;
    }
}

/// What became of a policy at the listeners of one Gateway.
#[derive(Debug, Default)]
struct Verdict {
    counts: bool,
    /// The listeners that have one of their own, or of their ListenerSet, instead.
    overridden: Vec<String>,
    /// Why it does not count for others.
    disputes: Vec<String>,
}

/// All policies, and what they come to.
#[derive(Debug, Default)]
pub(super) struct Decided<'a> {
    policies: BTreeMap<&'a ProjectName, Policies<'a>>,
    /// By project, policy and Gateway.
    verdicts: BTreeMap<(&'a ProjectName, usize, usize), Verdict>,
    /// What holds for all connections of an address.
    arrivals: BTreeMap<ListenAddress, Arc<ClientSettings>>,
}

/// Finds the policy of every listener that takes its place, and settles what the listeners of an address share.
///
/// `gateways` are ordered by age.
pub(super) fn decide<'a>(snapshot: &'a Snapshot, gateways: &mut [Placed<'a>]) -> Decided<'a> {
    let with = snapshot.projects.iter().filter(|(_, objects)| !objects.client_traffic_policies.is_empty());
    let policies: BTreeMap<_, _> = with.map(|(project, objects)| (project, Policies::new(objects))).collect();
    let mut decided = Decided { policies, ..Decided::default() };
    if decided.policies.is_empty() {
        return decided;
    }
    let mut first = BTreeMap::new();
    for (index, gateway) in gateways.iter_mut().enumerate() {
        let mut listeners = std::mem::take(&mut gateway.listeners);
        for placed in listeners.iter_mut().filter(|placed| is_meant(placed)) {
            decided.settle(&mut first, (index, gateway), placed);
        }
        gateway.listeners = listeners;
    }
    decided.arrivals = first.into_iter().filter_map(|(at, settings)| Some((at, settings?))).collect();
    decided
}

/// What the first listener of each address says.
type First = BTreeMap<ListenAddress, Option<Arc<ClientSettings>>>;

/// The policy that counts for a listener.
#[derive(Debug)]
struct Chosen {
    policy: usize,
    settings: Arc<ClientSettings>,
    asks: Asks,
    /// Whether it checks clients' certificates.
    checks: bool,
}

/// Datagrams have no connections.
fn is_meant(placed: &PlacedListener<'_>) -> bool {
    placed.is_placed() && placed.serves.speaks() != Speaks::Udp
}

fn addresses(gateway: &Placed<'_>, placed: &PlacedListener<'_>) -> Vec<ListenAddress> {
    let port = placed.listener.port;
    gateway.addresses.listen.iter().map(|&address| ListenAddress { address, port }).collect()
}

/// Whether what `settings` say of all connections of the listener's address is what was decided for it.
fn agree(placed: &PlacedListener<'_>, settings: &ClientSettings, decided: &ClientSettings) -> bool {
    let of_all = settings.arrival.agrees_with(&decided.arrival);
    // Over TLS it is known by then which listener a connection is for.
    of_all && (placed.serves.speaks() == Speaks::Tls || settings.connection.agrees_with(&decided.connection))
}

impl<'a> Decided<'a> {
    /// Settles how the clients of one listener are dealt with.
    fn settle(&mut self, first: &mut First, (index, gateway): (usize, &Placed<'a>), placed: &mut PlacedListener<'_>) {
        let (chosen, refused_check) = self.choose(gateway, index, placed);
        let at = addresses(gateway, placed);
        for &at in &at {
            first.entry(at).or_insert_with(|| chosen.as_ref().map(|chosen| chosen.settings.clone()));
        }
        if refused_check {
            let_nobody_in(placed);
        }
        let Some(chosen) = chosen else { return };
        let nothing = ClientSettings::default();
        let agrees = |at| agree(placed, &chosen.settings, first[at].as_deref().unwrap_or(&nothing));
        let port = placed.listener.port;
        let dispute = if !at.iter().all(agrees) {
            if chosen.checks {
                let_nobody_in(placed);
            }
            Some(format!("on port {port} another listener came first and decides how connections are dealt with"))
        } else if placed.serves.tls_mut().is_some_and(|tls| !chosen.asks.hold(tls)) {
            Some("the Gateway's tls.frontend says already whose certificates are taken".to_owned())
        } else {
            None
        };
        let verdict = self.verdicts.entry((gateway.project, chosen.policy, index)).or_default();
        match dispute {
            None => {
                verdict.counts = true;
                placed.clients = Some(chosen.settings);
            }
            Some(why) => verdict.disputes.push(format!("listener {}: {why}", placed.listener.name)),
        }
    }

    /// The policy that counts for a listener, and whether a more specific one that cannot be honoured would check
    /// clients' certificates; notes which are overridden.
    fn choose(&mut self, gateway: &Placed<'a>, index: usize, placed: &PlacedListener<'_>) -> (Option<Chosen>, bool) {
        let Some(policies) = self.policies.get(gateway.project) else { return (None, false) };
        let (mut chosen, mut refused_check) = (None, false);
        for candidate in policies.of_listener(gateway, placed) {
            let policy = &policies.all[candidate];
            let checks = policy.written.spec.tls.as_ref().is_some_and(|tls| tls.client_validation.is_some());
            match &policy.settings {
                Ok((settings, asks)) if chosen.is_none() => {
                    let (settings, asks) = (settings.clone(), asks.clone());
                    chosen = Some(Chosen { policy: candidate, settings, asks, checks });
                }
                Ok(_) => {
                    let verdict = self.verdicts.entry((gateway.project, candidate, index)).or_default();
                    verdict.overridden.push(placed.listener.name.clone());
                }
                Err(_) => refused_check |= checks && chosen.is_none(),
            }
        }
        (chosen, refused_check)
    }

    /// What holds for all connections of an address.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (ListenAddress, &Arc<ClientSettings>)> {
        self.arrivals.iter().map(|(&at, settings)| (at, settings))
    }

    /// What the status of every policy must say: an entry for each Gateway that one of its targets is, or adds to.
    pub(super) fn wanted(&self, gateways: &[Placed<'_>], snapshot: &Snapshot) -> Vec<WantedStatus> {
        let mut wanted = Vec::new();
        for (&project, policies) in &self.policies {
            for (index, policy) in policies.all.iter().enumerate() {
                let of_project = gateways.iter().enumerate().filter(|(_, gateway)| gateway.project == project);
                let reached = of_project.filter_map(|(at, gateway)| {
                    let targets: Vec<_> = policy.targets.iter().filter(|target| is_of(target, gateway)).collect();
                    (!targets.is_empty()).then_some((at, gateway, targets))
                });
                let entries = reached.take(ANCESTORS_MAX).map(|(at, gateway, targets)| {
                    let verdict = self.verdicts.get(&(project, index, at));
                    let conditions = said(&snapshot.projects[project], (policies, policy), &targets, verdict);
                    let Place { namespace, name } = gateway.place;
                    let ancestor = json!({"group": GROUP, "kind": "Gateway", "namespace": namespace, "name": name});
                    json!({"ancestorRef": ancestor, "controllerName": CONTROLLER_NAME, "conditions": conditions})
                });
                let entries: Vec<_> = entries.collect();
                wanted.push(WantedStatus {
                    project: project.clone(),
                    namespace: Some(policy.place.namespace.to_owned()),
                    name: policy.place.name.to_owned(),
                    status: Status::Other(Kind::ClientTrafficPolicy, json!({ "ancestors": entries })),
                });
            }
        }
        wanted
    }
}

/// Whether a target is the Gateway, or a ListenerSet that adds to it.
fn is_of(target: &Target<'_>, gateway: &Placed<'_>) -> bool {
    match target.kind {
        Kind::Gateway => target.place == gateway.place,
        Kind::ListenerSet => gateway.sets.iter().any(|set| set.place == target.place),
        _ => false,
    }
}

fn said(
    objects: &ProjectSnapshot,
    (policies, policy): (&Policies<'_>, &Policy<'_>),
    targets: &[&Target<'_>],
    verdict: Option<&Verdict>,
) -> Vec<Condition> {
    let at = generation(&policy.written.metadata);
    let no = |reason: &str, message: String| vec![conditions::no(at, "Accepted", reason, message)];
    let winner = |target: &Target<'_>| {
        let winners: &BTreeMap<Target<'_>, usize> = &policies.winners;
        winners.get(target).map(|&index| &policies.all[index]).filter(|winner| winner.place != policy.place)
    };
    let older = |target: &&Target<'_>| winner(target).map(|one| format!("{} is for {} too", one.place, target.place));
    let lost: Vec<String> = targets.iter().filter_map(older).collect();
    if lost.len() == targets.len() {
        return no("Conflicted", format!("an older policy counts: {}", lost.join("; ")));
    }
    if let Err((reason, message)) = &policy.settings {
        return no(reason, message.clone());
    }
    if !targets.iter().any(|target| has_section(objects, target)) {
        return no("TargetNotFound", "no target has a listener of that sectionName".to_owned());
    }
    let nothing = Verdict::default();
    let verdict = verdict.unwrap_or(&nothing);
    let disputes = verdict.disputes.join("; ");
    if !verdict.counts && !disputes.is_empty() {
        return no("Conflicted", format!("the policy does not count: {disputes}"));
    }
    let mut message = "the relay deals with clients as the policy says".to_owned();
    for (but, what) in [("but for the targets of an older one", lost.join("; ")), ("but not everywhere", disputes)] {
        if !what.is_empty() {
            message.push_str(&format!(", {but}: {what}"));
        }
    }
    let found = objects.unserved(Kind::ClientTrafficPolicy, &policy.written.metadata);
    let mut all = vec![conditions::yes(at, "Accepted", "Accepted", mention(&message, found))];
    if !verdict.overridden.is_empty() {
        let message = format!("a more specific policy counts for listeners {}", verdict.overridden.join(", "));
        all.push(conditions::yes(at, "Overridden", "Overridden", message));
    }
    all
}
