use std::collections::BTreeSet;

use http_body_util::BodyExt as _;
use proptest::prelude::*;

use super::{
    super::{
        discovery, exchange,
        options::Options,
        path::{self, Target},
    },
    components::TOKEN_REQUEST,
    *,
};
use crate::schema;

fn v3_of(api_version: &'static str) -> Value {
    v3::document(Breadth::Deployment, api_version)
}

/// Every document of v3 of the whole deployment.
fn all_v3() -> impl Iterator<Item = (&'static str, Value)> {
    api_versions().map(|api_version| (api_version, v3_of(api_version)))
}

fn v2_of_all() -> Value {
    Value::Object(v2::document(Breadth::Deployment))
}

/// Every object in `value`.
fn each<'a>(value: &'a Value, then: &mut dyn FnMut(&'a Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            then(fields);
            fields.values().for_each(|inner| each(inner, then));
        }
        Value::Array(items) => items.iter().for_each(|inner| each(inner, then)),
        _ => {}
    }
}

/// Path, method and operation, for each of `document`.
fn operations_of(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters");
        methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// The names of an operation's parameters of the query.
fn query(operation: &Value) -> Vec<&str> {
    let parameters = operation["parameters"].as_array().unwrap().iter();
    parameters.filter(|parameter| parameter["in"] == "query").map(|known| known["name"].as_str().unwrap()).collect()
}

/// The schema that says it is of this kind, as clients look for it.
fn schema_of<'a>(schemas: &'a Value, gvk: &Value) -> Option<&'a Value> {
    let is_it = |schema: &&Value| {
        schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|list| list.iter().any(|known| known == gvk))
    };
    schemas.as_object().unwrap().values().find(is_it)
}

#[test]
fn every_kind_has_a_schema_and_says_which_queries_its_writes_take() {
    let v2 = v2_of_all();
    for (api_version, document) in all_v3() {
        for info in KINDS.iter().filter(|info| info.api_versions.contains(&api_version)) {
            let gvk = group_version_kind(api_version, info.name);
            for (document, schemas) in [(&document, &document["components"]["schemas"]), (&v2, &v2["definitions"])] {
                let schema = schema_of(schemas, &gvk).unwrap_or_else(|| panic!("{gvk} has no schema"));
                assert_eq!(schema["description"], schema::of(info.kind).root().description, "{gvk}");
                let list = group_version_kind(api_version, &format!("{}List", info.name));
                assert!(schema_of(schemas, &list).is_some(), "{list}");

                let of_kind = |wanted: &'static str| {
                    let all = operations_of(document).filter(move |(_, method, _)| *method == wanted);
                    let own = all.filter(|(path, _, operation)| {
                        operation["x-kubernetes-group-version-kind"] == gvk && !path.ends_with("/log")
                    });
                    own.map(|(_, _, operation)| operation)
                };
                let writes = ["post", "put", "patch"].map(|method| of_kind(method).map(query).collect::<Vec<_>>());
                if discovery::verbs(info.kind).contains(&"patch") {
                    assert_eq!(writes[2].len(), if info.has_status { 2 } else { 1 }, "{gvk}");
                    assert!(writes[2].iter().all(|query| query.contains(&"force")), "{gvk}");
                    assert!(writes.iter().all(|queries| !queries.is_empty()), "{gvk}");
                }
                for query in writes.iter().flatten() {
                    let wanted = ["dryRun", "fieldManager", "fieldValidation"];
                    assert!(wanted.iter().all(|name| query.contains(name)), "{gvk}: {query:?}");
                }
            }
        }
    }
}

/// The paths by which `kubectl explain` finds the kind of a resource's name, and those of every verb.
#[test]
fn patches_are_offered_in_the_forms_that_are_taken() {
    for (api_version, path, takes_strategic) in [
        ("v1", "/api/v1/namespaces/{namespace}/configmaps/{name}", true),
        ("core.apoxy.dev/v1alpha2", "/apis/core.apoxy.dev/v1alpha2/namespaces/{namespace}/backends/{name}", false),
    ] {
        let patch = &v3_of(api_version)["paths"][path]["patch"];
        let forms = patch["requestBody"]["content"].as_object().unwrap();
        assert!(forms.contains_key("application/merge-patch+json"), "{path}: {forms:?}");
        assert_eq!(forms.contains_key("application/strategic-merge-patch+json"), takes_strategic, "{path}");
    }
}

