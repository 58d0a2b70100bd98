//! `underpass version`: ours, and the relay's if one can be reached.

use std::time::Duration;

use super::{GlobalArgs, Outcome, print::Console};

/// How long the relay may take: nobody waits for a version.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(global: &GlobalArgs, client_only: bool, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    console.say(&format!("underpass {}", env!("CARGO_PKG_VERSION")))?;
    if client_only {
        return Ok(Outcome::Done);
    }
    match tokio::time::timeout(TIMEOUT, relay_version(global)).await {
        Ok(Ok(version)) => console.say(&format!("relay     {version}"))?,
        Ok(Err(error)) => console.note(&format!("relay     unknown: {error:#}"))?,
        Err(_) => console.note(&format!("relay     unknown: no answer within {} s", TIMEOUT.as_secs()))?,
    }
    Ok(Outcome::Done)
}

async fn relay_version(global: &GlobalArgs) -> anyhow::Result<String> {
    let (mut client, _) = global.connect()?;
    let answer = client.get("/version").await?;
    Ok(answer["gitVersion"].as_str().unwrap_or("that does not say its version").to_owned())
}
