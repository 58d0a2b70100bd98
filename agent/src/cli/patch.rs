//! `underpass patch`, `underpass label`, `underpass annotate`: small changes to objects that are there.

use std::{fs, io::Read as _, path::PathBuf};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    GlobalArgs, Outcome,
    client::{Body, Client, ClientError},
    documents::{self, FILE_BYTES_MAX},
    kinds::KindWord,
    print::Console,
    write::{self, DryRun, Report, SelectArgs, Target, WriteArgs},
};

#[cfg(test)]
mod tests;

/// The arguments of `underpass patch`.
#[derive(Debug, Clone, Args)]
pub struct PatchArgs {
    /// What kind of resource; also KIND/NAME
    #[arg(value_name = "KIND")]
    pub kind: KindWord,
    /// Names of resources
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// What to change, in JSON or YAML
    #[arg(short, long, value_name = "PATCH", required_unless_present = "patch_file", conflicts_with = "patch_file")]
    pub patch: Option<String>,
    /// A file that says what to change
    #[arg(long, value_name = "FILE")]
    pub patch_file: Option<PathBuf>,
    /// How to understand the patch
    #[arg(long = "type", value_enum, default_value_t)]
    pub form: Form,
    #[command(flatten)]
    pub write: WriteArgs,
}

/// What a patch means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Fields to set, and null for those to remove (RFC 7386)
    #[default]
    Merge,
    /// A list of operations (RFC 6902)
    Json,
    /// Like merge, but lists are merged by their keys, where the kind has any
    Strategic,
}

