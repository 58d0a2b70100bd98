//! The Python client `kubernetes`, which we did not write, in an environment of its own with pinned packages.

use underpass_tests::{python, relay::Relay};

/// Flows that are run, each of which says so when it went well.
const FLOWS: usize = 7;

#[tokio::test]
async fn a_python_program_is_at_home() {
    let relay = Relay::start().await;
    let kubeconfig = relay.kubeconfig();
    let arguments = [kubeconfig.to_str().expect("a path in UTF-8")];
    let text = python::run("flows.py", "requirements.txt", &arguments).await;
    assert_eq!(text.lines().filter(|line| line.ends_with(": as in a cluster")).count(), FLOWS, "{text}");
}
