//! Everything as one document of OpenAPI v2 ("Swagger 2.0"), for clients that do not ask for v3. Pure.
//!
//! It says less: there is no `oneOf` and no `null` in it, and clients that check objects by it take what it does say
//! for all there is. Where that would make them refuse what we accept, it says nothing.

use serde_json::{Map, Value, json};

use super::{
    super::path::api_versions,
    Breadth,
    components::{self, REFERENCE, STATUS},
    info,
    operations::{self, Content, Operation, Parameter},
};

/// Where schemas are in this form of document.
const DEFINITION: &str = "#/definitions/";

/// Keywords that the form does not have, and extensions that stand for what is left away or was said otherwise.
const LEFT_AWAY: &[&str] =
    &["nullable", "anyOf", "oneOf", "not", "allOf", "x-kubernetes-validations", "x-kubernetes-int-or-string"];

/// The document.
#[must_use]
pub(super) fn document(breadth: Breadth) -> Map<String, Value> {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for api_version in api_versions() {
        for operation in operations::of_version(breadth, api_version) {
            let path = paths.entry(operation.path.as_str()).or_insert_with(|| path_item(&operation.path));
            path[operation.method] = write(&operation);
        }
        let schemas = components::of_version(breadth, api_version).into_iter();
        definitions.extend(schemas.map(|(name, schema)| (name, downgrade(&schema))));
    }
    Map::from_iter([
        ("swagger".to_owned(), json!("2.0")),
        ("info".to_owned(), info()),
        ("paths".to_owned(), Value::Object(paths)),
        ("definitions".to_owned(), Value::Object(definitions)),
    ])
}

fn path_item(path: &str) -> Value {
    let named: Vec<Value> = operations::of_path(path).map(|parameter| write_parameter(parameter, "path")).collect();
    if named.is_empty() { json!({}) } else { json!({ "parameters": named }) }
}

fn write_parameter(parameter: &Parameter, place: &str) -> Value {
    let mut written = json!({
        "name": parameter.name,
        "in": place,
        "description": parameter.description,
        "type": parameter.form,
        "uniqueItems": true,
    });
    if place == "path" {
        written["required"] = json!(true);
    }
    written
}

fn write(operation: &Operation) -> Value {
    let query = operation.query.iter().copied().flatten();
    let mut parameters: Vec<Value> = query.map(|parameter| write_parameter(parameter, "query")).collect();
    let mut written = json!({
        "description": operation.description,
        "operationId": operation.id,
        "produces": operation.answer.media,
        "schemes": ["https"],
        "responses": {
            (operation.code): { "description": "It was done.", "schema": schema(&operation.answer) },
            "default": { "description": "It was not done.", "schema": reference(STATUS) },
        },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.kind,
    });
    if let Some(body) = &operation.body {
        written["consumes"] = json!(body.content.media);
        parameters.push(json!({
            "name": "body", "in": "body", "required": body.is_required, "schema": schema(&body.content),
        }));
    }
    written["parameters"] = Value::Array(parameters);
    written
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{DEFINITION}{name}") })
}

fn schema(content: &Content) -> Value {
    content.schema.as_ref().map_or_else(|| json!({ "type": "string" }), |name| reference(name))
}

/// A schema of v3 in the words of v2.
fn downgrade(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else { return schema.clone() };
    let is = |name: &str| fields.get(name) == Some(&Value::Bool(true));
    if let Some(target) = target(fields) {
        return match fields.get("description") {
            Some(words) => json!({ "description": words, "$ref": format!("{DEFINITION}{target}") }),
            None => reference(target),
        };
    }
    let mut written = Map::new();
    for (name, value) in fields {
        let value = match name.as_str() {
            name if LEFT_AWAY.contains(&name) => continue,
            // Absent, `null` or anything else: a client that knows a type would refuse `null`.
            "type" | "format" | "enum" if is("nullable") => continue,
            "properties" | "items" | "additionalProperties" | "required" if is("nullable") => continue,
            // Fields that are not named are kept, and clients would refuse them.
            "properties" | "required" if is("x-kubernetes-preserve-unknown-fields") => continue,
            "properties" => {
                value.as_object().into_iter().flatten().map(|(name, inner)| (name.clone(), downgrade(inner))).collect()
            }
            "items" | "additionalProperties" => downgrade(value),
            _ => value.clone(),
        };
        written.insert(name.clone(), value);
    }
    if is("x-kubernetes-int-or-string") {
        written.insert("type".to_owned(), json!("string"));
        written.insert("format".to_owned(), json!("int-or-string"));
        written.remove("pattern");
    }
    Value::Object(written)
}

/// What the schema refers to, by itself or by the only part of its `allOf`.
fn target(fields: &Map<String, Value>) -> Option<&str> {
    let by = match fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        Some([only]) => only.get("$ref"),
        _ => fields.get("$ref"),
    };
    by?.as_str()?.strip_prefix(REFERENCE)
}
