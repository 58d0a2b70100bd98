//! The command line as a person runs it: arguments in, text and exit code out.

use std::{path::PathBuf, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    binary,
    eventually::{PATIENCE, within},
};

/// What a finished command left.
#[derive(Debug)]
pub struct Outcome {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    #[must_use]
    pub fn of(output: &std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, once it is known to have worked.
    ///
    /// # Panics
    /// When it failed.
    #[must_use]
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, Some(0), "the command works: {self:?}");
        self.stdout
    }

    /// Asserts that it refused, on standard error, in words that hold each of `words` in any case.
    ///
    /// # Panics
    /// When it worked, crashed, or says something else.
    pub fn expect_refusal(&self, words: &[&str]) {
        let code = self.code.unwrap_or_else(|| panic!("a refusal is an exit, not a signal: {self:?}"));
        assert!(code != 0 && code != 101, "a refusal has an exit code of its own: {self:?}");
        let text = self.stderr.to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "the refusal says `{word}`: {self:?}");
        }
        assert!(!text.contains("panicked"), "a refusal is no panic: {self:?}");
    }
}

/// The command line with one kubeconfig and project.
#[derive(Debug, Clone)]
pub struct Cli {
    kubeconfig: PathBuf,
    project: Option<String>,
}

impl Cli {
    #[must_use]
    pub fn new(kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, project: None }
    }

    /// The same, with `--project` when there is one.
    #[must_use]
    pub fn in_project(mut self, project: Option<&str>) -> Self {
        self.project = project.map(str::to_owned);
        self
    }

    /// Runs `underpass ARGUMENTS` to its end.
    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "").await
    }

    /// `underpass apply -f -` with `manifest`.
    pub async fn try_apply(&self, manifest: &str) -> Outcome {
        self.run_with_input(&["apply", "-f", "-"], manifest).await
    }

    /// The same, when it must work. Returns what it printed.
    pub async fn apply(&self, manifest: &str) -> String {
        self.try_apply(manifest).await.expect_success()
    }

    /// A fresh enrolment token for a node.
    ///
    /// # Panics
    /// When none is given, or it is not one line.
    pub async fn token(&self, node: &str) -> String {
        self.token_with(node, &[]).await
    }

    /// The same, with flags such as `--ttl 1s`.
    ///
    /// # Panics
    /// When none is given, or it is not one line.
    pub async fn token_with(&self, node: &str, flags: &[&str]) -> String {
        let printed = self.run(&[&["tunnel", "token", node], flags].concat()).await.expect_success();
        let token = printed.trim().to_owned();
        assert!(token.starts_with("underpass1.") && !token.contains('\n'), "one copyable string: {printed:?}");
        token
    }

    async fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut command = Command::new(binary::path("underpass"));
        command.env_remove("UNDERPASS_TOKEN").env_remove("UNDERPASS_KUBECONFIG").env_remove("KUBECONFIG");
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(project) = &self.project {
            command.args(["--project", project]);
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = command.spawn().expect("the command starts");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        let run = async {
            // A command that does not read its input ends it early: that is its right.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = within(PATIENCE, &format!("`underpass {}` ends", arguments.join(" ")), run).await;
        Outcome::of(&output.expect("our own child can be waited for"))
    }
}
