//! The agent and the command line.

pub mod app;
pub mod cli;
pub mod config;

pub mod link;
pub mod node;

pub mod clock;
