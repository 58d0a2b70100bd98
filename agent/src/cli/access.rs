//! `underpass access`: tokens for people and programs, each a ServiceAccount with a role in the project.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use underpass_shared::{
    identity::{DEFAULT_PROJECT, NodeName},
    resource::kind::{Kind, KindInfo},
};

use super::{
    GlobalArgs, Outcome,
    client::{Client, ClientError},
    config,
    contexts::standalone,
    duration,
    fields::{cell, list, name},
    kinds::KindWord,
    print::{Console, clean_line, columns, text},
    status::ApiError,
};
use crate::clock;

/// Where the ServiceAccounts are.
const NAMESPACE: &str = "default";
/// What marks the bindings that are ours, so that `list` and `revoke` touch no others.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", "underpass-access");

/// What `underpass access` can do.
#[derive(Debug, Subcommand)]
pub enum AccessCommand {
    /// Give somebody access to the project, and print the token for it
    #[command(after_help = "Examples:\n  \
        underpass access create ci --role editor --ttl 90d > token\n  \
        underpass access create bob --role viewer --kubeconfig-out bob.kubeconfig")]
    Create(CreateArgs),
    /// List who has access
    List,
    /// Take access away: every token of that name is worth nothing from now on
    #[command(after_help = "Example:\n  underpass access revoke ci")]
    Revoke { name: NodeName },
}

/// Who gets which access.
#[derive(Debug, Args)]
pub struct CreateArgs {
    pub name: NodeName,
    /// What the token may do
    #[arg(long, value_enum)]
    pub role: Role,
    /// How long the token is good for: 15m, 24h, 90d
    #[arg(long, default_value = "24h", value_parser = duration::parse)]
    pub ttl: Duration,
    /// What to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Form,
    /// Write a kubeconfig with the token into this file instead
    #[arg(long, value_name = "FILE", conflicts_with = "output")]
    pub kubeconfig_out: Option<PathBuf>,
}

/// The roles of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything in the project, access included
    Admin,
    /// Everything but access
    Editor,
    /// Read, but no secrets
    Viewer,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Editor => "editor",
            Self::Viewer => "viewer",
        }
    }
}

/// What `access create` prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    #[default]
    Token,
    /// A whole kubeconfig with the token in it
    Kubeconfig,
}

pub(crate) async fn run(
    global: &GlobalArgs,
    command: AccessCommand,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    match command {
        AccessCommand::Create(args) => create(global, &args, console).await,
        AccessCommand::List => show(global, console).await,
        AccessCommand::Revoke { name } => revoke(global, name.as_str(), console).await,
    }
}

async fn create(global: &GlobalArgs, args: &CreateArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let config = global.load()?;
    let (mut client, _) = global.connect()?;
    let name = args.name.as_str();
    let (account, binding) = (Kind::ServiceAccount.info(), Kind::ClusterRoleBinding.info());
    if let Some(role) = role_of(&mut client, name).await?
        && role != args.role.name()
    {
        anyhow::bail!(
            "`{name}` already has the role {}: underpass access revoke {name}, then create it again",
            clean_line(&role)
        );
    }
    let metadata = json!({"name": name, "labels": {LABEL.0: LABEL.1}});
    let body = json!({"apiVersion": "v1", "kind": account.name, "metadata": metadata});
    ensure(&mut client, account, &body).await?;
    let body = json!({
        "apiVersion": binding.api_versions[0], "kind": binding.name, "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": args.role.name()},
        "subjects": [{"kind": account.name, "name": name, "namespace": NAMESPACE}]});
    ensure(&mut client, binding, &body).await?;
    let (token, expires) = token(&mut client, name, args.ttl).await?;
    console.warn(&client.take_warnings())?;

    let project = client.project().unwrap_or(DEFAULT_PROJECT).to_owned();
    let kubeconfig = || standalone(&config, &project, name, Some(&token)).to_yaml();
    match (&args.kubeconfig_out, args.output) {
        (Some(path), _) => {
            config::write(path, &kubeconfig()?).with_context(|| format!("cannot write {}", path.display()))?;
            console.note(&format!("wrote {}", path.display()))?;
        }
        (None, Form::Kubeconfig) => write!(console.out, "{}", kubeconfig()?)?,
        (None, Form::Token) => console.say(&token)?,
    }
    console.note(&format!(
        "{name} is {} of project {project} until {} (in {}). Keep the token secret; underpass access revoke {name} ends it.",
        args.role.name(),
        clean_line(&expires),
        duration::text(args.ttl)
    ))?;
    Ok(Outcome::Done)
}

/// The role that the binding of that name gives, if there is one.
async fn role_of(client: &mut Client, name: &str) -> anyhow::Result<Option<String>> {
    let path = path(client, Kind::ClusterRoleBinding.info(), Some(name));
    match client.get(&path).await {
        Ok(binding) if is_ours(&binding) => Ok(Some(text(&binding["roleRef"]["name"]).to_owned())),
        Ok(_) => anyhow::bail!("a ClusterRoleBinding named `{name}` was made by other means: choose another name"),
        Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][LABEL.0] == LABEL.1
}

/// Creates an object that may be there already.
async fn ensure(client: &mut Client, info: &KindInfo, body: &Value) -> Result<(), ClientError> {
    let path = path(client, info, None);
    match client.send(Method::POST, &path, Some(body)).await {
        Err(error) if error.as_api().is_none_or(|error| error.reason != "AlreadyExists") => Err(error),
        _ => Ok(()),
    }
}

fn path(client: &Client, info: &KindInfo, name: Option<&str>) -> String {
    client.path(info, info.api_versions[0], Some(NAMESPACE), name)
}

