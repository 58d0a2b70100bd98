use std::{collections::BTreeSet, net::SocketAddr};

use proptest::prelude::{prop_assert, proptest};

use super::*;
use crate::route::{
    target::{Endpoint, Protocol},
    traffic::{Budget, HashOn, Passive, Probe},
};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn upstream(port: u16) -> Arc<Upstream> {
    let endpoint = Endpoint::Address(SocketAddr::from(([192, 0, 2, 1], port)));
    Arc::new(Upstream {
        endpoint,
        ..Upstream::node(&ProjectName::default(), &"n".parse().unwrap(), 1, Protocol::Http1)
    })
}

fn fleet(ports: impl IntoIterator<Item = u16>, traffic: Traffic) -> Arc<Fleet> {
    let upstreams = ports.into_iter().map(upstream).collect();
    Fleet::new(ProjectName::default(), "default/b".into(), Arc::new(traffic), upstreams)
}

fn balanced(balance: Balance) -> Traffic {
    Traffic { balance: Some(balance), ..Traffic::default() }
}

fn ask(seed: u64) -> Ask {
    Ask { seed: mix(seed), key: None, now: secs(1000), is_retry: false }
}

fn port(chosen: &Upstream) -> u16 {
    let Endpoint::Address(address) = chosen.endpoint else { panic!("{chosen:?}") };
    address.port()
}

/// How often each port was chosen, when nothing takes any time.
fn shares(fleet: &Arc<Fleet>, asks: impl Iterator<Item = Ask>) -> Vec<usize> {
    let mut shares = vec![0; 1 + fleet.upstreams.iter().map(|one| usize::from(port(one))).max().unwrap()];
    asks.for_each(|ask| shares[usize::from(port(&fleet.choose(&ask).unwrap().0))] += 1);
    shares
}

fn passive(max_percent: u8) -> Passive {
    Passive {
        split: false,
        interval: secs(10),
        local_failures: 5,
        gateway_errors: 0,
        server_errors: 3,
        base: secs(30),
        max_percent,
    }
}

fn judged(panic_percent: u8, max_percent: u8) -> Traffic {
    let health = Health { panic_percent, passive: Some(passive(max_percent)), active: None };
    Traffic { health: Some(Arc::new(health)), ..balanced(Balance::RoundRobin { slow_start: None }) }
}

/// Lets the endpoint with this port answer 500 until it must be out.
fn fail(fleet: &Arc<Fleet>, bad: u16, now: Duration) {
    for seed in 0..100 {
        let Ok((chosen, held)) = fleet.choose(&Ask { now, ..ask(seed) }) else { return };
        held.report(Outcome::Answered(if port(&chosen) == bad { 500 } else { 200 }), now);
    }
}

const UNLIMITED: Limits =
    Limits { requests: u32::MAX, retries: u32::MAX, connections: u32::MAX, per_endpoint: u32::MAX, budget: None };

#[test]
fn each_has_its_turn() {
    let fleet = fleet(0..4, balanced(Balance::RoundRobin { slow_start: None }));
    assert_eq!(shares(&fleet, (0..400).map(ask)), [100; 4]);
}

#[test]
fn chance_gives_all_the_same_share() {
    let fleet = fleet(0..4, balanced(Balance::Random));
    assert!(shares(&fleet, (0..4000).map(ask)).iter().all(|share| (900..1100).contains(share)));
}

#[test]
fn who_has_less_to_do_gets_more() {
    let fleet = fleet(0..3, balanced(Balance::LeastRequest { slow_start: None }));
    let held: Vec<_> = (0..300).map(|seed| fleet.choose(&ask(seed)).unwrap()).collect();
    let in_flight = |index: usize| fleet.state(secs(0)).members[index].in_flight.load(Relaxed);
    assert!((0..3).all(|index| (97..=103).contains(&in_flight(index))), "two choices keep them level");
    drop(held);
    assert!((0..3).all(|index| in_flight(index) == 0), "and all is given back");
    let _slow: Vec<_> =
        (0..300).map(|seed| fleet.choose(&ask(seed)).unwrap()).filter(|one| port(&one.0) == 1).collect();
    assert!(shares(&fleet, (0..900).map(ask))[1] < 150, "only when both choices fall on it");
}

#[test]
fn a_key_stays_where_it_is_and_moves_only_when_its_endpoint_is_out() {
    let balance = Balance::ConsistentHash { on: HashOn::SourceIp, table_size: 1009 };
    let traffic = Traffic { balance: Some(balance), ..judged(0, 100) };
    let fleet = fleet(0..5, traffic);
    let of = |key: u64| port(&fleet.choose(&Ask { key: Some(key), ..ask(key) }).unwrap().0);
    let before: Vec<u16> = (0..500).map(of).collect();
    assert_eq!(before, (0..500).map(of).collect::<Vec<_>>());
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 5);
    fleet.state(secs(0)).members[2].eject(&passive(100), secs(999));
    for (key, was) in before.iter().enumerate() {
        let is = of(key as u64);
        assert!(is != 2 && (*was == 2 || is == *was), "key {key} went from {was} to {is}");
    }
}

