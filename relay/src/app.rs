//! The composition root: makes the parts, joins them, and owns the order of start and stop.
//!
//! Bind first and say where, run second. Stop: accept nothing new, finish what is in flight, tell the agents, go.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};
use underpass_shared::{
    host,
    identity::RelayId,
    quic::{self, losses},
};

use crate::{
    access::{Guard, static_tokens::StaticTokens, token::Signer},
    api::{self, Api},
    authority::{self, Authority},
    clock,
    cluster::{self, Presence},
    collector,
    config::Config,
    controller::{Controller, Ended, Parts},
    enrolment::Enrolment,
    listener::{self, Gateway},
    ports::Ports,
    proxy::{Routing, checks, may_dial::DialPolicy, session::Sessions},
    store::Store,
    translate::Settings,
    tunnel::{Acceptor, TunnelPort, Tunnels},
    worker::Workers,
};

/// How long the API may take to finish what it has begun.
const API_END: Duration = Duration::from_secs(6);

/// Runs the relay until it is told to stop (SIGTERM, SIGINT); a second signal does not wait.
///
/// # Errors
/// What keeps it from starting: a port in use, a data directory that cannot be used.
pub fn run(config: Config) -> anyhow::Result<()> {
    if let Some(files) = host::raise_open_files() {
        info!(files, "open files allowed");
    }
    let workers = Workers::start(config.workers).context("cannot start the worker threads")?;
    let control = Builder::new_current_thread().enable_all().build().context("cannot start")?;
    control.block_on(async {
        let stop = stop_on_signal().context("cannot wait for signals")?;
        let relay = Relay::build(config, &workers, &stop).await?;
        relay.run(&workers, stop).await
    })
}

fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
        asked.cancel();
        tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
        std::process::exit(130);
    });
    Ok(stop)
}

/// The parts, bound and joined, not yet running.
struct Relay {
    port: TunnelPort,
    acceptor: Acceptor,
    api: (TcpListener, Arc<rustls::ServerConfig>, Arc<Api>),
    controller: Controller,
    store: Store,
    routing: Arc<Routing>,
    drain_timeout: Duration,
}

impl Relay {
    async fn build(config: Config, workers: &Workers, stop: &CancellationToken) -> anyhow::Result<Self> {
        let now = clock::now();
        let store = cluster::open_store(&config)?;
        let authority = Authority::load_or_create(&store, now).await?;
        let relay = config.relay_name.clone().unwrap_or_else(relay_id);

        let names: Vec<String> = config.tunnel_addresses.iter().filter_map(|address| host_of(address)).collect();
        let certified = authority.relay_certificate(&relay, &names, now)?;
        let tls = quic::tls::server((certified.chain.clone(), certified.key.clone_key()), authority.ca_der().clone())?;
        let port = TunnelPort::bind(config.tunnel_listen, tls, workers.tunnel())
            .with_context(|| busy("the tunnel port", "UDP", config.tunnel_listen, "--tunnel-listen"))?;
        let bound = port.address();
        println!("listening tunnel {bound}");
        let addresses = if config.tunnel_addresses.is_empty() {
            vec![reachable(bound).to_string()]
        } else {
            config.tunnel_addresses.clone()
        };

        let listener = workers.api().spawn(TcpListener::bind(config.api_listen));
        let listener = listener.await?.with_context(|| busy("the API", "TCP", config.api_listen, "--api-listen"))?;
        let api_address = listener.local_addr()?;
        let url = format!("https://{}", loopback_if_wildcard(api_address));
        authority::kubeconfig::write(&config.data_dir, &url, &authority, now)?;
        println!("listening api {url}");

        let enrolment = Enrolment::new(store.clone(), authority.clone(), addresses.clone());
        let fixed = config.token_file.as_deref().map(StaticTokens::load).transpose()?;
        let guard = Guard::new(store.clone(), Signer::load_or_create(&store).await?, fixed);
        let api_tls = Arc::new(authority::tls::api_config(&authority, &certified)?);
        let api = Arc::new(Api::new(store.clone(), enrolment.clone(), guard, stop.clone()));
        let tunnels = Tunnels::new(workers.tunnel().clone());
        let dial_policy = DialPolicy {
            allow_backends: config.gateway.allowed_backends.clone(),
            allow_egress: config.allowed_egress,
            own: vec![api_address, bound],
            overlays: Vec::new(),
        };
        let routing = Routing::new(tunnels.clone(), dial_policy.clone());
        let routing = routing.with_sessions(Sessions::load_or_create(&store).await?);
        let gateway = Gateway::new(Arc::new(routing));
        let certified = authority.gateway_certificate(&[], now)?;
        gateway.tls.store(Some(listener::tls::server_config(certified.chain, certified.key)?));
        let tunnel_domains = config.tunnel_domains.clone().into();
        let controller = Controller::new(Parts {
            store: store.clone(),
            enrolment: enrolment.clone(),
            tunnels: tunnels.clone(),
            gateway: gateway.clone(),
            ports: Ports::new(config.gateway.clone(), on_each(workers, &gateway).await?),
            settings: Settings {
                tunnel_domains: config.tunnel_domains,
                addresses: gateway_addresses(&config.gateway.addresses),
                pool: config.gateway.pool,
                dial_policy,
                ..Settings::default()
            },
            presence: Presence::new(store.clone(), relay, addresses),
        });
        Ok(Self {
            port,
            acceptor: Acceptor { tunnels, enrolment, routing: gateway.routing.clone(), tunnel_domains },
            api: (listener, api_tls, api),
            controller,
            store,
            routing: gateway.routing.clone(),
            drain_timeout: config.drain_timeout,
        })
    }