/// A token and the time when it expires.
async fn token(client: &mut Client, name: &str, ttl: Duration) -> anyhow::Result<(String, String)> {
    let path = path(client, Kind::ServiceAccount.info(), Some(name)) + "/token";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": ttl.as_secs()}});
    let answer = client.send(Method::POST, &path, Some(&body)).await?;
    let token = super::kubeconfig::BearerToken::parse(text(&answer["status"]["token"]));
    let token = token.context("the relay answered without a token")?.as_str().to_owned();
    Ok((token, text(&answer["status"]["expirationTimestamp"]).to_owned()))
}

async fn show(global: &GlobalArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, _) = global.connect()?;
    let selector = format!("{}={}", LABEL.0, LABEL.1);
    let words = [KindWord::of(Kind::ClusterRoleBinding)];
    let found = super::get::read(&mut client, &words, None, &[("labelSelector", &selector)]).await?;
    console.warn(&client.take_warnings())?;
    if found.objects.is_empty() {
        console.note(
            "Nobody has access but those with the admin certificate (underpass access create NAME --role ROLE).",
        )?;
        return Ok(Outcome::Done);
    }
    let rows: Vec<Vec<String>> = found
        .objects
        .iter()
        .map(|binding| {
            let subject = list(&binding["subjects"]).first().unwrap_or(&Value::Null);
            let age = duration::age(text(&binding["metadata"]["creationTimestamp"]), clock::now());
            let account = format!("{}/{}", text(&subject["namespace"]), text(&subject["name"]));
            vec![name(binding), cell(&binding["roleRef"]["name"]), account, age]
        })
        .collect();
    write!(console.out, "{}", columns(&["NAME", "ROLE", "SERVICEACCOUNT", "AGE"], &rows))?;
    Ok(Outcome::Done)
}

/// The binding goes first: without it the account may do nothing.
async fn revoke(global: &GlobalArgs, name: &str, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, _) = global.connect()?;
    let mut has_found = role_of(&mut client, name).await?.is_some();
    for kind in [Kind::ClusterRoleBinding, Kind::ServiceAccount] {
        let path = path(&client, kind.info(), Some(name));
        match client.send(Method::DELETE, &path, None).await {
            Ok(_) => has_found = true,
            Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => {}
            Err(error) => return Err(error.into()),
        }
    }
    console.warn(&client.take_warnings())?;
    if !has_found {
        anyhow::bail!("nobody called `{name}` has access (underpass access list shows who has)");
    }
    console.say(&format!("access of {name} revoked"))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cli::testing::Relay;

    const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/ci";
    const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/ci";

    async fn start() -> Relay {
        let relay = Relay::start().await;
        let answer = json!({"kind": "TokenRequest", "status": {"token": "s3cret.token", "expirationTimestamp": "2026-11-22T00:00:00Z"}});
        relay.answer("POST", &format!("{ACCOUNT}/token"), &answer);
        relay
    }

    #[tokio::test]
    async fn access_is_given_listed_and_taken() {
        let relay = start().await;
        let run = relay.run("access create ci --role editor --ttl 90m", "").await;
        assert_eq!((run.outcome, run.out.as_str()), (Outcome::Done, "s3cret.token\n"), "{}", run.err);
        assert!(
            run.err.starts_with("ci is editor of project default until 2026-11-22T00:00:00Z (in 1h30m)."),
            "{}",
            run.err
        );
        assert_eq!(relay.last_body()["spec"], json!({"expirationSeconds": 5400}));
        let binding = relay.object(BINDING).unwrap();
        assert_eq!(binding["roleRef"]["name"], "editor");
        assert_eq!(binding["subjects"], json!([{"kind": "ServiceAccount", "name": "ci", "namespace": "default"}]));
        assert!(relay.object(ACCOUNT).is_some());
        let list = relay.ok("access list").await;
        assert!(list.contains("ci     editor   default/ci"), "{list}");
        let run = relay.run("access create ci --role admin", "").await;
        assert!(run.err.contains("already has the role editor: underpass access revoke ci"), "{}", run.err);
        assert_eq!(relay.ok("access revoke ci").await, "access of ci revoked\n");
        assert!(relay.object(BINDING).is_none() && relay.object(ACCOUNT).is_none());
        assert!(relay.run("access revoke ci", "").await.err.contains("nobody called `ci` has access"));
    }

    #[tokio::test]
    async fn a_kubeconfig_has_the_token_and_no_key_of_ours() {
        let relay = start().await;
        let run = relay.run("access create ci --role viewer -o kubeconfig --project acme", "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        relay.answer("POST", &format!("/projects/acme{ACCOUNT}/token"), &json!({"status": {"token": "t"}}));
        let text = relay.run("access create ci --role viewer -o kubeconfig --project acme", "").await.out;
        assert!(
            text.contains("token: t\n") && text.contains("/projects/acme") && !text.contains("client-key"),
            "{text}"
        );

        let file = relay.kubeconfig().with_file_name("out");
        relay.run(&format!("access create ci --role viewer --kubeconfig-out {}", file.display()), "").await;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(std::fs::read_to_string(&file).unwrap().contains("s3cret.token"));
    }

    #[tokio::test]
    async fn bindings_of_others_are_not_touched() {
        let relay = start().await;
        relay.put(BINDING, &json!({"metadata": {"name": "ci"}, "roleRef": {"name": "admin"}}));
        for line in ["access create ci --role viewer", "access revoke ci"] {
            assert!(relay.run(line, "").await.err.contains("was made by other means"), "{line}");
        }
        assert!(relay.object(BINDING).is_some());
        assert!(relay.run("access list", "").await.err.contains("Nobody has access"));
    }
}
