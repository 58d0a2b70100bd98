//! The endpoints of a backend that a policy is for: who is next, who is out, and how much there is to do.
//!
//! No clock and no chance of its own: both come with each question. What workers share is in atomics; the state outlives
//! the table by [`Registry`], which knows it by content.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use underpass_shared::identity::ProjectName;

pub use super::health::{Member, Outcome};
use super::{
    balance,
    maglev::{Maglev, mix},
    target::{Answer, Protocol, Upstream},
    traffic::{Active, Balance, Health, Limits, Traffic},
};

/// The least share of a new endpoint, as a part of its full share (Envoy's default).
const SLOW_SHARE_MIN: f64 = 0.1;

/// How often another place is looked up for a key whose endpoint is out, before any healthy one serves.
const PLACES_MAX: u64 = 16;

/// Endpoints and how they are dealt with. Equal where that is equal, whatever state they are in.
#[derive(Debug)]
pub struct Fleet {
    pub project: ProjectName,
    /// The backend's, for what counts for all of it.
    pub name: Arc<str>,
    pub traffic: Arc<Traffic>,
    pub upstreams: Vec<Arc<Upstream>>,
    state: ArcSwapOption<State>,
}

impl PartialEq for Fleet {
    fn eq(&self, other: &Self) -> bool {
        (&self.project, &self.name, &self.traffic, &self.upstreams)
            == (&other.project, &other.name, &other.traffic, &other.upstreams)
    }
}

impl Eq for Fleet {}

/// What is remembered of a fleet.
#[derive(Debug)]
pub struct State {
    /// One for each upstream.
    members: Vec<Arc<Member>>,
    turn: AtomicU32,
    maglev: Option<Maglev>,
    load: Arc<Load>,
}

/// What a backend has to do.
#[derive(Debug, Default)]
struct Load {
    requests: AtomicU32,
    retries: AtomicU32,
}

/// A question for an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Uniformly random.
    pub seed: u64,
    /// What the request has in common with others, hashed.
    pub key: Option<u64>,
    /// Since the start that all times are counted from.
    pub now: Duration,
    pub is_retry: bool,
}

/// An endpoint that was chosen; it has one request less to do when this is dropped.
#[derive(Debug)]
pub struct Held {
    fleet: Arc<Fleet>,
    state: Arc<State>,
    index: usize,
    is_retry: bool,
}

impl Fleet {
    #[must_use]
    pub fn new(
        project: ProjectName,
        name: Arc<str>,
        traffic: Arc<Traffic>,
        upstreams: Vec<Arc<Upstream>>,
    ) -> Arc<Self> {
        Arc::new(Self { project, name, traffic, upstreams, state: ArcSwapOption::empty() })
    }

    /// The endpoint for a request.
    ///
    /// # Errors
    /// 503: none is healthy, or the backend has enough to do.
    pub fn choose(self: &Arc<Self>, ask: &Ask) -> Result<(Arc<Upstream>, Held), Answer> {
        self.take(ask, |state| self.pick(state, ask))
    }

    /// The endpoint at `index`, whoever's turn it is.
    ///
    /// # Errors
    /// 503: it is not there, or it or the backend has enough to do.
    pub fn hold(self: &Arc<Self>, index: usize, ask: &Ask) -> Result<(Arc<Upstream>, Held), Answer> {
        self.take(ask, |_| Some(index).filter(|&index| index < self.upstreams.len()))
    }

    /// Whether the endpoint at `index` counts as healthy.
    #[must_use]
    pub fn is_well(&self, index: usize, now: Duration) -> bool {
        let is_well = |state: &State| state.members.get(index).is_some_and(|member| member.is_healthy(now));
        self.traffic.health.is_none() || is_well(&self.state(now))
    }

    fn take(
        self: &Arc<Self>,
        ask: &Ask,
        pick: impl FnOnce(&State) -> Option<usize>,
    ) -> Result<(Arc<Upstream>, Held), Answer> {
        let state = self.state(ask.now);
        let taken = state.load.take(self.most(), self.traffic.limits.as_ref(), ask.is_retry);
        taken.map_err(|text| Answer { status: 503, text: text.into() })?;
        let give_back = || state.load.give_back(ask.is_retry);
        let Some(index) = pick(&state) else {
            give_back();
            return Err(Answer { status: 503, text: "no endpoint of the backend is healthy".into() });
        };
        if state.members[index].in_flight.fetch_add(1, Relaxed) >= self.most_of_each() {
            state.members[index].in_flight.fetch_sub(1, Relaxed);
            give_back();
            return Err(Answer { status: 503, text: "no endpoint of the backend may have more connections".into() });
        }
        let upstream = self.upstreams[index].clone();
        Ok((upstream, Held { fleet: self.clone(), state, index, is_retry: ask.is_retry }))
    }

