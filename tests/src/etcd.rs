//! An etcd of the test's own: Debian's `etcd` on loopback, on ports that the kernel chose, in a folder of its own.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command as Blocking, Stdio},
    sync::{OnceLock, mpsc},
    thread,
};

use etcd_client::{Client, GetOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::{process::Command, runtime::Builder};

use crate::process::Process;

/// How often other ports are tried when somebody took ours between choosing and binding.
const TRIES: usize = 5;

/// A running etcd. Killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    pub process: Process,
    client: SocketAddr,
    peer: SocketAddr,
    arguments: Vec<String>,
    tls: Option<Certificates>,
    folder: tempfile::TempDir,
}

/// The etcd that all tests of this program share, and the shell that ends it with the program.
#[derive(Debug)]
struct Shared {
    endpoint: String,
    /// Its standard input closes when this program ends, however it ends.
    _janitor: Child,
}

/// Kills etcd and removes its folder once nobody holds the other end of its standard input any more. What is killed may
/// have made another file meanwhile.
const JANITOR: &str = r#"trap '' INT TERM HUP; cat >/dev/null; kill -9 "$1"
for try in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$2" && break; done"#;

/// The endpoint of an etcd that lives as long as this program, and starts when it is first asked for.
///
/// # Panics
/// When it does not start.
pub fn of_this_program() -> &'static str {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    &SHARED.get_or_init(Shared::start).endpoint
}

impl Shared {
    /// On a thread of its own: the runtime of a test ends with the test.
    fn start() -> Self {
        let (send, receive) = mpsc::channel();
        let run = move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let etcd = Etcd::start().await;
                send.send((etcd.endpoint(), etcd.process.pid(), etcd.folder.path().to_owned())).expect("it is awaited");
                // Its output is read as long as it runs.
                std::future::pending::<()>().await;
            });
        };
        thread::Builder::new().name("etcd".to_owned()).spawn(run).expect("a thread for etcd");
        let (endpoint, pid, folder) = receive.recv().expect("etcd starts");
        let mut janitor = Blocking::new("sh");
        janitor.args(["-c", JANITOR, "sh"]).arg(pid.to_string()).arg(folder);
        janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { endpoint, _janitor: janitor.spawn().expect("sh starts") }
    }
}

/// Files of a CA of the test's own, etcd's certificate, and one for its client.
#[derive(Debug, Clone)]
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Etcd {
    /// Starts an empty etcd that speaks plain HTTP/2, and waits until it serves.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further arguments.
    ///
    /// # Panics
    /// When it does not start; scripts/test installs it (Debian: etcd-server).
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, false).await
    }

    /// An etcd that takes only clients with a certificate of its CA.
    ///
    /// # Panics
    /// As [`Etcd::start_with`].
    pub async fn start_with_mutual_tls() -> Self {
        Self::launch(&[], true).await
    }

    async fn launch(arguments: &[&str], mutual_tls: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("underpass-etcd-").tempdir().expect("a folder for etcd");
        let tls = mutual_tls.then(|| certify(folder.path()));
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        for _ in 0..TRIES {
            let (client, peer) = (free(), free());
            let mut process = spawn(folder.path(), [client, peer], &arguments, tls.as_ref());
            if serves(&mut process).await {
                return Self { process, client, peer, arguments, tls, folder };
            }
        }
        panic!("etcd does not start: is it installed (Debian: etcd-server), and is there room on the disk?");
    }

    /// What clients connect to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client)
    }

    /// Where it listens for clients.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// For clients of an etcd with mutual TLS.
    ///
    /// # Panics
    /// When it was started without.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.tls.as_ref().expect("this etcd speaks TLS")
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Starts it again after its end, on the same data and ports.
    ///
    /// # Panics
    /// When it does not serve again.
    pub async fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), [self.client, self.peer], &self.arguments, self.tls.as_ref());
        assert!(serves(&mut self.process).await, "etcd starts again on its own data");
    }

    /// A client of our own, for what stores do not do.
    ///
    /// # Panics
    /// When etcd does not take it.
    pub async fn connect(&self) -> Client {
        Client::connect([self.endpoint()], None).await.expect("etcd takes a client")
    }

    /// The newest revision.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn revision(&self) -> i64 {
        let newest = self.connect().await.get("none", None).await.expect("etcd answers");
        newest.header().expect("an answer has a header").revision()
    }

    /// Whether it can not be read any more as it was at `revision`; `Err` says what it answers instead.
    ///
    /// # Errors
    /// When it can be read.
    pub async fn has_forgotten(&self, revision: i64) -> Result<(), String> {
        let then = GetOptions::new().with_revision(revision);
        match self.connect().await.get("none", Some(then)).await {
            Err(error) if error.to_string().contains("compacted") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Writes an empty value.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn touch(&self, key: &str) {
        self.connect().await.put(key, "", None).await.expect("etcd answers");
    }

    /// Forgets all history, so that watches of the past are refused.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn compact(&self) {
        let revision = self.revision().await;
        // Somebody else may have compacted further meanwhile.
        let _ = self.connect().await.compact(revision, None).await;
    }

    /// Every key and value, one after the other.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub async fn dump(&self) -> Vec<u8> {
        let mut client = self.connect().await;
        let all = client.get("", Some(GetOptions::new().with_all_keys())).await.expect("etcd answers");
        all.kvs().iter().flat_map(|pair| [pair.key(), b"\n", pair.value(), b"\n"].concat()).collect()
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound socket has an address")
}

fn spawn(folder: &Path, [client, peer]: [SocketAddr; 2], further: &[String], tls: Option<&Certificates>) -> Process {
    let mut command = Command::new("etcd");
    let scheme = if tls.is_some() { "https" } else { "http" };
    command.arg("--data-dir").arg(folder.join("data")).args(["--name", "test", "--logger=zap"]);
    command.args(["--log-outputs=stdout", "--log-level=info"]);
    command.args(["--listen-client-urls", &format!("{scheme}://{client}")]);
    command.args(["--advertise-client-urls", &format!("{scheme}://{client}")]);
    command.args(["--listen-peer-urls", &format!("http://{peer}")]);
    command.args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
    command.args(["--initial-cluster", &format!("test=http://{peer}")]);
    if let Some(tls) = tls {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        command.arg("--cert-file").arg(folder.join("server.crt")).arg("--key-file").arg(folder.join("server.key"));
    }
    command.args(further);
    Process::spawn("etcd", command)
}

async fn serves(process: &mut Process) -> bool {
    process.try_line("that it serves clients", |line| line.contains("serving ").then_some(())).await.is_some()
}

/// Writes a CA, a certificate for loopback servers, and one for a client.
fn certify(folder: &Path) -> Certificates {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("a CA");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("the folder takes files");
        path
    };
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address is a name");
        leaf.extended_key_usages = vec![usage];
        let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
        write(&format!("{name}.crt"), &leaf.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
    let ca = write("ca.crt", &authority.pem());
    Certificates { ca, cert: folder.join("client.crt"), key: folder.join("client.key") }
}
