//! What objects of the kinds that are served may say, as upstream has it, and the relay does not act on yet.
//!
//! A field that was silently ignored could expose what it was meant to protect, so each says here what happens instead:
//! the part that it stands in is not served, or it is served and the status mentions the field.

use serde_json::Value;
use underpass_shared::resource::kind::Kind;

/// The most paths that are named of one object; more would only make its status long.
pub const PATHS_MAX: usize = 16;

/// The most fields that are found in one object, above what the bounds of any kind allow.
///
/// An object that had more would not be served at all.
const FOUND_MAX: usize = 4096;

/// The longest text of a user's that a path quotes, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// What becomes of the part that a field stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is served without the field, which does nothing that anybody would miss.
    Harmless,
    /// It is not served; the condition `Accepted` is False for this reason.
    Stops(&'static str),
}

/// A field of an object that is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unserved {
    /// From the object's root, such as `spec.rules[0].filters`; with the value where the value is what is not served.
    pub path: String,
    /// The place in the first list of the path.
    pub item: Option<usize>,
    pub effect: Effect,
}

/// A row of the tables below.
#[derive(Debug)]
struct Row {
    /// `[]` follows each list.
    path: &'static str,
    values: Values,
    effect: Effect,
}

/// Which values of a field are not served.
#[derive(Debug)]
enum Values {
    /// Whatever stands there, but for nothing and an empty list.
    Any,
    Exactly(bool),
    OtherThan(&'static [&'static str]),
}

const fn stops(path: &'static str, reason: &'static str) -> Row {
    Row { path, values: Values::Any, effect: Effect::Stops(reason) }
}

