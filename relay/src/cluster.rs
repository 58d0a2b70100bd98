//! What relays tell each other through the store: which are there, who is connected where, and which one leads.
//!
//! All of it is leased: it ends with the relay that said it. With the embedded store there is one relay, which leads.

use std::{collections::BTreeMap, sync::Arc};
#[cfg(feature = "etcd")]
use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

#[cfg(feature = "etcd")]
use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use underpass_shared::identity::RelayId;

#[cfg(feature = "etcd")]
use crate::{
    config::EtcdConfig,
    store::etcd::{Settings, Tls},
};
use crate::{
    config::{Config, StoreConfig},
    store::{
        Store,
        record::{LeaderRecord, Leased, RecordKey, RelayRecord, SessionRecord},
        seal::KEY_FILE,
        state::WriteError,
    },
    tunnel::Connected,
};

/// How many records one transaction writes: with their turn-taking they fit into one of etcd's.
const RECORDS_MAX: usize = 60;
/// The most relays whose addresses are told to agents.
const RELAYS_MAX: usize = 16;

/// This relay, as the others see it.
#[derive(Debug)]
pub struct Presence {
    store: Store,
    relay: RelayId,
    /// `host:port` that agents dial.
    addresses: Vec<String>,
    leased: watch::Receiver<Leased>,
    instance: String,
    /// Whether the others have been told of this process.
    known: bool,
}

/// What came of telling the other relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The store says what is so.
    Whole,
    /// Not all of it could be written: try again.
    Later,
    /// A relay that was started later goes by this one's name. Whichever of the two wrote last would be believed.
    Replaced,
}

impl Presence {
    /// Nothing is said before the first [`Presence::announce`].
    #[must_use]
    pub fn new(store: Store, relay: RelayId, addresses: Vec<String>) -> Self {
        let leased = store.leased();
        let instance = format!("{:016x}", rand::random::<u64>());
        Self { store, relay, addresses, leased, instance, known: false }
    }

    /// This relay's name.
    #[must_use]
    pub fn relay(&self) -> &RelayId {
        &self.relay
    }

    /// What all relays say; wakes when any of it changes.
    #[must_use]
    pub fn leased(&self) -> watch::Receiver<Leased> {
        self.leased.clone()
    }

    /// Whether this relay writes what all relays would write alike.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leased.borrow().leader().as_ref() == Some(&self.relay)
    }

    /// Sees to it that the store says of this relay what is so, and that some relay leads.
    pub async fn announce(&mut self, connected: &[Connected]) -> Announced {
        let said: Option<RelayRecord> = self.leased.borrow().get(&RecordKey::Relay(self.relay.clone()));
        match said {
            Some(record) if record.instance == self.instance => self.known = true,
            // One from before this process began is that of its predecessor, which may have been killed.
            Some(_) if self.known => return Announced::Replaced,
            _ => {}
        }
        let wanted = self.wanted(connected);
        let steps = steps(&self.leased.borrow(), &self.relay, &wanted);
        for some in steps.chunks(RECORDS_MAX) {
            let (some, relay) = (Arc::new(some.to_vec()), self.relay.clone());
            let written = self.store.transact(move |state, _| {
                for (key, value) in some.iter() {
                    match (key, value) {
                        // Another relay may have been faster.
                        (RecordKey::Leader, _) if state.leased().leader().is_some() => {}
                        (RecordKey::Leader, _) => {
                            state.put_record(RecordKey::Leader, &LeaderRecord { relay: relay.clone() })?;
                        }
                        (_, Some(value)) => state.put_record(key.clone(), value)?,
                        (_, None) => state.remove_record(key),
                    }
                }
                Ok::<_, WriteError>(())
            });
            if let Err(error) = written.await {
                tracing::debug!(%error, "the other relays could not be told what is connected here");
                return Announced::Later;
            }
        }
        Announced::Whole
    }

    fn wanted(&self, connected: &[Connected]) -> BTreeMap<RecordKey, Value> {
        let own = RelayRecord { addresses: self.addresses.clone(), instance: self.instance.clone() };
        let sessions = connected.iter().map(|agent| {
            let address = agent.admission.prefix().address();
            let record = SessionRecord { since: agent.since.unix_timestamp(), address };
            (RecordKey::Session(agent.identity.clone(), self.relay.clone()), json(&record))
        });
        sessions.chain([(RecordKey::Relay(self.relay.clone()), json(&own))]).collect()
    }
}

/// What makes `leased` say `wanted` of `relay`, and somebody lead.
fn steps(leased: &Leased, relay: &RelayId, wanted: &BTreeMap<RecordKey, Value>) -> Vec<(RecordKey, Option<Value>)> {
    let ours = |key: &RecordKey| match key {
        RecordKey::Relay(of) | RecordKey::Session(_, of) => of == relay,
        _ => false,
    };
    let stale = leased.keys().filter(|key| ours(key) && !wanted.contains_key(key));
    let mut steps: Vec<_> = stale.map(|key| (key.clone(), None)).collect();
    let missing = wanted.iter().filter(|(key, value)| leased.get::<Value>(key).as_ref() != Some(*value));
    steps.extend(missing.map(|(key, value)| (key.clone(), Some(value.clone()))));
    if leased.leader().is_none() {
        steps.push((RecordKey::Leader, Some(Value::Null)));
    }
    steps
}

