//! `underpass delete`: by kind and name, by labels, or everything that files describe; waits until it is gone.

use std::time::Duration;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use http::Method;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    GlobalArgs, Outcome, apply,
    client::{Body, Client, ClientError, News, with_query},
    duration,
    files::FileArgs,
    kinds::KindWord,
    manifest::Manifest,
    print::{Console, clean_line},
    status::ApiError,
    write::{self, DryRun, SelectArgs, Target},
};

#[cfg(test)]
mod tests;

/// The arguments of `underpass delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// What kind of resource; also KIND/NAME
    #[arg(value_name = "KIND", required_unless_present = "filenames", conflicts_with = "filenames")]
    pub kind: Option<KindWord>,
    /// Names of resources
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with_all = ["selector", "all"])]
    pub names: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    /// Succeed when there is nothing to delete
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Come back only when the objects are really gone
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        action = clap::ArgAction::Set
    )]
    pub wait: bool,
    /// How long to wait for all of them together: 30s, 5m
    #[arg(long, default_value = "5m", value_parser = duration::parse)]
    pub timeout: Duration,
    /// What becomes of objects that belong to the deleted ones
    #[arg(
        long,
        value_enum,
        value_name = "background|foreground|orphan",
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub cascade: Cascade,
    /// How many seconds to give what runs, where the kind knows such a thing
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// Delete nothing: let the relay check and answer (server), or only read what was typed (client)
    #[arg(
        long,
        value_enum,
        value_name = "server|client",
        num_args = 0..=1,
        require_equals = true,
        default_value = "none",
        default_missing_value = "server",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub dry_run: DryRun,
    /// Print names only
    #[arg(short, long, value_name = "name", value_parser = ["name"])]
    pub output: Option<String>,
}

/// Kubernetes' propagation policies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    #[default]
    Background,
    Foreground,
    Orphan,
}

