//! `underpass gateway`: gateways, and the routes of every kind that are attached to them.
//!
//! Reads the objects; how they look is for `pages`.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use super::{
    GatewayCommand, GlobalArgs, Outcome, RoutesCommand,
    client::{Client, ClientError},
    fields::{ROUTES, is_route},
    get::{self, ListArgs},
    kinds::KindWord,
    pages,
    print::{Console, Output, columns},
    status::ApiError,
};
use crate::clock;

pub(crate) async fn run(
    global: &GlobalArgs,
    command: Option<GatewayCommand>,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let gateways = KindWord::of(Kind::Gateway);
    match command {
        None => get::list(global, &gateways, &ListArgs::default(), console).await,
        Some(GatewayCommand::List(list)) => get::list(global, &gateways, &list, console).await,
        Some(GatewayCommand::Get { name, output }) => show_gateway(global, &name, output, console).await,
        Some(GatewayCommand::Routes { command }) => match command {
            None => list_routes(global, &ListArgs::default(), console).await,
            Some(RoutesCommand::List(list)) => list_routes(global, &list, console).await,
            Some(RoutesCommand::Get { route, output }) => show_route(global, &route, output, console).await,
        },
    }
}

async fn show_gateway(
    global: &GlobalArgs,
    name: &str,
    output: Output,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let gateway = object(&mut client, Kind::Gateway, &namespace, name).await?;
    if matches!(output, Output::Table | Output::Wide) {
        let sets = everywhere(&mut client, Kind::ListenerSet).await?;
        let routes = all_routes(&mut client).await?;
        write!(console.out, "{}", pages::gateway(&gateway, &sets, &routes, clock::now()))?;
    } else {
        get::print_one(gateway, output, console)?;
    }
    console.warn(&client.take_warnings())?;
    Ok(Outcome::Done)
}

