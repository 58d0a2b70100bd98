use std::collections::BTreeMap;

use proptest::{collection::btree_map, prelude::*, sample::select};
use serde::de::DeserializeOwned;
use serde_json::{Map, json};
use underpass_shared::resource::{
    backend::Backend,
    gateway::{Gateway, GatewayClass},
    http_route::HttpRoute,
    kind::KINDS,
    project::Project,
    proxy::Proxy,
    tunnel_node::TunnelNode,
};

use super::*;

/// The definition `Tiny` of `yaml`, which is what stands after its name.
pub(super) fn tiny(yaml: &str) -> Result<Arc<Node>, LoadError> {
    let body = if yaml.starts_with('{') { yaml.to_owned() } else { format!("\n  {yaml}") };
    let text = format!("Tiny: {body}\nObjectMeta: {{type: object}}\n");
    let library = load::Library::load(&[("tiny.yaml", &text)])?;
    Ok(Arc::clone(library.definition("Tiny").unwrap()))
}

/// Every node below `node`, with its place.
fn each(node: &Node, place: &str, then: &mut dyn FnMut(&Node, &str)) {
    then(node, place);
    match &node.form {
        Form::Object { properties, additional, .. } => {
            properties.iter().for_each(|(name, child)| each(child, &format!("{place}.{name}"), then));
            additional.iter().for_each(|child| each(child, &format!("{place}[]"), then));
        }
        Form::List { items, .. } => each(items, &format!("{place}[]"), then),
        _ => {}
    }
}

fn each_of_all(mut then: impl FnMut(&Node, &str)) {
    KINDS.iter().for_each(|info| each(of(info.kind).root(), info.name, &mut then));
}

