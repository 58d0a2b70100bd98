//! `underpass diff`: what `apply` would change, asked of the relay with a dry run.
//!
//! Ends like kubectl's: 0 for no difference, 1 for some, more when it cannot be told.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Map, Value};
use similar::TextDiff;
use underpass_shared::resource::kind::Kind;

use super::{
    GlobalArgs, Outcome, apply,
    client::{Body, Client, ClientError},
    files::FileArgs,
    manifest::Manifest,
    print::{Console, Format, clean, serialise},
    status::ApiError,
    write::{DryRun, WriteArgs},
};

#[cfg(test)]
mod tests;

/// How long to look for the shortest difference of one object; after it, a longer one will do.
const SEARCH: Duration = Duration::from_secs(2);
/// How many equal lines stand around a difference.
const CONTEXT_LINES: usize = 3;
/// What the relay sets by itself, and nobody applies.
const NOISE: [&str; 6] = ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"];
/// The exit code when it cannot be told whether anything differs.
const CANNOT_TELL: u8 = 2;

/// The arguments of `underpass diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    pub files: FileArgs,
    /// Show what apply --force-conflicts would change
    #[arg(long)]
    pub force_conflicts: bool,
    /// In whose name fields would be written
    #[arg(long, value_name = "NAME")]
    pub field_manager: Option<String>,
}

/// `underpass diff`.
pub(crate) async fn run(global: &GlobalArgs, args: &DiffArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    match compare_all(global, args, console).await {
        Ok(outcome) => Ok(outcome),
        Err(error) if super::is_broken_pipe(&error) => Err(error),
        Err(error) => {
            console.complain(&format!("{error:#}"));
            Ok(Outcome::Exit(CANNOT_TELL))
        }
    }
}

async fn compare_all(global: &GlobalArgs, args: &DiffArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let Some(mut manifests) = apply::load(global, &args.files, console) else {
        return Ok(Outcome::Exit(CANNOT_TELL));
    };
    manifests.sort_by_key(Manifest::rank);
    let (mut client, namespace) = global.connect()?;
    let (mut differs, mut errors) = (false, Vec::new());
    for manifest in &manifests {
        let name = apply::name_of(manifest);
        let result = compare(&mut client, manifest, &namespace, args).await;
        console.warn(&client.take_warnings_about(&name))?;
        match result {
            Ok((live, merged)) => {
                let (live, merged) = (text(&live)?, text(&merged)?);
                let difference = unified(&name, &live, &merged, console.is_coloured);
                differs |= !difference.is_empty();
                write!(console.out, "{difference}")?;
            }
            Err(ClientError::Api(error)) => errors.push(apply::explain(manifest, &error)),
            Err(error) => return Err(error.into()),
        }
    }
    errors.iter().for_each(|error| console.complain(error));
    Ok(match (errors.is_empty(), differs) {
        (false, _) => Outcome::Exit(CANNOT_TELL),
        (true, true) => Outcome::Exit(1),
        (true, false) => Outcome::Done,
    })
}

/// The object as it is, or null, and as it would be.
async fn compare(
    client: &mut Client,
    manifest: &Manifest,
    namespace: &str,
    args: &DiffArgs,
) -> Result<(Value, Value), ClientError> {
    let write = WriteArgs { dry_run: DryRun::Server, output: None, field_manager: args.field_manager.clone() };
    let (path, target, wanted) = apply::request(client, manifest, namespace, &write, args.force_conflicts);
    let live = match client.get(&path).await {
        Ok(object) => object,
        Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => Value::Null,
        Err(error) => return Err(error),
    };
    let (_, merged) = client.exchange(Method::PATCH, &target, Body::Apply(&wanted)).await?;
    let (mut live, mut merged) = (without_noise(live), without_noise(merged));
    if manifest.info.kind == Kind::Secret {
        mask(&mut live, &mut merged);
    }
    Ok((live, merged))
}

fn without_noise(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        NOISE.iter().for_each(|field| {
            metadata.remove(*field);
        });
    }
    object
}

/// Shows that secret values differ, and not what they are.
fn mask(live: &mut Value, merged: &mut Value) {
    for field in ["data", "stringData"] {
        let before: Map<String, Value> = live[field].as_object().cloned().unwrap_or_default();
        let after: Map<String, Value> = merged[field].as_object().cloned().unwrap_or_default();
        let hide = |object: &mut Value, other: &Map<String, Value>, word: &str| {
            for (key, value) in object.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
                let is_changed = other.get(key).is_some_and(|other| other != value);
                *value = if is_changed { format!("*** ({word})").into() } else { "***".into() };
            }
        };
        hide(live, &after, "before");
        hide(merged, &before, "after");
    }
}

fn text(object: &Value) -> anyhow::Result<String> {
    if object.is_null() { Ok(String::new()) } else { serialise(vec![object.clone()], false, Format::Yaml) }
}

/// Nothing when both are the same. Both are clean already; colours are added last.
fn unified(name: &str, live: &str, merged: &str, is_coloured: bool) -> String {
    const BOLD: &str = "\u{1b}[1m";
    const RED: &str = "\u{1b}[31m";
    const GREEN: &str = "\u{1b}[32m";
    const CYAN: &str = "\u{1b}[36m";
    const PLAIN: &str = "\u{1b}[0m";
    if live == merged {
        return String::new();
    }
    let name = clean(name);
    let diff = TextDiff::configure().timeout(SEARCH).diff_lines(live, merged);
    let body = diff.unified_diff().context_radius(CONTEXT_LINES).missing_newline_hint(false).to_string();
    let header = [format!("--- live/{name}"), format!("+++ applied/{name}")];
    let mut shown = String::new();
    let lines = header.iter().map(|line| (BOLD, line.as_str()));
    let lines = lines.chain(body.lines().map(|line| match line.as_bytes().first() {
        Some(b'@') => (CYAN, line),
        Some(b'+') => (GREEN, line),
        Some(b'-') => (RED, line),
        _ => ("", line),
    }));
    for (colour, line) in lines {
        if is_coloured && !colour.is_empty() {
            shown += &format!("{colour}{line}{PLAIN}\n");
        } else {
            shown += &format!("{line}\n");
        }
    }
    shown
}
