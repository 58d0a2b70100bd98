//! Completion in shells: `underpass completion SHELL` prints a script that asks this program what may come next.
//!
//! Kinds, options and contexts are known here; names of resources are asked of the relay, which has little time to answer:
//! a shell that waits is worse than one that completes nothing.

use std::{ffi::OsStr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use clap_complete::{
    CompleteEnv, Shell,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use underpass_shared::resource::kind::{KINDS, Kind};

use super::{
    Cli, GlobalArgs, Outcome,
    config::Store,
    fields::ROUTES,
    get,
    kinds::{EVERYDAY, KindWord},
    print::Console,
};

/// What tells this program that a shell asks.
const VARIABLE: &str = "UNDERPASS_COMPLETE";
/// How long the relay may take for names.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The most names that a shell is given: more help nobody.
const NAMES_MAX: usize = 500;
const OUTPUTS: [&str; 7] = ["wide", "json", "yaml", "name", "table", "jsonpath=", "custom-columns="];

/// Answers a shell's question and ends the process, if that is what it was started for.
pub fn answer() {
    CompleteEnv::with_factory(|| {
        let words = std::env::args().skip_while(|word| word != "--").skip(1).collect();
        command(words)
    })
    .var(VARIABLE)
    .complete();
}

/// `underpass completion`.
pub(crate) fn run(shell: Shell, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).expect("clap_complete has a completer for each of its shells");
    shell.write_registration(VARIABLE, "underpass", "underpass", "underpass", &mut console.out)?;
    Ok(Outcome::Done)
}

/// What is completed: resources by their kinds, and what else has names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kinds,
    /// Of the kind that the words before say.
    Names,
    Of(Kind),
    Routes,
    Contexts,
    Outputs,
}

/// The command line's definition, with a source for whatever has names. `words` is what was typed so far.
///
/// Options are hidden until a dash is typed: they are offered when nothing else is.
fn command(words: Vec<String>) -> Command {
    let wants_options = words.last().is_some_and(|word| word.starts_with('-'));
    let words: Arc<[String]> = words.into();
    let command = with_sources(Cli::command(), "", &words);
    if wants_options { command } else { without_options(command) }
}

fn without_options(command: Command) -> Command {
    let hidden = |arg: Arg| if arg.is_positional() { arg } else { arg.hide(true) };
    command.disable_help_flag(true).mut_args(hidden).mut_subcommands(without_options)
}

fn with_sources(command: Command, parent: &str, words: &Arc<[String]>) -> Command {
    let path = format!("{parent} {}", command.get_name());
    let command = command.mut_args(|arg| match source(&path, &arg) {
        None => arg,
        Some(source) => {
            let words = Arc::clone(words);
            arg.add(ArgValueCompleter::new(move |current: &OsStr| candidates(source, &words, current)))
        }
    });
    command.mut_subcommands(|child| with_sources(child, &path, words))
}

fn source(path: &str, arg: &Arg) -> Option<Source> {
    Some(match (path.trim(), arg.get_id().as_str()) {
        ("underpass", "project") => Source::Of(Kind::Project),
        ("underpass", "namespace") => Source::Of(Kind::Namespace),
        (_, "output") if arg.get_possible_values().is_empty() => Source::Outputs,
        (_, "kinds" | "kind" | "resources" | "resource" | "targets" | "target") => Source::Kinds,
        (path, "name" | "old") if path.starts_with("underpass config") => Source::Contexts,
        (path, "name") if path.starts_with("underpass project") => Source::Of(Kind::Project),
        (path, "name") if path.starts_with("underpass access") => Source::Of(Kind::ServiceAccount),
        ("underpass gateway get", "name") | ("underpass gateway list", "names") => Source::Of(Kind::Gateway),
        (path, "route" | "names") if path.starts_with("underpass gateway routes") => Source::Routes,
        (path, "node" | "names") if path.starts_with("underpass tunnel") => Source::Of(Kind::TunnelNode),
        (_, "names" | "name") => Source::Names,
        _ => return None,
    })
}