fn lines(problems: Vec<Problem>) -> Vec<String> {
    problems.into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

fn found(kind: Kind, object: &Value) -> Vec<String> {
    lines(of(kind).validate(object, None))
}

/// What a write does to a manifest before it is stored.
fn admit(kind: Kind, mut object: Value) -> Result<Value, Vec<String>> {
    quirks::normalise(kind, &mut object);
    let unknown = lines(of(kind).unknown(&object));
    of(kind).default(&mut object);
    let problems: Vec<_> = unknown.into_iter().chain(found(kind, &object)).collect();
    if problems.is_empty() { Ok(object) } else { Err(problems) }
}

#[test]
fn every_kind_is_defined_and_knows_its_metadata() {
    for info in KINDS {
        assert!(definition(info.name).is_some(), "{} has no definition", info.name);
        let Form::Object { properties, required, .. } = &of(info.kind).root().form else {
            panic!("{} is an object", info.name)
        };
        assert!(properties["metadata"].description.starts_with("The object's identity"), "{}", info.name);
        assert_eq!(
            properties.contains_key("status"),
            info.has_status || info.kind == Kind::CustomResourceDefinition,
            "{}",
            info.name
        );
        for name in ["apiVersion", "kind", "metadata"] {
            assert!(required.iter().any(|required| required == name), "{}: {name}", info.name);
        }
    }
}

#[test]
fn every_field_is_described() {
    let mut silent = Vec::new();
    each_of_all(|node, place| {
        if node.description.is_empty() && !place.ends_with("[]") {
            silent.push(place.to_owned());
        }
    });
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn every_rule_and_pattern_can_be_read_and_every_default_is_allowed() {
    let (mut rules, mut patterns, mut defaults) = (0, 0, 0);
    each_of_all(|node, place| {
        for rule in &node.rules {
            rules += 1;
            assert_eq!(rule.compile(), Ok(()), "{place}");
        }
        if let Form::Text { pattern: Some(pattern), .. } | Form::IntOrString { pattern: Some(pattern) } = &node.form {
            patterns += 1;
            assert!(pattern.regex().is_some(), "{place}: {}", pattern.as_str());
        }
        if let Some(value) = &node.default {
            defaults += 1;
            let mut value = value.clone();
            default::fill(node, &mut value);
            let mut findings = Findings::default();
            validate::check(node, &value, None, &mut findings);
            // What a default leaves to be written, a rule may ask for.
            assert_eq!(findings.structural(), 0, "{place}: {:?}", findings.into_problems());
            assert_eq!(prune::unknown(node, &value), [], "{place}");
        }
    });
    assert!(rules > 250 && patterns > 100 && defaults > 100, "{rules} rules, {patterns} patterns, {defaults} defaults");
}

#[test]
fn a_schema_shown_in_openapi_is_the_one_that_was_read() {
    for info in KINDS {
        let shown = of(info.kind).root().to_openapi();
        let text = format!("Tiny: {shown}\nObjectMeta: {{type: object}}\n");
        let library = load::Library::load(&[("shown.yaml", &text)]).unwrap();
        assert_eq!(library.definition("Tiny").unwrap().to_openapi(), shown, "{}", info.name);
    }
}

#[test]
fn rules_call_only_functions_that_there_are() {
    let mut called = std::collections::BTreeSet::new();
    each_of_all(|node, _| called.extend(node.rules.iter().flat_map(Rule::functions)));
    called.retain(|name| name.starts_with(|letter: char| letter.is_ascii_alphabetic()));
    let examples = [
        ("contains", "'ab'.contains('b')"),
        ("double", "double('1.5') == 1.5"),
        ("duration", "duration('1m') > duration('1s')"),
        ("endsWith", "'ab'.endsWith('b')"),
        ("family", "ip('10.0.0.1').family() == 4"),
        ("ip", "ip('fd00::1').family() == 6"),
        ("isIP", "isIP('10.0.0.1') && !isIP('10.0.0')"),
        ("lowerAscii", "'Ab'.lowerAscii() == 'ab'"),
        ("matches", "'abc'.matches('^a.c$')"),
        ("size", "size('ab') == 2"),
        ("split", "'a,b'.split(',')[1] == 'b'"),
        ("startsWith", "'ab'.startsWith('a')"),
        ("substring", "'abc'.substring(1) == 'bc'"),
    ];
    assert_eq!(called.into_iter().collect::<Vec<_>>(), examples.map(|(name, _)| name));
    for (name, rule) in examples {
        let node = tiny(&format!("{{type: boolean, x-kubernetes-validations: [{{rule: \"{rule}\"}}]}}")).unwrap();
        let mut findings = Findings::default();
        validate::check(&node, &json!(true), None, &mut findings);
        assert_eq!(findings.into_problems(), [], "{name}");
    }
}

fn seeds() -> Vec<(Kind, Value)> {
    vec![
        (
            Kind::Backend,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "api-backend"},
                "spec": {"endpoints": [{"fqdn": "api.internal.example.com"}], "protocol": "H2C"},
            }),
        ),
        (
            Kind::HttpRoute,
            json!({
                "apiVersion": "gateway.apoxy.dev/v1", "kind": "HTTPRoute", "metadata": {"name": "api-route"},
                "spec": {
                    "parentRefs": [{"name": "default"}],
                    "hostnames": ["api.your-org.apoxy.app"],
                    "rules": [{"backendRefs": [{"kind": "Backend", "name": "api-backend", "port": 8080}]}],
                },
            }),
        ),
        (Kind::HttpRoute, canary()),
        (
            Kind::TunnelNode,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode", "metadata": {"name": "office-link"},
                "spec": {"egressGateway": {"enabled": true}},
            }),
        ),
        (
            Kind::Gateway,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "example-gateway"},
                "spec": {
                    "gatewayClassName": "example-gateway-class",
                    "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}],
                },
            }),
        ),
        (
            Kind::GatewayClass,
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "eg"},
                "spec": {"controllerName": "gateway.apoxy.dev/gatewayclass-controller"},
            }),
        ),
        (
            Kind::Proxy,
            json!({
                "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p"},
                "spec": {"provider": "unmanaged"},
            }),
        ),
        (
            Kind::Project,
            json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Project", "metadata": {"name": "team-a"}}),
        ),
    ]
}

