//! The structural rules of each kind, as data: fields, bounds, and what upstream has that is not served yet.
//!
//! Bounds are those of Gateway API v1.5 where the kind is upstream's.

use super::{
    Allowed, Field, Kind, List, MapRule, Need, Shape, Text,
    text::{
        DNS_LABEL_BYTES_MAX, DNS_NAME_BYTES_MAX, annotation_value, controller_name, dns_label, dns_subdomain, fqdn,
        group, header_name, hostname, ip_address, kind_name, label_value, qualified_name,
    },
};

/// The most rules of an `HTTPRoute`.
pub(super) const RULES_MAX: usize = 16;
/// The most matches of one rule.
pub(super) const MATCHES_MAX: usize = 64;
/// The most parents of a route.
pub(super) const PARENT_REFS_MAX: usize = 32;
/// The most backends of one rule.
pub(super) const BACKEND_REFS_MAX: usize = 16;
/// The most listeners of a Gateway.
pub(super) const LISTENERS_MAX: usize = 64;
/// The most endpoints of a Backend; a bound of ours.
pub(super) const ENDPOINTS_MAX: usize = 64;
/// The longest regular expression or path in a match, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// The fields of a manifest of `kind`.
pub(super) fn fields(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Project => PROJECT,
        Kind::TunnelNode => TUNNEL_NODE,
        Kind::Backend => BACKEND,
        Kind::Proxy => PROXY,
        Kind::GatewayClass => GATEWAY_CLASS,
        Kind::Gateway => GATEWAY,
        Kind::HttpRoute => HTTP_ROUTE,
        _ => &[],
    }
}

const fn must(name: &'static str, shape: Shape) -> Field {
    Field { name, need: Need::Required, shape }
}

const fn may(name: &'static str, shape: Shape) -> Field {
    Field { name, need: Need::Optional, shape }
}

const fn later(name: &'static str) -> Field {
    Field { name, need: Need::Later, shape: Shape::Anything }
}

const fn rule(max: usize, rule: fn(&str) -> Result<(), String>) -> Text {
    Text { min: 1, max, allowed: Allowed::Rule(rule) }
}

const fn one_of(now: &'static [&'static str], later: &'static [&'static str]) -> Text {
    Text { min: 0, max: 256, allowed: Allowed::OneOf { now, later } }
}

const fn any(min: usize, max: usize) -> Text {
    Text { min, max, allowed: Allowed::Any }
}

const PORT: Shape = Shape::Integer { min: 1, max: 65_535 };

static ANY: Text = any(0, 1 << 10);
static LABEL: Text = rule(DNS_LABEL_BYTES_MAX, dns_label);
static SUBDOMAIN: Text = rule(DNS_NAME_BYTES_MAX, dns_subdomain);
static HOSTNAME: Text = rule(DNS_NAME_BYTES_MAX, hostname);
static GROUP: Text = Text { min: 0, max: DNS_NAME_BYTES_MAX, allowed: Allowed::Rule(group) };
static KIND: Text = rule(DNS_LABEL_BYTES_MAX, kind_name);

static LABELS: MapRule = MapRule { key: qualified_name, value: label_value };
static ANNOTATIONS: MapRule = MapRule { key: qualified_name, value: annotation_value };

static METADATA: &[Field] = &[
    must("name", Shape::Text(&SUBDOMAIN)),
    may("namespace", Shape::Text(&LABEL)),
    may("labels", Shape::Map(&LABELS)),
    may("annotations", Shape::Map(&ANNOTATIONS)),
    may("uid", Shape::Anything),
    may("resourceVersion", Shape::Text(&ANY)),
    may("generation", Shape::Anything),
    may("creationTimestamp", Shape::Anything),
    may("managedFields", Shape::Anything),
    may("selfLink", Shape::Anything),
    later("generateName"),
    later("finalizers"),
    later("ownerReferences"),
    later("deletionTimestamp"),
    later("deletionGracePeriodSeconds"),
];

