//! tmp
mod documents;
mod manifest;
mod files;
pub mod kubeconfig;
pub mod client;
pub mod status;