fn canary() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "task-api-canary", "namespace": "task-api", "creationTimestamp": null},
        "spec": {
            "parentRefs": [{"kind": "Gateway", "name": "g", "sectionName": "http-listener"}],
            "rules": [
                {
                    "matches": [{
                        "path": {"type": "PathPrefix", "value": "/api/"},
                        "headers": [{"name": "x-api-key", "type": "RegularExpression", "value": "^premium-.*"}],
                        "queryParams": [{"name": "debug", "value": "true"}],
                        "method": "GET",
                    }],
                    "backendRefs": [
                        {"name": "a", "port": 80, "weight": 90},
                        {"name": "b", "namespace": "backend-ns", "port": 80, "weight": 10},
                    ],
                },
                {"matches": [{"path": {"type": "RegularExpression", "value": "/api/v[0-9]+/tasks"}}]},
            ],
        },
        "status": {"parents": []},
    })
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(object.clone()).map(drop).map_err(|error| error.to_string())
}

fn deserialize(kind: Kind, object: &Value) -> Result<(), String> {
    match kind {
        Kind::Project => typed::<Project>(object),
        Kind::TunnelNode => typed::<TunnelNode>(object),
        Kind::Backend => typed::<Backend>(object),
        Kind::Proxy => typed::<Proxy>(object),
        Kind::GatewayClass => typed::<GatewayClass>(object),
        Kind::Gateway => typed::<Gateway>(object),
        Kind::HttpRoute => typed::<HttpRoute>(object),
        _ => Ok(()),
    }
}

#[test]
fn documented_manifests_are_accepted_and_deserialize() {
    for (kind, object) in seeds() {
        let stored = admit(kind, object).unwrap();
        let mut typed = stored.clone();
        typed.as_object_mut().unwrap().remove("status");
        assert_eq!(deserialize(kind, &typed), Ok(()), "{kind:?}");
    }
}

#[test]
fn every_problem_is_reported_at_once_with_its_path() {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "Bad_Name", "labels": {"a b": "c", "d": 1}},
        "spec": {
            "parentRefs": [{"name": "g"}],
            "hostnmes": [],
            "hostnames": ["a.example", "*"],
            "rules": [{
                "matches": [{"path": {"type": "Prefix", "value": "api"}, "method": "get"}],
                "backendRefs": [{"name": "a", "port": 80}, {"name": "b", "port": 70000, "weight": "2"}],
            }],
        },
    });
    assert_eq!(
        admit(Kind::HttpRoute, object).unwrap_err(),
        [
            "spec.hostnmes: unknown field; is `hostnames` meant?",
            "metadata.labels[d]: must be a string, not a number",
            "spec.hostnames[1]: `*` is not a hostname: a lower-case DNS name, or `*.` and one",
            "spec.rules[0].backendRefs[1].port: must be a whole number from 1 to 65535, not 70000",
            "spec.rules[0].backendRefs[1].weight: must be a whole number, not a string",
            "spec.rules[0].matches[0].method: `get`: unknown value; may be `GET`, `HEAD`, `POST`, `PUT`, `DELETE`, `CONNECT`, `OPTIONS`, `TRACE`, `PATCH`",
            "spec.rules[0].matches[0].path.type: `Prefix`: unknown value; may be `Exact`, `PathPrefix`, `RegularExpression`",
            "metadata.name: `Bad_Name` is not a DNS name: lower-case letters, digits and `-`, in parts joined by `.`",
            "metadata.labels[a b]: `a b` is not a key: `name` or `dns.name/name`",
        ]
    );
}

#[test]
fn what_upstream_has_is_stored_whether_or_not_it_is_served() {
    let backend = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "b"},
        "spec": {"endpoints": [{"fqdn": "a.example.com"}], "protocol": "h2"},
    });
    admit(Kind::Backend, backend).unwrap();
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {
            "gatewayClassName": "eg", "infrastructure": {"labels": {"a": "b"}},
            "listeners": [
                {"name": "a", "protocol": "HTTP", "port": 80, "allowedRoutes": {"namespaces": {"from": "Same"}}},
                {"name": "b", "protocol": "HTTPS", "port": 443, "tls": {"mode": "Terminate", "certificateRefs": [{"name": "c"}]}},
                {"name": "c", "protocol": "TCP", "port": 9, "allowedRoutes": {"namespaces": {"from": "All"}}},
            ],
        },
    });
    admit(Kind::Gateway, gateway).unwrap();
}