#[test]
fn every_verb_that_discovery_tells_of_is_an_operation() {
    for (api_version, document) in all_v3() {
        let root = if api_version == CORE { "/api/v1".to_owned() } else { format!("/apis/{api_version}") };
        for info in KINDS.iter().filter(|info| info.api_versions.contains(&api_version)) {
            let namespace = if info.scope == Scope::Namespaced { "/namespaces/{namespace}" } else { "" };
            let collection = &document["paths"][format!("{root}{namespace}/{}", info.plural)];
            let item = &document["paths"][format!("{root}{namespace}/{}/{{name}}", info.plural)];
            for verb in discovery::verbs(info.kind) {
                let (operation, action) = match *verb {
                    "create" => (&collection["post"], "post"),
                    "list" | "watch" => (&collection["get"], "list"),
                    "deletecollection" => (&collection["delete"], "deletecollection"),
                    "update" => (&item["put"], "put"),
                    other => (&item[other], other),
                };
                assert_eq!(operation["x-kubernetes-action"], action, "{} {verb}", info.name);
            }
            assert_eq!(document["paths"][format!("{root}/{}", info.plural)]["get"]["x-kubernetes-action"], "list");
            let status = &document["paths"][format!("{root}{namespace}/{}/{{name}}/status", info.plural)];
            assert_eq!(status["patch"].is_object(), info.has_status, "{}", info.name);
        }
    }
}

#[test]
fn all_references_lead_somewhere() {
    let check = |document: &Value| {
        let mut count = 0;
        each(document, &mut |fields| {
            let Some(target) = fields.get("$ref") else { return };
            let pointer = target.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some_and(Value::is_object), "{target}");
            count += 1;
        });
        assert!(count > 5);
    };
    all_v3().for_each(|(_, document)| check(&document));
    check(&v2_of_all());
}

#[test]
fn operations_are_told_apart_and_say_what_their_paths_hold() {
    let v2 = v2_of_all();
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations_of(&v2) {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap()),
            "{method} {path}: {}",
            operation["operationId"]
        );
        assert_ne!(operation["description"], "", "{method} {path}");
        let named = v2["paths"][path]["parameters"].as_array().map_or(0, Vec::len);
        assert_eq!(named, path.matches('{').count(), "{path}");
        let names: BTreeSet<_> = query(operation).into_iter().collect();
        assert_eq!(names.len(), query(operation).len(), "{method} {path}");
    }
    assert_eq!(ids.len(), all_v3().map(|(_, document)| operations_of(&document).count()).sum::<usize>());
}

/// Each parameter that is told of is one that is taken.
#[test]
fn parameters_are_those_that_the_api_knows() {
    for (path, method, operation) in operations_of(&v2_of_all()) {
        let kind = KINDS.iter().find(|info| operation["x-kubernetes-group-version-kind"]["kind"] == info.name);
        for name in query(operation) {
            let value = ["true", "1", "All", "Strict", "Exact", "Orphan", "metadata.name=a"].into_iter();
            let mut value = value.map(|value| format!("{name}={value}&watch=true"));
            let kind = kind.map(|info| info.kind);
            assert!(value.any(|query| Options::parse(&query, kind).is_ok()), "{method} {path}: {name}");
        }
    }
}

#[test]
fn names_are_those_of_kubernetes() {
    for (api_version, kind, want) in [
        ("v1", "ConfigMap", "io.k8s.api.core.v1.ConfigMap"),
        ("apps/v1", "Deployment", "io.k8s.api.apps.v1.Deployment"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "io.k8s.api.rbac.v1.ClusterRoleBinding"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "io.k8s.networking.gateway.v1.HTTPRoute"),
        ("core.apoxy.dev/v1alpha2", "Backend", "dev.apoxy.core.v1alpha2.Backend"),
        (TOKEN_REQUEST.0, TOKEN_REQUEST.1, "io.k8s.api.authentication.v1.TokenRequest"),
    ] {
        assert_eq!(components::name(api_version, kind), want);
        if api_version != TOKEN_REQUEST.0 {
            assert!(v3_of(api_version)["components"]["schemas"][want].is_object(), "{want}");
        }
    }
    let core = v3_of(CORE);
    let body = &core["paths"]["/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"]["post"]["requestBody"];
    let target = &body["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(target, "#/components/schemas/io.k8s.api.authentication.v1.TokenRequest");
}

#[test]
fn a_field_is_shown_with_what_is_known_of_it() {
    let core = v3_of(CORE);
    let service = &core["components"]["schemas"]["io.k8s.api.core.v1.Service"]["properties"];
    assert_eq!(service["metadata"]["allOf"][0]["$ref"], format!("#/components/schemas/{}", components::OBJECT_META));
    let ports = &service["spec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-type"], "map");
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["items"]["properties"]["protocol"]["default"], "TCP");
    assert_eq!(ports["items"]["properties"]["targetPort"]["x-kubernetes-int-or-string"], true);

    let v2 = v2_of_all();
    let service = &v2["definitions"]["io.k8s.api.core.v1.Service"]["properties"];
    assert_eq!(service["metadata"]["$ref"], format!("#/definitions/{}", components::OBJECT_META));
    let ports = &service["spec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["items"]["properties"]["targetPort"]["format"], "int-or-string");
}

