//! `underpass explain`: what a kind's fields mean, from the OpenAPI v3 document that the relay serves.
//!
//! All but `run` is pure, and total over arbitrary documents: references may be missing or go in circles.

use clap::Args;
use serde_json::Value;
use underpass_shared::resource::kind::Kind;

use super::{
    GlobalArgs, Outcome,
    fields::list,
    kinds::{KindWord, group_of, version_of},
    print::{Console, clean, clean_line, text},
};

/// How many references may lead from one to the next.
const REFERENCES_MAX: usize = 16;
/// How deep `--recursive` goes; schemas that contain themselves have no end.
const DEPTH_MAX: usize = 24;
/// The most fields that one page shows, for the same reason.
const FIELDS_MAX: usize = 20_000;
/// Where lines of descriptions are broken; kubectl's.
const LINE_CHARS: usize = 80;

/// What is explained.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// A kind, or a field of it: httproute.spec.rules
    #[arg(value_name = "KIND[.FIELD...]")]
    pub path: String,
    /// All fields below it, without descriptions
    #[arg(long)]
    pub recursive: bool,
    /// Another of the kind's versions: gateway.apoxy.dev/v1
    #[arg(long, value_name = "GROUP/VERSION")]
    pub api_version: Option<String>,
}

/// `underpass explain`.
pub(crate) async fn run(global: &GlobalArgs, args: &ExplainArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let (word, fields) = args.path.split_once('.').unwrap_or((&args.path, ""));
    let word: KindWord = word.parse().map_err(anyhow::Error::msg)?;
    let api_version = match &args.api_version {
        None => word.api_version,
        Some(wanted) => word.kind.info().api_versions.iter().find(|version| *version == wanted).ok_or_else(|| {
            let served = word.kind.info().api_versions.join(", ");
            anyhow::anyhow!("{} is not served as `{wanted}`: write one of {served}", word.kind.info().name)
        })?,
    };
    let (mut client, _) = global.connect()?;
    let root = if api_version.contains('/') { "apis" } else { "api" };
    let document = client.get(&client.in_project(&format!("/openapi/v3/{root}/{api_version}"))).await?;
    let fields: Vec<&str> = fields.split('.').filter(|field| !field.is_empty()).collect();
    let page = explain(&document, word.kind, api_version, &fields, args.recursive)?;
    write!(console.out, "{}", clean(&page))?;
    Ok(Outcome::Done)
}

fn explain(
    document: &Value,
    kind: Kind,
    api_version: &str,
    path: &[&str],
    is_recursive: bool,
) -> anyhow::Result<String> {
    let schemas = Schemas(&document["components"]["schemas"]);
    let kind = kind.info().name;
    let mut at = schemas.of_kind(kind, api_version).ok_or_else(|| {
        anyhow::anyhow!("the relay's OpenAPI document for {api_version} does not describe {kind}: is the relay older?")
    })?;
    let mut named = at;
    for (index, field) in path.iter().enumerate() {
        let inner = schemas.inner(at);
        let (found, schema) = schemas.field(inner, field).ok_or_else(|| {
            let place = [&[kind], &path[..index]].concat().join(".");
            let known: Vec<&str> = schemas.fields(inner).map(|(name, _)| name).collect();
            let known = if known.is_empty() { "has no fields".to_owned() } else { format!("has {}", known.join(", ")) };
            anyhow::anyhow!("field `{field}` does not exist: {place} {known}")
        })?;
        (at, named) = (found, schema);
    }

    let mut page = String::new();
    if !group_of(api_version).is_empty() {
        page += &format!("GROUP:      {}\n", group_of(api_version));
    }
    page += &format!("KIND:       {kind}\nVERSION:    {}\n\n", version_of(api_version));
    if let Some(field) = path.last() {
        page += &format!("FIELD: {field} <{}>\n", schemas.type_of(named));
        page += &extras(at, named, "");
        page.push('\n');
    }
    page += "DESCRIPTION:\n";
    let description = schemas.description(named);
    page += &wrapped(if description.is_empty() { "<empty>" } else { description }, "    ");
    let inner = schemas.inner(at);
    if schemas.fields(inner).next().is_some() {
        page += "\nFIELDS:\n";
        let mut listing = Listing { schemas, is_recursive, page: String::new(), fields: 0 };
        listing.add(inner, 1);
        page += &listing.page;
    }
    Ok(page + "\n")
}

/// Enumeration and default of a field.
fn extras(at: &Value, named: &Value, indent: &str) -> String {
    let mut lines = String::new();
    let of = |name: &str| if named[name].is_null() { &at[name] } else { &named[name] };
    let values: Vec<String> = list(of("enum")).iter().map(plain).collect();
    if !values.is_empty() {
        lines += &format!("{indent}enum: {}\n", clean_line(&values.join(", ")));
    }
    if !of("default").is_null() {
        lines += &format!("{indent}default: {}\n", clean_line(&plain(of("default"))));
    }
    lines
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

struct Listing<'a> {
    schemas: Schemas<'a>,
    is_recursive: bool,
    page: String,
    fields: usize,
}

