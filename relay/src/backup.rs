//! `underpass-relay backup` and `restore`: from a running relay through its API, or from the files of one that is not.

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpStream, runtime::Builder, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    authority::kubeconfig::KUBECONFIG_FILE,
    config::{Backup, Restore, StoreConfig},
    store::{
        backup::{self, BackupError, RESTORE_STEP, Summary},
        disk::{OpenError, STORE_FILE},
        seal::KEY_FILE,
    },
};
#[cfg(feature = "etcd")]
use crate::{cluster, store};

/// How long the relay may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest refusal that is shown, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Writes a backup to a file, whole or not at all.
///
/// # Errors
/// What to do about it.
pub fn back_up(wanted: &Backup, data_dir: &Path) -> anyhow::Result<()> {
    let mut staging = wanted.to.clone().into_os_string();
    staging.push(".new");
    let staging = PathBuf::from(staging);
    let written = take(wanted, data_dir, &staging);
    if written.is_err() {
        // What is not whole is no backup; that it may stay behind is told by the error.
        let _ = fs::remove_file(&staging);
    }
    let Summary { revision, entries } = written?;
    let folder = wanted.to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(&staging, &wanted.to)
        .and_then(|()| File::open(folder)?.sync_all())
        .with_context(|| format!("{} cannot be written", wanted.to.display()))?;
    println!("{}: {entries} objects and records at revision {revision}", wanted.to.display());
    if !wanted.with_key {
        println!(
            "keep {} apart from it: without the key the backup cannot be restored",
            key_file(wanted, data_dir).display()
        );
    }
    Ok(())
}

/// Makes a data directory out of a backup.
///
/// # Errors
/// What to do about it.
pub fn restore(wanted: &Restore, data_dir: &Path) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be restored", wanted.from.display());
    let (place, restored) = match wanted.store()? {
        StoreConfig::Embedded => (data_dir.display().to_string(), backup::restore(&wanted.from, data_dir)),
        #[cfg(feature = "etcd")]
        StoreConfig::Etcd(etcd) => {
            let key_file = wanted.store_key_file.clone().unwrap_or_else(|| data_dir.join(KEY_FILE));
            if let Some(folder) = key_file.parent() {
                cluster::make_private(folder)?;
            }
            let place = format!("etcd under {}", etcd.prefix);
            (place, store::etcd::restore(&wanted.from, &cluster::settings(&etcd, key_file)?))
        }
        #[cfg(not(feature = "etcd"))]
        StoreConfig::Etcd(_) => bail!("this program was built without etcd"),
    };
    let Summary { revision, entries } = restored.with_context(failed)?;
    println!("{place}: {entries} objects and records of revision {}", revision - RESTORE_STEP);
    println!("it goes on at revision {revision}, so that clients of the old store list everything again");
    Ok(())
}

fn key_file(wanted: &Backup, data_dir: &Path) -> PathBuf {
    wanted.store_key_file.clone().unwrap_or_else(|| data_dir.join(KEY_FILE))
}

fn take(wanted: &Backup, data_dir: &Path, staging: &Path) -> anyhow::Result<Summary> {
    let unwritten = || format!("{} cannot be written", staging.display());
    let create = || -> anyhow::Result<File> { create_private(staging).with_context(unwritten) };
    let own = if data_dir.join(STORE_FILE).exists() {
        backup::of_directory(data_dir, create()?)
    } else {
        Err(OpenError::InUse(data_dir.to_owned()).into())
    };
    match own {
        Ok(_) => {}
        Err(BackupError::Io(error)) => return Err(error).with_context(unwritten),
        // A relay that runs has it; or it is kept in etcd, which a relay that runs reaches.
        Err(BackupError::Store(OpenError::InUse(_))) => download(data_dir, create()?, unwritten)?,
        Err(error) => return Err(error.into()),
    }
    let summary = backup::verify(staging)?;
    if wanted.with_key {
        let mut keyless = staging.as_os_str().to_owned();
        keyless.push(".keyless");
        let keyless = PathBuf::from(keyless);
        fs::rename(staging, &keyless)?;
        let added = create().and_then(|file| Ok(backup::with_key(&keyless, &key_file(wanted, data_dir), file)?));
        fs::remove_file(&keyless)?;
        added?;
    }
    File::open(staging).and_then(|file| file.sync_all()).with_context(unwritten)?;
    Ok(summary)
}

fn create_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Asks the running relay, as its administrator.
fn download(data_dir: &Path, mut to: File, unwritten: impl Fn() -> String) -> anyhow::Result<()> {
    let path = data_dir.join(KUBECONFIG_FILE);
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no store in {}, and {} cannot be read: is this the --data-dir of a relay?",
            data_dir.display(),
            path.display()
        )
    })?;
    let config: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", path.display()))?;
    let Admin { address, tls } = Admin::of(&config).with_context(|| format!("{} cannot be used", path.display()))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = timeout(SILENCE, TcpStream::connect(address)).await?;
        let stream =
            stream.with_context(|| format!("the relay does not answer at {address}: start it, then try again"))?;
        let stream =
            timeout(SILENCE, TlsConnector::from(tls).connect(ServerName::from(address.ip()), stream)).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get("/backup").header("host", address.to_string()).body(Empty::<Bytes>::new())?;
        let mut response = timeout(SILENCE, sender.send_request(request)).await??;
        if response.status() != StatusCode::OK {
            let body = http_body_util::Limited::new(response.body_mut(), REFUSAL_BYTES_MAX).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            let status: Value = serde_json::from_slice(&body).unwrap_or_default();
            bail!("the relay refuses: {}", status["message"].as_str().unwrap_or("it does not say why"));
        }
        while let Some(frame) = timeout(SILENCE, response.body_mut().frame()).await? {
            if let Ok(data) = frame?.into_data() {
                to.write_all(&data).with_context(&unwritten)?;
            }
        }
        connection.abort();
        anyhow::Ok(())
    })
}

/// Who `admin.kubeconfig` says we are, and where the relay is.
struct Admin {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Admin {
    fn of(config: &Value) -> anyhow::Result<Self> {
        let text =
            |pointer: &str| config.pointer(pointer).and_then(Value::as_str).ok_or_else(|| anyhow!("no {pointer}"));
        let pem = |pointer: &str| anyhow::Ok(STANDARD.decode(text(pointer)?)?);
        let server = text("/clusters/0/cluster/server")?;
        let place = server.strip_prefix("https://").map(|rest| rest.trim_end_matches('/'));
        let address =
            place.and_then(|place| place.parse().ok()).ok_or_else(|| anyhow!("{server} is not an address"))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        ensure!(!roots.is_empty(), "it names no CA");
        let chain = pem("/users/0/user/client-certificate-data")?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        Ok(Self { address, tls: Arc::new(tls) })
    }
}
