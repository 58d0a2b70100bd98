//! What each writing verb does to the store: decode, default, refuse, write, show. Journey C begins here.
//!
//! What is to be written is worked out beside the store, from one view of it, and is taken only if the object is still
//! as it was seen; otherwise it is worked out again.

mod delete;
mod log;
mod manager;
mod patch;
mod pipeline;
mod special;
mod token;
mod write;

use underpass_shared::{identity::ProjectName, resource::kind::Kind};

pub(super) use self::{
    delete::{delete, delete_collection},
    log::{Logs, read_log, write_log},
    patch::patch,
    pipeline::is_built_in,
    token::token,
    write::{create, update},
};
use super::{Api, path::Place, status::Failure};
use crate::store::object::ObjectKey;

/// A project must be there for anything to be read or written in it.
pub(super) fn require_project(api: &Api, place: &Place) -> Result<(), Failure> {
    let Some(project) = &place.project else { return Ok(()) };
    if *project == ProjectName::default() {
        return Ok(());
    }
    let key = ObjectKey::project(project);
    api.store.get(&key).map(drop).ok_or_else(|| Failure::not_found(&key))
}

/// Definitions are made from the kinds that are served: there is nothing to write.
fn require_stored(place: &Place) -> Result<(), Failure> {
    if place.kind != Kind::CustomResourceDefinition {
        return Ok(());
    }
    let message =
        "customresourcedefinitions are made by the relay from the kinds that it serves: they can be read only";
    Err(Failure::not_allowed(message))
}
