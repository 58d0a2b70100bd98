//! Who may do what: roles, tokens and their ends, agents, strangers, and what is written down of it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use underpass_tests::{
    agent::{Agent, Settings},
    api::Api,
    binary,
    cli::Outcome,
    eventually::{PATIENCE, eventually, within},
    manifest,
    relay::Relay,
};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const NODES: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
const PROJECTS: &str = "/apis/core.apoxy.dev/v1alpha2/projects";

async fn create(api: &Api, path: &str, body: &Value) -> Value {
    let (status, body) = api.call(Method::POST, path, Some(body)).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "POST {path}: {body}");
    body
}

async fn delete(api: &Api, path: &str) {
    let (status, body) = api.call(Method::DELETE, path, None).await.unwrap();
    assert_eq!(status, StatusCode::OK, "DELETE {path}: {body}");
}

/// How the API answers: a code, and a `Status` with its reason when it refuses.
async fn code(api: &Api, method: Method, path: &str, body: Option<&Value>) -> u16 {
    let (status, body) = api.call(method.clone(), path, body).await.unwrap();
    let wanted = match status {
        StatusCode::UNAUTHORIZED => json!("Unauthorized"),
        StatusCode::FORBIDDEN => json!("Forbidden"),
        _ => return status.as_u16(),
    };
    assert_eq!((&body["kind"], &body["reason"]), (&json!("Status"), &wanted), "{method} {path}: {body}");
    status.as_u16()
}

fn named(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
}

fn binding(name: &str, role: &str, account: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
    })
}

fn request(spec: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

/// A token of the account `name`.
async fn token(admin: &Api, name: &str, spec: &Value) -> String {
    let answer = create(admin, &format!("{ACCOUNTS}/{name}/token"), &request(spec)).await;
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

/// An account of this name and role, and the API as it sees it.
async fn account(admin: &Api, name: &str, role: &str) -> Api {
    create(admin, ACCOUNTS, &named("ServiceAccount", name)).await;
    create(admin, BINDINGS, &binding(name, role, name)).await;
    admin.with_token(&token(admin, name, &json!({})).await)
}

#[tokio::test]
async fn each_role_may_do_what_its_name_says_and_nothing_more() {
    let relay = Relay::start().await;
    let admin = relay.api();
    create(&admin, SECRETS, &named("Secret", "s")).await;
    relay.cli().apply(&manifest::node("office")).await;
    let mut roles = Vec::new();
    for role in ["admin", "editor", "viewer"] {
        roles.push(account(&admin, role, role).await);
    }
    create(&admin, ACCOUNTS, &named("ServiceAccount", "nobody")).await;
    roles.push(admin.with_token(&token(&admin, "nobody", &json!({})).await));

    let map = named("ConfigMap", "m");
    let (secret, node_token) = (format!("{SECRETS}/s"), format!("{NODES}/office/token"));
    let account_token = format!("{ACCOUNTS}/admin/token");
    let rights = binding("mine", "admin", "editor");
    let project = json!({"apiVersion": "core.apoxy.dev/v1alpha2", "kind": "Project", "metadata": {"name": "shop"}});
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    let none = request(&json!({}));
    let cases: [(&Method, &str, Option<&Value>, [u16; 4]); 14] = [
        (&get, MAPS, None, [200, 200, 200, 403]),
        (&get, &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=1"), None, [200, 200, 200, 403]),
        (&get, NODES, None, [200, 200, 200, 403]),
        (&get, &secret, None, [200, 200, 403, 403]),
        (&get, SECRETS, None, [200, 200, 403, 403]),
        (&get, BINDINGS, None, [200, 200, 200, 403]),
        (&post, &format!("{MAPS}?dryRun=All"), Some(&map), [201, 201, 403, 403]),
        (&delete, &format!("{MAPS}/none"), None, [404, 404, 403, 403]),
        (&delete, &format!("{MAPS}?labelSelector=a%3Db"), None, [200, 200, 403, 403]),
        (&post, &node_token, Some(&json!({})), [201, 201, 403, 403]),
        (&post, &account_token, Some(&none), [201, 403, 403, 403]),
        (&post, &format!("{BINDINGS}?dryRun=All"), Some(&rights), [201, 403, 403, 403]),
        // A project's admin is not the deployment's.
        (&post, PROJECTS, Some(&project), [403, 403, 403, 403]),
        (&get, PROJECTS, None, [403, 403, 403, 403]),
    ];
    for (method, path, body, wanted) in cases {
        for (at, api) in roles.iter().enumerate() {
            let seen = code(api, method.clone(), path, body).await;
            assert_eq!(seen, wanted[at], "{method} {path} as {}", ["admin", "editor", "viewer", "nobody"][at]);
        }
    }
    let ask = |verb: &str, resource: &str| {
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": "default"}},
        })
    };
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (at, verb, resource, wanted) in [
        (2, "list", "configmaps", true),
        (2, "create", "configmaps", false),
        (2, "get", "secrets", false),
        (1, "create", "configmaps", true),
    ] {
        let answer = create(&roles[at], reviews, &ask(verb, resource)).await;
        assert_eq!(answer["status"]["allowed"], wanted, "{verb} {resource}: {answer}");
    }
}

#[tokio::test]
async fn rights_end_with_the_binding_the_secret_the_account_or_their_time() {
    let relay = Relay::start().await;
    let admin = relay.api();
    let editor = account(&admin, "ci", "editor").await;
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 200);
    delete(&admin, &format!("{BINDINGS}/ci")).await;
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 403, "known, but without a right");
    create(&admin, BINDINGS, &binding("ci", "viewer", "ci")).await;
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 200);

    create(&admin, SECRETS, &named("Secret", "life")).await;
    let bound =
        json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "life"}, "expirationSeconds": 600});
    let bound = admin.with_token(&token(&admin, "ci", &bound).await);
    assert_eq!(code(&bound, Method::GET, MAPS, None).await, 200);
    delete(&admin, &format!("{SECRETS}/life")).await;
    assert_eq!(code(&bound, Method::GET, MAPS, None).await, 401);
    create(&admin, SECRETS, &named("Secret", "life")).await;
    assert_eq!(code(&bound, Method::GET, MAPS, None).await, 401, "another Secret of the same name");
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 200, "a token that was not bound to it goes on");

    delete(&admin, &format!("{ACCOUNTS}/ci")).await;
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 401);
    create(&admin, ACCOUNTS, &named("ServiceAccount", "ci")).await;
    assert_eq!(code(&editor, Method::GET, MAPS, None).await, 401, "another account of the same name");

    // Times are checked with a clock of their own in the relay's tests; here: what is asked for is what is said.
    for (seconds, wanted) in [(599, 400), (600, 201), (366 * 86_400, 400)] {
        let asked = request(&json!({"expirationSeconds": seconds}));
        assert_eq!(code(&admin, Method::POST, &format!("{ACCOUNTS}/ci/token"), Some(&asked)).await, wanted);
    }
    assert_eq!(code(&admin, Method::POST, &format!("{ACCOUNTS}/none/token"), Some(&request(&json!({})))).await, 404);
    let forged = token(&admin, "ci", &json!({})).await;
    let (claims, _) = forged.rsplit_once('.').unwrap();
    for bad in ["x", "a.b.c", &format!("{claims}."), &format!("{claims}.AAAA"), &"x".repeat(9_000)] {
        assert_eq!(code(&admin.with_token(bad), Method::GET, MAPS, None).await, 401);
    }
}

