//! `underpass get`: objects by kind, by name, by selector or by file; once, or as they change.

use std::io;

use clap::{Args, builder::NonEmptyStringValueParser};
use serde_json::Value;
use underpass_shared::resource::kind::{KindInfo, Scope};

use super::{
    GlobalArgs, Outcome,
    client::{Client, ClientError, List, News, with_query},
    files::{self, FileArgs},
    jsonpath::JsonPath,
    kinds::{KindWord, KindWords, full_name},
    print::{Columns, Console, Format, OUTPUTS, Output, clean, gathered, in_custom_columns, serialise, text},
    table::{self, Extent, Table},
};

#[cfg(test)]
mod tests;

/// What is asked for, and how it is shown.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Kinds joined by commas (`all`: the everyday ones), or KIND/NAME
    #[arg(value_name = "KIND[,KIND] | KIND/NAME", required_unless_present = "filenames", conflicts_with = "filenames")]
    pub kinds: Option<KindWords>,
    /// Names, or more KIND/NAME
    #[arg(
        value_name = "NAME",
        conflicts_with_all = ["all_namespaces", "filenames"],
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub names: Vec<String>,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub show: ShowArgs,
}

/// What is asked for after a kind that the command's name says.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Names; all resources when left out
    #[arg(
        value_name = "NAME",
        conflicts_with = "all_namespaces",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub names: Vec<String>,
    #[command(flatten)]
    pub show: ShowArgs,
}

/// Which of the objects, and how they are shown.
#[derive(Debug, Clone, Default, Args)]
pub struct ShowArgs {
    /// How to print them: table, wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=TITLE:PATH,...
    #[arg(short, long, value_name = OUTPUTS, default_value = "table", hide_default_value = true)]
    pub output: Output,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those with these labels: app=web,tier!=db,env in (a,b)
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only those with these fields: metadata.name=web
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// A column of labels
    #[arg(long)]
    pub show_labels: bool,
    /// Leave out the titles of the columns
    #[arg(long)]
    pub no_headers: bool,
    /// Order them by a field: .metadata.creationTimestamp
    #[arg(long, value_name = "PATH", value_parser = JsonPath::parse_expression)]
    pub sort_by: Option<JsonPath>,
    /// Then print what changes, until stopped
    #[arg(short, long)]
    pub watch: bool,
    /// Print only what changes from now on, until stopped
    #[arg(long)]
    pub watch_only: bool,
}

impl ShowArgs {
    /// Whether a page of ours can show it all: no watch, no order of its own.
    pub(crate) fn is_page(&self) -> bool {
        self.is_table() && !self.watch && !self.watch_only && self.sort_by.is_none() && !self.show_labels
    }

    fn is_table(&self) -> bool {
        matches!(self.output, Output::Table | Output::Wide)
    }

    pub(crate) fn selection(&self) -> Vec<(&str, &str)> {
        let label = self.selector.as_deref().map(|selector| ("labelSelector", selector));
        let field = self.field_selector.as_deref().map(|selector| ("fieldSelector", selector));
        label.into_iter().chain(field).collect()
    }
}

/// Objects of one kind in one namespace: those named, or all.
#[derive(Debug, Clone, PartialEq)]
struct Target {
    word: KindWord,
    /// `None`: all of them.
    namespace: Option<String>,
    names: Vec<String>,
}

impl Target {
    fn info(&self) -> &'static KindInfo {
        self.word.kind.info()
    }

    fn path(&self, client: &Client, name: Option<&str>) -> String {
        client.path(self.info(), self.word.api_version, self.namespace.as_deref(), name)
    }
}

/// What a read of several objects gave: those that are there, and a text for each that is not.
pub(crate) struct Found {
    pub(crate) objects: Vec<Value>,
    pub(crate) errors: Vec<String>,
}

/// `underpass get`.
pub(crate) async fn run(global: &GlobalArgs, args: &GetArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let scope = (!args.show.all_namespaces).then(|| namespace.clone());
    let targets = match &args.kinds {
        Some(kinds) => targets_of(&words(&kinds.0, &args.names)?, scope.as_deref()),
        None => match files::load(&args.files, console.input) {
            Ok(manifests) => manifests
                .into_iter()
                .map(|manifest| Target {
                    word: KindWord { kind: manifest.info.kind, api_version: manifest.api_version, name: None },
                    namespace: Some(manifest.namespace.unwrap_or_else(|| namespace.clone())),
                    names: vec![manifest.name],
                })
                .collect(),
            Err(problems) => {
                problems.iter().for_each(|problem| console.complain(problem));
                return Ok(Outcome::Failed);
            }
        },
    };
    show(&mut client, &targets, &args.show, console).await
}

