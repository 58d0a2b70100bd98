//! A relay process on ports that the kernel chose, and on the same ports again after a restart.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use tokio::process::Command;

use crate::{api::Api, binary, cli::Cli, process::Process};

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
    folder: tempfile::TempDir,
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
        let folder = tempfile::Builder::new().prefix("underpass-relay-").tempdir().expect("a folder for the relay");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let ports = ["127.0.0.1:0", "127.0.0.1:0", "80=0,443=0"].map(str::to_owned);
        let mut process = spawn(folder.path(), &ports, &arguments);
        let addresses = read_addresses(&mut process).await;
        Self { process, addresses, arguments, folder }
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
        self.process = spawn(self.folder.path(), &ports, &self.arguments);
        let addresses = read_addresses(&mut self.process).await;
        assert_eq!(format!("{addresses:?}"), format!("{:?}", self.addresses), "a restarted relay keeps its ports");
    }

    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.folder.path().join("data")
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

fn spawn(folder: &Path, [tunnel, api, port_map]: &[String; 3], further: &[String]) -> Process {
    let mut command = Command::new(binary::path("underpass-relay"));
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
