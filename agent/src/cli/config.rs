//! `underpass config`: the contexts of the kubeconfig file, as `kubectl config` handles them.
//!
//! Reads and writes the file; what a change means is for `contexts`.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use underpass_shared::identity::ProjectName;

use super::{
    GlobalArgs, Outcome,
    contexts::{Change, Contexts},
    kubeconfig::{self, Places},
    print::{Console, Format, columns, serialise},
};

/// What `underpass config` can do.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// List the contexts, the current one marked
    #[command(after_help = "Example:\n  underpass config get-contexts")]
    GetContexts {
        /// Only this one
        name: Option<String>,
        /// `name`: names only
        #[arg(short, long, value_parser = ["name"])]
        output: Option<String>,
        /// Leave out the titles of the columns
        #[arg(long)]
        no_headers: bool,
    },
    /// Print the current context's name
    #[command(after_help = "Example:\n  underpass config current-context")]
    CurrentContext,
    /// Make a context the current one
    #[command(visible_alias = "use", after_help = "Example:\n  underpass config use-context office")]
    UseContext { name: String },
    /// Change a context, or make one from the current one
    #[command(after_help = "Examples:\n  \
        underpass config set-context --current --namespace shop\n  \
        underpass config set-context shop --project acme --user bob")]
    SetContext(SetArgs),
    /// Give a context another name
    #[command(after_help = "Example:\n  underpass config rename-context underpass office")]
    RenameContext {
        old: String,
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        new: String,
    },
    /// Remove a context; its cluster and its user stay
    #[command(after_help = "Example:\n  underpass config delete-context office")]
    DeleteContext { name: String },
    /// Print the kubeconfig, without its secrets
    #[command(after_help = "Examples:\n  underpass config view\n  underpass config view --raw --minify > copy")]
    View {
        /// With its secrets
        #[arg(long)]
        raw: bool,
        /// Only what the current context uses
        #[arg(long)]
        minify: bool,
        /// How to print it
        #[arg(short, long, value_parser = ["yaml", "json"], default_value = "yaml")]
        output: String,
    },
}

/// What `set-context` changes; `--namespace` and `--project` are the global ones.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The context
    #[arg(required_unless_present = "current", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// The current context
    #[arg(long, conflicts_with = "name")]
    pub current: bool,
    /// The entry of `users` whose credentials it uses
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The entry of `clusters` that it talks to
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// The kubeconfig file: what is in it, and where a change is written.
pub(crate) struct Store {
    pub(crate) contexts: Contexts,
    /// Where it was read; `None` when there is none yet.
    source: Option<PathBuf>,
    target: PathBuf,
}

impl Store {
    /// Reads the file in force. A change never goes into a relay's own file, which the relay writes anew: the user's
    /// file is made from it then.
    pub(crate) fn open(global: &GlobalArgs) -> anyhow::Result<Self> {
        let places = Places::new(global.kubeconfig.as_deref());
        let target = places.own().context("neither HOME nor XDG_CONFIG_HOME is set: name a file with --kubeconfig")?;
        let Some((source, text)) = kubeconfig::read_text(&places)? else {
            return Ok(Self { contexts: Contexts::default(), source: None, target: target.to_owned() });
        };
        let mut contexts = Contexts::parse(&text)
            .map_err(|problem| kubeconfig::KubeconfigError::Unusable { path: source.clone(), problem })?;
        if source != target {
            contexts.absolutise(source.parent().unwrap_or(Path::new("/")));
        }
        Ok(Self { contexts, source: Some(source), target: target.to_owned() })
    }

    /// Writes the file, whole or not at all, readable by its owner only.
    pub(crate) fn save(&self, console: &mut Console<'_>) -> anyhow::Result<()> {
        let path = fs::canonicalize(&self.target).unwrap_or_else(|_| self.target.clone());
        write(&path, &self.contexts.to_yaml()?).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(source) = self.source.as_ref().filter(|source| **source != self.target) {
            console.note(&format!("{} was copied to {}", source.display(), path.display()))?;
        }
        Ok(())
    }

    /// Adds the file's name to what is wrong.
    pub(crate) fn blame(&self, problem: &kubeconfig::Problem) -> anyhow::Error {
        let path = self.source.as_ref().unwrap_or(&self.target).clone();
        let hint = match problem {
            kubeconfig::Problem::Missing { kind: "context", .. } => " (underpass config get-contexts lists them)",
            _ => "",
        };
        anyhow::anyhow!("{}: {problem}{hint}", path.display())
    }
}

/// Writes a secret file by way of a new one beside it.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.new", std::process::id()));
    let replace = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    replace().inspect_err(|_| drop(fs::remove_file(&fresh)))?;
    // A path without a folder is in the current one, whose parent is the empty path.
    if folder.as_os_str().is_empty() { Ok(()) } else { File::open(folder)?.sync_all() }
}

