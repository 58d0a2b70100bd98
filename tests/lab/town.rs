//! Who lives in the network: a relay with nodes `office` and `branch`, their agents, and the office's service.

use std::{
    fs,
    net::Ipv6Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use underpass_tests::{
    binary,
    eventually::eventually,
    manifest::{self, Target},
    process::Process,
};

use crate::network::{Network, Place, RELAY};

/// The hostname that the office's route serves.
pub(crate) const HOST: &str = "office.example.com";
/// The port of the office's service.
pub(crate) const PORT: u16 = 3000;
/// A hostname that is routed to another port of the office, and that port.
pub(crate) const OTHER_HOST: &str = "other.example.com";
pub(crate) const OTHER_PORT: u16 = 4000;

/// The device of kernel mode.
pub(crate) const DEVICE: &str = "underpass0";

/// A network with a relay that is ready, and a token for node `office`.
#[derive(Debug)]
pub(crate) struct Town {
    pub(crate) network: Network,
    token: String,
    _relay: Process,
    folder: tempfile::TempDir,
}

/// A running agent in the office.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) address: Ipv6Addr,
}

impl Town {
    pub(crate) async fn open() -> Self {
        let network = Network::build();
        let folder = tempfile::Builder::new().prefix("underpass-lab-").tempdir().unwrap();
        // An agent without root must get at its state.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = network.command(Place::Relay, binary::path("underpass-relay"));
        command.env("HOME", folder.path()).arg("--data-dir").arg(folder.path().join("relay"));
        command.args(["--tunnel-listen", &format!("{RELAY}:7443"), "--api-listen", "127.0.0.1:0"]);
        command.args(["--gateway-address", "127.0.0.1", "--port-map", "80=8080,443=8443"]);
        let mut relay = Process::spawn("underpass-relay", command);
        relay.line("`ready`", |line| (line == "ready").then_some(())).await;
        let mut town = Self { network, token: String::new(), _relay: relay, folder };
        let app = manifest::service("app", HOST, Target { node: "office", port: PORT, protocol: "" });
        let file = town.folder.path().join("office.yaml");
        let other = manifest::service("other", OTHER_HOST, Target { node: "office", port: OTHER_PORT, protocol: "" });
        let nodes = [manifest::node("office"), manifest::node("branch")];
        fs::write(&file, manifest::documents(&[&nodes[..], &[app, other]].concat())).unwrap();
        town.cli(&format!("apply -f {}", file.display()));
        town.token = town.cli("tunnel token office --uses 20").trim().to_owned();
        town
    }

    /// Lets the office admit the branch to these ports, such as `[3000]`, or to none with `[]`, and so not at all.
    pub(crate) fn admit_branch(&self, ports: &str) {
        let allowed = if ports == "[]" { "[]".to_owned() } else { format!("[{{node: branch, ports: {ports}}}]") };
        let file = self.folder.path().join("admit.yaml");
        fs::write(&file, format!("{}spec:\n  allowFrom: {allowed}\n", manifest::node("office"))).unwrap();
        self.cli(&format!("apply -f {}", file.display()));
    }

    fn cli(&self, arguments: &str) -> String {
        let kubeconfig = self.folder.path().join("relay/admin.kubeconfig");
        let program = binary::path("underpass");
        let words = format!("{} --kubeconfig {} {arguments}", program.display(), kubeconfig.display());
        self.network.run(Place::Relay, &words)
    }

