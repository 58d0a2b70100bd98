//! Reading from a relay: as tables, as objects, by selectors, and as they change.

use serde_json::json;
use underpass_shared::resource::kind::Kind;

use super::*;
use crate::cli::testing::Relay;

const NODES: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces";

fn node(name: &str, note: &str) -> Value {
    json!({"apiVersion": "core.apoxy.dev/v1alpha", "kind": "TunnelNode",
        "metadata": {"name": name, "labels": {"note": note}, "generation": note.len()}, "spec": {"note": note}})
}

async fn with_nodes() -> Relay {
    let relay = Relay::start().await;
    relay.put(&format!("{NODES}/a"), &node("a", "first"));
    relay.put(&format!("{NODES}/b"), &node("b", "x"));
    relay
}

#[tokio::test]
async fn nothing_found_is_said_on_standard_error() {
    let relay = Relay::start().await;
    for (line, want) in [
        ("get httproutes", "No resources found in default namespace.\n"),
        ("get httproutes -n shop", "No resources found in shop namespace.\n"),
        ("get httproutes -A", "No resources found.\n"),
        ("tunnel list", "No resources found.\n"),
    ] {
        let run = relay.run(line, "").await;
        assert_eq!((run.outcome, run.out.as_str(), run.err.as_str()), (Outcome::Done, "", want), "{line}");
    }
    assert_eq!(relay.ok("get httproutes -o name").await, "");
    assert!(relay.ok("get httproutes -o json").await.contains("\"items\": []"));
}

#[tokio::test]
async fn named_objects_are_shown_and_the_missing_ones_reported() {
    let relay = with_nodes().await;
    assert_eq!(relay.ok("get tn -o name").await, "tunnelnode.core.apoxy.dev/a\ntunnelnode.core.apoxy.dev/b\n");
    assert_eq!(relay.ok("get tn/b -o name").await, "tunnelnode.core.apoxy.dev/b\n");
    for line in ["tunnel get a nobody b -o name", "get tn/a tn/nobody tunnelnode/b -o name"] {
        let run = relay.run(line, "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!(run.out, "tunnelnode.core.apoxy.dev/a\ntunnelnode.core.apoxy.dev/b\n");
        assert_eq!(run.err, "error: tunnelnodes \"nobody\" not found\n");
    }
    let run = relay.run("get tn nobody b", "").await;
    assert_eq!(
        (run.out.as_str(), run.err.as_str()),
        ("NAME   AGE\nb      5m\n", "error: tunnelnodes \"nobody\" not found\n")
    );
}

#[tokio::test]
async fn one_object_is_itself_and_several_are_a_list() {
    let relay = with_nodes().await;
    let one: Value = serde_json::from_str(&relay.ok("get tn a -o json").await).unwrap();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&"TunnelNode".into(), &"a".into()));
    let all: Value = serde_saphyr::from_str(&relay.ok("get tn -o yaml").await).unwrap();
    assert_eq!((&all["kind"], &all["items"][1]["metadata"]["name"]), (&"List".into(), &"b".into()));
    assert_eq!(relay.ok("get tn -o jsonpath={.items[*].metadata.name}").await, "a b");
    assert_eq!(relay.ok("get tn a -o jsonpath={.metadata.name}").await, "a");
}

#[tokio::test]
async fn tables_are_the_relays() {
    let relay = with_nodes().await;
    assert_eq!(relay.ok("get tn").await, "NAME   AGE\na      5m\nb      5m\n");
    assert_eq!(
        relay.ok("get tn -o wide --show-labels").await,
        "\
NAME   AGE   NOTE    LABELS
a      5m    first   note=first
b      5m    x       note=x
"
    );
    assert_eq!(relay.ok("get tn --no-headers --sort-by .metadata.generation").await, "b   5m\na   5m\n");
    assert!(relay.targets().last().unwrap().contains("includeObject=Object"), "{:?}", relay.targets());
    assert_eq!(relay.ok("get tn -l note=x --no-headers").await, "b   5m\n");
    assert_eq!(relay.ok("get tn --field-selector metadata.name=a -o name").await, "tunnelnode.core.apoxy.dev/a\n");
    assert_eq!(relay.ok("get tn -o custom-columns=N:.metadata.name --sort-by metadata.generation").await, "N\nb\na\n");
}

#[tokio::test]
async fn several_kinds_are_several_tables() {
    let relay = with_nodes().await;
    relay.put(&format!("{ROUTES}/shop/httproutes/web"), &json!({"metadata": {"name": "web", "namespace": "shop"}}));
    assert_eq!(
        relay.ok("get tn,gateways,hr -A").await,
        "\
NAME                          AGE
tunnelnode.core.apoxy.dev/a   5m
tunnelnode.core.apoxy.dev/b   5m

NAMESPACE   NAME                                       AGE
shop        httproute.gateway.networking.k8s.io/web   5m
"
        .replace("NAME                                       AGE", "NAME                                      AGE")
    );
    assert!(relay.ok("get all -n shop -o name").await.ends_with("httproute.gateway.networking.k8s.io/web\n"));
}

