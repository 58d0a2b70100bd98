//! The embedded store's place: full, read-only, or in use by another relay.

use std::{fs, io::Write as _, path::Path};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use underpass_tests::{
    binary,
    eventually::{PATIENCE, eventually, within},
    relay::{Relay, Room},
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Enough for a relay that holds little.
const ROOM: Room = Room { mebibytes: 16 };

fn map(name: &str, bytes: usize) -> Value {
    let data = json!({"x": "x".repeat(bytes)});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// Runs a relay that ought not to start, to its end: what it said.
async fn refused(mut command: Command, folder: &Path) -> String {
    command.arg("--data-dir").arg(folder.join("data"));
    command.args(["--tunnel-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--port-map", "80=0,443=0"]);
    command.kill_on_drop(true);
    let output = within(PATIENCE, "a relay that cannot start ends", command.output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// The same in a room, after `prepare` was run there.
async fn refused_in(room: Room, prepare: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = room.shell(folder.path(), prepare);
    command.arg(binary::path("underpass-relay"));
    refused(command, folder.path()).await
}

#[tokio::test]
async fn a_full_disk_refuses_writes_by_name_serves_reads_and_heals() {
    let relay = Relay::start_embedded_in(ROOM).await;
    let api = relay.api();
    let (status, kept) = api.call(Method::POST, MAPS, Some(&map("kept", 10))).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{kept}");
    let filler = relay.data_folder().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 1 << 12]).is_ok() {}

    // The store's file has some room inside.
    let mut made = 0;
    let refusal = loop {
        let (status, body) = api.call(Method::POST, MAPS, Some(&map(&format!("m-{made}"), 200_000))).await.unwrap();
        if status != StatusCode::CREATED {
            break (status, body);
        }
        made += 1;
        assert!(made < 100, "the disk is full");
    };
    let (status, body) = refusal;
    assert_eq!((status, &body["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("ServiceUnavailable")), "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("No space left") && message.contains("free space"), "{message}");
    assert!(body["details"]["retryAfterSeconds"].is_number(), "{body}");
    assert_eq!(api.names(MAPS).await.len(), made + 1, "reading goes on, and what was refused is not there");
    assert_eq!(api.get(&format!("{MAPS}/kept")).await["metadata"]["uid"], kept["metadata"]["uid"]);

    drop(file);
    fs::remove_file(&filler).unwrap();
    eventually("writing resumes by itself", async || {
        match api.call(Method::POST, MAPS, Some(&map("after", 200_000))).await.unwrap() {
            (StatusCode::CREATED, _) => Ok(()),
            (_, refusal) => Err(refusal),
        }
    })
    .await;
    assert_eq!(api.names(MAPS).await.len(), made + 2);
}

#[tokio::test]
async fn a_relay_that_cannot_write_its_data_directory_says_so_and_ends() {
    for (prepare, reason) in [
        (r#"mkdir -m 700 data && mount -o remount,ro "$PLACE""#, "Read-only file system"),
        ("mkdir -m 700 data && ! cat /dev/zero 2>/dev/null >filler", "No space left"),
    ] {
        let said = refused_in(Room { mebibytes: 1 }, prepare).await;
        assert!(said.contains("/data") && said.contains(reason), "{said}");
        let last = said.lines().last().unwrap();
        assert!(last.starts_with("error: "), "the last word is the error: {said}");
    }
}

#[tokio::test]
async fn a_second_relay_on_the_same_data_directory_is_refused_and_the_first_goes_on() {
    let relay = Relay::start_embedded().await;
    let data = relay.data_folder();
    let said = refused(Command::new(binary::path("underpass-relay")), data.parent().unwrap()).await;
    assert!(said.contains("is in use by another relay") && said.contains("--data-dir"), "{said}");
    let (status, body) = relay.api().call(Method::POST, MAPS, Some(&map("still", 10))).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{body}");
}
