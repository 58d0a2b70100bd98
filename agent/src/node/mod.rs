//! Pure: what the agent decides. When to dial which relay, what it lets in, what may cross between host and tunnel.

pub mod backoff;
pub mod overlay;
pub mod publish;
pub mod redial;
pub mod routes;
