//! Where a store of either sort lives, and the small vocabulary of its tests.

use std::{env, path::Path, sync::Arc};

use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use underpass_relay::store::{
    Store,
    etcd::{Settings, Tls},
    object::{Draft, Object, ObjectKey},
};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};
use underpass_tests::{etcd::Etcd, gate::Gate};

/// A place for a store, which outlives the stores that are opened there.
pub(crate) enum Place {
    Embedded(TempDir),
    /// The second of two relays reaches etcd through the gate.
    Etcd {
        etcd: Box<Etcd>,
        gate: Gate,
        folder: TempDir,
    },
}

impl Place {
    pub(crate) fn embedded() -> Self {
        Self::Embedded(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn etcd() -> Self {
        let etcd = Box::new(Etcd::start().await);
        let gate = Gate::to(etcd.address()).await;
        Self::Etcd { etcd, gate, folder: tempfile::tempdir().unwrap() }
    }

    /// As many stores as may be open at once, two at most.
    pub(crate) async fn open(&self) -> Vec<Store> {
        match self {
            Self::Embedded(folder) => {
                let folder = folder.path().to_owned();
                vec![blocking(move || Store::open(&folder).unwrap()).await]
            }
            Self::Etcd { etcd, gate, folder } => {
                let first = settings(etcd, folder.path());
                let second = Settings { endpoints: vec![format!("http://{}", gate.address())], ..first.clone() };
                vec![open(first).await, open(second).await]
            }
        }
    }

    /// etcd, if that is what it is, and the second relay's way there.
    pub(crate) fn server(&mut self) -> Option<(&mut Etcd, &Gate)> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd { etcd, gate, .. } => Some((etcd, gate)),
        }
    }
}

/// A store in etcd.
pub(crate) async fn open(settings: Settings) -> Store {
    blocking(move || Store::open_etcd(&settings).unwrap()).await
}

/// How a relay with the key file in `folder` finds `etcd`.
pub(crate) fn settings(etcd: &Etcd, folder: &Path) -> Settings {
    Settings {
        endpoints: vec![etcd.endpoint()],
        prefix: "/underpass/test".to_owned(),
        tls: None,
        key_file: folder.join("store.key"),
        compaction: None,
    }
}

/// The same with the certificates of an etcd that demands them.
pub(crate) fn with_tls(etcd: &Etcd, folder: &Path, with_identity: bool) -> Settings {
    let files = etcd.certificates();
    let read = |path| std::fs::read(path).unwrap();
    let identity = with_identity.then(|| (read(&files.cert), read(&files.key)));
    Settings { tls: Some(Tls { ca: read(&files.ca), identity }), ..settings(etcd, folder) }
}

/// Opening and closing wait for the disk and the network.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub(crate) async fn close(stores: Vec<Store>) {
    blocking(move || drop(stores)).await;
}

pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::namespaced(&ProjectName::default(), Kind::ConfigMap, "default", name)
}

pub(crate) fn draft(name: &str, value: u64) -> Draft {
    Draft::of_value(key(name), json!({ "data": { "value": value } }))
}

pub(crate) fn value(object: &Arc<Object>) -> u64 {
    object.body.content["data"]["value"].as_u64().unwrap()
}

pub(crate) fn status(value: u64) -> Value {
    json!({ "value": value })
}

/// The seed of this run: given, or drawn; printed, so that a failure can be replayed.
pub(crate) fn seed() -> u64 {
    let seed = env::var("UNDERPASS_SEED").ok().map_or_else(rand::random, |text| text.parse().unwrap());
    println!("UNDERPASS_SEED={seed}");
    seed
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

pub(crate) fn random(seed: u64, of: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(of))
}
