//! What a user does with Underpass, done with the real programs as processes, and what they may break.
//!
//! One module per theme; the harness is this crate's library.
#![expect(clippy::unwrap_used, reason = "all of this is test code")]

#[path = "journeys/access.rs"]
mod access;
#[path = "journeys/backup.rs"]
mod backup;
#[path = "journeys/bad_input.rs"]
mod bad_input;
#[path = "journeys/bad_token.rs"]
mod bad_token;
#[path = "journeys/bodies.rs"]
mod bodies;
#[path = "journeys/clients.rs"]
mod clients;
#[path = "journeys/cluster.rs"]
mod cluster;
#[path = "journeys/crowd.rs"]
mod crowd;
#[path = "journeys/disk.rs"]
mod disk;
#[path = "journeys/durability.rs"]
mod durability;
#[path = "journeys/dynamic.rs"]
mod dynamic;
#[path = "journeys/first.rs"]
mod first;
#[path = "journeys/foreign_browser.rs"]
mod foreign_browser;
#[path = "journeys/foreign_clients.rs"]
mod foreign_clients;
#[path = "journeys/foreign_protocols.rs"]
mod foreign_protocols;
#[path = "journeys/h1_smuggling.rs"]
mod h1_smuggling;
#[path = "journeys/h2_floods.rs"]
mod h2_floods;
#[path = "journeys/h2_rules.rs"]
mod h2_rules;
#[path = "journeys/http3.rs"]
mod http3;
#[path = "journeys/http3_hostile.rs"]
mod http3_hostile;
#[path = "journeys/identity.rs"]
mod identity;
#[path = "journeys/isolation.rs"]
mod isolation;
#[path = "journeys/kube_client.rs"]
mod kube_client;
#[path = "journeys/kube_runtime.rs"]
mod kube_runtime;
#[path = "journeys/kubectl_access.rs"]
mod kubectl_access;
#[path = "journeys/kubectl_kinds.rs"]
mod kubectl_kinds;
#[path = "journeys/kubectl_read.rs"]
mod kubectl_read;
#[path = "journeys/kubectl_write.rs"]
mod kubectl_write;
#[path = "journeys/live.rs"]
mod live;
#[path = "journeys/nodes.rs"]
mod nodes;
#[path = "journeys/outbound.rs"]
mod outbound;
#[path = "journeys/outbound_clients.rs"]
mod outbound_clients;
#[path = "journeys/packet_lane.rs"]
mod packet_lane;
#[path = "journeys/path_bypass.rs"]
mod path_bypass;
#[path = "journeys/policies.rs"]
mod policies;
#[path = "journeys/projects.rs"]
mod projects;
#[path = "journeys/protocols.rs"]
mod protocols;
#[path = "journeys/python_client.rs"]
mod python_client;
#[path = "journeys/restart.rs"]
mod restart;
#[path = "journeys/seeds.rs"]
mod seeds;
#[path = "journeys/seeds_guides.rs"]
mod seeds_guides;
#[path = "journeys/seeds_traffic.rs"]
mod seeds_traffic;
#[path = "journeys/sessions.rs"]
mod sessions;
#[path = "journeys/tunnel_port.rs"]
mod tunnel_port;
#[path = "journeys/watching.rs"]
mod watching;
