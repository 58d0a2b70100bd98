//! The command line: what can be typed, and which module does it.
//!
//! Commands talk to the relay's API only; the agent itself is `crate::app`. All but `client`, `files` and the commands
//! is pure.

pub mod client;
pub mod completion;
pub mod duration;
pub mod files;
pub mod jsonpath;
pub mod kubeconfig;
pub mod print;
pub mod status;
pub mod token;

mod access;
mod api_resources;
mod apply;
mod auth;
mod config;
mod contexts;
mod delete;
mod describe;
mod diff;
mod documents;
mod edit;
mod explain;
mod fields;
mod gateway;
mod get;
mod kinds;
mod manifest;
mod pages;
mod patch;
mod project;
mod table;
#[cfg(test)]
mod testing;
mod version;
mod wait;
mod write;

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use clap::{ArgGroup, Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use underpass_shared::{
    identity::{NodeName, ProjectName},
    resource::kind::Kind,
};

use self::{
    access::AccessCommand,
    api_resources::ResourcesArgs,
    apply::ApplyArgs,
    auth::AuthCommand,
    client::Client,
    config::ConfigCommand,
    delete::DeleteArgs,
    describe::DescribeArgs,
    diff::DiffArgs,
    edit::EditArgs,
    explain::ExplainArgs,
    get::{GetArgs, ListArgs},
    kinds::KindWord,
    kubeconfig::{Kubeconfig, Places},
    patch::{Mark, MarkArgs, PatchArgs},
    print::{Console, OUTPUTS, Output},
    project::ProjectCommand,
    wait::WaitArgs,
};
use crate::config::RunArgs;

/// The namespace when neither `-n` nor the kubeconfig names one.
const DEFAULT_NAMESPACE: &str = "default";

/// Connect services without open ports to a public gateway.
#[derive(Debug, Parser)]
#[command(
    name = "underpass",
    version,
    after_help = "Examples:\n  \
        underpass apply -f office.yaml               create a TunnelNode, a Backend, an HTTPRoute\n  \
        underpass tunnel token office                what the office host needs to join\n  \
        underpass tunnel run office --token-file t   run the agent there\n  \
        underpass gateway get default                see which routes are attached"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Where the relay's API is and who you are [default: ~/.config/underpass/kubeconfig, else that of a relay on this machine]
    #[arg(long, global = true, value_name = "FILE", env = "UNDERPASS_KUBECONFIG", help_heading = "Global options")]
    pub kubeconfig: Option<PathBuf>,
    /// The project to work in [default: the one in the kubeconfig's URL, else `default`]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub project: Option<ProjectName>,
    /// The namespace to work in [default: the kubeconfig's, else `default`]
    #[arg(short, long, global = true, value_name = "NAME", value_parser = namespace, help_heading = "Global options")]
    pub namespace: Option<String>,
}