async fn list_routes(global: &GlobalArgs, list: &ListArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let words = match list.names.as_slice() {
        [] => ROUTES.iter().map(|(kind, _)| KindWord::of(*kind)).collect(),
        names => names.iter().map(|name| route_word(name)).collect::<anyhow::Result<Vec<_>>>()?,
    };
    let show = &list.show;
    if !show.is_page() {
        return get::show_words(global, &words, show, console).await;
    }
    let (mut client, namespace) = global.connect()?;
    let found = get::read(&mut client, &words, (!show.all_namespaces).then_some(&namespace), &show.selection()).await?;
    console.warn(&client.take_warnings())?;
    if !found.objects.is_empty() {
        let (header, rows) = pages::routes(&found.objects, show.all_namespaces, clock::now());
        write!(console.out, "{}", columns(&header, &rows))?;
    } else if list.names.is_empty() {
        console.note(&if show.all_namespaces {
            "No routes found.".to_owned()
        } else {
            format!("No routes found in {namespace} namespace.")
        })?;
    }
    found.errors.iter().for_each(|error| console.complain(error));
    Ok(if found.errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn show_route(
    global: &GlobalArgs,
    route: &str,
    output: Output,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let word = route_word(route)?;
    let (mut client, namespace) = global.connect()?;
    let route = object(&mut client, word.kind, &namespace, word.name.as_deref().unwrap_or_default()).await?;
    console.warn(&client.take_warnings())?;
    if matches!(output, Output::Table | Output::Wide) {
        write!(console.out, "{}", pages::route(&route, clock::now()))?;
    } else {
        get::print_one(route, output, console)?;
    }
    Ok(Outcome::Done)
}

async fn object(client: &mut Client, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let found =
        get::read(client, &[KindWord { name: Some(name.to_owned()), ..KindWord::of(kind) }], Some(namespace), &[])
            .await?;
    match (found.objects.into_iter().next(), found.errors.into_iter().next()) {
        (Some(object), _) => Ok(object),
        (None, error) => anyhow::bail!(error.unwrap_or_default()),
    }
}

/// The routes of all kinds in all namespaces.
pub(crate) async fn all_routes(client: &mut Client) -> Result<Vec<Value>, ClientError> {
    let mut routes = Vec::new();
    for (kind, _) in ROUTES {
        routes.extend(everywhere(client, kind).await?);
    }
    Ok(routes)
}

/// The objects of a kind in all namespaces; none when the relay does not serve the kind.
pub(crate) async fn everywhere(client: &mut Client, kind: Kind) -> Result<Vec<Value>, ClientError> {
    match get::read(client, &[KindWord::of(kind)], None, &[]).await {
        Ok(found) => Ok(found.objects),
        Err(error) if error.as_api().is_some_and(ApiError::is_not_found) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `http/NAME`, `grpc/NAME`…, or NAME alone for an HTTPRoute.
fn route_word(route: &str) -> anyhow::Result<KindWord> {
    let (word, name) = route.split_once('/').unwrap_or(("http", route));
    let short = ROUTES.iter().find(|(_, short)| *short == word).map(|(kind, _)| KindWord::of(*kind));
    let long = || word.parse::<KindWord>().ok().filter(|word| is_route(word.kind));
    match short.or_else(long).filter(|_| !name.is_empty()) {
        Some(word) => Ok(KindWord { name: Some(name.to_owned()), ..word }),
        None => anyhow::bail!("`{route}` names no route: write http/NAME, grpc/NAME, tls/NAME, tcp/NAME or udp/NAME"),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use crate::cli::{
        pages::tests::{sample_gateway, sample_routes},
        print::text,
        testing::Relay,
    };

    #[tokio::test]
    async fn the_commands_of_the_guide_work() {
        let relay = Relay::start().await;
        relay.put("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/default", &sample_gateway());
        for route in sample_routes() {
            let metadata = &route["metadata"];
            relay.put(
                &format!(
                    "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes/{}",
                    text(&metadata["namespace"]),
                    text(&metadata["name"])
                ),
                &route,
            );
        }
        let page = relay.ok("gateway get default").await;
        assert!(
            page.contains("HTTPRoute api-route") && page.contains("HTTPRoute shop/far") && !page.contains("another"),
            "{page}"
        );
        assert!(
            relay
                .ok("gateway get default -o yaml")
                .await
                .starts_with("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n")
        );
        assert_eq!(relay.ok("gateway list -o name").await, "gateway.gateway.networking.k8s.io/default\n");
        assert_eq!(relay.ok("gateway").await, relay.ok("get gateways").await);
        let list = relay.ok("gateway routes list").await;
        assert!(list.contains("http/api-route") && list.contains("http/another") && !list.contains("far"), "{list}");
        assert!(relay.ok("gateway routes list -A").await.contains("shop        http/far"));
        assert!(relay.ok("gateway routes get http/api-route").await.starts_with("HTTPRoute:  api-route\n"));
        assert_eq!(
            relay.ok("gateway routes get far -n shop -o name").await,
            "httproute.gateway.networking.k8s.io/far\n"
        );
        assert_eq!(relay.run("gateway routes list -n empty", "").await.err, "No routes found in empty namespace.\n");
    }

    #[tokio::test]
    async fn what_names_no_route_is_refused() {
        let relay = Relay::start().await;
        for (route, want) in [
            ("ftp/x", "error: `ftp/x` names no route: write http/NAME, grpc/NAME, tls/NAME, tcp/NAME or udp/NAME\n"),
            ("http/", "error: `http/` names no route: write http/NAME, grpc/NAME, tls/NAME, tcp/NAME or udp/NAME\n"),
            ("udp/nobody", "error: udproutes \"nobody\" not found\n"),
        ] {
            assert_eq!(relay.run(&format!("gateway routes get {route}"), "").await.err, want);
        }
        relay.refuse(
            "GET",
            "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/x",
            StatusCode::FORBIDDEN,
            &json!({"kind": "Status", "message": "agents may not"}),
        );
        assert_eq!(relay.run("gateway get x", "").await.err, "error: agents may not\n");
    }
}