#[test]
fn upstreams_rules_refuse_what_they_refuse_upstream() {
    let route = |spec: Value| {
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": spec});
        admit(Kind::HttpRoute, object).err().unwrap_or_default()
    };
    let path =
        |kind: &str, value: &str| route(json!({"rules": [{"matches": [{"path": {"type": kind, "value": value}}]}]}));
    for (value, rule) in [
        ("a", "start with '/'"),
        ("/a//b", "must not contain '//'"),
        ("/a/./b", "must not contain '/./'"),
        ("/a/..", "must not end with '/..'"),
        ("/a%2fb", "must not contain '%2f'"),
        ("/a#b", "must not contain '#'"),
    ] {
        let said = path("Exact", value);
        assert!(said.iter().any(|line| line.contains(rule)), "{value}: {said:?}");
    }
    assert_eq!(path("RegularExpression", "/a//b"), Vec::<String>::new());
    let parents = |parents: Value| route(json!({"parentRefs": parents}));
    assert_eq!(parents(json!([{"name": "b", "port": 80}, {"name": "b", "port": 81}])), Vec::<String>::new());
    assert_eq!(
        parents(json!([{"name": "a"}, {"name": "a"}])),
        [
            "spec.parentRefs: sectionName or port must be unique when parentRefs includes 2 or more references to the same parent"
        ]
    );
    assert_eq!(
        parents(json!([{"name": "a"}, {"name": "a", "sectionName": "s"}])),
        [
            "spec.parentRefs: sectionName or port must be specified when parentRefs includes 2 or more references to the same parent"
        ]
    );
    let service = route(json!({"rules": [{"backendRefs": [{"name": "a"}]}]}));
    assert_eq!(service, ["spec.rules[0].backendRefs[0]: Must have port for Service reference"]);
}

#[test]
fn listeners_are_told_apart() {
    let listener = |name: &str| json!({"name": name, "protocol": "HTTP", "port": 80});
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
        "spec": {"gatewayClassName": "eg", "listeners": [listener("a"), listener("a")]},
    });
    assert_eq!(found(Kind::Gateway, &gateway)[0], "spec.listeners[1].name: `a` is already used by item 0");
    let mut gateway = gateway;
    gateway["spec"]["listeners"][1] = listener("b");
    assert_eq!(
        admit(Kind::Gateway, gateway).unwrap_err(),
        ["spec.listeners: Combination of port, protocol and hostname must be unique for each listener"]
    );
}

#[test]
fn a_manifest_of_another_kind_version_or_scope_is_refused() {
    let object = json!({
        "apiVersion": "core.apoxy.dev/v9", "kind": "TunnelNodes",
        "metadata": {"name": "a.b", "namespace": "default"},
    });
    assert_eq!(
        found(Kind::TunnelNode, &object),
        [
            "apiVersion: `core.apoxy.dev/v9` has no TunnelNode; may be core.apoxy.dev/v1alpha",
            "kind: `TunnelNodes` is not TunnelNode",
            "metadata.name: `a.b` is not a DNS label: at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
            "metadata.namespace: a TunnelNode belongs to no namespace: remove the field",
        ]
    );
    assert_eq!(found(Kind::Backend, &json!([])), [": must be an object, not a list"]);
}

fn of_metadata(kind: Kind, metadata: &Value) -> Vec<String> {
    let info = kind.info();
    let object = json!({"apiVersion": info.api_versions[0], "kind": info.name, "metadata": metadata});
    let lines = found(kind, &object).into_iter().filter_map(|line| line.strip_prefix("metadata.").map(str::to_owned));
    lines.collect()
}

