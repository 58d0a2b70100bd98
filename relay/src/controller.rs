//! From resources to what is served: changed → snapshot → translate → publish → write statuses back if they changed.
//!
//! The one writer of the route table, of the Gateways' sockets and of statuses. Runs off the data cores.

mod intake;
mod statuses;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::{
    task::spawn_blocking,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::info;
use underpass_shared::{identity::RelayId, resource::kind::Kind};

use self::{intake::Intake, statuses::Statuses};
use crate::{
    clock,
    cluster::{Announced, Presence},
    enrolment::Enrolment,
    infrastructure,
    listener::{self, Gateway},
    ports::Ports,
    store::{
        Store,
        object::{Object, Objects},
    },
    translate::{self, Settings, Shutdown, Translation, Translator, WantedService, WantedStatus},
    tunnel::Tunnels,
};

/// When something could not be done, such as binding a port, it is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The parts that the controller joins, and what it remembers between two rounds.
#[derive(Debug)]
pub struct Controller {
    store: Store,
    enrolment: Enrolment,
    tunnels: Tunnels,
    gateway: Arc<Gateway>,
    ports: Ports,
    settings: Settings,
    presence: Presence,
    intake: Intake,
    translator: Translator,
    /// Whether something was taken in that is not translated yet.
    changed: bool,
    /// What the last translation wants, and the statuses that say it.
    wanted: Vec<Arc<WantedStatus>>,
    services: Vec<WantedService>,
    shutdown: Shutdown,
    statuses: Statuses,
    /// Whether the other relays know what is connected here.
    announced: bool,
    /// The nodes of the last round; a session is checked again only when one has gone.
    nodes: BTreeSet<String>,
}

/// What [`Controller::new`] joins.
#[derive(Debug)]
pub struct Parts {
    pub store: Store,
    pub enrolment: Enrolment,
    pub tunnels: Tunnels,
    pub gateway: Arc<Gateway>,
    pub ports: Ports,
    pub settings: Settings,
    pub presence: Presence,
}

/// How [`Controller::run`] ended.
#[derive(Debug)]
pub struct Ended {
    /// The sockets' workers, to be drained.
    pub ports: Ports,
    /// The name that another relay has taken.
    pub replaced: Option<RelayId>,
    /// How long requests in flight still have, where Proxies say so.
    pub in_flight: Option<Duration>,
}

impl Controller {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, enrolment, tunnels, gateway, ports, settings, presence } = parts;
        Self {
            store,
            enrolment,
            tunnels,
            gateway,
            ports,
            settings,
            presence,
            intake: Intake::default(),
            translator: Translator::default(),
            changed: false,
            wanted: Vec::new(),
            services: Vec::new(),
            shutdown: Shutdown::default(),
            statuses: Statuses::default(),
            announced: false,
            nodes: BTreeSet::new(),
        }
    }

    /// One round now, so that everything is served when this returns.
    pub async fn start(&mut self) {
        self.reconcile().await;
    }

    /// A round after each change, until `stop` is cancelled and for as long as Proxies want ports to be open then, or until
    /// another relay has taken this one's name.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        // When the ports close, once the relay was told to stop.
        let mut close = None;
        let (mut objects, mut agents) = (self.store.changes(), self.tunnels.changes());
        let mut leased = self.presence.leased();
        // A change between `start` and here would be missed otherwise.
        objects.mark_changed();
        loop {
            let retries = !self.announced || !self.settings.ports_unavailable.is_empty();
            tokio::select! {
                changed = objects.changed() => match changed {
                    Ok(()) => {
                        self.changed |= self.intake.take(&self.store).1;
                        if !self.changed && !retries {
                            continue;
                        }
                    }
                    Err(_) => break,
                },
                changed = agents.changed() => if changed.is_err() { break },
                changed = leased.changed() => if changed.is_err() { break },
                () = sleep(RETRY), if retries => {}
                () = stop.cancelled(), if close.is_none() => {
                    if self.shutdown.minimum.is_zero() {
                        break;
                    }
                    close = Some(clock::instant() + self.shutdown.minimum);
                    info!(seconds = self.shutdown.minimum.as_secs(), "stopping: new connections are taken for a while");
                    self.ports.say_goodbye();
                    continue;
                }
                () = until(close), if close.is_some() => break,
            }
            objects.mark_unchanged();
            agents.mark_unchanged();
            leased.mark_unchanged();
            let (began, announced) = (clock::instant(), self.reconcile().await);
            if announced == Announced::Replaced {
                let replaced = Some(self.presence.relay().clone());
                return Ended { ports: self.ports, replaced, in_flight: None };
            }
            // Where many objects make a round long, others of the same cores get as much time as the rounds, and one of them
            // takes in all that was written meanwhile. A change that comes alone waits for nothing.
            let pause = clock::instant().saturating_duration_since(began).min(PAUSE_MAX);
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled(), if close.is_none() => {}
            }
        }
        let in_flight = self.shutdown.timeout.map(|timeout| timeout.saturating_sub(self.shutdown.minimum));
        Ended { ports: self.ports, replaced: None, in_flight }
    }

    async fn reconcile(&mut self) -> Announced {
        let (objects, changed) = self.intake.take(&self.store);
        self.changed |= changed;
        if self.changed || !self.settings.ports_unavailable.is_empty() {
            self.changed = false;
            self.translate();
        }
        self.publish_policy(&objects);
        self.cut_deleted(&objects).await;
        let announced = self.presence.announce(&self.tunnels.connected()).await;
        self.announced = announced == Announced::Whole;
        // All relays would write the same, but for what each sees of its own host: one of them does.
        if self.presence.leads() && announced != Announced::Replaced {
            let leased = self.presence.leased().borrow().clone();
            self.statuses.write(&self.store, &objects, &self.wanted, &leased).await;
            infrastructure::apply(&self.store, &objects, &self.services).await;
        }
        announced
    }

    /// Publishes the table that the snapshot stands for, with the sockets that it needs.
    fn translate(&mut self) {
        // What is wanted does not depend on what could be had, or the two would take turns.
        self.settings.ports_unavailable.clear();
        let mut routed = self.translator.route(&self.intake.snapshot, &self.settings);
        let unavailable = self.ports.apply(&listener::wanted(&routed.table));
        if !unavailable.is_empty() {
            drop(routed);
            self.settings.ports_unavailable = unavailable;
            routed = self.translator.route(&self.intake.snapshot, &self.settings);
        }
        let replaced = self.gateway.routing.publish(routed.table.clone());
        self.tunnels.set_consent(translate::consent(&self.intake.snapshot));
        let Translation { wanted, services, owners, shutdown, .. } = routed.finish();
        let forgotten = std::mem::replace(&mut self.wanted, wanted);
        // To give back what ten thousand routes hold takes longer than a round may.
        spawn_blocking(move || drop((replaced, forgotten)));
        (self.services, self.shutdown) = (services, shutdown);
        self.intake.snapshot.owners = owners;
    }

    /// What backends may not be: the relay itself and any project's overlay.
    fn publish_policy(&self, objects: &Objects) {
        let current = self.gateway.routing.dial_policy.load();
        let mut policy = self.settings.dial_policy.clone();
        policy.own.extend(self.ports.addresses());
        let overlays = objects.of(None, Kind::Project).filter_map(|project| prefix_of(project)?.parse().ok());
        policy.overlays.extend(overlays.map(IpNet::V6));
        if **current != policy {
            self.gateway.routing.dial_policy.store(Arc::new(policy));
        }
    }

    /// Cuts the sessions of agents that the store does not know any more.
    async fn cut_deleted(&mut self, objects: &Objects) {
        let nodes: BTreeSet<String> = objects.of_kind(Kind::TunnelNode).map(|object| object.body.uid.clone()).collect();
        if !self.nodes.is_subset(&nodes) {
            let connected = self.tunnels.connected();
            let checks = connected.iter().map(|agent| self.enrolment.admit(&agent.identity));
            let admitted: BTreeMap<_, _> = connected
                .iter()
                .map(|agent| agent.identity.clone())
                .zip(join_all(checks).await)
                .filter_map(|(identity, admission)| Some((identity, admission.ok()?)))
                .collect();
            self.tunnels.cut_unless(|identity| admitted.get(identity).copied());
        }
        self.nodes = nodes;
    }
}

/// The overlay prefix that a project or node was given when it was made, and keeps.
fn prefix_of(object: &Object) -> Option<&str> {
    object.body.status.as_ref()?.get("prefix")?.as_str()
}

/// Until `close`; for ever without it.
async fn until(close: Option<Instant>) {
    match close {
        Some(close) => sleep_until(close.into()).await,
        None => std::future::pending().await,
    }
}