fn write_tokens(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_operators_token_file_is_kept_secret_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (ops, ci) = ("ops-0123456789abcdef", "ci-0123456789abcdef");
    write_tokens(&file, &format!("{ops},ops,admin\n{ci},ci,viewer,default\n"), 0o644);
    let mut command = Command::new(binary::path("underpass-relay"));
    command.arg("--data-dir").arg(folder.path().join("data")).arg("--token-file").arg(&file).kill_on_drop(true);
    command.args(["--tunnel-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--port-map", "80=0,443=0"]);
    let output = within(PATIENCE, "a relay with an open token file ends", command.output()).await.unwrap();
    Outcome::of(&output).expect_refusal(&["token file", "chmod 600"]);

    write_tokens(&file, &format!("{ops},ops,admin\n{ci},ci,viewer,default\n"), 0o600);
    let relay = Relay::start_with(&["--token-file", file.to_str().unwrap()]).await;
    let (ops, ci) = (relay.api().with_token(ops), relay.api().with_token(ci));
    assert_eq!(code(&ops, Method::POST, MAPS, Some(&named("ConfigMap", "m"))).await, 201);
    assert_eq!(code(&ops, Method::GET, PROJECTS, None).await, 200);
    assert_eq!(code(&ci, Method::GET, MAPS, None).await, 200);
    assert_eq!(code(&ci, Method::DELETE, &format!("{MAPS}/m"), None).await, 403);
    write_tokens(&file, "ops-0123456789abcdef,ops,viewer\n", 0o600);
    assert_eq!(code(&ci, Method::GET, MAPS, None).await, 401, "its line is gone");
    assert_eq!(code(&ops, Method::DELETE, &format!("{MAPS}/m"), None).await, 403, "its role is another");
    write_tokens(&file, "ops-0123456789abcdef,ops,admin\nnonsense\n", 0o600);
    assert_eq!(code(&ops, Method::GET, MAPS, None).await, 401, "a file with a mistake has no tokens");
}

