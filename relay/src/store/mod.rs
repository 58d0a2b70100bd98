//! The store: every resource and private record of the deployment, durable before a write is answered.
pub mod lifecycle;
pub mod object;
pub mod record;
pub mod state;