#[test]
fn names_are_those_that_kubernetes_accepts() {
    for (kind, name, good) in [
        (Kind::ConfigMap, "kube-root-ca.crt", true),
        (Kind::ConfigMap, "A", false),
        (Kind::ConfigMap, &"a".repeat(253), true),
        (Kind::ConfigMap, &"a".repeat(254), false),
        (Kind::Namespace, "team-1", true),
        (Kind::Namespace, "team.1", false),
        (Kind::Service, "web", true),
        (Kind::Service, "1web", false),
        (Kind::ClusterRoleBinding, "system:node:A", true),
        (Kind::ClusterRoleBinding, "a/b", false),
        (Kind::ClusterRoleBinding, "..", false),
        (Kind::Project, "a.b", false),
    ] {
        assert_eq!(of_metadata(kind, &json!({"name": name})).is_empty(), good, "{kind:?} {name}");
    }
    assert_eq!(of_metadata(Kind::ConfigMap, &json!({})), ["name: required"]);
    assert_eq!(of_metadata(Kind::ConfigMap, &json!({"name": ""})), ["name: required"]);
    assert_eq!(of_metadata(Kind::ConfigMap, &json!({"generateName": "a-"})), Vec::<String>::new());
    assert_eq!(
        of_metadata(Kind::ConfigMap, &json!({"generateName": "A-"})),
        ["generateName: `A-` is no beginning of a name of this kind"]
    );
    assert_eq!(of_metadata(Kind::ConfigMap, &json!({"name": "a", "namespace": "N"})).len(), 1);
    assert_eq!(of_metadata(Kind::TunnelNode, &json!({"name": "a", "namespace": ""})), Vec::<String>::new());
}

#[test]
fn metadata_is_checked_as_kubernetes_checks_it() {
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u", "controller": true});
    let mut other = owner.clone();
    other["uid"] = json!("v");
    for (metadata, want) in [
        (json!({"labels": {"a/b/c": ""}}), vec!["labels[a/b/c]: `a/b/c` is not a key: `name` or `dns.name/name`"]),
        (
            json!({"labels": {"example.com/a": "-"}}),
            vec![
                "labels[example.com/a]: `-` is not a label value: at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit",
            ],
        ),
        (
            json!({"annotations": {"a": "x".repeat(262_144)}}),
            vec!["annotations: must be at most 262144 bytes together, not 262145"],
        ),
        (json!({"annotations": {"a": "any text\n"}}), vec![]),
        (
            json!({"finalizers": ["example.com/a", "a b"]}),
            vec!["finalizers[1]: `a b` is not a key: `name` or `dns.name/name`"],
        ),
        (
            json!({"finalizers": ["orphan", "foregroundDeletion"]}),
            vec!["finalizers: `orphan` and `foregroundDeletion` exclude each other"],
        ),
        (
            json!({"ownerReferences": [{"kind": ""}]}),
            vec![
                "ownerReferences[0].apiVersion: required",
                "ownerReferences[0].name: required",
                "ownerReferences[0].uid: required",
                "ownerReferences[0].kind: must not be empty",
            ],
        ),
        (
            json!({"ownerReferences": [owner, other]}),
            vec!["ownerReferences[1].controller: item 0 is the controller already; there is at most one"],
        ),
        (
            json!({"managedFields": [{"manager": "m", "operation": "Update", "fieldsType": "FieldsV9"}]}),
            vec!["managedFields[0].fieldsType: `FieldsV9`: unknown value; may be `FieldsV1`"],
        ),
        (
            json!({"creationTimestamp": "yesterday"}),
            vec!["creationTimestamp: `yesterday` is not a time such as 2006-01-02T15:04:05Z (RFC 3339)"],
        ),
    ] {
        let mut metadata = metadata;
        metadata["name"] = json!("a");
        assert_eq!(of_metadata(Kind::ConfigMap, &metadata), want, "{metadata}");
    }
}

#[test]
fn defaults_are_those_of_upstream() {
    let (kind, object) = seeds().remove(1);
    let stored = admit(kind, object).unwrap();
    assert_eq!(
        stored["spec"],
        json!({
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "default"}],
            "hostnames": ["api.your-org.apoxy.app"],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [
                    {"group": "core.apoxy.dev", "kind": "Backend", "name": "api-backend", "port": 8080, "weight": 1},
                ],
            }],
        })
    );
}

