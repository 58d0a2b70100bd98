//! The place: an office and its branch behind a NAT router, and the internet with a relay on the router's other side.
//!
//! ```text
//!  office ─ 10.1.0.0/24 ─ router (NAT) ─ 192.0.2.0/24 ─ relay
//!  branch ─ 10.2.0.0/24 ───┘
//! ```

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

/// Where the relay is to the rest of the world.
pub(crate) const RELAY: &str = "192.0.2.2";

/// Namespaces of a test program that was killed are known by its process number.
const PREFIX: &str = "uplab";

static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// A network namespace by role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Office,
    Branch,
    Router,
    Relay,
}

const PLACES: [Place; 4] = [Place::Office, Place::Branch, Place::Router, Place::Relay];

/// The namespaces of one test. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Network {
    number: u32,
}

impl Network {
    /// # Panics
    /// Without root or `/dev/net/tun`.
    pub(crate) fn build() -> Self {
        assert!(
            Path::new("/dev/net/tun").exists(),
            "the lab needs /dev/net/tun: `modprobe tun`, or give it to the container"
        );
        sweep();
        let network = Self { number: NETWORKS.fetch_add(1, Ordering::Relaxed) };
        for place in PLACES {
            ip(&format!("netns add {}", network.name(place)));
            network.ip(place, "link set lo up");
        }
        network.join(("in", Place::Office, "10.1.0.2/24"), ("office", Place::Router, "10.1.0.1/24"));
        network.join(("world", Place::Relay, "192.0.2.2/24"), ("world", Place::Router, "192.0.2.1/24"));
        network.join(("in", Place::Branch, "10.2.0.2/24"), ("branch", Place::Router, "10.2.0.1/24"));
        network.ip(Place::Office, "route add default via 10.1.0.1");
        network.ip(Place::Branch, "route add default via 10.2.0.1");
        network.run(Place::Router, "sysctl -qw net.ipv4.ip_forward=1");
        network.run(Place::Router, "nft add table ip nat");
        network.run(Place::Router, "nft add chain ip nat post { type nat hook postrouting priority 100 ; }");
        network.run(Place::Router, "nft add rule ip nat post oifname world masquerade");
        network
    }

    /// A pair of virtual cables, each end with its name, place and address.
    fn join(&self, (name, place, address): (&str, Place, &str), (other, elsewhere, theirs): (&str, Place, &str)) {
        let (here, there) = (self.name(place), self.name(elsewhere));
        ip(&format!("link add {name} netns {here} type veth peer name {other} netns {there}"));
        for (place, name, address) in [(place, name, address), (elsewhere, other, theirs)] {
            self.ip(place, &format!("addr add {address} dev {name}"));
            self.ip(place, &format!("link set {name} up"));
        }
    }

    /// What `ip netns` calls a place.
    pub(crate) fn name(&self, place: Place) -> String {
        format!("{PREFIX}-{}-{}-{place:?}", std::process::id(), self.number).to_lowercase()
    }

    /// `ip ARGUMENTS` in a place, which must work; gives what it printed.
    pub(crate) fn ip(&self, place: Place, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name(place)))
    }

    /// A command in a place, its words parted by blanks, which must work; gives what it printed.
    pub(crate) fn run(&self, place: Place, words: &str) -> String {
        succeed(words, &self.output(place, words))
    }

    /// The same, whatever comes of it.
    pub(crate) fn output(&self, place: Place, words: &str) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place)]).args(words.split_whitespace());
        command.output().expect("`ip` can be run")
    }

    /// Begins a command in a place; the program has the process number of the child.
    pub(crate) fn command(&self, place: Place, program: impl AsRef<std::ffi::OsStr>) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("ip");
        command.args(["netns", "exec", &self.name(place)]).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).output();
        }
    }
}

/// Ends and removes what a killed test program left.
fn sweep() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            let processes = Command::new("ip").args(["netns", "pids", &name]).output();
            let processes = processes.map(|output| output.stdout).unwrap_or_default();
            for process in String::from_utf8_lossy(&processes).split_whitespace() {
                let _ = Command::new("kill").args(["-KILL", process]).output();
            }
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    succeed(&format!("ip {arguments}"), &output.expect("`ip` can be run: install iproute2"))
}

fn succeed(what: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "`{what}` (the lab needs root): {} {out}{err}", output.status);
    out.into_owned()
}
