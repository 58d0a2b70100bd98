//! The harness of the journeys: real relay and agent processes, real upstreams, real clients, all on loopback.
//!
//! Nothing here but [`decoders`] knows an internal type of the relay or the agent: it reads what a person would read.
//! Every wait is for an event and has a deadline; only [`eventually`] looks again and again.

pub mod agent;
pub mod api;
pub mod binary;
pub mod cli;
pub mod client;
pub mod clock;
pub mod decoders;
pub mod digest;
pub mod etcd;
pub mod eventually;
pub mod front;
pub mod gate;
pub mod h2_wire;
pub mod host;
pub mod kubectl;
pub mod manifest;
pub mod office;
pub mod packets;
pub mod process;
pub mod python;
pub mod recorder;
pub mod relay;
pub mod service;
pub mod socks;
pub mod stage;
pub mod upstream;
pub mod websocket;
