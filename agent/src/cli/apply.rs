//! `underpass apply`: make the relay's objects what files say.
//!
//! Reads and checks everything first; then applies one object after the other on the server (server-side apply), in the
//! order of the kinds, and goes on after one that is refused. What no file names any more is `prune`'s.

use std::time::Duration;

use clap::{Args, builder::NonEmptyStringValueParser};
use http::{Method, StatusCode};
use rand::RngExt as _;
use serde_json::Value;
use underpass_shared::resource::kind::Scope;

use super::{
    GlobalArgs, Outcome,
    client::{Body, Client, ClientError, with_query},
    files::{self, FileArgs},
    kinds::full_name,
    manifest::Manifest,
    print::{Console, clean_line},
    status::ApiError,
    write::{DryRun, Report, WriteArgs},
};

mod prune;
#[cfg(test)]
mod tests;

/// Who applies, unless told otherwise.
pub(super) const MANAGER: &str = "underpass";
/// How often a write is tried when others write the same object at the same moment.
const ATTEMPTS_MAX: u32 = 6;
/// The longest wait before the second attempt; it doubles with each.
const BACK_OFF: Duration = Duration::from_millis(20);
/// What the server sets: an object as `get -o yaml` shows it can be applied again.
const SERVER_METADATA: [&str; 8] = [
    "resourceVersion",
    "uid",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// The arguments of `underpass apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub write: WriteArgs,
    /// Take over fields that others have set to something else
    #[arg(long)]
    pub force_conflicts: bool,
    /// Then delete what was applied before, carries the labels of -l, and is in no file any more
    #[arg(long, requires = "selector")]
    pub prune: bool,
    /// With --prune: the labels that everything of this set carries
    #[arg(short = 'l', long, value_name = "LABELS", requires = "prune", value_parser = NonEmptyStringValueParser::new())]
    pub selector: Option<String>,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Created,
    Configured,
    Unchanged,
}