/// What the clients' reader of v2 refuses (kube-openapi, `pkg/util/proto`), and words that v2 does not have.
#[test]
fn the_second_version_says_only_what_its_readers_understand() {
    fn check(schema: &Value, place: &str) {
        let fields = schema.as_object().unwrap();
        for word in ["oneOf", "anyOf", "allOf", "not", "nullable", "x-kubernetes-validations"] {
            assert!(!fields.contains_key(word), "{place}: {word}");
        }
        let form = fields.get("type").map(|form| form.as_str().unwrap());
        if fields.contains_key("$ref") {
            assert!(form.is_none() && !fields.contains_key("properties"), "{place}");
        }
        match form {
            Some("array") => check(&fields["items"], &format!("{place}[]")),
            Some("object" | "string" | "integer" | "number" | "boolean") => assert!(!fields.contains_key("items")),
            None => assert!(!fields.contains_key("properties") && !fields.contains_key("items"), "{place}"),
            Some(other) => panic!("{place}: {other}"),
        }
        for (name, inner) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            check(inner, &format!("{place}.{name}"));
        }
        if let Some(inner) = fields.get("additionalProperties") {
            check(inner, &format!("{place}[]"));
        }
    }
    let v2 = v2_of_all();
    for (name, schema) in v2["definitions"].as_object().unwrap() {
        check(schema, name);
    }
    let open = &v2["definitions"]["io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"];
    assert!(open["type"] == "object" && open["properties"].is_null(), "{open}");
}

#[test]
fn a_project_is_not_told_of_projects() {
    for breadth in [Breadth::Deployment, Breadth::Project] {
        let is_told = breadth == Breadth::Deployment;
        let name = "dev.apoxy.core.v1alpha2.Project";
        let document = v3::document(breadth, "core.apoxy.dev/v1alpha2");
        assert_eq!(document["components"]["schemas"][name].is_object(), is_told);
        assert_eq!(document["paths"]["/apis/core.apoxy.dev/v1alpha2/projects"].is_object(), is_told);
        assert_eq!(v2::document(breadth)["definitions"][name].is_object(), is_told);
    }
}

#[test]
fn a_document_that_the_client_has_is_not_sent_again() {
    let tagged = |value: &'static str| HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
    let tag = "\"A1\"";
    for (value, want) in [
        ("\"A1\"", true),
        ("W/\"A1\"", true),
        ("\"B2\", \"A1\"", true),
        ("*", true),
        ("\"B2\"", false),
        ("A1", false),
        ("", false),
    ] {
        assert_eq!(is_known(&tagged(value), tag), want, "{value}");
    }
    assert!(!is_known(&HeaderMap::new(), tag));
    let first = document_v3(Breadth::Deployment, CORE).unwrap();
    assert_eq!(first.hash, Document::new(JSON, v3_of(CORE).to_string().into_bytes()).hash);
    assert_eq!(first.bytes, document_v3(Breadth::Project, CORE).unwrap().bytes);
    assert!(document_v3(Breadth::Project, "core.apoxy.dev/v9").is_none());
}