#[tokio::test]
async fn what_files_name_is_read() {
    let relay = with_nodes().await;
    let text = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {name: b}\n";
    let run = relay.run("get -f - -o name", text).await;
    assert_eq!((run.out.as_str(), run.err.as_str()), ("tunnelnode.core.apoxy.dev/b\n", ""));
    assert!(relay.run("get -f - -o name", "kind: x").await.err.starts_with("error: stdin: document 1"));
}

#[tokio::test]
async fn senseless_requests_are_refused() {
    let relay = with_nodes().await;
    for (line, want) in [
        ("get tn/a b", "unknown kind `b`"),
        ("get tn/a tn", "give the TunnelNode its name too"),
        ("get tn a tn/b", "names have no `/`"),
        ("get tn a -l x=y", "names and selectors cannot be combined"),
        ("get tn,hr -w", "only one kind"),
        ("get tn a b -w", "only one kind"),
        ("get tn nobody -w", "tunnelnodes \"nobody\" not found"),
    ] {
        let run = relay.run(line, "").await;
        assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""), "{line}");
        assert!(run.err.contains(want), "{line}: {}", run.err);
    }
}

/// What a watch prints until the relay sends something that is no event.
async fn watched(relay: &Relay, line: &str, change: impl Fn()) -> String {
    let changes = async {
        relay.watched(1).await;
        change();
        relay.tell("the end");
    };
    let (run, ()) = tokio::join!(relay.run(line, ""), changes);
    assert!(run.err.contains("the end"), "{}", run.err);
    run.out
}

#[tokio::test]
async fn changes_are_printed_below_one_header() {
    let relay = with_nodes().await;
    let out = watched(&relay, "get tn -w -o wide", || {
        relay.put(&format!("{NODES}/long-name"), &node("long-name", "n"));
        relay.put(&format!("{NODES}/a"), &node("a", "changed"));
        relay.remove(&format!("{NODES}/b"));
    })
    .await;
    assert_eq!(
        out,
        "\
NAME   AGE   NOTE
a      5m    first
b      5m    x
long-name   5m    n
a           5m    changed
b           5m    x
"
    );
}

#[tokio::test]
async fn one_object_is_watched_by_its_name() {
    let relay = with_nodes().await;
    let out = watched(&relay, "get tn b --watch-only -o name", || {
        relay.put(&format!("{NODES}/a"), &node("a", "changed"));
        relay.put(&format!("{NODES}/b"), &node("b", "changed"));
    })
    .await;
    assert_eq!(out, "tunnelnode.core.apoxy.dev/b\n");
}

#[tokio::test]
async fn watched_objects_are_documents() {
    let relay = with_nodes().await;
    let out = watched(&relay, "get tn a -w -o yaml", || relay.put(&format!("{NODES}/a"), &node("a", "changed"))).await;
    let notes: Vec<&str> = out.lines().filter(|line| line.trim_start().starts_with("note: ")).collect();
    assert_eq!(notes, ["    note: first", "  note: first", "    note: changed", "  note: changed"]);
    assert_eq!(out.matches("---\n").count(), 2);
    let relay = with_nodes().await;
    let out = watched(&relay, "get tn --watch-only -o custom-columns=N:.metadata.name", || {
        relay.put(&format!("{NODES}/a"), &node("a", "1"));
        relay.put(&format!("{NODES}/b"), &node("b", "1"));
    })
    .await;
    assert_eq!(out, "N\na\nb\n");
}

#[tokio::test]
async fn a_reader_who_left_ends_a_watch() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let relay = with_nodes().await;
    let global = GlobalArgs { kubeconfig: Some(relay.kubeconfig()), ..GlobalArgs::default() };
    let args = ListArgs { show: ShowArgs { watch: true, ..ShowArgs::default() }, ..ListArgs::default() };
    let mut err = Vec::new();
    let mut console = Console { input: &mut io::empty(), out: &mut Closed, err: &mut err, is_coloured: false };
    let error = list(&global, &KindWord::of(Kind::TunnelNode), &args, &mut console).await.unwrap_err();
    assert_eq!(error.downcast::<io::Error>().unwrap().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn versions_are_shown_with_and_without_a_relay() {
    let relay = Relay::start().await;
    relay.put("/version", &json!({"gitVersion": "v9"}));
    assert_eq!(relay.ok("version").await, format!("underpass {}\nrelay     v9\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(relay.ok("version --client").await.lines().count(), 1);
}
