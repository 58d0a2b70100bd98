//! `underpass project`: the projects of a relay, and which of them this machine works in.

use clap::Subcommand;
use http::Method;
use serde_json::json;
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

use super::{
    GlobalArgs, Outcome,
    config::Store,
    contexts::standalone,
    get::{self, ListArgs},
    kinds::{KindWord, full_name},
    kubeconfig,
    print::Console,
    status::ApiError,
};

/// What `underpass project` can do.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// List the projects
    List(ListArgs),
    /// Work in a project from now on: make a context for it the current one
    #[command(after_help = "Example:\n  underpass project use acme")]
    Use { name: ProjectName },
    /// Create a project
    #[command(after_help = "Example:\n  underpass project create acme && underpass project use acme")]
    Create { name: ProjectName },
    /// Delete a project and everything in it
    #[command(after_help = "Example:\n  underpass project delete acme")]
    Delete { name: ProjectName },
    /// Print a kubeconfig for a project, with your own credentials in it
    #[command(after_help = "Example:\n  underpass project kubeconfig acme > acme.kubeconfig")]
    Kubeconfig { name: ProjectName },
}

pub(crate) async fn run(
    global: &GlobalArgs,
    command: Option<ProjectCommand>,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    match command {
        None => get::list(global, &KindWord::of(Kind::Project), &ListArgs::default(), console).await,
        Some(ProjectCommand::List(list)) => get::list(global, &KindWord::of(Kind::Project), &list, console).await,
        Some(ProjectCommand::Use { name }) => use_project(global, &name, console).await,
        Some(ProjectCommand::Create { name }) => create(global, &name, console).await,
        Some(ProjectCommand::Delete { name }) => delete(global, &name, console).await,
        Some(ProjectCommand::Kubeconfig { name }) => {
            let config = standalone(&global.load()?, name.as_str(), "admin", None);
            write!(console.out, "{}", config.to_yaml()?)?;
            Ok(Outcome::Done)
        }
    }
}

async fn use_project(global: &GlobalArgs, name: &ProjectName, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    check(global, name, console).await?;
    let mut store = Store::open(global)?;
    let used = store.contexts.use_project(name.as_str());
    let context = used.map_err(|problem: kubeconfig::Problem| store.blame(&problem))?;
    store.save(console)?;
    console.say(&format!("Switched to context \"{context}\": project {name}."))?;
    Ok(Outcome::Done)
}

/// Whether the project is there, as far as the relay lets us know.
async fn check(global: &GlobalArgs, name: &ProjectName, console: &mut Console<'_>) -> anyhow::Result<()> {
    let (mut client, _) = global.connect()?;
    let info = Kind::Project.info();
    match client.get(&client.path(info, info.api_versions[0], None, Some(name.as_str()))).await {
        Ok(_) => {}
        Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => {
            anyhow::bail!(
                "{error}: create it first (underpass project create {name}), or choose another (underpass project list)"
            )
        }
        // Whoever may only use one project may not look at the list of them.
        Err(error) if error.as_api().is_some() => {}
        Err(error) => console.note(&format!("warning: whether project {name} exists is unknown: {error}"))?,
    }
    Ok(())
}

async fn create(global: &GlobalArgs, name: &ProjectName, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, _) = global.connect()?;
    let info = Kind::Project.info();
    let api_version = info.api_versions[0];
    let body = json!({"apiVersion": api_version, "kind": info.name, "metadata": {"name": name.as_str()}, "spec": {}});
    client.send(Method::POST, &client.path(info, api_version, None, None), Some(&body)).await?;
    console.warn(&client.take_warnings())?;
    console.say(&format!("{} created", full_name(info, api_version, name.as_str())))?;
    Ok(Outcome::Done)
}

async fn delete(global: &GlobalArgs, name: &ProjectName, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, _) = global.connect()?;
    let info = Kind::Project.info();
    client.send(Method::DELETE, &client.path(info, info.api_versions[0], None, Some(name.as_str())), None).await?;
    console.warn(&client.take_warnings())?;
    console.say(&format!("{} deleted", full_name(info, info.api_versions[0], name.as_str())))?;
    if client.project() == Some(name.as_str()) {
        console.note("warning: this was the project you work in: choose another with underpass project use")?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Relay;

    #[tokio::test]
    async fn a_project_is_created_used_listed_and_deleted() {
        let relay = Relay::start().await;
        let run = relay.run("project use acme", "").await;
        assert!(run.err.contains("underpass project create acme"), "{}", run.err);
        assert_eq!(relay.ok("project create acme").await, "project.core.apoxy.dev/acme created\n");
        assert_eq!(relay.ok("project list").await, "NAME   AGE\nacme   5m\n");
        assert_eq!(relay.ok("project use acme").await, "Switched to context \"acme\": project acme.\n");
        relay.run("get gateways", "").await;
        let last = relay.requests().pop().unwrap();
        assert!(last.starts_with("GET /projects/acme/apis/"), "{last}");
        let run = relay.run("project delete acme", "").await;
        assert_eq!(run.out, "project.core.apoxy.dev/acme deleted\n");
        assert!(run.err.contains("the project you work in"), "{}", run.err);
    }

    #[tokio::test]
    async fn a_kubeconfig_for_a_project_works_by_itself() {
        let relay = Relay::start().await;
        let text = relay.ok("project kubeconfig acme").await;
        let path = relay.kubeconfig();
        crate::cli::config::write(&path, &text).unwrap();
        assert_eq!(relay.ok("config current-context").await, "acme\n");
        relay.run("get gateways", "").await;
        assert!(relay.requests()[0].starts_with("GET /projects/acme/"), "{:?}", relay.requests());
    }
}
