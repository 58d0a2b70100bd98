//! One program under test: started, listened to, stopped. Ends with its owner, and prints its log when the test fails.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::eventually::{PATIENCE, within};

/// How many lines of its standard error are kept for the report of a failed test.
const LOG_LINES_MAX: usize = 300;
/// How many lines of standard output a program may print before the test gives up on it.
const OUTPUT_LINES_MAX: usize = 20_000;

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Child,
    output: watch::Receiver<Vec<String>>,
    log: Arc<Mutex<VecDeque<String>>>,
    /// Lines before this one have been waited for already.
    read: usize,
}

impl Process {
    /// # Panics
    /// When the program does not start.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let pid = child.id().expect("a child that was just started has an id");
        let (lines, output) = watch::channel(Vec::new());
        let stdout = child.stdout.take().expect("standard output is piped");
        tokio::spawn(gather_output(stdout, lines));
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let stderr = child.stderr.take().expect("standard error is piped");
        tokio::spawn(gather_log(stderr, Arc::clone(&log)));
        Self { name: name.to_owned(), pid, child, output, log, read: 0 }
    }

    /// Waits for the next line that `pick` wants, and skips those before it: each line is given once.
    ///
    /// # Panics
    /// At the deadline, or when the program ends first.
    pub async fn line<T>(&mut self, what: &str, pick: impl FnMut(&str) -> Option<T>) -> T {
        let found = self.try_line(what, pick).await;
        found.unwrap_or_else(|| panic!("{} ended before it printed {what}", self.name))
    }

    /// As [`Process::line`], but `None` when the program ends first.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn try_line<T>(&mut self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let from = self.read;
        let mut found = None;
        let look = self.output.wait_for(|lines| {
            found = lines.iter().enumerate().skip(from).find_map(|(at, line)| pick(line).map(|value| (at, value)));
            found.is_some()
        });
        let ended = within(PATIENCE, &format!("{} prints {what}", self.name), look).await.is_err();
        let (at, value) = found.filter(|_| !ended)?;
        self.read = at + 1;
        Some(value)
    }

    /// Everything printed on standard output until now.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.borrow().clone()
    }

    /// The end of what it wrote to standard error.
    #[must_use]
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|line| format!("{line}\n")).collect()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file system as the process sees it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.pid).into()
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&mut self) {
        within(PATIENCE, "a killed process ends", self.child.kill()).await.expect("our own child can be killed");
    }

    /// SIGTERM. Does not wait.
    ///
    /// # Panics
    /// When the shell cannot send it.
    pub async fn terminate(&self) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.pid)).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIGTERM reaches {}", self.name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self) -> ExitStatus {
        let ended = within(PATIENCE, &format!("{} ends", self.name), self.child.wait()).await;
        ended.expect("our own child can be waited for")
    }

    /// Whether it has ended already.
    ///
    /// # Panics
    /// When the kernel does not say.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child can be asked").is_some()
    }

    /// The most memory it ever held, in bytes (`VmHWM`).
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        memory(self.pid, "VmHWM:")
    }

    /// The memory it holds now, in bytes (`VmRSS`).
    #[must_use]
    pub fn memory(&self) -> u64 {
        memory(self.pid, "VmRSS:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}\n--- and logged:\n{}---", self.name, self.lines().join("\n"), self.log());
        }
    }
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel counts its memory");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("the kernel counts in kB");
    kibibytes << 10
}

async fn gather_output(stdout: impl AsyncRead + Unpin, lines: watch::Sender<Vec<String>>) {
    let mut reader = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        lines.send_modify(|all| {
            if all.len() < OUTPUT_LINES_MAX {
                all.push(line);
            }
        });
    }
}

async fn gather_log(stderr: impl AsyncRead + Unpin, log: Arc<Mutex<VecDeque<String>>>) {
    let mut reader = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES_MAX {
            log.pop_front();
        }
        log.push_back(line);
    }
}
