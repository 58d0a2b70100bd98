//! The one consent function: whether the relay may open a connection to an address.
//!
//! Pure, and asked after name resolution, with the address that will really be dialled. Tunnels have their own consent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use underpass_shared::identity::ProjectName;

/// What the operator allows, and what is the relay's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialPolicy {
    /// Private ranges that Backends may name (`--allow-backend`).
    pub allow_backends: Vec<IpNet>,
    /// Private ranges that agents may reach through the relay (`--allow-egress`).
    pub allow_egress: Vec<IpNet>,
    /// The relay's own listeners that must not be reached through it: API, tunnels, gateway. An unspecified address means
    /// that port on every address of this host.
    pub own: Vec<SocketAddr>,
    /// Overlay networks of all projects: they are reached by tunnels, never by dialling.
    pub overlays: Vec<IpNet>,
}

/// Why something is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A Backend of a route.
    Backend,
    /// Traffic of an agent to the internet, whose node has an egress gateway: others decide that, and first.
    Egress,
}

/// Why an address must not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("its address is {0}, which is never dialled")]
    Never(&'static str),
    #[error("its address is {0}, which the operator has not allowed with {flag}", flag = flag(*.1))]
    NotAllowed(&'static str, Purpose),
    #[error("its address is the relay's own")]
    Own,
}

/// Whether the relay may dial `address` for `project`.
///
/// The project is part of the question although no rule of today looks at it.
/// Addresses that carry an IPv4 address (v4-mapped, v4-compatible, NAT64, 6to4) are judged by it.
///
/// # Errors
/// [`Denied`] says which rule forbids it; the address itself is not in the text, which clients may see.
pub fn may_dial(
    policy: &DialPolicy,
    _project: &ProjectName,
    purpose: Purpose,
    address: SocketAddr,
) -> Result<(), Denied> {
    let plain = undisguise(address.ip());
    if policy.overlays.iter().any(|net| net.contains(&address.ip()) || net.contains(&plain)) {
        return Err(Denied::Never("in an overlay network"));
    }
    if let Some(class) = never(plain) {
        return Err(Denied::Never(class));
    }
    let own = |own: &SocketAddr| own.port() == address.port() && is_on_this_host(undisguise(own.ip()), plain);
    if policy.own.iter().any(own) {
        return Err(Denied::Own);
    }
    match private(plain) {
        Some(class) if !allows(policy, purpose, plain) => Err(Denied::NotAllowed(class, purpose)),
        _ => Ok(()),
    }
}

/// As [`may_dial`], of an address that is known to be this host's, whatever it is: as private as loopback, and the place of
/// every listener on the wildcard address.
///
/// # Errors
/// As there.
pub fn may_dial_here(
    policy: &DialPolicy,
    project: &ProjectName,
    purpose: Purpose,
    address: SocketAddr,
) -> Result<(), Denied> {
    may_dial(policy, project, purpose, address)?;
    if policy.own.iter().any(|own| own.port() == address.port() && own.ip().is_unspecified()) {
        return Err(Denied::Own);
    }
    match allows(policy, purpose, undisguise(address.ip())) {
        true => Ok(()),
        false => Err(Denied::NotAllowed("the relay's host", purpose)),
    }
}

/// Whether the operator has opened `address`.
fn allows(policy: &DialPolicy, purpose: Purpose, address: IpAddr) -> bool {
    let allowed = match purpose {
        Purpose::Backend => &policy.allow_backends,
        Purpose::Egress => &policy.allow_egress,
    };
    allowed.iter().any(|net| net.contains(&address))
}

/// What opens private addresses.
fn flag(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Backend => "--allow-backend",
        Purpose::Egress => "--allow-egress",
    }
}

/// Whether `address` reaches a listener bound to `own`. Of a wildcard listener only loopback is known here; its other
/// addresses are listed one by one in [`DialPolicy::own`].
fn is_on_this_host(own: IpAddr, address: IpAddr) -> bool {
    own == address || (own.is_unspecified() && address.is_loopback())
}