/// A namespace is a DNS label, as a node's name is.
fn namespace(text: &str) -> Result<String, String> {
    NodeName::parse(text).map(String::from).map_err(|error| error.to_string())
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create or change the resources that files describe
    #[command(
        override_usage = "underpass apply -f FILE|DIRECTORY|- [-f ...] [-R] [--prune -l LABELS] [OPTIONS]",
        group(ArgGroup::new("input").args(["filenames"]).required(true))
    )]
    #[command(after_help = "Everything is read and checked before anything is sent.\n\nExamples:\n  \
        underpass apply -f backend.yaml -f route.yaml\n  \
        underpass apply -f manifests/ -R --dry-run\n  \
        underpass apply -f shop/ --prune -l app=shop\n  \
        kubectl get httproute web -o yaml | underpass apply -f -")]
    Apply(ApplyArgs),
    /// Show what apply would change
    #[command(
        override_usage = "underpass diff -f FILE|DIRECTORY|- [-f ...] [-R]",
        group(ArgGroup::new("input").args(["filenames"]).required(true)),
        after_help = "Exits with 0 when nothing would change, with 1 when something would, with more when that cannot be \
        told.\n\nExamples:\n  \
        underpass diff -f manifests/ -R\n  \
        underpass diff -f - < route.yaml"
    )]
    Diff(DiffArgs),
    /// Change a resource in your editor
    #[command(after_help = "Examples:\n  \
        underpass edit httproute web\n  \
        underpass edit backend/app --editor 'code --wait'")]
    Edit(EditArgs),
    /// Change fields of resources
    #[command(after_help = "Examples:\n  \
        underpass patch tunnelnode office -p '{\"spec\": {\"egressGateway\": {\"enabled\": true}}}'\n  \
        underpass patch httproute/web --type json -p '[{\"op\": \"remove\", \"path\": \"/spec/hostnames/0\"}]'")]
    Patch(PatchArgs),
    /// Set or remove labels of resources
    #[command(after_help = "Examples:\n  \
        underpass label httproute web app=shop tier-\n  \
        underpass label backends --all app=shop --overwrite")]
    Label(MarkArgs),
    /// Set or remove annotations of resources
    #[command(after_help = "Example:\n  underpass annotate tunnelnode/office example.com/owner=ops")]
    Annotate(MarkArgs),
    /// Wait until resources are ready, have a value, are there, or are gone
    #[command(after_help = "Routes and policies have a condition when all their parents say so.\n\nExamples:\n  \
        underpass wait tunnelnode/office --for=condition=Ready --timeout 2m\n  \
        underpass wait httproutes -l app=shop --for=condition=Accepted\n  \
        underpass wait gateway/default --for=jsonpath='{.status.addresses[0].value}'\n  \
        underpass wait backend/old --for=delete")]
    Wait(WaitArgs),
    /// Show resources
    #[command(
        override_usage = "underpass get KIND[,KIND...] [NAME...] [options]\n       underpass get KIND/NAME... [options]\n       underpass get -f FILE [options]",
        after_help = "Examples:\n  \
        underpass get tunnelnodes,httproutes\n  \
        underpass get httproute web -o yaml\n  \
        underpass get all -A -o wide\n  \
        underpass get backends -l app=web --sort-by .metadata.creationTimestamp\n  \
        underpass get gateway default -o jsonpath='{.status.addresses[*].value}'\n  \
        underpass get tunnelnodes -w"
    )]
    Get(GetArgs),
    /// Show everything about resources, with what belongs to them
    #[command(after_help = "Examples:\n  \
        underpass describe httproute web\n  \
        underpass describe tunnelnode/office\n  \
        underpass describe backends -l app=web")]
    Describe(DescribeArgs),
    /// Explain a kind and its fields
    #[command(after_help = "Examples:\n  \
        underpass explain httproute\n  \
        underpass explain httproute.spec.rules.matches\n  \
        underpass explain backend --recursive")]
    Explain(ExplainArgs),
    /// Delete resources
    #[command(
        override_usage = "underpass delete KIND NAME... [OPTIONS]\n       underpass delete KIND -l LABELS|--all [OPTIONS]\n       underpass delete -f FILE [-R] [OPTIONS]",
        after_help = "Examples:\n  \
        underpass delete httproute web\n  \
        underpass delete httproutes -l app=shop --wait=false\n  \
        underpass delete -f manifests/ --ignore-not-found"
    )]
    Delete(DeleteArgs),
    /// Gateways and the routes attached to them
    #[command(
        visible_alias = "gateways",
        after_help = "Examples:\n  \
        underpass gateway get default\n  \
        underpass gateway routes get http/web"
    )]
    Gateway {
        #[command(subcommand)]
        command: Option<GatewayCommand>,
    },
    /// Tunnels: run an agent, invite one, look at them
    #[command(
        visible_alias = "tunnels",
        after_help = "Examples:\n  \
        underpass tunnel token office --ttl 15m > token\n  \
        underpass tunnel run office --token-file token\n  \
        underpass tunnel list -o wide"
    )]
    Tunnel {
        #[command(subcommand)]
        command: Option<TunnelCommand>,
    },
    /// Projects: list them, work in one
    #[command(
        visible_alias = "projects",
        after_help = "Examples:\n  \
        underpass project list\n  \
        underpass project use acme"
    )]
    Project {
        #[command(subcommand)]
        command: Option<ProjectCommand>,
    },
    /// Who may use the project's API: tokens with roles
    #[command(after_help = "Example:\n  underpass access create ci --role editor --ttl 90d")]
    Access {
        #[command(subcommand)]
        command: AccessCommand,
    },
    /// Who the relay thinks you are, and what you may do
    #[command(after_help = "Example:\n  underpass auth can-i create httproutes")]
    Auth {
        #[command(subcommand)]
        command: AuthCommand,
    },
    /// The contexts of your kubeconfig
    #[command(after_help = "Examples:\n  \
        underpass config get-contexts\n  \
        underpass config set-context --current --namespace shop")]
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// List the kinds that there are
    #[command(after_help = "Example:\n  underpass api-resources --api-group core.apoxy.dev")]
    ApiResources(ResourcesArgs),
    /// Print a script that makes a shell complete commands and names
    #[command(after_help = "Examples:\n  \
        source <(underpass completion bash)\n  \
        underpass completion fish > ~/.config/fish/completions/underpass.fish")]
    Completion { shell: clap_complete::Shell },
    /// Show the version of this program, and of the relay if one can be reached
    #[command(after_help = "Example:\n  underpass version --client")]
    Version {
        /// Ask no relay
        #[arg(long)]
        client: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// Show a gateway, its listeners, and every attached route
    #[command(after_help = "Example:\n  underpass gateway get default")]
    Get {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// How to print it
        #[arg(short, long, value_name = OUTPUTS, default_value = "table", hide_default_value = true)]
        output: Output,
    },
    /// List gateways
    List(ListArgs),
    /// Routes, whichever gateway they are attached to
    #[command(
        visible_alias = "route",
        after_help = "Examples:\n  \
        underpass gateway routes list\n  \
        underpass gateway routes get http/web"
    )]
    Routes {
        #[command(subcommand)]
        command: Option<RoutesCommand>,
    },
}