const API_VERSION: Field = must("apiVersion", Shape::Text(&ANY));
const KIND_FIELD: Field = must("kind", Shape::Text(&ANY));
const STATUS: Field = may("status", Shape::Anything);

static PROJECT: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    may("spec", Shape::Object(PROJECT_SPEC)),
    STATUS,
];
static PROJECT_SPEC: &[Field] = &[later("hostnameSuffix")];

static TUNNEL_NODE: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    may("spec", Shape::Object(TUNNEL_NODE_SPEC)),
    STATUS,
];
static TUNNEL_NODE_SPEC: &[Field] = &[
    may("egressGateway", Shape::Object(EGRESS_GATEWAY)),
    later("routes"),
    later("allowFrom"),
    later("defaultUpstream"),
];
static EGRESS_GATEWAY: &[Field] = &[may("enabled", Shape::Bool)];

static BACKEND: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    must("spec", Shape::Object(BACKEND_SPEC)),
    STATUS,
];
static BACKEND_SPEC: &[Field] =
    &[must("endpoints", Shape::List(&ENDPOINTS)), may("protocol", Shape::Text(&PROTOCOL)), later("dynamicProxy")];
static PROTOCOL: Text = one_of(&["", "plain", "h2c"], &["tls", "h2"]);
static ENDPOINTS: List = List { items: Shape::Object(ENDPOINT), min: 1, max: ENDPOINTS_MAX, key: None };
static ENDPOINT: &[Field] = &[may("fqdn", Shape::Text(&FQDN)), may("ip", Shape::Text(&IP))];
static FQDN: Text = rule(DNS_NAME_BYTES_MAX + 1, fqdn);
static IP: Text = rule(64, ip_address);

static PROXY: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    may("spec", Shape::Object(PROXY_SPEC)),
    STATUS,
];
static PROXY_SPEC: &[Field] = &[may("provider", Shape::Text(&PROVIDER)), later("shutdown"), later("telemetry")];
static PROVIDER: Text = one_of(&["unmanaged"], &["cloud", "kubernetes"]);

static GATEWAY_CLASS: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    must("spec", Shape::Object(GATEWAY_CLASS_SPEC)),
    STATUS,
];
static GATEWAY_CLASS_SPEC: &[Field] = &[
    must("controllerName", Shape::Text(&CONTROLLER)),
    may("description", Shape::Text(&DESCRIPTION)),
    later("parametersRef"),
];
static CONTROLLER: Text = rule(DNS_NAME_BYTES_MAX, controller_name);
static DESCRIPTION: Text = any(0, 64);

static GATEWAY: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    must("spec", Shape::Object(GATEWAY_SPEC)),
    STATUS,
];
static GATEWAY_SPEC: &[Field] = &[
    must("gatewayClassName", Shape::Text(&SUBDOMAIN)),
    must("listeners", Shape::List(&LISTENERS)),
    later("addresses"),
    later("allowedListeners"),
    later("backendTLS"),
    later("defaultScope"),
    later("infrastructure"),
    later("tls"),
];
static LISTENERS: List = List { items: Shape::Object(LISTENER), min: 1, max: LISTENERS_MAX, key: Some("name") };
static LISTENER: &[Field] = &[
    must("name", Shape::Text(&SUBDOMAIN)),
    may("hostname", Shape::Text(&HOSTNAME)),
    must("port", PORT),
    must("protocol", Shape::Text(&LISTENER_PROTOCOL)),
    may("allowedRoutes", Shape::Object(ALLOWED_ROUTES)),
    later("tls"),
];
static LISTENER_PROTOCOL: Text = one_of(&["HTTP", "HTTPS"], &["TLS", "TCP", "UDP"]);
static ALLOWED_ROUTES: &[Field] = &[may("namespaces", Shape::Object(ROUTE_NAMESPACES)), later("kinds")];
static ROUTE_NAMESPACES: &[Field] = &[may("from", Shape::Text(&FROM)), later("selector")];
static FROM: Text = one_of(&["Same"], &["All", "Selector", "None"]);

