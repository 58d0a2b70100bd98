//! Writes to a store until it is killed, and says on standard output what it is about to do and what was acknowledged.
//!
//! `? WRITER NAME VALUE` before, `= WRITER NAME REVISION` after; value 0 deletes. See `tests/store/crash.rs`.

use std::{env, io::Write as _, path::PathBuf, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use underpass_relay::store::{
    Store,
    etcd::Settings,
    object::{Draft, ObjectKey},
};
use underpass_shared::{identity::ProjectName, resource::kind::Kind};

/// As many writes are under way at once.
const WRITERS: u64 = 4;
/// Names of each writer.
const NAMES: u64 = 6;
/// The most bytes of one object beside its value; the sizes vary, so that pages split and merge.
const PADDING_MAX: usize = 20_000;

/// How often etcd is made to forget: often, so that it happens while others are cut off.
const COMPACTION: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [seed, place @ ..] = arguments.as_slice() else { anyhow::bail!("usage: store-writer SEED DIR [ETCD]") };
    let seed: u64 = seed.parse()?;
    let place = place.to_owned();
    let store = tokio::task::spawn_blocking(move || open(&place)).await??;
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer, seed))).collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

fn open(place: &[String]) -> anyhow::Result<Store> {
    Ok(match place {
        [directory] => Store::open(&PathBuf::from(directory))?,
        [directory, endpoint] => Store::open_etcd(&Settings {
            endpoints: vec![endpoint.clone()],
            prefix: "/underpass/test".to_owned(),
            tls: None,
            key_file: PathBuf::from(directory).join("store.key"),
            compaction: Some(COMPACTION),
        })?,
        _ => anyhow::bail!("usage: store-writer SEED DIR [ETCD]"),
    })
}

async fn write(store: Store, writer: u64, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(WRITERS).wrapping_add(writer));
    loop {
        let name = format!("w{writer}-{}", random.random_range(0..NAMES));
        let key = ObjectKey::namespaced(&ProjectName::default(), Kind::ConfigMap, "default", &name);
        let exists = store.get(&key).is_some();
        let value: u64 = if exists && random.random_bool(0.2) { 0 } else { random.random_range(1..u64::MAX) };
        say(&format!("? {writer} {name} {value}"))?;
        let padding = "x".repeat(random.random_range(0..PADDING_MAX));
        let draft = Draft::of_value(key.clone(), json!({ "data": { "value": value, "padding": padding } }));
        let revision = match (exists, value) {
            (true, 0) => store.delete(key, None).await.map(|_| 0)?,
            (true, _) => store.replace(draft, None).await?.body.revision,
            (false, _) => store.create(draft).await?.body.revision,
        };
        say(&format!("= {writer} {name} {revision}"))?;
    }
}

/// One line, whole, at once.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}
