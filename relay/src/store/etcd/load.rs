//! The first acquaintance with a deployment in etcd: is it ours, and what does it hold.

use std::{collections::BTreeMap, sync::Arc};

use etcd_client::{Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp};

use super::{
    AskError, Settings, ask,
    keys::{EMPTIED, Keys, Meta},
    refused,
};
use crate::store::{
    codec::Codec,
    disk::OpenError,
    object::Object,
    record::RecordKey,
    seal::{KeyError, Sealer},
    state::State,
};

/// How many keys are read at once; with objects of at most 1.5 MiB an answer stays below what is read.
const PAGE: i64 = 256;

/// Everything at one revision of etcd.
pub(super) struct Loaded {
    pub state: State,
    /// The etcd revision of the last commit.
    pub meta: i64,
    /// The etcd revision of all this; a watch goes on after it.
    pub revision: i64,
}

/// Makes an empty deployment if there is none; then checks that the key is its key.
pub(super) async fn admit(kv: &mut KvClient, keys: &Keys, settings: &Settings) -> Result<Codec, OpenError> {
    let fail = |error: &AskError| refused(settings, error);
    let found = ask(kv.get(keys.meta(), None)).await.map_err(|error| fail(&error))?;
    if found.kvs().is_empty() {
        let unfinished = ask(kv.get(keys.restoring(), None)).await.map_err(|error| fail(&error))?;
        if !unfinished.kvs().is_empty() {
            let reason = "a backup is being restored there, or was and not to its end: restore it again".to_owned();
            return Err(fail(&AskError::Unreadable(reason)));
        }
    }
    let codec = Codec::new(Sealer::load(&settings.key_file, found.kvs().is_empty())?);
    if found.kvs().is_empty() {
        let meta = Meta::at(0).encode().map_err(|error| OpenError::Bootstrap(error.to_string()))?;
        let create = Txn::new()
            .when([keys.meta(), keys.restoring()].map(|key| Compare::create_revision(key, CompareOp::Equal, 0)))
            .and_then([TxnOp::put(keys.meta(), meta, None), TxnOp::put(keys.proof(), codec.proof(), None)]);
        // Whoever came first has made it; the key is checked in either case.
        ask(kv.txn(create)).await.map_err(|error| fail(&error))?;
    }
    let proof = ask(kv.get(keys.proof(), None)).await.map_err(|error| fail(&error))?;
    match proof.kvs().first() {
        Some(proof) if codec.proves(proof.value()) => Ok(codec),
        Some(_) => Err(KeyError::Foreign(settings.key_file.clone()).into()),
        None => Err(fail(&AskError::Unreadable("the key `proof` is missing: restore etcd from your backup".into()))),
    }
}

/// Reads everything.
pub(super) async fn load(kv: &mut KvClient, keys: &Keys, codec: &Codec) -> Result<Loaded, AskError> {
    let first = ask(kv.get(keys.meta(), None)).await?;
    let revision = first.header().map_or(0, etcd_client::ResponseHeader::revision);
    let found = first.kvs().first().ok_or_else(|| AskError::Unreadable(EMPTIED.to_owned()))?;
    let meta = Meta::parse(found.value()).map_err(AskError::Unreadable)?;

    let (mut objects, mut records) = (Vec::new(), BTreeMap::new());
    let end = after_all(keys.prefix());
    let mut from = keys.prefix().as_bytes().to_vec();
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
        let page = ask(kv.get(from.clone(), Some(options))).await?;
        for pair in page.kvs() {
            let unreadable = |what: String| AskError::Unreadable(format!("{what} in etcd cannot be read"));
            let Ok(key) = pair.key_str() else { continue };
            if let Some(name) = keys.object(key) {
                let (key, body) =
                    codec.decode_object(name, pair.value()).map_err(|error| unreadable(error.to_string()))?;
                objects.push(Object::new(Arc::new(key), body));
            } else if let Some(name) = keys.record(key).filter(|name| RecordKey::parse(name).is_some()) {
                // Records that this version does not know are of no concern to it.
                let (key, plain) =
                    codec.decode_record(name, pair.value()).map_err(|error| unreadable(error.to_string()))?;
                records.insert(key, plain);
            }
        }
        match page.kvs().last() {
            Some(last) if page.more() => from = [last.key(), &[0]].concat(),
            _ => break,
        }
    }
    Ok(Loaded { state: State::loaded(meta.revision, objects, records), meta: found.mod_revision(), revision })
}

/// The end of the range of all keys that begin with `prefix`, which ends in a slash.
pub(super) fn after_all(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