/// The addresses that agents may dial: `own` first, then those of the other relays that are there.
#[must_use]
pub fn addresses(own: &[String], leased: &Leased) -> Vec<String> {
    let mut all = own.to_vec();
    for address in leased.relays().flat_map(|(_, relay)| relay.addresses) {
        if all.len() < RELAYS_MAX && !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Opens the store that `config` names.
///
/// Blocks on the disk, or on the network.
///
/// # Errors
/// What keeps it from being opened, and what to do about it.
pub fn open_store(config: &Config) -> anyhow::Result<Store> {
    let key_file = config.store_key_file.clone().unwrap_or_else(|| config.data_dir.join(KEY_FILE));
    match &config.store {
        StoreConfig::Embedded => Ok(Store::open_with_key(&config.data_dir, &key_file)?),
        #[cfg(feature = "etcd")]
        StoreConfig::Etcd(etcd) => {
            // The administrator's kubeconfig goes there, and the key unless it is elsewhere.
            make_private(&config.data_dir)?;
            Ok(Store::open_etcd(&settings(etcd, key_file)?)?)
        }
        #[cfg(not(feature = "etcd"))]
        StoreConfig::Etcd(_) => anyhow::bail!("this program was built without etcd"),
    }
}

/// Makes a data directory, for its owner only, if it is not there.
#[cfg(feature = "etcd")]
pub(crate) fn make_private(directory: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("the data directory {} cannot be made", directory.display()))
}

/// `config` with the files that it names, read.
#[cfg(feature = "etcd")]
pub(crate) fn settings(config: &EtcdConfig, key_file: PathBuf) -> anyhow::Result<Settings> {
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let tls = match &config.tls {
        None => None,
        Some(files) => {
            let identity = files.identity.as_ref().map(|(chain, key)| anyhow::Ok((read(chain)?, read(key)?)));
            Some(Tls { ca: read(&files.ca)?, identity: identity.transpose()? })
        }
    };
    let (endpoints, prefix) = (config.endpoints.clone(), config.prefix.clone());
    Ok(Settings { endpoints, prefix, tls, key_file, compaction: config.compaction })
}

fn json(record: &impl Serialize) -> Value {
    serde_json::to_value(record).expect("plain structs always serialise")
}

#[cfg(test)]
mod tests {
    use underpass_shared::identity::AgentIdentity;

    use super::*;

    fn session(agent: &str, relay: &str) -> RecordKey {
        let agent = agent.parse().unwrap();
        let agent = AgentIdentity { project: "p".parse().unwrap(), node: "n".parse().unwrap(), agent };
        RecordKey::Session(agent, relay.parse().unwrap())
    }

    fn value(key: &RecordKey) -> Value {
        match key {
            RecordKey::Leader => json(&LeaderRecord { relay: "b".parse().unwrap() }),
            RecordKey::Relay(relay) => {
                json(&RelayRecord { addresses: vec![format!("{relay}:7443")], instance: String::new() })
            }
            _ => json(&SessionRecord { since: 1, address: "fd00::1".parse().unwrap() }),
        }
    }

    fn leased(keys: &[RecordKey]) -> Leased {
        Leased::of(keys.iter().map(|key| (key.clone(), serde_json::to_vec(&value(key)).unwrap())))
    }

    fn relay(name: &str) -> RecordKey {
        RecordKey::Relay(name.parse().unwrap())
    }

    #[test]
    fn only_what_differs_is_written_and_nothing_of_other_relays() {
        let wanted = [session("here", "a"), session("kept", "a"), relay("a")];
        let wanted: BTreeMap<_, _> = wanted.into_iter().map(|key| (key.clone(), value(&key))).collect();
        let said = [session("kept", "a"), session("gone", "a"), session("else", "b"), relay("b"), RecordKey::Leader];
        let steps = steps(&leased(&said), &"a".parse().unwrap(), &wanted);
        let keys: Vec<_> = steps.iter().map(|(key, value)| (key.clone(), value.is_some())).collect();
        assert_eq!(keys, [(session("gone", "a"), false), (relay("a"), true), (session("here", "a"), true)]);
    }

    #[test]
    fn what_is_so_already_is_not_written_and_somebody_leads() {
        let wanted = BTreeMap::from([(relay("a"), value(&relay("a")))]);
        let own = "a".parse().unwrap();
        assert_eq!(steps(&leased(&[relay("a"), RecordKey::Leader]), &own, &wanted), []);
        assert_eq!(steps(&leased(&[relay("a")]), &own, &wanted), [(RecordKey::Leader, Some(Value::Null))]);
    }

    #[test]
    fn agents_are_told_of_every_relay_and_first_of_the_one_they_asked() {
        let own = ["b:7443".to_owned()];
        let all = addresses(&own, &leased(&[relay("a"), relay("b"), relay("c")]));
        assert_eq!(all, ["b:7443", "a:7443", "c:7443"]);
        let many: Vec<_> = (0..40).map(|at| relay(&format!("r{at}"))).collect();
        assert_eq!(addresses(&own, &leased(&many)).len(), RELAYS_MAX);
    }
}
