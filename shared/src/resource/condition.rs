//! `metav1.Condition`: how a resource says whether it is served, and why not.

use serde::{Deserialize, Serialize};

/// `True`, `False` or `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// One aspect of a resource's state (`metav1.Condition`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    /// The `metadata.generation` that the condition speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// RFC 3339; changes only when `status` does.
    pub last_transition_time: String,
    /// CamelCase, for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}
