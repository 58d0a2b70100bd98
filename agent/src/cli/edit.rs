//! `underpass edit`: an object in the user's editor, and back.
//!
//! What the user wrote is never lost: when it cannot be saved, it stays in a file, whose name is printed.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, builder::NonEmptyStringValueParser};
use http::Method;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::{
    GlobalArgs, Outcome,
    client::{Body, Client, ClientError, with_query},
    documents::{self, FILE_BYTES_MAX},
    kinds::KindWord,
    print::{Console, Format, clean, serialise},
    status::ApiError,
    write::{self, Target},
};

#[cfg(test)]
mod tests;

/// Where the user may have said which editor to use, best first.
const EDITOR_VARIABLES: [&str; 4] = ["UNDERPASS_EDITOR", "KUBE_EDITOR", "VISUAL", "EDITOR"];
const EDITOR: &str = "vi";
const MANAGER: &str = "underpass-edit";
/// How often an edit may be refused: an editor that cannot be used by a person must not go on forever.
const ATTEMPTS_MAX: u32 = 100;

/// The arguments of `underpass edit`.
#[derive(Debug, Clone, Args)]
pub struct EditArgs {
    /// What kind of resource; also KIND/NAME
    #[arg(value_name = "KIND")]
    pub kind: KindWord,
    /// The resource
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// The editor [default: $UNDERPASS_EDITOR, $KUBE_EDITOR, $VISUAL, $EDITOR, else vi]
    #[arg(long, value_name = "COMMAND")]
    pub editor: Option<String>,
}

/// `underpass edit`.
pub(crate) async fn run(global: &GlobalArgs, args: &EditArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let names: Vec<String> = args.name.iter().cloned().collect();
    let targets = write::named(&args.kind, &names, &namespace)?;
    let [target] = targets.as_slice() else {
        anyhow::bail!("one object can be edited at a time: underpass edit KIND NAME");
    };
    let mut object = client.get(&target.path(&client)).await?;
    console.warn(&client.take_warnings())?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let mut draft = Draft::create()?;
    let outcome = edit(&mut client, target, &object, &mut draft, (&editor(args), &mut *console)).await;
    if outcome.is_err() && draft.is_worth_keeping {
        draft.keep();
        console.note(&format!("Your edited copy is kept in {}", draft.path.display()))?;
    }
    outcome
}

fn editor(args: &EditArgs) -> String {
    let named = EDITOR_VARIABLES.iter().find_map(|name| env::var(name).ok().filter(|editor| !editor.trim().is_empty()));
    args.editor.clone().or(named).unwrap_or_else(|| EDITOR.to_owned())
}

/// What the user wrote, as far as it can be used.
enum Edited {
    /// The same as before.
    Same,
    Changed(Value),
    Invalid(Vec<String>),
}

async fn edit(
    client: &mut Client,
    target: &Target,
    object: &Value,
    draft: &mut Draft,
    (editor, console): (&str, &mut Console<'_>),
) -> anyhow::Result<Outcome> {
    let mut text = serialise(vec![object.clone()], false, Format::Yaml)?;
    let mut problems: Vec<String> = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        draft.write(&(header(&problems) + &text))?;
        open(editor, &draft.path).await?;
        let written = without_comments(&draft.read()?);
        if written.trim().is_empty() {
            draft.is_worth_keeping = false;
            console.note("Edit cancelled, saved file was empty.")?;
            return Ok(Outcome::Done);
        }
        if written == text && !problems.is_empty() {
            problems.iter().for_each(|problem| console.complain(problem));
            anyhow::bail!("edit cancelled, no valid changes were saved");
        }
        draft.is_worth_keeping = written != text;
        text = written;
        problems = match read(&text, object) {
            Edited::Same => {
                draft.is_worth_keeping = false;
                console.note("Edit cancelled, no changes made.")?;
                return Ok(Outcome::Done);
            }
            Edited::Invalid(problems) => problems,
            Edited::Changed(edited) => {
                let saved = save(client, target, object, &edited).await;
                console.warn(&client.take_warnings())?;
                match saved {
                    Ok(()) => {
                        console.say(&format!("{} edited", target.full_name()))?;
                        return Ok(Outcome::Done);
                    }
                    Err(ClientError::Api(error)) if error.is_conflict() => anyhow::bail!(
                        "{} was changed by somebody else in the meantime: edit it again, and bring your changes along",
                        target.full_name()
                    ),
                    Err(ClientError::Api(error)) if matches!(error.code, 400 | 422) => explain(&error),
                    Err(error) => return Err(error.into()),
                }
            }
        };
    }
    anyhow::bail!("edit cancelled after {ATTEMPTS_MAX} invalid edits")
}

