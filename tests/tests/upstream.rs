//! Our definitions of the Gateway API against upstream's own, property by property and rule by rule.
//!
//! Upstream's files come as the Go module that `tests/go/gateway-api` pins, by hash; the first run fetches it. Every
//! deviation that is meant stands in a list below with its reason, and a reason that no longer applies fails as well.
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use underpass_relay::schema;
use underpass_shared::resource::kind::{KINDS, KindInfo, Scope};

const GROUP: &str = "gateway.networking.k8s.io";
/// The group under which the same objects are served a second time.
const ALIAS_GROUP: &str = "gateway.apoxy.dev";
const MODULE: &str = "sigs.k8s.io/gateway-api";
/// Where the Go project's own packages install it, when it is not on the path.
const GO_ELSEWHERE: &str = "/usr/local/go/bin/go";

/// Upstream's route kinds whose v1alpha2 differs from v1.
const L4_ROUTES: &[&str] = &["TLSRoute", "TCPRoute", "UDPRoute"];

/// What a comparison with the experimental channel may find.
const EXPERIMENTAL: &[Exception] = &[
    Exception {
        kinds: &["GatewayClass", "Gateway", "ListenerSet"],
        versions: &["v1", "v1beta1"],
        path: ".status",
        what: "default",
        value: "\"reason\":\"Pending\"",
        whose: Whose::Upstream,
        reason: "a made-up condition without observedGeneration is stale for clients; an empty list is not",
    },
    Exception {
        kinds: &["GatewayClass", "Gateway", "ListenerSet"],
        versions: &["v1", "v1beta1"],
        path: ".status.conditions",
        what: "default",
        value: "\"reason\":\"Pending\"",
        whose: Whose::Upstream,
        reason: "as above",
    },
    Exception {
        kinds: L4_ROUTES,
        versions: &["v1alpha2"],
        path: ".spec.rules",
        what: "maxItems",
        value: "",
        whose: Whose::Both,
        reason: "all versions share the schema of v1, which has one rule only",
    },
    Exception {
        kinds: L4_ROUTES,
        versions: &["v1alpha2"],
        path: ".spec.rules",
        what: "rule",
        value: "Rule name must be unique within the route",
        whose: Whose::Upstream,
        reason: "it can not be broken by one rule",
    },
    Exception {
        kinds: &["TLSRoute"],
        versions: &["v1alpha2"],
        path: ".spec",
        what: "required",
        value: "hostnames",
        whose: Whose::Ours,
        reason: "all versions share the schema of v1, which asks for hostnames",
    },
    Exception {
        kinds: &["TLSRoute"],
        versions: &["v1alpha2"],
        path: ".spec.hostnames",
        what: "minItems",
        value: "1",
        whose: Whose::Ours,
        reason: "as above",
    },
    Exception {
        kinds: &["TLSRoute"],
        versions: &["v1alpha2"],
        path: ".spec.hostnames",
        what: "rule",
        value: "ostnames",
        whose: Whose::Ours,
        reason: "all versions share the schema of v1, which checks hostnames once more",
    },
];

/// What a comparison with the standard channel may find beyond that.
const STANDARD: &[Exception] = &[
    Exception {
        kinds: &["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"],
        versions: &[],
        path: ".spec.parentRefs",
        what: "rule",
        value: "\"message\":\"sectionName must be ",
        whose: Whose::Upstream,
        reason: "the experimental channel's rules look at the port as well, and accept all that these do",
    },
    Exception {
        kinds: &["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"],
        versions: &[],
        path: ".spec.parentRefs",
        what: "rule",
        value: "\"message\":\"sectionName or port must be ",
        whose: Whose::Ours,
        reason: "the experimental channel's form of the rules above",
    },
    Exception {
        kinds: &["HTTPRoute", "GRPCRoute"],
        versions: &[],
        path: ".spec.rules",
        what: "rule",
        value: "Rule name must be unique within the route",
        whose: Whose::Ours,
        reason: "the experimental channel asks for it",
    },
    Exception {
        kinds: &["HTTPRoute"],
        versions: &[],
        path: ".filters[]",
        what: "rule",
        value: "externalAuth",
        whose: Whose::Ours,
        reason: "it is about a filter that the standard channel does not have",
    },
    Exception {
        kinds: &["HTTPRoute", "GRPCRoute"],
        versions: &[],
        path: ".value",
        what: "pattern",
        value: "^[!-~]+([",
        whose: Whose::Ours,
        reason: "the experimental channel holds values of headers to what HTTP allows",
    },
];

