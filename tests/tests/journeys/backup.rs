//! A backup of a running relay, and a relay made out of it.

use std::fs;

use tokio::process::Command;
use underpass_tests::{
    binary,
    office::{HOST, Office, serves},
};

/// The relay's program with `arguments`; what it said, and whether it was content.
async fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary::path("underpass-relay")).args(arguments).output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), said.concat())
}

#[tokio::test]
async fn a_deployment_comes_back_out_of_a_backup_with_its_ca_its_resources_and_its_agents() {
    let mut office = Office::open().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("backup"), office.relay.data_folder());
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let (ok, said) = run(&["backup", "--data-dir", data, "--to", file, "--with-key"]).await;
    assert!(ok, "{said}");
    assert!(said.contains("objects and records at revision"), "{said}");

    let (ok, said) = run(&["restore", "--from", file, "--data-dir", data]).await;
    assert!(!ok && said.contains("is not empty"), "{said}");
    let ca = fs::read(office.relay.data_folder().join("ca.crt")).unwrap();
    office.relay.kill().await;
    fs::remove_dir_all(data).unwrap();
    let (ok, said) = run(&["restore", "--from", file, "--data-dir", data]).await;
    assert!(ok, "{said}");

    office.relay.start_again().await;
    assert_eq!(fs::read(office.relay.data_folder().join("ca.crt")).unwrap(), ca);
    assert_eq!(office.agent.connected().await, office.connected, "the agent needs no new token");
    serves(&office.relay, HOST, "office").await;
}

#[tokio::test]
async fn a_backup_that_cannot_be_had_says_what_to_do_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("backup"), folder.path().join("nothing"));
    let (ok, said) = run(&["backup", "--data-dir", data.to_str().unwrap(), "--to", file.to_str().unwrap()]).await;
    assert!(!ok && said.contains("is this the --data-dir of a relay?"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
