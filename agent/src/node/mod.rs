//! Pure: what the agent decides. When to dial which relay, and what it lets in.

pub mod backoff;
pub mod publish;
pub mod redial;
pub mod routes;