/// Short names that we have and upstream has not.
const SHORT_NAMES: &[(&str, &str)] = &[("HTTPRoute", "hr"), ("GRPCRoute", "gr")];

/// A difference that is meant.
struct Exception {
    kinds: &'static [&'static str],
    /// Empty: any.
    versions: &'static [&'static str],
    /// How the difference's path ends.
    path: &'static str,
    what: &'static str,
    /// Stands in the difference's value.
    value: &'static str,
    whose: Whose,
    reason: &'static str,
}

/// Who has a fact that the other has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Upstream,
    Ours,
    /// Only in an [`Exception`]: each has one of its own.
    Both,
}

/// One thing that a schema says of the place `path`, such as `maxItems` 16.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    path: String,
    what: String,
    value: String,
}

type Facts = BTreeSet<Fact>;

struct Difference<'a> {
    whose: Whose,
    fact: &'a Fact,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.whose == Whose::Upstream { "upstream only" } else { "ours only" };
        let Fact { path, what, value } = self.fact;
        write!(f, "{path}: {whose}: {what} {value}")
    }
}

/// A CustomResourceDefinition of upstream's, with the facts of each version that it serves.
struct Upstream {
    kind: String,
    definition: Value,
    facts_by_version: BTreeMap<String, Facts>,
}

#[test]
fn definitions_say_what_the_experimental_channel_says() {
    let mut comparison = Comparison::new(EXPERIMENTAL);
    for upstream in upstream("experimental") {
        let ours = ours(&upstream.kind);
        for (version, theirs) in &upstream.facts_by_version {
            comparison.judge(&upstream.kind, version, theirs, &differences(theirs, &ours));
        }
    }
    comparison.finish();
}

#[test]
fn definitions_hold_all_of_the_standard_channel() {
    let also = EXPERIMENTAL.iter().filter(|exception| exception.versions.contains(&"v1"));
    let exceptions: Vec<_> = also.chain(STANDARD).collect();
    let mut comparison = Comparison::new(exceptions);
    for upstream in upstream("standard") {
        let ours = ours(&upstream.kind);
        for (version, theirs) in &upstream.facts_by_version {
            let mut found = differences(theirs, &ours);
            found.retain(|difference| difference.whose == Whose::Upstream || narrows(difference.fact, theirs));
            comparison.judge(&upstream.kind, version, theirs, &found);
        }
    }
    comparison.finish();
}

#[test]
fn the_table_of_kinds_names_what_upstream_serves() {
    let mut found = Vec::new();
    for upstream in upstream("experimental") {
        let info = info(&upstream.kind);
        let names = &upstream.definition["spec"]["names"];
        let mut check = |what: &str, ours: &dyn fmt::Debug, theirs: &dyn fmt::Debug| {
            let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
            if ours != theirs {
                found.push(format!("{}: {what}: ours {ours}, upstream's {theirs}", info.name));
            }
        };
        let served: BTreeSet<_> = upstream.facts_by_version.keys().map(String::as_str).collect();
        check("versions", &versions(info, GROUP), &served);
        check("versions of the alias", &versions(info, ALIAS_GROUP), &served);
        check("plural", &info.plural, &names["plural"].as_str().unwrap());
        check("singular", &info.singular, &names["singular"].as_str().unwrap());
        let mut short: Vec<_> =
            names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        short.extend(SHORT_NAMES.iter().filter(|(kind, _)| *kind == info.name).map(|(_, short)| *short));
        check("short names", &info.short_names, &short);
        let scope = if info.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
        check("scope", &scope, &upstream.definition["spec"]["scope"].as_str().unwrap());
        let has_status = upstream.definition["spec"]["versions"][0]["subresources"]["status"].is_object();
        check("status subresource", &info.has_status, &has_status);
    }
    assert!(found.is_empty(), "shared/src/resource/kind.rs differs from upstream:\n{}", found.join("\n"));
}