    /// Whether each request has a connection for itself while it lasts. Where the endpoint may choose, it may have to.
    fn is_exclusive(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.protocol != Protocol::Http2)
    }

    /// The most requests at once.
    fn most(&self) -> u32 {
        let of = |limits: Limits| limits.requests.min(self.connections(limits.connections));
        self.traffic.limits.map_or(u32::MAX, of)
    }

    fn most_of_each(&self) -> u32 {
        self.traffic.limits.map_or(u32::MAX, |limits| self.connections(limits.per_endpoint))
    }

    fn connections(&self, limit: u32) -> u32 {
        if self.is_exclusive() { limit } else { u32::MAX }
    }

    /// The state of the registry; one of its own until the fleet is registered.
    fn state(&self, now: Duration) -> Arc<State> {
        if let Some(state) = self.state.load_full() {
            return state;
        }
        let members = self.upstreams.iter().map(|_| Arc::new(Member::new(now))).collect();
        let fresh = Arc::new(self.fresh(members, Arc::default()));
        let before = self.state.compare_and_swap(&None::<Arc<State>>, Some(fresh.clone()));
        let before: Option<Arc<State>> = before.clone();
        before.unwrap_or(fresh)
    }

    fn fresh(&self, members: Vec<Arc<Member>>, load: Arc<Load>) -> State {
        let maglev = match &self.traffic.balance {
            Some(Balance::ConsistentHash { table_size, .. }) => {
                let names: Vec<String> = self.upstreams.iter().map(|one| one.endpoint.to_string()).collect();
                Some(Maglev::new(&names, *table_size))
            }
            _ => None,
        };
        State { members, turn: AtomicU32::new(0), maglev, load }
    }

    fn pick(&self, state: &State, ask: &Ask) -> Option<usize> {
        let count = self.upstreams.len();
        let healthy = |index: usize| match &self.traffic.health {
            None => true,
            Some(_) => state.members[index].is_healthy(ask.now),
        };
        let has_room = |index: usize| state.members[index].in_flight.load(Relaxed) < self.most_of_each();
        let fits = |index: usize| (healthy(index) && has_room(index)).then_some(index);
        let wanted = match (&self.traffic.balance, ask.key) {
            (Some(Balance::RoundRobin { slow_start }), _) => state.in_turn(*slow_start, ask),
            (Some(Balance::LeastRequest { slow_start }), _) => {
                let first = balance::uniform(count, ask.seed)?;
                let second = balance::uniform(count, mix(ask.seed))?;
                let lighter = if state.burden(second, *slow_start, ask) < state.burden(first, *slow_start, ask) {
                    [second, first]
                } else {
                    [first, second]
                };
                lighter.into_iter().find_map(fits).or(Some(first))
            }
            (Some(Balance::ConsistentHash { .. }), Some(key)) => {
                let mut places = (0..PLACES_MAX).map(|nth| key.wrapping_add(nth));
                let find = |key| state.maglev.as_ref()?.find(mix(key));
                let first = find(key);
                places.find_map(|key| find(key).and_then(fits)).or(first)
            }
            _ => balance::uniform(count, ask.seed),
        }?;
        fits(wanted).or_else(|| {
            let panic = self.traffic.health.as_ref().map_or(0, |health| usize::from(health.panic_percent));
            let well = (0..count).filter(|&index| healthy(index)).count();
            if well * 100 < panic * count {
                return Some(wanted);
            }
            let fitting = || (0..count).filter_map(fits);
            match balance::uniform(fitting().count(), mix(ask.seed ^ ask.key.unwrap_or_default())) {
                Some(nth) => fitting().nth(nth),
                // All have as much as they may have: that is what is said.
                None => (0..count).find(|&index| healthy(index)),
            }
        })
    }
}

impl State {
    /// The next one; one that is being eased in is passed over for the share that it does not have yet.
    fn in_turn(&self, slow_start: Option<Duration>, ask: &Ask) -> Option<usize> {
        let count = u32::try_from(self.members.len()).ok().filter(|&count| count > 0)?;
        let next = || usize::try_from(self.turn.fetch_add(1, Relaxed) % count).ok();
        let Some(window) = slow_start else { return next() };
        let mut seed = ask.seed;
        for _ in 0..count {
            let index = next()?;
            seed = mix(seed);
            if self.is_due(index, window, seed, ask.now) {
                return Some(index);
            }
        }
        next()
    }

    /// How much an endpoint has to do; more than any other for the share that it does not have yet.
    fn burden(&self, index: usize, slow_start: Option<Duration>, ask: &Ask) -> u32 {
        let is_due = |window| self.is_due(index, window, mix(ask.seed ^ index as u64), ask.now);
        if slow_start.is_none_or(is_due) { self.members[index].in_flight.load(Relaxed) } else { u32::MAX }
    }

    /// Whether the uniformly random `seed` falls into the share that an endpoint has, being eased in.
    fn is_due(&self, index: usize, window: Duration, seed: u64, now: Duration) -> bool {
        let point = f64::from(u32::try_from(seed >> 32).unwrap_or_default()) / f64::from(u32::MAX);
        point <= share(self.members[index].since, window, now)
    }

