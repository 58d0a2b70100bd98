//! How the deployment's keys look in etcd, and the value of the one by which commits take turns. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::{codec::decode_key, migrate::FORMAT, object::ObjectKey};

/// What is said when the key is gone that every deployment has.
pub(super) const EMPTIED: &str = "etcd holds nothing under the prefix any more: was it deleted?";

/// The names of all keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{}/", prefix.trim_end_matches('/')) }
    }

    /// What every key begins with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    pub(super) fn proof(&self) -> String {
        format!("{}proof", self.prefix)
    }

    /// There as long as a restoration is not finished.
    pub(super) fn restoring(&self) -> String {
        format!("{}restoring", self.prefix)
    }

    pub(super) fn of_object(&self, name: &str) -> String {
        format!("{}objects/{name}", self.prefix)
    }

    pub(super) fn of_record(&self, name: &str) -> String {
        format!("{}records/{name}", self.prefix)
    }

    /// The object's name, if `key` is an object's.
    pub(super) fn object<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix("objects/")
    }

    /// The record's name, if `key` is a record's.
    pub(super) fn record<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)?.strip_prefix("records/")
    }
}

/// The value of `PREFIX/meta`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u64,
    pub revision: u64,
    /// The objects that this commit deleted, with the revision of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    deleted: BTreeMap<String, u64>,
}

impl Meta {
    pub(super) fn at(revision: u64) -> Self {
        Self { format: FORMAT, revision, deleted: BTreeMap::new() }
    }

    pub(super) fn delete(&mut self, name: &str, revision: u64) {
        self.deleted.insert(name.to_owned(), revision);
    }

    /// The deletion of the object `name`; an error when this commit does not tell of it.
    pub(super) fn deletion(&self, name: &str) -> Result<Option<(ObjectKey, u64)>, String> {
        let revision = self.deleted.get(name).ok_or_else(|| format!("object {name:?} was deleted by somebody else"))?;
        let key = decode_key(name).ok_or_else(|| format!("object {name:?}"))?;
        Ok(Some((key, *revision)))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// # Errors
    /// When it is not ours, or of a format that this program does not read.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let damaged = |error: serde_json::Error| format!("the key `meta` in etcd is damaged ({error})");
        let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("the store in etcd has format {format}, and this program reads format {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_by_what_follows_the_prefix() {
        for prefix in ["/underpass", "/underpass/"] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.meta(), "/underpass/meta");
            assert_eq!(keys.object("/underpass/objects/projects///default"), Some("projects///default"));
            assert_eq!(keys.record("/underpass/records/authority"), Some("authority"));
            assert_eq!(keys.object(&keys.of_record("a")), None);
            assert_eq!(keys.record("/other/records/a"), None);
        }
    }

    #[test]
    fn meta_tells_of_its_deletions_and_refuses_other_formats() {
        let mut meta = Meta::at(7);
        meta.delete("tunnelnodes/default//a", 6);
        let parsed = Meta::parse(&meta.encode().unwrap()).unwrap();
        assert_eq!(parsed, meta);
        let (key, revision) = parsed.deletion("tunnelnodes/default//a").unwrap().unwrap();
        assert_eq!((key.name.as_str(), revision), ("a", 6));
        assert!(parsed.deletion("tunnelnodes/default//b").is_err());
        let error = Meta::parse(br#"{"format":99,"anything":[]}"#).unwrap_err();
        assert!(error.contains("has format 99"), "{error}");
        assert!(Meta::parse(b"{").unwrap_err().contains("damaged"));
    }
}