#[test]
fn every_kind_of_upstream_is_compared() {
    let ours: BTreeSet<_> =
        KINDS.iter().filter(|info| !versions(info, GROUP).is_empty()).map(|info| info.name).collect();
    assert_eq!(ours.len(), 10);
    for channel in ["experimental", "standard"] {
        let upstream = upstream(channel);
        let theirs: BTreeSet<_> = upstream.iter().map(|upstream| upstream.kind.as_str()).collect();
        assert_eq!(theirs, ours, "{channel}");
    }
}

#[test]
fn every_field_is_described() {
    let mut bare = Vec::new();
    for info in KINDS.iter().filter(|info| !versions(info, GROUP).is_empty()) {
        undescribed(&described(info), info.name, &mut bare);
    }
    assert!(bare.is_empty(), "these have no description:\n{}", bare.join("\n"));
}

#[test]
fn a_comparison_sees_each_sort_of_difference() {
    let seed = serde_json::json!({"type": "object", "required": ["a"], "properties": {
        "a": {"type": "string", "maxLength": 5, "enum": ["x", "y"], "default": "x"},
        "b": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
              "items": {"type": "object", "x-kubernetes-validations": [{"rule": "true", "message": "m"}]}}}});
    let theirs = facts(&seed);
    assert!(differences(&theirs, &facts(&seed)).is_empty());
    for (pointer, value) in [
        ("/required", serde_json::json!(["a", "b"])),
        ("/properties/a/maxLength", 6.into()),
        ("/properties/a/enum", serde_json::json!(["x"])),
        ("/properties/a/default", "y".into()),
        ("/properties/a/type", "integer".into()),
        ("/properties/b/maxItems", Value::Null),
        ("/properties/b/x-kubernetes-list-type", "atomic".into()),
        ("/properties/b/items/x-kubernetes-validations/0/rule", "false".into()),
        ("/properties/b/items/x-kubernetes-validations/0/message", "n".into()),
        ("/properties/b/items/x-kubernetes-validations", serde_json::json!([])),
        ("/properties/b", serde_json::json!({"type": "boolean"})),
    ] {
        let mut changed = seed.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(!differences(&theirs, &facts(&changed)).is_empty(), "{pointer}");
    }
    let mut described = seed;
    described["properties"]["a"]["description"] = "words are ours".into();
    described["properties"]["a"]["maxLength"] = 5.0.into();
    assert!(differences(&theirs, &facts(&described)).is_empty());
}

/// Differences gathered over all kinds, less those that are meant.
struct Comparison {
    exceptions: Vec<(&'static Exception, bool)>,
    properties: usize,
    rules: usize,
    facts: usize,
    unmeant: Vec<String>,
}

impl Comparison {
    fn new(exceptions: impl IntoIterator<Item = &'static Exception>) -> Self {
        let exceptions = exceptions.into_iter().map(|exception| (exception, false)).collect();
        Self { exceptions, properties: 0, rules: 0, facts: 0, unmeant: Vec::new() }
    }

