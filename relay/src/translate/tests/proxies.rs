//! Which Proxy a Gateway runs on, and how the relay ends by it.

use std::time::Duration;

use super::{
    unserved::{whole, with},
    *,
};
use crate::translate::{DRAIN_MAX, Shutdown};

fn proxy(name: &str, minimum: &str, timeout: &str) -> (Kind, Value) {
    let shutdown = json!({"minimumDrainTime": minimum, "drainTimeout": timeout});
    whole(Kind::Proxy, name, &json!({"provider": "unmanaged", "shutdown": shutdown}))
}

fn reference(name: &str) -> Value {
    json!({"group": "core.apoxy.dev", "kind": "Proxy", "name": name})
}

fn gateway(name: &str, class: &str, proxy: Option<&str>) -> (Kind, Value) {
    let mut spec = json!({"gatewayClassName": class, "listeners": [{"name": "a", "protocol": "HTTP", "port": 81}]});
    if let Some(proxy) = proxy {
        spec["infrastructure"] = json!({ "parametersRef": reference(proxy) });
    }
    whole(Kind::Gateway, name, &spec)
}

fn seconds(minimum: u64, timeout: u64) -> Shutdown {
    Shutdown { minimum: Duration::from_secs(minimum), timeout: Some(Duration::from_secs(timeout)) }
}

#[test]
fn the_projects_own_proxy_speaks_for_gateways_that_name_none() {
    assert_eq!(with(vec![]).shutdown, Shutdown::default());
    assert_eq!(with(vec![proxy("default", "5s", "1m")]).shutdown, seconds(5, 60));
    let silent = whole(Kind::Proxy, "default", &json!({"provider": "unmanaged"}));
    assert_eq!(with(vec![silent]).shutdown, Shutdown::default());
    let empty = whole(Kind::Proxy, "default", &json!({"provider": "unmanaged", "shutdown": {}}));
    assert_eq!(with(vec![empty]).shutdown, seconds(30, 30));
}

#[test]
fn a_proxy_that_no_gateway_runs_on_or_that_is_not_accepted_says_nothing() {
    assert_eq!(with(vec![proxy("other", "5s", "60s")]).shutdown, Shutdown::default());
    let elsewhere = json!({"provider": "cloud", "shutdown": {"minimumDrainTime": "5s", "drainTimeout": "60s"}});
    assert_eq!(with(vec![whole(Kind::Proxy, "default", &elsewhere)]).shutdown, Shutdown::default());
}

#[test]
fn the_gateways_own_reference_comes_before_its_classs_and_the_longest_times_count() {
    let class = json!({"controllerName": CONTROLLER_NAME, "parametersRef": reference("of-class")});
    let class = whole(Kind::GatewayClass, "slow", &class);
    let proxies = [proxy("own", "1s", "80s"), proxy("of-class", "7s", "9s"), proxy("default", "2s", "3s")];
    let shutdown = |gateways: Vec<(Kind, Value)>| {
        let objects = gateways.into_iter().chain(proxies.clone()).chain([class.clone()]);
        with(objects.collect()).shutdown
    };
    assert_eq!(shutdown(vec![]), seconds(2, 3));
    assert_eq!(shutdown(vec![gateway("g", "slow", None)]), seconds(7, 9));
    assert_eq!(shutdown(vec![gateway("g", "slow", Some("own"))]), seconds(2, 80));
}

#[test]
fn no_project_keeps_a_relay_for_longer_than_the_limit() {
    let shutdown = with(vec![proxy("default", "30h", "40h")]).shutdown;
    assert_eq!(shutdown, Shutdown { minimum: DRAIN_MAX, timeout: Some(DRAIN_MAX) });
}

#[test]
fn a_gateway_or_class_that_names_a_proxy_that_is_not_there_is_not_accepted() {
    let class = json!({"controllerName": CONTROLLER_NAME, "parametersRef": reference("gone")});
    let objects = vec![
        gateway("g", "default", Some("gone")),
        whole(Kind::GatewayClass, "odd", &class),
        gateway("h", "odd", None),
    ];
    let translation = with(objects.clone());
    let Status::GatewayClass(status) = translation.status("default", Kind::GatewayClass, "odd") else { panic!() };
    assert_eq!(brief(&status.conditions)[0], "Accepted=False/InvalidParameters");
    for name in ["g", "h"] {
        let conditions = &translation.gateway(name).conditions;
        assert_eq!(brief(conditions)[0], "Accepted=False/InvalidParameters", "{name}");
        assert!(message(conditions, "Accepted").contains("the Proxy gone"), "{name}");
    }
    assert!(translation.table.listens().all(|(at, _)| at.port != 81));
    let there = with(objects.into_iter().chain([proxy("gone", "1s", "1s")]).collect());
    assert_eq!(brief(&there.gateway("g").conditions)[0], "Accepted=True/Accepted");
}