#[test]
fn unknown_fields_are_named_pruned_and_guessed_at() {
    let mut object = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Backend", "metadata": {"name": "b", "nmae": 1},
        "spec": {"endpoints": [{"FQDN": "a.example"}, {"fqdn": "a.example", "x": {"y": 1}}], "protocl": "", "zzz": null},
    });
    let schema = of(Kind::Backend);
    assert_eq!(
        lines(schema.unknown(&object)),
        [
            "metadata.nmae: unknown field; is `name` meant?",
            "spec.endpoints[0].FQDN: unknown field; is `fqdn` meant?",
            "spec.endpoints[1].x: unknown field",
            "spec.protocl: unknown field; is `protocol` meant?",
            "spec.zzz: unknown field",
        ]
    );
    schema.prune(&mut object);
    assert_eq!(object["spec"], json!({"endpoints": [{}, {"fqdn": "a.example"}]}));
    assert_eq!(schema.unknown_fields(&object), Vec::<String>::new());
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let labels: Map<String, Value> = (0..PROBLEMS_MAX + 7).map(|n| (format!("f{n}"), json!(0))).collect();
    let object = json!({
        "apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p", "labels": labels},
    });
    let problems = of(Kind::Proxy).validate(&object, None);
    assert_eq!(problems.len(), PROBLEMS_MAX + 1);
    assert_eq!(problems[PROBLEMS_MAX].message, "and 7 more problems, which are not listed");
    let spec: Map<String, Value> = (0..PROBLEMS_MAX + 7).map(|n| (format!("f{n}"), json!(0))).collect();
    assert_eq!(of(Kind::Proxy).unknown_fields(&json!({"spec": spec})).len(), PROBLEMS_MAX);
}

#[test]
fn hostile_names_are_shown_short_and_escaped() {
    let object = json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Proxy", "metadata": {"name": "p"},
        "\u{1b}[31m\n": 0, "x".repeat(5000): 0});
    let problems = lines(of(Kind::Proxy).unknown(&object));
    assert_eq!(problems[0], "[\\u{1b}[31m\\n]: unknown field");
    assert!(problems[1].len() < 120, "{}", problems[1]);
}

#[test]
fn quirks_and_conversion_change_only_what_they_are_for() {
    let mut object = json!({"apiVersion": "core.apoxy.dev/v1alpha2", "spec": {"protocol": "TLS", "other": "TLS"}});
    quirks::normalise(Kind::Backend, &mut object);
    assert_eq!(object["spec"], json!({"protocol": "tls", "other": "TLS"}));
    quirks::normalise(Kind::Gateway, &mut object);
    let reference = json!({"kind": "Backend", "name": "b"});
    let mirror = json!([{"requestMirror": {"backendRef": reference}}]);
    let mut route = json!({"spec": {"rules": [
        {"backendRefs": [{"kind": "Backend", "filters": mirror}, {"kind": "Backend", "group": ""}, {"kind": "Service"}, 7]},
        {"filters": mirror}, null,
    ]}});
    quirks::normalise(Kind::HttpRoute, &mut route);
    let groups = |pointers: &[&str]| pointers.iter().map(|at| route.pointer(at).cloned()).collect::<Vec<_>>();
    assert_eq!(
        groups(&[
            "/spec/rules/0/backendRefs/0/group",
            "/spec/rules/0/backendRefs/0/filters/0/requestMirror/backendRef/group",
            "/spec/rules/1/filters/0/requestMirror/backendRef/group",
            "/spec/rules/0/backendRefs/1/group",
            "/spec/rules/0/backendRefs/2/group",
        ]),
        [
            Some(json!("core.apoxy.dev")),
            Some(json!("core.apoxy.dev")),
            Some(json!("core.apoxy.dev")),
            Some(json!("")),
            None
        ]
    );
    convert::convert(Kind::Backend, &mut object, "core.apoxy.dev/v1alpha");
    assert_eq!(object, json!({"apiVersion": "core.apoxy.dev/v1alpha", "spec": {"protocol": "tls", "other": "TLS"}}));
}

fn leaf() -> impl Strategy<Value = Value> {
    let texts = vec![
        "default",
        "Exact",
        "PathPrefix",
        "/",
        "Backend",
        "HTTP",
        "a.example",
        "192.0.2.1",
        "h2c",
        "",
        "10s",
        "aGk=",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..100).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(texts).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ]
}