    fn judge(&mut self, kind: &str, version: &str, theirs: &Facts, found: &[Difference<'_>]) {
        self.properties += theirs.iter().filter(|fact| fact.what == "property").count();
        self.rules += theirs.iter().filter(|fact| fact.what == "rule").count();
        self.facts += theirs.len();
        for difference in found {
            let meant = self.exceptions.iter_mut().find(|(exception, _)| exception.covers(kind, version, difference));
            match meant {
                Some((_, used)) => *used = true,
                None => self.unmeant.push(format!("{kind} {version}: {difference}")),
            }
        }
    }

    fn finish(mut self) {
        let Self { properties, rules, facts, .. } = self;
        println!("compared: {properties} properties and {rules} rules, {facts} facts in all");
        assert!(properties > 500 && rules > 100, "{properties} properties and {rules} rules are too few to be all");
        for (exception, _) in self.exceptions.iter().filter(|(_, used)| !used) {
            let Exception { kinds, path, what, reason, .. } = exception;
            self.unmeant.push(format!("no longer needed: {kinds:?} {path} {what}, because {reason}"));
        }
        assert!(self.unmeant.is_empty(), "our definitions differ from upstream:\n{}", self.unmeant.join("\n"));
    }
}

impl Exception {
    fn covers(&self, kind: &str, version: &str, difference: &Difference<'_>) -> bool {
        self.kinds.contains(&kind)
            && (self.versions.is_empty() || self.versions.contains(&version))
            && (self.whose == Whose::Both || self.whose == difference.whose)
            && difference.fact.what == self.what
            && difference.fact.path.ends_with(self.path)
            && difference.fact.value.contains(self.value)
    }
}

fn differences<'a>(theirs: &'a Facts, ours: &'a Facts) -> Vec<Difference<'a>> {
    let upstream = theirs.difference(ours).map(|fact| Difference { whose: Whose::Upstream, fact });
    upstream.chain(ours.difference(theirs).map(|fact| Difference { whose: Whose::Ours, fact })).collect()
}

/// Whether `fact`, which is ours only, could refuse or change what `theirs` accepts as it is.
fn narrows(fact: &Fact, theirs: &Facts) -> bool {
    let mut there = theirs.iter().filter(|their| their.path == fact.path).peekable();
    match fact.what.as_str() {
        "property" => false,
        // One more value only widens what is an enumeration already.
        "enum" => there.peek().is_some() && !there.any(|their| their.what == "enum"),
        _ => there.peek().is_some(),
    }
}

/// All that `schema` says, in words that can be compared; descriptions, and what every object has, left out.
fn facts(schema: &Value) -> Facts {
    let mut found = Facts::new();
    gather(schema, "", &mut found);
    for common in ["apiVersion", "kind", "metadata"] {
        let (at, below) = (format!(".{common}"), format!(".{common}."));
        found.retain(|fact| fact.path != at && !fact.path.starts_with(&below));
        found.remove(&Fact { path: String::new(), what: "required".to_owned(), value: format!("\"{common}\"") });
    }
    found
}

fn gather(schema: &Value, path: &str, found: &mut Facts) {
    let mut add = |what: &str, value: &Value| {
        found.insert(Fact { path: path.to_owned(), what: what.to_owned(), value: plain(value).to_string() });
    };
    let mut below = Vec::new();
    for (key, value) in schema.as_object().unwrap_or_else(|| panic!("{path}: a schema is an object")) {
        match key.as_str() {
            "description" => {}
            "properties" => {
                below.extend(value.as_object().unwrap().iter().map(|(name, value)| (format!("{path}.{name}"), value)));
            }
            "items" => below.push((format!("{path}[]"), value)),
            "additionalProperties" if value.is_object() => below.push((format!("{path}{{}}"), value)),
            "required" | "enum" => value.as_array().unwrap().iter().for_each(|one| add(key, one)),
            "x-kubernetes-validations" => value.as_array().unwrap().iter().for_each(|rule| add("rule", rule)),
            // These say what holds without them.
            "minLength" | "minItems" | "minProperties" if *value == 0 => {}
            "x-kubernetes-list-type" if value == "atomic" => {}
            "allOf" | "anyOf" | "oneOf" | "not" => add(key, &untyped(value)),
            _ => add(key, value),
        }
    }
    for (path, schema) in below {
        found.insert(Fact { path: path.clone(), what: "property".to_owned(), value: String::new() });
        gather(schema, &path, found);
    }
}

/// A branch of `oneOf` and the like without the types in it: they are those of what the branch is beside.
fn untyped(branch: &Value) -> Value {
    match branch {
        Value::Array(branches) => branches.iter().map(untyped).collect(),
        Value::Object(schema) => {
            let kept = schema
                .iter()
                .filter(|(key, _)| !["type", "x-kubernetes-preserve-unknown-fields"].contains(&key.as_str()));
            let each = kept.map(|(key, value)| match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    (key.clone(), properties.iter().map(|(name, value)| (name.clone(), untyped(value))).collect())
                }
                ("items" | "additionalProperties" | "allOf" | "anyOf" | "oneOf" | "not", value) => {
                    (key.clone(), untyped(value))
                }
                _ => (key.clone(), value.clone()),
            });
            Value::Object(each.collect())
        }
        other => other.clone(),
    }
}

