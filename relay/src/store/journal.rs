//! What keeps the state: the one seam between the writer and the two stores, `disk` and `etcd`.

use std::sync::Arc;

use super::{
    disk::DiskError,
    state::{Changes, Foreign, State},
};

/// A store's durable half. Used by the writer's thread alone; every call may block.
pub(super) trait Journal: Send {
    /// What happened elsewhere since the last call, to be taken in before the next transaction runs, and why
    /// nothing can be written now, if so. Heals what can be healed.
    fn refresh(&mut self) -> (Vec<News>, Option<Unavailable>);

    /// Whether what `state` has changed, in several transactions, may be written at once; what one changed always is
    /// tried.
    fn takes(&self, state: &State) -> bool;

    /// Makes `changes` durable, all or none. After [`Failure::Unavailable`], which of the two comes with the
    /// [`News`], unless it is none for certain.
    fn write(&mut self, changes: &Changes) -> Result<(), Failure>;

    /// Whether the state that transactions saw, none of which changed anything, was the newest.
    fn confirm(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Everything that `refresh` told and `write` took can be read now.
    fn published(&mut self) {}
}

/// What the writer did not do itself.
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "only a shared store has commits of others"))]
#[derive(Debug)]
pub(super) enum News {
    /// One commit of another relay, or records that ended with their lease.
    Foreign(Foreign),
    /// The steps from what was known are not known: everything as it is now.
    Whole(Box<State>),
}

/// Why a write had no effect, or a read is not known to be of the newest state.
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "only a shared store has races"))]
#[derive(Debug)]
pub(super) enum Failure {
    /// Another relay's commit came first: refresh, and run the transactions again.
    Raced,
    Unavailable(Unavailable),
}

/// The store takes no writes, or not this one. What was stored before is still served.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    #[error(
        "the store cannot be written ({0}): free space or repair the disk; reading goes on, and writing resumes by itself"
    )]
    Disk(Arc<DiskError>),
    /// etcd, or the way there.
    #[error("the store cannot be written ({0}); reading goes on, and writing resumes by itself")]
    Away(Arc<str>),
    /// No waiting helps.
    #[error("{0}")]
    TooLarge(Arc<str>),
}

impl From<DiskError> for Unavailable {
    fn from(error: DiskError) -> Self {
        Self::Disk(Arc::new(error))
    }
}
