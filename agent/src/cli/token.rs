//! `underpass tunnel token`: ask the relay for an enrolment token.

use std::time::Duration;

use http::Method;
use serde_json::json;
use underpass_shared::{
    enrolment::EnrolmentToken,
    identity::{DEFAULT_PROJECT, NodeName},
    resource::kind::Kind,
};

use super::{
    GlobalArgs, Outcome,
    client::Client,
    duration,
    print::{Console, clean_line},
    status::ApiError,
};

/// A token as the relay gave it.
#[derive(Debug)]
pub struct Issued {
    pub token: EnrolmentToken,
    /// RFC 3339.
    pub expires_at: String,
}

/// Asks the relay for a token that lets `uses` agents join `node` within `ttl`.
///
/// # Errors
/// When the relay cannot be reached, refuses, or answers with something that is no token for that node.
pub async fn request(client: &mut Client, node: &NodeName, ttl: Duration, uses: u32) -> anyhow::Result<Issued> {
    let info = Kind::TunnelNode.info();
    let path = client.path(info, info.api_versions[0], None, Some(node.as_str())) + "/token";
    let body = json!({
        "apiVersion": info.api_versions[0], "kind": "TunnelNodeToken",
        "spec": {"expirationSeconds": ttl.as_secs(), "uses": uses}});
    let answer = match client.send(Method::POST, &path, Some(&body)).await {
        Ok(answer) => answer,
        Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => {
            anyhow::bail!(
                "{error}: apply a TunnelNode named `{node}` first (underpass get tunnelnodes lists those there are)"
            )
        }
        Err(error) => return Err(error.into()),
    };
    let status = &answer["status"];
    let token: EnrolmentToken = status["token"].as_str().unwrap_or_default().parse()?;
    if token.node != *node {
        anyhow::bail!("the relay gave a token for node `{}` instead of `{node}`", token.node);
    }
    let expires_at = status["expirationTimestamp"].as_str().unwrap_or_default().to_owned();
    Ok(Issued { token, expires_at })
}

/// Prints the token alone on standard output, so that it can be piped, and the rest on standard error.
pub(crate) async fn run(
    global: &GlobalArgs,
    node: &NodeName,
    ttl: Duration,
    uses: u32,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, _) = global.connect()?;
    let Issued { token, expires_at } = request(&mut client, node, ttl, uses).await?;
    console.warn(&client.take_warnings())?;
    console.say(&token.to_string())?;
    let agents = if uses == 1 { "one agent".to_owned() } else { format!("{uses} agents") };
    let project = match token.project.as_str() {
        DEFAULT_PROJECT => String::new(),
        name => format!(" --project {name}"),
    };
    console.note(&format!(
        "This token lets {agents} join `{node}` until {} (in {}). Keep it secret. On the agent's host, with the \
         token in a file:\n  underpass tunnel run {node}{project} --token-file FILE",
        clean_line(&expires_at),
        duration::text(ttl)
    ))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use underpass_shared::enrolment::{Fingerprint, Secret};

    use super::*;
    use crate::cli::testing::Relay;

    const PATH: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office/token";

    fn token(node: &str) -> EnrolmentToken {
        EnrolmentToken {
            project: "default".parse().unwrap(),
            node: node.parse().unwrap(),
            relays: vec!["127.0.0.1:7443".to_owned()],
            ca: Fingerprint::of(b"ca"),
            secret: Secret::from_bytes([1; 32]),
        }
    }

    fn answer(token: &EnrolmentToken) -> Value {
        json!({"kind": "TunnelNodeToken", "apiVersion": "core.apoxy.dev/v1alpha", "spec": {},
            "status": {"token": token.to_string(), "expirationTimestamp": "2026-11-21T13:00:00Z"}})
    }

    #[tokio::test]
    async fn only_the_token_is_on_standard_output() {
        let relay = Relay::start().await;
        relay.answer("POST", PATH, &answer(&token("office")));
        let run = relay.run("tunnel token office --ttl 90m --uses 3", "").await;
        assert_eq!((run.outcome, run.out.trim_end()), (Outcome::Done, token("office").to_string().as_str()));
        assert!(
            run.err.starts_with("This token lets 3 agents join `office` until 2026-11-21T13:00:00Z (in 1h30m)."),
            "{}",
            run.err
        );
        assert!(run.err.ends_with("  underpass tunnel run office --token-file FILE\n"));
        assert!(!run.err.contains("underpass1."));
        assert_eq!(relay.last_body()["spec"], json!({"expirationSeconds": 5400, "uses": 3}));
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_and_answers_that_are_no_tokens_are_errors() {
        let relay = Relay::start().await;
        let run = relay.run("tunnel token office", "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        assert!(run.err.contains("apply a TunnelNode named `office` first"), "{}", run.err);
        relay.answer("POST", PATH, &answer(&token("other")));
        assert!(
            relay.run("tunnel token office", "").await.err.contains("a token for node `other` instead of `office`")
        );
        relay.answer("POST", PATH, &json!({"kind": "TunnelNodeToken", "status": {"token": "x\u{1b}"}}));
        let run = relay.run("tunnel token office", "").await;
        assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""));
        assert!(run.err.starts_with("error: not an enrolment token"), "{}", run.err);
    }
}