/// `value` with whole numbers written as such and keys in order.
fn plain(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => (float as i64).into(),
            _ => value.clone(),
        },
        Value::Array(list) => list.iter().map(plain).collect(),
        Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        other => other.clone(),
    }
}

fn undescribed(schema: &Value, path: &str, bare: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(|words| words.trim().is_empty()) {
            bare.push(path.clone());
        }
        undescribed(property, &path, bare);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(below).filter(|schema| schema.is_object()) {
            undescribed(schema, path, bare);
        }
    }
}

fn info(kind: &str) -> &'static KindInfo {
    KINDS.iter().find(|info| info.name == kind).unwrap_or_else(|| panic!("{kind} is not among our kinds"))
}

fn versions(info: &KindInfo, group: &str) -> BTreeSet<&'static str> {
    info.api_versions.iter().filter_map(|version| version.strip_prefix(group)?.strip_prefix('/')).collect()
}

/// Upstream's definitions of one channel that are of our group.
fn upstream(channel: &str) -> Vec<Upstream> {
    let folder = module().join("config/crd").join(channel);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, unlimited()).unwrap();
        let of_group = |value: &Value| value["kind"] == "CustomResourceDefinition" && value["spec"]["group"] == GROUP;
        for definition in documents.into_iter().filter(of_group) {
            let served =
                definition["spec"]["versions"].as_array().unwrap().iter().filter(|version| version["served"] == true);
            let facts_by_version = served
                .map(|version| {
                    let schema = &version["schema"]["openAPIV3Schema"];
                    (version["name"].as_str().unwrap().to_owned(), facts(schema))
                })
                .collect();
            let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            found.push(Upstream { kind, definition, facts_by_version });
        }
    }
    assert!(!found.is_empty(), "{}: no definitions there", folder.display());
    found
}

/// The files are upstream's and ours: no limit protects us from them.
fn unlimited() -> serde_saphyr::Options {
    serde_saphyr::options! { budget: None, strict_booleans: true, with_snippet: false }
}

/// The folder of upstream's module, fetched if it is not there yet and checked against `go.sum`.
fn module() -> PathBuf {
    let go = if Path::new(GO_ELSEWHERE).exists() { GO_ELSEWHERE } else { "go" };
    let output = Command::new(go)
        .args(["mod", "download", "-json", MODULE])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("go/gateway-api"))
        .output()
        .unwrap_or_else(|error| panic!("{go}: {error}; install Go as https://go.dev/doc/install says"));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "go mod download: {printed}{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_str(&printed).unwrap();
    said["Dir"].as_str().unwrap().into()
}

fn ours(kind: &str) -> Facts {
    facts(&described(info(kind)))
}

/// Our definition of a kind, as the API shows it.
fn described(info: &KindInfo) -> Value {
    schema::of(info.kind).root().to_openapi()
}
