//! `Project` (`core.apoxy.dev/v1alpha2`): an isolated set of resources with an overlay network of its own.

use serde::{Deserialize, Serialize};

use super::{condition::Condition, metadata::Resource};

pub type Project = Resource<ProjectSpec, ProjectStatus>;

/// Nothing can be said of a project yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectSpec {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProjectStatus {
    /// The project's /48, drawn once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    pub conditions: Vec<Condition>,
}
