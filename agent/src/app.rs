//! The composition root of the agent.

use crate::{cli::GlobalArgs, config::RunArgs};

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When the agent cannot start.
pub async fn run(args: RunArgs, _global: GlobalArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot run a tunnel for `{}` yet", args.node)
}
