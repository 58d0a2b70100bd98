//! The writing verbs, as clients see them.

use http::header;

use super::*;

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

impl Served {
    async fn send(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> Answer {
        let mut request = request(method, path, None);
        request.headers_mut().insert(header::CONTENT_TYPE, media.parse().unwrap());
        request.headers_mut().insert(header::USER_AGENT, "tester/1.0 (linux)".parse().unwrap());
        *request.body_mut() = Full::new(body.into());
        self.ask(Some(self.admin()), request).await
    }

    async fn patch(&self, path: &str, media: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, media, body.to_string()).await
    }

    /// An answer that comes piece by piece.
    async fn follow(&self, path: &str) -> Response<Incoming> {
        let stream = TokioIo::new(self.connect(Some(self.admin()), "http/1.1").await);
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request(Method::GET, path, None)).await.unwrap()
    }

    async fn delete_with(&self, path: &str, options: Value) -> Answer {
        self.admin_asks(Method::DELETE, path, Some(options)).await
    }
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn code(answer: &Answer) -> u16 {
    answer.code.as_u16()
}

/// What a refusal says: code and reason.
fn refusal(answer: &Answer) -> (u16, &str) {
    (answer.code.as_u16(), answer.body["reason"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn each_form_of_a_patch_changes_what_it_names() {
    let api = served().await;
    api.post(CONFIG_MAPS, config_map("c", &json!({"a": "1", "b": "2"}))).await;
    let path = format!("{CONFIG_MAPS}/c");
    let patch = json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]);
    let patched = api.patch(&path, JSON_PATCH, &patch).await;
    assert_eq!((code(&patched), &patched.body["data"]), (200, &json!({"b": "2"})));
    let patched = api.patch(&path, MERGE, &json!({"data": {"b": null, "c": "3"}})).await;
    assert_eq!((code(&patched), &patched.body["data"]), (200, &json!({"c": "3"})));
    let finalizers = json!({"metadata": {"finalizers": ["example.com/a"]}});
    api.patch(&path, STRATEGIC, &finalizers).await;
    let finalizers = json!({"metadata": {"finalizers": ["example.com/b"]}});
    let patched = api.patch(&path, STRATEGIC, &finalizers).await;
    let mut merged: Vec<_> = patched.body["metadata"]["finalizers"].as_array().unwrap().clone();
    merged.sort_by_key(ToString::to_string);
    assert_eq!(merged, [json!("example.com/a"), json!("example.com/b")], "{}", patched.body);

    let failed = api.patch(&path, JSON_PATCH, &json!([{"op": "test", "path": "/data/c", "value": "4"}])).await;
    assert_eq!(refusal(&failed), (422, "Invalid"));
    for (media, patch) in [(JSON_PATCH, json!({})), (MERGE, json!([])), (MERGE, json!("x"))] {
        assert_eq!(refusal(&api.patch(&path, media, &patch).await), (400, "BadRequest"), "{patch}");
    }
    assert_eq!(code(&api.patch(&format!("{CONFIG_MAPS}/none"), MERGE, &json!({})).await), 404);
}

#[tokio::test]
async fn bodies_come_in_the_forms_that_a_verb_and_a_kind_know() {
    let api = served().await;
    api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    let path = format!("{BACKENDS}/b");
    for (method, path, media) in [
        (Method::PATCH, path.as_str(), STRATEGIC),
        (Method::PATCH, path.as_str(), JSON),
        (Method::PUT, path.as_str(), MERGE),
        (Method::POST, BACKENDS, JSON_PATCH),
    ] {
        let answer = api.send(method.clone(), path, media, "{}").await;
        assert_eq!(refusal(&answer), (415, "UnsupportedMediaType"), "{method} {media}");
        assert!(answer.message().contains("accepted media types include: application/json"), "{}", answer.message());
    }
    let yaml = "kind: Backend\nmetadata: {name: y}\nspec:\n  endpoints:\n  - ip: 192.0.2.3\n";
    assert_eq!(code(&api.send(Method::POST, BACKENDS, "application/yaml", yaml).await), 201);
}

#[tokio::test]
async fn apply_creates_and_changes_and_tells_of_conflicts() {
    let api = served().await;
    let path = format!("{BACKENDS}/b");
    let yaml = "apiVersion: core.apoxy.dev/v1alpha2\nkind: Backend\nmetadata:\n  name: b\nspec:\n  endpoints:\n  - ip: 192.0.2.1\n";
    let unsigned = api.send(Method::PATCH, &path, APPLY, yaml).await;
    assert_eq!(refusal(&unsigned), (422, "Invalid"));
    assert!(unsigned.message().contains("fieldManager"), "{}", unsigned.message());
    let forced = api.patch(&format!("{path}?force=true"), MERGE, &json!({})).await;
    assert_eq!(refusal(&forced), (422, "Invalid"));

    let first = format!("{path}?fieldManager=first");
    let created = api.send(Method::PATCH, &first, APPLY, yaml).await;
    assert_eq!((code(&created), &created.body["metadata"]["generation"]), (201, &json!(1)));
    let again = api.send(Method::PATCH, &first, APPLY, yaml).await;
    assert_eq!((code(&again), &again.body), (200, &created.body), "applying the same changes nothing");

    let second = format!("{path}?fieldManager=second");
    let other = yaml.replace("192.0.2.1", "192.0.2.2");
    let conflict = api.send(Method::PATCH, &second, APPLY, other.clone()).await;
    assert_eq!(refusal(&conflict), (409, "Conflict"));
    let cause = &conflict.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict");
    assert_eq!(cause["message"], "conflict with \"first\"");
    assert!(conflict.message().starts_with("Apply failed with 1 conflict: "), "{}", conflict.message());
    let forced = api.send(Method::PATCH, &format!("{second}&force=true"), APPLY, other).await;
    assert_eq!(forced.body["spec"]["endpoints"][0]["ip"], "192.0.2.2");

    let unknown = api.send(Method::PATCH, &first, APPLY, yaml.replace("endpoints", "endpoint")).await;
    assert_eq!(refusal(&unknown), (400, "BadRequest"));
    assert!(unknown.message().contains("unknown field \"spec.endpoint\""), "{}", unknown.message());
}

#[tokio::test]
async fn the_status_is_written_by_itself_only() {
    let api = served().await;
    let created = api.post(BACKENDS, backend("b", "192.0.2.1")).await.body;
    let (path, status) = (format!("{BACKENDS}/b"), format!("{BACKENDS}/b/status"));
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Yes", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let wanted = json!({"conditions": [condition]});
    let both = json!({"spec": {"endpoints": []}, "metadata": {"labels": {"a": "b"}}, "status": wanted});
    let ignored = api.patch(&path, MERGE, &json!({"status": wanted})).await;
    assert_eq!(ignored.body["status"], created["status"]);

    let written = api.patch(&status, MERGE, &both).await;
    assert_eq!((code(&written), &written.body["status"]["conditions"]), (200, &json!([condition])));
    assert_eq!(written.body["spec"], created["spec"]);
    assert_eq!(written.body["metadata"]["labels"], Value::Null);
    assert_eq!(written.body["metadata"]["generation"], 1);
    let owners = written.body["metadata"]["managedFields"].as_array().unwrap();
    assert!(owners.iter().any(|owner| owner["subresource"] == "status" && owner["manager"] == "tester"), "{owners:?}");

    let mut emptied = written.body.clone();
    emptied["status"] = json!({});
    assert_eq!(code(&api.put(&path, emptied.clone()).await), 200);
    assert_eq!(api.get(&status).await.body["status"], written.body["status"], "the object's own PUT leaves it");
    let put = api.put(&status, emptied).await;
    assert_eq!((code(&put), &put.body["status"]), (200, &json!({})), "{}", put.body);
    let applied = json!({"status": wanted, "metadata": {"name": "b"}}).to_string();
    let applied = api.send(Method::PATCH, &format!("{status}?fieldManager=me"), APPLY, applied).await;
    assert_eq!((code(&applied), &applied.body["status"]["conditions"]), (200, &json!([condition])));
    assert_eq!(applied.body["spec"], created["spec"]);
    let none = format!("{BACKENDS}/none/status?fieldManager=me");
    assert_eq!(code(&api.send(Method::PATCH, &none, APPLY, "{metadata: {name: none}}").await), 404);
}

#[tokio::test]
async fn a_rehearsal_shows_what_would_be_and_changes_nothing() {
    let api = served().await;
    api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    let path = format!("{BACKENDS}/b");
    let before = api.store.snapshot();
    let dry = |path: &str| format!("{path}?dryRun=All");

    let created = api.post(&dry(BACKENDS), backend("new", "192.0.2.1")).await;
    let metadata = &created.body["metadata"];
    assert_eq!((code(&created), metadata["uid"].is_string(), &metadata["resourceVersion"]), (201, true, &Value::Null));
    let elsewhere = "/api/v1/namespaces/elsewhere/configmaps?dryRun=All";
    assert_eq!(code(&api.post(elsewhere, config_map("c", &json!({}))).await), 201);
    assert_eq!(code(&api.post(&dry(BACKENDS), backend("b", "192.0.2.1")).await), 409);
    let mut moved = api.get(&path).await.body;
    moved["spec"]["endpoints"][0]["ip"] = json!("192.0.2.9");
    let put = api.put(&dry(&path), moved).await;
    assert_eq!((code(&put), &put.body["spec"]["endpoints"][0]["ip"]), (200, &json!("192.0.2.9")));
    assert_eq!(put.body["metadata"]["generation"], 2);
    let patched = api.patch(&dry(&path), MERGE, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(patched.body["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(patched.body["metadata"]["resourceVersion"], api.get(&path).await.body["metadata"]["resourceVersion"]);
    let applied = backend("new", "192.0.2.1").to_string();
    let applied = api.send(Method::PATCH, &format!("{BACKENDS}/new?dryRun=All&fieldManager=me"), APPLY, applied).await;
    assert_eq!(code(&applied), 201);
    let deleted = api.delete(&dry(&path)).await;
    assert_eq!((code(&deleted), &deleted.body["status"]), (200, &json!("Success")));
    assert_eq!(code(&api.delete_with(&path, json!({"dryRun": ["All"]})).await), 200);
    let all = api.delete(&dry(BACKENDS)).await;
    assert_eq!(all.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(*api.store.snapshot(), *before);
}

#[tokio::test]
async fn a_name_is_made_where_a_beginning_of_one_is_given() {
    let api = served().await;
    let mut body = config_map("", &json!({}));
    body["metadata"] = json!({"generateName": "web-"});
    let mut names = Vec::new();
    for _ in 0..3 {
        let created = api.post(CONFIG_MAPS, body.clone()).await;
        assert_eq!((code(&created), &created.body["metadata"]["generateName"]), (201, &json!("web-")));
        names.push(created.body["metadata"]["name"].as_str().unwrap().to_owned());
    }
    for name in &names {
        assert!(name.len() == 9 && name.starts_with("web-"), "{name}");
        assert_eq!(code(&api.get(&format!("{CONFIG_MAPS}/{name}")).await), 200);
    }
    body["metadata"] = json!({});
    let refused = api.post(CONFIG_MAPS, body).await;
    assert_eq!(refusal(&refused), (422, "Invalid"));
    assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn what_finalizers_hold_goes_with_the_last_of_them() {
    let api = served().await;
    let mut held = config_map("c", &json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CONFIG_MAPS, held).await;
    let path = format!("{CONFIG_MAPS}/c");
    let deleted = api.delete(&path).await;
    assert_eq!((code(&deleted), &deleted.body["kind"]), (200, &json!("ConfigMap")));
    assert!(deleted.body["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(api.delete(&path).await.body["metadata"], deleted.body["metadata"], "a second time changes nothing");

    let more =
        api.patch(&path, JSON_PATCH, &json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "a/b"}])).await;
    assert_eq!(refusal(&more), (422, "Invalid"));
    let freed = api.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code(&freed), 200);
    assert_eq!(code(&api.get(&path).await), 404);
}

#[tokio::test]
async fn a_delete_says_which_object_it_means_and_what_becomes_of_dependents() {
    let api = served().await;
    let created = api.post(CONFIG_MAPS, config_map("c", &json!({}))).await.body;
    let path = format!("{CONFIG_MAPS}/c");
    let uid = created["metadata"]["uid"].clone();
    for preconditions in [json!({"uid": "u"}), json!({"uid": uid, "resourceVersion": "1"})] {
        let refused = api.delete_with(&path, json!({"preconditions": preconditions})).await;
        assert_eq!(refusal(&refused), (409, "Conflict"), "{}", refused.body);
    }
    let unknown = api.delete_with(&path, json!({"propagationPolicy": "Sideways"})).await;
    assert_eq!(refusal(&unknown), (422, "Invalid"));
    for (options, want) in [
        (json!({"propagationPolicy": "Foreground"}), json!(["foregroundDeletion"])),
        (json!({"orphanDependents": true}), json!(["orphan"])),
    ] {
        let marked = api.delete_with(&path, options).await;
        assert_eq!((code(&marked), &marked.body["metadata"]["finalizers"]), (200, &want));
    }
    let gone = api.delete_with(&path, json!({"propagationPolicy": "Background", "preconditions": {"uid": uid}})).await;
    assert_eq!((code(&gone), &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(gone.body["details"], json!({"name": "c", "group": "", "kind": "configmaps", "uid": uid}));
    assert_eq!(code(&api.delete(&path).await), 404);
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_selectors_and_limit_say() {
    let api = served().await;
    for n in 0..6 {
        let mut object = config_map(&format!("c{n}"), &json!({}));
        object["metadata"]["labels"] = json!({"even": (n % 2 == 0).to_string()});
        api.post(CONFIG_MAPS, object).await;
    }
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.body["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let deleted = api.delete(&format!("{CONFIG_MAPS}?labelSelector=even%3Dtrue&limit=2")).await;
    assert_eq!((code(&deleted), &deleted.body["kind"]), (200, &json!("ConfigMapList")));
    assert_eq!(names(&deleted), ["c0", "c2"]);
    assert_eq!(names(&api.get(CONFIG_MAPS).await), ["c1", "c3", "c4", "c5"]);
    assert_eq!(names(&api.delete(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc5")).await), ["c5"]);
    assert_eq!(names(&api.delete(CONFIG_MAPS).await), ["c1", "c3", "c4"]);
    assert_eq!(names(&api.get(CONFIG_MAPS).await), [""; 0]);
    let gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways";
    assert_eq!(refusal(&api.delete(gateways).await), (403, "Forbidden"), "what every project keeps is not among them");
}

#[tokio::test]
async fn each_page_says_how_many_follow_unless_there_is_a_selector() {
    let api = served().await;
    for n in 0..7 {
        api.post(CONFIG_MAPS, config_map(&format!("c{n}"), &json!({}))).await;
    }
    for (selector, expected) in
        [("", [json!(4), json!(1), Value::Null]), ("&labelSelector=!x", [(); 3].map(|()| Value::Null))]
    {
        let (mut remaining, mut next) = (Vec::new(), String::new());
        for _ in 0..3 {
            let page = api.get(&format!("{CONFIG_MAPS}?limit=3{selector}{next}")).await.body;
            remaining.push(page["metadata"]["remainingItemCount"].clone());
            next = format!("&continue={}", page["metadata"]["continue"].as_str().unwrap_or_default());
        }
        assert_eq!((remaining.as_slice(), next.as_str()), (&expected[..], "&continue="), "{selector}");
    }
}

#[tokio::test]
async fn a_race_is_run_again_unless_a_version_was_named() {
    let api = served().await;
    let created = api.post(CONFIG_MAPS, config_map("c", &json!({}))).await.body;
    let path = format!("{CONFIG_MAPS}/c");
    let patches = (0..8).map(|n| json!({"data": {format!("k{n}"): "1"}}));
    let answers = futures_util::future::join_all(patches.map(|patch| {
        let (api, path) = (&api, &path);
        async move { api.patch(path, MERGE, &patch).await }
    }));
    let codes: Vec<u16> = answers.await.iter().map(code).collect();
    assert_eq!(codes, [200; 8]);
    assert_eq!(api.get(&path).await.body["data"].as_object().unwrap().len(), 8);

    let version = &created["metadata"]["resourceVersion"];
    let stale = api.patch(&path, MERGE, &json!({"metadata": {"resourceVersion": version}, "data": {"x": "1"}})).await;
    assert_eq!(refusal(&stale), (409, "Conflict"));
    let text = "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your \
                changes to the latest version and try again";
    assert!(stale.message().starts_with(text), "{}", stale.message());
    assert_eq!(code(&api.put(&format!("{CONFIG_MAPS}/none"), config_map("none", &json!({}))).await), 404);
}

#[tokio::test]
async fn string_data_of_a_secret_is_never_shown() {
    let api = served().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"a": "x"}, "type": "Opaque"});
    let created = api.post(secrets, secret).await;
    assert_eq!((code(&created), &created.body["data"]), (201, &json!({"a": "eA=="})));
    let patched = api.patch(&format!("{secrets}/s"), MERGE, &json!({"stringData": {"b": "y"}})).await;
    assert_eq!(patched.body["data"], json!({"a": "eA==", "b": "eQ=="}));
    assert_eq!(patched.body["stringData"], Value::Null);
}

#[tokio::test]
async fn unknown_fields_are_warned_of_when_asked_so() {
    let api = served().await;
    let mut body = backend("b", "192.0.2.1");
    body["spec"]["protocl"] = json!("h2c");
    let warned = api.post(&format!("{BACKENDS}?fieldValidation=Warn"), body.clone()).await;
    assert_eq!(code(&warned), 201);
    assert_eq!(warned.headers[header::WARNING], "299 - \"unknown field 'spec.protocl'\"");
    assert_eq!(warned.body["spec"]["protocl"], Value::Null);
    body["metadata"]["name"] = json!("c");
    let ignored = api.post(&format!("{BACKENDS}?fieldValidation=Ignore"), body.clone()).await;
    assert_eq!((code(&ignored), ignored.headers.get(header::WARNING)), (201, None));
    body["metadata"]["name"] = json!("d");
    assert_eq!(refusal(&api.post(BACKENDS, body).await), (400, "BadRequest"));
}

#[tokio::test]
async fn an_update_names_its_revision_but_of_kubernetes_own_kinds() {
    let api = served().await;
    api.post(BACKENDS, backend("b", "192.0.2.1")).await;
    let path = format!("{BACKENDS}/b");
    for (path, version) in
        [(path.clone(), Value::Null), (path.clone(), json!("0")), (format!("{path}/status"), json!(""))]
    {
        let mut body = backend("b", "192.0.2.2");
        body["metadata"]["resourceVersion"] = version;
        let refused = api.put(&path, body).await;
        assert_eq!(refusal(&refused), (422, "Invalid"));
        let text = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
        assert!(refused.message().ends_with(text), "{}", refused.message());
    }
    let lease = json!({"metadata": {"name": "l"}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    api.post(leases, lease.clone()).await;
    assert_eq!(refusal(&api.put(&format!("{leases}/l"), lease).await), (422, "Invalid"));
    api.post(CONFIG_MAPS, config_map("c", &json!({}))).await;
    assert_eq!(code(&api.put(&format!("{CONFIG_MAPS}/c"), config_map("c", &json!({"a": "1"}))).await), 200);
}

#[tokio::test]
async fn a_body_is_of_the_version_of_its_path() {
    let api = served().await;
    let old = BACKENDS.replace("v1alpha2", "v1alpha");
    let text = "the API version in the data (core.apoxy.dev/v1alpha2) does not match the expected API version \
                (core.apoxy.dev/v1alpha)";
    let refused = api.post(&old, backend("b", "192.0.2.1")).await;
    assert_eq!((refusal(&refused), refused.message()), ((400, "BadRequest"), text));
    let applied = format!("{old}/b?fieldManager=m");
    let refused = api.send(Method::PATCH, &applied, APPLY, backend("b", "192.0.2.1").to_string()).await;
    let text = "Incorrect version specified in apply patch. Specified patch version: core.apoxy.dev/v1alpha2, expected: \
                core.apoxy.dev/v1alpha";
    assert_eq!((refusal(&refused), refused.message()), ((400, "BadRequest"), text));
}

#[tokio::test]
async fn of_fields_that_are_there_twice_the_last_stands_if_the_client_lets_it() {
    let api = served().await;
    let body = |name: &str| {
        let metadata = format!(r#"{{"name":"{name}","labels":{{"x":"1","x":"2"}}}}"#);
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{metadata},"data":{{"a":"1","a":"2"}}}}"#)
    };
    let text = "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \
                \"metadata.labels.x\", duplicate field \"data.a\"";
    for query in ["", "?fieldValidation=Strict"] {
        let refused = api.send(Method::POST, &format!("{CONFIG_MAPS}{query}"), JSON, body("c")).await;
        assert_eq!((refusal(&refused), refused.message()), ((400, "BadRequest"), text));
    }
    let ignored = api.send(Method::POST, &format!("{CONFIG_MAPS}?fieldValidation=Ignore"), JSON, body("c")).await;
    assert_eq!((code(&ignored), ignored.headers.get(header::WARNING)), (201, None));
    assert_eq!(ignored.body["data"], json!({"a": "2"}));
    let path = format!("{CONFIG_MAPS}/c?fieldValidation=Warn&fieldManager=m&force=true");
    for (media, body) in [(MERGE, r#"{"data":{"a":"3","a":"4"}}"#.to_owned()), (APPLY, body("c"))] {
        let path = if media == MERGE { path.replace("&force=true", "") } else { path.clone() };
        let warned = api.send(Method::PATCH, &path, media, body).await;
        assert_eq!(code(&warned), 200, "{}", warned.body);
        let said: Vec<_> =
            warned.headers.get_all(header::WARNING).iter().map(|value| value.to_str().unwrap()).collect();
        assert!(said.contains(&"299 - \"duplicate field 'data.a'\""), "{said:?}");
    }
}

#[tokio::test]
async fn definitions_are_chosen_and_shown_as_other_objects_are() {
    let api = served().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let gateways = "gateways.gateway.networking.k8s.io";
    let one = api.get(&format!("{crds}?fieldSelector=metadata.name%3D{gateways}")).await;
    assert_eq!(one.body["items"].as_array().map(Vec::len), Some(1));
    let definition = &one.body["items"][0];
    assert_eq!(definition["spec"]["names"]["categories"], json!(["gateway-api"]));
    assert_eq!(definition["status"]["acceptedNames"], definition["spec"]["names"]);
    for condition in definition["status"]["conditions"].as_array().unwrap() {
        assert!(condition["lastTransitionTime"].is_string(), "{condition}");
    }
    assert_eq!(api.get(&format!("{crds}?labelSelector=a%3Db")).await.body["items"], json!([]));
    let all = api.get(crds).await.body["items"].as_array().unwrap().len();
    let others = api.get(&format!("{crds}?fieldSelector=metadata.name%21%3D{gateways}")).await;
    assert_eq!(others.body["items"].as_array().unwrap().len(), all - 1);
    let mut metadata = request(Method::GET, crds, None);
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    metadata.headers_mut().insert(header::ACCEPT, partial.parse().unwrap());
    let metadata = api.ask(Some(api.admin()), metadata).await.body;
    assert_eq!((&metadata["kind"], metadata["items"][0].get("spec")), (&json!("PartialObjectMetadataList"), None));
    let watch = format!("{crds}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3D{gateways}");
    let watched = api.get(&watch).await;
    assert_eq!(
        (&watched.body["type"], &watched.body["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!(gateways))
    );
}

#[tokio::test]
async fn what_nobody_runs_has_no_scale() {
    let api = served().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    assert_eq!(code(&api.post(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await), 201);
    let scale = format!("{deployments}/d/scale");
    for answer in [api.get(&scale).await, api.patch(&scale, MERGE, &json!({"spec": {"replicas": 2}})).await] {
        assert_eq!((refusal(&answer), &answer.body["kind"]), ((404, "NotFound"), &json!("Status")));
    }
}

#[tokio::test]
async fn definitions_are_read_only() {
    let api = served().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for (method, path) in [
        (Method::POST, crds.to_owned()),
        (Method::DELETE, crds.to_owned()),
        (Method::PUT, format!("{crds}/backends.core.apoxy.dev")),
        (Method::DELETE, format!("{crds}/backends.core.apoxy.dev")),
    ] {
        let answer = api.admin_asks(method, &path, Some(json!({}))).await;
        assert_eq!(refusal(&answer), (405, "MethodNotAllowed"), "{path}");
        assert!(answer.message().contains("made by the relay"), "{}", answer.message());
    }
}

#[tokio::test]
async fn a_pods_log_is_what_was_written_of_it() {
    let api = served().await;
    let spec = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let created = api.post(PODS, pod.clone()).await;
    assert_eq!(code(&created), 201, "{}", created.body);
    let log = |query: &str| format!("{PODS}/p/log?{query}");
    for text in ["one\n", "two\n"] {
        assert_eq!(code(&api.send(Method::POST, &log("container=a"), "text/plain", text).await), 200);
    }
    let read = api.get(&log("container=a&tailLines=1")).await;
    assert_eq!((code(&read), &read.body), (200, &json!("two\n")));
    assert!(read.headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain"));
    assert_eq!(api.get(&log("container=b")).await.body, "");
    assert_eq!(refusal(&api.get(&log("container=a&previous=true")).await), (404, "NotFound"));
    let unnamed = api.get(&format!("{PODS}/p/log")).await;
    assert_eq!(unnamed.message(), "a container name must be specified for pod p, choose one of: [a b]");
    assert_eq!(refusal(&api.get(&log("container=z")).await), (400, "BadRequest"));
    assert_eq!(code(&api.get(&format!("{PODS}/none/log")).await), 404);

    let followed = api.follow(&log("container=a&follow=true&tailLines=1&timestamps=true")).await;
    let mut text = followed.into_body();
    let mut more = async || text.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
    assert!(more().await.unwrap().ends_with(b"Z two\n"));
    for (written, want) in [("th", "Z th"), ("ree\n", "ree\n"), ("four\n", "Z four\n")] {
        api.send(Method::POST, &log("container=a"), "text/plain", written).await;
        let piece = more().await.unwrap();
        assert!(piece.ends_with(want.as_bytes()), "{piece:?}");
    }
    let limited = api.get(&log("container=a&follow=true&limitBytes=5")).await;
    assert_eq!(limited.body, "one\nt", "it ends with the last byte that it may show");
    assert_eq!(code(&api.delete(&format!("{PODS}/p")).await), 200);
    assert_eq!(more().await, None, "with its pod");
    api.post(PODS, pod).await;
    assert_eq!(api.get(&log("container=a")).await.body, "", "another pod of the same name begins anew");
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() {
    let api = served().await;
    let stop = CancellationToken::new();
    let collecting = crate::collector::spawn(api.store.clone(), stop.clone());
    for n in 0..60 {
        api.post("/api/v1/namespaces/shop/configmaps", config_map(&format!("c{n}"), &json!({}))).await;
    }
    let deleted = api.delete("/api/v1/namespaces/shop").await;
    assert_eq!((code(&deleted), &deleted.body["status"]["phase"]), (200, &json!("Terminating")));
    let mut changes = api.store.changes();
    while code(&api.get("/api/v1/namespaces/shop").await) == 200 {
        changes.changed().await.unwrap();
    }
    assert_eq!(api.get("/api/v1/namespaces/shop/configmaps").await.body["items"], json!([]));
    stop.cancel();
    collecting.await.unwrap();
}
