//! An object as the API shows it, written from what is stored: large lists hold no second copy of it.

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Body, Object};

/// An object under one `apiVersion`, at one `resourceVersion`.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub(super) object: &'a Object,
    pub(super) api_version: &'a str,
    pub(super) revision: u64,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { object, api_version, revision } = *self;
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("apiVersion", api_version)?;
        fields.serialize_entry("kind", object.key.kind.info().name)?;
        fields.serialize_entry("metadata", &Metadata { object, revision })?;
        for (name, value) in &object.body.content {
            fields.serialize_entry(name, value)?;
        }
        if let Some(status) = &object.body.status {
            fields.serialize_entry("status", status)?;
        }
        fields.end()
    }
}

/// `metadata` alone.
struct Metadata<'a> {
    object: &'a Object,
    revision: u64,
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Body { uid, generation, created, deletion, meta, .. } = &self.object.body;
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry("name", &self.object.key.name)?;
        if let Some(namespace) = &self.object.key.namespace {
            fields.serialize_entry("namespace", namespace)?;
        }
        if let Some(prefix) = &meta.generate_name {
            fields.serialize_entry("generateName", prefix)?;
        }
        fields.serialize_entry("uid", uid)?;
        fields.serialize_entry("resourceVersion", &self.revision.to_string())?;
        fields.serialize_entry("generation", generation)?;
        fields.serialize_entry("creationTimestamp", created)?;
        if let Some(deletion) = deletion {
            fields.serialize_entry("deletionTimestamp", &deletion.timestamp)?;
            fields.serialize_entry("deletionGracePeriodSeconds", &deletion.grace_seconds)?;
        }
        for (field, map) in [("labels", &meta.labels), ("annotations", &meta.annotations)] {
            if !map.is_empty() {
                fields.serialize_entry(field, map)?;
            }
        }
        if !meta.finalizers.is_empty() {
            fields.serialize_entry("finalizers", &meta.finalizers)?;
        }
        for (field, list) in [("ownerReferences", &meta.owner_references), ("managedFields", &meta.managed_fields)] {
            if !list.is_empty() {
                fields.serialize_entry(field, list)?;
            }
        }
        fields.end()
    }
}
