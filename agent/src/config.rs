//! From what was typed after `tunnel run` ([`RunArgs`]) to what it means ([`RunConfig`]).

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use underpass_shared::{
    enrolment::{EnrolmentToken, TokenError},
    identity::{NodeName, ProjectName},
};

use crate::{
    node::publish::{Publication, Published, PublishedTwice},
    proxies::users::{Users, UsersError},
};

/// What `underpass tunnel run` was given.
#[derive(Clone, Args)]
pub struct RunArgs {
    /// The TunnelNode to be an agent of
    pub node: NodeName,

    /// Enrolment token, as `underpass tunnel token NODE` prints it; needed once, on the first start
    #[arg(long, env = "UNDERPASS_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,

    /// File that holds the enrolment token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Where key and certificate are kept, readable by you alone
    /// [default: /var/lib/underpass as root, else ~/.local/state/underpass; then PROJECT/NODE]
    #[arg(long, value_name = "DIR", env = "UNDERPASS_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Loopback port that the gateway may reach, and other nodes that the TunnelNode admits, or PORT=LOCALPORT; may be repeated
    /// [default: every port, for the gateway alone]
    #[arg(long, value_name = "PORT[=LOCALPORT]")]
    pub publish: Vec<Publication>,

    /// How flows travel: over streams where the relay offers them, or as packets only
    #[arg(long, value_enum, default_value_t = Lane::Auto)]
    pub lane: Lane,

    /// Serve SOCKS5 and HTTP CONNECT to programs on this host, which reach other nodes and the internet by it as far as the
    /// TunnelNodes allow, such as 127.0.0.1:1080 [default: neither]
    #[arg(long, value_name = "ADDR:PORT", value_parser = socks_addr)]
    pub socks_addr: Option<SocketAddr>,

    /// Names and passwords for --socks-addr, USER:PASSWORD one a line, readable by you alone; needed where others than this
    /// host can connect
    #[arg(long, value_name = "FILE", requires = "socks_addr")]
    pub socks_user_file: Option<PathBuf>,