/// `underpass apply`.
pub(crate) async fn run(global: &GlobalArgs, args: &ApplyArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    if args.prune && args.write.dry_run == DryRun::Client {
        anyhow::bail!("only the relay knows what --prune would delete: use --dry-run=server");
    }
    let Some(mut manifests) = load(global, &args.files, console) else { return Ok(Outcome::Failed) };
    manifests.sort_by_key(Manifest::rank);
    let mut report = Report::new(&args.write, manifests.len() > 1 || args.prune);
    if args.write.dry_run == DryRun::Client {
        for manifest in &manifests {
            report.add(&name_of(manifest), "serverside-applied", manifest.object(), console)?;
        }
        report.finish(console)?;
        return Ok(Outcome::Done);
    }
    let (mut client, namespace) = global.connect()?;
    let mut errors = Vec::new();
    for (index, manifest) in manifests.iter().enumerate() {
        let result = apply(&mut client, manifest, &namespace, args).await;
        let name = name_of(manifest);
        console.warn(&client.take_warnings_about(&name))?;
        match result {
            Ok((change, object)) => {
                let change = match change {
                    Change::Created => "created",
                    Change::Configured => "configured",
                    Change::Unchanged => "unchanged",
                };
                report.add(&name, change, object, console)?;
            }
            Err(ClientError::Api(error)) => errors.push(explain(manifest, &error)),
            Err(error) => {
                errors.push(error.to_string());
                let untried = manifests.len() - index - 1;
                if untried > 0 {
                    errors.push(format!("{untried} more objects were not tried"));
                }
                break;
            }
        }
    }
    if let (true, Some(selector)) = (args.prune, &args.selector) {
        if errors.is_empty() {
            let set = prune::Set { manifests: &manifests, namespace: &namespace, selector, write: &args.write };
            errors = prune::run(&mut client, &set, &mut report, console).await?;
        } else {
            errors.push("nothing was pruned, because not everything could be applied".to_owned());
        }
    }
    report.finish(console)?;
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

pub(super) fn name_of(manifest: &Manifest) -> String {
    full_name(manifest.info, manifest.api_version, &manifest.name)
}

/// All manifests that the arguments name; `None` after saying everything that is wrong with them.
pub(super) fn load(global: &GlobalArgs, args: &FileArgs, console: &mut Console<'_>) -> Option<Vec<Manifest>> {
    let (manifests, mut problems) = match files::load(args, console.input) {
        Ok(manifests) => (manifests, Vec::new()),
        Err(problems) => (Vec::new(), problems),
    };
    for manifest in &manifests {
        if let (Scope::Namespaced, Some(wanted), Some(written)) =
            (manifest.info.scope, &global.namespace, &manifest.namespace)
            && wanted != written
        {
            problems.push(format!(
                "{}: the namespace is `{written}`, but -n says `{wanted}`: leave one of them out",
                manifest.origin_of("metadata.namespace")
            ));
        }
    }
    if problems.is_empty() {
        return Some(manifests);
    }
    problems.iter().for_each(|problem| console.complain(problem));
    console.complain("nothing was sent to the relay");
    None
}

/// The object's path, and what a server-side apply of the manifest sends there.
pub(super) fn request(
    client: &Client,
    manifest: &Manifest,
    namespace: &str,
    write: &WriteArgs,
    is_forced: bool,
) -> (String, String, Value) {
    let namespace = manifest.namespace.as_deref().unwrap_or(namespace);
    let path = client.path(manifest.info, manifest.api_version, Some(namespace), Some(&manifest.name));
    let mut target = write.target(&path, MANAGER);
    if is_forced {
        target = with_query(&target, &[("force", "true")]);
    }
    (path, target, wanted(manifest, namespace))
}

async fn apply(
    client: &mut Client,
    manifest: &Manifest,
    namespace: &str,
    args: &ApplyArgs,
) -> Result<(Change, Value), ClientError> {
    let (path, target, wanted) = request(client, manifest, namespace, &args.write, args.force_conflicts);
    let mut attempt = 1;
    loop {
        let before = match client.get(&path).await {
            Ok(object) => Some(object),
            Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => None,
            Err(error) => return Err(error),
        };
        match client.exchange(Method::PATCH, &target, Body::Apply(&wanted)).await {
            Ok((status, after)) => {
                let change = change(before.as_ref(), &after, status, args.write.dry_run);
                return Ok((change, after));
            }
            Err(error)
                if error.as_api().is_some_and(|error| error.is_conflict() && !error.is_field_conflict())
                    && attempt < ATTEMPTS_MAX =>
            {
                let longest = BACK_OFF * 2_u32.pow(attempt - 1);
                tokio::time::sleep(longest.mul_f64(rand::rng().random())).await;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A write that changes nothing gives the object no new revision; a dry run never does, so that there the contents count.
fn change(before: Option<&Value>, after: &Value, status: StatusCode, dry_run: DryRun) -> Change {
    let is_same = |before: &Value| match dry_run {
        DryRun::None | DryRun::Client => before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"],
        DryRun::Server => content(before) == content(after),
    };
    match before {
        _ if status == StatusCode::CREATED => Change::Created,
        None => Change::Created,
        Some(before) if is_same(before) => Change::Unchanged,
        Some(_) => Change::Configured,
    }
}

/// The object without what changes by itself.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "generation" | "managedFields"));
    }
    object
}

/// The object as it is sent: in its namespace, without what the server sets.
fn wanted(manifest: &Manifest, namespace: &str) -> Value {
    let mut object = manifest.object();
    if let Value::Object(fields) = &mut object {
        fields.remove("status");
    }
    if let Value::Object(metadata) = &mut object["metadata"] {
        SERVER_METADATA.iter().for_each(|field| {
            metadata.remove(*field);
        });
        if manifest.info.scope == Scope::Namespaced {
            metadata.insert("namespace".to_owned(), namespace.into());
        }
    }
    object
}

/// The relay's refusal, with the line of each field that it speaks of.
pub(super) fn explain(manifest: &Manifest, error: &ApiError) -> String {
    let what = format!("{} \"{}\"", manifest.info.name, manifest.name);
    if error.causes.is_empty() {
        return format!("{}: {what}: {error}", manifest.origin);
    }
    let mut text = if error.is_field_conflict() {
        format!("{}: {what}: others have set these fields to something else:", manifest.origin)
    } else {
        format!("{}: {}:", manifest.origin, error.headline())
    };
    for cause in &error.causes {
        text += &format!("\n  line {}: {}", manifest.origin_of(&cause.field).line, clean_line(&cause.to_string()));
    }
    if error.is_field_conflict() {
        text += "\n  to take them over, add --force-conflicts; to leave them to the others, remove them from the file";
    }
    text
}