    fn ejected(&self, now: Duration) -> usize {
        self.members.iter().filter(|member| member.is_ejected(now)).count()
    }
}

/// How much of its full share an endpoint has that is known since `since`.
fn share(since: Duration, window: Duration, now: Duration) -> f64 {
    let known = now.saturating_sub(since);
    if known >= window { 1.0 } else { known.div_duration_f64(window).max(SLOW_SHARE_MIN) }
}

impl Load {
    fn take(&self, most: u32, limits: Option<&Limits>, is_retry: bool) -> Result<(), &'static str> {
        let before = self.requests.fetch_add(1, Relaxed);
        if before >= most {
            self.requests.fetch_sub(1, Relaxed);
            return Err("the backend has as many requests to do as it may have at once");
        }
        let retries = || limits.map_or(u32::MAX, |limits| limits.retries_of(before.saturating_add(1)));
        if is_retry && self.retries.fetch_add(1, Relaxed) >= retries() {
            self.give_back(true);
            return Err("the backend has as many further attempts to do as it may have at once");
        }
        Ok(())
    }

    fn give_back(&self, is_retry: bool) {
        self.requests.fetch_sub(1, Relaxed);
        if is_retry {
            self.retries.fetch_sub(1, Relaxed);
        }
    }
}

impl Held {
    /// Judges the endpoint by how an exchange with it ended. It is taken out if that is one failure too many, and not too
    /// many are out already.
    pub fn report(&self, outcome: Outcome, now: Duration) {
        let passive = self.fleet.traffic.health.as_ref().and_then(|health| health.passive.as_ref());
        let Some(passive) = passive else { return };
        let member = &self.state.members[self.index];
        let out = || self.state.ejected(now) * 100;
        if member.count(passive, outcome) && out() < usize::from(passive.max_percent) * self.state.members.len() {
            member.eject(passive, now);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.members[self.index].in_flight.fetch_sub(1, Relaxed);
        self.state.load.give_back(self.is_retry);
    }
}

type MemberKey = (Arc<Upstream>, Option<Arc<Health>>);
type FleetKey = (ProjectName, Arc<str>, Arc<Traffic>, Vec<Arc<Upstream>>);

/// What outlives a table: the state of every fleet of the current one, found again by content. Bounded by the table.
#[derive(Debug, Default)]
pub struct Registry {
    fleets: HashMap<FleetKey, Arc<State>>,
    members: HashMap<MemberKey, Arc<Member>>,
    loads: HashMap<(ProjectName, Arc<str>, Option<Limits>), Arc<Load>>,
}

/// An endpoint to be asked for its health, as long as somebody knows its state.
#[derive(Debug, Clone)]
pub struct Watched {
    pub upstream: Arc<Upstream>,
    pub health: Arc<Health>,
    pub member: Weak<Member>,
}

impl Watched {
    #[must_use]
    pub fn active(&self) -> Option<&Active> {
        self.health.active.as_ref()
    }
}

impl Registry {
    /// Gives each of `fleets` the state that its like had, and forgets that of all others. Returns the endpoints that are
    /// new and to be asked for their health.
    pub fn adopt(&mut self, fleets: &[Arc<Fleet>], now: Duration) -> Vec<Watched> {
        let before = std::mem::take(self);
        let mut watched = Vec::new();
        for fleet in fleets {
            let key = (fleet.project.clone(), fleet.name.clone(), fleet.traffic.clone(), fleet.upstreams.clone());
            let mut member = |upstream: &Arc<Upstream>| {
                let key = (upstream.clone(), fleet.traffic.health.clone());
                let known = self.members.get(&key).or_else(|| before.members.get(&key)).cloned();
                let member = known.unwrap_or_else(|| {
                    let member = Arc::new(Member::new(now));
                    if let Some(health) = fleet.traffic.health.as_ref().filter(|health| health.active.is_some()) {
                        let (upstream, health) = (upstream.clone(), health.clone());
                        watched.push(Watched { upstream, health, member: Arc::downgrade(&member) });
                    }
                    member
                });
                self.members.insert(key, member.clone());
                member
            };
            let members: Vec<_> = fleet.upstreams.iter().map(&mut member).collect();
            let of_load = (fleet.project.clone(), fleet.name.clone(), fleet.traffic.limits);
            let load = self.loads.get(&of_load).or_else(|| before.loads.get(&of_load)).cloned().unwrap_or_default();
            self.loads.insert(of_load, load.clone());
            let known = self.fleets.get(&key).or_else(|| before.fleets.get(&key)).cloned();
            let state = known.unwrap_or_else(|| Arc::new(fleet.fresh(members, load)));
            fleet.state.store(Some(state.clone()));
            self.fleets.insert(key, state);
        }
        watched
    }
}

#[cfg(test)]
mod tests;
