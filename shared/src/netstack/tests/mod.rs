//! Two netstacks joined by a wire in memory, and one netstack against packets written by hand. The clock is tokio's,
//! paused: time passes when everything waits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::ledger::{Place, Reason};

use super::{Config, Netstack, PacketPort, PacketReceiver, PacketSender, TcpFlow};

mod hostile;
mod lifecycle;
mod transfer;
mod udp;

const CLIENT: &str = "fd00:1::1/128";
const SERVER: &str = "fd00:2::1/128";
const SERVICE: &str = "[fd00:2::1]:80";

fn service() -> SocketAddr {
    SERVICE.parse().unwrap()
}

fn config(addresses: &[&str]) -> Config {
    let nets = addresses.iter().map(|net| net.parse::<IpNet>().unwrap()).collect();
    Config { tcp_buffer: 64 * 1024, ..Config::new(nets, 7) }
}

/// A netstack whose driver runs, and its cable.
fn start(config: Config) -> (Netstack, PacketPort, JoinHandle<()>) {
    let (stack, port, driver) = Netstack::new(config);
    (stack, port, tokio::spawn(driver.run()))
}

/// What a wire does to packets.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    /// Of a hundred packets so many are lost.
    lost_percent: u32,
    delay: Duration,
    /// Each packet is held up by up to this much more, so that they overtake each other.
    jitter: Duration,
    seed: u64,
}

fn join(one: PacketPort, other: PacketPort, faults: Faults) {
    let (to_one, from_one) = one.split();
    let (to_other, from_other) = other.split();
    tokio::spawn(carry(from_one, to_other, faults));
    tokio::spawn(carry(from_other, to_one, Faults { seed: faults.seed + 1, ..faults }));
}

async fn carry(mut from: PacketReceiver, to: PacketSender, faults: Faults) {
    let mut random = StdRng::seed_from_u64(faults.seed);
    let mut under_way: BTreeMap<(Instant, u64), BytesMut> = BTreeMap::new();
    for number in 0.. {
        let next = under_way.first_key_value().map(|((at, _), _)| *at);
        let arrival = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = arrival => {
                let (_, packet) = under_way.pop_first().unwrap();
                if !to.push(packet) {
                    return;
                }
            }
            packet = from.recv() => {
                let Some(packet) = packet else { return };
                if random.random_range(0..100) >= faults.lost_percent {
                    let held_up = faults.delay + faults.jitter.mul_f64(random.random::<f64>());
                    if held_up.is_zero() {
                        if !to.send(packet).await {
                            return;
                        }
                    } else {
                        under_way.insert((Instant::now() + held_up, number), packet);
                    }
                }
            }
        }
    }
}

/// A client and a server joined by a wire.
fn pair(faults: Faults) -> (Netstack, Netstack) {
    pair_of(config(&[CLIENT]), config(&[SERVER]), faults)
}

fn pair_of(client: Config, server: Config, faults: Faults) -> (Netstack, Netstack) {
    let (client, client_port, _) = start(client);
    let (server, server_port, _) = start(server);
    join(client_port, server_port, faults);
    (client, server)
}

/// An established flow: the dialler's end and the accepter's.
async fn connect(client: &Netstack, server: &Netstack) -> (TcpFlow, TcpFlow) {
    let accepted = async { server.accept().await.unwrap().accept().await.unwrap() };
    let (dialled, accepted) = tokio::join!(client.dial(service()), accepted);
    (dialled.unwrap(), accepted)
}

/// Lets everything run until nothing but time could change anything.
///
/// With the clock paused, a timer fires only when every task waits.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// How many packets a netstack has lost for `reason`, before and in its flows.
fn lost(stack: &Netstack, reason: Reason) -> u64 {
    stack.ledger().lost(Place::Netstack, reason) + stack.ledger().lost(Place::Flow, reason)
}

fn all_lost(stack: &Netstack) -> u64 {
    let sums = stack.ledger().sums();
    sums.lost(Place::Netstack) + sums.lost(Place::Flow)
}