#[derive(Debug, Subcommand)]
pub enum RoutesCommand {
    /// List routes
    List(ListArgs),
    /// Show a route, its rules, and what each gateway says of it
    #[command(after_help = "Example:\n  underpass gateway routes get http/web")]
    Get {
        /// http/NAME, grpc/NAME, tls/NAME, tcp/NAME or udp/NAME
        #[arg(value_name = "TYPE/NAME", value_parser = NonEmptyStringValueParser::new())]
        route: String,
        /// How to print it
        #[arg(short, long, value_name = OUTPUTS, default_value = "table", hide_default_value = true)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum TunnelCommand {
    /// Run the agent of a TunnelNode, here, until stopped
    #[command(after_help = "Examples:\n  \
        underpass tunnel run office --token-file token   the first time\n  \
        underpass tunnel run office                      ever after")]
    Run(RunArgs),
    /// Print an enrolment token: all that an agent on another host needs to join
    #[command(after_help = "Example:\n  underpass tunnel token office --ttl 15m | ssh office 'cat > token'")]
    Token {
        /// The TunnelNode that the agent will serve
        node: NodeName,
        /// How long the token is good for: 90s, 15m, 1h, 7d
        #[arg(long, default_value = "1h", value_parser = duration::parse)]
        ttl: std::time::Duration,
        /// How many agents may use it
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
    },
    /// Show tunnel nodes
    Get(ListArgs),
    /// List tunnel nodes
    List(ListArgs),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What went wrong is already on standard error.
    Failed,
    /// As `Failed` or `Done`, with an exit code that says more.
    Exit(u8),
}

/// Runs a command on the process's own streams.
pub async fn run(cli: Cli) -> Outcome {
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut console = Console { input: &mut input, out: &mut out, err: &mut err, is_coloured };
    let outcome = execute(cli, &mut console).await;
    if io::stdout().flush().is_err() { Outcome::Failed } else { outcome }
}

async fn execute(cli: Cli, console: &mut Console<'_>) -> Outcome {
    match dispatch(cli, console).await {
        Ok(outcome) => outcome,
        Err(error) => {
            if !is_broken_pipe(&error) {
                console.complain(&format!("{error:#}"));
            }
            Outcome::Failed
        }
    }
}

/// Whoever read our output has seen enough: `underpass get ... | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn dispatch(cli: Cli, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let global = cli.global;
    match cli.command {
        Command::Apply(args) => apply::run(&global, &args, console).await,
        Command::Diff(args) => diff::run(&global, &args, console).await,
        Command::Edit(args) => edit::run(&global, &args, console).await,
        Command::Patch(args) => patch::run(&global, &args, console).await,
        Command::Label(args) => patch::mark(Mark::Label, &global, &args, console).await,
        Command::Annotate(args) => patch::mark(Mark::Annotation, &global, &args, console).await,
        Command::Wait(args) => wait::run(&global, &args, console).await,
        Command::Get(args) => get::run(&global, &args, console).await,
        Command::Describe(args) => describe::run(&global, &args, console).await,
        Command::Explain(args) => explain::run(&global, &args, console).await,
        Command::Delete(args) => delete::run(&global, &args, console).await,
        Command::Gateway { command } => gateway::run(&global, command, console).await,
        Command::Tunnel { command } => match command {
            Some(TunnelCommand::Run(args)) => crate::app::run(args, global).await.map(|()| Outcome::Done),
            Some(TunnelCommand::Token { node, ttl, uses }) => token::run(&global, &node, ttl, uses, console).await,
            Some(TunnelCommand::Get(list) | TunnelCommand::List(list)) => {
                get::list(&global, &KindWord::of(Kind::TunnelNode), &list, console).await
            }
            None => get::list(&global, &KindWord::of(Kind::TunnelNode), &ListArgs::default(), console).await,
        },
        Command::Project { command } => project::run(&global, command, console).await,
        Command::Access { command } => access::run(&global, command, console).await,
        Command::Auth { command } => auth::run(&global, command, console).await,
        Command::Config { command } => config::run(&global, &command, console),
        Command::ApiResources(args) => api_resources::run(&args, console),
        Command::Completion { shell } => completion::run(shell, console),
        Command::Version { client } => version::run(&global, client, console).await,
    }
}