fn candidates(source: Source, words: &[String], current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let typed = Typed::read(words);
    let found = match source {
        Source::Kinds => match current.split_once('/') {
            None => kinds(current),
            Some((kind, _)) => typed.names_of(kind, &format!("{kind}/")),
        },
        Source::Names => match (typed.positionals.first(), current.split_once('/')) {
            (_, Some((kind, _))) => typed.names_of(kind, &format!("{kind}/")),
            (Some(kind), None) if !kind.contains('/') => typed.names_of(kind, ""),
            _ => kinds(current),
        },
        Source::Of(kind) => typed.names(&KindWord::of(kind), ""),
        Source::Routes => match current.split_once('/') {
            None => ROUTES.iter().map(|(_, word)| format!("{word}/")).collect(),
            Some((word, _)) => ROUTES
                .iter()
                .filter(|(_, route)| *route == word)
                .flat_map(|(kind, _)| typed.names(&KindWord::of(*kind), &format!("{word}/")))
                .collect(),
        },
        Source::Contexts => typed.contexts(),
        Source::Outputs => OUTPUTS.map(str::to_owned).to_vec(),
    };
    let fits = |name: &String| name.starts_with(current) && !name.contains(char::is_control);
    found.into_iter().filter(fits).take(NAMES_MAX).map(CompletionCandidate::new).collect()
}

/// Kinds by their plurals; by their other names once those are what was begun.
fn kinds(current: &str) -> Vec<String> {
    let (before, last) = current.rsplit_once(',').map_or(("", current), |(before, last)| (before, last));
    let prefix = if before.is_empty() { String::new() } else { format!("{before},") };
    let everyday = EVERYDAY.iter().map(|kind| kind.info());
    let others = KINDS.iter().filter(|info| !EVERYDAY.contains(&info.kind));
    let mut words: Vec<&str> = everyday.chain(others).map(|info| info.plural).collect();
    if !words.iter().any(|word| word.starts_with(last)) {
        words.extend(KINDS.iter().flat_map(|info| info.short_names.iter().copied().chain([info.singular])));
    }
    words.into_iter().map(|word| format!("{prefix}{word}")).collect()
}

/// What the words before say, as far as completion needs it.
#[derive(Debug, Default)]
struct Typed {
    positionals: Vec<String>,
    global: GlobalArgs,
}

impl Typed {
    /// Reads all words but the last, which is the one being completed. Whatever makes no sense is passed over.
    fn read(words: &[String]) -> Self {
        let mut typed = Self::default();
        let root = Cli::command();
        let mut command = &root;
        let mut words = words.iter().skip(1).rev().skip(1).rev();
        while let Some(word) = words.next() {
            if let Some(option) = word.strip_prefix('-') {
                let (name, mut value) =
                    option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value.to_owned())));
                let args = command.get_arguments().chain(root.get_arguments());
                let Some(arg) = args.into_iter().find(|arg| is_called(arg, name)) else { continue };
                if value.is_none() && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
                    value = words.next().cloned();
                }
                typed.take(arg.get_id().as_str(), value);
            } else if let Some(child) = command.find_subcommand(word).filter(|_| typed.positionals.is_empty()) {
                command = child;
            } else {
                typed.positionals.push(word.clone());
            }
        }
        typed
    }

    fn take(&mut self, option: &str, value: Option<String>) {
        match (option, value) {
            ("kubeconfig", Some(value)) => self.global.kubeconfig = Some(PathBuf::from(value)),
            ("project", Some(value)) => self.global.project = value.parse().ok(),
            ("namespace", Some(value)) => self.global.namespace = Some(value),
            _ => {}
        }
    }

    fn names_of(&self, kind: &str, prefix: &str) -> Vec<String> {
        kind.parse::<KindWord>().map(|word| self.names(&word, prefix)).unwrap_or_default()
    }

    /// Asks the relay, on a thread of its own: the caller may live in a runtime already.
    fn names(&self, word: &KindWord, prefix: &str) -> Vec<String> {
        let ask = async {
            let (mut client, namespace) = self.global().connect().ok()?;
            let found = get::read(&mut client, std::slice::from_ref(word), Some(&namespace), &[]).await.ok()?;
            let name = |object: &serde_json::Value| Some(format!("{prefix}{}", object["metadata"]["name"].as_str()?));
            Some(found.objects.iter().filter_map(name).collect::<Vec<_>>())
        };
        let answer = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
                    runtime.block_on(async { tokio::time::timeout(PATIENCE, ask).await.ok()? })
                })
                .join()
        });
        answer.ok().flatten().unwrap_or_default()
    }

    fn contexts(&self) -> Vec<String> {
        let Ok(store) = Store::open(&self.global()) else { return Vec::new() };
        store.contexts.rows().iter().map(|row| row.name.to_owned()).collect()
    }

    fn global(&self) -> GlobalArgs {
        let from_environment = || std::env::var_os("UNDERPASS_KUBECONFIG").map(PathBuf::from);
        let kubeconfig = self.global.kubeconfig.clone().or_else(from_environment);
        GlobalArgs { kubeconfig, ..self.global.clone() }
    }
}

