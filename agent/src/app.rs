//! The composition root of the agent.

use crate::{cli::GlobalArgs, config::RunArgs};

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When the agent cannot start.
#[expect(clippy::unused_async, clippy::needless_pass_by_value, reason = "the agent's parts are joined here")]
pub async fn run(args: RunArgs, _global: GlobalArgs) -> anyhow::Result<()> {
    anyhow::bail!("this build cannot run a tunnel for `{}` yet", args.node)
}