    /// Where packets appear: in a TUN device (needs CAP_NET_ADMIN), in a netstack of this process, or the first where it may
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,

    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,underpass_agent::link=debug`
    #[arg(long, value_name = "FILTER", default_value = "warn", env = "UNDERPASS_LOG")]
    pub log: String,
}

impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunArgs({}, ..)", self.node)
    }
}

/// Which of the two ways bytes cross a session are offered to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Streams for TCP, packets for everything else.
    Auto,
    /// Packets for everything, as with a peer that knows CONNECT-IP only.
    Packet,
}

/// Where packets appear on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Kernel mode where the host lets us, else user mode.
    Auto,
    /// A TUN device.
    Kernel,
    /// A netstack in this process.
    User,
}

/// What the agent was asked to be; nothing is left open.
#[derive(Debug)]
pub struct RunConfig {
    pub project: ProjectName,
    pub node: NodeName,
    pub token: Option<EnrolmentToken>,
    pub state_dir: PathBuf,
    pub published: Published,
    pub lane: Lane,
    pub mode: Mode,
    pub proxies: Option<ProxiesConfig>,
}

/// Where the proxies listen, and to whom.
#[derive(Debug)]
pub struct ProxiesConfig {
    pub address: SocketAddr,
    /// `None`: to whoever can connect.
    pub users: Option<Users>,
}

/// An address and a port; `localhost` is its IPv4 address.
fn socks_addr(text: &str) -> Result<SocketAddr, String> {
    let written = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    written.as_deref().unwrap_or(text).parse().map_err(|_| "not ADDR:PORT, such as 127.0.0.1:1080".to_owned())
}

/// What was wrong with what was typed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--token-file {path}: cannot be read")]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(
        "the token is for node {token} of project {token_project}, not for {node} of {project}: ask for a token of that node, or run that node"
    )]
    OtherNode { token: NodeName, token_project: ProjectName, node: NodeName, project: ProjectName },
    #[error(transparent)]
    Published(#[from] PublishedTwice),
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error(
        "--socks-addr {0}: others than this host could use it: add --socks-user-file, or listen on 127.0.0.1:{port}",
        port = .0.port()
    )]
    OpenProxy(SocketAddr),
}

impl RunArgs {
    /// What it means in `project`; `state_home` is the folder that holds this user's state (none: root's).
    ///
    /// A project that was not named is the token's.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn resolve(self, project: Option<ProjectName>, state_home: Option<PathBuf>) -> Result<RunConfig, ConfigError> {
        let text = match (self.token, self.token_file) {
            (Some(text), _) => Some(text),
            (None, Some(path)) => {
                Some(std::fs::read_to_string(&path).map_err(|source| ConfigError::TokenFile { path, source })?)
            }
            (None, None) => None,
        };
        let token: Option<EnrolmentToken> = text.map(|text| text.parse()).transpose()?;
        let project = project.or_else(|| token.as_ref().map(|token| token.project.clone())).unwrap_or_default();
        if let Some(token) = &token
            && (token.node != self.node || token.project != project)
        {
            return Err(ConfigError::OtherNode {
                token: token.node.clone(),
                token_project: token.project.clone(),
                node: self.node,
                project,
            });
        }
        let state_dir = self.state_dir.unwrap_or_else(|| {
            let home = state_home.unwrap_or_else(|| PathBuf::from("/var/lib"));
            home.join("underpass").join(project.as_str()).join(self.node.as_str())
        });
        let published = Published::new(&self.publish)?;
        let users = self.socks_user_file.as_deref().map(Users::load).transpose()?;
        let proxies = match self.socks_addr {
            Some(address) if users.is_none() && !address.ip().to_canonical().is_loopback() => {
                return Err(ConfigError::OpenProxy(address));
            }
            address => address.map(|address| ProxiesConfig { address, users }),
        };
        Ok(RunConfig {
            project,
            node: self.node,
            token,
            state_dir,
            published,
            lane: self.lane,
            mode: self.mode,
            proxies,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use underpass_shared::enrolment::{Fingerprint, Secret};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn resolve(args: &[&str]) -> Result<RunConfig, String> {
        let command = Command::parse_from(["run"].iter().chain(args));
        command.run.resolve(None, Some("/state".into())).map_err(|error| error.to_string())
    }

    fn token(project: &str) -> String {
        let token = EnrolmentToken {
            project: project.parse().unwrap(),
            node: "office".parse().unwrap(),
            relays: vec!["127.0.0.1:1".to_owned()],
            ca: Fingerprint::of(b""),
            secret: Secret::from_bytes([0; 32]),
        };
        token.to_string()
    }

    #[test]
    fn state_is_kept_apart_by_project_and_node() {
        assert_eq!(resolve(&["office"]).unwrap().state_dir, PathBuf::from("/state/underpass/default/office"));
        let other = resolve(&["office", "--token", &token("other")]).unwrap();
        assert_eq!(other.state_dir, PathBuf::from("/state/underpass/other/office"));
    }

    #[test]
    fn a_token_for_another_node_is_refused_by_name() {
        let error = resolve(&["home", "--token", &token("default")]).unwrap_err();
        assert!(
            error.starts_with("the token is for node office of project default, not for home of default"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_token_file_is_named() {
        let error = resolve(&["office", "--token-file", "/nonexistent/token"]).unwrap_err();
        assert_eq!(error, "--token-file /nonexistent/token: cannot be read");
    }

    #[test]
    fn contradicting_publications_are_refused() {
        let error = resolve(&["office", "--publish", "80=1", "--publish", "80=2"]).unwrap_err();
        assert_eq!(error, "port 80 is published twice, as 1 and as 2: leave one out");
    }

    #[test]
    fn a_proxy_for_everybody_needs_passwords() {
        let address =
            |text: &str| resolve(&["office", "--socks-addr", text]).map(|config| config.proxies.unwrap().address);
        for (text, want) in
            [("127.0.0.1:1080", "127.0.0.1:1080"), ("localhost:0", "127.0.0.1:0"), ("[::1]:1080", "[::1]:1080")]
        {
            assert_eq!(address(text), Ok(want.parse().unwrap()), "{text}");
        }
        assert!(resolve(&["office"]).unwrap().proxies.is_none(), "it is off unless asked for");
        for open in ["0.0.0.0:1080", "[::]:1080", "192.0.2.1:1080", "[::ffff:192.0.2.1]:1080"] {
            let error = address(open).unwrap_err();
            assert!(error.ends_with("add --socks-user-file, or listen on 127.0.0.1:1080"), "{error}");
        }
    }
}
