//! The seed about traffic routing, example by example: applied as it is written, asked as it asks, answered as it says.
//!
//! Where the seed contradicts the Gateway API, the API holds: `docs/errata.md` has these.

use http::Method;
use underpass_tests::{
    client::Connection,
    eventually::eventually,
    stage::{LOCALHOST, Stage, condition, exchange, of_seed, told},
};

const SEED: &str = "004-traffic-routing.yaml";
const GATEWAY: &str = "task-api-gateway";

/// What the seed has its services answer.
fn says(service: &str, path: &str) -> String {
    let version = path.split('/').find(|part| part.starts_with('v')).unwrap_or("v0");
    match service {
        "task-api-v1" => r#"{"version": "v1", "tasks": []}"#.to_owned(),
        "task-api-v2" => r#"{"version": "v2", "tasks": []}"#.to_owned(),
        "task-api" if path.ends_with("/123") => r#"{"task": {"id": 123}}"#.to_owned(),
        "task-api" if path.ends_with("/comments") => r#"{"comments": []}"#.to_owned(),
        "task-api" if path == "/api/v1/" => r#"{"version": "v1"}"#.to_owned(),
        "task-api" if path.starts_with("/api/v") => format!(r#"{{"version": "{version}", "tasks": []}}"#),
        "task-api" => r#"{"tasks": []}"#.to_owned(),
        "task-api-premium" if path.ends_with("/tier") => r#"{"tier": "premium", "rate_limit": 10000}"#.to_owned(),
        "task-api-standard" => r#"{"tier": "standard", "rate_limit": 1000}"#.to_owned(),
        "task-api-debug" => r#"{"debug_info": {}, "tasks": []}"#.to_owned(),
        "task-api-stable" => "stable".to_owned(),
        "task-api-canary" => "canary".to_owned(),
        other => other.to_owned(),
    }
}

/// The seed's Gateway, and its route of that name.
async fn stage(route: &str) -> Stage {
    Stage::open(&of_seed(SEED, &[GATEWAY, route]), says).await
}

/// The seed's Gateway, and a route of the rules that the seed shows without the rest.
async fn stage_of_rules(rules: &str) -> Stage {
    let manifests = format!("{}\n---\n{}", of_seed(SEED, &[GATEWAY]), route_of(rules));
    Stage::open(&manifests, says).await
}

fn route_of(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: fragment\n  \
         namespace: task-api\nspec:\n  parentRefs:\n  - name: task-api-gateway\n  rules:\n{rules}"
    )
}

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

const NOT_FOUND: (u16, String) = (404, String::new());

