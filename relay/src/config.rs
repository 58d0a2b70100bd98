//! From what was typed ([`Written`]) to what it means ([`Config`]). Every problem is reported at once.
//!
//! What needs a restart is here; what changes live is a resource.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use underpass_shared::identity::RelayId;

/// The UDP port that agents dial unless told otherwise.
pub const TUNNEL_PORT: u16 = 7443;
/// The API's port, on loopback unless told otherwise.
pub const API_PORT: u16 = 6443;
/// The names of nodes end in this unless told otherwise.
pub const TUNNEL_DOMAIN: &str = "tun.internal";
/// What this deployment's keys in etcd begin with unless told otherwise.
pub const ETCD_PREFIX: &str = "/underpass";
/// More cores than this are left to others: beyond it the listeners' sockets cost more than they bring.
const WORKERS_MAX: usize = 64;

/// Carry requests from a public gateway down tunnels to agents that have no open port.
#[derive(Debug, Parser)]
#[command(name = "underpass-relay", version, about, after_help = EXAMPLE, args_conflicts_with_subcommands = true)]
pub struct Written {
    #[command(subcommand)]
    pub command: Option<Command>,

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

    /// Bearer tokens of people and programs, one a line: TOKEN,NAME,admin|editor|viewer and, after a comma, the one PROJECT they are for; mode 0600
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Addresses of which each Gateway gets one of its own; all of them must be this host's [default: all Gateways share
    /// --gateway-address]
    #[arg(long, value_name = "CIDR", conflicts_with = "gateway_address")]
    gateway_pool: Option<IpNet>,

    /// Address that Gateways listen on; may be repeated [default: every address]
    #[arg(long, value_name = "IP")]
    gateway_address: Vec<IpAddr>,

    /// Bind a Gateway's port elsewhere, so that no privilege is needed: 80=8080,443=8443
    #[arg(long, value_name = "PORT=PORT", value_delimiter = ',')]
    port_map: Vec<String>,

    /// Private addresses that Backends may name besides nodes; may be repeated [default: none]
    #[arg(long, value_name = "CIDR")]
    allow_backend: Vec<IpNet>,

    /// Private addresses that nodes with an egress gateway may reach through this relay; may be repeated [default: none]
    #[arg(long, value_name = "CIDR")]
    allow_egress: Vec<IpNet>,

    /// The domain that nodes' names end in; may be repeated [default: tun.internal]
    #[arg(long, value_name = "NAME")]
    tunnel_domain: Vec<String>,

    /// Threads that carry traffic [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,

    /// How long requests in flight may take to finish when the relay stops, in seconds, where no Proxy says otherwise
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,

    #[command(flatten)]
    etcd: EtcdArguments,

    /// How often etcd is made to forget its history, in seconds, as several relays and only one may do; 0: never, because
    /// etcd does it itself (its --auto-compaction-retention) or is shared with others
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    etcd_compaction: u64,

    /// The key that secrets are sealed with; relays that share an etcd share it [default: store.key in --data-dir]
    #[arg(long, value_name = "FILE", env = "UNDERPASS_RELAY_STORE_KEY_FILE")]
    store_key_file: Option<PathBuf>,

    /// This relay's name among those of the deployment [default: the host's name]
    #[arg(long, value_name = "NAME")]
    relay_name: Option<String>,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,underpass_relay::tunnel=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "UNDERPASS_LOG")]
    pub log: String,
}

/// Which etcd, as it was typed.
#[derive(Debug, Args)]
pub struct EtcdArguments {
    /// An etcd to share with other relays instead of a store of one's own, as http://HOST:PORT or https://HOST:PORT; may
    /// be repeated
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    etcd_endpoint: Vec<String>,

    /// What this deployment's keys in etcd begin with [default: /underpass]
    #[arg(long, value_name = "KEY")]
    etcd_prefix: Option<String>,

    /// The CA that etcd's certificate is checked against (PEM)
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,

    /// This relay's certificate for etcd (PEM)
    #[arg(long, value_name = "FILE")]
    etcd_cert: Option<PathBuf>,

    /// The key of --etcd-cert (PEM)
    #[arg(long, value_name = "FILE")]
    etcd_key: Option<PathBuf>,
}

/// What is done instead of running a relay.
#[derive(Debug, Subcommand)]
pub enum Command {
    Backup(Backup),
    Restore(Restore),
}