#[tokio::test]
async fn an_agents_certificate_shows_it_its_own_node_and_nothing_else() {
    let relay = Relay::start().await;
    for node in ["office", "lab"] {
        relay.cli().apply(&manifest::node(node)).await;
    }
    let (agent, _) = Agent::enrol(&relay, Settings::node("office")).await;
    let read = |name: &str| fs::read(agent.state().path().join(name)).unwrap();
    let issued: Value = serde_json::from_slice(&read("certificate.json")).unwrap();
    let [chain, roots] = ["certificate", "ca"].map(|field| issued[field].as_str().unwrap().as_bytes());
    let api = relay.api().with_certificate(roots, chain, &read("key.pem"));
    assert_eq!(code(&api, Method::GET, &format!("{NODES}/office"), None).await, 200);
    let office = format!("{NODES}/office");
    for (method, path) in [
        (Method::GET, format!("{NODES}/lab")),
        (Method::GET, NODES.to_owned()),
        (Method::GET, format!("{office}?watch=1")),
        (Method::DELETE, office.clone()),
        (Method::POST, format!("{office}/token")),
        (Method::GET, format!("/projects/other{office}")),
        (Method::GET, SECRETS.to_owned()),
        (Method::GET, PROJECTS.to_owned()),
        (Method::POST, MAPS.to_owned()),
    ] {
        assert_eq!(code(&api, method.clone(), &path, Some(&json!({}))).await, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn a_stranger_sees_version_and_health_and_not_even_what_exists() {
    let relay = Relay::start().await;
    let stranger = relay.api().anonymous();
    for path in ["/version", "/healthz"] {
        assert_eq!(code(&stranger, Method::GET, path, None).await, 200, "{path}");
    }
    let document = "/openapi/v3/apis/core.apoxy.dev/v1alpha2";
    for path in [
        "/",
        "/api",
        "/apis",
        "/openapi/v2",
        "/openapi/v3",
        document,
        MAPS,
        SECRETS,
        NODES,
        PROJECTS,
        "/none",
        "/projects/none/apis",
        "/metrics",
    ] {
        assert_eq!(code(&stranger, Method::GET, path, None).await, 401, "{path}");
    }
    assert_eq!(code(&stranger, Method::POST, MAPS, Some(&named("ConfigMap", "m"))).await, 401);
    let text = fs::read_to_string(relay.kubeconfig()).unwrap();
    assert!(text.contains("client-key-data"), "the administrator's own key is in its kubeconfig");
}

/// Whether any file below `folder` holds `bytes`.
fn is_below(folder: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return is_below(&path, bytes);
        }
        fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[tokio::test]
async fn every_write_is_in_the_log_and_no_secret_is_there_or_readable_on_disk() {
    let relay = Relay::start_with(&["--log", "info,underpass_relay=trace,audit=info"]).await;
    let admin = relay.api();
    let editor = account(&admin, "ci", "editor").await;
    let (plain, encoded) = ("correct horse battery staple", "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    let mut secret = named("Secret", "s");
    secret["stringData"] = json!({"a": plain});
    create(&editor, SECRETS, &secret).await;
    secret["data"] = json!({"b": encoded, "c": "not base64: correct horse battery staple"});
    let (status, _) = editor.call(Method::PUT, &format!("{SECRETS}/s"), Some(&secret)).await.unwrap();
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(code(&editor, Method::DELETE, &format!("{BINDINGS}/ci"), None).await, 403);
    relay.cli().apply(&manifest::node("office")).await;
    let enrolment = relay.cli().token("office").await;
    let bearer = token(&admin, "ci", &json!({})).await;
    assert_eq!(code(&admin.with_token(&bearer), Method::GET, MAPS, None).await, 200);
    assert_eq!(code(&admin.with_token(&format!("{bearer}x")), Method::GET, MAPS, None).await, 401);
    create(&admin, MAPS, &named("ConfigMap", "last")).await;

    let log = eventually("the last write in the log", async || {
        let log = relay.process.log();
        if log.lines().any(|line| line.contains("last") && line.contains("ConfigMap")) { Ok(log) } else { Err(log) }
    })
    .await;
    let shown: String = log.chars().filter(|character| *character != '"').collect();
    assert!(log.lines().count() < 300, "the harness kept the whole log");
    let writes: Vec<&str> = shown.lines().filter(|line| line.contains("a write was asked for")).collect();
    let user = "user=system:serviceaccount:default:ci";
    for parts in [
        ["user=admin", "verb=create", "kind=ServiceAccount", "subresource=", "name=ci", "code=201"],
        [user, "verb=create", "kind=Secret", "name=s", "namespace=default", "code=201"],
        [user, "verb=update", "kind=Secret", "name=s", "namespace=default", "code=422"],
        [user, "verb=delete", "kind=ClusterRoleBinding", "name=ci", "project=default", "code=403"],
        ["user=admin", "verb=create", "kind=TunnelNode", "subresource=token", "name=office", "code=201"],
        ["user=admin", "verb=create", "kind=ServiceAccount", "subresource=token", "name=ci", "code=201"],
    ] {
        let found = writes.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} is in the log: {writes:#?}");
    }
    assert!(!writes.iter().any(|line| line.contains("verb=get") || line.contains("verb=list")), "{writes:#?}");
    let key = fs::read_to_string(relay.kubeconfig()).unwrap();
    let key = key.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap().to_owned();
    let enrolment = enrolment.rsplit('.').next().unwrap();
    for hidden in [plain, encoded, &bearer, bearer.rsplit('.').next().unwrap(), enrolment, "PRIVATE KEY", &key] {
        assert!(!log.contains(hidden), "`{hidden}` is in the log: {log}");
    }
    for hidden in [plain, encoded, &bearer, enrolment] {
        assert!(!is_below(&relay.data_folder(), hidden.as_bytes()), "`{hidden}` is readable in the data directory");
    }
}
