//! `underpass describe`: an object and what belongs to it, on one page.
//!
//! Asks for what is related; how it looks is for `page` and `pages`.

use clap::{Args, builder::NonEmptyStringValueParser};
use http::StatusCode;
use serde_json::Value;
use underpass_shared::resource::kind::{Kind, Scope};

use super::{
    GlobalArgs, Outcome,
    client::{Client, ClientError},
    fields::{backend_refs, is_backend, is_route, kind_of, list, name, nodes_of},
    gateway::{all_routes, everywhere},
    get,
    kinds::{EVERYDAY, KindWords},
    print::Console,
    status::ApiError,
};
use crate::clock;

mod page;
#[cfg(test)]
mod tests;

/// What is described.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// A kind, or KIND/NAME
    #[arg(value_name = "KIND | KIND/NAME")]
    pub kinds: KindWords,
    /// Names; all resources of the kind when left out
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces", value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those with these labels: app=web,tier!=db
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

/// What an object's page shows beside the object.
#[derive(Debug, Default)]
struct Related {
    /// Of a Gateway.
    class: Option<Value>,
    /// ListenerSets, of every namespace.
    sets: Vec<Value>,
    /// Routes of every kind and namespace.
    routes: Vec<Value>,
    /// Backends: those that a route names, or all.
    backends: Vec<Value>,
    /// Nodes that Backends name.
    nodes: Vec<Value>,
    /// Objects that routes name and that are not there, as `KIND NAMESPACE/NAME`.
    missing: Vec<String>,
    /// Of a project: how many objects of each kind it has.
    counts: Vec<(&'static str, usize)>,
}

/// `underpass describe`.
pub(crate) async fn run(
    global: &GlobalArgs,
    args: &DescribeArgs,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let scope = (!args.all_namespaces).then_some(namespace.as_str());
    let words = get::words(&args.kinds.0, &args.names)?;
    let selector = args.selector.as_deref().map(|selector| ("labelSelector", selector));
    let selection: Vec<(&str, &str)> = selector.into_iter().collect();
    if !selection.is_empty() && words.iter().any(|word| word.name.is_some()) {
        anyhow::bail!("names and selectors cannot be combined: leave one of them out");
    }
    let found = get::read(&mut client, &words, scope, &selection).await?;
    if found.objects.is_empty() && found.errors.is_empty() {
        match (words.first().map(|word| word.kind.info().scope), scope) {
            (Some(Scope::Namespaced), Some(namespace)) => {
                console.note(&format!("No resources found in {namespace} namespace."))?;
            }
            _ => console.note("No resources found.")?,
        }
    }
    for (index, object) in found.objects.iter().enumerate() {
        let related = related(global, &mut client, object).await?;
        if index > 0 {
            console.say("\n")?;
        }
        write!(console.out, "{}", page::page(object, &related, clock::now()))?;
    }
    console.warn(&client.take_warnings())?;
    found.errors.iter().for_each(|error| console.complain(error));
    Ok(if found.errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn related(global: &GlobalArgs, client: &mut Client, object: &Value) -> anyhow::Result<Related> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let mut related = Related::default();
    match Kind::of_manifest(api_version, kind_of(object, "")) {
        Some(Kind::Gateway) => {
            if let Some(class) = object["spec"]["gatewayClassName"].as_str() {
                related.class = one(client, Kind::GatewayClass, None, class).await?;
            }
            related.sets = everywhere(client, Kind::ListenerSet).await?;
            related.routes = all_routes(client).await?;
        }
        Some(Kind::Backend) => {
            let routes = all_routes(client).await?;
            let uses = |route: &Value| {
                let home = route["metadata"]["namespace"].as_str().unwrap_or_default();
                backend_refs(route).any(|reference| is_backend(reference, home, object))
            };
            related.routes = routes.into_iter().filter(uses).collect();
            related.nodes = nodes(client, object).await?;
        }
        Some(Kind::TunnelNode) => {
            let node = name(object);
            let backends = everywhere(client, Kind::Backend).await?;
            related.backends =
                backends.into_iter().filter(|backend| nodes_of(backend).contains(&node.as_str())).collect();
        }
        Some(Kind::Project) => related.counts = counts(global, &name(object)).await?,
        Some(kind) if is_route(kind) => resolve(client, object, &mut related).await?,
        _ => {}
    }
    Ok(related)
}

/// Looks for every backend that a route names, and for the nodes behind them.
async fn resolve(client: &mut Client, route: &Value, related: &mut Related) -> Result<(), ClientError> {
    /// A route has at most 16 rules of 16 backends, and filters are not looked at.
    const BACKENDS_MAX: usize = 256;
    let home = route["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut seen = Vec::new();
    for reference in backend_refs(route).take(BACKENDS_MAX) {
        let namespace = reference["namespace"].as_str().unwrap_or(home);
        let (kind, name) = (kind_of(reference, "Service"), reference["name"].as_str().unwrap_or_default());
        let full = page::full(kind, namespace, name);
        let Some(known) = Kind::of_word(kind).filter(|_| !seen.contains(&full)) else { continue };
        match one(client, known, Some(namespace), name).await? {
            None => related.missing.push(full.clone()),
            Some(backend) if known == Kind::Backend => {
                for node in nodes(client, &backend).await? {
                    if !related.nodes.contains(&node) {
                        related.nodes.push(node);
                    }
                }
                related.backends.push(backend);
            }
            Some(_) => {}
        }
        seen.push(full);
    }
    Ok(())
}

async fn nodes(client: &mut Client, backend: &Value) -> Result<Vec<Value>, ClientError> {
    let mut nodes = Vec::new();
    for node in nodes_of(backend) {
        nodes.extend(one(client, Kind::TunnelNode, None, node).await?);
    }
    Ok(nodes)
}

/// The object, or `None` when it is not there or not ours to see.
async fn one(
    client: &mut Client,
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Option<Value>, ClientError> {
    let info = kind.info();
    match client.get(&client.path(info, info.api_versions[0], namespace, Some(name))).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.as_api().is_some_and(is_hidden) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_hidden(error: &ApiError) -> bool {
    error.is_not_found() || error.code == StatusCode::FORBIDDEN.as_u16()
}

/// How many objects of each everyday kind a project has.
async fn counts(global: &GlobalArgs, project: &str) -> anyhow::Result<Vec<(&'static str, usize)>> {
    let mut counts = Vec::new();
    let Ok(project) = project.parse() else { return Ok(counts) };
    let (mut client, _) = GlobalArgs { project: Some(project), ..global.clone() }.connect()?;
    for kind in EVERYDAY {
        let info = kind.info();
        let path = client.path(info, info.api_versions[0], None, None);
        match client.get(&format!("{path}?limit=1")).await {
            Ok(page) => {
                let metadata = &page["metadata"];
                let is_whole = metadata["continue"].as_str().unwrap_or_default().is_empty();
                let count = match metadata["remainingItemCount"].as_u64() {
                    Some(more) => {
                        list(&page["items"]).len().saturating_add(usize::try_from(more).unwrap_or(usize::MAX))
                    }
                    None if is_whole => list(&page["items"]).len(),
                    None => client.list(&path, &[]).await?.items.len(),
                };
                counts.push((info.plural, count));
            }
            Err(error) if error.as_api().is_some_and(is_hidden) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(counts)
}