#[test]
fn a_new_endpoint_is_eased_in() {
    for balance in
        [Balance::RoundRobin { slow_start: Some(secs(100)) }, Balance::LeastRequest { slow_start: Some(secs(100)) }]
    {
        let mut registry = Registry::default();
        let old = fleet(0..3, balanced(balance.clone()));
        registry.adopt(&[old], secs(0));
        let more = fleet(0..4, balanced(balance.clone()));
        registry.adopt(std::slice::from_ref(&more), secs(900));
        let share = |now: u64| shares(&more, (0..4000).map(|seed| Ask { now: secs(now), ..ask(seed) }))[3];
        let (first, half, whole) = (share(901), share(950), share(1000));
        assert!(first < 350 && first < half && half < whole + 100, "{balance:?}: {first}, {half}, {whole}");
        assert!((900..1100).contains(&whole), "{balance:?}: {whole}");
    }
}

#[test]
fn who_fails_gets_nothing_until_its_time_is_over() {
    let fleet = fleet(0..4, judged(50, 100));
    fail(&fleet, 1, secs(100));
    let at = |now: u64| shares(&fleet, (0..400).map(|seed| Ask { now: secs(now), ..ask(seed) }))[1];
    assert_eq!((at(100), at(129)), (0, 0));
    assert_eq!(at(130), 100);
}

#[test]
fn the_share_of_who_is_out_is_spread_over_the_others() {
    let fleet = fleet(0..4, judged(50, 100));
    fail(&fleet, 1, secs(1000));
    let shares = shares(&fleet, (0..3000).map(ask));
    assert!([0, 2, 3].iter().all(|&index| (900..1100).contains(&shares[index])), "{shares:?}");
}

#[test]
fn no_more_than_allowed_are_out_at_once() {
    let out = |max_percent: u8| {
        let fleet = fleet(0..10, judged(0, max_percent));
        (0..10).for_each(|bad| fail(&fleet, bad, secs(1000)));
        fleet.state(secs(0)).ejected(secs(1000))
    };
    assert_eq!((out(0), out(10), out(30), out(100)), (0, 1, 3, 10));
}

#[test]
fn when_too_few_are_well_all_are_used() {
    let fleet = fleet(0..4, judged(50, 100));
    fail(&fleet, 0, secs(1000));
    fail(&fleet, 1, secs(1000));
    assert_eq!(shares(&fleet, (0..400).map(ask))[0], 0, "half of them is enough");
    fleet.state(secs(0)).members[2].eject(&passive(100), secs(1000));
    assert_eq!(shares(&fleet, (0..400).map(ask)), [100; 4]);
}

#[test]
fn without_a_threshold_nobody_is_asked_when_none_is_well() {
    let fleet = fleet(0..2, judged(0, 100));
    let state = fleet.state(secs(0));
    state.members.iter().for_each(|member| member.eject(&passive(100), secs(1000)));
    assert_eq!(fleet.choose(&ask(1)).unwrap_err().status, 503);
    assert_eq!(state.load.requests.load(Relaxed), 0, "what was not asked is not counted");
}

#[test]
fn what_is_too_much_is_refused_and_room_comes_back() {
    let limits = Some(Limits { requests: 3, retries: 1, ..UNLIMITED });
    let fleet = fleet(0..2, Traffic { limits, ..Traffic::default() });
    let retry = Ask { is_retry: true, ..ask(9) };
    let first = fleet.choose(&retry).unwrap();
    assert_eq!(fleet.choose(&retry).unwrap_err().status, 503, "one retry at a time");
    let more = [fleet.choose(&ask(1)).unwrap(), fleet.choose(&ask(2)).unwrap()];
    assert_eq!(fleet.choose(&ask(3)).unwrap_err().status, 503);
    drop((first, more));
    assert!(fleet.choose(&retry).is_ok());
    assert_eq!(fleet.state(secs(0)).load.requests.load(Relaxed), 0);
}

#[test]
fn retries_have_a_budget_that_grows_with_what_there_is_to_do() {
    let budget = Some(Budget { percent: 20, least: 1 });
    let all = fleet(0..2, Traffic { limits: Some(Limits { budget, retries: 3, ..UNLIMITED }), ..Traffic::default() });
    let retries = |firsts: u64| {
        let _firsts: Vec<_> = (0..firsts).map(|seed| all.choose(&ask(seed)).unwrap()).collect();
        let retries = (0..100).map_while(|seed| all.choose(&Ask { is_retry: true, ..ask(seed) }).ok());
        retries.collect::<Vec<_>>().len()
    };
    assert_eq!([0, 4, 8, 12, 1000].map(retries), [1, 1, 2, 3, 3]);
    assert_eq!(all.state(secs(0)).load.retries.load(Relaxed), 0);
}

