//! The upstream and the other proxies, each with two workers and as its own documentation tunes it for reverse proxying.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::process::Command;
use underpass_tests::{eventually::eventually, process::Process, relay::Relay};

use crate::Port;

/// Where Envoy is, if it is to be measured.
const ENVOY_VARIABLE: &str = "UNDERPASS_BENCH_ENVOY";
/// Clock ticks of `/proc/PID/stat`, which is 100 a second on every Linux that we know.
const TICKS_A_SECOND: f64 = 100.0;

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    process: Running,
    pub(crate) plain: u16,
    pub(crate) tls: u16,
    pub(crate) h2c: u16,
    /// Whether it speaks HTTP/3 on the port of `tls`.
    http3: bool,
}

/// Ends when it is dropped.
#[derive(Debug)]
enum Running {
    Peer(Vec<Process>),
    /// With the port of the upstream.
    Relay(Box<Relay>, u16),
}

impl Peer {
    /// The relay speaks HTTP/1.1 and h2c on one port.
    pub(crate) fn of_relay(relay: Relay, [plain, tls]: [u16; 2], origin: u16) -> Self {
        Self { name: "relay", process: Running::Relay(Box::new(relay), origin), plain, tls, h2c: plain, http3: true }
    }

    pub(crate) fn speaks(&self, port: Port) -> bool {
        port != Port::Http3 || self.http3
    }

    /// The relay and the port of the upstream, if it is the relay.
    pub(crate) fn relay(&self) -> Option<(&Relay, u16)> {
        match &self.process {
            Running::Relay(relay, origin) => Some((relay, *origin)),
            Running::Peer(_) => None,
        }
    }

    pub(crate) fn url(&self, port: Port, path: &str) -> String {
        match port {
            Port::Plain => format!("http://127.0.0.1:{}{path}", self.plain),
            Port::Tls | Port::Http3 => format!("https://localhost:{}{path}", self.tls),
            Port::H2c => format!("http://127.0.0.1:{}{path}", self.h2c),
        }
    }

    fn processes(&self) -> Vec<u32> {
        match &self.process {
            Running::Peer(processes) => processes.iter().map(Process::pid).collect(),
            Running::Relay(relay, _) => vec![relay.process.pid()],
        }
    }

    /// Seconds of processor time so far.
    pub(crate) fn cpu(&self) -> f64 {
        let of = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<f64> =
                stat.rsplit(')').next()?.split_whitespace().map(|text| text.parse().unwrap_or(0.0)).collect();
            Some(fields.get(11)? + fields.get(12)?)
        };
        self.processes().into_iter().filter_map(of).sum::<f64>() / TICKS_A_SECOND
    }

    /// Bytes of memory (`VmRSS`).
    pub(crate) fn memory(&self) -> u64 {
        let of = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.processes().into_iter().filter_map(of).sum::<u64>() * 1024
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    socket.local_addr().expect("a bound socket has an address").port()
}

async fn listens(port: u16) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("a peer listens", async || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200))
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
}

/// nginx: `/s` has 64 bytes, `/m` a mebibyte.
pub(crate) async fn origin(folder: &Path) -> (Process, u16) {
    let (port, root) = (free_port(), folder.join("www"));
    fs::create_dir(&root).expect("a new folder");
    fs::write(root.join("s"), [b'x'; 64]).expect("a small file");
    fs::write(root.join("m"), vec![0; 1 << 20]).expect("a large file");
    let place = folder.display();
    let text = format!(
        "daemon off; master_process off; pid {place}/origin.pid; error_log stderr crit; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 100000000; open_file_cache max=10;\n\
         client_body_temp_path {place}/ob; proxy_temp_path {place}/op; fastcgi_temp_path {place}/of;\n\
         uwsgi_temp_path {place}/ou; scgi_temp_path {place}/os;\n\
         server {{ listen 127.0.0.1:{port}; root {root}; }} }}\n",
        root = root.display()
    );
    let process = nginx(folder, "origin", &text);
    listens(port).await;
    (process, port)
}

fn nginx(folder: &Path, name: &str, text: &str) -> Process {
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, text).expect("a configuration");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file);
    Process::spawn(name, command)
}

/// All peers that are here.
pub(crate) async fn start_all(folder: &Path, origin: u16) -> Vec<Peer> {
    certificate(folder);
    let mut peers = vec![start_nginx(folder, origin).await, start_haproxy(folder, origin).await];
    match env::var_os(ENVOY_VARIABLE).map(PathBuf::from) {
        Some(program) => peers.push(start_envoy(folder, origin, &program).await),
        None => println!("without Envoy: {ENVOY_VARIABLE} does not name it"),
    }
    peers
}

/// ECDSA with P-256, as the relay's own.
fn certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, text) in [("c.pem", chain.clone()), ("k.pem", key.clone()), ("ck.pem", chain + &key)] {
        fs::write(folder.join(name), text).expect("a certificate's file");
    }
}