/// `underpass config`.
pub(crate) fn run(global: &GlobalArgs, command: &ConfigCommand, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let mut store = Store::open(global)?;
    match command {
        ConfigCommand::GetContexts { name, output, no_headers } => {
            return list(&store, name.as_deref(), output.is_some(), !no_headers, console);
        }
        ConfigCommand::CurrentContext => {
            let current =
                store.contexts.current().ok_or_else(|| store.blame(&kubeconfig::Problem::NoCurrentContext))?;
            console.say(current)?;
        }
        ConfigCommand::UseContext { name } => {
            store.contexts.use_context(name).map_err(|problem| store.blame(&problem))?;
            store.save(console)?;
            console.say(&format!("Switched to context \"{name}\"."))?;
        }
        ConfigCommand::SetContext(args) => set(global, &mut store, args, console)?,
        ConfigCommand::RenameContext { old, new } => {
            store.contexts.rename(old, new).map_err(|problem| store.blame(&problem))?;
            store.save(console)?;
            console.say(&format!("Context \"{old}\" renamed to \"{new}\"."))?;
        }
        ConfigCommand::DeleteContext { name } => {
            let was_current = store.contexts.delete(name).map_err(|problem| store.blame(&problem))?;
            store.save(console)?;
            console.say(&format!("deleted context {name} from {}", store.target.display()))?;
            if was_current {
                console
                    .note("warning: this was the current context: choose another with underpass config use-context")?;
            }
        }
        ConfigCommand::View { raw, minify, output } => {
            if *minify {
                store.contexts.minify().map_err(|problem| store.blame(&problem))?;
            }
            if !raw {
                store.contexts.redact();
            }
            let format = if output == "json" { Format::Json } else { Format::Yaml };
            write!(console.out, "{}", serialise(vec![store.contexts.value().clone()], false, format)?)?;
        }
    }
    Ok(Outcome::Done)
}

fn list(
    store: &Store,
    name: Option<&str>,
    names_only: bool,
    has_header: bool,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let mut rows = store.contexts.rows();
    if let Some(name) = name {
        rows.retain(|row| row.name == name);
        if rows.is_empty() {
            let name = name.to_owned();
            return Err(store.blame(&kubeconfig::Problem::Missing { kind: "context", name }));
        }
    }
    if names_only {
        rows.iter().try_for_each(|row| console.say(row.name))?;
        return Ok(Outcome::Done);
    }
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mark = if row.is_current { "*" } else { "" };
            [mark, row.name, row.cluster, row.user, row.project, row.namespace].map(str::to_owned).to_vec()
        })
        .collect();
    let text = columns(&["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "PROJECT", "NAMESPACE"], &rows);
    let text = if has_header { text.as_str() } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    write!(console.out, "{text}")?;
    Ok(Outcome::Done)
}

fn set(global: &GlobalArgs, store: &mut Store, args: &SetArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let current = store.contexts.current().map(str::to_owned);
    let name = match (&args.name, current) {
        (Some(name), _) => name.clone(),
        (None, Some(current)) => current,
        (None, None) => return Err(store.blame(&kubeconfig::Problem::NoCurrentContext)),
    };
    let change = Change {
        project: global.project.as_ref().map(ProjectName::as_str),
        namespace: global.namespace.as_deref(),
        user: args.user.as_deref(),
        cluster: args.cluster.as_deref(),
    };
    let is_new = store.contexts.set(&name, &change).map_err(|problem| store.blame(&problem))?;
    store.save(console)?;
    let verb = if is_new { "created" } else { "modified" };
    console.say(&format!("Context \"{name}\" {verb}."))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Relay;

    #[tokio::test]
    async fn contexts_are_listed_made_used_renamed_and_deleted() {
        let relay = Relay::start().await;
        assert_eq!(relay.ok("config current-context").await, "c\n");
        assert_eq!(relay.ok("config set-context shop --project acme -n web").await, "Context \"shop\" created.\n");
        assert_eq!(relay.ok("config use-context shop").await, "Switched to context \"shop\".\n");
        assert_eq!(
            relay.ok("config get-contexts").await,
            "\
CURRENT   NAME   CLUSTER   AUTHINFO   PROJECT   NAMESPACE
          c      r         u
*         shop   r-acme    u          acme      web
"
        );
        relay.run("get gateways", "").await;
        assert!(relay.requests()[0].contains("/projects/acme/"), "{:?}", relay.requests());
        assert_eq!(relay.ok("config rename-context shop s").await, "Context \"shop\" renamed to \"s\".\n");
        assert_eq!(relay.ok("config get-contexts -o name").await, "c\ns\n");
        assert!(relay.run("config delete-context s", "").await.err.contains("choose another"));
        let run = relay.run("config use-context s", "").await;
        assert!(run.err.contains("no context is called `s` (underpass config get-contexts lists them)"), "{}", run.err);
    }

    #[tokio::test]
    async fn a_written_file_is_private_and_its_secrets_are_not_shown() {
        let relay = Relay::start().await;
        let path = relay.kubeconfig();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        relay.ok("config set-context --current -n x").await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let key = Contexts::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let key = key.value()["users"][0]["user"]["client-key-data"].as_str().unwrap().to_owned();
        assert!(!relay.ok("config view").await.contains(&key));
        assert!(relay.ok("config view --raw --minify -o json").await.contains(&key));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("config");
        fs::create_dir(&target).unwrap();
        assert!(write(&target, "x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write(&folder.path().join("new/config"), "x").unwrap();
    }
}