#[test]
fn an_endpoint_that_has_enough_leaves_the_rest_to_others() {
    let limits = Some(Limits { per_endpoint: 2, ..UNLIMITED });
    let all = fleet(0..3, Traffic { limits, ..balanced(Balance::Random) });
    let held: Vec<_> = (0..6).map(|seed| all.choose(&ask(seed)).unwrap()).collect();
    let of = |index: u16| held.iter().filter(|one| port(&one.0) == index).count();
    assert_eq!((of(0), of(1), of(2)), (2, 2, 2));
    assert_eq!(all.choose(&ask(7)).unwrap_err().status, 503);
    drop(held);
    assert!(all.choose(&ask(8)).is_ok());
}

#[test]
fn connections_are_limited_where_each_serves_one_request_at_a_time() {
    let traffic =
        Traffic { limits: Some(Limits { connections: 1, per_endpoint: 1, ..UNLIMITED }), ..Traffic::default() };
    let exclusive = fleet(0..2, traffic.clone());
    let _first = exclusive.choose(&ask(1)).unwrap();
    assert_eq!(exclusive.choose(&ask(2)).unwrap_err().status, 503);
    let upstreams = [upstream(1)].map(|one| Arc::new(Upstream { protocol: Protocol::Http2, ..Upstream::clone(&one) }));
    let shared = Fleet::new(ProjectName::default(), "default/b".into(), Arc::new(traffic), upstreams.to_vec());
    let held: Vec<_> = (0..9).map(|seed| shared.choose(&ask(seed))).collect();
    assert!(held.iter().all(Result::is_ok));
}

#[test]
fn what_is_known_outlives_the_table_and_what_is_not_used_is_forgotten() {
    let mut registry = Registry::default();
    let probe = Probe::Grpc { service: "".into() };
    let (timeout, interval, initial_jitter) = (secs(1), secs(3), secs(0));
    let active = Some(Active { probe, timeout, interval, initial_jitter, unhealthy: 3, healthy: 1 });
    let health = Health { panic_percent: 50, passive: Some(passive(100)), active };
    let traffic = Traffic { health: Some(Arc::new(health)), ..judged(50, 100) };
    let first = fleet(0..4, traffic.clone());
    assert_eq!(registry.adopt(std::slice::from_ref(&first), secs(0)).len(), 4);
    fail(&first, 1, secs(1000));
    // The same again, and with one endpoint more in another order.
    let (same, more) = (fleet(0..4, traffic.clone()), fleet([4, 3, 2, 1, 0], traffic));
    assert_eq!(registry.adopt(&[same.clone(), more.clone()], secs(1000)).len(), 1, "only the new one is to be watched");
    assert!(Arc::ptr_eq(&same.state(secs(0)), &first.state(secs(0))));
    assert_eq!(shares(&more, (0..400).map(ask))[1], 0, "who is out stays out");
    assert_eq!((registry.fleets.len(), registry.members.len()), (2, 5));
    registry.adopt(&[], secs(1000));
    assert_eq!((registry.fleets.len(), registry.members.len(), registry.loads.len()), (0, 0, 0));
    registry.adopt(std::slice::from_ref(&same), secs(1000));
    assert!(shares(&same, (0..400).map(ask))[1] > 0, "a fleet that was away begins anew");
}

proptest! {
    #[test]
    fn whoever_is_chosen_is_healthy_or_all_are_used(
        count in 1_u16..12,
        out in 0_u64..4096,
        seed: u64,
        key: Option<u64>,
        panic_percent in 0_u8..=100,
        kind in 0_u8..4,
    ) {
        let balance = match kind {
            0 => Balance::Random,
            1 => Balance::RoundRobin { slow_start: Some(secs(10)) },
            2 => Balance::LeastRequest { slow_start: None },
            _ => Balance::ConsistentHash { on: HashOn::SourceIp, table_size: 101 },
        };
        let fleet = fleet(0..count, Traffic { balance: Some(balance), ..judged(panic_percent, 100) });
        let is_out = |index: usize| out >> index & 1 == 1;
        let state = fleet.state(secs(0));
        let all = 0..usize::from(count);
        all.clone().filter(|&index| is_out(index)).for_each(|index| state.members[index].eject(&passive(100), secs(1000)));
        let well = all.filter(|&index| !is_out(index)).count();
        let panics = well * 100 < usize::from(panic_percent) * usize::from(count);
        match fleet.choose(&Ask { key, ..ask(seed) }) {
            Ok((chosen, _)) => prop_assert!(panics || !is_out(port(&chosen).into())),
            Err(answer) => prop_assert!(!panics && well == 0 && answer.status == 503),
        }
    }
}