/// `underpass patch`.
pub(crate) async fn run(global: &GlobalArgs, args: &PatchArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let patch = match (&args.patch, &args.patch_file) {
        (Some(text), _) => read(text, args.form).map_err(|problem| anyhow::anyhow!("-p: {problem}"))?,
        (None, Some(file)) => {
            let (name, mut text) = (file.display(), String::new());
            fs::File::open(file)
                .and_then(|opened| opened.take(FILE_BYTES_MAX as u64).read_to_string(&mut text))
                .map_err(|error| anyhow::anyhow!("{name}: cannot read this file: {error}"))?;
            read(&text, args.form).map_err(|problem| anyhow::anyhow!("{name}: {problem}"))?
        }
        (None, None) => anyhow::bail!("what to change? give a patch with -p"),
    };
    let body = match args.form {
        Form::Merge => Body::MergePatch(&patch),
        Form::Json => Body::JsonPatch(&patch),
        Form::Strategic => Body::StrategicPatch(&patch),
    };
    let (mut client, namespace) = global.connect()?;
    let targets = write::named(&args.kind, &args.names, &namespace)?;
    require(&targets, &args.kind, "patch")?;
    let mut report = Report::new(&args.write, targets.len() > 1);
    let mut errors = Vec::new();
    for target in &targets {
        let result = send(&mut client, target, body, &args.write, "underpass-patch").await;
        console.warn(&client.take_warnings())?;
        match result {
            Ok((before, after)) => {
                let is_same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"];
                let what =
                    if is_same && args.write.dry_run == DryRun::None { "patched (no change)" } else { "patched" };
                report.add(&target.full_name(), what, after, console)?;
            }
            Err(ClientError::Api(error)) => errors.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    report.finish(console)?;
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

fn require(targets: &[Target], word: &KindWord, verb: &str) -> anyhow::Result<()> {
    let singular = word.kind.info().singular;
    if targets.is_empty() {
        anyhow::bail!("which {singular}? give its name: underpass {verb} {singular} NAME");
    }
    Ok(())
}

fn read(text: &str, form: Form) -> Result<Value, String> {
    let (documents, errors) = documents::parse(text);
    if let Some(error) = errors.first() {
        return Err(format!("line {}: {}", error.line, error.problem));
    }
    let [only] = documents.as_slice() else {
        return Err(format!("one patch expected, not {}", documents.len()));
    };
    let patch = only.root.to_value();
    match form {
        Form::Json if !patch.is_array() => {
            Err("a JSON patch is a list of operations: [{\"op\": \"add\", ...}]".to_owned())
        }
        Form::Merge | Form::Strategic if !patch.is_object() => {
            Err("a merge patch is a map of fields: {\"spec\": {...}}".to_owned())
        }
        _ => Ok(patch),
    }
}

/// The object before and after. A dry run of the client sends nothing but the read.
async fn send(
    client: &mut Client,
    target: &Target,
    body: Body<'_>,
    write: &WriteArgs,
    manager: &str,
) -> Result<(Value, Value), ClientError> {
    let path = target.path(client);
    let before = client.get(&path).await?;
    if write.dry_run == DryRun::Client {
        return Ok((before.clone(), before));
    }
    let (_, after) = client.exchange(Method::PATCH, &write.target(&path, manager), body).await?;
    Ok((before, after))
}

/// The arguments of `underpass label` and `underpass annotate`.
#[derive(Debug, Clone, Args)]
pub struct MarkArgs {
    /// What kind of resource; also KIND/NAME
    #[arg(value_name = "KIND")]
    pub kind: KindWord,
    /// Names of resources, then KEY=VALUE to set and KEY- to remove
    #[arg(value_name = "NAME... KEY=VALUE... KEY-", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub words: Vec<String>,
    #[command(flatten)]
    pub select: SelectArgs,
    /// Change values that are there already
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Which of the two maps of an object's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Label,
    Annotation,
}

impl Mark {
    fn field(self) -> &'static str {
        match self {
            Self::Label => "labels",
            Self::Annotation => "annotations",
        }
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Label => ("label", "labeled", "not labeled"),
            Self::Annotation => ("annotate", "annotated", "not annotated"),
        }
    }
}

/// `underpass label`, `underpass annotate`.
pub(crate) async fn mark(
    mark: Mark,
    global: &GlobalArgs,
    args: &MarkArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (verb, done, not_done) = mark.words();
    let (names, changes) = changes(&args.words)?;
    if changes.is_empty() {
        anyhow::bail!("what to {verb} with? write KEY=VALUE to set, KEY- to remove");
    }
    let (mut client, namespace) = global.connect()?;
    let targets = if args.select.is_given() {
        if !names.is_empty() || args.kind.name.is_some() {
            anyhow::bail!("names, or -l and --all: leave one of them out");
        }
        let found = write::selected(&mut client, &args.kind, &args.select, &namespace).await?;
        found.into_iter().map(|(target, _)| target).collect()
    } else {
        let targets = write::named(&args.kind, &names, &namespace)?;
        require(&targets, &args.kind, verb)?;
        targets
    };
    let mut report = Report::new(&args.write, targets.len() > 1);
    let mut errors = Vec::new();
    for target in &targets {
        let result = mark_one(&mut client, target, mark, &changes, args).await;
        console.warn(&client.take_warnings())?;
        match result {
            Ok(Marked::Done(object)) => report.add(&target.full_name(), done, object, console)?,
            Ok(Marked::Same(object)) => report.add(&target.full_name(), not_done, object, console)?,
            Ok(Marked::Refused(problem)) => errors.push(problem),
            Err(ClientError::Api(error)) => errors.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    report.finish(console)?;
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// The words that are names, and then the changes: a value to set, or none to remove.
type Changes = Vec<(String, Option<String>)>;

fn changes(words: &[String]) -> anyhow::Result<(Vec<String>, Changes)> {
    let (mut names, mut changes) = (Vec::new(), Changes::new());
    for word in words {
        let change = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key.to_owned(), Some(value.to_owned())),
            (None, Some(key)) => (key.to_owned(), None),
            (None, None) if changes.is_empty() => {
                names.push(word.clone());
                continue;
            }
            (None, None) => anyhow::bail!("`{word}` is neither KEY=VALUE nor KEY-; names come before these"),
        };
        if change.0.is_empty() {
            anyhow::bail!("`{word}` has no key");
        }
        if changes.iter().any(|(key, _)| *key == change.0) {
            anyhow::bail!("`{}` is given twice", change.0);
        }
        changes.push(change);
    }
    Ok((names, changes))
}

enum Marked {
    Done(Value),
    Same(Value),
    Refused(String),
}

async fn mark_one(
    client: &mut Client,
    target: &Target,
    mark: Mark,
    changes: &Changes,
    args: &MarkArgs,
) -> Result<Marked, ClientError> {
    let path = target.path(client);
    let before = client.get(&path).await?;
    let there = &before["metadata"][mark.field()];
    let mut fields = Map::new();
    for (key, value) in changes {
        let old = there[key].as_str();
        if old == value.as_deref() {
            continue;
        }
        if let (Some(old), Some(_), false) = (old, value, args.overwrite) {
            let (name, verb) = (target.full_name(), mark.words().0);
            return Ok(Marked::Refused(format!(
                "{name}: `{key}` is `{old}` already: to change it, underpass {verb} --overwrite"
            )));
        }
        fields.insert(key.clone(), value.clone().map_or(Value::Null, Value::String));
    }
    if fields.is_empty() {
        return Ok(Marked::Same(before));
    }
    if args.write.dry_run == DryRun::Client {
        return Ok(Marked::Done(before));
    }
    let mut patch = json!({"metadata": {mark.field(): fields}});
    if !args.overwrite {
        // What was not there when we looked may be there now.
        patch["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    }
    let manager = format!("underpass-{}", mark.words().0);
    let (_, after) =
        client.exchange(Method::PATCH, &args.write.target(&path, &manager), Body::MergePatch(&patch)).await?;
    Ok(Marked::Done(after))
}