#[tokio::test]
async fn exact_matching() {
    let stage = stage("task-api-exact").await;
    assert_eq!(stage.get("/api/v1/tasks").await, ok(r#"{"version": "v1", "tasks": []}"#));
    assert_eq!(stage.get("/api/v1/tasks/").await, NOT_FOUND, "a trailing slash");
    assert_eq!(stage.get("/api/v1/tasks/123").await, NOT_FOUND, "a different path");
}

#[tokio::test]
async fn path_prefix_matching() {
    let stage = stage("task-api-prefix").await;
    assert_eq!(stage.get("/api/v1/").await, ok(r#"{"version": "v1"}"#));
    assert_eq!(stage.get("/api/v1/tasks").await, ok(r#"{"version": "v1", "tasks": []}"#));
    assert_eq!(stage.get("/api/v1/tasks/123").await, ok(r#"{"task": {"id": 123}}"#));
    assert_eq!(stage.get("/api/v1/tasks/123/comments").await, ok(r#"{"comments": []}"#));
    assert_eq!(stage.get("/api/v1").await.0, 200, "the API ignores a prefix's trailing slash");
    assert_eq!(stage.get("/api/v10/tasks").await, NOT_FOUND, "and compares whole segments");
}

#[tokio::test]
async fn regular_expression_matching() {
    let stage = stage("task-api-regex").await;
    for version in ["v1", "v2", "v99"] {
        let answer = stage.get(&format!("/api/{version}/tasks")).await;
        assert_eq!(answer, ok(&format!(r#"{{"version": "{version}", "tasks": []}}"#)));
    }
    assert_eq!(stage.get("/api/beta/tasks").await, NOT_FOUND);
}

#[tokio::test]
async fn exact_header_matching() {
    let stage = stage("task-api-header-version").await;
    for (fields, version) in [(&[("x-version", "2")][..], "v2"), (&[], "v1"), (&[("x-version", "1")], "v1")] {
        let answer = stage.ask(Method::GET, LOCALHOST, "/api/tasks", fields).await;
        assert_eq!(answer, ok(&format!(r#"{{"version": "{version}", "tasks": []}}"#)), "{fields:?}");
    }
}

#[tokio::test]
async fn regular_expression_header_matching() {
    let stage = stage("task-api-premium").await;
    let ask = async |key| stage.ask(Method::GET, LOCALHOST, "/api/tier", &[("x-api-key", key)]).await;
    assert_eq!(ask("premium-abc123").await, ok(r#"{"tier": "premium", "rate_limit": 10000}"#));
    assert_eq!(ask("basic-xyz789").await, ok(r#"{"tier": "standard", "rate_limit": 1000}"#));
}

#[tokio::test]
async fn beta_user_routing() {
    let stage = stage("task-api-beta").await;
    for (value, service) in [("true", "task-api-beta"), ("True", "stable"), ("false", "stable")] {
        let answer = stage.ask(Method::GET, LOCALHOST, "/api/tasks", &[("x-beta-user", value)]).await;
        assert_eq!(answer, ok(service), "{value}");
    }
    assert_eq!(stage.get("/api/tasks").await, ok("stable"));
}

#[tokio::test]
async fn query_parameter_matching() {
    let stage = stage("task-api-query").await;
    assert_eq!(stage.get("/api/tasks?debug=true").await, ok(r#"{"debug_info": {}, "tasks": []}"#));
    assert_eq!(stage.get("/api/tasks?tier=premium").await, ok("task-api-premium"));
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"tasks": []}"#));
    assert_eq!(stage.get("/api/tasks?debug=truer").await, ok(r#"{"tasks": []}"#));
}

#[tokio::test]
async fn combining_path_and_query_matching() {
    let stage = stage_of_rules(
        "  - matches:\n    - path:\n        type: PathPrefix\n        value: /api/v2/\n      queryParams:\n      \
         - name: experimental\n        value: \"enabled\"\n    backendRefs:\n    - name: task-api-experimental\n      \
         port: 8000\n",
    )
    .await;
    assert_eq!(stage.get("/api/v2/tasks?experimental=enabled").await, ok("task-api-experimental"));
    assert_eq!(stage.get("/api/v1/tasks?experimental=enabled").await, NOT_FOUND);
    assert_eq!(stage.get("/api/v2/tasks").await, NOT_FOUND);
}

#[tokio::test]
async fn method_based_routing() {
    let stage = stage("task-api-method").await;
    for (method, path, service) in [
        (Method::GET, "/api/tasks", "task-api-read-replica"),
        (Method::POST, "/api/tasks", "task-api-primary"),
        (Method::PUT, "/api/tasks/1", "task-api-primary"),
        (Method::DELETE, "/api/tasks/1", "task-api-primary"),
    ] {
        assert_eq!(stage.ask(method.clone(), LOCALHOST, path, &[]).await, ok(service), "{method}");
    }
    assert_eq!(stage.ask(Method::PATCH, LOCALHOST, "/api/tasks/1", &[]).await, NOT_FOUND);
}

/// How many of `count` requests went to the canary.
async fn canaries(stage: &Stage, count: u32) -> u32 {
    let mut connection = Connection::http1(stage.http()).await.unwrap();
    let mut canaries = 0;
    for _ in 0..count {
        let answer = connection.get(LOCALHOST, "/api/version").await.unwrap();
        match answer.text().as_str() {
            "stable" => {}
            "canary" => canaries += 1,
            other => panic!("{other} is neither"),
        }
    }
    canaries
}

/// Whether `count` is near `percent` of 2,000 requests: within five standard deviations of what chance gives.
fn is_about(count: u32, percent: u32) -> bool {
    let share = f64::from(percent) / 100.0;
    let deviation = (2000.0 * share * (1.0 - share)).sqrt();
    (f64::from(count) - 2000.0 * share).abs() <= 5.0 * deviation
}

#[tokio::test]
async fn basic_traffic_split() {
    let stage = stage("task-api-canary").await;
    let count = canaries(&stage, 2000).await;
    assert!(is_about(count, 10), "{count} of 2000 requests went to the canary");
}

#[tokio::test]
async fn progressive_rollout() {
    let stable = |weight: u32| format!("    - name: task-api-stable\n      port: 8000\n      weight: {weight}\n");
    let canary = |weight: u32| format!("    - name: task-api-canary\n      port: 8000\n      weight: {weight}\n");
    let stages = [
        (stable(95) + &canary(5), 5),
        (stable(75) + &canary(25), 25),
        (stable(50) + &canary(50), 50),
        (canary(100), 100),
    ];
    let rules = |backends: &str| format!("  - backendRefs:\n{backends}");
    let stage = stage_of_rules(&rules(&stages[0].0)).await;
    for (backends, percent) in &stages {
        stage.relay.cli().apply(&route_of(&rules(backends))).await;
        let path = "/apis/gateway.networking.k8s.io/v1/namespaces/task-api/httproutes/fragment";
        eventually("the new weights are served", async || {
            let object = stage.relay.api().get(path).await;
            let accepted = condition(&object, "Accepted").map(|one| one["observedGeneration"].clone());
            if accepted.as_ref() == Some(&object["metadata"]["generation"]) { Ok(()) } else { Err(accepted) }
        })
        .await;
        let count = canaries(&stage, 2000).await;
        assert!(is_about(count, *percent), "{count} of 2000 requests at {percent} %");
    }
}

#[tokio::test]
async fn blue_green_deployment() {
    let rules = |blue: u32, green: u32| {
        format!(
            "  - backendRefs:\n    - name: task-api-blue\n      port: 8000\n      weight: {blue}\n    \
             - name: task-api-green\n      port: 8000\n      weight: {green}\n"
        )
    };
    let stage = stage_of_rules(&rules(100, 0)).await;
    for _ in 0..50 {
        assert_eq!(stage.get("/").await, ok("task-api-blue"));
    }
    stage.relay.cli().apply(&route_of(&rules(0, 100))).await;
    eventually("the cut-over", async || match stage.get("/").await {
        answer if answer == ok("task-api-green") => Ok(()),
        answer => Err(answer),
    })
    .await;
    for _ in 0..50 {
        assert_eq!(stage.get("/").await, ok("task-api-green"), "nobody is served by blue after it");
    }
}

#[tokio::test]
async fn request_mirroring() {
    let stage = stage("task-api-mirror").await;
    let sent = [(Method::GET, "/api/tasks"), (Method::POST, "/api/tasks"), (Method::GET, "/api/tasks/123")];
    for (method, path) in &sent {
        let (status, body) = stage.ask(method.clone(), LOCALHOST, path, &[]).await;
        assert_eq!(status, 200);
        assert!(!body.contains("shadow"), "the client never gets the shadow's answer: {body}");
    }
    let mut wanted: Vec<_> = sent.iter().map(|(method, path)| format!("{method} {path}")).collect();
    wanted.sort();
    eventually("the shadow has seen all of it", async || {
        let mut seen = stage.service("task-api-shadow").seen();
        seen.sort();
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(stage.service("task-api").seen().len(), sent.len(), "and the service each once");
}

#[tokio::test]
async fn rule_precedence() {
    let stage = stage("task-api-ordered").await;
    for (path, service) in [
        ("/api/v1/tasks/urgent", "task-api-urgent"),
        ("/api/v1/tasks/123", "task-api-read"),
        ("/api/v1/tasks", r#"{"version": "v1", "tasks": []}"#),
        ("/api/v1/tasks/new", r#"{"version": "v1", "tasks": []}"#),
        ("/health", "default-backend"),
    ] {
        assert_eq!(stage.get(path).await, ok(service), "{path}");
    }
}

const GENERAL: &str = "  - matches:\n    - path:\n        type: PathPrefix\n        value: /api/\n    backendRefs:\n    \
                       - name: task-api\n      port: 8000\n";
const SPECIFIC: &str = "  - matches:\n    - path:\n        type: Exact\n        value: /api/health\n    backendRefs:\n    \
                        - name: health-checker\n      port: 8000\n";

/// Erratum: the seed says that the second rule never matches; to the API the order of rules is the last thing to count.
#[tokio::test]
async fn the_wrong_order_is_none_for_an_exact_path_comes_before_a_prefix() {
    let stage = stage_of_rules(&[GENERAL, SPECIFIC].concat()).await;
    assert_eq!(stage.get("/api/health").await, ok("health-checker"));
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"tasks": []}"#));
}

#[tokio::test]
async fn the_correct_order() {
    let stage = stage_of_rules(&[SPECIFIC, GENERAL].concat()).await;
    assert_eq!(stage.get("/api/health").await, ok("health-checker"));
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"tasks": []}"#));
}

/// Erratum: `Get*` is an expression here, so it is `Ge` and any number of `t`, and `GetTask` goes by its service alone.
#[tokio::test]
async fn grpc_by_service_and_method_on_both_listeners() {
    let mut stage = stage("task-grpc-route").await;
    let bound = stage.relay.process.lines();
    let bound = bound.iter().find_map(|line| line.strip_prefix("listening gateway 50051 http://"));
    let grpc = match bound {
        Some(address) => address.parse().unwrap(),
        None => {
            let of_line = |line: &str| line.strip_prefix("listening gateway 50051 http://")?.parse().ok();
            stage.relay.process.line("the port of listener `grpc`", of_line).await
        }
    };
    for at in [stage.http(), grpc] {
        for (method, service) in [
            ("CreateTask", "task-grpc-write"),
            ("ListTasks", "task-grpc-service"),
            ("GetTask", "task-grpc-service"),
            ("Get", "task-grpc-read"),
            ("Gettt", "task-grpc-read"),
        ] {
            let connection = Connection::http2(at).await.unwrap();
            let path = format!("/task.TaskService/{method}");
            let fields = [("content-type", "application/grpc"), ("te", "trailers")];
            let answer = exchange(connection, (Method::POST, LOCALHOST, &path), &fields).await;
            assert_eq!(told(&answer), ok(service), "{method}");
        }
    }
    let connection = Connection::http2(stage.http()).await.unwrap();
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let answer = exchange(connection, (Method::POST, LOCALHOST, "/task.Other/Get"), &fields).await;
    assert_eq!(answer.headers["grpc-status"], "12", "UNIMPLEMENTED");
}

#[tokio::test]
async fn the_grpc_route_is_shown() {
    let stage = stage("task-grpc-route").await;
    let shown = stage.relay.cli().run(&["get", "grpcroute", "task-grpc-route", "-n", "task-api"]).await;
    let shown = shown.expect_success();
    let (head, row) = shown.split_once('\n').unwrap();
    for column in ["NAME", "HOSTNAMES", "AGE"] {
        assert!(head.contains(column), "{shown}");
    }
    assert!(row.contains("task-grpc-route"), "{shown}");
}

/// The seed's exercises stand in namespace `default`, where it has no Gateway; here is the one that they mean.
async fn exercise(name: &str) -> Stage {
    let gateway = of_seed(SEED, &[GATEWAY]).replace("  namespace: task-api\n", "");
    Stage::open(&format!("{gateway}\n---\n{}", of_seed(SEED, &[name])), says).await
}

/// Erratum: as they are written, the exercises refer to a Gateway that is in another namespace.
#[tokio::test]
async fn an_exercise_as_it_is_written_finds_no_gateway_and_says_so() {
    let manifests = of_seed(SEED, &[GATEWAY, "exercise-pathprefix"]);
    let stage = Stage::prepare(&manifests, says).await;
    stage.relay.cli().apply(&manifests).await;
    let path = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/exercise-pathprefix";
    eventually("the route says that it has no parent", async || {
        let object = stage.relay.api().get(path).await;
        let accepted = condition(&object, "Accepted").cloned().unwrap_or_default();
        if accepted["reason"] == "NoMatchingParent" { Ok(()) } else { Err(accepted) }
    })
    .await;
    assert_eq!(stage.get("/api/tasks").await, NOT_FOUND);
    let shown = stage.relay.cli().run(&["get", "httproute", "exercise-pathprefix"]).await.expect_success();
    assert!(shown.lines().nth(1).unwrap().contains("exercise-pathprefix"), "{shown}");
}

#[tokio::test]
async fn exercise_1_path_prefix() {
    let stage = exercise("exercise-pathprefix").await;
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"tasks": []}"#));
    assert_eq!(stage.get("/").await, NOT_FOUND);
}

#[tokio::test]
async fn exercise_2_header() {
    let stage = exercise("exercise-header").await;
    let second = stage.ask(Method::GET, LOCALHOST, "/api/tasks", &[("x-version", "2")]).await;
    assert_eq!(second, ok(r#"{"version": "v2", "tasks": []}"#));
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"version": "v1", "tasks": []}"#));
}

#[tokio::test]
async fn exercise_3_canary() {
    let stage = exercise("exercise-canary").await;
    let count = canaries(&stage, 2000).await;
    assert!(is_about(count, 10), "{count} of 2000 requests went to the canary");
    let shown = stage.relay.cli().run(&["get", "httproute", "exercise-canary", "-o", "yaml"]).await.expect_success();
    for (name, weight) in [("task-api-stable", 90), ("task-api-canary", 10)] {
        let block = shown.split(&format!("name: {name}")).nth(1).unwrap();
        let lines: Vec<_> = block.lines().skip(1).take(2).map(str::trim).collect();
        assert_eq!(lines, ["port: 8000", &format!("weight: {weight}")], "{shown}");
    }
}

#[tokio::test]
async fn exercise_4_query_parameter() {
    let stage = exercise("exercise-query").await;
    assert_eq!(stage.get("/api/tasks?debug=true").await, ok(r#"{"debug_info": {}, "tasks": []}"#));
    assert_eq!(stage.get("/api/tasks").await, ok(r#"{"tasks": []}"#));
}