/// `name` comes without its first dash.
fn is_called(arg: &Arg, name: &str) -> bool {
    match name.strip_prefix('-') {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| name.strip_prefix(short) == Some("")),
    }
}

/// What the shell would show after `line`, whose last word is being typed.
#[cfg(test)]
fn complete(line: &str) -> Vec<String> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let (args, index) = (words.iter().map(Into::into).collect(), words.len() - 1);
    let found = clap_complete::engine::complete(&mut command(words), args, index, None).unwrap();
    found.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::testing::Relay;

    #[test]
    fn commands_and_kinds_complete_without_a_relay() {
        assert!(complete("underpass desc").contains(&"describe".to_owned()));
        assert_eq!(complete("underpass get httpr"), ["httproutes", "httproutefilters"]);
        assert_eq!(complete("underpass get tn,gatewayc"), ["tn,gatewayclasses"]);
        assert_eq!(complete("underpass get gtw"), ["gtw"]);
        assert_eq!(complete("underpass gateway routes get t"), ["tls/", "tcp/"]);
        assert!(complete("underpass get tn -o j").contains(&"jsonpath=".to_owned()));
        assert!(complete("underpass completion z").contains(&"zsh".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn names_complete_by_asking_the_relay() {
        let relay = Relay::start().await;
        let object = |name: &str| json!({"metadata": {"name": name}});
        let route = |namespace: &str, name: &str| {
            let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}");
            relay.put(&path, &object(name));
        };
        route("default", "web");
        route("default", "api");
        route("shop", "cart");
        relay.put("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office", &object("office"));
        relay.put("/apis/core.apoxy.dev/v1alpha2/projects/acme", &object("acme"));
        relay.put("/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/evil", &object("e\u{1b}[2J"));
        let file = relay.kubeconfig().display().to_string();
        let complete = |line: &str| complete(&format!("underpass --kubeconfig {file} {line}"));
        assert!(complete("get httproute --s").contains(&"--selector".to_owned()));
        assert_eq!(complete("get httproute "), ["api", "web"]);
        assert_eq!(complete("get -n shop -o yaml hr "), ["cart"]);
        assert_eq!(complete("get httproute/w"), ["httproute/web"]);
        assert_eq!(complete("describe hr a"), ["api"]);
        assert_eq!(complete("tunnel run o"), ["office"]);
        assert_eq!(complete("tunnel token "), ["office"]);
        assert_eq!(complete("gateway routes get http/"), ["http/api", "http/web"]);
        assert_eq!(complete("project use "), ["acme"]);
        assert_eq!(complete("get tn --project a"), ["acme"]);
        assert_eq!(complete("config use-context "), ["c"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_relay_that_does_not_answer_completes_nothing() {
        let relay = Relay::start().await;
        relay.fall_silent();
        let file = relay.kubeconfig().display().to_string();
        for line in [&format!("underpass --kubeconfig {file} get hr "), "underpass --kubeconfig /nowhere/x get hr "] {
            let options = complete(line);
            assert!(options.iter().all(|word| word.starts_with("--")), "{options:?}");
        }
    }

    #[tokio::test]
    async fn every_shell_has_a_script_that_asks_this_program() {
        let relay = Relay::start().await;
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = relay.ok(&format!("completion {shell}")).await;
            assert!(script.contains(VARIABLE) && script.contains("underpass"), "{shell}: {script}");
        }
    }
}
