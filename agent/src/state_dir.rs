//! What an agent keeps over restarts: its id, its key, its certificate and the relays. Files of mode 0600 in a folder of 0700.
//!
//! Nothing here is ever half-written: a file is replaced whole or stays as it was.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use underpass_shared::{
    enrolment::Issued,
    identity::{AgentId, AgentIdentity, Identity, NodeName, ProjectName},
    quic::tls::identity_of,
};

const IDENTITY: &str = "agent.json";
const KEY: &str = "key.pem";
const ISSUED: &str = "certificate.json";
const LOCK: &str = "lock";

/// Whose state it is; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    pub project: ProjectName,
    pub node: NodeName,
    pub agent: AgentId,
}

/// An agent's state directory, held by this process alone until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    folder: PathBuf,
    owner: Owner,
    key: KeyPair,
    _lock: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is in use by another agent: stop it, or give this one a --state-dir of its own")]
    InUse { path: PathBuf },
    #[error("{path} holds the state of {owner}, not of node {node} of project {project}: give another --state-dir")]
    OtherNode { path: PathBuf, owner: String, node: NodeName, project: ProjectName },
    #[error("{path} holds a certificate of {other}, not of {own}: remove it and enrol again")]
    OtherCertificate { path: PathBuf, own: String, other: String },
    #[error("{path} is readable by others: `chmod 600 {path}`, and enrol again if somebody may have copied it")]
    Readable { path: PathBuf },
    #[error("{path} is damaged ({reason}): remove the folder and enrol again")]
    Damaged { path: PathBuf, reason: String },
}

impl StateDir {
    /// Opens the folder, or makes it with a fresh key and the id `fresh`.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(folder: &Path, project: &ProjectName, node: &NodeName, fresh: AgentId) -> Result<Self, StateError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(fault("create", folder))?;
        let lock = lock(folder)?;
        let path = folder.join(IDENTITY);
        let owner = match read(&path)? {
            Some(text) => parse(&path, &text)?,
            None => {
                let owner = Owner { project: project.clone(), node: node.clone(), agent: fresh };
                write(&path, &json(&owner))?;
                owner
            }
        };
        if owner.project != *project || owner.node != *node {
            return Err(StateError::OtherNode {
                path: folder.to_owned(),
                owner: format!("node {} of project {}", owner.node, owner.project),
                node: node.clone(),
                project: project.clone(),
            });
        }
        let key = open_key(&folder.join(KEY))?;
        Ok(Self { folder: folder.to_owned(), owner, key, _lock: lock })
    }

    /// Whose state it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The key that never leaves this folder.
    #[must_use]
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// The certificate and the relays, once there are any.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged, or holds somebody else's certificate.
    pub fn issued(&self) -> Result<Option<Issued>, StateError> {
        let path = self.folder.join(ISSUED);
        let Some(text) = read(&path)? else { return Ok(None) };
        let issued: Issued = parse(&path, &text)?;
        let owner = self.owner.clone();
        let own = Identity::Agent(AgentIdentity { project: owner.project, node: owner.node, agent: owner.agent });
        match certified(&issued) {
            Ok(other) if other == own => Ok(Some(issued)),
            Ok(other) => Err(StateError::OtherCertificate { path, own: own.to_string(), other: other.to_string() }),
            Err(reason) => Err(StateError::Damaged { path, reason }),
        }
    }

    /// Keeps `issued` in place of what was there.
    ///
    /// # Errors
    /// When it cannot be written; what was there stays.
    pub fn keep(&self, issued: &Issued) -> Result<(), StateError> {
        write(&self.folder.join(ISSUED), &json(issued))
    }
}

/// Whose certificate it is.
fn certified(issued: &Issued) -> Result<Identity, String> {
    let certificate =
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).map_err(|error| error.to_string())?;
    identity_of(&certificate).map_err(|error| error.to_string())
}

fn lock(folder: &Path) -> Result<File, StateError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(fault("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StateError::File { action: "lock", path, source }),
    }
}

fn open_key(path: &Path) -> Result<KeyPair, StateError> {
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem)
            .map_err(|error| StateError::Damaged { path: path.to_owned(), reason: error.to_string() });
    }
    let key = KeyPair::generate().map_err(|error| StateError::File {
        action: "make a key for",
        path: path.to_owned(),
        source: io::Error::other(error),
    })?;
    write(path, &key.serialize_pem())?;
    Ok(key)
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { action, path, source }
}

fn read(path: &Path) -> Result<Option<String>, StateError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault("read", path)(error)),
    };
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(StateError::Readable { path: path.to_owned() });
    }
    fs::read_to_string(path).map(Some).map_err(fault("read", path))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, text: &str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|error| StateError::Damaged { path: path.to_owned(), reason: error.to_string() })
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain structs always serialise")
}

fn write(path: &Path, text: &str) -> Result<(), StateError> {
    let fresh = path.with_extension("new");
    let replace = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    replace().map_err(fault("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (ProjectName, NodeName) {
        (ProjectName::default(), "office".parse().unwrap())
    }

    fn open(folder: &Path, fresh: &str) -> Result<StateDir, StateError> {
        let (project, node) = names();
        StateDir::open(folder, &project, &node, fresh.parse().unwrap())
    }

    fn issued_to(agent: &str) -> Issued {
        let mut params = rcgen::CertificateParams::default();
        let uri = format!("spiffe://underpass/project/default/node/office/agent/{agent}");
        params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Issued {
            certificate: certificate.pem(),
            ca: "ca".to_owned(),
            relays: vec!["r:1".to_owned()],
            not_before: 0,
            not_after: 1,
        }
    }

    #[test]
    fn id_key_and_certificate_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), "a-1").unwrap();
        assert_eq!(first.issued().unwrap(), None);
        let issued = issued_to("a-1");
        first.keep(&issued).unwrap();
        let key = first.key().serialize_pem();
        drop(first);
        let second = open(folder.path(), "a-2").unwrap();
        assert_eq!(second.owner().agent.as_str(), "a-1");
        assert_eq!(second.key().serialize_pem(), key);
        assert_eq!(second.issued().unwrap(), Some(issued));
    }

    #[test]
    fn every_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        open(&state, "a-1").unwrap().keep(&issued_to("a-1")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        let files: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 4);
        assert!(files.iter().all(|file| mode(file) == 0o600));
    }

    #[test]
    fn a_second_agent_is_told_to_use_another_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _held = open(folder.path(), "a-1").unwrap();
        assert!(matches!(open(folder.path(), "a-2"), Err(StateError::InUse { .. })));
    }

    #[test]
    fn another_nodes_state_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), "a-1").unwrap());
        let home = "home".parse().unwrap();
        let error = StateDir::open(folder.path(), &ProjectName::default(), &home, "a-2".parse().unwrap()).unwrap_err();
        let want = "holds the state of node office of project default, not of node home of project default";
        assert!(error.to_string().contains(want), "{error}");
    }

    #[test]
    fn somebody_elses_certificate_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(folder.path(), "a-1").unwrap();
        state.keep(&issued_to("a-2")).unwrap();
        assert!(matches!(state.issued(), Err(StateError::OtherCertificate { other, .. }) if other.ends_with("/a-2")));
    }

    #[test]
    fn readable_and_damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path(), "a-1").unwrap());
        let key = folder.path().join(KEY);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(folder.path(), "a-1"), Err(StateError::Readable { path }) if path == key));
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, "nonsense").unwrap();
        assert!(matches!(open(folder.path(), "a-1"), Err(StateError::Damaged { path, .. }) if path == key));
    }
}
