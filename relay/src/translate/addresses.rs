//! Which addresses a Gateway is reached at (Gateway API, `GatewaySpec.addresses`).
//!
//! Without a pool all Gateways share the relay's addresses. With one, each has an address of its own: the one that it
//! asks for, or one found by its uid, so that it is the same after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use underpass_shared::resource::gateway::{Gateway, GatewayAddress, GatewaySpecAddress};

use super::{Settings, listeners::Trouble};

/// The addresses of a pool that are looked at to find a free one.
const TRIES_MAX: u32 = 4096;

/// Where a Gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// Where its listeners listen; `None` for the shared addresses.
    pub listen: Vec<Option<IpAddr>>,
    /// What its status says.
    pub shown: Vec<GatewayAddress>,
    /// Why it is not reached as it asks, for `Accepted` or, of an address that cannot be used, for `Programmed`.
    pub trouble: Option<Trouble>,
}

/// The addresses of every Gateway, by its place in `gateways`, which is ordered by age: the older one keeps what both
/// want.
pub(super) fn assign<'a>(gateways: impl Iterator<Item = &'a Gateway>, settings: &Settings) -> Vec<Addresses> {
    let mut taken = BTreeSet::new();
    let mut assigned: BTreeMap<usize, Addresses> = BTreeMap::new();
    let gateways: Vec<&Gateway> = gateways.collect();
    // What is asked for by name is given first, so that nobody gets it by chance.
    for (index, gateway) in gateways.iter().enumerate() {
        if !gateway.spec.addresses.is_empty() {
            assigned.insert(index, asked(&gateway.spec.addresses, settings, &mut taken));
        }
    }
    for (index, gateway) in gateways.iter().enumerate() {
        let addresses = assigned.entry(index).or_insert_with(Addresses::none);
        if addresses.listen.is_empty() && addresses.trouble.is_none() {
            *addresses = own(gateway, settings, &mut taken);
        }
    }
    assigned.into_values().collect()
}

impl Addresses {
    /// Nothing is known yet.
    pub(super) fn none() -> Self {
        Self { listen: Vec::new(), shown: Vec::new(), trouble: None }
    }
}

fn own(gateway: &Gateway, settings: &Settings, taken: &mut BTreeSet<IpAddr>) -> Addresses {
    let Some(pool) = settings.pool else {
        let shown = settings.addresses.iter().map(|address| shown(address)).collect();
        return Addresses { listen: vec![None], shown, trouble: None };
    };
    let uid = gateway.metadata.uid.as_deref().unwrap_or(&gateway.metadata.name);
    match free(pool, uid, taken) {
        Some(address) => {
            taken.insert(address);
            Addresses { listen: vec![Some(address)], shown: vec![shown(&address.to_string())], trouble: None }
        }
        None => {
            let trouble = Trouble::new("AddressNotAssigned", format!("no address of the pool {pool} is free"));
            Addresses { trouble: Some(trouble), ..Addresses::none() }
        }
    }
}

/// Nothing at all when the Gateway only asks for some address.
fn asked(written: &[GatewaySpecAddress], settings: &Settings, taken: &mut BTreeSet<IpAddr>) -> Addresses {
    let mut found = Addresses::none();
    for address in written {
        let kind = address.kind.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" {
            let message = format!("addresses of type {kind} are not supported: use IPAddress");
            return Addresses { trouble: Some(Trouble::new("UnsupportedAddress", message)), ..Addresses::none() };
        }
        let Some(value) = address.value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let ip: Option<IpAddr> = value.parse().ok();
        let is_shared = settings.pool.is_none() && settings.addresses.iter().any(|own| *own == value);
        match ip {
            Some(_) if is_shared => found.listen.push(None),
            Some(ip) if settings.pool.is_some_and(|pool| pool.contains(&ip)) && taken.insert(ip) => {
                found.listen.push(Some(ip));
            }
            _ => {
                let message = format!("{value} is not an address of this relay, or another Gateway has it");
                return Addresses { trouble: Some(Trouble::new("AddressNotUsable", message)), ..Addresses::none() };
            }
        }
        found.shown.push(shown(value));
    }
    found.listen.dedup();
    found
}