static HTTP_ROUTE: &[Field] = &[
    API_VERSION,
    KIND_FIELD,
    must("metadata", Shape::Object(METADATA)),
    must("spec", Shape::Object(HTTP_ROUTE_SPEC)),
    STATUS,
];
static HTTP_ROUTE_SPEC: &[Field] = &[
    may("parentRefs", Shape::List(&PARENT_REFS)),
    may("hostnames", Shape::List(&HOSTNAMES)),
    may("rules", Shape::List(&RULES)),
    later("useDefaultGateways"),
];
static HOSTNAMES: List = List { items: Shape::Text(&HOSTNAME), min: 0, max: 16, key: None };
static PARENT_REFS: List = List { items: Shape::Object(PARENT_REF), min: 0, max: PARENT_REFS_MAX, key: None };
static PARENT_REF: &[Field] = &[
    may("group", Shape::Text(&PARENT_GROUP)),
    may("kind", Shape::Text(&PARENT_KIND)),
    may("namespace", Shape::Text(&LABEL)),
    must("name", Shape::Text(&SUBDOMAIN)),
    may("sectionName", Shape::Text(&SUBDOMAIN)),
    may("port", PORT),
];
static PARENT_GROUP: Text = one_of(&["gateway.networking.k8s.io", "gateway.apoxy.dev"], &[""]);
static PARENT_KIND: Text = one_of(&["Gateway"], &["ListenerSet", "Service"]);
static RULES: List = List { items: Shape::Object(RULE), min: 1, max: RULES_MAX, key: None };
static RULE: &[Field] = &[
    may("name", Shape::Text(&SUBDOMAIN)),
    may("matches", Shape::List(&MATCHES)),
    may("backendRefs", Shape::List(&BACKEND_REFS)),
    later("filters"),
    later("timeouts"),
    later("retry"),
    later("sessionPersistence"),
];
static MATCHES: List = List { items: Shape::Object(MATCH), min: 0, max: MATCHES_MAX, key: None };
static MATCH: &[Field] = &[
    may("path", Shape::Object(PATH)),
    may("headers", Shape::List(&HEADERS)),
    may("queryParams", Shape::List(&QUERY_PARAMS)),
    may("method", Shape::Text(&METHOD)),
];
static PATH: &[Field] = &[may("type", Shape::Text(&PATH_TYPE)), may("value", Shape::Text(&PATH_VALUE))];
static PATH_TYPE: Text = one_of(&["Exact", "PathPrefix", "RegularExpression"], &[]);
static PATH_VALUE: Text = any(0, PATH_BYTES_MAX);
static HEADERS: List = List { items: Shape::Object(HEADER), min: 0, max: 16, key: Some("name") };
static HEADER: &[Field] = &[
    may("type", Shape::Text(&VALUE_TYPE)),
    must("name", Shape::Text(&HEADER_NAME)),
    must("value", Shape::Text(&HEADER_VALUE)),
];
static QUERY_PARAMS: List = List { items: Shape::Object(QUERY_PARAM), min: 0, max: 16, key: Some("name") };
static QUERY_PARAM: &[Field] = &[
    may("type", Shape::Text(&VALUE_TYPE)),
    must("name", Shape::Text(&HEADER_NAME)),
    must("value", Shape::Text(&QUERY_VALUE)),
];
static VALUE_TYPE: Text = one_of(&["Exact", "RegularExpression"], &[]);
static HEADER_NAME: Text = rule(256, header_name);
static HEADER_VALUE: Text = any(1, 4096);
static QUERY_VALUE: Text = any(1, 1024);
static METHOD: Text = one_of(&["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"], &[]);
static BACKEND_REFS: List = List { items: Shape::Object(BACKEND_REF), min: 0, max: BACKEND_REFS_MAX, key: None };
static BACKEND_REF: &[Field] = &[
    may("group", Shape::Text(&GROUP)),
    may("kind", Shape::Text(&KIND)),
    may("namespace", Shape::Text(&LABEL)),
    must("name", Shape::Text(&SUBDOMAIN)),
    may("port", PORT),
    may("weight", Shape::Integer { min: 0, max: 1_000_000 }),
    later("filters"),
];
