//! `underpass gateway`: gateways, the routes attached to them, and what each says of the other.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use super::{
    GatewayCommand, GlobalArgs, Outcome, RoutesCommand,
    client::Client,
    duration,
    get::{self, KindWord, ListArgs},
    print::{Console, Format, clean_line, columns, serialise},
    table::{self, cell, condition, join, name, scalar, text},
};
use crate::clock;

/// Groups under which a reference may name a Gateway; both are views of one object.
const GATEWAY_GROUPS: [&str; 2] = ["gateway.networking.k8s.io", "gateway.apoxy.dev"];

pub(crate) async fn run(
    global: &GlobalArgs,
    command: Option<GatewayCommand>,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    match command {
        None => get::run(global, &KindWord::GATEWAY, &ListArgs::default(), console).await,
        Some(GatewayCommand::List(list)) => get::run(global, &KindWord::GATEWAY, &list, console).await,
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
    output: Format,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let gateway = object(&mut client, Kind::Gateway, &namespace, name).await?;
    if print_plainly(&gateway, Kind::Gateway, output, console)? {
        return Ok(Outcome::Done);
    }
    let info = Kind::HttpRoute.info();
    let list = client.get(&client.path(info, info.api_versions[0], None, None)).await?;
    console.warn(&client.take_warnings())?;
    let routes = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    write!(console.out, "{}", describe_gateway(&gateway, routes))?;
    Ok(Outcome::Done)
}

async fn list_routes(global: &GlobalArgs, list: &ListArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let mut list = list.clone();
    for name in &mut list.names {
        *name = http_name(name)?.to_owned();
    }
    if !matches!(list.output, Format::Table | Format::Wide) {
        return get::run(global, &KindWord { kind: Kind::HttpRoute, name: None }, &list, console).await;
    }
    let (mut client, namespace) = global.connect()?;
    let scope = (!list.all_namespaces).then_some(namespace.as_str());
    let found = get::read(&mut client, Kind::HttpRoute.info(), scope, &list.names).await?;
    console.warn(&client.take_warnings())?;
    if !found.objects.is_empty() {
        write!(console.out, "{}", routes_table(&found.objects, list.all_namespaces))?;
    } else if list.names.is_empty() {
        console.note(&match scope {
            Some(namespace) => format!("No routes found in {namespace} namespace."),
            None => "No routes found.".to_owned(),
        })?;
    }
    found.errors.iter().for_each(|error| console.complain(error));
    Ok(if found.errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

async fn show_route(
    global: &GlobalArgs,
    route: &str,
    output: Format,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let name = http_name(route)?;
    let (mut client, namespace) = global.connect()?;
    let route = object(&mut client, Kind::HttpRoute, &namespace, name).await?;
    console.warn(&client.take_warnings())?;
    if !print_plainly(&route, Kind::HttpRoute, output, console)? {
        write!(console.out, "{}", describe_route(&route))?;
    }
    Ok(Outcome::Done)
}

async fn object(client: &mut Client, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let info = kind.info();
    Ok(client.get(&client.path(info, info.api_versions[0], Some(namespace), Some(name))).await?)
}

/// Prints the formats that are not for people; false when the caller has to print a table.
fn print_plainly(object: &Value, kind: Kind, output: Format, console: &mut Console<'_>) -> anyhow::Result<bool> {
    match output {
        Format::Table | Format::Wide => return Ok(false),
        Format::Name => console.say(&get::full_name(kind.info(), text(&object["apiVersion"]), &name(object)))?,
        Format::Json | Format::Yaml => write!(console.out, "{}", serialise(vec![object.clone()], false, output)?)?,
    }
    Ok(true)
}

/// The name in `http/NAME` or `NAME`.
fn http_name(route: &str) -> anyhow::Result<&str> {
    match route.split_once('/') {
        None | Some(("http" | "httproute" | "httproutes", _)) if !route.ends_with('/') => {
            Ok(route.split_once('/').map_or(route, |(_, name)| name))
        }
        Some((kind @ ("tcp" | "tls" | "grpc" | "udp"), _)) => {
            anyhow::bail!("{} routes are not served yet: only http/NAME is", kind.to_uppercase())
        }
        _ => anyhow::bail!("`{route}` names no route: write http/NAME"),
    }
}

/// The gateway, its listeners, and a table of every attached route with its conditions.
fn describe_gateway(gateway: &Value, routes: &[Value]) -> String {
    let (spec, status) = (&gateway["spec"], &gateway["status"]);
    let namespace = text(&gateway["metadata"]["namespace"]);
    let mut page = headline("Gateway", gateway);
    page += &field("Class", &cell(&spec["gatewayClassName"]));
    page += &field("Addresses", &join(&status["addresses"], |address| scalar(&address["value"])));
    page += &conditions_field(&status["conditions"]);

    let states = status["listeners"].as_array().map_or(&[][..], Vec::as_slice);
    let listeners = spec["listeners"].as_array().into_iter().flatten().map(|listener| {
        let none = Value::Null;
        let state = states.iter().find(|state| state["name"] == listener["name"]).unwrap_or(&none);
        let hostname = if listener["hostname"].is_string() { text(&listener["hostname"]) } else { "*" };
        vec![
            scalar(&listener["name"]),
            cell(&listener["port"]),
            cell(&listener["protocol"]),
            hostname.to_owned(),
            cell(&state["attachedRoutes"]),
            condition(&state["conditions"], "Programmed"),
        ]
    });
    page += "\nListeners:\n";
    page += &columns(&["NAME", "PORT", "PROTOCOL", "HOSTNAME", "ROUTES", "PROGRAMMED"], &listeners.collect::<Vec<_>>());

    let mut rows = Vec::new();
    for route in routes {
        for (reference, conditions) in parents(route) {
            if !is_gateway(reference, route, namespace, &name(gateway)) {
                continue;
            }
            let mut row = vec![
                format!("HTTPRoute {}", route_name(route, namespace)),
                table::hostnames(route),
                listener_of(reference),
                table::backends(route),
            ];
            row.extend(verdict(conditions));
            rows.push(row);
        }
    }
    if rows.is_empty() {
        page += &format!("\nAttached routes: none (a route attaches with parentRefs: [{{name: {}}}])\n", name(gateway));
        return clean_page(&page);
    }
    page += "\nAttached routes:\n";
    let header = ["ROUTE", "HOSTNAMES", "LISTENER", "BACKENDS", "ACCEPTED", "RESOLVED", "MESSAGE"];
    clean_page(&(page + &columns(&header, &rows)))
}

/// The route, its rules, and what each gateway says of it.
fn describe_route(route: &Value) -> String {
    let mut page = headline("HTTPRoute", route);
    page += &field("Hostnames", &table::hostnames(route));

    let mut rows = Vec::new();
    for (index, rule) in route["spec"]["rules"].as_array().into_iter().flatten().enumerate() {
        let matches = match rule["matches"].as_array() {
            Some(matches) if !matches.is_empty() => matches.iter().map(match_text).collect(),
            _ => vec!["PathPrefix /".to_owned()],
        };
        let backends = join(&rule["backendRefs"], |reference| {
            let weight = reference["weight"].as_u64().filter(|weight| *weight != 1);
            let kind = reference["kind"].as_str().unwrap_or("Service");
            let weight = weight.map(|weight| format!(" (weight {weight})")).unwrap_or_default();
            format!("{kind} {}{weight}", table::backend_of(reference))
        });
        for (position, line) in matches.into_iter().enumerate() {
            let number = if position == 0 { (index + 1).to_string() } else { "or".to_owned() };
            rows.push(vec![number, line, if position == 0 { backends.clone() } else { String::new() }]);
        }
    }
    page += "\nRules:\n";
    page += &columns(&["RULE", "MATCH", "BACKENDS"], &rows);

    let rows: Vec<Vec<String>> = parents(route)
        .map(|(reference, conditions)| {
            let mut row = vec![table::gateway_of(reference)];
            row.extend(verdict(conditions));
            row
        })
        .collect();
    page += "\nGateways:\n";
    clean_page(&(page + &columns(&["GATEWAY", "ACCEPTED", "RESOLVED", "MESSAGE"], &rows)))
}

fn routes_table(routes: &[Value], has_namespaces: bool) -> String {
    let mut header = vec!["ROUTE", "HOSTNAMES", "GATEWAYS", "BACKENDS", "ACCEPTED", "RESOLVED", "AGE"];
    if has_namespaces {
        header.insert(0, "NAMESPACE");
    }
    let rows: Vec<Vec<String>> = routes
        .iter()
        .map(|route| {
            let mut row = vec![
                format!("http/{}", name(route)),
                table::hostnames(route),
                join(&route["spec"]["parentRefs"], table::gateway_of),
                table::backends(route),
                table::over_parents(route, "Accepted"),
                table::over_parents(route, "ResolvedRefs"),
                duration::age(text(&route["metadata"]["creationTimestamp"]), clock::now()),
            ];
            if has_namespaces {
                row.insert(0, text(&route["metadata"]["namespace"]).to_owned());
            }
            row
        })
        .collect();
    columns(&header, &rows)
}

/// Every parent that the route names, with the conditions that its status has for it.
fn parents(route: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    const IDENTITY: [&str; 4] = ["name", "namespace", "sectionName", "port"];
    let namespace = &route["metadata"]["namespace"];
    let part = move |reference: &Value, field: &str| match &reference[field] {
        Value::Null if field == "namespace" => namespace.clone(),
        value => value.clone(),
    };
    let states = route["status"]["parents"].as_array().map_or(&[][..], Vec::as_slice);
    route["spec"]["parentRefs"].as_array().into_iter().flatten().map(move |reference| {
        let is_same =
            |state: &&Value| IDENTITY.iter().all(|field| part(&state["parentRef"], field) == part(reference, field));
        (reference, states.iter().find(is_same).map_or(&Value::Null, |state| &state["conditions"]))
    })
}

fn is_gateway(reference: &Value, route: &Value, namespace: &str, name: &str) -> bool {
    let or = |field: &str, default| reference[field].as_str().unwrap_or(default);
    GATEWAY_GROUPS.contains(&or("group", GATEWAY_GROUPS[0]))
        && or("kind", "Gateway") == "Gateway"
        && or("namespace", text(&route["metadata"]["namespace"])) == namespace
        && or("name", "") == name
}

/// `NAME`, or `NAMESPACE/NAME` when the route lives elsewhere than its gateway.
fn route_name(route: &Value, namespace: &str) -> String {
    match text(&route["metadata"]["namespace"]) {
        own if own.is_empty() || own == namespace => name(route),
        own => format!("{own}/{}", name(route)),
    }
}

fn listener_of(reference: &Value) -> String {
    match (reference["sectionName"].as_str(), reference["port"].as_u64()) {
        (Some(section), _) => section.to_owned(),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "all".to_owned(),
    }
}

/// Accepted, resolved, and why not.
fn verdict(conditions: &Value) -> [String; 3] {
    [condition(conditions, "Accepted"), condition(conditions, "ResolvedRefs"), table::complaints(conditions)]
}

fn match_text(of: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(method) = of["method"].as_str() {
        parts.push(method.to_owned());
    }
    let path = &of["path"];
    let kind = path["type"].as_str().unwrap_or("PathPrefix");
    parts.push(format!("{kind} {}", path["value"].as_str().unwrap_or("/")));
    for (field, word) in [("headers", "header"), ("queryParams", "query")] {
        for value in of[field].as_array().into_iter().flatten() {
            let operator = if value["type"] == "RegularExpression" { "~" } else { "=" };
            parts.push(format!("{word} {}{operator}{}", scalar(&value["name"]), scalar(&value["value"])));
        }
    }
    parts.join(", ")
}

fn headline(kind: &str, object: &Value) -> String {
    let metadata = &object["metadata"];
    let age = duration::age(text(&metadata["creationTimestamp"]), clock::now());
    let mut page = field(kind, &name(object));
    page += &field("Namespace", &cell(&metadata["namespace"]));
    page + &field("Age", &age)
}

fn conditions_field(conditions: &Value) -> String {
    let mut page = String::new();
    for (index, found) in conditions.as_array().into_iter().flatten().enumerate() {
        let kind = text(&found["type"]);
        let message = if found["status"] == "True" { "" } else { text(&found["message"]) };
        let title = if index == 0 { "Conditions" } else { "" };
        page += &field(title, format!("{kind}={} {message}", condition(conditions, kind)).trim_end());
    }
    page
}

fn field(title: &str, value: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("{title}:") };
    format!("{title:12}{}\n", clean_line(value))
}

fn clean_page(page: &str) -> String {
    super::print::clean(page)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::cli::testing::Relay;

    fn conditions(accepted: &str, reason: &str, message: &str) -> Value {
        json!([{"type": "Accepted", "status": accepted, "reason": reason, "message": message},
               {"type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "fine"}])
    }

    fn gateway() -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "default", "namespace": "default"},
            "spec": {"gatewayClassName": "default", "listeners": [
                {"name": "http", "port": 80, "protocol": "HTTP"},
                {"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "*.example.com"}]},
            "status": {"addresses": [{"type": "IPAddress", "value": "0.0.0.0"}],
                "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted"},
                               {"type": "Programmed", "status": "False", "reason": "AddressNotUsable", "message": "port 443 is taken"}],
                "listeners": [{"name": "http", "attachedRoutes": 2, "conditions": [{"type": "Programmed", "status": "True"}]}]}})
    }

    fn routes() -> [Value; 4] {
        let route = |name: &str, namespace: &str, parents: Value, status: Value| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"parentRefs": parents, "hostnames": ["api.example.com"], "rules": [
                    {"matches": [{"path": {"type": "Exact", "value": "/v1"}, "method": "GET",
                                  "headers": [{"name": "x-a", "value": "b", "type": "Exact"}]},
                                 {"queryParams": [{"name": "q", "value": ".*", "type": "RegularExpression"}]}],
                     "backendRefs": [{"kind": "Backend", "name": "be", "port": 8080, "weight": 90}, {"kind": "Backend", "name": "c", "port": 1, "weight": 1}]},
                    {"backendRefs": [{"name": "svc", "port": 80}]}]},
                "status": {"parents": status}})
        };
        [
            route(
                "api-route",
                "default",
                json!([{"name": "default"}]),
                json!([{"parentRef": {"name": "default", "namespace": "default"}, "conditions": conditions("True", "Accepted", "")}]),
            ),
            route(
                "far",
                "shop",
                json!([{"group": "gateway.apoxy.dev", "kind": "Gateway", "name": "default", "namespace": "default", "sectionName": "http"}]),
                json!([{"parentRef": {"name": "default", "namespace": "default", "sectionName": "http"},
                        "conditions": conditions("False", "NotAllowedByListeners", "routes of other\n\u{1b}[2Jnamespaces")}]),
            ),
            route("other", "shop", json!([{"name": "default"}]), json!([])),
            route("another", "default", json!([{"name": "eg"}]), json!([])),
        ]
    }

    #[test]
    fn a_gateway_is_shown_with_every_attached_route() {
        assert_eq!(
            describe_gateway(&gateway(), &routes()),
            "\
Gateway:    default
Namespace:  default
Age:        -
Class:      default
Addresses:  0.0.0.0
Conditions: Accepted=True
            Programmed=False (AddressNotUsable) port 443 is taken

Listeners:
NAME    PORT   PROTOCOL   HOSTNAME        ROUTES   PROGRAMMED
http    80     HTTP       *               2        True
https   443    HTTPS      *.example.com   -        -

Attached routes:
ROUTE                 HOSTNAMES         LISTENER   BACKENDS             ACCEPTED                        RESOLVED   MESSAGE
HTTPRoute api-route   api.example.com   all        be:8080,c:1,svc:80   True                            True
HTTPRoute shop/far    api.example.com   http       be:8080,c:1,svc:80   False (NotAllowedByListeners)   True       routes of other [2Jnamespaces
"
        );
        assert!(
            describe_gateway(&gateway(), &[])
                .ends_with("Attached routes: none (a route attaches with parentRefs: [{name: default}])\n")
        );
    }

    #[test]
    fn a_route_is_shown_with_its_rules_and_gateways() {
        assert_eq!(
            describe_route(&routes()[0]),
            "\
HTTPRoute:  api-route
Namespace:  default
Age:        -
Hostnames:  api.example.com

Rules:
RULE   MATCH                          BACKENDS
1      GET, Exact /v1, header x-a=b   Backend be:8080 (weight 90),Backend c:1
or     PathPrefix /, query q~.*
2      PathPrefix /                   Service svc:80

Gateways:
GATEWAY   ACCEPTED   RESOLVED   MESSAGE
default   True       True
"
        );
    }

    #[test]
    fn pages_of_arbitrary_objects_are_made() {
        for odd in [
            json!(null),
            json!({}),
            json!([]),
            json!({"spec": {"parentRefs": [1], "rules": [1, {"matches": [1]}], "listeners": [1]}}),
        ] {
            assert!(describe_gateway(&odd, std::slice::from_ref(&odd)).contains("Listeners:"));
            assert!(describe_route(&odd).contains("Rules:"));
        }
    }

    #[tokio::test]
    async fn the_commands_of_the_guide_work() {
        let relay = Relay::start().await;
        relay.put("/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/default", &gateway());
        for route in routes() {
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
    async fn routes_of_other_types_are_said_not_to_be_served() {
        let relay = Relay::start().await;
        for (route, want) in [
            ("tcp/x", "error: TCP routes are not served yet: only http/NAME is\n"),
            ("grpc/x", "error: GRPC routes are not served yet: only http/NAME is\n"),
            ("ftp/x", "error: `ftp/x` names no route: write http/NAME\n"),
            ("http/", "error: `http/` names no route: write http/NAME\n"),
            ("http/nobody", "error: httproutes \"nobody\" not found\n"),
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
