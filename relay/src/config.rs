//! From what was typed ([`Written`]) to what it means ([`Config`]). Every problem is reported at once.
//!
//! What needs a restart is here; what changes live is a resource.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use ipnet::IpNet;

/// The UDP port that agents dial unless told otherwise.
pub const TUNNEL_PORT: u16 = 7443;
/// The API's port, on loopback unless told otherwise.
pub const API_PORT: u16 = 6443;
/// The names of nodes end in this unless told otherwise.
pub const TUNNEL_DOMAIN: &str = "tun.internal";
/// More cores than this are left to others: beyond it the listeners' sockets cost more than they bring.
const WORKERS_MAX: usize = 64;

/// Carry requests from a public gateway down tunnels to agents that have no open port.
#[derive(Debug, Parser)]
#[command(name = "underpass-relay", version, about, after_help = EXAMPLE)]
pub struct Written {
    /// Where the store, the keys and admin.kubeconfig are kept
    /// [default: /var/lib/underpass-relay as root, else ~/.local/state/underpass-relay]
    #[arg(long, value_name = "DIR", env = "UNDERPASS_RELAY_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// UDP address that agents dial [default: every address, port 7443]
    #[arg(long, value_name = "ADDR:PORT")]
    tunnel_listen: Option<SocketAddr>,

    /// How agents elsewhere reach this relay's tunnel port; may be repeated [default: from --tunnel-listen]
    #[arg(long, value_name = "HOST:PORT")]
    tunnel_address: Vec<String>,

    /// Where the API listens
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT)))]
    api_listen: SocketAddr,

    /// Bearer tokens of people and programs, one a line: TOKEN,NAME,admin|editor|viewer[,PROJECT]; mode 0600
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Address that Gateways listen on; may be repeated [default: every address]
    #[arg(long, value_name = "IP")]
    gateway_address: Vec<IpAddr>,

    /// Bind a Gateway's port elsewhere, so that no privilege is needed: 80=8080,443=8443
    #[arg(long, value_name = "PORT=PORT", value_delimiter = ',')]
    port_map: Vec<String>,

    /// Private addresses that Backends may name besides nodes; may be repeated [default: none]
    #[arg(long, value_name = "CIDR")]
    allow_backend: Vec<IpNet>,

    /// The domain that nodes' names end in; may be repeated [default: tun.internal]
    #[arg(long, value_name = "NAME")]
    tunnel_domain: Vec<String>,

    /// Threads that carry traffic [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// How long requests in flight may take to finish when the relay stops, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,underpass_relay::tunnel=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "UNDERPASS_LOG")]
    pub log: String,
}

const EXAMPLE: &str = "Example, without any privilege:
  underpass-relay --port-map 80=8080,443=8443";

/// What the relay was asked to be; nothing is left open.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    /// The wildcard `[::]` takes IPv4 too.
    pub tunnel_listen: SocketAddr,
    /// Empty: taken from the bound address.
    pub tunnel_addresses: Vec<String>,
    pub api_listen: SocketAddr,
    pub token_file: Option<PathBuf>,
    pub gateway: GatewayConfig,
    pub tunnel_domains: Vec<String>,
    pub workers: usize,
    pub drain_timeout: Duration,
}

/// Where Gateways listen and what they may dial.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Empty: every address of the host.
    pub addresses: Vec<IpAddr>,
    /// Bound port by listener port; 0 takes any free port.
    pub port_map: BTreeMap<u16, u16>,
    pub allowed_backends: Vec<IpNet>,
}

