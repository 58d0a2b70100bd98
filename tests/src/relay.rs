//! A relay process on ports that the kernel chose, and on the same ports again after a restart.
//!
//! Its store is the embedded one, unless `UNDERPASS_TEST_STORE=etcd` says that every relay which does not ask for one
//! by name shall be on etcd: one etcd for the whole test program, with a prefix for each deployment.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::process::Command;

use crate::{api::Api, binary, cli::Cli, etcd, process::Process};

/// Which store the relays are on that do not ask for one: `embedded` (the default) or `etcd`.
const STORE_VARIABLE: &str = "UNDERPASS_TEST_STORE";
/// How many deployments have begun in the shared etcd.
static DEPLOYMENTS: AtomicU64 = AtomicU64::new(0);

/// Where a running relay listens, as it printed it.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub tunnel: SocketAddr,
    pub api: SocketAddr,
    /// The `default` Gateway's listener on port 80.
    pub http: SocketAddr,
    /// The `default` Gateway's listener on port 443.
    pub https: SocketAddr,
}

/// A relay with a data directory of its own.
#[derive(Debug)]
pub struct Relay {
    pub process: Process,
    pub addresses: Addresses,
    arguments: Vec<String>,
    room: Option<Room>,
    folder: tempfile::TempDir,
}

/// A file system in memory, of this relay alone, that its folder is on.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub mebibytes: u32,
}

impl Room {
    /// A shell that makes the room over `folder`, where nobody else sees it, runs `prepare` there, and then `"$@"`.
    ///
    /// Needs root, or a kernel that lets anybody have namespaces.
    #[must_use]
    pub fn shell(self, folder: &Path, prepare: &str) -> Command {
        let own = "unshare -m true 2>/dev/null";
        let script = format!(
            r#"mount -t tmpfs -o size={}m tmpfs "$PLACE" && cd "$PLACE" && {prepare} && exec "$@""#,
            self.mebibytes
        );
        let mut command = Command::new("sh");
        let enter = format!(r#"if {own}; then set -- -m "$@"; else set -- -rm "$@"; fi; exec unshare "$@""#);
        command.args(["-c", &enter, "sh", "sh", "-c", &script, "sh"]).env("PLACE", folder);
        command
    }
}

impl Relay {
    /// Starts a relay on an empty data directory and waits until it says `ready`.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further arguments.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let names_store = arguments.contains(&"--etcd-endpoint");
        let store = if names_store { Vec::new() } else { store_of_the_run() };
        Self::launch(arguments.iter().map(|&argument| argument.to_owned()).chain(store).collect(), None).await
    }

    /// A relay with the embedded store, whatever the others are on: for what is about its file.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_embedded() -> Self {
        Self::launch(Vec::new(), None).await
    }

    /// The same, in a room that it can fill. It can not be started again: the room goes with the process.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_embedded_in(room: Room) -> Self {
        Self::launch(Vec::new(), Some(room)).await
    }

    async fn launch(arguments: Vec<String>, room: Option<Room>) -> Self {
        let folder = tempfile::Builder::new().prefix("underpass-relay-").tempdir().expect("a folder for the relay");
        let ports = ["127.0.0.1:0", "127.0.0.1:0", "80=0,443=0"].map(str::to_owned);
        let mut process = spawn(folder.path(), room, &ports, &arguments);
        let addresses = read_addresses(&mut process).await;
        Self { process, addresses, arguments, room, folder }
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// SIGTERM, and its exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.terminate().await;
        self.process.exit().await
    }

    /// Starts it again after its end, on the same data and the same ports.
    ///
    /// # Panics
    /// When it does not become ready, or takes other ports.
    pub async fn start_again(&mut self) {
        let Addresses { tunnel, api, http, https } = self.addresses;
        let ports = [tunnel.to_string(), api.to_string(), format!("80={},443={}", http.port(), https.port())];
        self.process = spawn(self.folder.path(), self.room, &ports, &self.arguments);
        let addresses = read_addresses(&mut self.process).await;
        assert_eq!(format!("{addresses:?}"), format!("{:?}", self.addresses), "a restarted relay keeps its ports");
    }

    /// Whether this relay keeps its deployment in etcd.
    #[must_use]
    pub fn is_on_etcd(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--etcd-endpoint")
    }

    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        let folder = self.folder.path();
        let below = folder.strip_prefix("/").expect("temporary folders have absolute paths");
        let seen = self.room.map_or(folder.to_owned(), |_| self.process.root().join(below));
        seen.join("data")
    }

    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_folder().join("admin.kubeconfig")
    }

    /// The command line as this relay's administrator, in project `default`.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::new(self.kubeconfig())
    }

    /// The REST API as this relay's administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::of_kubeconfig(&self.kubeconfig())
    }
}

/// What tells a new deployment's relay where its store is.
///
/// # Panics
/// When the variable says neither.
fn store_of_the_run() -> Vec<String> {
    match env::var(STORE_VARIABLE).as_deref() {
        Err(_) | Ok("" | "embedded") => Vec::new(),
        Ok("etcd") => {
            let prefix = format!("/deployment-{}", DEPLOYMENTS.fetch_add(1, Ordering::Relaxed));
            let endpoint = etcd::of_this_program().to_owned();
            vec!["--etcd-endpoint".to_owned(), endpoint, "--etcd-prefix".to_owned(), prefix]
        }
        Ok(other) => panic!("{STORE_VARIABLE}={other}: it is `embedded` or `etcd`"),
    }
}

fn spawn(folder: &Path, room: Option<Room>, [tunnel, api, port_map]: &[String; 3], further: &[String]) -> Process {
    let program = binary::path("underpass-relay");
    let mut command = match room {
        None => Command::new(program),
        Some(room) => {
            let mut shell = room.shell(folder, "true");
            shell.arg(program);
            shell
        }
    };
    command.env("HOME", folder).env("XDG_STATE_HOME", folder.join("state"));
    command.arg("--data-dir").arg(folder.join("data"));
    command.args(["--tunnel-listen", tunnel, "--api-listen", api, "--gateway-address", "127.0.0.1"]);
    command.args(["--port-map", port_map]).args(further);
    Process::spawn("underpass-relay", command)
}

async fn read_addresses(process: &mut Process) -> Addresses {
    process.line("`ready`", |line| (line == "ready").then_some(())).await;
    let lines = process.lines();
    let address = |prefix: &str| -> SocketAddr {
        let text = lines.iter().rev().find_map(|line| line.strip_prefix(prefix));
        let text = text.unwrap_or_else(|| panic!("the relay prints `{prefix}ADDRESS` before `ready`: {lines:?}"));
        text.parse().unwrap_or_else(|_| panic!("`{text}` after `{prefix}` is an address and a port"))
    };
    Addresses {
        tunnel: address("listening tunnel "),
        api: address("listening api https://"),
        http: address("listening gateway 80 http://"),
        https: address("listening gateway 443 https://"),
    }
}