async fn start_nginx(folder: &Path, origin: u16) -> Peer {
    let (plain, tls, h2c) = (free_port(), free_port(), free_port());
    let workers = ["one", "two"].map(|worker| nginx_worker(folder, worker, origin, [plain, tls, h2c]));
    listens(h2c).await;
    Peer { name: "nginx", process: Running::Peer(workers.into()), plain, tls, h2c, http3: false }
}

/// One of two that share the ports: without a master, which would leave its workers behind when it is killed.
fn nginx_worker(folder: &Path, worker: &str, origin: u16, [plain, tls, h2c]: [u16; 3]) -> Process {
    let (certificates, place) = (folder.display(), folder.join(worker));
    fs::create_dir(&place).expect("a new folder");
    let place = place.display();
    let pass = "location / { proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
    let text = format!(
        "daemon off; master_process off; pid {place}/proxy.pid; error_log stderr crit; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000; upstream o {{ server 127.0.0.1:{origin}; keepalive 512; }}\n\
         client_body_temp_path {place}/pb; proxy_temp_path {place}/pp; fastcgi_temp_path {place}/pf;\n\
         uwsgi_temp_path {place}/pu; scgi_temp_path {place}/ps;\n\
         server {{ listen 127.0.0.1:{plain} reuseport; listen 127.0.0.1:{tls} ssl http2 reuseport;\n\
         ssl_certificate {certificates}/c.pem; ssl_certificate_key {certificates}/k.pem; {pass} }}\n\
         server {{ listen 127.0.0.1:{h2c} http2 reuseport; {pass} }} }}\n"
    );
    nginx(folder, worker, &text)
}

async fn start_haproxy(folder: &Path, origin: u16) -> Peer {
    let (plain, tls, h2c, place) = (free_port(), free_port(), free_port(), folder.display());
    let text = format!(
        "global\n nbthread 2\n maxconn 8000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
         timeout server 60s\n http-reuse always\nfrontend f\n bind 127.0.0.1:{plain}\n \
         bind 127.0.0.1:{tls} ssl crt {place}/ck.pem alpn h2,http/1.1\n bind 127.0.0.1:{h2c} proto h2\n default_backend b\n\
         backend b\n server o 127.0.0.1:{origin}\n"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).expect("a configuration");
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    let process = Process::spawn("haproxy", command);
    listens(h2c).await;
    Peer { name: "HAProxy", process: Running::Peer(vec![process]), plain, tls, h2c, http3: false }
}

async fn start_envoy(folder: &Path, origin: u16, program: &Path) -> Peer {
    let (plain, tls) = (free_port(), free_port());
    let file = folder.join("envoy.json");
    fs::write(&file, envoy(folder, origin, [plain, tls]).to_string()).expect("a configuration");
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).args(["--concurrency", "2", "--disable-hot-restart", "-l", "off"]);
    let process = Process::spawn("envoy", command);
    listens(tls).await;
    Peer { name: "Envoy", process: Running::Peer(vec![process]), plain, tls, h2c: plain, http3: true }
}

fn envoy(folder: &Path, origin: u16, ports: [u16; 2]) -> Value {
    let kind = |name: &str| format!("type.googleapis.com/{name}");
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}]);
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": kind("envoy.extensions.filters.http.router.v3.Router"), "dynamic_stats": false,
        },
    });
    let chain = |codec: &str, tls: Option<Value>| {
        let manager = json!({
            "@type": kind("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": codec, "codec_type": codec, "generate_request_id": false, "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        });
        let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
        let mut chain = json!({ "filters": [filter] });
        if let Some(tls) = tls {
            chain["transport_socket"] = tls;
        }
        chain
    };
    let file = |name: &str| json!({"filename": folder.join(name)});
    let certificate = json!({"certificate_chain": file("c.pem"), "private_key": file("k.pem")});
    let common = |protocols: &[&str]| json!({"alpn_protocols": protocols, "tls_certificates": [certificate]});
    let tls = json!({
        "@type": kind("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": common(&["h2", "http/1.1"]),
    });
    let over_tcp = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
    let quic = json!({
        "@type": kind("envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport"),
        "downstream_tls_context": {"common_tls_context": common(&["h3"])},
    });
    let over_udp = json!({"name": "envoy.transport_sockets.quic", "typed_config": quic});
    let many = json!({"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000});
    let cluster = json!({
        "name": "origin", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {
            "cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(origin)}}]}],
        },
    });
    let mut udp = address(ports[1]);
    udp["socket_address"]["protocol"] = json!("UDP");
    let listeners = json!([
        {"name": "plain", "address": address(ports[0]), "filter_chains": [chain("AUTO", None)]},
        {"name": "tls", "address": address(ports[1]), "filter_chains": [chain("AUTO", Some(over_tcp))]},
        {"name": "http3", "address": udp, "udp_listener_config": {"quic_options": {}},
            "filter_chains": [chain("HTTP3", Some(over_udp))]},
    ]);
    json!({"static_resources": {"listeners": listeners, "clusters": [cluster]}})
}
