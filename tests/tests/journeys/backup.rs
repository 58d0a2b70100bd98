//! A backup of a running relay, and a relay made out of it, in a directory and in etcd.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::process::Command;
use underpass_tests::{
    binary,
    etcd::Etcd,
    eventually::eventually,
    manifest,
    office::{HOST, Office, serves},
    relay::Relay,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The relay's program with `arguments`; what it said, and whether it was content.
async fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(binary::path("underpass-relay")).args(arguments).output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.success(), said.concat())
}

#[tokio::test]
async fn a_deployment_comes_back_out_of_a_backup_with_its_ca_its_resources_and_its_agents() {
    let mut office = Office::open_on(Relay::start_embedded().await, "", &[]).await;
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

#[tokio::test]
async fn a_deployment_moves_from_a_directory_to_etcd_and_back() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let laptop = Relay::start_embedded().await;
    laptop.cli().apply(&manifest::node("office")).await;
    let uid = laptop.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").await["metadata"]["uid"].clone();
    let ca = fs::read(laptop.data_folder().join("ca.crt")).unwrap();
    let (data, file, key) = (laptop.data_folder(), path("backup"), path("keys/store.key"));
    let (ok, said) = run(&["backup", "--data-dir", data.to_str().unwrap(), "--to", &file, "--with-key"]).await;
    assert!(ok, "{said}");

    let place = ["--etcd-endpoint", &etcd.endpoint(), "--etcd-prefix", "/moved", "--store-key-file", &key];
    let into_etcd = [&["restore", "--from", &file], &place[..]].concat();
    let (ok, said) = run(&into_etcd).await;
    assert!(ok && said.contains("etcd under /moved: "), "{said}");
    let (ok, said) = run(&into_etcd).await;
    assert!(!ok && said.contains("etcd holds keys under /moved/ already"), "{said}");
    let relay = Relay::start_with(&place).await;
    assert_eq!(fs::read(relay.data_folder().join("ca.crt")).unwrap(), ca);
    let node = relay.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").await;
    assert_eq!(node["metadata"]["uid"], uid);
    // It leads, though the backup was taken while another did.
    relay.cli().apply(&manifest::node("second")).await;
    let written = async || {
        let node = relay.api().get("/apis/core.apoxy.dev/v1alpha/tunnelnodes/second").await;
        if node["status"]["conditions"].is_array() { Ok(()) } else { Err(node) }
    };
    eventually("a status", written).await;

    let (data, back) = (relay.data_folder(), path("back"));
    let (ok, said) =
        run(&["backup", "--data-dir", data.to_str().unwrap(), "--to", &back, "--with-key", "--store-key-file", &key])
            .await;
    assert!(ok, "{said}");
    let home = path("home");
    let (ok, said) = run(&["restore", "--from", &back, "--data-dir", &home]).await;
    assert!(ok, "{said}");
    let relay = Relay::start_with(&["--store-key-file", &format!("{home}/store.key")]).await;
    drop(relay);
    let (ok, said) = run(&["backup", "--data-dir", &home, "--to", &path("again")]).await;
    assert!(ok && said.contains("objects and records at revision"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_during_writes_holds_every_write_that_was_acknowledged_before_it_began() {
    let relay = Relay::start().await;
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (api, stop, made) = (relay.api(), Arc::clone(&stop), Arc::clone(&made));
            tokio::spawn(async move {
                for at in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("w-{writer}-{at}");
                    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                    let (status, answer) = api.call(Method::POST, MAPS, Some(&map)).await.unwrap();
                    assert_eq!(status, StatusCode::CREATED, "{answer}");
                    made.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let data = relay.data_folder();
    for round in 1..4 {
        eventually("writes", async || {
            let made = made.load(Ordering::SeqCst);
            if made >= 10 * round { Ok(()) } else { Err(made) }
        })
        .await;
        let before = made.load(Ordering::SeqCst);
        let file = folder.path().join(round.to_string());
        let (ok, said) = run(&["backup", "--data-dir", data.to_str().unwrap(), "--to", file.to_str().unwrap()]).await;
        assert!(ok, "{said}");
        let after = made.load(Ordering::SeqCst) + writers.len();
        let held = fs::read_to_string(&file).unwrap().matches("{\"object\":\"configmaps/default/default/w-").count();
        assert!((before..=after).contains(&held), "{held} of {before} to {after}");
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}
