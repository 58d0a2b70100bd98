use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cli::testing::Relay;

const OFFICE: &str = "/apis/core.apoxy.dev/v1alpha/tunnelnodes/office";
const MET: &str = "tunnelnode.core.apoxy.dev/office condition met\n";

fn node(ready: &str) -> Value {
    json!({"metadata": {"name": "office", "uid": "u", "generation": 2, "labels": {"a": "b"}}, "status": {"agents": 3,
        "conditions": [{"type": "Ready", "status": ready, "observedGeneration": 2, "reason": "NoAgent", "message": "no agent"}]}})
}

fn judged(what: &str, object: &Value) -> Verdict {
    what.parse::<For>().unwrap().judge(object)
}

fn not_yet(text: &str) -> Verdict {
    Verdict::NotYet(text.to_owned())
}

#[test]
fn conditions_are_judged() {
    assert_eq!(judged("condition=ready", &node("True")), Verdict::Met);
    assert_eq!(judged("condition=Ready", &node("False")), not_yet("Ready is False: NoAgent: no agent"));
    assert_eq!(judged("condition=Ready=false", &node("False")), Verdict::Met);
    assert_eq!(judged("condition=Other", &node("True")), not_yet("it has no condition Other"));
    assert_eq!(judged("condition=Ready", &json!({})), not_yet("it has no conditions"));
    let mut old = node("True");
    old["metadata"]["generation"] = 3.into();
    assert_eq!(judged("condition=Ready", &old), not_yet("Ready is not yet known of the newest generation"));
}

#[test]
fn all_parents_of_a_route_must_agree() {
    let route = |statuses: &[&str]| {
        let parents: Vec<Value> =
            statuses.iter().map(|status| json!({"conditions": [{"type": "Accepted", "status": status}]})).collect();
        json!({"status": {"parents": parents}})
    };
    assert_eq!(judged("condition=Accepted", &route(&["True", "True"])), Verdict::Met);
    assert_eq!(judged("condition=Accepted", &route(&["True", "False"])), not_yet("Accepted is False"));
    assert_eq!(judged("condition=Accepted", &route(&[])), not_yet("it has no conditions"));
}

#[test]
fn values_are_judged() {
    assert_eq!(judged("jsonpath={.status.agents}=3", &node("True")), Verdict::Met);
    assert_eq!(judged("jsonpath={.status.agents}=\"4\"", &node("True")), not_yet("{.status.agents} is 3"));
    assert_eq!(judged("jsonpath=.status.agents", &node("True")), Verdict::Met);
    assert_eq!(judged("jsonpath={.status.x}", &node("True")), not_yet("there is no {.status.x}"));
    assert_eq!(judged("jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", &node("True")), Verdict::Met);
    assert_eq!(judged("jsonpath={.metadata.*}=x", &node("True")), not_yet("{.metadata.*} gives 4 values, not one"));
}

#[test]
fn what_cannot_be_waited_for_is_refused() {
    for text in
        ["", "ready", "condition", "condition=", "jsonpath={.a", "jsonpath={.a}=", "delete=x", "jsonpath={.a}{.b}"]
    {
        assert!(text.parse::<For>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn arbitrary_words_never_panic(text in "(condition=|jsonpath=)?(\\PC|[{}\\[\\]=\"'\\\\.])*") {
        if let Ok(what) = text.parse::<For>() {
            let _ = (what.judge(&node("True")), what.described());
        }
    }
}

#[tokio::test]
async fn a_condition_that_is_there_is_met_at_once_and_one_that_comes_is_waited_for() {
    let relay = Relay::start().await;
    relay.put(OFFICE, &node("True"));
    assert_eq!(relay.ok("wait tn/office --for=condition=Ready").await, MET);
    relay.put(OFFICE, &node("False"));
    let (out, ()) = tokio::join!(relay.ok("wait tn -l a=b --for=condition=Ready"), async {
        relay.watched(1).await;
        relay.put(OFFICE, &node("True"));
    });
    assert_eq!(out, MET);
}

#[tokio::test]
async fn the_last_state_is_named_when_it_does_not_come_in_time() {
    let relay = Relay::start().await;
    relay.put(OFFICE, &node("False"));
    let (run, ()) = tokio::join!(relay.run("wait tn/office tn/other --for=condition=Ready --timeout 30s", ""), async {
        relay.watched(1).await;
        tokio::time::pause();
    });
    assert_eq!((run.outcome, run.out.as_str()), (Outcome::Failed, ""));
    assert_eq!(
        run.err,
        "error: timed out after 30s waiting for condition Ready of tunnelnode.core.apoxy.dev/office: Ready is False: \
         NoAgent: no agent\nerror: timed out after 30s waiting for condition Ready of tunnelnode.core.apoxy.dev/other\n"
    );
}

#[tokio::test]
async fn deletion_and_creation_are_waited_for() {
    let relay = Relay::start().await;
    assert_eq!(relay.ok("wait tn/office --for=delete").await, MET, "what is not there is gone");
    let (out, ()) = tokio::join!(relay.ok("wait tn/office --for=create"), async {
        relay.watched(1).await;
        relay.put(OFFICE, &node("False"));
    });
    assert_eq!(out, MET);
    let (out, ()) = tokio::join!(relay.ok("wait tn office --for=delete"), async {
        relay.watched(2).await;
        relay.put(OFFICE, &node("True"));
        relay.remove(OFFICE);
    });
    assert_eq!(out, MET);
}

#[tokio::test]
async fn what_is_not_there_has_no_conditions_to_wait_for() {
    let relay = Relay::start().await;
    let err = |line: &'static str| async {
        let run = relay.run(line, "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        run.err
    };
    assert_eq!(
        err("wait tn/office --for=condition=Ready").await,
        "error: tunnelnode.core.apoxy.dev \"office\" not found\n"
    );
    assert!(err("wait tn --all --for=condition=Ready").await.contains("no tunnelnodes match"));
    assert!(err("wait tn --for=delete").await.contains("write KIND/NAME, -l LABELS or --all"));
    assert_eq!(relay.ok("wait tn --all --for=delete").await, "");
    relay.put(OFFICE, &node("False"));
    let (text, ()) = tokio::join!(err("wait tn/office --for=condition=Ready"), async {
        relay.watched(1).await;
        relay.remove(OFFICE);
    });
    assert_eq!(text, "error: tunnelnode.core.apoxy.dev/office was deleted while it was waited for\n");
}
