//! The relay: agents' tunnels in, a Gateway API gateway out.
//!
//! In reading order: what was asked for, what it becomes, how the world reaches it, how it reaches the world.

pub mod app;
pub mod backup;
pub mod collector;
pub mod config;
pub mod controller;
pub mod ports;

pub mod access;
pub mod api;
pub mod apply;
pub mod authority;
pub mod cluster;
pub mod enrolment;
pub mod infrastructure;
pub mod patch;
pub mod store;

pub mod schema;

pub mod route;
pub mod translate;

pub mod listener;
pub mod proxy;
pub mod proxy_protocol;
pub mod tunnel;

pub mod clock;
pub mod worker;