/// What stands above the object, in comments.
fn header(problems: &[String]) -> String {
    let mut text = "# Change the object below, save it and leave the editor. Lines that begin with # are left out;\n\
                    # an empty file, or one without changes, changes nothing.\n#\n"
        .to_owned();
    if !problems.is_empty() {
        text += "# It could not be saved:\n";
        for line in problems.iter().flat_map(|problem| problem.lines()) {
            text += &format!("# * {}\n", clean(line));
        }
        text += "#\n";
    }
    text
}

fn explain(error: &ApiError) -> Vec<String> {
    if error.causes.is_empty() {
        return vec![error.to_string()];
    }
    std::iter::once(error.headline()).chain(error.causes.iter().map(ToString::to_string)).collect()
}

fn without_comments(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect()
}

fn read(text: &str, object: &Value) -> Edited {
    let (documents, errors) = documents::parse(text);
    if !errors.is_empty() {
        // Lines as the editor counts them would be those of the next file, not of this one.
        return Edited::Invalid(errors.into_iter().map(|error| error.problem).collect());
    }
    let [only] = documents.as_slice() else {
        return Edited::Invalid(vec![format!("one object expected, not {}", documents.len())]);
    };
    let edited = only.root.to_value();
    if edited == *object {
        return Edited::Same;
    }
    let fixed = ["/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata/uid"];
    let moved = fixed.iter().filter(|field| edited.pointer(field) != object.pointer(field));
    let problems: Vec<String> =
        moved.map(|field| format!("{} cannot be changed", field[1..].replace('/', "."))).collect();
    if problems.is_empty() { Edited::Changed(edited) } else { Edited::Invalid(problems) }
}

/// Sends only what was changed, and only if nobody else changed the object since it was read.
async fn save(client: &mut Client, target: &Target, object: &Value, edited: &Value) -> Result<(), ClientError> {
    let mut patch = merge_patch(object, edited);
    patch["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    let path = with_query(&target.path(client), &[("fieldManager", MANAGER), ("fieldValidation", "Strict")]);
    client.exchange(Method::PATCH, &path, Body::MergePatch(&patch)).await.map(|_| ())
}

/// The merge patch (RFC 7386) that makes `to` of `from`; nulls in `to` cannot be told from absence there.
fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        match before.get(key) {
            Some(same) if same == value => {}
            Some(old @ Value::Object(_)) if value.is_object() => {
                patch.insert(key.clone(), merge_patch(old, value));
            }
            // What is new must not hold nulls, which would remove something.
            _ => {
                patch.insert(key.clone(), merge_patch(&json!({}), value));
            }
        }
    }
    Value::Object(patch)
}

/// Runs the editor as the shell would: it may be a command with arguments.
async fn open(editor: &str, file: &Path) -> anyhow::Result<()> {
    let status = Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => anyhow::bail!("the editor `{editor}` failed ({status}); nothing was changed"),
        Err(error) => anyhow::bail!("cannot run the editor `{editor}`: {error}"),
    }
}

/// The file that is edited: nobody else may read it, since the object may be a secret.
struct Draft {
    path: PathBuf,
    is_worth_keeping: bool,
    is_kept: bool,
}

impl Draft {
    fn create() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("underpass-edit-{}.yaml", uuid::Uuid::new_v4()));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| anyhow::anyhow!("{}: cannot write this file: {error}", path.display()))?;
        Ok(Self { path, is_worth_keeping: false, is_kept: false })
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let written = OpenOptions::new().write(true).truncate(true).create(true).mode(0o600).open(&self.path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| anyhow::anyhow!("{}: cannot write this file: {error}", self.path.display()))
    }

    fn read(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let limit = FILE_BYTES_MAX as u64 + 1;
        let read = fs::File::open(&self.path)
            .and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, limit), &mut text));
        match read {
            Ok(bytes) if bytes > FILE_BYTES_MAX => {
                anyhow::bail!("{}: longer than {} MiB", self.path.display(), FILE_BYTES_MAX >> 20)
            }
            Ok(_) => Ok(text),
            Err(error) => anyhow::bail!("{}: cannot read this file: {error}", self.path.display()),
        }
    }

    fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