    async fn run(mut self, workers: &Workers, stop: CancellationToken) -> anyhow::Result<()> {
        let (drain, api_stop) = (CancellationToken::new(), CancellationToken::new());
        let cut = CancellationToken::new();
        let (tunnels, since) = (self.acceptor.tunnels.clone(), clock::instant());
        let settle = move || {
            tunnels.settle(clock::instant());
            since.elapsed()
        };
        let losses = losses::report(Arc::clone(self.acceptor.tunnels.ledger()), self.port.losses(), settle);
        let _losses = AbortOnDropHandle::new(workers.tunnel().spawn(losses));
        let mut accepting = workers.tunnel().spawn(self.acceptor.run(self.port, drain.clone(), cut.clone()));
        let (listener, tls, api) = self.api;
        let api = workers.api().spawn(api::serve(listener, tls, api, api_stop.clone()));
        let collecting = collector::spawn(self.store, drain.clone());
        let checking = tokio::spawn(checks::run(self.routing, drain.clone()));
        self.controller.start().await;
        println!("ready");

        let Ended { ports, replaced, in_flight } = self.controller.run(stop).await;
        info!("stopping: requests in flight may finish");
        let deadline = clock::instant() + in_flight.unwrap_or(self.drain_timeout);
        for (runtime, worker) in ports.close() {
            match runtime.spawn(async move { worker.drain(deadline).await }).await {
                Ok(0) => {}
                Ok(cut) => warn!(connections = cut, "requests were still in flight"),
                Err(error) => warn!(%error, "a worker could not be drained"),
            }
        }
        drain.cancel();
        let ended = match timeout_at(deadline.into(), &mut accepting).await {
            Ok(ended) => ended,
            Err(_) => {
                cut.cancel();
                accepting.await
            }
        };
        if let Err(error) = ended {
            warn!(%error, "the tunnel port did not end well");
        }
        if let Err(error) = collecting.await {
            warn!(%error, "the garbage collector did not end well");
        }
        if let Err(error) = checking.await {
            warn!(%error, "the health checks did not end well");
        }
        api_stop.cancel();
        // What the API has begun to write is durable before it answers; it ends by its own limits.
        let _ = timeout(API_END, api).await;
        info!("stopped");
        match replaced {
            Some(name) => bail!(
                "another relay of this deployment was started as {name}, and two of one name cannot be told apart: give \
                 each its own --relay-name"
            ),
            None => Ok(()),
        }
    }
}

/// One gateway worker in each thread's runtime.
async fn on_each(
    workers: &Workers,
    gateway: &Arc<Gateway>,
) -> anyhow::Result<Vec<(tokio::runtime::Handle, Arc<listener::Worker>)>> {
    let mut made = Vec::new();
    for handle in workers.handles() {
        let gateway = gateway.clone();
        let worker = handle.spawn(async move { listener::Worker::new(gateway) }).await?;
        made.push((handle.clone(), worker));
    }
    Ok(made)
}

/// This relay's name among those of the deployment: the host's, made fit.
fn relay_id() -> RelayId {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = host.split('.').next().unwrap_or_default().trim().to_ascii_lowercase();
    label.parse().unwrap_or_else(|_| RelayId::parse("relay").expect("a label"))
}

fn host_of(address: &str) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn busy(what: &str, protocol: &str, address: SocketAddr, flag: &str) -> String {
    format!("{what} cannot listen on {protocol} {address}: is another relay running? Choose another with {flag}")
}

/// An address that others may dial: the bound one, or for the wildcard the one this host would use to reach others.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table (an address of RFC 5737).
    let own = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| socket.local_addr()));
    SocketAddr::new(own.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()), bound.port())
}

fn loopback_if_wildcard(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What Gateways say of their addresses: those asked for, or the one that others may dial.
fn gateway_addresses(asked: &[IpAddr]) -> Vec<String> {
    if asked.is_empty() {
        return vec![reachable((Ipv4Addr::UNSPECIFIED, 0).into()).ip().to_string()];
    }
    asked.iter().map(ToString::to_string).collect()
}
