//! Python programs that we did not write, in environments of their own with pinned packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::Mutex};

use crate::{
    binary,
    eventually::{PATIENCE, within},
    process::Process,
};

/// How long the packages may take to arrive on the first run.
const INSTALLING: Duration = Duration::from_secs(600);

/// Runs the script `name` of `tests/python` with the packages of the list `requirements` beside it; gives its output.
///
/// # Panics
/// When the script fails, or cannot be run.
pub async fn run(name: &str, requirements: &str, arguments: &[&str]) -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let python = interpreter(&sources.join(requirements)).await;
    let script = sources.join(name);
    let script = script.to_str().expect("a path in UTF-8");
    end(PATIENCE * 2, &python, &[&[script], arguments].concat()).await
}

/// Starts the script `name` in the same way, and leaves it running.
pub async fn spawn(name: &str, requirements: &str, arguments: &[&str]) -> Process {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(interpreter(&sources.join(requirements)).await);
    command.arg(sources.join(name)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Process::spawn(name, command)
}

/// Runs a program to its end, which must be a good one; gives its output.
async fn end(limit: Duration, program: &Path, arguments: &[&str]) -> String {
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
///
/// One at a time, since several tests use one environment.
async fn interpreter(requirements: &Path) -> PathBuf {
    // target/PROFILE/underpass-relay: the environments are kept beside the profiles.
    let target = binary::path("underpass-relay").parent().and_then(Path::parent).expect("a target folder").to_owned();
    let name = requirements.file_stem().expect("a list has a name").to_str().expect("a path in UTF-8");
    let folder = target.join("tools").join("python").join(name);
    let (python, stamp) = (folder.join("bin/python"), folder.join("installed.txt"));
    let wanted = fs::read_to_string(requirements).expect("the list of packages is there");
    static MAKING: Mutex<()> = Mutex::const_new(());
    let _alone = MAKING.lock().await;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    let folder = folder.to_str().expect("a path in UTF-8");
    end(INSTALLING, Path::new("python3"), &["-m", "venv", "--clear", folder]).await;
    let list = requirements.to_str().expect("a path in UTF-8");
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"];
    end(INSTALLING, &python, &[&install[..], &["-r", list]].concat()).await;
    fs::write(&stamp, wanted).expect("the environment can be written to");
    python
}