impl Listing<'_> {
    fn add(&mut self, schema: &Value, depth: usize) {
        let schemas = self.schemas;
        let required = list(&schema["required"]);
        for (name, named) in schemas.fields(schema) {
            self.fields += 1;
            if self.fields > FIELDS_MAX {
                return;
            }
            let indent = "  ".repeat(depth);
            let mark = if required.iter().any(|field| field == name) { " -required-" } else { "" };
            self.page += &format!("{indent}{}\t<{}>{mark}\n", clean_line(name), schemas.type_of(named));
            let at = schemas.resolve(named);
            if self.is_recursive {
                if depth < DEPTH_MAX {
                    self.add(schemas.inner(at), depth + 1);
                }
                continue;
            }
            self.page += &extras(at, named, &indent);
            let description = schemas.description(named);
            let description = if description.is_empty() { "<no description>" } else { description };
            self.page += &wrapped(description, "    ");
            self.page.push('\n');
        }
    }
}

#[derive(Clone, Copy)]
struct Schemas<'a>(&'a Value);

impl<'a> Schemas<'a> {
    fn of_kind(self, kind: &str, api_version: &str) -> Option<&'a Value> {
        let is_it = |name: &&Value| {
            list(&name["x-kubernetes-group-version-kind"]).iter().any(|name| {
                name["kind"] == kind
                    && text(&name["group"]) == group_of(api_version)
                    && name["version"] == version_of(api_version)
            })
        };
        self.0.as_object()?.values().find(is_it)
    }

    /// What a schema refers to, by itself or by the only part of its `allOf`.
    fn resolve(self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        for _ in 0..REFERENCES_MAX {
            match self.reference(schema).and_then(|name| self.0.get(name)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    fn reference(self, schema: &'a Value) -> Option<&'a str> {
        let only = match list(&schema["allOf"]) {
            [only] => only,
            _ => schema,
        };
        only["$ref"].as_str().or_else(|| schema["$ref"].as_str())?.strip_prefix("#/components/schemas/")
    }

    /// The schema whose fields people mean: of a list its items', of a map its values'.
    fn inner(self, schema: &'a Value) -> &'a Value {
        let mut schema = self.resolve(schema);
        for _ in 0..REFERENCES_MAX {
            schema = match (&schema["items"], &schema["additionalProperties"]) {
                (items @ Value::Object(_), _) => self.resolve(items),
                (_, values @ Value::Object(_)) => self.resolve(values),
                _ => break,
            };
        }
        schema
    }

    fn fields(self, schema: &'a Value) -> impl Iterator<Item = (&'a str, &'a Value)> {
        schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| (name.as_str(), schema))
    }

    /// The field's schema, and the same as it is written where the field is.
    fn field(self, schema: &'a Value, name: &str) -> Option<(&'a Value, &'a Value)> {
        let named = schema["properties"].get(name)?;
        Some((self.resolve(named), named))
    }

    /// The words at the field itself come before those of what it refers to.
    fn description(self, schema: &'a Value) -> &'a str {
        match text(&schema["description"]) {
            "" => text(&self.resolve(schema)["description"]),
            own => own,
        }
    }

    fn type_of(self, schema: &'a Value) -> String {
        let mut prefix = String::new();
        let mut schema = schema;
        for _ in 0..REFERENCES_MAX {
            if let Some(name) = self.reference(schema) {
                let target = self.resolve(schema);
                if target["properties"].is_object() {
                    let short = name.rsplit(['.', '/']).next().unwrap_or(name);
                    return prefix + &clean_line(short);
                }
                schema = target;
            }
            match (&schema["items"], &schema["additionalProperties"]) {
                (items @ Value::Object(_), _) => {
                    prefix += "[]";
                    schema = items;
                }
                (_, values @ Value::Object(_)) => {
                    prefix += "map[string]";
                    schema = values;
                }
                _ => break,
            }
        }
        if schema["x-kubernetes-int-or-string"] == true {
            return prefix + "IntOrString";
        }
        match text(&schema["type"]) {
            "" | "object" => prefix + "Object",
            other => prefix + &clean_line(other),
        }
    }
}

/// The text's paragraphs, broken into lines.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent.len() + line.chars().count() + 1 + word.chars().count() > LINE_CHARS {
                lines += &format!("{indent}{line}\n");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines += format!("{indent}{line}").trim_end();
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cli::testing::Relay;

    fn document() -> Value {
        json!({"components": {"schemas": {
            "dev.apoxy.core.v1alpha.TunnelNode": {
                "type": "object", "description": "A place.",
                "x-kubernetes-group-version-kind": [{"group": "core.apoxy.dev", "version": "v1alpha", "kind": "TunnelNode"}],
                "properties": {
                    "metadata": {"allOf": [{"$ref": "#/components/schemas/io.k8s.ObjectMeta"}], "description": "Who it is.", "default": {}},
                    "spec": {"$ref": "#/components/schemas/Spec"}}},
            "io.k8s.ObjectMeta": {"type": "object", "description": "Any object's.", "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "Spec": {"type": "object", "required": ["mode"], "description": "What it should be.", "properties": {
                "mode": {"type": "string", "enum": ["A", "B"], "default": "A",
                    "description": "word ".repeat(20) + "\n\nsecond"},
                "port": {"x-kubernetes-int-or-string": true},
                "peers": {"type": "array", "items": {"$ref": "#/components/schemas/Spec"}}}}}}})
    }

    fn page(path: &[&str], is_recursive: bool) -> String {
        explain(&document(), Kind::TunnelNode, "core.apoxy.dev/v1alpha", path, is_recursive).unwrap()
    }

    #[test]
    fn a_kind_is_explained() {
        assert_eq!(
            page(&[], false),
            "\
GROUP:      core.apoxy.dev
KIND:       TunnelNode
VERSION:    v1alpha

DESCRIPTION:
    A place.

FIELDS:
  metadata\t<ObjectMeta>
  default: {}
    Who it is.

  spec\t<Spec>
    What it should be.


"
        );
    }

    #[test]
    fn a_field_is_explained() {
        let text = page(&["spec", "peers"], false);
        assert!(text.contains("FIELD: peers <[]Spec>\n\nDESCRIPTION:\n    <empty>\n"), "{text}");
        assert!(text.contains("  mode\t<string> -required-\n  enum: A, B\n  default: A\n    word word"), "{text}");
        assert!(text.contains("  port\t<IntOrString>\n    <no description>\n"), "{text}");
        assert!(text.contains("\n\n    second\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= LINE_CHARS), "{text}");
        let text = page(&["spec", "mode"], false);
        assert!(text.contains("FIELD: mode <string>\nenum: A, B\ndefault: A\n\nDESCRIPTION:"), "{text}");
        assert!(!text.contains("FIELDS"), "{text}");
        assert!(page(&["metadata", "labels"], false).contains("FIELD: labels <map[string]string>"));
    }

    #[test]
    fn all_fields_are_listed_and_circles_end() {
        let text = page(&[], true);
        assert!(text.contains(
            "  metadata\t<ObjectMeta>\n    labels\t<map[string]string>\n  spec\t<Spec>\n    mode\t<string> -required-\n"
        ));
        assert!(text.lines().count() < 200);
    }

    #[test]
    fn unknown_fields_come_with_the_known_ones() {
        let error = |path: &[&str]| {
            explain(&document(), Kind::TunnelNode, "core.apoxy.dev/v1alpha", path, false).unwrap_err().to_string()
        };
        assert_eq!(error(&["spec", "x"]), "field `x` does not exist: TunnelNode.spec has mode, peers, port");
        assert_eq!(error(&["spec", "mode", "x"]), "field `x` does not exist: TunnelNode.spec.mode has no fields");
        let error = explain(&json!({}), Kind::Proxy, "core.apoxy.dev/v1alpha2", &[], false).unwrap_err().to_string();
        assert!(error.contains("does not describe Proxy"), "{error}");
    }

    #[tokio::test]
    async fn the_relays_document_of_the_version_is_read() {
        let relay = Relay::start().await;
        relay.put("/openapi/v3/apis/core.apoxy.dev/v1alpha", &document());
        assert!(relay.ok("explain tn.spec.mode").await.contains("enum: A, B"));
        relay.put("/projects/acme/openapi/v3/apis/core.apoxy.dev/v1alpha", &document());
        assert!(relay.ok("explain tunnelnodes --project acme --recursive").await.contains("mode"));
        let run = relay.run("explain tn --api-version v9", "").await;
        assert_eq!(run.err, "error: TunnelNode is not served as `v9`: write one of core.apoxy.dev/v1alpha\n");
    }

    proptest! {
        #[test]
        fn hostile_documents_are_survived(name in "[AB]", target in "[A-C]", list in any::<bool>(), own in any::<bool>()) {
            let reference = json!({"$ref": format!("#/components/schemas/{target}")});
            let schema = if list { json!({"items": reference}) } else { reference.clone() };
            let kind = json!([{"group": "core.apoxy.dev", "version": "v1alpha", "kind": "TunnelNode"}]);
            let mut schemas = json!({"A": schema, "B": reference, "C": 5, "K": {"properties": {"f": schema}}});
            schemas[&name]["properties"] = json!({"g": if own { &schema } else { &reference }});
            schemas["K"]["x-kubernetes-group-version-kind"] = kind;
            let document = json!({"components": {"schemas": schemas}});
            for path in [&[][..], &["f"], &["f", "g"]] {
                let _ = explain(&document, Kind::TunnelNode, "core.apoxy.dev/v1alpha", path, true);
            }
        }
    }
}
