//! From older formats of the store's file to this one: a step for each, all in one transaction.
//!
//! A relay killed meanwhile leaves the old format whole, and the next start begins again.

use redb::{ReadableTable as _, WriteTransaction};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::{
    codec::{Codec, decode_key},
    disk::{OBJECTS, StepError},
    object::{Body, Meta},
};

/// The layout that this program reads and writes.
///
/// 1: bodies of labels, annotations, spec and status. 2: whole objects; Secrets sealed; namespaces are objects.
pub(super) const FORMAT: u64 = 2;

type Step = fn(&WriteTransaction, &Codec) -> Result<(), StepError>;

/// What takes a store from a format to the next.
const STEPS: &[(u64, Step)] = &[(1, whole_objects)];

/// Brings a store of format `from` to [`FORMAT`]; `false` when there is no way.
pub(super) fn migrate(transaction: &WriteTransaction, codec: &Codec, from: u64) -> Result<bool, StepError> {
    let mut format = from;
    while format < FORMAT {
        let Some((_, step)) = STEPS.iter().find(|(of, _)| *of == format) else { return Ok(false) };
        step(transaction, codec)?;
        format += 1;
    }
    Ok(format == FORMAT)
}

/// A body in format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body1 {
    uid: String,
    revision: u64,
    generation: i64,
    created: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    spec: Value,
    #[serde(default)]
    status: Option<Value>,
}

/// 1 → 2. The namespaces that become objects are made when the store starts, as for any that are missing.
fn whole_objects(transaction: &WriteTransaction, codec: &Codec) -> Result<(), StepError> {
    let mut objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    let mut migrated = Vec::new();
    for entry in objects.iter().map_err(redb::Error::from)? {
        let (name, old) = entry.map_err(redb::Error::from)?;
        let name = name.value().to_owned();
        let key = decode_key(&name).ok_or_else(|| StepError::Damaged(format!("object {name:?}")))?;
        let old: Body1 =
            serde_json::from_slice(old.value()).map_err(|error| StepError::Damaged(format!("{key}: {error}")))?;
        let body = Body {
            uid: old.uid,
            revision: old.revision,
            generation: old.generation,
            created: old.created,
            deletion: None,
            meta: Meta { labels: old.labels, annotations: old.annotations, ..Meta::default() },
            content: Map::from_iter([("spec".to_owned(), old.spec)]),
            status: old.status,
        };
        let bytes = codec.encode_body(key.kind, &name, &body).map_err(|error| StepError::Damaged(error.to_string()))?;
        migrated.push((name, bytes));
    }
    for (name, bytes) in migrated {
        objects.insert(name.as_str(), bytes.as_slice()).map(drop).map_err(redb::Error::from)?;
    }
    Ok(())
}