    /// A folder below the town's, made for whoever may need it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        folder
    }

    /// Starts an agent in the office behind `before` (what runs it, see [`Town::nobody`]) with `flags`, and waits for nothing.
    pub(crate) fn start(&self, before: &str, state: &str, flags: &str) -> Process {
        let program = binary::path("underpass");
        let mut words = before.split_whitespace();
        let mut command = match words.next() {
            Some(first) => self.network.command(Place::Office, first),
            None => self.network.command(Place::Office, &program),
        };
        if !before.is_empty() {
            command.args(words).arg(&program);
        }
        self.run(command, ("office", &self.token), state, flags)
    }

    /// An agent of the branch, connected.
    pub(crate) async fn branch(&self, flags: &str) -> Agent {
        let token = self.cli("tunnel token branch");
        let command = self.network.command(Place::Branch, binary::path("underpass"));
        Agent::connected(self.run(command, ("branch", token.trim()), "branch", flags)).await
    }

    fn run(
        &self,
        mut command: tokio::process::Command,
        (node, token): (&str, &str),
        state: &str,
        flags: &str,
    ) -> Process {
        let state = self.folder(state).join("state");
        command.env("HOME", self.folder.path()).args(["tunnel", "run", node, "--log", "info"]);
        command.arg("--state-dir").arg(state).args(["--token", token]).args(flags.split_whitespace());
        Process::spawn(&format!("underpass tunnel run {node}"), command)
    }

    /// What runs a program as an ordinary user with these `capabilities` (flags of `setpriv`), on a host whose TUN file is
    /// open to all, as udev leaves it.
    pub(crate) fn nobody(&self, capabilities: &str) -> String {
        let folder = self.folder("nobody");
        let (device, script) = (folder.join("tun"), folder.join("run"));
        let device = device.display();
        let text = format!(
            "#!/bin/sh -e\n[ -e {device} ] || mknod -m 666 {device} c 10 200\nmount --bind {device} /dev/net/tun\n\
             exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs {capabilities} \"$@\"\n"
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    }

    /// The usual agent, connected.
    pub(crate) async fn agent(&self, flags: &str) -> Agent {
        Agent::connected(self.start("", "agent", flags)).await
    }

    /// A web server in the office that listens on `address` and serves `folder`.
    pub(crate) async fn serve(&self, address: &str, port: u16, folder: &Path) -> Process {
        let mut command = self.network.command(Place::Office, "python3");
        command.args(["-m", "http.server", &port.to_string(), "--bind", address, "--directory"]).arg(folder);
        let service = Process::spawn("http.server", command);
        eventually("the office's service listens", async || {
            let listening = self.network.run(Place::Office, "ss -Hltn");
            if listening.contains(&format!(":{port} ")) { Ok(()) } else { Err(listening) }
        })
        .await;
        service
    }

    /// What the gateway answers to GET `path` of `host`: the status, and the body into `to`.
    pub(crate) fn fetch(&self, host: &str, path: &str, to: &Path) -> String {
        let url = format!("http://127.0.0.1:8080{path}");
        let curl = format!("curl -s -m 50 -o {} -w %{{http_code}} -H Host:{host} {url}", to.display());
        String::from_utf8(self.network.output(Place::Relay, &curl).stdout).unwrap()
    }

    /// Waits until the gateway answers GET `/` with 200.
    pub(crate) async fn is_served(&self) {
        eventually("the office is served", async || match self.fetch(HOST, "/", Path::new("/dev/null")).as_str() {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        })
        .await;
    }

    /// Pings `to` from the office, and says how many of `count` were answered.
    pub(crate) fn answered(&self, to: Ipv6Addr, count: u32, further: &str) -> u32 {
        self.answered_at(Place::Office, to, count, further)
    }

    /// The same from anywhere.
    pub(crate) fn answered_at(&self, place: Place, to: Ipv6Addr, count: u32, further: &str) -> u32 {
        let output = self.network.output(place, &format!("ping -c {count} -i 0.05 -W 2 {further} {to}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let received = text.split(", ").find_map(|part| part.strip_suffix(" received"));
        received.unwrap_or_else(|| panic!("ping: {output:?}")).parse().unwrap()
    }
}

impl Agent {
    pub(crate) async fn connected(mut process: Process) -> Self {
        let address = process.line("`connected to …`", |line| line.split_once(", address ")?.1.parse().ok()).await;
        Self { process, address }
    }

    /// The relay's own address in the agent's project.
    pub(crate) fn relay(&self) -> Ipv6Addr {
        let mut octets = self.address.octets();
        octets[6..].copy_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        octets.into()
    }

    /// Stops it in good order, and gives its record of packets.
    pub(crate) async fn record(mut self) -> Record {
        self.process.terminate().await;
        assert!(self.process.exit().await.success());
        let text = eventually("the agent leaves its record", async || {
            let log = self.process.log();
            let line = log.lines().find(|line| line.contains("session ended")).map(str::to_owned);
            line.ok_or(log)
        })
        .await;
        Record(text)
    }
}

/// What the agent counted.
#[derive(Debug)]
pub(crate) struct Record(String);

impl Record {
    /// How many packets the ledger says were lost at a place for a reason.
    pub(crate) fn lost(&self, place_and_reason: &str) -> u64 {
        let (_, after) = self.0.split_once(&format!("{place_and_reason} ")).unwrap_or_default();
        let digits = after.split(|other: char| !other.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or_default()
    }

    /// The count of that name; what never happened is 0.
    pub(crate) fn of(&self, name: &str) -> u64 {
        let words = self.0.split([' ', '=']).collect::<Vec<_>>();
        words.windows(2).find(|pair| pair[0] == name).map_or(0, |pair| pair[1].parse().unwrap())
    }
}