/// The IPv4 address inside, for every form that a kernel or a translator would send there.
fn undisguise(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match [a, b, c, d, e, f] {
        // v4-mapped and v4-compatible (RFC 4291 §2.5.5), but not `::` and `::1`.
        [0, 0, 0, 0, 0, 0xffff] => v4(g, h),
        [0, 0, 0, 0, 0, 0] if (g, h) != (0, 0) && (g, h) != (0, 1) => v4(g, h),
        // v4-translated (RFC 7915 §1, SIIT).
        [0, 0, 0, 0, 0xffff, 0] => v4(g, h),
        // NAT64 (RFC 6052 §2.1).
        [0x64, 0xff9b, 0, 0, 0, 0] => v4(g, h),
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// What no opt-in opens.
fn never(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(v4) => never_v4(v4),
        IpAddr::V6(v6) => never_v6(v6),
    }
}

fn never_v4(ip: Ipv4Addr) -> Option<&'static str> {
    match ip.octets() {
        // Cloud metadata that is not link-local: Alibaba, Oracle, Azure.
        [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Some("a metadata service"),
        [169, 254, ..] => Some("link-local"),
        [0, ..] => Some("unspecified"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn never_v6(ip: Ipv6Addr) -> Option<&'static str> {
    match ip.segments() {
        // Amazon's metadata over IPv6.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("a metadata service"),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // Teredo (RFC 4380 §4), the discard prefix (RFC 6666), and translators of a local kind (RFC 8215).
        [0x2001, 0, ..] | [0x100, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some("a translator's"),
        _ => None,
    }
}

/// What the operator may open.
fn private(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [127, ..] => Some("loopback"),
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
            [100, 64..=127, ..] => Some("shared (RFC 6598)"),
            [192, 0, 0 | 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Some("set aside"),
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
            [0xfc00..=0xfdff, ..] => Some("private"),
            [0xfec0..=0xfeff, ..] => Some("site-local"),
            [0x2001, 0xdb8, ..] | [0x3fff, ..] => Some("set aside"),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Backend may be; what egress may reach is the same by its own ranges.
    fn check(policy: &DialPolicy, address: &str) -> Result<(), Denied> {
        let address = address.parse().unwrap();
        let by = |policy: &DialPolicy, purpose| may_dial(policy, &ProjectName::default(), purpose, address);
        let (allow_egress, allow_backends) = (policy.allow_backends.clone(), policy.allow_egress.clone());
        let swapped = DialPolicy { allow_egress, allow_backends, ..policy.clone() };
        let (backend, egress) = (by(policy, Purpose::Backend), by(&swapped, Purpose::Egress));
        match (backend, egress) {
            (Err(Denied::NotAllowed(a, Purpose::Backend)), Err(Denied::NotAllowed(b, Purpose::Egress))) => {
                assert_eq!(a, b);
            }
            (backend, egress) => assert_eq!(backend, egress, "{address}"),
        }
        backend
    }

    fn allowing(nets: &[&str]) -> DialPolicy {
        DialPolicy { allow_backends: nets.iter().map(|net| net.parse().unwrap()).collect(), ..DialPolicy::default() }
    }

    #[test]
    fn public_addresses_may_be_dialled() {
        for address in ["8.8.8.8:80", "[2606:4700::1]:443", "[64:ff9b::8.8.8.8]:80", "[::ffff:8.8.8.8]:80"] {
            assert_eq!(check(&DialPolicy::default(), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn private_addresses_need_the_operator() {
        let cases = [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "10.0.0.1:80",
            "172.16.0.1:80",
            "172.31.255.255:80",
            "192.168.1.1:80",
            "100.64.0.1:80",
            "198.18.0.1:80",
            "[::1]:80",
            "[fc00::1]:80",
            "[fd12:3456::1]:80",
            "[fec0::1]:80",
            "[2001:db8::1]:80",
        ];
        for address in cases {
            assert!(matches!(check(&DialPolicy::default(), address), Err(Denied::NotAllowed(..))), "{address}");
            assert_eq!(check(&allowing(&["0.0.0.0/0", "::/0"]), address), Ok(()), "{address}");
        }
        assert_eq!(check(&DialPolicy::default(), "172.32.0.1:80"), Ok(()));
    }

    #[test]
    fn metadata_and_link_local_are_never_dialled() {
        let cases = [
            "169.254.169.254:80",
            "169.254.0.1:80",
            "100.100.100.200:80",
            "192.0.0.192:80",
            "168.63.129.16:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::]:80",
            "[fe80::1]:80",
            "[febf::1]:80",
            "[ff02::1]:80",
            "[fd00:ec2::254]:80",
            "[2001:0:1::1]:80",
            "[64:ff9b:1::1]:80",
        ];
        for address in cases {
            assert!(matches!(check(&allowing(&["0.0.0.0/0", "::/0"]), address), Err(Denied::Never(_))), "{address}");
        }
    }

    #[test]
    fn disguises_are_judged_by_what_they_hide() {
        let hidden = |front: &str, v4: &str| format!("[{front}{v4}]:80");
        for front in ["::ffff:", "::", "::ffff:0:", "64:ff9b::"] {
            let policy = allowing(&["::/0"]);
            assert!(matches!(check(&policy, &hidden(front, "127.0.0.1")), Err(Denied::NotAllowed(..))), "{front}");
            assert!(matches!(check(&policy, &hidden(front, "169.254.169.254")), Err(Denied::Never(_))), "{front}");
            assert_eq!(check(&allowing(&["127.0.0.0/8"]), &hidden(front, "127.0.0.1")), Ok(()), "{front}");
        }
        assert!(matches!(check(&allowing(&["::/0"]), "[2002:7f00:1::]:80"), Err(Denied::NotAllowed(..))));
        assert!(matches!(check(&allowing(&["::/0"]), "[2002:a9fe:a9fe::]:80"), Err(Denied::Never(_))));
    }

    #[test]
    fn the_relays_own_listeners_are_never_dialled() {
        let mut policy = allowing(&["127.0.0.0/8", "::1/128", "10.0.0.0/8"]);
        policy.own =
            vec!["127.0.0.1:6443".parse().unwrap(), "[::]:7443".parse().unwrap(), "10.0.0.1:80".parse().unwrap()];
        for own in [
            "127.0.0.1:6443",
            "127.0.0.1:7443",
            "127.0.0.2:7443",
            "[::1]:7443",
            "[::ffff:127.0.0.1]:6443",
            "10.0.0.1:80",
        ] {
            assert_eq!(check(&policy, own), Err(Denied::Own), "{own}");
        }
        assert_eq!(check(&policy, "127.0.0.1:6444"), Ok(()));
        assert_eq!(check(&policy, "10.0.0.2:80"), Ok(()));
    }

    #[test]
    fn overlays_are_never_dialled() {
        let mut policy = allowing(&["fd00::/8"]);
        policy.overlays = vec!["fd11:2222:3333::/48".parse().unwrap()];
        assert!(matches!(check(&policy, "[fd11:2222:3333:1::1]:80"), Err(Denied::Never(_))));
        assert_eq!(check(&policy, "[fd11:2222:4444:1::1]:80"), Ok(()));
    }

    #[test]
    fn what_backends_may_reach_says_nothing_of_egress() {
        let policy = allowing(&["127.0.0.0/8"]);
        let egress = |policy: &DialPolicy, address: &str| {
            may_dial(policy, &ProjectName::default(), Purpose::Egress, address.parse().unwrap())
        };
        let denied = egress(&policy, "127.0.0.1:80").unwrap_err();
        assert_eq!(
            denied.to_string(),
            "its address is loopback, which the operator has not allowed with --allow-egress"
        );
        let open = DialPolicy { allow_egress: policy.allow_backends.clone(), ..DialPolicy::default() };
        assert_eq!(egress(&open, "127.0.0.1:80"), Ok(()));
        assert_eq!(egress(&policy, "8.8.8.8:80"), Ok(()));
    }

    #[test]
    fn an_address_of_this_host_is_as_private_as_loopback() {
        let here = |policy: &DialPolicy, address: &str| {
            may_dial_here(policy, &ProjectName::default(), Purpose::Egress, address.parse().unwrap())
        };
        let mut policy = DialPolicy { own: vec!["[::]:7443".parse().unwrap()], ..DialPolicy::default() };
        assert_eq!(here(&policy, "8.8.8.8:80"), Err(Denied::NotAllowed("the relay's host", Purpose::Egress)));
        policy.allow_egress = vec!["8.8.8.0/24".parse().unwrap()];
        assert_eq!(here(&policy, "8.8.8.8:80"), Ok(()));
        assert_eq!(here(&policy, "8.8.8.8:7443"), Err(Denied::Own), "a listener on every address is on this one");
        assert!(matches!(here(&policy, "169.254.169.254:80"), Err(Denied::Never(_))));
    }
}