impl Cascade {
    fn policy(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

/// An object that is marked for deletion.
struct Marked {
    target: Target,
    /// Of the object that was deleted: another of its name does not count.
    uid: Option<String>,
}

/// `underpass delete`.
pub(crate) async fn run(global: &GlobalArgs, args: &DeleteArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let Some((mut client, targets)) = targets(global, args, console).await? else { return Ok(Outcome::Failed) };
    let is_quiet = args.ignore_not_found || args.select.is_given();
    let (mut marked, mut errors) = (Vec::new(), Vec::new());
    for target in targets {
        let result = if args.dry_run == DryRun::Client { Ok(None) } else { mark(&mut client, &target, args).await };
        console.warn(&client.take_warnings())?;
        match result {
            Ok(uid) => {
                match args.output {
                    Some(_) => console.say(&target.full_name())?,
                    None => console.say(&format!("{} deleted{}", target.spoken(), args.dry_run.suffix()))?,
                }
                marked.push(Marked { target, uid });
            }
            Err(error) if is_quiet && error.as_api().is_some_and(ApiError::is_not_found) => {}
            Err(ClientError::Api(error)) => errors.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    if args.wait && args.dry_run == DryRun::None {
        errors.extend(wait(&mut client, &marked, args.timeout).await?);
    }
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn targets(
    global: &GlobalArgs,
    args: &DeleteArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Option<(Client, Vec<Target>)>> {
    let Some(word) = &args.kind else {
        let Some(mut manifests) = apply::load(global, &args.files, console) else { return Ok(None) };
        // Routes before gateways before nodes, the reverse of `apply`.
        manifests.sort_by_key(|manifest| std::cmp::Reverse(Manifest::rank(manifest)));
        let (client, namespace) = global.connect()?;
        let targets = manifests.into_iter().map(|manifest| Target {
            info: manifest.info,
            api_version: manifest.api_version,
            namespace: manifest.namespace.unwrap_or_else(|| namespace.clone()),
            name: manifest.name,
        });
        return Ok(Some((client, targets.collect())));
    };
    let singular = word.kind.info().singular;
    if args.select.is_given() {
        if let Some(name) = &word.name {
            anyhow::bail!("{singular}/{name} is one object, and -l and --all are for many: leave one of them out");
        }
        let (mut client, namespace) = global.connect()?;
        let found = write::selected(&mut client, word, &args.select, &namespace).await?;
        if found.is_empty() && !args.ignore_not_found {
            console.note("No resources found")?;
        }
        return Ok(Some((client, found.into_iter().map(|(target, _)| target).collect())));
    }
    if args.select.all_namespaces {
        anyhow::bail!("-A deletes in all namespaces and needs -l LABELS or --all");
    }
    if word.name.is_none() && args.names.is_empty() {
        anyhow::bail!("which {singular}? give its name: underpass delete {singular} NAME (or -l LABELS, or --all)");
    }
    let (client, namespace) = global.connect()?;
    let targets = write::named(word, &args.names, &namespace)?;
    Ok(Some((client, targets)))
}

/// Deletes; returns the uid of what was deleted, when the relay says it.
async fn mark(client: &mut Client, target: &Target, args: &DeleteArgs) -> Result<Option<String>, ClientError> {
    let mut options = Map::new();
    options.insert("apiVersion".to_owned(), "v1".into());
    options.insert("kind".to_owned(), "DeleteOptions".into());
    options.insert("propagationPolicy".to_owned(), args.cascade.policy().into());
    if let Some(seconds) = args.grace_period {
        options.insert("gracePeriodSeconds".to_owned(), json!(seconds));
    }
    let query: Vec<(&str, &str)> = args.dry_run.query().into_iter().collect();
    let path = with_query(&target.path(client), &query);
    let (_, answer) = client.exchange(Method::DELETE, &path, Body::Json(&Value::Object(options))).await?;
    let uid = answer.pointer("/metadata/uid").or_else(|| answer.pointer("/details/uid"));
    Ok(uid.and_then(Value::as_str).map(str::to_owned))
}

/// Waits until all are gone, and says what still holds those that are not.
async fn wait(client: &mut Client, marked: &[Marked], limit: Duration) -> anyhow::Result<Vec<String>> {
    let (mut gone, mut held) = (0, None);
    let all = async {
        for marked in marked {
            held = None;
            vanish(client, marked, &mut held).await?;
            gone += 1;
        }
        Ok::<_, ClientError>(())
    };
    match timeout(limit, all).await {
        Ok(result) => result.map(|()| Vec::new()).map_err(Into::into),
        Err(_) => {
            let rest = &marked[gone..];
            let mut errors: Vec<String> =
                rest.iter().take(1).map(|marked| describe(&marked.target, held.as_ref(), limit)).collect();
            if rest.len() > 1 {
                errors.push(format!("{} more objects were not waited for", rest.len() - 1));
            }
            Ok(errors)
        }
    }
}

/// Waits until the object is gone; `held` is the object as it was last.
async fn vanish(client: &mut Client, marked: &Marked, held: &mut Option<Value>) -> Result<(), ClientError> {
    let selector = format!("metadata.name={}", marked.target.name);
    let list = marked.target.list(client);
    let mut follow = client.follow(&list, &[("fieldSelector", &selector)]);
    let is_it = |object: &Value| {
        object["metadata"]["name"] == marked.target.name
            && marked.uid.as_ref().is_none_or(|uid| object["metadata"]["uid"] == *uid)
    };
    loop {
        match follow.next().await? {
            News::Listed(items) => {
                let Some(object) = items.into_iter().find(is_it) else { return Ok(()) };
                *held = Some(object);
            }
            News::Added(object) | News::Modified(object) => {
                if object["metadata"]["name"] != marked.target.name {
                    continue;
                }
                // Under its name there is another object already.
                if !is_it(&object) {
                    return Ok(());
                }
                *held = Some(object);
            }
            News::Deleted(object) if is_it(&object) => return Ok(()),
            News::Deleted(_) => {}
        }
    }
}

fn describe(target: &Target, object: Option<&Value>, limit: Duration) -> String {
    let limit = duration::text(limit);
    let finalizers: Vec<&str> = object
        .and_then(|object| object["metadata"]["finalizers"].as_array())
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let target = target.spoken();
    if finalizers.is_empty() {
        return format!("{target} is still there after {limit}; its deletion goes on");
    }
    let finalizers = clean_line(&finalizers.join(", "));
    format!(
        "{target} is still there after {limit}: held by the finalizers {finalizers}; it goes when those who set them \
         have done their work and removed them"
    )
}
