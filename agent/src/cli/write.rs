//! What the writing commands have in common: which objects they are about, dry runs, and what they print.

use std::io;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use serde_json::Value;
use underpass_shared::resource::kind::{KindInfo, Scope};

use super::{
    client::{Client, ClientError, with_query},
    kinds::{KindWord, full_name, group_of},
    print::{Console, Format, serialise},
};

/// How a writing command writes and what it prints.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// Change nothing: let the relay check and answer (server), or only read what was typed (client)
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
    /// Print the objects as they are then, or their names
    #[arg(short, long, value_enum)]
    pub output: Option<Shown>,
    /// In whose name fields are written
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub field_manager: Option<String>,
}

/// Whether anything is to be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    #[default]
    None,
    Server,
    Client,
}

impl DryRun {
    /// Stands behind each line.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Server => " (server dry run)",
            Self::Client => " (dry run)",
        }
    }

    /// The query of a request that is only tried.
    pub(super) fn query(self) -> Option<(&'static str, &'static str)> {
        (self == Self::Server).then_some(("dryRun", "All"))
    }
}

/// How written objects are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// kind.group/name, one per line
    Name,
    Json,
    Yaml,
}

impl WriteArgs {
    /// `path` with the query of a write.
    pub(super) fn target(&self, path: &str, manager: &str) -> String {
        let manager = self.field_manager.as_deref().unwrap_or(manager);
        let mut query = vec![("fieldManager", manager), ("fieldValidation", "Strict")];
        query.extend(self.dry_run.query());
        with_query(path, &query)
    }
}

/// What was written, as the user wants to see it.
#[derive(Debug)]
pub(super) struct Report {
    output: Option<Shown>,
    suffix: &'static str,
    objects: Vec<Value>,
    is_list: bool,
}

impl Report {
    /// `is_list`: several objects were asked for, even if only one is written.
    pub(super) fn new(args: &WriteArgs, is_list: bool) -> Self {
        Self { output: args.output, suffix: args.dry_run.suffix(), objects: Vec::new(), is_list }
    }

    /// One object: `httproute.gateway.networking.k8s.io/web configured`.
    pub(super) fn add(&mut self, name: &str, what: &str, object: Value, console: &mut Console<'_>) -> io::Result<()> {
        match self.output {
            None => console.say(&format!("{name} {what}{}", self.suffix)),
            Some(Shown::Name) => console.say(name),
            Some(Shown::Json | Shown::Yaml) => {
                self.objects.push(object);
                Ok(())
            }
        }
    }

    pub(super) fn finish(self, console: &mut Console<'_>) -> anyhow::Result<()> {
        let format = match self.output {
            Some(Shown::Json) => Format::Json,
            Some(Shown::Yaml) => Format::Yaml,
            _ => return Ok(()),
        };
        if !self.objects.is_empty() {
            write!(console.out, "{}", serialise(self.objects, self.is_list, format)?)?;
        }
        Ok(())
    }
}

/// Which objects of a kind, when not by name.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectArgs {
    /// All that carry these labels: a=b,c!=d
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = NonEmptyStringValueParser::new())]
    pub selector: Option<String>,
    /// All of the kind
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

impl SelectArgs {
    pub(super) fn is_given(&self) -> bool {
        self.selector.is_some() || self.all
    }
}

/// One object that a command is about.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) info: &'static KindInfo,
    pub(super) api_version: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Target {
    pub(super) fn path(&self, client: &Client) -> String {
        client.path(self.info, self.api_version, Some(&self.namespace), Some(&self.name))
    }

    /// The path of the list that it is in.
    pub(super) fn list(&self, client: &Client) -> String {
        client.path(self.info, self.api_version, Some(&self.namespace), None)
    }

    /// `httproute.gateway.networking.k8s.io/web`.
    pub(super) fn full_name(&self) -> String {
        full_name(self.info, self.api_version, &self.name)
    }

    /// `httproute.gateway.networking.k8s.io "web"`.
    pub(super) fn spoken(&self) -> String {
        match group_of(self.api_version) {
            "" => format!("{} \"{}\"", self.info.singular, self.name),
            group => format!("{}.{group} \"{}\"", self.info.singular, self.name),
        }
    }
}

/// The objects that `KIND NAME...` or `KIND/NAME...` name.
pub(super) fn named(word: &KindWord, names: &[String], namespace: &str) -> anyhow::Result<Vec<Target>> {
    let target = |word: &KindWord, name: String| Target {
        info: word.kind.info(),
        api_version: word.api_version,
        namespace: namespace.to_owned(),
        name,
    };
    let mut targets: Vec<Target> = word.name.iter().map(|name| target(word, name.clone())).collect();
    for name in names {
        targets.push(if name.contains('/') {
            let word: KindWord = name.parse().map_err(anyhow::Error::msg)?;
            let name = word.name.clone().unwrap_or_default();
            target(&word, name)
        } else {
            target(word, name.clone())
        });
    }
    Ok(targets)
}

/// The objects of a kind that `select` asks for, as they are now.
pub(super) async fn selected(
    client: &mut Client,
    word: &KindWord,
    select: &SelectArgs,
    namespace: &str,
) -> Result<Vec<(Target, Value)>, ClientError> {
    let (info, api_version) = (word.kind.info(), word.api_version);
    let scope = (!select.all_namespaces).then_some(namespace);
    let path = client.path(info, api_version, scope, None);
    let selection: Vec<(&str, &str)> =
        select.selector.iter().map(|selector| ("labelSelector", selector.as_str())).collect();
    let list = client.list(&path, &selection).await?;
    let found = list.items.into_iter().map(|object| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let namespace = if info.scope == Scope::Namespaced { text("namespace") } else { namespace.to_owned() };
        (Target { info, api_version, namespace, name: text("name") }, object)
    });
    Ok(found.collect())
}
