//! Projects: many tenants, each with an API of its own.

use std::fs;

use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use underpass_tests::{
    api::{Api, Watch},
    cli::Cli,
    eventually::eventually,
    manifest,
    relay::Relay,
};

const NODES: &str = "apis/core.apoxy.dev/v1alpha/tunnelnodes";
const MAPS: &str = "api/v1/namespaces/default/configmaps";

fn map(name: &str, of: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"of": of}})
}

async fn code(api: &Api, method: Method, path: &str, body: Option<&Value>) -> u16 {
    api.call(method, path, body).await.unwrap().0.as_u16()
}

async fn write(api: &Api, project: &str, name: &str) {
    let path = format!("/projects/{project}/{MAPS}");
    assert_eq!(code(api, Method::POST, &path, Some(&map(name, project))).await, 201, "{path}");
}

/// A relay with the projects `shop` and `lab`.
async fn tenants() -> Relay {
    let relay = Relay::start().await;
    for project in ["shop", "lab"] {
        let said = relay.cli().run(&["project", "create", project]).await.expect_success();
        assert_eq!(said, format!("project.core.apoxy.dev/{project} created\n"));
    }
    relay
}

#[tokio::test]
async fn objects_of_one_name_in_two_projects_are_strangers() {
    let relay = tenants().await;
    let api = relay.api();
    let watch = async |project: &str| -> Watch { api.watch(&format!("/projects/{project}/{MAPS}?watch=1")).await };
    let (mut of_shop, mut of_lab) = (watch("shop").await, watch("lab").await);
    let mut of_default = api.watch(&format!("/{MAPS}?watch=1")).await;
    for project in ["shop", "lab"] {
        write(&api, project, "same").await;
    }
    write(&api, "shop", "own").await;
    for project in ["shop", "lab"] {
        assert_eq!(api.get(&format!("/projects/{project}/{MAPS}/same")).await["data"]["of"], project);
    }
    assert_eq!(api.find(&format!("/{MAPS}/same")).await, None);
    assert_eq!(api.find(&format!("/projects/lab/{MAPS}/own")).await, None);
    assert_eq!(api.names(&format!("/projects/lab/{MAPS}")).await, ["same"]);
    assert_eq!(api.names("/projects/lab/api/v1/configmaps").await, ["same"]);
    assert_eq!(api.names(&format!("/{MAPS}")).await, [""; 0]);
    let table = Request::get(format!("/projects/lab/{MAPS}"))
        .header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Full::default())
        .unwrap();
    assert_eq!(api.ask(table).await.unwrap().body()["rows"].as_array().unwrap().len(), 1);

    // Deleting in one is nothing to the other, whatever is selected.
    assert_eq!(code(&api, Method::DELETE, &format!("/projects/lab/{MAPS}"), None).await, 200);
    assert_eq!(api.names(&format!("/projects/shop/{MAPS}")).await, ["own", "same"]);
    assert_eq!(code(&api, Method::POST, &format!("/{MAPS}"), Some(&map("end", "default"))).await, 201);
    for project in ["shop", "lab"] {
        write(&api, project, "end").await;
    }
    let told = async |watch: &mut Watch| {
        let mut told = Vec::new();
        while told.last().is_none_or(|last: &String| last != "ADDED end") {
            let (kind, name) = watch.told().await;
            told.push(format!("{kind} {name}"));
        }
        told
    };
    assert_eq!(told(&mut of_shop).await, ["ADDED same", "ADDED own", "ADDED end"]);
    assert_eq!(told(&mut of_lab).await, ["ADDED same", "DELETED same", "ADDED end"]);
    assert_eq!(told(&mut of_default).await, ["ADDED end"]);
    for document in ["apis", "api/v1", "openapi/v3", MAPS] {
        assert_eq!(code(&api, Method::GET, &format!("/projects/green/{document}"), None).await, 404, "{document}");
    }
}

