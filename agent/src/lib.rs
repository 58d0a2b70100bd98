//! The agent and the command line.

pub mod app;
pub mod cli;
pub mod config;

pub mod device;
pub mod link;
pub mod node;
pub mod proxies;
pub mod service;
pub mod state_dir;

pub mod clock;
