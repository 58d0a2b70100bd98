//! One request's life, in reading order: what the client asked, whom we ask for it, what came back, what we remember.

pub mod may_dial;