async fn sent(done: Result<Done, Failure>) -> (http::response::Parts, Bytes) {
    let (parts, body) = exchange::respond(done.unwrap()).into_parts();
    (parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn the_index_leads_to_documents_inside_the_project() {
    let headers = HeaderMap::new();
    let shop = Reach::Project("shop".parse().unwrap());
    for (reach, prefix) in [(Reach::Deployment, ""), (shop, "/projects/shop")] {
        let (_, body) = sent(v3_index(&reach, &headers)).await;
        let index: Value = serde_json::from_slice(&body).unwrap();
        let paths = index["paths"].as_object().unwrap();
        assert_eq!(paths.len(), api_versions().count());
        for (path, entry) in paths {
            let url = entry["serverRelativeURL"].as_str().unwrap();
            let (found, hash) = url.split_once("?hash=").unwrap();
            assert_eq!(found, format!("{prefix}/openapi/v3/{path}"));
            let Ok(Target::OpenApiV3 { scope, api_version }) = path::parse(found) else { panic!("{found}") };
            assert_eq!(scope, reach);
            let (parts, body) = sent(v3(&scope, api_version, &headers)).await;
            assert_eq!(parts.headers[header::ETAG], format!("\"{hash}\""));
            let document: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["openapi"], "3.0.0", "{path}");
        }
    }
}

#[tokio::test]
async fn the_second_version_comes_in_the_form_that_is_asked_for() {
    let accept = |value: &'static str| HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]);
    for (value, want) in [
        ("application/json", JSON),
        ("*/*", JSON),
        ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF),
        ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf, application/json", PROTOBUF),
        ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", JSON),
    ] {
        let (parts, body) = sent(v2(&Reach::Deployment, &accept(value))).await;
        assert_eq!(parts.headers[header::CONTENT_TYPE], want, "{value}");
        assert_eq!(body.starts_with(b"{"), want == JSON, "{value}");
        assert_eq!(parts.headers[header::CACHE_CONTROL], "private, no-cache");
        assert_eq!(parts.headers[header::VARY], "accept, authorization");

        let mut again = accept(value);
        again.insert(header::IF_NONE_MATCH, parts.headers[header::ETAG].clone());
        let (parts, body) = sent(v2(&Reach::Deployment, &again)).await;
        assert_eq!((parts.status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{value}");
        assert!(parts.headers.contains_key(header::ETAG));
    }
    let refused = |done: Result<Done, Failure>| done.err().unwrap().code;
    assert_eq!(refused(v2(&Reach::Deployment, &accept("text/html"))), StatusCode::NOT_ACCEPTABLE);
    let protobuf = accept("application/com.github.proto-openapi.spec.v3@v1.0+protobuf");
    assert_eq!(refused(v3(&Reach::Deployment, CORE, &protobuf)), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(refused(v3_index(&Reach::Deployment, &protobuf)), StatusCode::NOT_ACCEPTABLE);
}

/// What protocol buffers hold, read without knowing what they mean.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Fixed(f64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Varint(varint(&mut bytes)),
            1 => {
                let (fixed, rest) = bytes.split_at(8);
                bytes = rest;
                Field::Fixed(f64::from_le_bytes(fixed.try_into().unwrap()))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (inner, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(inner)
            }
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

/// The messages in the fields `number` of `message`.
fn inner(message: &[u8], number: u64) -> Vec<&[u8]> {
    let all = fields(message).into_iter().filter(|(found, _)| *found == number);
    all.map(|(_, field)| if let Field::Bytes(bytes) = field { bytes } else { panic!("{field:?}") }).collect()
}

fn text(message: &[u8], number: u64) -> String {
    inner(message, number).first().map(|bytes| str::from_utf8(bytes).unwrap().to_owned()).unwrap_or_default()
}

/// The message of pairs' value of this name.
fn named<'a>(pairs: &[&'a [u8]], name: &str) -> &'a [u8] {
    let pair = pairs.iter().find(|pair| text(pair, 1) == name).unwrap_or_else(|| panic!("no {name}"));
    inner(pair, 2)[0]
}

fn extension(extensions: &[&[u8]], name: &str) -> Value {
    serde_json::from_str(&text(named(extensions, name), 2)).unwrap()
}

/// `openapi.v2.Schema` as the JSON that it stands for.
fn schema_json(message: &[u8]) -> Value {
    const TEXTS: [(u64, &str); 5] = [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")];
    const NUMBERS: [(u64, &str); 8] = [
        (7, "maximum"),
        (9, "minimum"),
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ];
    let any = |bytes: &[u8]| serde_json::from_str::<Value>(&text(bytes, 2)).unwrap();
    let mut read = Map::new();
    let push = |read: &mut Map<String, Value>, name: &str, value: Value| {
        let list = read.entry(name.to_owned()).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(value);
    };
    for (number, field) in fields(message) {
        let name = TEXTS.iter().chain(&NUMBERS).find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned());
        match (field, name) {
            (Field::Bytes(bytes), Some(name)) => drop(read.insert(name, json!(str::from_utf8(bytes).unwrap()))),
            (Field::Varint(value), Some(name)) => drop(read.insert(name, json!(value as i64))),
            (Field::Fixed(value), Some(name)) => drop(read.insert(name, json!(value))),
            (Field::Bytes(bytes), None) => match number {
                5 => drop(read.insert("default".to_owned(), any(bytes))),
                19 => push(&mut read, "required", json!(str::from_utf8(bytes).unwrap())),
                20 => push(&mut read, "enum", any(bytes)),
                21 => drop(read.insert("additionalProperties".to_owned(), schema_json(inner(bytes, 1)[0]))),
                22 => drop(read.insert("type".to_owned(), json!(text(bytes, 1)))),
                23 => drop(read.insert("items".to_owned(), schema_json(inner(bytes, 1)[0]))),
                25 => {
                    let pairs = inner(bytes, 1).into_iter();
                    let properties = pairs.map(|pair| (text(pair, 1), schema_json(inner(pair, 2)[0]))).collect();
                    read.insert("properties".to_owned(), Value::Object(properties));
                }
                31 => drop(read.insert(text(bytes, 1), any(inner(bytes, 2)[0]))),
                other => panic!("field {other}"),
            },
            (other, None) => panic!("field {number}: {other:?}"),
        }
    }
    Value::Object(read)
}

/// Numbers of `minimum` and `maximum` are floating in one form and whole in the other.
fn floating(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else { return schema.clone() };
    let all = fields.iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("minimum" | "maximum", value) if value.is_number() => json!(value.as_f64()),
            ("properties", Value::Object(all)) => {
                all.iter().map(|(name, inner)| (name.clone(), floating(inner))).collect()
            }
            ("items" | "additionalProperties", inner) => floating(inner),
            _ => value.clone(),
        };
        (name.clone(), value)
    });
    all.collect()
}

