//! What `underpass tunnel run` is told on its command line.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use underpass_shared::identity::NodeName;

/// The arguments of `tunnel run`, as typed.
#[derive(Args)]
pub struct RunArgs {
    /// The TunnelNode that this agent serves
    pub node: NodeName,
    /// Enrolment token, as `underpass tunnel token NODE` prints it; needed on the first run only
    #[arg(long, env = "UNDERPASS_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the enrolment token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Directory for the agent's key and certificate
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Offer only these local ports; PORT=LOCAL offers the local port LOCAL as PORT; may be repeated
    #[arg(long, value_name = "PORT[=LOCAL]")]
    pub publish: Vec<String>,
    /// How TCP crosses the tunnel
    #[arg(long, value_enum, default_value_t)]
    pub lane: Lane,
}

impl std::fmt::Debug for RunArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunArgs({}, ..)", self.node)
    }
}

/// How TCP crosses the tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Lane {
    /// Streams, where the relay offers them
    #[default]
    Auto,
    /// IP packets only
    Packet,
}