const fn only(path: &'static str, served: &'static [&'static str], reason: &'static str) -> Row {
    Row { path, values: Values::OtherThan(served), effect: Effect::Stops(reason) }
}

const fn harmless(path: &'static str) -> Row {
    Row { path, values: Values::Any, effect: Effect::Harmless }
}

/// The reason for values and fields that a part cannot be served with, of routes and listeners (Gateway API).
const VALUE: &str = "UnsupportedValue";
/// The reason of Gateways and classes for parameters that are not understood.
const PARAMETERS: &str = "InvalidParameters";

const FILTERS: &[&str] = &[
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "RequestMirror",
    "RequestRedirect",
    "URLRewrite",
    "CORS",
    "ExtensionRef",
];

const HTTP_ROUTE: &[Row] = &[
    only("spec.useDefaultGateways", &["None"], VALUE),
    only("spec.rules[].filters[].type", FILTERS, VALUE),
    only("spec.rules[].backendRefs[].filters[].type", FILTERS, VALUE),
];

const GRPC_ROUTE: &[Row] = &[
    only("spec.useDefaultGateways", &["None"], VALUE),
    only("spec.rules[].filters[].type", FILTERS, VALUE),
    only("spec.rules[].backendRefs[].filters[].type", FILTERS, VALUE),
];

/// Fields of a listener stop that listener; the others, the whole Gateway.
const GATEWAY: &[Row] = &[
    stops("spec.listeners[].tls.options", VALUE),
    stops("spec.backendTLS", "Invalid"),
    only("spec.infrastructure.parametersRef.kind", &["Proxy"], PARAMETERS),
    only("spec.infrastructure.parametersRef.group", &["core.apoxy.dev"], PARAMETERS),
    // Routes that want to attach in this way are told so themselves.
    Row { path: "spec.defaultScope", values: Values::OtherThan(&["None"]), effect: Effect::Harmless },
];

/// Each stops its listener.
const LISTENER_SET: &[Row] = &[stops("spec.listeners[].tls.options", VALUE)];

const STREAM_ROUTE: &[Row] = &[only("spec.useDefaultGateways", &["None"], VALUE)];

const GATEWAY_CLASS: &[Row] = &[
    only("spec.parametersRef.kind", &["Proxy"], PARAMETERS),
    only("spec.parametersRef.group", &["core.apoxy.dev"], PARAMETERS),
];

const BACKEND: &[Row] = &[only("spec.protocol", &["", "plain", "h2c", "tls", "h2"], VALUE)];

/// No option is defined; one that tightens TLS elsewhere is missed here, and nothing is opened by it.
const BACKEND_TLS_POLICY: &[Row] = &[harmless("spec.options")];

/// What protects a backend stops the policy; without the others requests are served all the same.
const BACKEND_TRAFFIC_POLICY: &[Row] = &[
    stops("spec.rateLimit", VALUE),
    stops("spec.circuitBreaker.maxRequestsPerConnection", VALUE),
    harmless("spec.timeout.http.connectionIdleTimeout"),
    harmless("spec.timeout.http.maxConnectionDuration"),
    harmless("spec.timeout.http.maxStreamDuration"),
    harmless("spec.retry.numAttemptsPerPriority"),
    harmless("spec.retry.perRetry.backOff.maxInterval"),
    harmless("spec.faultInjection"),
    harmless("spec.connection"),
    Row { path: "spec.useClientProtocol", values: Values::Exactly(true), effect: Effect::Harmless },
];

/// What protects stops the policy; without the others requests are served all the same.
const CLIENT_TRAFFIC_POLICY: &[Row] = &[
    only("spec.tls.minVersion", &["Auto", "1.2", "1.3"], VALUE),
    only("spec.tls.maxVersion", &["Auto", "1.2", "1.3"], VALUE),
    stops("spec.tls.signatureAlgorithms", VALUE),
    stops("spec.path", VALUE),
    stops("spec.headers.xForwardedClientCert", VALUE),
    stops("spec.headers.withUnderscoresAction", VALUE),
    stops("spec.headers.requestID", VALUE),
    stops("spec.headers.earlyRequestHeaders", VALUE),
    stops("spec.headers.lateResponseHeaders", VALUE),
    Row { path: "spec.headers.enableEnvoyHeaders", values: Values::Exactly(true), effect: Effect::Harmless },
    harmless("spec.connection.bufferLimit"),
    harmless("spec.connection.maxAcceptPerSocketEvent"),
    Row { path: "spec.http1.preserveHeaderCase", values: Values::Exactly(true), effect: Effect::Harmless },
    harmless("spec.http1.http10"),
    Row { path: "spec.http1.enableTrailers", values: Values::Exactly(false), effect: Effect::Harmless },
    Row {
        path: "spec.http2.onInvalidMessage",
        values: Values::OtherThan(&["TerminateStream"]),
        effect: Effect::Harmless,
    },
    stops("spec.healthCheck", VALUE),
    harmless("spec.scheme"),
];

/// Without these a node offers less and nobody gets in further: each has a condition of its own.
const TUNNEL_NODE: &[Row] =
    &[harmless("spec.routes"), harmless("spec.allowFrom[].gateway"), harmless("spec.defaultUpstream")];

const PROXY: &[Row] = &[only("spec.provider", &["unmanaged"], VALUE), stops("spec.telemetry", VALUE)];

const PROJECT: &[Row] = &[harmless("spec.hostnameSuffix")];

fn rows(kind: Kind) -> &'static [Row] {
    match kind {
        Kind::HttpRoute => HTTP_ROUTE,
        Kind::GrpcRoute => GRPC_ROUTE,
        Kind::Gateway => GATEWAY,
        Kind::ListenerSet => LISTENER_SET,
        Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => STREAM_ROUTE,
        Kind::GatewayClass => GATEWAY_CLASS,
        Kind::Backend => BACKEND,
        Kind::BackendTlsPolicy => BACKEND_TLS_POLICY,
        Kind::BackendTrafficPolicy => BACKEND_TRAFFIC_POLICY,
        Kind::ClientTrafficPolicy => CLIENT_TRAFFIC_POLICY,
        Kind::TunnelNode => TUNNEL_NODE,
        Kind::Proxy => PROXY,
        Kind::Project => PROJECT,
        _ => &[],
    }
}

/// What `object`, a whole object of `kind`, says that is not served. Total.
#[must_use]
pub fn find(kind: Kind, object: &Value) -> Vec<Unserved> {
    let mut found = Vec::new();
    for row in rows(kind) {
        walk(object, row.path, &mut Walk { path: String::new(), item: None, row }, &mut found);
    }
    if found.len() >= FOUND_MAX {
        found.push(Unserved { path: "too many fields".to_owned(), item: None, effect: Effect::Stops(VALUE) });
    }
    found
}

/// The paths of [`find`], the first [`PATHS_MAX`] of them.
#[must_use]
pub fn unserved(kind: Kind, object: &Value) -> Vec<String> {
    find(kind, object).into_iter().take(PATHS_MAX).map(|field| field.path).collect()
}

/// What to tell somebody who writes `object`, for `Warning` headers; empty when all of it is served.
#[must_use]
pub fn warnings(kind: Kind, object: &Value) -> Vec<String> {
    if super::unbuilt::is_unbuilt(kind) {
        return vec![super::unbuilt::message(kind)];
    }
    unserved(kind, object).into_iter().map(|path| format!("{path} is stored but not served yet")).collect()
}