/// Write everything that a relay keeps to a file, while it runs or not
///
/// Secrets and keys are sealed in it as in the store. Keep the key (store.key of the data directory) apart from it.
#[derive(Debug, Args)]
pub struct Backup {
    /// The relay's data directory [default: as of the relay]
    #[arg(long, value_name = "DIR", env = "UNDERPASS_RELAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Put the key into it as well: whoever has the file has everything
    #[arg(long)]
    pub with_key: bool,
    /// The key, if it is not in the data directory
    #[arg(long, value_name = "FILE", env = "UNDERPASS_RELAY_STORE_KEY_FILE")]
    pub store_key_file: Option<PathBuf>,
}

/// Make a new data directory out of a backup, or a new deployment in etcd
///
/// The directory must be new, empty, or hold nothing but store.key, which is needed unless the backup has the key. With
/// --etcd-endpoint the deployment goes there instead, where nothing may be under its prefix yet; stop its relays first.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// The data directory to make [default: as of the relay]
    #[arg(long, value_name = "DIR", env = "UNDERPASS_RELAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArguments,
    /// With --etcd-endpoint: the key, written there if the backup has it [default: store.key in --data-dir]
    #[arg(long, value_name = "FILE", env = "UNDERPASS_RELAY_STORE_KEY_FILE")]
    pub store_key_file: Option<PathBuf>,
}

impl Restore {
    /// Where it is restored to.
    ///
    /// # Errors
    /// Every problem at once, one line each.
    pub fn store(&self) -> Result<StoreConfig, ConfigError> {
        let mut problems = Vec::new();
        let store = self.etcd.resolve(&mut problems);
        if problems.is_empty() { Ok(store) } else { Err(ConfigError(problems)) }
    }
}

const EXAMPLE: &str = "Example, without any privilege:
  underpass-relay --port-map 80=8080,443=8443";

/// What the relay was asked to be; nothing is left open.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub store: StoreConfig,
    /// `None`: the usual file in the data directory.
    pub store_key_file: Option<PathBuf>,
    /// `None`: the host's name.
    pub relay_name: Option<RelayId>,
    /// The wildcard `[::]` takes IPv4 too.
    pub tunnel_listen: SocketAddr,
    /// Empty: taken from the bound address.
    pub tunnel_addresses: Vec<String>,
    pub api_listen: SocketAddr,
    pub token_file: Option<PathBuf>,
    pub gateway: GatewayConfig,
    /// Private addresses that agents may reach through the relay.
    pub allowed_egress: Vec<IpNet>,
    pub tunnel_domains: Vec<String>,
    pub workers: usize,
    pub drain_timeout: Duration,
}

/// Where the deployment is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In the data directory, for this relay alone.
    Embedded,
    /// Shared with other relays.
    Etcd(EtcdConfig),
}

/// Which etcd, and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs, all `http` or all `https`.
    pub endpoints: Vec<String>,
    /// Begins with a slash and does not end in one.
    pub prefix: String,
    /// With `https`.
    pub tls: Option<EtcdTls>,
    /// How often etcd is made to forget; `None`: that is somebody else's.
    pub compaction: Option<Duration>,
}

/// Files, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    pub ca: PathBuf,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Where Gateways listen and what they may dial.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Empty: every address of the host.
    pub addresses: Vec<IpAddr>,
    /// Of which each Gateway gets one of its own.
    pub pool: Option<IpNet>,
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
        let mut store = self.etcd.resolve(&mut problems);
        if let StoreConfig::Etcd(etcd) = &mut store {
            etcd.compaction = (self.etcd_compaction > 0).then(|| Duration::from_secs(self.etcd_compaction));
        }
        let relay_name = self.relay_name.as_deref().and_then(|name| {
            let parsed = name.parse::<RelayId>();
            parsed.inspect_err(|error| problems.push(format!("--relay-name {name}: {error}"))).ok()
        });
        let data_dir = self.data_dir.unwrap_or_else(|| default_data_dir(state_home));
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        Ok(Config {
            data_dir,
            store,
            store_key_file: self.store_key_file,
            relay_name,
            tunnel_listen: self.tunnel_listen.unwrap_or((Ipv6Addr::UNSPECIFIED, TUNNEL_PORT).into()),
            tunnel_addresses: self.tunnel_address,
            api_listen: self.api_listen,
            token_file: self.token_file,
            gateway: GatewayConfig {
                addresses: self.gateway_address,
                pool: self.gateway_pool,
                port_map,
                allowed_backends: self.allow_backend,
            },
            allowed_egress: self.allow_egress,
            tunnel_domains,
            workers,
            drain_timeout: Duration::from_secs(self.drain_timeout),
        })
    }
}