/// Everything that was wrong with what was typed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl Written {
    /// What it means on a host with `cores`, for a user with this `home` (none: root's system directories).
    ///
    /// # Errors
    /// Every problem at once, one line each.
    pub fn resolve(self, cores: usize, state_home: Option<PathBuf>) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let port_map = parse_port_map(&self.port_map, &mut problems);
        for address in &self.tunnel_address {
            if !is_host_port(address) {
                problems.push(format!("--tunnel-address {address}: not HOST:PORT"));
            }
        }
        let mut tunnel_domains: Vec<String> =
            self.tunnel_domain.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect();
        for domain in tunnel_domains.iter().filter(|domain| !is_domain(domain)) {
            problems.push(format!("--tunnel-domain {domain}: not a DNS name"));
        }
        if tunnel_domains.is_empty() {
            tunnel_domains.push(TUNNEL_DOMAIN.to_owned());
        }
        let workers = self.workers.unwrap_or(cores.min(WORKERS_MAX));
        if !(1..=WORKERS_MAX).contains(&workers) {
            problems.push(format!("--workers {workers}: not in 1..={WORKERS_MAX}"));
        }
        let data_dir = self.data_dir.unwrap_or_else(|| default_data_dir(state_home));
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        Ok(Config {
            data_dir,
            tunnel_listen: self.tunnel_listen.unwrap_or((Ipv6Addr::UNSPECIFIED, TUNNEL_PORT).into()),
            tunnel_addresses: self.tunnel_address,
            api_listen: self.api_listen,
            token_file: self.token_file,
            gateway: GatewayConfig { addresses: self.gateway_address, port_map, allowed_backends: self.allow_backend },
            tunnel_domains,
            workers,
            drain_timeout: Duration::from_secs(self.drain_timeout),
        })
    }
}

fn default_data_dir(state_home: Option<PathBuf>) -> PathBuf {
    state_home.map_or_else(|| PathBuf::from("/var/lib/underpass-relay"), |home| home.join("underpass-relay"))
}

fn parse_port_map(entries: &[String], problems: &mut Vec<String>) -> BTreeMap<u16, u16> {
    let mut map = BTreeMap::new();
    for entry in entries {
        let pair = entry.split_once('=').and_then(|(listener, bound)| {
            Some((listener.parse::<u16>().ok().filter(|port| *port != 0)?, bound.parse::<u16>().ok()?))
        });
        match pair {
            None => problems.push(format!("--port-map {entry}: not PORT=PORT, as in 80=8080")),
            Some((listener, bound)) => {
                if map.insert(listener, bound).is_some() {
                    problems.push(format!("--port-map {entry}: port {listener} is mapped twice"));
                }
            }
        }
    }
    let mut bound: Vec<u16> = map.values().copied().filter(|port| *port != 0).collect();
    bound.sort_unstable();
    for pair in bound.windows(2).filter(|pair| pair[0] == pair[1]) {
        problems.push(format!("--port-map: two ports are mapped to {}", pair[0]));
    }
    map
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let named = host.parse::<IpAddr>().is_ok() || is_domain(&host.to_ascii_lowercase());
        named && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &[&str]) -> Result<Config, Vec<String>> {
        let written = Written::parse_from(["underpass-relay"].iter().chain(args));
        written.resolve(4, Some("/state".into())).map_err(|error| error.0)
    }

    #[test]
    fn nothing_typed_is_a_whole_configuration() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/state/underpass-relay"));
        assert_eq!(config.tunnel_listen, "[::]:7443".parse().unwrap());
        assert_eq!(config.api_listen, "127.0.0.1:6443".parse().unwrap());
        assert_eq!((config.workers, config.tunnel_domains), (4, vec!["tun.internal".to_owned()]));
    }

    #[test]
    fn ports_are_mapped() {
        let config = resolve(&["--port-map", "80=8080,443=0"]).unwrap();
        assert_eq!(config.gateway.port_map, BTreeMap::from([(80, 8080), (443, 0)]));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let args = [
            "--port-map=80,81=90,82=90",
            "--tunnel-address=relay.example.com",
            "--tunnel-domain=under_score",
            "--workers=0",
        ];
        assert_eq!(
            resolve(&args).unwrap_err(),
            [
                "--port-map 80: not PORT=PORT, as in 80=8080",
                "--port-map: two ports are mapped to 90",
                "--tunnel-address relay.example.com: not HOST:PORT",
                "--tunnel-domain under_score: not a DNS name",
                "--workers 0: not in 1..=64",
            ]
        );
    }

    #[test]
    fn addresses_of_relays_are_hosts_with_ports() {
        for good in ["relay.example.com:7443", "192.0.2.1:1", "[2001:db8::1]:7443"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["relay", "relay:", "relay:0", "relay:65536", ":7443", "re lay:1"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