/// `tunnel list`, `gateway list`: a kind that the command's name says.
pub(crate) async fn list(
    global: &GlobalArgs,
    word: &KindWord,
    args: &ListArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    show_words(global, &words(std::slice::from_ref(word), &args.names)?, &args.show, console).await
}

/// The same for several words, each with a name or for all of its kind.
pub(crate) async fn show_words(
    global: &GlobalArgs,
    words: &[KindWord],
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let targets = targets_of(words, (!args.all_namespaces).then_some(&namespace));
    show(&mut client, &targets, args, console).await
}

/// Reads the objects that the words name, or all of their kinds.
pub(crate) async fn read(
    client: &mut Client,
    words: &[KindWord],
    namespace: Option<&str>,
    selection: &[(&str, &str)],
) -> Result<Found, ClientError> {
    let mut all = Found { objects: Vec::new(), errors: Vec::new() };
    for target in targets_of(words, namespace) {
        let found = objects(client, &target, selection).await?;
        all.objects.extend(found.objects);
        all.errors.extend(found.errors);
    }
    Ok(all)
}

/// Prints one object in a format that is no table.
pub(crate) fn print_one(object: Value, output: Output, console: &mut Console<'_>) -> anyhow::Result<()> {
    print_found(vec![object], false, &ShowArgs { output, ..ShowArgs::default() }, console)
}

fn targets_of(words: &[KindWord], namespace: Option<&str>) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for word in words {
        let (mut word, names) = (word.clone(), word.with(&[]));
        word.name = None;
        match targets.iter_mut().find(|target| target.word == word) {
            Some(target) => target.names.extend(names),
            None => targets.push(Target { word, namespace: namespace.map(str::to_owned), names }),
        }
    }
    targets
}

/// KIND NAME NAME… or KIND/NAME KIND/NAME… → a word for each object, or for each kind when there are no names.
pub(crate) fn words(kinds: &[KindWord], names: &[String]) -> anyhow::Result<Vec<KindWord>> {
    if kinds.iter().any(|word| word.name.is_some()) {
        let more = names.iter().map(|name| name.parse::<KindWord>().map_err(anyhow::Error::msg));
        let words = kinds.iter().cloned().map(Ok).chain(more).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(word) = words.iter().find(|word| word.name.is_none()) {
            anyhow::bail!("after KIND/NAME comes KIND/NAME again: give the {} its name too", word.kind.info().name);
        }
        return Ok(words);
    }
    if let Some(name) = names.iter().find(|name| name.parse::<KindWord>().is_ok_and(|word| word.name.is_some())) {
        anyhow::bail!("`{name}`: names have no `/`; write either KIND NAME NAME or KIND/NAME KIND/NAME");
    }
    if names.is_empty() {
        return Ok(kinds.to_vec());
    }
    let named = |word: &KindWord, name: &String| KindWord { name: Some(name.clone()), ..word.clone() };
    Ok(kinds.iter().flat_map(|word| names.iter().map(|name| named(word, name))).collect())
}

