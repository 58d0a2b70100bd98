//! A group version as a document of OpenAPI v3. Pure.

use serde_json::{Map, Value, json};

use super::{
    Breadth,
    components::{self, STATUS, reference},
    info,
    operations::{self, Content, Operation, Parameter},
};

/// The document of `api_version`.
#[must_use]
pub(super) fn document(breadth: Breadth, api_version: &'static str) -> Value {
    let mut paths = Map::new();
    for operation in operations::of_version(breadth, api_version) {
        let path = paths.entry(operation.path.as_str()).or_insert_with(|| path_item(&operation.path));
        path[operation.method] = write(&operation);
    }
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": { "schemas": components::of_version(breadth, api_version) },
    })
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
        "schema": { "type": parameter.form },
    });
    if place == "path" {
        written["required"] = json!(true);
    }
    written
}

fn write(operation: &Operation) -> Value {
    let query = operation.query.iter().copied().flatten();
    let mut written = json!({
        "description": operation.description,
        "operationId": operation.id,
        "parameters": query.map(|parameter| write_parameter(parameter, "query")).collect::<Vec<_>>(),
        "responses": {
            (operation.code): { "description": "It was done.", "content": content(&operation.answer) },
            "default": {
                "description": "It was not done.",
                "content": { "application/json": { "schema": reference(STATUS) } },
            },
        },
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.kind,
    });
    if let Some(body) = &operation.body {
        written["requestBody"] = json!({ "content": content(&body.content), "required": body.is_required });
    }
    written
}

fn content(content: &Content) -> Value {
    let schema = content.schema.as_ref().map_or_else(|| json!({ "type": "string" }), |name| reference(name));
    content.media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
}