impl EtcdArguments {
    fn resolve(&self, problems: &mut Vec<String>) -> StoreConfig {
        if self.etcd_endpoint.is_empty() {
            let alone = [
                ("--etcd-prefix", self.etcd_prefix.is_some()),
                ("--etcd-ca", self.etcd_ca.is_some()),
                ("--etcd-cert", self.etcd_cert.is_some()),
                ("--etcd-key", self.etcd_key.is_some()),
            ];
            problems.extend(
                alone.iter().filter(|(_, given)| *given).map(|(flag, _)| format!("{flag}: needs --etcd-endpoint")),
            );
            return StoreConfig::Embedded;
        }
        if cfg!(not(feature = "etcd")) {
            problems.push("--etcd-endpoint: this program was built without etcd".to_owned());
        }
        StoreConfig::Etcd(self.etcd(problems))
    }

    fn etcd(&self, problems: &mut Vec<String>) -> EtcdConfig {
        let (mut secure, mut plain) = (0, 0);
        for url in &self.etcd_endpoint {
            let place = match url.split_once("://") {
                Some(("https", place)) => {
                    secure += 1;
                    place
                }
                Some(("http", place)) => {
                    plain += 1;
                    place
                }
                _ => "",
            };
            if !is_host_port(place.trim_end_matches('/')) {
                problems.push(format!("--etcd-endpoint {url}: not http://HOST:PORT or https://HOST:PORT"));
            }
        }
        if secure > 0 && plain > 0 {
            problems.push("--etcd-endpoint: http and https are mixed".to_owned());
        }
        if secure > 0 && self.etcd_ca.is_none() {
            problems.push("--etcd-endpoint with https: needs --etcd-ca, because no other CA is trusted".to_owned());
        }
        if secure == 0 && (self.etcd_ca.is_some() || self.etcd_cert.is_some() || self.etcd_key.is_some()) {
            problems.push("--etcd-ca, --etcd-cert and --etcd-key: need an https --etcd-endpoint".to_owned());
        }
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            _ => {
                problems.push("--etcd-cert and --etcd-key: one is useless without the other".to_owned());
                None
            }
        };
        let written = self.etcd_prefix.as_deref().unwrap_or(ETCD_PREFIX);
        let prefix = written.trim_end_matches('/').to_owned();
        if !prefix.starts_with('/') || prefix.contains("//") || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            problems.push(format!("--etcd-prefix {written}: not a key such as /underpass"));
        }
        let endpoints = self.etcd_endpoint.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        let tls = self.etcd_ca.clone().map(|ca| EtcdTls { ca, identity });
        EtcdConfig { endpoints, prefix, tls, compaction: None }
    }
}

/// Where a relay keeps its data unless told otherwise.
#[must_use]
pub fn default_data_dir(state_home: Option<PathBuf>) -> PathBuf {
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
    #[cfg(feature = "etcd")]
    fn etcd_is_named_whole_or_not_at_all() {
        assert_eq!(resolve(&[]).unwrap().store, StoreConfig::Embedded);
        let args = [
            "--etcd-endpoint=https://a:2379,https://b:2379/",
            "--etcd-ca=ca",
            "--etcd-cert=c",
            "--etcd-key=k",
            "--etcd-compaction=0",
        ];
        let config = resolve(&args).unwrap();
        let tls = EtcdTls { ca: "ca".into(), identity: Some(("c".into(), "k".into())) };
        let endpoints = vec!["https://a:2379".to_owned(), "https://b:2379".to_owned()];
        let wanted = EtcdConfig { endpoints, prefix: "/underpass".to_owned(), tls: Some(tls), compaction: None };
        assert_eq!(config.store, StoreConfig::Etcd(wanted));
        assert_eq!(
            resolve(&["--etcd-prefix=/x", "--etcd-key=k"]).unwrap_err(),
            ["--etcd-prefix: needs --etcd-endpoint", "--etcd-key: needs --etcd-endpoint"]
        );
        let args =
            ["--etcd-endpoint=https://a:2379,http://b:1,c", "--etcd-cert=c", "--etcd-prefix=x//y", "--relay-name=A b"];
        assert_eq!(
            resolve(&args).unwrap_err()[..5],
            [
                "--etcd-endpoint c: not http://HOST:PORT or https://HOST:PORT",
                "--etcd-endpoint: http and https are mixed",
                "--etcd-endpoint with https: needs --etcd-ca, because no other CA is trusted",
                "--etcd-cert and --etcd-key: one is useless without the other",
                "--etcd-prefix x//y: not a key such as /underpass",
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
