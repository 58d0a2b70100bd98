//! The Python client `kubernetes`, which we did not write, in an environment of its own with pinned packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;
use underpass_tests::{
    binary,
    eventually::{PATIENCE, within},
    relay::Relay,
};

/// How long the packages may take to arrive on the first run.
const INSTALLING: Duration = Duration::from_secs(600);
/// Flows that are run, each of which says so when it went well.
const FLOWS: usize = 7;

/// Runs a program to its end, which must be a good one; gives its output.
async fn run(limit: Duration, program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = within(limit, &format!("{} {arguments:?} ends", program.display()), command.output()).await;
    let output =
        output.unwrap_or_else(|error| panic!("{}: {error}: install python3 and python3-venv", program.display()));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{} {arguments:?} works: {text}", program.display());
    text
}

/// The interpreter of an environment that has the packages of `requirements`; made anew when those change.
async fn interpreter(requirements: &Path) -> PathBuf {
    // target/PROFILE/underpass-relay: the environment is kept beside the profiles.
    let target = binary::path("underpass-relay").parent().and_then(Path::parent).expect("a target folder").to_owned();
    let folder = target.join("tools").join("python");
    let (python, stamp) = (folder.join("bin/python"), folder.join("installed.txt"));
    let wanted = fs::read_to_string(requirements).expect("the list of packages is there");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    let folder = folder.to_str().expect("a path in UTF-8");
    run(INSTALLING, Path::new("python3"), &["-m", "venv", "--clear", folder]).await;
    let list = requirements.to_str().expect("a path in UTF-8");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
    run(INSTALLING, &python, &[&install[..], &["-r", list]].concat()).await;
    fs::write(&stamp, wanted).expect("the environment can be written to");
    python
}

#[tokio::test]
async fn a_python_program_is_at_home() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let python = interpreter(&sources.join("requirements.txt")).await;
    let relay = Relay::start().await;
    let (script, kubeconfig) = (sources.join("flows.py"), relay.kubeconfig());
    let paths = [&script, &kubeconfig].map(|path| path.to_str().expect("a path in UTF-8"));
    let text = run(PATIENCE * 2, &python, &paths).await;
    assert_eq!(text.lines().filter(|line| line.ends_with(": as in a cluster")).count(), FLOWS, "{text}");
}