async fn show(
    client: &mut Client,
    targets: &[Target],
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    if args.watch || args.watch_only {
        return match targets {
            [target] if target.names.len() <= 1 => watch_until_stopped(client, target, args, console).await,
            _ => anyhow::bail!("only one kind, or one object, can be watched at a time"),
        };
    }
    let has_names = targets.iter().any(|target| !target.names.is_empty());
    if has_names && !args.selection().is_empty() {
        anyhow::bail!("names and selectors cannot be combined: leave one of them out");
    }
    let errors = if args.is_table() {
        print_tables(client, targets, args, console).await?
    } else {
        print_objects(client, targets, args, console).await?
    };
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn print_tables(
    client: &mut Client,
    targets: &[Target],
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut errors = Vec::new();
    let mut has_printed = false;
    for target in targets {
        let (mut table, problems) = table_of(client, target, args).await?;
        errors.extend(problems);
        console.warn(&client.take_warnings())?;
        if table.is_empty() {
            continue;
        }
        if let Some(path) = &args.sort_by {
            table.sort_by(path)?;
        }
        if has_printed {
            console.say("")?;
        }
        has_printed = true;
        let extent = Extent { has_kinds: targets.len() > 1, ..extent(args) };
        write!(console.out, "{}", table.print(&target.word, extent, &mut Columns::default()))?;
    }
    if !has_printed && errors.is_empty() {
        let namespaces: Vec<_> = targets.iter().map(|target| (target.info().scope, &target.namespace)).collect();
        match namespaces.as_slice() {
            [(Scope::Namespaced, Some(namespace)), ..] => {
                console.note(&format!("No resources found in {namespace} namespace."))?;
            }
            _ => console.note("No resources found.")?,
        }
    }
    Ok(errors)
}

fn extent(args: &ShowArgs) -> Extent {
    Extent {
        is_wide: args.output == Output::Wide,
        has_namespaces: args.all_namespaces,
        has_labels: args.show_labels,
        has_kinds: false,
        has_header: !args.no_headers,
    }
}

async fn table_of(client: &mut Client, target: &Target, args: &ShowArgs) -> Result<(Table, Vec<String>), ClientError> {
    let (mut table, mut errors) = (Table::default(), Vec::new());
    client.prefer_tables(true);
    let include = include_object(args);
    if target.names.is_empty() {
        let path = with_query(&target.path(client, None), include);
        let list = client.list(&path, &args.selection()).await;
        client.prefer_tables(false);
        take(&mut table, &list?);
    }
    for name in &target.names {
        let path = with_query(&target.path(client, Some(name)), include);
        let answer = client.get(&path).await;
        match answer {
            Ok(answer) if table.add(&answer) => {}
            Ok(_) => errors.push(format!("{name}: the relay answered with something that is no table")),
            Err(error) if error.as_api().is_some() => errors.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    client.prefer_tables(false);
    Ok((table, errors))
}

fn take(table: &mut Table, list: &List) {
    table.add_columns(&list.columns);
    table.add_rows(&list.items);
}

/// Sorting needs the whole objects, which rows come without.
fn include_object(args: &ShowArgs) -> &'static [(&'static str, &'static str)] {
    if args.sort_by.is_some() { &[("includeObject", "Object")] } else { &[] }
}

async fn print_objects(
    client: &mut Client,
    targets: &[Target],
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Vec<String>> {
    let mut all = Found { objects: Vec::new(), errors: Vec::new() };
    for target in targets {
        let found = objects(client, target, &args.selection()).await?;
        all.objects.extend(found.objects);
        all.errors.extend(found.errors);
    }
    console.warn(&client.take_warnings())?;
    if let Some(path) = &args.sort_by {
        table::sort_by(&mut all.objects, path, |object| object)?;
    }
    let is_one = targets.iter().map(|target| target.names.len()).eq([1]);
    if !all.objects.is_empty() || targets.iter().all(|target| target.names.is_empty()) {
        print_found(all.objects, !is_one, args, console)?;
    }
    Ok(all.errors)
}

/// Prints objects in the formats that are no tables of the relay's.
fn print_found(objects: Vec<Value>, is_list: bool, args: &ShowArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    match &args.output {
        Output::Table | Output::Wide => {}
        Output::Json => write!(console.out, "{}", serialise(objects, is_list, Format::Json)?)?,
        Output::Yaml => write!(console.out, "{}", serialise(objects, is_list, Format::Yaml)?)?,
        Output::Name => objects.iter().try_for_each(|object| console.say(&name_of(object)))?,
        Output::JsonPath(path) => write!(console.out, "{}", clean(&path.render(&gathered(objects, is_list))?))?,
        Output::CustomColumns(columns) => {
            let text = in_custom_columns(columns, &objects, !args.no_headers, &mut Columns::default())?;
            write!(console.out, "{text}")?;
        }
    }
    Ok(())
}

/// `httproute.gateway.networking.k8s.io/web`.
fn name_of(object: &Value) -> String {
    use underpass_shared::resource::kind::Kind;
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    match Kind::of_manifest(api_version, kind) {
        Some(kind) => full_name(kind.info(), api_version, name),
        None => format!("{}/{name}", kind.to_ascii_lowercase()),
    }
}

async fn objects(client: &mut Client, target: &Target, selection: &[(&str, &str)]) -> Result<Found, ClientError> {
    let mut found = Found { objects: Vec::new(), errors: Vec::new() };
    if target.names.is_empty() {
        found.objects = client.list(&target.path(client, None), selection).await?.items;
    }
    for name in &target.names {
        match client.get(&target.path(client, Some(name))).await {
            Ok(object) => found.objects.push(object),
            Err(error) if error.as_api().is_some() => found.errors.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    found.objects.iter_mut().for_each(|object| name_kind(object, &target.word));
    Ok(found)
}

/// Items of lists may come without the two fields that say what they are.
fn name_kind(object: &mut Value, word: &KindWord) {
    if let Value::Object(fields) = object {
        fields.entry("apiVersion").or_insert_with(|| word.api_version.into());
        fields.entry("kind").or_insert_with(|| word.kind.info().name.into());
    }
}

async fn watch_until_stopped(
    client: &mut Client,
    target: &Target,
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    tokio::select! {
        result = watch(client, target, args, console) => result,
        // Whoever presses Ctrl-C has seen enough.
        _ = tokio::signal::ctrl_c() => Ok(Outcome::Done),
    }
}

/// Prints the list, then every change to it. Ends with an error only.
async fn watch(
    client: &mut Client,
    target: &Target,
    args: &ShowArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let path = with_query(&target.path(client, None), if args.is_table() { include_object(args) } else { &[] });
    let by_name = target.names.first().map(|name| {
        let more = args.field_selector.as_ref().map(|more| format!(",{more}")).unwrap_or_default();
        format!("metadata.name={name}{more}")
    });
    let mut selection = args.selection();
    if let Some(by_name) = &by_name {
        selection.retain(|(key, _)| *key != "fieldSelector");
        selection.push(("fieldSelector", by_name));
    }
    if let Some(name) = target.names.first().filter(|_| !args.watch_only) {
        // A name that is not there is an error now, not a silence.
        client.get(&target.path(client, Some(name))).await?;
    }
    client.prefer_tables(args.is_table());
    let list = client.list(&path, &selection).await?;
    console.warn(&client.take_warnings())?;
    let mut printer =
        Printer { target, args, table: Table::default(), columns: Columns::default(), has_printed: false };
    printer.table.add_columns(&list.columns);
    if !args.watch_only {
        printer.print_all(list.items, console)?;
    }
    let mut follow = client.follow_from(&path, &selection, Some(list.revision));
    loop {
        match follow.next().await? {
            News::Listed(items) => printer.print_all(items, console)?,
            News::Added(item) | News::Modified(item) | News::Deleted(item) => printer.print(item, console)?,
        }
    }
}

/// Prints rows as they come, below one header.
struct Printer<'a> {
    target: &'a Target,
    args: &'a ShowArgs,
    table: Table,
    columns: Columns,
    has_printed: bool,
}

impl Printer<'_> {
    fn print_all(&mut self, items: Vec<Value>, console: &mut Console<'_>) -> anyhow::Result<()> {
        if self.args.is_table() {
            self.table.clear();
            self.table.add_rows(&items);
            if let Some(path) = &self.args.sort_by {
                self.table.sort_by(path)?;
            }
            return Ok(self.print_rows(console)?);
        }
        items.into_iter().try_for_each(|item| self.print(item, console))
    }

    fn print(&mut self, mut item: Value, console: &mut Console<'_>) -> anyhow::Result<()> {
        if self.args.is_table() {
            self.table.clear();
            if !self.table.add(&item) {
                anyhow::bail!("the relay's watch brought something that is no table");
            }
            return Ok(self.print_rows(console)?);
        }
        name_kind(&mut item, &self.target.word);
        match &self.args.output {
            Output::Yaml => write!(console.out, "---\n{}", serialise(vec![item], false, Format::Yaml)?)?,
            Output::CustomColumns(columns) => {
                let has_header = !self.args.no_headers && !self.has_printed;
                write!(console.out, "{}", in_custom_columns(columns, &[item], has_header, &mut self.columns)?)?;
                self.has_printed = true;
            }
            _ => print_found(vec![item], false, self.args, console)?,
        }
        Ok(console.out.flush()?)
    }

    fn print_rows(&mut self, console: &mut Console<'_>) -> io::Result<()> {
        if self.table.is_empty() {
            return Ok(());
        }
        let extent = Extent { has_header: !self.args.no_headers && !self.has_printed, ..extent(self.args) };
        self.has_printed = true;
        write!(console.out, "{}", self.table.print(&self.target.word, extent, &mut self.columns))?;
        console.out.flush()
    }
}