#[tokio::test]
async fn each_project_has_an_overlay_of_its_own() {
    let relay = tenants().await;
    let mut networks = Vec::new();
    for project in [None, Some("shop"), Some("lab")] {
        relay.cli().in_project(project).apply(&manifest::node("office")).await;
        let path = format!("/projects/{}/{NODES}/office", project.unwrap_or("default"));
        let prefix = eventually("the node's prefix", async || {
            let node = relay.api().get(&path).await;
            node["status"]["prefix"].as_str().map(str::to_owned).ok_or(node)
        })
        .await;
        let (address, length) = prefix.split_once('/').unwrap();
        assert_eq!(length, "64");
        networks.push(address.parse::<std::net::Ipv6Addr>().unwrap().segments()[..3].to_vec());
    }
    assert!(networks[0] != networks[1] && networks[1] != networks[2] && networks[0] != networks[2], "{networks:?}");
}

#[tokio::test]
async fn a_viewer_of_one_project_is_nobody_in_another() {
    let relay = tenants().await;
    let admin = relay.api();
    let core = "/projects/shop/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}});
    assert_eq!(code(&admin, Method::POST, core, Some(&account)).await, 201);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "viewer"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    });
    // A binding of the same words in the other project gives nothing to an account of this one.
    for project in ["shop", "lab"] {
        let path = format!("/projects/{project}/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
        assert_eq!(code(&admin, Method::POST, &path, Some(&binding)).await, 201);
    }
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let (_, issued) = admin.call(Method::POST, &format!("{core}/reader/token"), Some(&request)).await.unwrap();
    let reader = admin.with_token(issued["status"]["token"].as_str().unwrap());
    assert_eq!(code(&reader, Method::GET, &format!("/projects/shop/{MAPS}"), None).await, 200);
    for elsewhere in ["/projects/lab", "/projects/default", "", "/projects/none"] {
        for path in [MAPS, NODES, "apis", "openapi/v3"] {
            let (status, body) = reader.call(Method::GET, &format!("{elsewhere}/{path}"), None).await.unwrap();
            assert_eq!(status, StatusCode::FORBIDDEN, "{elsewhere}/{path}: {body}");
        }
    }
    let projects = "/apis/core.apoxy.dev/v1alpha2/projects";
    assert_eq!(code(&reader, Method::GET, projects, None).await, 403, "not even who else is here");
    assert_eq!(code(&reader, Method::GET, &format!("{projects}/shop"), None).await, 200, "its own it may see");
}

#[tokio::test]
async fn a_project_has_a_kubeconfig_of_its_own_and_goes_only_when_it_is_empty() {
    let relay = tenants().await;
    let text = relay.cli().run(&["project", "kubeconfig", "shop"]).await.expect_success();
    let file = relay.data_folder().join("shop.kubeconfig");
    fs::write(&file, &text).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    assert!(server.ends_with("/projects/shop"), "any client is in the project by its server's URL: {server}");
    let shop = Cli::new(file);
    shop.apply(&manifest::node("office")).await;
    assert_eq!(relay.api().names(&format!("/projects/shop/{NODES}")).await, ["office"]);
    assert_eq!(relay.api().names(&format!("/{NODES}")).await, [""; 0]);

    let listed = relay.cli().run(&["project", "list"]).await.expect_success();
    for project in ["default", "shop", "lab"] {
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(project)), "{listed}");
    }
    relay.cli().run(&["project", "delete", "shop"]).await.expect_refusal(&["shop", "tunnelnode"]);
    assert_eq!(relay.api().names(&format!("/projects/shop/{NODES}")).await, ["office"], "nothing of it was touched");
    relay.cli().run(&["project", "delete", "default"]).await.expect_refusal(&["default"]);
    let deleted = shop.run(&["delete", "tunnelnode", "office"]).await.expect_success();
    assert!(deleted.contains("office"), "{deleted}");
    let deleted = relay.cli().run(&["project", "delete", "shop"]).await.expect_success();
    assert_eq!(deleted, "project.core.apoxy.dev/shop deleted\n");
    assert_eq!(code(&relay.api(), Method::GET, &format!("/projects/shop/{NODES}"), None).await, 404);
    relay.cli().apply(&manifest::project("shop")).await;
    assert_eq!(relay.api().names(&format!("/projects/shop/{NODES}")).await, [""; 0], "a new one begins empty");
}
