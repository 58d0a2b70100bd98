//! Both stores: one model for any interleaving, crashes at random points, and what only etcd does.
//!
//! `UNDERPASS_SEED` replays a run; `UNDERPASS_ROUNDS` and `UNDERPASS_CRASHES` make it longer (see scripts/soak).
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

#[path = "store/crash.rs"]
mod crash;
#[path = "store/fixture.rs"]
mod fixture;
#[path = "store/model.rs"]
mod model;
#[path = "store/player.rs"]
mod player;
#[path = "store/shared.rs"]
mod shared;
#[path = "store/watcher.rs"]
mod watcher;