/// `not served yet: PATHS`, for a condition's message.
pub(super) fn sentence<'a>(found: impl IntoIterator<Item = &'a Unserved>) -> String {
    let paths: Vec<&str> = found.into_iter().map(|field| field.path.as_str()).collect();
    let named = paths[..paths.len().min(PATHS_MAX)].join(", ");
    match paths.len().saturating_sub(PATHS_MAX) {
        0 => format!("not served yet: {named}"),
        more => format!("not served yet: {named} and {more} more"),
    }
}

struct Walk {
    path: String,
    item: Option<usize>,
    row: &'static Row,
}

fn walk(value: &Value, rest: &'static str, at: &mut Walk, found: &mut Vec<Unserved>) {
    if found.len() >= FOUND_MAX {
        return;
    }
    let (step, below) = rest.split_once('.').map_or((rest, None), |(step, below)| (step, Some(below)));
    let name = step.trim_end_matches("[]");
    let Some(value) = value.get(name) else { return };
    let length = at.path.len();
    at.path.push_str(if length == 0 { "" } else { "." });
    at.path.push_str(name);
    match (below, name == step) {
        (None, _) => found.extend(at.judge(value)),
        (Some(below), true) => walk(value, below, at, found),
        (Some(below), false) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                let (length, outer) = (at.path.len(), at.item);
                at.path.push_str(&format!("[{index}]"));
                at.item = outer.or(Some(index));
                walk(item, below, at, found);
                at.path.truncate(length);
                at.item = outer;
            }
        }
    }
    at.path.truncate(length);
}

impl Walk {
    fn judge(&self, value: &Value) -> Option<Unserved> {
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let path = match (&self.row.values, value) {
            (Values::Any, _) if is_empty => return None,
            (Values::Exactly(wanted), value) if *value != Value::Bool(*wanted) => return None,
            (Values::Any | Values::Exactly(_), _) => self.path.clone(),
            (Values::OtherThan(served), Value::String(text)) if served.contains(&text.as_str()) => return None,
            (Values::OtherThan(_), Value::String(text)) => format!("{} ({})", self.path, quoted(text)),
            (Values::OtherThan(_), _) if is_empty => return None,
            (Values::OtherThan(_), _) => self.path.clone(),
        };
        Some(Unserved { path, item: self.item, effect: self.row.effect })
    }
}

