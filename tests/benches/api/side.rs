//! What both stores are asked to do, and the objects they are asked to keep.

use serde_json::json;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub namespace: String,
    pub name: String,
}

/// One connection to one of the two stores; clones share it.
pub(crate) trait Side: Clone + Send + Sync + 'static {
    /// Makes an object that is not there yet, and gives its revision once it is durable.
    fn create(&mut self, place: &Place) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Replaces an object that is at `revision`, and gives its new revision once it is durable.
    fn update(&mut self, place: &Place, revision: u64) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Reads all objects, or those of one namespace, in pages of `limit`.
    fn list(
        &mut self,
        namespace: Option<&str>,
        limit: Option<usize>,
    ) -> impl Future<Output = anyhow::Result<Listed>> + Send;
}

/// What a list came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Listed {
    pub objects: usize,
    pub bytes: usize,
}

/// A ConfigMap of about 300 bytes, as it is sent to the relay and as etcd keeps it.
#[must_use]
pub(crate) fn object(place: &Place, revision: u64) -> String {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": place.namespace, "name": place.name },
        "data": { "turn": format!("{revision:012}"), "text": "0123456789abcdef".repeat(9) },
    });
    if revision > 0 {
        object["metadata"]["resourceVersion"] = revision.to_string().into();
    }
    object.to_string()
}
