//! The two kubectls that the journeys drive: the oldest that people still have, and a current one.
//!
//! `scripts/test` fetches one and builds the other; neither needs to be installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    cli::Outcome,
    eventually::{PATIENCE, within},
    process::Process,
};

/// Which kubectl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.20, of Debian's package `kubernetes-client`.
    Debian,
    /// 1.36, built from its Go module by `tests/go/kubectl`.
    Current,
}

impl Version {
    /// # Panics
    /// When it is not there, saying what puts it there.
    #[must_use]
    pub fn program(self) -> PathBuf {
        let (variable, place) = match self {
            Self::Debian => ("UNDERPASS_KUBECTL_OLD", "target/tools/kubernetes-client/usr/bin/kubectl"),
            Self::Current => ("UNDERPASS_KUBECTL_NEW", "target/tools/kubectl-current"),
        };
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is a folder of the repository");
        let program = env::var_os(variable).map_or_else(|| top.join(place), PathBuf::from);
        assert!(
            program.is_file(),
            "{self:?}: no kubectl at {}: run `scripts/test tools`, or name one in {variable}",
            program.display()
        );
        program
    }
}

/// One kubectl with one kubeconfig and a cache of its own.
#[derive(Debug, Clone)]
pub struct Kubectl {
    pub version: Version,
    kubeconfig: PathBuf,
    /// Its home and what it caches of discovery.
    home: Arc<tempfile::TempDir>,
    /// Goes before every other argument.
    first: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Kubectl {
    /// # Panics
    /// When no temporary folder can be made.
    #[must_use]
    pub fn new(version: Version, kubeconfig: PathBuf) -> Self {
        let home = tempfile::Builder::new().prefix("underpass-kubectl-").tempdir().expect("a folder for kubectl");
        Self { version, kubeconfig, home: Arc::new(home), first: Vec::new(), environment: Vec::new() }
    }

    /// The same, with further arguments before all others.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.first.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// The same, with an environment variable.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A file in its home, for what a command is given by name.
    ///
    /// # Panics
    /// When it can not be written.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path.display().to_string()
    }

    /// An editor for `kubectl edit` that runs a sed script over the file.
    ///
    /// # Panics
    /// When it can not be written.
    #[must_use]
    pub fn with_editor(self, script: &str) -> Self {
        let script = self.file("edit.sed", script);
        let editor = format!("sed -i -f {script}");
        self.with_environment("KUBE_EDITOR", &editor)
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "").await
    }

    /// The same, with standard input.
    ///
    /// # Panics
    /// When it does not start or does not end in time.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let run = async {
            // It need not read its input.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = within(PATIENCE, &format!("`kubectl {}` ends", arguments.join(" ")), run).await;
        Outcome::of(&output.expect("our own child can be waited for"))
    }

    /// What a command prints, which must work.
    ///
    /// # Panics
    /// When it does not.
    pub async fn prints(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments).await;
        assert_eq!(outcome.code, Some(0), "{:?} kubectl {arguments:?} works: {outcome:?}", self.version);
        outcome.stdout
    }

    /// What a command prints with `-o json`.
    ///
    /// # Panics
    /// When it fails, or prints something else.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.prints(&[arguments, &["-o", "json"]].concat()).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?} prints JSON: {error}: {text}"))
    }

    /// What a command prints with a JSONPath.
    ///
    /// # Panics
    /// When it fails.
    pub async fn path(&self, arguments: &[&str], path: &str) -> String {
        let output = format!("jsonpath={path}");
        self.prints(&[arguments, &["-o", &output]].concat()).await
    }

    /// A command with a manifest on standard input, which must work: gives what it printed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn with_manifest(&self, arguments: &[&str], manifest: &str) -> String {
        let arguments = [arguments, &["-f", "-"]].concat();
        let outcome = self.run_with_input(&arguments, manifest).await;
        assert_eq!(outcome.code, Some(0), "{:?} kubectl {arguments:?} works: {outcome:?}\n{manifest}", self.version);
        outcome.stdout
    }

    /// `kubectl apply`, which must work.
    pub async fn apply(&self, manifest: &str) -> String {
        self.with_manifest(&["apply"], manifest).await
    }

    /// Starts a command that does not end by itself.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Process {
        Process::spawn("kubectl", self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.version.program());
        let home = self.home.path();
        command.env_remove("KUBECONFIG").env("HOME", home).env("TERM", "dumb").current_dir(home);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg("--kubeconfig").arg(&self.kubeconfig).arg("--cache-dir").arg(home.join("cache"));
        command.args(&self.first).args(arguments);
        command
    }
}

/// Makes each `async fn journey(relay: &Relay, kubectl: &Kubectl)` a test with either kubectl, on a relay of its own.
#[macro_export]
macro_rules! with_both_kubectls {
    ($($journey:ident),+ $(,)?) => {
        $crate::with_both_kubectls!(@ debian Debian: $($journey),+);
        $crate::with_both_kubectls!(@ current Current: $($journey),+);
    };
    (@ $module:ident $version:ident: $($journey:ident),+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $journey() {
                    let relay = $crate::relay::Relay::start().await;
                    let version = $crate::kubectl::Version::$version;
                    let kubectl = $crate::kubectl::Kubectl::new(version, relay.kubeconfig());
                    super::$journey(&relay, &kubectl).await;
                }
            )+
        }
    };
}