fn shown(value: &str) -> GatewayAddress {
    let kind = if value.parse::<IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
    GatewayAddress { kind: kind.to_owned(), value: value.to_owned() }
}

/// The first free address after the one that `uid` stands for. Network and broadcast addresses are left out.
fn free(pool: IpNet, uid: &str, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let hosts = u32::from(pool.max_prefix_len() - pool.prefix_len()).min(31);
    let size = (1_u32 << hosts).saturating_sub(2).max(1);
    let start = fnv(uid) % size;
    (0..size.min(TRIES_MAX)).find_map(|step| {
        let offset = 1 + (start + step) % size;
        let address = match pool.network() {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
        };
        (pool.contains(&address) && !taken.contains(&address)).then_some(address)
    })
}

/// FNV-1a: the same in every build, which the standard library's hasher does not promise.
pub(super) fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gateway(uid: &str, addresses: &Value) -> Gateway {
        serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": uid, "uid": uid},
            "spec": {"gatewayClassName": "c", "listeners": [], "addresses": addresses},
        }))
        .unwrap()
    }

    fn with_pool(pool: &str) -> Settings {
        Settings { pool: Some(pool.parse().unwrap()), ..Settings::default() }
    }

    #[test]
    fn each_gateway_has_an_address_of_its_own_whatever_the_others_are() {
        let settings = with_pool("10.96.0.0/28");
        let gateways: Vec<Gateway> = (0..14).map(|n| gateway(&format!("u{n}"), &json!([]))).collect();
        let all = assign(gateways.iter(), &settings);
        let different: BTreeSet<_> = all.iter().map(|one| one.listen[0]).collect();
        assert_eq!(different.len(), 14);
        assert!(different.iter().all(|address| settings.pool.unwrap().hosts().any(|host| Some(host) == *address)));
        let one_more: Vec<Gateway> = gateways.iter().cloned().chain([gateway("late", &json!([]))]).collect();
        let again = assign(one_more.iter(), &settings);
        assert_eq!(again[..14], all);
        assert_eq!(again[14].trouble.as_ref().unwrap().reason, "AddressNotAssigned");
    }

    #[test]
    fn what_is_asked_for_is_given_if_it_can_be() {
        let settings = with_pool("10.96.0.0/24");
        let reason = |addresses: Value| {
            let gateways = [gateway("u", &addresses)];
            let all = assign(gateways.iter(), &settings);
            all[0].trouble.as_ref().map_or_else(|| format!("{:?}", all[0].listen), |trouble| trouble.reason.to_owned())
        };
        assert_eq!(reason(json!([{"type": "IPAddress", "value": "10.96.0.7"}])), "[Some(10.96.0.7)]");
        assert_eq!(reason(json!([{"type": "IPAddress", "value": "192.0.2.1"}])), "AddressNotUsable");
        assert_eq!(reason(json!([{"type": "test/fake", "value": "x"}])), "UnsupportedAddress");
        assert!(reason(json!([{"type": "IPAddress"}])).starts_with("[Some(10.96.0."), "any will do");
    }

    #[test]
    fn without_a_pool_all_share_the_relay_s() {
        let settings = Settings { addresses: vec!["192.0.2.2".into(), "gw.example".into()], ..Settings::default() };
        let gateways = [
            gateway("a", &json!([])),
            gateway("b", &json!([{"value": "192.0.2.2"}])),
            gateway("c", &json!([{"value": "192.0.2.3"}])),
        ];
        let all = assign(gateways.iter(), &settings);
        assert_eq!((all[0].listen.len(), all[0].shown.len()), (1, 2));
        assert_eq!(all[1].listen, [None]);
        assert_eq!(all[2].trouble.as_ref().unwrap().reason, "AddressNotUsable");
    }
}
