//! An agent process, its state directory, and what it says when it connects.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
};

use tokio::process::Command;

use crate::{
    binary,
    cli::Outcome,
    eventually::{PATIENCE, within},
    process::Process,
    relay::Relay,
};

/// How an agent is to be started.
#[derive(Debug, Default)]
pub struct Settings {
    pub node: String,
    /// `None` leaves the flag out: project `default`.
    pub project: Option<String>,
    pub token: Option<String>,
    /// Further flags such as `--lane packet`.
    pub flags: Vec<String>,
}

impl Settings {
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self { node: name.to_owned(), ..Self::default() }
    }

    #[must_use]
    pub fn project(mut self, name: &str) -> Self {
        self.project = Some(name.to_owned());
        self
    }

    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self
    }
}

/// What `connected to …` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub relay: SocketAddr,
    pub agent: String,
    pub node: String,
    /// The agent's own address in its /96.
    pub address: Ipv6Addr,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    settings: Settings,
    state: StateFolder,
}

/// An agent's state directory: made, kept over restarts, and copied as a thief would.
#[derive(Debug)]
pub struct StateFolder(tempfile::TempDir);

impl Default for StateFolder {
    fn default() -> Self {
        let folder = tempfile::Builder::new().prefix("underpass-agent-").tempdir();
        Self(folder.expect("a folder for the agent"))
    }
}

impl StateFolder {
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// A copy of everything in it.
    ///
    /// # Panics
    /// When a file cannot be read or written.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::default();
        copy_folder(&self.path(), &copy.path()).expect("the state directory can be copied");
        copy
    }

    /// The names of all files below it, in order.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list_files(&self.path(), &mut found);
        found.sort();
        found
    }
}

impl Agent {
    /// Enrols and starts an agent for a node of this relay, and waits until it is connected.
    pub async fn enrol(relay: &Relay, settings: Settings) -> (Self, Connected) {
        let cli = relay.cli().in_project(settings.project.as_deref());
        let token = cli.token(&settings.node).await;
        let mut agent = Self::start(settings.token(&token), StateFolder::default());
        let connected = agent.connected().await;
        (agent, connected)
    }

    /// Starts an agent without waiting for anything.
    #[must_use]
    pub fn start(settings: Settings, state: StateFolder) -> Self {
        let name = format!("underpass tunnel run {}", settings.node);
        Self { process: Process::spawn(&name, command(&settings, &state)), settings, state }
    }

    /// Waits for the next `connected to`.
    pub async fn connected(&mut self) -> Connected {
        self.process.line("`connected to …`", parse_connected).await
    }

    /// SIGKILL, then a new process on the same state directory, which needs no token.
    pub async fn kill_and_restart(&mut self) {
        self.process.kill().await;
        self.settings.token = None;
        self.process = Process::spawn("underpass tunnel run, again", command(&self.settings, &self.state));
    }

    /// SIGTERM, and its exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.terminate().await;
        self.process.exit().await
    }

    #[must_use]
    pub fn state(&self) -> &StateFolder {
        &self.state
    }
}

/// Runs an agent that ought to give up by itself, to its end.
///
/// # Panics
/// When it does not end.
pub async fn run_to_end(settings: &Settings, state: &StateFolder) -> Outcome {
    let mut command = command(settings, state);
    command.kill_on_drop(true);
    let output = within(PATIENCE, "an agent that was refused ends", command.output()).await;
    Outcome::of(&output.expect("the agent starts"))
}

fn command(settings: &Settings, state: &StateFolder) -> Command {
    let mut command = Command::new(binary::path("underpass"));
    for variable in ["UNDERPASS_TOKEN", "UNDERPASS_KUBECONFIG", "KUBECONFIG"] {
        command.env_remove(variable);
    }
    command.env("HOME", state.0.path()).env("XDG_STATE_HOME", state.0.path().join("xdg"));
    command.args(["tunnel", "run", &settings.node]).arg("--state-dir").arg(state.path());
    // Whoever runs these tests as root does not want a network device of each agent; the lab's agents have theirs.
    command.args(["--mode", "user"]);
    if let Some(project) = &settings.project {
        command.args(["--project", project]);
    }
    if let Some(token) = &settings.token {
        command.args(["--token", token]);
    }
    command.args(&settings.flags);
    command
}

/// Reads `connected to 127.0.0.1:40001 as agent a-1234 of node office, address fd00::1`.
fn parse_connected(line: &str) -> Option<Connected> {
    let (relay, rest) = line.strip_prefix("connected to ")?.split_once(" as agent ")?;
    let (agent, rest) = rest.split_once(" of node ")?;
    let (node, address) = rest.split_once(", address ")?;
    Some(Connected {
        relay: relay.parse().ok()?,
        agent: agent.to_owned(),
        node: node.to_owned(),
        address: address.parse().ok()?,
    })
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn list_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { list_files(&path, found) } else { found.push(path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_new_session_is_understood() {
        let line = "connected to 127.0.0.1:40001 as agent a-1234 of node office, address fd12:3456:789a:1::1";
        let connected = parse_connected(line).expect("the line is well formed");
        assert_eq!((connected.agent.as_str(), connected.node.as_str()), ("a-1234", "office"));
        assert_eq!(connected.address.to_string(), "fd12:3456:789a:1::1");
        assert_eq!(parse_connected("disconnected: timed out; next try in 0.8s"), None);
    }
}