/// JSON that often uses the names the schemas know.
fn anything() -> impl Strategy<Value = Value> {
    let mut names = BTreeMap::from([("x".to_owned(), ())]);
    each_of_all(|node, _| {
        if let Form::Object { properties, .. } = &node.form {
            names.extend(properties.keys().map(|name| (name.clone(), ())));
        }
    });
    let names = select(names.into_keys().collect::<Vec<_>>());
    leaf().prop_recursive(7, 96, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(names.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A number from a seed, different each time it is asked.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// A value that is mostly as `node` wants it, and sometimes `odd`.
fn likely(node: &Node, dice: &mut Dice, odd: &Value, depth: usize) -> Value {
    if dice.below(64) == 0 {
        return odd.clone();
    }
    if let (Some(default), 0) = (&node.default, dice.below(2)) {
        return default.clone();
    }
    if !node.enumeration.is_empty() {
        return node.enumeration[dice.below(node.enumeration.len())].clone();
    }
    let length = |dice: &mut Dice, min: usize| min + if depth > 12 { 0 } else { dice.below(3) };
    match &node.form {
        Form::Object { properties, required, additional, .. } => {
            let wanted = |dice: &mut Dice, name: &String| required.contains(name) || depth < 12 && dice.below(3) == 0;
            let mut object = Map::new();
            for (name, node) in properties {
                if wanted(dice, name) {
                    object.insert(name.clone(), likely(node, dice, odd, depth + 1));
                }
            }
            if let Some(node) = additional {
                for _ in 0..length(dice, 0) {
                    object.insert(["a", "b", "c"][dice.below(3)].to_owned(), likely(node, dice, odd, depth + 1));
                }
            }
            Value::Object(object)
        }
        Form::List { items, min, .. } => (0..length(dice, *min)).map(|_| likely(items, dice, odd, depth + 1)).collect(),
        Form::Text { .. } => {
            let texts = [
                "a",
                "b",
                "/a",
                "10s",
                "a.example",
                "192.0.2.1",
                "example.com/a",
                "2026-11-21T10:00:00Z",
                "fd00::1",
                "10.0.0.0/8",
            ];
            json!(texts[dice.below(texts.len())])
        }
        Form::Integer { min, max, .. } => json!([min.unwrap_or(1), max.unwrap_or(i64::MAX), 80][dice.below(3)]),
        Form::Number { .. } => json!(0.5),
        Form::Boolean => json!(dice.below(2) == 0),
        Form::IntOrString { .. } => [json!(1), json!("http"), json!("50%")][dice.below(3)].clone(),
        Form::Anything => odd.clone(),
    }
}

fn laws(kind: Kind, object: &Value, old: &Value) -> Result<(), TestCaseError> {
    let schema = of(kind);
    let _ = schema.validate(object, Some(old));
    let mut once = object.clone();
    schema.default(&mut once);
    let mut twice = once.clone();
    schema.default(&mut twice);
    prop_assert_eq!(&once, &twice, "defaulting twice is defaulting once");
    schema.prune(&mut twice);
    prop_assert_eq!(schema.unknown(&twice), []);
    prop_assert!(schema.validate(&once, Some(old)).len() <= PROBLEMS_MAX + 1);
    // A rule answers about every object of the right structure, whatever stands in it.
    let problems = schema.validate(&once, Some(&once));
    let unanswered = problems.iter().find(|problem| problem.message.contains("the rule "));
    prop_assert_eq!(unanswered, None);
    Ok(())
}

proptest! {
    #[test]
    fn anything_at_all_is_answered(object in anything(), old in anything()) {
        for info in KINDS {
            laws(info.kind, &object, &old)?;
        }
    }

    #[test]
    fn what_is_nearly_right_is_answered(seed in any::<u64>(), odd in leaf()) {
        for info in KINDS {
            let mut dice = Dice(seed);
            let object = likely(of(info.kind).root(), &mut dice, &odd, 0);
            let old = likely(of(info.kind).root(), &mut dice, &odd, 0);
            laws(info.kind, &object, &old)?;
        }
    }
}