impl GlobalArgs {
    /// A client for the relay that the kubeconfig names, and the namespace to work in.
    pub(crate) fn connect(&self) -> anyhow::Result<(Client, String)> {
        let config = self.load()?;
        let client = Client::new(&config, self.project.as_ref().map(ProjectName::as_str))?;
        let namespace = self.namespace.clone().or(config.namespace).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        Ok((client, namespace))
    }

    /// The kubeconfig that is in force.
    pub(crate) fn load(&self) -> anyhow::Result<Kubeconfig> {
        Ok(kubeconfig::load(&Places::new(self.kubeconfig.as_deref()))?)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn senseless_command_lines_are_usage_errors() {
        for line in [
            "",
            "apply",
            "apply -R",
            "apply -f x --dry-run=maybe",
            "apply -f x --prune",
            "apply -f x -l a=b",
            "diff",
            "delete gateways x --all",
            "wait gateway/x",
            "wait gateway/x --for=ready",
            "patch gateway x",
            "label gateways",
            "delete gateway x --cascade maybe",
            "get",
            "get unicorns",
            "get gateways x -A",
            "delete",
            "delete -f x httproute y",
            "tunnel token Office",
            "tunnel token office --ttl soon",
            "tunnel token office --uses 0",
            "tunnel run office --token a --token-file b",
            "get gateways -n Bad_Name",
            "get gateways -o xml",
            "gateway routes get",
        ] {
            let words = std::iter::once("underpass").chain(line.split_whitespace());
            let error = Cli::try_parse_from(words).map(|cli| format!("{cli:?}")).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let is_list = matches!(command.get_name(), "list") || path == "underpass tunnel get";
            assert!(is_list || command.get_after_help().is_some(), "{path}");
            for child in command.get_subcommands() {
                check(child, &format!("{path} {}", child.get_name()));
            }
        }
        check(&Cli::command(), "underpass");
    }
}