#[test]
fn protobuf_holds_every_definition_as_it_is_in_json() {
    let v2 = v2_of_all();
    let message = proto::encode(v2.as_object().unwrap());
    assert_eq!(text(&message, 1), "2.0");
    assert_eq!(text(inner(&message, 2)[0], 1), "Underpass");
    let definitions = inner(inner(&message, 9)[0], 1);
    assert_eq!(definitions.len(), v2["definitions"].as_object().unwrap().len());
    for pair in definitions {
        let name = text(pair, 1);
        assert_eq!(schema_json(inner(pair, 2)[0]), floating(&v2["definitions"][&name]), "{name}");
    }
}

/// The fields that clients read to see whether a dry run is possible.
#[test]
fn protobuf_holds_every_operation_and_its_parameters() {
    let v2 = v2_of_all();
    let message = proto::encode(v2.as_object().unwrap());
    let paths = inner(inner(&message, 8)[0], 2);
    assert_eq!(paths.len(), v2["paths"].as_object().unwrap().len());
    for (path, method, want) in operations_of(&v2) {
        let item = named(&paths, path);
        let number = [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)];
        let number = number.iter().find(|(known, _)| *known == method).unwrap().1;
        let operation = inner(item, number)[0];
        assert_eq!(text(operation, 5), want["operationId"], "{method} {path}");
        let extensions = inner(operation, 13);
        for name in ["x-kubernetes-group-version-kind", "x-kubernetes-action"] {
            assert_eq!(extension(&extensions, name), want[name], "{method} {path}");
        }
        let parameters: Vec<&[u8]> = inner(operation, 8).into_iter().map(|parameter| inner(parameter, 1)[0]).collect();
        let of_query = parameters.iter().flat_map(|parameter| inner(parameter, 2)).flat_map(|known| inner(known, 3));
        assert_eq!(of_query.map(|parameter| text(parameter, 4)).collect::<Vec<_>>(), query(want), "{method} {path}");
        let body = parameters.iter().flat_map(|parameter| inner(parameter, 1)).count();
        assert_eq!(body, usize::from(want["consumes"].is_array()), "{method} {path}");
        let of_path = inner(item, 9).into_iter().map(|parameter| inner(inner(parameter, 1)[0], 2)[0]);
        assert_eq!(of_path.flat_map(|known| inner(known, 4)).count(), path.matches('{').count(), "{path}");
        let responses = inner(inner(operation, 9)[0], 1);
        let failed = inner(named(&responses, "default"), 1)[0];
        let target = text(inner(inner(failed, 2)[0], 1)[0], 1);
        assert_eq!(target, format!("#/definitions/{}", components::STATUS), "{method} {path}");
    }
}

proptest! {
    #[test]
    fn numbers_and_texts_survive_protobuf(value in any::<i64>(), number in any::<f64>(), words in "\\PC{0,300}") {
        let schema = json!({"maxLength": value, "minimum": number, "default": words, "description": words, "x-a": words});
        let document = Map::from_iter([("definitions".to_owned(), json!({ "A": schema }))]);
        let message = proto::encode(&document);
        let pair = inner(inner(&message, 9)[0], 1)[0];
        prop_assert_eq!(schema_json(inner(pair, 2)[0]), schema);
    }

    #[test]
    fn any_list_of_tags_is_read_without_panic(value in "[ -~]{0,60}") {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_str(&value).unwrap())]);
        let _ = is_known(&headers, "\"A1\"");
    }
}
