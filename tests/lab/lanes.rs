//! Requests from the gateway to a host in kernel mode, by either lane.

use std::fs;

use underpass_tests::digest::Sha256;

use crate::{
    network::Place,
    town::{DEVICE, HOST, PORT, Town},
};

#[tokio::test]
async fn a_stream_reaches_a_loopback_port_as_in_user_mode() {
    let town = Town::open().await;
    let folder = town.folder("site");
    let _service = town.serve("127.0.0.1", PORT, &folder).await;
    let agent = town.agent("--mode kernel").await;
    town.is_served().await;
    let record = agent.record().await;
    assert_eq!((record.of("packets_in"), record.of("packets_out")), (0, 0), "nothing went as packets");
}

#[tokio::test]
async fn packets_reach_the_hosts_own_address_and_the_sums_are_the_kernels() {
    let town = Town::open().await;
    let folder = town.folder("site");
    let bytes: Vec<u8> = (0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.join("bulk"), &bytes).unwrap();
    let mut service = town.serve("::", PORT, &folder).await;
    let agent = town.agent("--mode kernel --lane packet").await;
    town.is_served().await;
    let fetched = folder.join("fetched");
    assert_eq!(town.fetch(HOST, "/bulk", &fetched), "200");
    let digest = |bytes: &[u8]| {
        let mut sha = Sha256::default();
        sha.update(bytes);
        sha.finish()
    };
    assert_eq!(digest(&fs::read(&fetched).unwrap()), digest(&bytes));
    service.kill().await;

    // The kernel sends what we read, and receives what we write.
    let names = ["tx_packets", "tx_bytes", "rx_packets", "rx_bytes"];
    let count = |name: &str| -> u64 {
        let file = format!("cat /sys/class/net/{DEVICE}/statistics/{name}");
        town.network.run(Place::Office, &file).trim().parse().unwrap()
    };
    let kernel = names.map(count);
    assert_eq!((count("tx_dropped"), count("rx_dropped")), (0, 0));
    let record = agent.record().await;
    assert_eq!(["frames_out", "bytes_out", "frames_in", "bytes_in"].map(|name| record.of(name)), kernel, "{record:?}");
    assert!(record.of("packets_out") > 15_000, "20 MB in packets of 1280 bytes: {record:?}");
    assert!(record.of("packets_out") > record.of("frames_out"), "long frames were split: {record:?}");
}