/// A user's text, short and without control characters.
fn quoted(text: &str) -> String {
    let mut escaped: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: Kind, spec: &Value, want: &[&str]) {
        assert_eq!(unserved(kind, &json!({ "spec": spec })), want, "{kind:?} {spec}");
    }

    #[test]
    fn what_a_route_says_in_vain_is_found_with_its_place() {
        let backend = json!({"kind": "Backend", "name": "b", "port": 1, "weight": 1});
        check(Kind::HttpRoute, &json!({"rules": [{"matches": [{}], "backendRefs": [backend]}]}), &[]);
        check(
            Kind::HttpRoute,
            &json!({"rules": [{"filters": [], "timeouts": null}], "useDefaultGateways": "None"}),
            &[],
        );
        let filter = json!([{"type": "CORS"}, {"type": "ExternalAuth"}]);
        let spec = json!({
            "useDefaultGateways": "All",
            "rules": [
                {"filters": filter},
                {"timeouts": {"request": "1s"}, "retry": {}, "backendRefs": [{}, {"filters": filter}]},
                {"filters": [{"type": "ExternalAuth"}]},
            ],
        });
        let want = [
            "spec.useDefaultGateways (All)",
            "spec.rules[0].filters[1].type (ExternalAuth)",
            "spec.rules[2].filters[0].type (ExternalAuth)",
            "spec.rules[1].backendRefs[1].filters[1].type (ExternalAuth)",
        ];
        check(Kind::HttpRoute, &spec, &want);
    }

    #[test]
    fn what_a_gateway_says_in_vain_is_found() {
        let listener = json!({
            "name": "a", "port": 443, "protocol": "HTTPS", "tls": {"mode": "Terminate"},
            "allowedRoutes": {"namespaces": {"from": "Same"}, "kinds": [
                {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}
            ]},
        });
        let plain = json!({"listeners": [listener], "allowedListeners": {"namespaces": {"from": "None"}}});
        check(Kind::Gateway, &plain, &[]);
        let spec = json!({
            "listeners": [
                listener,
                {"protocol": "TLS", "tls": {"mode": "Passthrough", "options": {"a/b": "c"}}},
                {"protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]}},
            ],
            "addresses": [{"value": "192.0.2.1"}],
            "tls": {"frontend": {}},
            "infrastructure": {"labels": {"a": "b"}, "parametersRef": {"group": "x", "kind": "Proxy", "name": "p"}},
            "allowedListeners": {"namespaces": {"from": "All"}},
            "defaultScope": "All",
        });
        let want =
            ["spec.listeners[1].tls.options", "spec.infrastructure.parametersRef.group (x)", "spec.defaultScope (All)"];
        check(Kind::Gateway, &spec, &want);
        assert_eq!(find(Kind::Gateway, &json!({ "spec": spec }))[0].item, Some(1), "the listener, not what is in it");
    }

    #[test]
    fn the_other_kinds_say_what_they_say_in_vain() {
        check(Kind::Backend, &json!({"protocol": "h2c"}), &[]);
        check(Kind::Backend, &json!({"protocol": "smtp", "dynamicProxy": {}}), &["spec.protocol (smtp)"]);
        check(Kind::TunnelNode, &json!({"egressGateway": {"enabled": false}, "routes": []}), &[]);
        let node = json!({"egressGateway": {"enabled": true}, "routes": ["10.0.0.0/8"], "defaultUpstream": "a:1"});
        check(Kind::TunnelNode, &node, &["spec.routes", "spec.defaultUpstream"]);
        let admits = json!({"allowFrom": [{"node": "a", "ports": [80]}, {"gateway": "default"}]});
        check(Kind::TunnelNode, &admits, &["spec.allowFrom[1].gateway"]);
        check(Kind::ClientTrafficPolicy, &json!({"http1": {"enableTrailers": true, "preserveHeaderCase": false}}), &[]);
        let in_vain = ["spec.http1.preserveHeaderCase", "spec.http1.enableTrailers"];
        let http1 = json!({"http1": {"enableTrailers": false, "preserveHeaderCase": true}});
        check(Kind::ClientTrafficPolicy, &http1, &in_vain);
        check(Kind::Proxy, &json!({"provider": "unmanaged"}), &[]);
        let proxy = json!({"provider": "cloud", "shutdown": {}, "telemetry": {"accessLogs": {}}});
        check(Kind::Proxy, &proxy, &["spec.provider (cloud)", "spec.telemetry"]);
        let reference = json!({"group": "example.com", "kind": "Config", "name": "c"});
        let want = ["spec.parametersRef.kind (Config)", "spec.parametersRef.group (example.com)"];
        check(Kind::GatewayClass, &json!({"parametersRef": reference}), &want);
    }

    #[test]
    fn no_object_makes_the_list_long_or_a_path_unreadable() {
        let rules: Vec<Value> = (0..100).map(|_| json!({"filters": [{"type": "Odd"}]})).collect();
        let object = json!({"spec": {"rules": rules}});
        assert_eq!(unserved(Kind::HttpRoute, &object).len(), PATHS_MAX);
        assert!(sentence(&find(Kind::HttpRoute, &object)).ends_with("rules[15].filters[0].type (Odd) and 84 more"));
        let rules: Vec<Value> = (0..FOUND_MAX + 9).map(|_| json!({"filters": [{"type": "Odd"}]})).collect();
        let found = find(Kind::HttpRoute, &json!({"spec": {"rules": rules}}));
        assert_eq!((found.len(), &*found[FOUND_MAX].path), (FOUND_MAX + 1, "too many fields"));
        let long = format!("\n{}", "x".repeat(10_000));
        let [path] = &unserved(Kind::Backend, &json!({"spec": {"protocol": long}}))[..] else { panic!("one path") };
        assert!(path.len() < 100 && !path.contains('\n'), "{path}");
    }

    #[test]
    fn who_writes_what_is_not_served_is_told() {
        let check = |kind, spec: Value, want: &[&str]| assert_eq!(warnings(kind, &json!({ "spec": spec })), want);
        check(
            Kind::TunnelNode,
            json!({"egressGateway": {"enabled": true}, "routes": ["10.0.0.0/8"]}),
            &["spec.routes is stored but not served yet"],
        );
        check(Kind::Backend, json!({}), &[]);
        check(Kind::ConfigMap, json!({}), &[]);
        check(Kind::SecurityPolicy, json!({}), &["a SecurityPolicy is stored and not served yet"]);
    }
}
