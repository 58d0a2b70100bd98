//! How objects and records are written at rest, whichever journal keeps them: key text, JSON, sealing.
//!
//! A Secret's whole body and every record are sealed; the rest is JSON in the clear.

use std::sync::Arc;

use underpass_shared::resource::kind::{KINDS, Kind};

use super::{
    object::{Body, ObjectKey},
    record::RecordKey,
    seal::Sealer,
};

/// Separates the parts of an object's key; no name can hold it.
const SEPARATOR: char = '/';
/// Under which name the word is sealed that proves the key.
const PROOF_NAME: &str = "proof";
const PROOF: &[u8] = b"underpass";

/// A stored value that cannot be read: damaged, or written by another version or under another key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Encodes and decodes with one key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Codec(Arc<Sealer>);

impl Codec {
    #[must_use]
    pub fn new(sealer: Sealer) -> Self {
        Self(Arc::new(sealer))
    }

    /// A sealed word, by which [`Codec::proves`] knows the key again.
    #[must_use]
    pub fn proof(&self) -> Vec<u8> {
        self.0.seal(PROOF_NAME, PROOF)
    }

    /// Whether `proof` was sealed under this key.
    #[must_use]
    pub fn proves(&self, proof: &[u8]) -> bool {
        self.0.open(PROOF_NAME, proof).as_deref() == Ok(PROOF)
    }

    /// An object's body as it is stored under its key `name`.
    ///
    /// # Errors
    /// Only when its JSON cannot be written.
    pub fn encode_body(&self, kind: Kind, name: &str, body: &Body) -> Result<Vec<u8>, serde_json::Error> {
        let plain = serde_json::to_vec(body)?;
        Ok(if is_sealed(kind) { self.0.seal(&sealed_name(name), &plain) } else { plain })
    }

    /// The object's key and body that are stored as `bytes` under `name`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn decode_object(&self, name: &str, bytes: &[u8]) -> Result<(ObjectKey, Body), Unreadable> {
        let key = decode_key(name).ok_or_else(|| Unreadable(format!("object {name:?}")))?;
        let opened;
        let plain = if is_sealed(key.kind) {
            opened = self.0.open(&sealed_name(name), bytes).map_err(|error| Unreadable(format!("{key}: {error}")))?;
            opened.as_slice()
        } else {
            bytes
        };
        let body = serde_json::from_slice(plain).map_err(|error| Unreadable(format!("{key}: {error}")))?;
        Ok((key, body))
    }

    /// A record's value as it is stored under its key `name`.
    #[must_use]
    pub fn encode_record(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        self.0.seal(name, plain)
    }

    /// The record's key and value that are stored as `sealed` under `name`.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn decode_record(&self, name: &str, sealed: &[u8]) -> Result<(RecordKey, Vec<u8>), Unreadable> {
        let unreadable = || Unreadable(format!("record {name:?}"));
        let key = RecordKey::parse(name).ok_or_else(unreadable)?;
        let plain = self.0.open(name, sealed).map_err(|_| unreadable())?;
        Ok((key, plain))
    }
}

fn is_sealed(kind: Kind) -> bool {
    kind == Kind::Secret
}

/// Apart from the names of records, so that neither opens as the other.
fn sealed_name(name: &str) -> String {
    format!("object{SEPARATOR}{name}")
}

/// `plural/project/namespace/name`, absent parts empty.
#[must_use]
pub fn encode_key(key: &ObjectKey) -> String {
    let project = key.project.as_ref().map_or("", |project| project.as_str());
    let namespace = key.namespace.as_deref().unwrap_or("");
    format!("{}{SEPARATOR}{project}{SEPARATOR}{namespace}{SEPARATOR}{}", key.kind.info().plural, key.name)
}

/// The key that `text` stands for, `None` for one that another version wrote.
#[must_use]
pub fn decode_key(text: &str) -> Option<ObjectKey> {
    let parts: Vec<&str> = text.split(SEPARATOR).collect();
    let [plural, project, namespace, name] = parts.as_slice() else { return None };
    let kind = KINDS.iter().find(|info| info.plural == *plural)?.kind;
    let project = if project.is_empty() { None } else { Some(project.parse().ok()?) };
    let namespace = if namespace.is_empty() { None } else { Some((*namespace).to_owned()) };
    Some(ObjectKey { kind, project, namespace, name: (*name).to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use underpass_shared::identity::ProjectName;

    use super::*;
    use crate::store::object::Draft;

    fn body(text: &str) -> Body {
        let draft = Draft::of_spec(ObjectKey::project(&ProjectName::default()), json!({ "key": text }));
        Body {
            uid: "u".to_owned(),
            revision: 1,
            generation: 1,
            created: String::new(),
            deletion: None,
            meta: draft.meta,
            content: draft.content,
            status: None,
        }
    }

    fn holds(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }

    #[test]
    fn a_secret_is_sealed_whole_and_opens_under_its_own_name_only() {
        let codec = Codec::new(Sealer::new(&[1; 32]));
        let body = body("hunter2");
        let sealed = codec.encode_body(Kind::Secret, "secrets/default/default/a", &body).unwrap();
        assert!(!holds(&sealed, "hunter2") && !holds(&sealed, "uid"));
        let (key, opened) = codec.decode_object("secrets/default/default/a", &sealed).unwrap();
        assert_eq!((key.kind, key.name.as_str(), &opened), (Kind::Secret, "a", &body));
        assert!(codec.decode_object("secrets/default/default/b", &sealed).is_err());
        assert!(holds(&codec.encode_body(Kind::ConfigMap, "configmaps/p/n/a", &body).unwrap(), "hunter2"));
    }

    #[test]
    fn a_sealed_secret_is_no_record_and_the_reverse() {
        let codec = Codec::new(Sealer::new(&[1; 32]));
        let sealed = codec.encode_record("authority", b"{}");
        assert!(codec.decode_record("authority", &sealed).is_ok());
        assert!(codec.decode_record("unknown/record", &codec.encode_record("unknown/record", b"{}")).is_err());
        assert!(codec.decode_object("secrets/default/default/a", &sealed).is_err());
        assert!(codec.proves(&codec.proof()) && !codec.proves(&sealed));
        assert!(!Codec::new(Sealer::new(&[2; 32])).proves(&codec.proof()));
    }

    #[test]
    fn keys_survive_the_round_trip() {
        let project = ProjectName::default();
        for key in [
            ObjectKey::project(&project),
            ObjectKey::cluster(&project, Kind::TunnelNode, "n"),
            ObjectKey::namespaced(&project, Kind::Secret, "default", "a.b-c"),
        ] {
            assert_eq!(decode_key(&encode_key(&key)), Some(key));
        }
        for bad in ["", "secrets", "secrets/p/n", "unknown/p/n/a", "secrets/P!/n/a", "secrets/p/n/a/b"] {
            assert_eq!(decode_key(bad), None, "{bad}");
        }
    }
}
