//! The route engine: which rule serves a request, and which backend of the rule.
//!
//! Pure: no async, no clock, no serde, no resource types; `translate` builds the [`table::Table`] and `proxy` asks it.
//! Journey A passes through [`table::Table::select`] once per request.

pub mod balance;
pub mod change;
pub mod client;
pub mod cors;
pub mod filter;
pub mod fleet;
mod health;
pub mod host;
pub mod lookup;
pub mod maglev;
pub mod matcher;
mod paths;
pub mod rank;
pub mod session;
pub mod table;
pub mod target;
pub mod tls;
pub mod traffic;

#[cfg(test)]
mod model;
