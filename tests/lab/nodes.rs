//! From one host in kernel mode to another, through the relay.

use std::{fs, path::Path};

use underpass_tests::{digest::Sha256, eventually::eventually};

use crate::{
    network::Place,
    town::{OTHER_PORT, PORT, Town},
};

#[tokio::test]
async fn a_host_reaches_another_where_that_admits_it_and_as_long() {
    let town = Town::open().await;
    let folder = town.folder("site");
    let bytes: Vec<u8> = (0..5_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.join("bulk"), &bytes).unwrap();
    let _service = town.serve("::", PORT, &folder).await;
    let _hidden = town.serve("::", OTHER_PORT, &folder).await;
    let office = town.agent(&format!("--mode kernel --publish {PORT}")).await;
    let branch = town.branch("--mode kernel").await;
    assert_eq!(town.answered_at(Place::Branch, office.address, 3, ""), 0, "nobody was admitted");

    town.admit_branch(&format!("[{PORT}, {OTHER_PORT}]"));
    eventually("the office answers the branch", async || {
        let answered = town.answered_at(Place::Branch, office.address, 1, "");
        if answered == 1 { Ok(()) } else { Err(answered) }
    })
    .await;
    let fetch = |port: u16, limits: &str, to: &Path| {
        let url = format!("http://[{}]:{port}/bulk", office.address);
        let curl = format!("curl -s -g {limits} -o {} -w %{{http_code}} {url}", to.display());
        String::from_utf8(town.network.output(Place::Branch, &curl).stdout).unwrap()
    };
    let fetched = folder.join("fetched");
    assert_eq!(fetch(PORT, "-m 50", &fetched), "200");
    let digest = |bytes: &[u8]| {
        let mut sha = Sha256::default();
        sha.update(bytes);
        sha.finish()
    };
    assert_eq!(digest(&fs::read(&fetched).unwrap()), digest(&bytes));
    assert_eq!(fetch(OTHER_PORT, "-m 2", Path::new("/dev/null")), "000", "its agent does not publish it");
    assert_eq!(town.answered(branch.address, 2, ""), 0, "the branch has admitted nobody");

    town.admit_branch("[]");
    eventually("the office is closed to the branch", async || {
        let answered = town.answered_at(Place::Branch, office.address, 1, "");
        if answered == 0 { Ok(()) } else { Err(answered) }
    })
    .await;
    assert_eq!(fetch(PORT, "-m 2", Path::new("/dev/null")), "000");
}
